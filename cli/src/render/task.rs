//! Tasks for people.

use super::{
    Cell, Style, Table, Tone, UNKNOWN, age, bytes, clean, cpu_time, facts, number, or_unknown,
    toned,
};
use mezzo_api::model::{CpuPinning, TaskLimits};

use crate::view::{CheckResult, Exit, Task};

/// `mezzo task list`.
pub(crate) fn list(tasks: &[Task], now_ms: u64, style: Style) -> String {
    if tasks.is_empty() {
        return "no tasks; `--all` shows those that have ended\n".to_owned();
    }
    table(tasks, now_ms).render(style, "")
}

/// The table of `task list` and `node show`.
pub(crate) fn table(tasks: &[Task], now_ms: u64) -> Table {
    // A column that is there once somebody has something in it.
    let has_addresses = tasks.iter().any(|task| !task.ip_addresses.is_empty());
    let mut columns = vec![
        "TASK",
        "STATE",
        "HEALTH",
        "NODE",
        ">CPU TIME",
        ">MEMORY",
        ">PIDS",
        ">AGE",
        "WHY",
    ];
    if has_addresses {
        columns.insert(4, "ADDRESS");
    }
    let has_groups = tasks.iter().any(|task| task.group.is_some());
    if has_groups {
        columns.insert(1, "GROUP");
    }
    let mut table = Table::new(&columns);
    for task in tasks {
        let usage = task.usage.as_ref();
        let mut cells: Vec<Cell> = vec![
            task.id.as_str().into(),
            toned(tone(task), task.short_state()),
            match task.healthy {
                Some(true) => toned(Tone::Good, "good"),
                Some(false) => toned(Tone::Bad, "bad"),
                None => toned(Tone::Faint, UNKNOWN),
            },
            if task.node.is_empty() {
                task.agent_id.as_str().into()
            } else {
                task.node.as_str().into()
            },
            or_unknown(usage.and_then(|usage| usage.cpu_total_us), cpu_time).into(),
            or_unknown(usage.and_then(|usage| usage.memory_bytes), bytes).into(),
            or_unknown(usage.and_then(|usage| usage.pids), |pids| pids.to_string()).into(),
            or_unknown(task.started_at_ms, |then| {
                age(
                    then,
                    if task.is_live() {
                        now_ms
                    } else {
                        task.updated_at_ms
                    },
                )
            })
            .into(),
            why(task).into(),
        ];
        if has_addresses {
            let address = task.ip_addresses.first().cloned();
            cells.insert(4, address.unwrap_or_else(|| UNKNOWN.to_owned()).into());
        }
        if has_groups {
            let group = task.group.clone();
            cells.insert(1, group.unwrap_or_else(|| UNKNOWN.to_owned()).into());
        }
        table.row(cells);
    }
    table
}

fn tone(task: &Task) -> Tone {
    match task.state.as_str() {
        "TASK_RUNNING" => Tone::Good,
        "TASK_STAGING" | "TASK_STARTING" | "TASK_KILLING" | "TASK_UNREACHABLE" => Tone::Busy,
        "TASK_FINISHED" | "TASK_KILLED" => Tone::Faint,
        _ => Tone::Bad,
    }
}

/// Why it is not simply running.
fn why(task: &Task) -> String {
    if task.state == "TASK_RUNNING" {
        return if task.revocable {
            "revocable".to_owned()
        } else {
            String::new()
        };
    }
    if task.message.is_empty() {
        task.exit.as_ref().map(exit).unwrap_or_default()
    } else {
        task.message.clone()
    }
}

/// How the first process ended.
pub(crate) fn exit(exit: &Exit) -> String {
    let mut text = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => String::new(),
    };
    if exit.oom_killed {
        text.push_str(if text.is_empty() {
            "out of memory"
        } else {
            ", out of memory"
        });
        if let Some(limit) = exit.memory_limit_bytes {
            text.push_str(&format!(" (limit {})", bytes(limit)));
        }
    }
    text
}

/// What a check found, in words.
fn found(result: &CheckResult) -> String {
    let CheckResult {
        http_status,
        tcp_succeeded,
        exit_code,
        problem,
    } = result;
    match (http_status, tcp_succeeded, exit_code) {
        (Some(status), _, _) => format!("HTTP status {status}"),
        (_, Some(true), _) => "takes connections".to_owned(),
        (_, Some(false), _) => "takes no connections".to_owned(),
        (_, _, Some(code)) => format!("exit code {code}"),
        (None, None, None) => format!("nothing: {}", problem.as_deref().unwrap_or_default()),
    }
}

/// `mezzo task show`.
pub(crate) fn show(task: &Task, now_ms: u64, style: Style) -> String {
    let state = match &task.reason {
        Some(reason) => format!(
            "{} ({})",
            task.short_state(),
            reason
                .trim_start_matches("REASON_")
                .to_lowercase()
                .replace('_', " ")
        ),
        None => task.short_state(),
    };
    let mut text = facts(
        style,
        &[
            ("task", task.id.clone()),
            ("name", task.name.clone()),
            ("state", state),
            ("message", task.message.clone()),
            (
                "healthy",
                task.healthy
                    .map(|healthy| if healthy { "yes" } else { "no" }.to_owned())
                    .unwrap_or_default(),
            ),
            (
                "ready",
                task.ready
                    .map(|ready| if ready { "yes" } else { "no" }.to_owned())
                    .unwrap_or_default(),
            ),
            ("check", task.check.as_ref().map(found).unwrap_or_default()),
            ("ended", task.exit.as_ref().map(exit).unwrap_or_default()),
            (
                "started",
                task.started_at_ms
                    .map(|then| format!("{} ago", age(then, now_ms)))
                    .unwrap_or_default(),
            ),
            ("framework", task.framework_id.clone()),
            ("role", task.role.clone()),
            (
                "node",
                format!("{} {}", task.node, task.agent_id).trim().to_owned(),
            ),
            ("image", task.image.clone()),
            ("digest", task.image_digest.clone().unwrap_or_default()),
            ("command", task.command.join(" ")),
            ("arguments", task.args.join(" ")),
            ("holds", task.resources.to_string()),
            (
                "revocable",
                if task.revocable {
                    "yes: what it holds is lent".to_owned()
                } else {
                    String::new()
                },
            ),
            ("cpu limit", task.cpu_limit.map(number).unwrap_or_default()),
            (
                "memory limit",
                task.memory_limit_mb
                    .map(|mb| bytes(mb << 20))
                    .unwrap_or_default(),
            ),
            (
                "pids limit",
                task.pids_limit
                    .map(|pids| pids.to_string())
                    .unwrap_or_default(),
            ),
            ("limits", limits(&task.limits)),
            ("container", task.container_id.clone().unwrap_or_default()),
            (
                "pid",
                task.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            ),
            ("cgroup", task.cgroup_path.clone().unwrap_or_default()),
            (
                "network",
                if task.network == "host" {
                    String::new()
                } else {
                    task.network.clone()
                },
            ),
            ("addresses", task.ip_addresses.join(" ")),
            ("ports", task.port_mappings.join(" ")),
            (
                "group",
                match (&task.group, &task.group_place) {
                    (Some(group), Some(place)) => format!("{group} ({place})"),
                    (group, _) => group.clone().unwrap_or_default(),
                },
            ),
            (
                "labels",
                task.labels
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
        ],
    );
    if let Some(usage) = &task.usage {
        let split = |user: Option<u64>, system: Option<u64>| match (user, system) {
            (Some(user), Some(system)) => {
                format!(" (user {}, system {})", cpu_time(user), cpu_time(system))
            }
            (None | Some(_), None) | (None, Some(_)) => String::new(),
        };
        let body = facts(
            style,
            &[
                (
                    "cpu time",
                    usage
                        .cpu_total_us
                        .map(|total| {
                            cpu_time(total) + &split(usage.cpu_user_us, usage.cpu_system_us)
                        })
                        .unwrap_or_default(),
                ),
                (
                    "throttled",
                    usage.throttled_us.map(cpu_time).unwrap_or_default(),
                ),
                ("memory", usage.memory_bytes.map(bytes).unwrap_or_default()),
                (
                    "working set",
                    usage
                        .memory_working_set_bytes
                        .map(bytes)
                        .unwrap_or_default(),
                ),
                (
                    "peak",
                    usage.memory_peak_bytes.map(bytes).unwrap_or_default(),
                ),
                (
                    "anonymous",
                    usage.memory_anon_bytes.map(bytes).unwrap_or_default(),
                ),
                (
                    "file cache",
                    usage.memory_file_bytes.map(bytes).unwrap_or_default(),
                ),
                (
                    "kernel",
                    usage.memory_kernel_bytes.map(bytes).unwrap_or_default(),
                ),
                (
                    "pids",
                    usage.pids.map(|pids| pids.to_string()).unwrap_or_default(),
                ),
                (
                    "oom kills",
                    usage.oom_kills.map(|n| n.to_string()).unwrap_or_default(),
                ),
                ("disk", usage.disk_bytes.map(bytes).unwrap_or_default()),
                ("read", usage.io_read_bytes.map(bytes).unwrap_or_default()),
                (
                    "written",
                    usage.io_write_bytes.map(bytes).unwrap_or_default(),
                ),
            ],
        );
        text.push_str(&super::section(
            style,
            &format!("USE, {} ago", age(usage.sampled_at_ms, now_ms)),
            &body,
        ));
    }
    text
}

/// Limits beyond cpu, memory and pids, in one line; empty without.
fn limits(limits: &TaskLimits) -> String {
    let mut words = Vec::new();
    for (name, mb) in [
        ("memory high", limits.memory_high_mb),
        ("memory low", limits.memory_low_mb),
        ("swap", limits.swap_mb),
    ] {
        words.extend(mb.map(|mb| format!("{name} {}", bytes(mb.saturating_mul(1 << 20)))));
    }
    if limits.memory_unlimited {
        words.push("memory unlimited".to_owned());
    }
    words.extend(limits.io_weight.map(|weight| format!("io weight {weight}")));
    for limit in &limits.io_max {
        let rates = limit.rates().into_iter().filter_map(|(name, rate)| {
            let name = name.trim_end_matches("_per_sec").replace('_', " ");
            Some(format!("{name} {}/s", rate?))
        });
        let rates: Vec<String> = rates.collect();
        words.push(format!("{}: {}", limit.device, rates.join(" ")));
    }
    match limits.cpu_pinning {
        CpuPinning::Shared => {}
        CpuPinning::Exclusive => words.push("whole processors of its own".to_owned()),
    }
    let word = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
    for limit in &limits.rlimits {
        words.push(format!(
            "{} {}:{}",
            limit.name,
            word(limit.soft),
            word(limit.hard)
        ));
    }
    for pages in &limits.huge_pages {
        words.push(format!(
            "pages of {} {}",
            bytes(pages.page_kb.saturating_mul(1 << 10)),
            bytes(pages.limit_mb.saturating_mul(1 << 20))
        ));
    }
    words.join(", ")
}

/// `mezzo task limit`.
pub(crate) fn limits_changed(task: &Task) -> String {
    let mut words = Vec::new();
    words.extend(task.cpu_limit.map(|cpus| format!("cpu {}", number(cpus))));
    words.extend(
        task.memory_limit_mb
            .map(|mb| format!("memory {}", bytes(mb << 20))),
    );
    words.extend(task.pids_limit.map(|pids| format!("pids {pids}")));
    words.push(limits(&task.limits));
    words.retain(|word| !word.is_empty());
    let words = if words.is_empty() {
        "none but what is booked".to_owned()
    } else {
        words.join(", ")
    };
    format!("limits of {}: {}\n", clean(&task.id), clean(&words))
}

/// Candidates that a prefix could mean, shortened for a message.
pub(crate) fn killed(ids: &[String]) -> String {
    match ids {
        [one] => format!("killing {}", clean(one)),
        many => format!("killing {} tasks", many.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::PLAIN;
    use super::*;
    use crate::view::Usage;

    fn task() -> Task {
        Task {
            id: "sleep.instance-1a._app.1".into(),
            node: "n1".into(),
            agent_id: "agent-1".into(),
            state: "TASK_RUNNING".into(),
            started_at_ms: Some(1_000),
            image: "sleep:1".into(),
            usage: Some(Usage {
                sampled_at_ms: 60_000,
                cpu_total_us: Some(1_234_567),
                memory_bytes: Some(700 << 10),
                pids: Some(1),
                ..Usage::default()
            }),
            ..Task::default()
        }
    }

    #[test]
    fn groups_are_shown_once_somebody_is_in_one() {
        let text = list(&[task()], 61_000, PLAIN);
        assert!(!text.contains("GROUP"), "{text}");
        let grouped = Task {
            group: Some("pod".into()),
            group_place: Some("2 of 3".into()),
            ..task()
        };
        let text = list(&[task(), grouped.clone()], 61_000, PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("GROUP"), "{text}");
        assert!(
            !lines[1].contains("pod") && lines[2].contains("pod"),
            "{text}"
        );
        assert!(show(&grouped, 61_000, PLAIN).contains("pod (2 of 3)"));
    }

    #[test]
    fn addresses_are_shown_once_somebody_has_one() {
        let text = list(&[task()], 61_000, PLAIN);
        assert!(!text.contains("ADDRESS"), "{text}");
        let bridged = Task {
            network: "bridge".into(),
            ip_addresses: vec!["172.28.0.2".into(), "fd28::2".into()],
            port_mappings: vec!["31000->80/tcp".into()],
            ..task()
        };
        let text = list(&[task(), bridged.clone()], 61_000, PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("ADDRESS"), "{text}");
        assert!(!lines[1].contains("172.28.0.2") && lines[2].contains("172.28.0.2"));
        let text = show(&bridged, 61_000, PLAIN);
        for part in ["bridge", "172.28.0.2 fd28::2", "31000->80/tcp"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_list_shows_use_and_why() {
        let ended = Task {
            id: "hog.instance-2b._app.1".into(),
            state: "TASK_FAILED".into(),
            exit: Some(Exit {
                signal: Some(9),
                oom_killed: true,
                memory_limit_bytes: Some(64 << 20),
                ..Exit::default()
            }),
            usage: None,
            updated_at_ms: 4_000,
            ..task()
        };
        insta::assert_snapshot!(list(&[task(), ended], 61_000, PLAIN), @r"
        TASK                      STATE    HEALTH  NODE  CPU TIME   MEMORY  PIDS   AGE  WHY
        sleep.instance-1a._app.1  running  -       n1     1.235 s  700 KiB     1  60 s
        hog.instance-2b._app.1    failed   -       n1           -        -     -   3 s  signal 9, out of memory (limit 64.0 MiB)
        ");
    }

    #[test]
    fn what_a_check_found_is_said_in_words() {
        let none = CheckResult::default;
        for (result, words) in [
            (
                CheckResult {
                    http_status: Some(503),
                    ..none()
                },
                "HTTP status 503",
            ),
            (
                CheckResult {
                    tcp_succeeded: Some(true),
                    ..none()
                },
                "takes connections",
            ),
            (
                CheckResult {
                    tcp_succeeded: Some(false),
                    ..none()
                },
                "takes no connections",
            ),
            (
                CheckResult {
                    exit_code: Some(3),
                    ..none()
                },
                "exit code 3",
            ),
            (
                CheckResult {
                    problem: Some("no answer within 5 ms".into()),
                    ..none()
                },
                "nothing: no answer within 5 ms",
            ),
        ] {
            let checked = Task {
                check: Some(result),
                ..task()
            };
            let text = show(&checked, 61_000, PLAIN);
            assert!(text.contains(&format!("check    {words}\n")), "{text}");
        }
    }

    #[test]
    fn show_tells_only_what_is_known() {
        insta::assert_snapshot!(show(&task(), 61_000, PLAIN), @r"
        task     sleep.instance-1a._app.1
        state    running
        started  60 s ago
        node     n1 agent-1
        image    sleep:1

        USE, 1 s ago
        cpu time  1.235 s
        memory    700 KiB
        pids      1
        ");
    }
}
