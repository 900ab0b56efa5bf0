//! `/healthz` and `/metrics` on the agent's listener. No task appears in a label, so the number of series does not grow
//! with what runs: those of the agent and the machine are fixed, those of apps (`metrics`) are bounded.

use std::{collections::BTreeMap, fmt::Write as _};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use mezzo_api::model::{TaskState, Value};

use crate::{
    actor::{Command, Handle, View},
    metrics,
    stats::Stats,
};

/// Resources that are shown; an operator may name any number of others.
const KNOWN_RESOURCES: [&str; 5] = ["cpus", "mem", "disk", "gpus", "ports"];

/// The routes.
pub(crate) fn routes(handle: Handle, stats: Stats) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(all_metrics))
        .with_state((handle, stats))
}

async fn healthz(State((handle, _)): State<(Handle, Stats)>) -> Response {
    match handle.ask(Command::Alive).await {
        Ok(_) => (StatusCode::OK, "ok\n").into_response(),
        Err(stopped) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stopped}\n")).into_response(),
    }
}

async fn all_metrics(State((handle, stats)): State<(Handle, Stats)>) -> Response {
    match handle.ask(Command::View).await {
        Ok(view) => {
            let (apps, left_out) = stats.with(|book| book.apps());
            let mut text = render(&view);
            view.launch_seconds.render(
                &mut text,
                "mezzo_agent_launch_seconds",
                "From the order to launch a task to its running process, the pull of its image too.",
            );
            metrics::node(&mut text, &view.pressure, view.usage.as_ref());
            metrics::apps(&mut text, &apps, left_out);
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
        }
        Err(stopped) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stopped}\n")).into_response(),
    }
}

fn render(view: &View) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
        if samples.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "# HELP mezzo_agent_{name} {help}\n# TYPE mezzo_agent_{name} {kind}"
        );
        for (labels, value) in samples {
            let _ = writeln!(text, "mezzo_agent_{name}{labels} {value}");
        }
    };
    let one = |value: u64| vec![(String::new(), value.to_string())];
    metric(
        "connected",
        "gauge",
        "Whether a master listens.",
        &one(u64::from(view.connected)),
    );
    let mut states: BTreeMap<TaskState, u64> =
        TaskState::ALL.into_iter().map(|state| (state, 0)).collect();
    for task in &view.tasks {
        *states.entry(task.status.state).or_default() += 1;
    }
    let states: Vec<_> = states
        .into_iter()
        .map(|(state, n)| (format!("{{state=\"{state}\"}}"), n.to_string()))
        .collect();
    metric(
        "tasks",
        "gauge",
        "Tasks by state, ended ones while they are kept.",
        &states,
    );
    for (name, help, resources) in [
        (
            "resources_total",
            "What the machine has to offer.",
            &view.total,
        ),
        (
            "resources_available",
            "What no task holds.",
            &view.available,
        ),
    ] {
        let samples: Vec<_> = resources
            .iter()
            .filter(|(name, _)| KNOWN_RESOURCES.contains(name))
            .filter_map(|(name, value)| {
                let figure = match value {
                    Value::Scalar(scalar) => scalar.to_string(),
                    Value::Ranges(ranges) => ranges.len().to_string(),
                    Value::Set(_) => return None,
                };
                Some((format!("{{resource=\"{name}\"}}"), figure))
            })
            .collect();
        metric(name, "gauge", help, &samples);
    }
    if let Some(lender) = &view.lender {
        for (name, help, resources) in [
            (
                "lent_total",
                "What revocable tasks may take, all together.",
                &lender.total,
            ),
            (
                "lent_available",
                "What of it no revocable task holds.",
                &lender.free,
            ),
        ] {
            // Also what is nothing now: a series that comes and goes is hard to watch.
            let samples = mezzo_api::convert::REVOCABLE.map(|name| {
                let figure = resources.scalar(name).to_string();
                (format!("{{resource=\"{name}\"}}"), figure)
            });
            metric(name, "gauge", help, &samples);
        }
        metric(
            "lent_cpu_permille",
            "gauge",
            "Of the processors that revocable tasks hold, what they may use, in thousandths.",
            &one(lender.cpu_permille),
        );
        metric(
            "preempted_total",
            "counter",
            "Revocable tasks that had to go.",
            &one(lender.preempted),
        );
    }
    metric(
        "statuses_unacknowledged",
        "gauge",
        "Statuses that wait for an acknowledgement.",
        &one(view.n_unacknowledged as u64),
    );
    metric(
        "launches_total",
        "counter",
        "Launches begun.",
        &one(view.counters.launches),
    );
    metric(
        "launch_failures_total",
        "counter",
        "Launches that gave no running task.",
        &one(view.counters.launch_failures),
    );
    metric(
        "statuses_sent_total",
        "counter",
        "Statuses sent, repetitions too.",
        &one(view.counters.statuses_sent),
    );
    metric(
        "write_failures_total",
        "counter",
        "Failed writes of task state.",
        &one(view.counters.write_failures),
    );
    let images = &view.images;
    for (name, kind, help, value) in [
        ("images", "gauge", "Images here.", images.images),
        (
            "image_disk_bytes",
            "gauge",
            "What images take on the disk.",
            images.disk_bytes,
        ),
        (
            "image_gc_runs_total",
            "counter",
            "Times that the disk was used above the high mark.",
            images.runs,
        ),
        (
            "image_gc_removed_total",
            "counter",
            "Images removed because the disk was full.",
            images.removed,
        ),
        (
            "image_gc_freed_bytes_total",
            "counter",
            "What they took on the disk.",
            images.freed_bytes,
        ),
        (
            "image_gc_short_bytes",
            "gauge",
            "Used above the low mark after the last run, where nothing more could go.",
            images.short_bytes,
        ),
    ] {
        metric(name, kind, help, &one(value));
    }
    if let Some(usage) = &view.usage {
        for (name, help, value) in [
            (
                "node_cpu_millis",
                "Busy processors of the machine, in thousandths.",
                usage.cpu_millis,
            ),
            (
                "node_memory_used_bytes",
                "Memory used on the machine.",
                usage.memory_used_bytes,
            ),
            (
                "node_memory_total_bytes",
                "Memory of the machine.",
                usage.memory_total_bytes,
            ),
            (
                "node_disk_used_bytes",
                "Used on the state's file system.",
                usage.disk_used_bytes,
            ),
            (
                "node_disk_total_bytes",
                "Size of the state's file system.",
                usage.disk_total_bytes,
            ),
            (
                "own_memory_bytes",
                "Agent, launcher and keepers.",
                usage.agent_memory_bytes,
            ),
        ] {
            if let Some(value) = value {
                metric(name, "gauge", help, &one(value));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_do_not_depend_on_what_runs() {
        let view = View {
            agent_id: None,
            connected: true,
            total: "cpus:2;mem:10;ports:[1-4];odd:3".parse().unwrap(),
            available: "cpus:1.5;mem:10;ports:[1-2]".parse().unwrap(),
            tasks: vec![],
            usage: None,
            images: crate::image_gc::ImageStats {
                short_bytes: 7,
                ..Default::default()
            },
            n_unacknowledged: 3,
            counters: crate::actor::Counters::default(),
            pressure: crate::usage::NodePressure::default(),
            launch_seconds: crate::stats::histogram::Histogram::default(),
            lender: Some(crate::actor::LenderView {
                total: "cpus:0.5".parse().unwrap(),
                free: mezzo_api::model::Resources::new(),
                cpu_permille: 250,
                preempted: 3,
            }),
        };
        let text = render(&view);
        assert!(
            text.contains("mezzo_agent_lent_total{resource=\"cpus\"} 0.5\n")
                && text.contains("mezzo_agent_lent_available{resource=\"mem\"} 0\n")
                && text.contains("mezzo_agent_preempted_total 3\n"),
            "{text}"
        );
        assert!(
            text.contains("mezzo_agent_resources_available{resource=\"cpus\"} 1.5\n"),
            "{text}"
        );
        assert!(text.contains("mezzo_agent_resources_total{resource=\"ports\"} 4\n"));
        assert!(text.contains("mezzo_agent_tasks{state=\"TASK_RUNNING\"} 0\n"));
        assert!(text.contains("mezzo_agent_statuses_unacknowledged 3\n"));
        assert!(text.contains("mezzo_agent_image_gc_short_bytes 7\n"));
        assert!(!text.contains("odd"));
    }
}
