//! Limits as the runtime takes them, and its refusals in the words of the API. Pure.

use mezzo_api::model::{IoDevice, IoLimit, Rlimit};
use mezzo_runtime as rt;

use crate::node::Limits;

pub(super) fn to_limits(limits: &Limits) -> rt::Limits {
    rt::Limits {
        cpu_millis_weight: limits.cpu_millis,
        cpu_limit_millis: limits.cpu_limit_millis,
        memory_bytes: limits.memory_bytes,
        memory_swap: limits.swap_bytes,
        pids: limits.pids,
        memory_high: limits.memory_high_bytes,
        memory_low: limits.memory_low_bytes,
        io_weight: limits.io_weight,
        io_max: limits.io_max.iter().map(to_io_limit).collect(),
        cpuset: limits
            .cpus
            .as_ref()
            .map(|cpus| cpus.iter().copied().collect()),
        huge_pages: limits
            .huge_pages
            .iter()
            .map(|pages| rt::HugePageLimit {
                page_bytes: pages.page_kb.saturating_mul(1 << 10),
                bytes: pages.limit_mb.saturating_mul(1 << 20),
            })
            .collect(),
        yields: limits.yields,
    }
}

fn to_io_limit(limit: &IoLimit) -> rt::IoLimit {
    rt::IoLimit {
        device: match &limit.device {
            IoDevice::Number { major, minor } => rt::IoDevice::Number {
                major: *major,
                minor: *minor,
            },
            IoDevice::Path(path) => rt::IoDevice::Path(path.into()),
        },
        read_bytes_per_sec: limit.read_bytes_per_sec,
        write_bytes_per_sec: limit.write_bytes_per_sec,
        reads_per_sec: limit.reads_per_sec,
        writes_per_sec: limit.writes_per_sec,
    }
}

pub(super) fn to_rlimit(limit: &Rlimit) -> rt::Rlimit {
    // The kernel's RLIM_INFINITY.
    let or_unlimited = |value: Option<u64>| value.unwrap_or(u64::MAX);
    rt::Rlimit {
        kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
        soft: or_unlimited(limit.soft),
        hard: or_unlimited(limit.hard),
    }
}

/// What the runtime refuses, under the name that the framework knows the field by.
pub(super) fn in_words_of_the_api(problem: &rt::BadSpec) -> String {
    const NAMES: [(&str, &str); 11] = [
        ("cwd", "container.working_dir"),
        ("capabilities_add", "container.capabilities_add"),
        ("capabilities_drop", "container.capabilities_drop"),
        ("limits.cpuset", "limits.cpu_pinning"),
        ("limits.cpu_limit_millis", "cpu_limit"),
        ("limits.memory_bytes", "resources.mem"),
        ("limits.pids", "pids_limit"),
        ("limits.memory_swap", "limits.swap_mb"),
        ("limits.memory_high", "limits.memory_high_mb"),
        ("limits.memory_low", "limits.memory_low_mb"),
        ("rlimits", "limits.rlimits"),
    ];
    let name = NAMES.into_iter().find(|(own, _)| {
        let rest = problem.field.strip_prefix(own);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
    });
    match name {
        Some((own, theirs)) => format!(
            "{theirs}{}: {}",
            problem.field.strip_prefix(own).unwrap_or_default(),
            problem.problem
        ),
        None => problem.to_string(),
    }
}

/// The same for a program to be executed in a container.
pub(super) fn in_words_of_exec(problem: &rt::BadSpec) -> String {
    match problem.field.as_str() {
        "cwd" => format!("working_dir: {}", problem.problem),
        _ => problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_fields_of_the_api() {
        let words = |field: &str| {
            in_words_of_the_api(&rt::BadSpec {
                field: field.into(),
                problem: "no".into(),
            })
        };
        assert_eq!(words("limits.memory_swap"), "limits.swap_mb: no");
        assert_eq!(words("rlimits[2].kind"), "limits.rlimits[2].kind: no");
        assert_eq!(
            words("limits.io_max[0].device"),
            "limits.io_max[0].device: no"
        );
        assert_eq!(words("limits.io_weight"), "limits.io_weight: no");
        assert_eq!(words("user"), "user: no");
    }

    #[test]
    fn an_absent_rlimit_is_unlimited() {
        let limit = to_rlimit(&Rlimit {
            name: "nofile".into(),
            soft: Some(5),
            hard: None,
        });
        assert_eq!(
            (limit.kind.as_str(), limit.soft, limit.hard),
            ("RLIMIT_NOFILE", 5, u64::MAX)
        );
    }
}
