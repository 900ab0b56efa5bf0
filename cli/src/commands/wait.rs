//! `--wait`: looks again and again until a change of an app is complete, and shows how far it is.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::app::get;
use crate::{
    client::scheduler::Scheduler,
    failure::Failure,
    output::Progress,
    render,
    view::{
        app::{self, App, QueueItem},
        problems::why_not_running,
    },
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// A scheduler that is being restarted is waited for this long.
const AWAY: Duration = Duration::from_secs(30);
/// Between two looks at the apps of a deployment: all that a group has is much to send.
const BARS_EVERY: Duration = Duration::from_secs(1);
/// Lines for the apps of a deployment, the one that counts the rest among them.
const MOST_BARS: usize = 11;

/// The deployment that an answer tells of.
pub(crate) fn deployment_id(answer: &Value) -> Option<String> {
    let first = answer
        .get("deployments")
        .and_then(|deployments| deployments.get(0));
    let id = answer
        .get("deploymentId")
        .or_else(|| first.and_then(|deployment| deployment.get("id")))?;
    id.as_str().map(str::to_owned)
}

/// Until the deployment is over and everything that is asked for runs.
pub(crate) async fn until_settled(
    scheduler: &Scheduler,
    id: &str,
    deployment: Option<&str>,
    timeout: Duration,
) -> Result<App, Failure> {
    let start = Instant::now();
    let mut progress = Progress::new();
    let mut heard = start;
    loop {
        let value = match get(scheduler, id).await {
            Ok(value) => value,
            Err(Failure::Unreachable(_)) if heard.elapsed() < AWAY => {
                progress.show(&format!("{id}: the scheduler is away"), "");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(other) => return Err(other),
        };
        heard = Instant::now();
        let app: App = app::one(&value);
        let ours_is_over =
            deployment.is_none_or(|ours| app.deployments.iter().all(|one| one.id != ours));
        if ours_is_over && app.is_settled() {
            progress.clear();
            return taken_back(id, &value).map_or(Ok(app), Err);
        }
        // A second is enough for what simply goes well.
        let stuck = app.tasks_running < app.instances && start.elapsed() > Duration::from_secs(1);
        let reason = if stuck {
            why(scheduler, &app).await
        } else {
            String::new()
        };
        let detail = format!(" ({} s){reason}", start.elapsed().as_secs());
        progress.show_line(&render::app::progress(&app), |columns| {
            render::app::live(&app, &detail, columns)
        });
        if start.elapsed() >= timeout {
            progress.clear();
            return Err(Failure::failed(format!(
                "{}{}; not complete after {} s, it goes on without us",
                render::app::progress(&app),
                why(scheduler, &app).await,
                timeout.as_secs(),
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The update that was waited for came back: every other one forgets the one that came back before it.
fn taken_back(id: &str, app: &Value) -> Option<Failure> {
    let rollback = app.get("lastRollback")?;
    let text = |field: &str| {
        let text = rollback.get(field).and_then(Value::as_str);
        render::clean(text.unwrap_or_default())
    };
    Some(Failure::failed(format!(
        "{id}: version {} was not done in time and is taken back: {}",
        text("version"),
        text("reason")
    )))
}

/// Until a deployment of several apps is over. `group`: the path at which these are found, for a bar of each on a terminal.
pub(crate) async fn until_over(
    scheduler: &Scheduler,
    what: &str,
    group: &str,
    deployment: &str,
    timeout: Duration,
) -> Result<(), Failure> {
    let start = Instant::now();
    let mut progress = Progress::new();
    let mut heard = start;
    let (mut apps, mut looked) = (Vec::new(), None);
    loop {
        let answer = match scheduler.get("/v2/deployments").await {
            Ok(answer) => answer,
            Err(Failure::Unreachable(_)) if heard.elapsed() < AWAY => {
                progress.show(&format!("{what}: the scheduler is away"), "");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(other) => return Err(other),
        };
        heard = Instant::now();
        let all = app::raw_list(&answer, "deployments");
        let Some(ours) = all
            .iter()
            .find(|one| one.get("id").and_then(Value::as_str) == Some(deployment))
        else {
            return Ok(());
        };
        let step = |field: &str| ours.get(field).and_then(Value::as_u64).unwrap_or(0);
        let text = format!(
            "{what}: step {} of {}",
            step("currentStep"),
            step("totalSteps")
        );
        let waits_for = ours.get("waitingFor").and_then(Value::as_str);
        let waits_for = render::clean(waits_for.unwrap_or_default());
        let detail = format!(" ({} s): {waits_for}", start.elapsed().as_secs());
        let over = step("currentStep").saturating_sub(1).saturating_mul(100);
        let percent = over.checked_div(step("totalSteps")).unwrap_or(0);
        if progress.is_live() && looked.is_none_or(|at: Instant| at.elapsed() >= BARS_EVERY) {
            apps = affected(scheduler, group, ours).await;
            looked = Some(Instant::now());
        }
        progress.show_lines(&text, |columns, rows| {
            // The reasons behind the bar need room, too.
            let bar = render::transfer::barred(&text, percent, "", columns.min(text.len() + 29));
            let room = MOST_BARS.min(rows.saturating_sub(2));
            let mut lines = vec![format!("{}{detail}", bar.trim_end())];
            lines.extend(render::app::bars(&apps, columns, room));
            lines
        });
        if start.elapsed() >= timeout {
            progress.clear();
            return Err(Failure::failed(format!(
                "{text}: {waits_for}; not complete after {} s, it goes on without us",
                timeout.as_secs(),
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The apps of a group that a deployment is about, as they stand. One alone needs no line beside the deployment's.
async fn affected(scheduler: &Scheduler, group: &str, deployment: &Value) -> Vec<App> {
    let named: BTreeSet<&str> = app::raw_list(deployment, "affectedApps")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if named.len() < 2 {
        return Vec::new();
    }
    // Bars are an addition: without them the steps are told.
    let answer = scheduler.get(group).await.unwrap_or_default();
    let mut apps: Vec<App> = Vec::new();
    let mut groups = vec![&answer];
    while let Some(group) = groups.pop() {
        apps.extend(app::list::<App>(group, "apps"));
        groups.extend(app::raw_list(group, "groups"));
    }
    apps.retain(|app| named.contains(app.id.as_str()));
    apps
}

/// Until the scheduler does not know the app any more and its last task has ended.
pub(crate) async fn until_gone(
    scheduler: &Scheduler,
    id: &str,
    deployment: Option<&str>,
    timeout: Duration,
) -> Result<(), Failure> {
    let start = Instant::now();
    let mut progress = Progress::new();
    let mut heard = start;
    loop {
        let running = match get(scheduler, id).await {
            Ok(value) => Some(app::one::<App>(&value).tasks_running),
            // The app is forgotten at once; its tasks end within their grace periods.
            Err(Failure::NotFound(_)) if is_over(scheduler, deployment).await? => return Ok(()),
            Err(Failure::NotFound(_)) => None,
            Err(Failure::Unreachable(_)) if heard.elapsed() < AWAY => {
                progress.show(&format!("{id}: the scheduler is away"), "");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(other) => return Err(other),
        };
        heard = Instant::now();
        let left = running.map_or_else(
            || "its tasks are ending".to_owned(),
            |running| format!("{running} still running"),
        );
        let detail = format!(" ({} s)", start.elapsed().as_secs());
        progress.show(&format!("{id}: {left}"), &detail);
        if start.elapsed() >= timeout {
            progress.clear();
            return Err(Failure::failed(format!(
                "{id}: not removed after {} s, {left}; it goes on without us",
                timeout.as_secs()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a deployment is not under way any more.
async fn is_over(scheduler: &Scheduler, deployment: Option<&str>) -> Result<bool, Failure> {
    let Some(ours) = deployment else {
        return Ok(true);
    };
    let answer = scheduler.get("/v2/deployments").await?;
    let all = app::raw_list(&answer, "deployments");
    Ok(all
        .iter()
        .all(|one| one.get("id").and_then(Value::as_str) != Some(ours)))
}

/// What holds an app up, as far as the scheduler tells.
async fn why(scheduler: &Scheduler, app: &App) -> String {
    let queue: Vec<QueueItem> = app::list(
        &scheduler.get("/v2/queue").await.unwrap_or_default(),
        "queue",
    );
    let waiting = queue.iter().find(|item| item.app.id == app.id);
    let why = why_not_running(
        &App {
            last_task_failure: None,
            ..app.clone()
        },
        waiting,
    );
    if why.is_empty() {
        why
    } else {
        format!(": {}", render::clean(&why))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_update_that_came_back_is_a_failure_with_its_reason() {
        let app = json!({"lastRollback": {"version": "v2", "reason": "/a: 0 of 1 healthy"}});
        let failure = taken_back("/a", &app).expect("came back").to_string();
        assert_eq!(
            failure,
            "/a: version v2 was not done in time and is taken back: /a: 0 of 1 healthy"
        );
        assert!(taken_back("/a", &json!({"id": "/a"})).is_none());
    }

    #[test]
    fn the_deployment_is_found_in_both_forms_of_answers() {
        assert_eq!(
            deployment_id(&json!({"version": "v", "deploymentId": "d1"})).as_deref(),
            Some("d1")
        );
        assert_eq!(
            deployment_id(&json!({"id": "/a", "deployments": [{"id": "d2"}]})).as_deref(),
            Some("d2")
        );
        assert_eq!(deployment_id(&json!({"id": "/a"})), None);
    }
}
