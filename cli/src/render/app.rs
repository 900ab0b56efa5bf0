//! Apps and deployments for people.

use super::transfer::barred;
use super::{Style, Table, Tone, UNKNOWN, facts, mebibytes, number, section, toned};
use crate::view::{
    app::{App, Deployment, QueueItem, Step},
    problems::{crash_loop_text, failure_text, why_it_waits},
};

/// Columns of the bar of `--wait`: the reasons behind it need room, too.
const LIVE_BAR: usize = 24;

/// `mezzo app list`.
pub(crate) fn list(apps: &[App], style: Style) -> String {
    if apps.is_empty() {
        return "no apps; deploy one with `mezzo app add FILE`\n".to_owned();
    }
    table(apps).render(style, "")
}

/// The table of `app list` and `status`.
pub(crate) fn table(apps: &[App]) -> Table {
    let mut table = Table::new(&[
        "APP", ">RUNNING", "STATE", "HEALTH", ">CPUS", ">MEMORY", "IMAGE",
    ]);
    for app in apps {
        let (tone, state) = state(app);
        table.row([
            app.id.as_str().into(),
            toned(tone, format!("{}/{}", app.tasks_running, app.instances)),
            toned(tone, state),
            health(app),
            number(app.cpus).into(),
            mebibytes(app.mem).into(),
            app.image().into(),
        ]);
    }
    table
}

fn state(app: &App) -> (Tone, String) {
    let missing = app.tasks_running < app.instances;
    if missing && let Some(looping) = &app.crash_loop {
        return (Tone::Bad, crash_loop_text(looping));
    }
    let (tone, word) = if missing && app.last_task_failure.is_some() {
        (Tone::Bad, "failing")
    } else if !app.deployments.is_empty() {
        (Tone::Busy, "deploying")
    } else if app.tasks_unhealthy > 0 {
        (Tone::Bad, "unhealthy")
    } else if app.instances == 0 && app.tasks_running == 0 {
        (Tone::Faint, "suspended")
    } else if missing && app.tasks_staged > 0 {
        (Tone::Busy, "starting")
    } else if missing {
        (Tone::Bad, "waiting")
    } else {
        (Tone::Good, "running")
    };
    (tone, word.to_owned())
}

fn health(app: &App) -> super::Cell {
    if app.tasks_unhealthy > 0 {
        toned(Tone::Bad, format!("{} bad", app.tasks_unhealthy))
    } else if app.health_checks.is_empty() {
        toned(Tone::Faint, UNKNOWN)
    } else if app.tasks_healthy >= app.tasks_running {
        toned(Tone::Good, format!("{} good", app.tasks_healthy))
    } else {
        toned(
            Tone::Busy,
            format!("{} of {} good", app.tasks_healthy, app.tasks_running),
        )
    }
}

/// `mezzo app show`.
pub(crate) fn show(
    app: &App,
    waiting: Option<&QueueItem>,
    deployments: &[Deployment],
    style: Style,
) -> String {
    let (_, state) = state(app);
    let command = app.cmd.clone().unwrap_or_else(|| app.args.join(" "));
    let mut text = facts(
        style,
        &[
            ("app", app.id.clone()),
            (
                "state",
                format!(
                    "{state}, {} of {} running",
                    app.tasks_running, app.instances
                ),
            ),
            ("image", app.image().to_owned()),
            ("command", command),
            (
                "each",
                format!(
                    "{} cpus, {} memory, {} disk",
                    number(app.cpus),
                    mebibytes(app.mem),
                    mebibytes(app.disk)
                ),
            ),
            (
                "health",
                if app.health_checks.is_empty() {
                    String::new()
                } else {
                    format!(
                        "{} healthy, {} unhealthy",
                        app.tasks_healthy, app.tasks_unhealthy
                    )
                },
            ),
            (
                "crashes",
                // The state says so while it misses instances.
                app.crash_loop
                    .as_ref()
                    .filter(|_| app.tasks_running >= app.instances)
                    .map(crash_loop_text)
                    .unwrap_or_default(),
            ),
            ("waits", waiting.and_then(why_it_waits).unwrap_or_default()),
            ("version", app.version.clone()),
            ("env", pairs(&app.env)),
            ("labels", pairs(&app.labels)),
        ],
    );
    if let Some(failure) = &app.last_task_failure {
        let line = format!(
            "{} {}: {}",
            failure.timestamp,
            failure.task_id,
            failure_text(failure)
        );
        text.push_str(&section(
            style,
            "LAST FAILURE",
            &format!("  {}\n", super::clean(line.trim())),
        ));
    }
    if !deployments.is_empty() {
        text.push_str(&section(
            style,
            "DEPLOYMENTS",
            &deployment_table(deployments).render(style, "  "),
        ));
    }
    if !app.tasks.is_empty() {
        let mut table = Table::new(&["TASK", "STATE", "NODE", "PORTS", "STARTED", "VERSION"]);
        for task in &app.tasks {
            let ports: Vec<String> = task.ports.iter().map(u32::to_string).collect();
            table.row([
                task.id.as_str().into(),
                task.state
                    .strip_prefix("TASK_")
                    .unwrap_or(&task.state)
                    .to_lowercase()
                    .into(),
                task.host.as_str().into(),
                ports.join(",").into(),
                task.started_at.clone().unwrap_or_default().into(),
                task.version.as_str().into(),
            ]);
        }
        text.push_str(&section(style, "TASKS", &table.render(style, "  ")));
    }
    text
}

fn pairs(value: &serde_json::Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    let pairs = pairs.map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name}={text}"),
        None => format!("{name}={value}"),
    });
    pairs.collect::<Vec<_>>().join(" ")
}

/// `mezzo app versions`, newest first.
pub(crate) fn versions(versions: &[String], current: &str, style: Style) -> String {
    let mut table = Table::new(&["VERSION", ""]);
    for version in versions {
        let note = if version == current { "now" } else { "" };
        table.row([version.as_str().into(), toned(Tone::Good, note)]);
    }
    table.render(style, "")
}

/// `mezzo deployment list`.
pub(crate) fn deployments(deployments: &[Deployment], style: Style) -> String {
    if deployments.is_empty() {
        return "no deployments under way\n".to_owned();
    }
    deployment_table(deployments).render(style, "")
}

/// `--plan`: the steps of a deployment that has not begun.
pub(crate) fn plan(answer: &serde_json::Value, style: Style) -> String {
    let steps: Vec<Step> = crate::view::app::list(answer, "steps");
    if steps.is_empty() {
        return "nothing would change\n".to_owned();
    }
    let mut table = Table::new(&[">STEP", "DOES", "APP"]);
    for (index, step) in steps.iter().enumerate() {
        for action in &step.actions {
            table.row([
                (index + 1).to_string().into(),
                action.action.as_str().into(),
                action.app.as_str().into(),
            ]);
        }
    }
    table.render(style, "")
}

fn deployment_table(deployments: &[Deployment]) -> Table {
    let mut table = Table::new(&["DEPLOYMENT", "STEP", "APPS", "DOES", "WAITS FOR"]);
    for deployment in deployments {
        let actions: Vec<String> = deployment
            .current_actions
            .iter()
            .map(|action| {
                format!(
                    "{} {}",
                    action.kind.as_ref().unwrap_or(&action.action),
                    action.app
                )
            })
            .collect();
        table.row([
            deployment.id.as_str().into(),
            format!("{}/{}", deployment.current_step, deployment.total_steps).into(),
            [
                deployment.affected_apps.as_slice(),
                &deployment.affected_pods,
            ]
            .concat()
            .join(", ")
            .into(),
            actions.join(", ").into(),
            deployment.reason.clone().unwrap_or_default().into(),
        ]);
    }
    table
}

/// The line that `--wait` shows where it cannot be overwritten.
pub(crate) fn progress(app: &App) -> String {
    format!("{}: {}", app.id, standing(app))
}

/// The same with a bar, and `detail` behind it, for a terminal of so many columns. The bar is full when all that is wanted
/// runs, and is healthy where the app has a health check.
pub(crate) fn live(app: &App, detail: &str, columns: usize) -> String {
    let done = match app.health_checks.is_empty() {
        true => app.tasks_running,
        false => app.tasks_healthy,
    };
    // With nothing wanted it is full when nothing runs any more.
    let percent = done.saturating_mul(100).checked_div(app.instances);
    let percent = percent.unwrap_or(if app.tasks_running == 0 { 100 } else { 0 });
    let facts = standing(app);
    let columns = columns.min(app.id.len() + facts.len() + 5 + LIVE_BAR);
    format!("{}{detail}", barred(&app.id, percent, &facts, columns))
}

/// A line with a bar for each of several apps, in `room` lines at most: where there are more, those that are not done come
/// first, and the last line says how many are not shown.
pub(crate) fn bars(apps: &[App], columns: usize, room: usize) -> Vec<String> {
    let mut apps: Vec<&App> = apps.iter().collect();
    apps.sort_by(|a, b| a.id.cmp(&b.id));
    let n_shown = match apps.len() > room {
        true => {
            apps.sort_by_key(|app| app.is_settled());
            room.saturating_sub(1)
        }
        false => apps.len(),
    };
    let (shown, rest) = apps.split_at(n_shown);
    let lines = shown
        .iter()
        .map(|app| live(app, "", columns.saturating_sub(2)));
    let more = (!rest.is_empty() && room > 0).then(|| format!("and {} more", rest.len()));
    lines.chain(more).map(|line| format!("  {line}")).collect()
}

fn standing(app: &App) -> String {
    let mut text = format!("{} of {} running", app.tasks_running, app.instances);
    if app.tasks_staged > 0 {
        text.push_str(&format!(", {} starting", app.tasks_staged));
    }
    if !app.health_checks.is_empty() {
        text.push_str(&format!(", {} healthy", app.tasks_healthy));
    }
    if let Some(failure) = &app.last_task_failure {
        text.push_str(&format!(
            "; last failure: {}",
            super::clean(&failure_text(failure))
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::PLAIN;
    use super::*;
    use crate::view::app::one;

    fn apps() -> Vec<App> {
        let image = json!({"type": "MESOS", "docker": {"image": "sleep:1"}});
        [
            json!({"id": "/sleep", "instances": 20, "tasksRunning": 20, "cpus": 0.1, "mem": 32, "container": image}),
            json!({"id": "/web", "instances": 3, "tasksRunning": 2, "tasksHealthy": 1, "cpus": 1, "mem": 128, "healthChecks": [{}],
                "deployments": [{"id": "d"}]}),
            json!({"id": "/big", "instances": 1, "cpus": 64, "mem": 1048576}),
            json!({"id": "/off", "instances": 0, "cpus": 1, "mem": 128}),
            json!({"id": "/bad", "instances": 1, "cpus": 1, "mem": 128, "lastTaskFailure": {"state": "TASK_FAILED"},
                "crashLoop": {"failures": 4, "timeLeftSeconds": 1.5}}),
        ]
        .iter()
        .map(one)
        .collect()
    }

    #[test]
    fn the_list_shows_running_of_wanted_and_the_state() {
        insta::assert_snapshot!(list(&apps(), PLAIN), @r"
        APP     RUNNING  STATE                                      HEALTH       CPUS    MEMORY  IMAGE
        /sleep    20/20  running                                    -             0.1  32.0 MiB  sleep:1
        /web        2/3  deploying                                  1 of 2 good     1   128 MiB
        /big        0/1  waiting                                    -              64   1.0 TiB
        /off        0/0  suspended                                  -               1   128 MiB
        /bad        0/1  crash loop: 4 failures, next start in 2 s  -               1   128 MiB
        ");
    }

    #[test]
    fn show_leaves_out_what_is_empty_and_tells_the_last_failure() {
        let app: App = one(
            &json!({"id": "/a", "instances": 1, "cpus": 0.5, "mem": 64, "args": ["60"], "version": "v2",
            "env": {"A": "1", "B": {"secret": "s"}},
            "lastTaskFailure": {"state": "TASK_FAILED", "message": "out of memory: limit 64 MiB", "taskId": "a.1", "timestamp": "t"},
            "tasks": [{"id": "a.2", "host": "n1", "ports": [31000], "state": "TASK_RUNNING", "startedAt": "t1", "version": "v2"}]}),
        );
        insta::assert_snapshot!(show(&app, None, &[], PLAIN), @r#"
        app      /a
        state    failing, 0 of 1 running
        command  60
        each     0.5 cpus, 64.0 MiB memory, 0 B disk
        version  v2
        env      A=1 B={"secret":"s"}

        LAST FAILURE
          t a.1: failed, out of memory: limit 64 MiB

        TASKS
          TASK  STATE    NODE  PORTS  STARTED  VERSION
          a.2   running  n1    31000  t1       v2
        "#);
    }

    #[test]
    fn a_plan_shows_its_steps_in_order() {
        let answer = json!({"steps": [
            {"actions": [{"action": "RestartApplication", "app": "/shop/db"}]},
            {"actions": [{"action": "ScaleApplication", "app": "/shop/web"}]},
        ]});
        insta::assert_snapshot!(plan(&answer, PLAIN), @r"
        STEP  DOES                APP
           1  RestartApplication  /shop/db
           2  ScaleApplication    /shop/web
        ");
        assert_eq!(plan(&json!({"steps": []}), PLAIN), "nothing would change\n");
    }

    #[test]
    fn progress_counts_what_runs_and_starts() {
        let app = App {
            id: "/a".into(),
            instances: 20,
            tasks_running: 12,
            tasks_staged: 3,
            ..App::default()
        };
        assert_eq!(progress(&app), "/a: 12 of 20 running, 3 starting");
        assert_eq!(
            live(&app, " (5 s)", 80),
            "/a [##############----------] 12 of 20 running, 3 starting (5 s)"
        );
        assert_eq!(
            live(&app, " (5 s)", 40),
            "/a 12 of 20 running, 3 starting (5 s)"
        );
    }

    #[test]
    fn many_apps_have_bars_for_those_that_are_not_done_first() {
        let apps = apps();
        insta::assert_snapshot!(bars(&apps, 60, 5).join("\n"), @r"
          /bad [-------------] 0 of 1 running; last failure: failed
          /big [------------------------] 0 of 1 running
          /off [########################] 0 of 0 running
          /sleep [########################] 20 of 20 running
          /web [#######-----------------] 2 of 3 running, 1 healthy
        ");
        insta::assert_snapshot!(bars(&apps, 60, 3).join("\n"), @r"
          /bad [-------------] 0 of 1 running; last failure: failed
          /big [------------------------] 0 of 1 running
          and 3 more
        ");
        assert!(bars(&apps, 60, 0).is_empty() && bars(&[], 60, 3).is_empty());
    }
}
