//! `mezzo status`: the cluster in the thirty seconds an operator has.

use serde::Serialize;

use super::{
    Style, Table, Tone, age, app, bar, bytes, clean,
    cluster::{lent, node_tone},
    count, mebibytes, number, section, toned,
};
use crate::view::{
    Cluster, Framework, Node,
    app::App,
    problems::{Problem, Severity},
};

/// Everything `mezzo status` shows. With `-o json` the apps are reduced to what the table shows.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<Node>,
    pub(crate) frameworks: Vec<Framework>,
    #[serde(serialize_with = "app_summaries")]
    pub(crate) apps: Vec<App>,
    pub(crate) problems: Vec<Problem>,
}

#[derive(Serialize)]
struct AppSummary<'a> {
    id: &'a str,
    image: &'a str,
    instances: u64,
    tasks_running: u64,
    tasks_staged: u64,
    tasks_healthy: u64,
    tasks_unhealthy: u64,
    deployments: Vec<&'a str>,
}

fn app_summaries<S: serde::Serializer>(apps: &[App], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(apps.iter().map(|app| {
        AppSummary {
            id: &app.id,
            image: app.image(),
            instances: app.instances,
            tasks_running: app.tasks_running,
            tasks_staged: app.tasks_staged,
            tasks_healthy: app.tasks_healthy,
            tasks_unhealthy: app.tasks_unhealthy,
            deployments: app
                .deployments
                .iter()
                .map(|deployment| deployment.id.as_str())
                .collect(),
        }
    }))
}

pub(crate) fn status(status: &Status, master: &str, now_ms: u64, style: Style) -> String {
    let cluster = &status.cluster;
    let mut text = format!(
        "{} {} at {master}, up {}: {}\n",
        style.paint(Tone::Heading, "mezzo"),
        clean(&cluster.version),
        age(cluster.started_at_ms, now_ms),
        verdict(status, style),
    );
    text.push_str(&capacity(cluster, style));
    if !status.nodes.is_empty() {
        text.push_str(&section(
            style,
            &format!("NODES ({})", status.nodes.len()),
            &nodes(&status.nodes, style),
        ));
    }
    let tasks: Vec<String> = cluster
        .tasks_by_state
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(state, n)| {
            format!(
                "{n} {}",
                clean(state.strip_prefix("TASK_").unwrap_or(state)).to_lowercase()
            )
        })
        .collect();
    let services = if status.apps.is_empty() {
        "  none; deploy one with `mezzo app add FILE`\n".to_owned()
    } else {
        app::table(&status.apps).render(style, "  ")
    };
    text.push_str(&section(
        style,
        &format!("SERVICES ({})", status.apps.len()),
        &services,
    ));
    let tasks = if tasks.is_empty() {
        "none".to_owned()
    } else {
        tasks.join(", ")
    };
    let frameworks: Vec<String> = status
        .frameworks
        .iter()
        .map(|framework| {
            format!(
                "{} ({:.0} %)",
                clean(&framework.name),
                framework.dominant_share_percent
            )
        })
        .collect();
    let frameworks = if frameworks.is_empty() {
        "none".to_owned()
    } else {
        frameworks.join(", ")
    };
    text.push_str(&format!(
        "\n{}\n",
        style.paint(
            Tone::Plain,
            &format!("tasks: {tasks}   frameworks: {frameworks}")
        )
    ));
    if !status.problems.is_empty() {
        let mut body = String::new();
        for problem in &status.problems {
            let (tone, mark) = match problem.severity {
                Severity::Error => (Tone::Bad, "!!"),
                Severity::Warning => (Tone::Busy, " !"),
            };
            body.push_str(&format!(
                "  {} {}: {}\n",
                style.paint(tone, mark),
                clean(&problem.subject),
                clean(&problem.message)
            ));
        }
        text.push_str(&section(style, "WHAT FAILS OR WAITS", &body));
    }
    text
}

fn verdict(status: &Status, style: Style) -> String {
    let errors = status
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .count();
    let warnings = status.problems.len() - errors;
    if errors > 0 {
        style.paint(Tone::Bad, &count(errors, "problem"))
    } else if warnings > 0 {
        style.paint(Tone::Busy, &count(warnings, "warning"))
    } else {
        style.paint(Tone::Good, "all well")
    }
}

fn capacity(cluster: &Cluster, style: Style) -> String {
    let used = cluster.used.clone().unwrap_or_default();
    let mut text = String::new();
    let mut line = |name: &str,
                    held: f64,
                    total: f64,
                    show: &dyn Fn(f64) -> String,
                    used: Option<(f64, f64, String)>| {
        let held_text = format!("{} of {}", show(held), show(total));
        text.push_str(&format!(
            "{name:<7} allocated {} {held_text:<22}",
            bar(style, held, total)
        ));
        match used {
            Some((part, whole, shown)) => text.push_str(&format!(
                " really used {} {shown}\n",
                bar(style, part, whole)
            )),
            None => text.push_str(" really used: not known\n"),
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
    let pair = |part: Option<u64>, whole: Option<u64>| {
        let (part, whole) = (part?, whole?);
        Some((
            part as f64,
            whole as f64,
            format!("{} of {}", bytes(part), bytes(whole)),
        ))
    };
    let cpus = cluster.total.number("cpus");
    line(
        "cpus",
        cluster.allocated.number("cpus"),
        cpus,
        &number,
        used.cpus.map(|used| (used, cpus, number(used))),
    );
    line(
        "memory",
        cluster.allocated.number("mem"),
        cluster.total.number("mem"),
        &mebibytes,
        pair(used.memory_used_bytes, used.memory_total_bytes),
    );
    line(
        "disk",
        cluster.allocated.number("disk"),
        cluster.total.number("disk"),
        &mebibytes,
        pair(used.disk_used_bytes, used.disk_total_bytes),
    );
    if let Some(revocable) = &cluster.revocable {
        text.push_str(&format!("lent    {}\n", lent(revocable)));
    }
    text
}

fn nodes(nodes: &[Node], style: Style) -> String {
    /// More than fit on a screen are cut, those that are not well first.
    const SHOWN: usize = 20;
    let mut order: Vec<&Node> = nodes.iter().collect();
    order.sort_by_key(|node| node.state == "connected");
    let mut table = Table::new(&[
        "NODE",
        "STATE",
        ">TASKS",
        ">CPUS HELD",
        ">USED",
        ">MEMORY HELD",
        ">USED",
        ">DISK USED",
    ]);
    for node in order.iter().take(SHOWN) {
        let used = node.used.clone().unwrap_or_default();
        table.row([
            node.hostname.as_str().into(),
            toned(node_tone(node), node.state.as_str()),
            node.tasks.to_string().into(),
            format!(
                "{}/{}",
                number(node.allocated.number("cpus")),
                number(node.resources.number("cpus"))
            )
            .into(),
            super::or_unknown(used.cpus, number).into(),
            format!(
                "{}/{}",
                mebibytes(node.allocated.number("mem")),
                mebibytes(node.resources.number("mem"))
            )
            .into(),
            super::or_unknown(used.memory_used_bytes, bytes).into(),
            super::or_unknown(used.disk_used_bytes, bytes).into(),
        ]);
    }
    let mut text = table.render(style, "  ");
    if nodes.len() > SHOWN {
        text.push_str(&format!(
            "  and {} more; `mezzo node list` shows all\n",
            nodes.len() - SHOWN
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::PLAIN;
    use super::*;
    use crate::view::{NodeUsage, Quantity, Resources};

    fn resources(cpus: f64, mem: f64, disk: f64) -> Resources {
        let all = [("cpus", cpus), ("mem", mem), ("disk", disk)];
        Resources(
            all.into_iter()
                .map(|(name, value)| (name.to_owned(), Quantity::Number(value)))
                .collect(),
        )
    }

    fn example() -> Status {
        let used = NodeUsage {
            cpus: Some(0.3),
            memory_total_bytes: Some(8 << 30),
            memory_used_bytes: Some(1 << 30),
            disk_total_bytes: Some(100 << 30),
            disk_used_bytes: Some(95 << 30),
            ..NodeUsage::default()
        };
        Status {
            cluster: Cluster {
                version: "0.1.0".into(),
                total: resources(4.0, 4096.0, 10240.0),
                allocated: resources(2.0, 640.0, 0.0),
                used: Some(used.clone()),
                tasks_by_state: [
                    ("TASK_RUNNING".to_owned(), 20),
                    ("TASK_STARTING".to_owned(), 0),
                ]
                .into(),
                ..Cluster::default()
            },
            nodes: vec![Node {
                hostname: "n1".into(),
                state: "connected".into(),
                tasks: 20,
                resources: resources(4.0, 4096.0, 10240.0),
                allocated: resources(2.0, 640.0, 0.0),
                used: Some(used),
                ..Node::default()
            }],
            frameworks: vec![Framework {
                name: "marathon".into(),
                dominant_share_percent: 50.0,
                ..Framework::default()
            }],
            apps: vec![App {
                id: "/sleep".into(),
                instances: 20,
                tasks_running: 20,
                cpus: 0.1,
                mem: 32.0,
                ..App::default()
            }],
            problems: vec![],
        }
    }

    #[test]
    fn a_sound_cluster_at_a_glance() {
        insta::assert_snapshot!(status(&example(), "127.0.0.1:5050", 60_000, PLAIN), @r"
        mezzo 0.1.0 at 127.0.0.1:5050, up 60 s: all well
        cpus    allocated [##########..........] 2 of 4                 really used [##..................] 0.3
        memory  allocated [####................] 640 MiB of 4.0 GiB     really used [###.................] 1.0 GiB of 8.0 GiB
        disk    allocated [....................] 0 B of 10.0 GiB        really used [###################.] 95.0 GiB of 100 GiB

        NODES (1)
          NODE  STATE      TASKS  CPUS HELD  USED      MEMORY HELD     USED  DISK USED
          n1    connected     20        2/4   0.3  640 MiB/4.0 GiB  1.0 GiB   95.0 GiB

        SERVICES (1)
          APP     RUNNING  STATE    HEALTH  CPUS    MEMORY  IMAGE
          /sleep    20/20  running  -        0.1  32.0 MiB

        tasks: 20 running   frameworks: marathon (50 %)
        ");
    }

    #[test]
    fn problems_stand_at_the_end_and_in_the_first_line() {
        let mut example = example();
        example.problems = vec![Problem {
            severity: Severity::Error,
            subject: "app /big".into(),
            message:
                "1 of 1 instances do not run: no offer fits: insufficient cpus (1 of 1 offers)"
                    .into(),
        }];
        let text = status(&example, "127.0.0.1:5050", 60_000, PLAIN);
        assert!(
            text.lines()
                .next()
                .is_some_and(|line| line.ends_with("1 problem")),
            "{text}"
        );
        assert!(text.ends_with("WHAT FAILS OR WAITS\n  !! app /big: 1 of 1 instances do not run: no offer fits: insufficient cpus (1 of 1 offers)\n"), "{text}");
    }

    #[test]
    fn the_json_keeps_its_field_names() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(json["apps"][0]["tasks_running"], 20);
        assert_eq!(json["cluster"]["allocated"]["cpus"], 2.0);
        assert_eq!(json["nodes"][0]["used"]["memory_used_bytes"], 1u64 << 30);
    }
}
