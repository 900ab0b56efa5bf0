//! The series of `/metrics` that come from samples: the machine's pressure, what the agent itself costs, and the use of
//! apps. Pure but for one look at the agent's own descriptors.
//!
//! An app is what tasks of one framework with one name are: its series outlive its tasks, so that what short tasks used
//! is counted, and there are at most so many of them as the operator allows.

use std::{collections::BTreeMap, fmt::Write as _};

use mezzo_api::model::NodeUsage;

use crate::{
    stats::book::{AppKey, AppSums},
    usage::NodePressure,
};

type Samples = Vec<(String, String)>;

fn write(text: &mut String, name: &str, kind: &str, help: &str, samples: &Samples) {
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
}

/// Microseconds as seconds, to the microsecond.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// A label's value: what would end it is escaped.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text
}

/// The machine and the agent.
pub(crate) fn node(text: &mut String, pressure: &NodePressure, usage: Option<&NodeUsage>) {
    let waits: Samples = [
        ("cpu", "some", pressure.cpu_some_us),
        ("memory", "some", pressure.memory_some_us),
        ("memory", "full", pressure.memory_full_us),
        ("io", "some", pressure.io_some_us),
        ("io", "full", pressure.io_full_us),
    ]
    .into_iter()
    .filter_map(|(resource, kind, us)| {
        let labels = format!("{{resource=\"{resource}\",kind=\"{kind}\"}}");
        Some((labels, seconds(us?)))
    })
    .collect();
    write(
        text,
        "node_pressure_seconds_total",
        "counter",
        "Time in which work on the machine waited for a resource: some of it, or all.",
        &waits,
    );
    let one = |value: Option<String>| -> Samples {
        value
            .map(|value| (String::new(), value))
            .into_iter()
            .collect()
    };
    write(
        text,
        "own_cpu_seconds_total",
        "counter",
        "Processor time of the agent's process.",
        &one(usage
            .and_then(|usage| usage.agent_cpu_total_us)
            .map(seconds)),
    );
    let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
    write(
        text,
        "own_open_descriptors",
        "gauge",
        "Open descriptors of the agent's process.",
        &one(open.map(|open| open.to_string())),
    );
}

/// What apps use.
pub(crate) fn apps(text: &mut String, apps: &BTreeMap<AppKey, AppSums>, left_out: u64) {
    type Figure = fn(&AppSums) -> Option<String>;
    let all: [(&str, &str, &str, Figure); 10] = [
        (
            "app_tasks",
            "gauge",
            "Running tasks with a sample.",
            |app| Some(app.tasks.to_string()),
        ),
        (
            "app_memory_working_set_bytes",
            "gauge",
            "Memory of running tasks that cannot simply be taken back.",
            |app| Some(app.memory_working_set_bytes.to_string()),
        ),
        (
            "app_disk_bytes",
            "gauge",
            "Writable layers, sandboxes and logs of running tasks.",
            |app| Some(app.disk_bytes.to_string()),
        ),
        (
            "app_cpu_seconds_total",
            "counter",
            "Processor time, that of ended tasks too.",
            |app| Some(seconds(app.cpu_us)),
        ),
        (
            "app_cpu_throttled_seconds_total",
            "counter",
            "Time kept from running by the cpu limit.",
            |app| Some(seconds(app.throttled_us)),
        ),
        (
            "app_oom_kills_total",
            "counter",
            "Processes killed for the memory limit.",
            |app| Some(app.oom_kills.to_string()),
        ),
        (
            "app_io_read_bytes_total",
            "counter",
            "Read from block devices.",
            |app| Some(app.io_read_bytes.to_string()),
        ),
        (
            "app_io_written_bytes_total",
            "counter",
            "Written to block devices.",
            |app| Some(app.io_write_bytes.to_string()),
        ),
        (
            "app_network_received_bytes_total",
            "counter",
            "Received on networks of their own.",
            |app| app.network_rx_bytes.map(|bytes| bytes.to_string()),
        ),
        (
            "app_network_sent_bytes_total",
            "counter",
            "Sent on networks of their own.",
            |app| app.network_tx_bytes.map(|bytes| bytes.to_string()),
        ),
    ];
    for (name, kind, help, figure) in all {
        let samples = apps.iter().filter_map(|((framework, app), sums)| {
            let labels = format!(
                "{{framework=\"{}\",app=\"{}\"}}",
                escaped(framework),
                escaped(app)
            );
            Some((labels, figure(sums)?))
        });
        write(text, name, kind, help, &samples.collect());
    }
    write(
        text,
        "app_samples_left_out_total",
        "counter",
        "Samples that are in no app's series because there are metrics_max_apps already.",
        &vec![(String::new(), left_out.to_string())],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apps_name_cannot_end_its_label_and_absent_is_not_zero() {
        let sums = AppSums {
            cpu_us: 1_500_000,
            network_rx_bytes: None,
            ..AppSums::default()
        };
        let all = BTreeMap::from([(("f".to_owned(), "a\"} 1\nb\\".to_owned()), sums)]);
        let mut text = String::new();
        apps(&mut text, &all, 3);
        assert!(
            text.contains(
                r#"mezzo_agent_app_cpu_seconds_total{framework="f",app="a\"} 1\nb\\"} 1.500000"#
            ),
            "{text}"
        );
        assert!(!text.contains("network") && text.contains("app_samples_left_out_total 3\n"));
        assert!(
            text.lines()
                .all(|line| line.starts_with("# ") || line.starts_with("mezzo_agent_"))
        );
    }

    #[test]
    fn what_the_kernel_does_not_tell_has_no_series() {
        let mut text = String::new();
        node(
            &mut text,
            &NodePressure {
                io_full_us: Some(7),
                ..NodePressure::default()
            },
            None,
        );
        assert!(
            text.contains(r#"node_pressure_seconds_total{resource="io",kind="full"} 0.000007"#)
        );
        assert!(!text.contains(r#"resource="cpu""#) && !text.contains("own_cpu"));
        assert!(text.contains("own_open_descriptors"));
    }
}
