//! Limits of tasks and changes of them; and which of them contradict each other or the resources.

use super::{Invalid, Problem, Problems};
use crate::{
    model::{
        Change, CpuPinning, HugePages, IoDevice, IoLimit, LimitChange, Rlimit, Scalar, TaskLimits,
    },
    proto,
};

/// Keeps bytes from overflowing.
const MOST_MB: u64 = 1 << 40;
const MOST_DEVICES: usize = 64;
const MOST_RLIMITS: usize = 16;
const MOST_PAGE_SIZES: usize = 16;

/// What contradicts: limits with each other or with what the task takes. `memory_limit_mb` is that of the task. Pure;
/// the fields of the problems are those of `TaskInfo`.
#[must_use]
pub fn limit_problems(
    cpus: Scalar,
    mem: Scalar,
    memory_limit_mb: Option<u64>,
    limits: &TaskLimits,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut note = |field: &str, message: String| {
        problems.push(Problem {
            field: field.to_owned(),
            message,
        });
    };
    let booked = u64::try_from(mem.units_floor()).unwrap_or(0);
    let hard = booked.max(memory_limit_mb.unwrap_or(0));
    if limits.memory_unlimited {
        if memory_limit_mb.is_some() {
            note(
                "limits.memory_unlimited",
                "contradicts memory_limit_mb; give one of them".to_owned(),
            );
        }
        if limits.swap_mb.is_some() {
            note(
                "limits.swap_mb",
                "needs a memory limit, but limits.memory_unlimited says that there is none"
                    .to_owned(),
            );
        }
    } else {
        for (field, value) in [
            ("limits.memory_high_mb", limits.memory_high_mb),
            ("limits.memory_low_mb", limits.memory_low_mb),
        ] {
            if let Some(value) = value.filter(|value| hard > 0 && *value > hard) {
                note(
                    field,
                    format!(
                        "{value} is above the memory limit of {hard} MiB, where it means nothing"
                    ),
                );
            }
        }
        if limits.swap_mb.is_some() && hard == 0 {
            note(
                "limits.swap_mb",
                "needs a memory limit: give mem or memory_limit_mb".to_owned(),
            );
        }
    }
    if limits.cpu_pinning == CpuPinning::Exclusive
        && (cpus.millis() < 1000 || cpus.millis() % 1000 != 0)
    {
        note(
            "limits.cpu_pinning",
            format!(
                "whole processors are pinned, but the task takes cpus:{cpus}; take a whole number of them"
            ),
        );
    }
    problems
}

fn check_mb(problems: &mut Problems, field: &str, value: Option<u64>, least: u64) {
    if let Some(value) = value {
        if value < least {
            problems.note(field, format!("must be at least {least}"));
        } else if value > MOST_MB {
            problems.note(field, "is larger than 2^40");
        }
    }
}

fn check_weight(problems: &mut Problems, weight: Option<u32>) {
    if weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
        problems.note("io_weight", "must be 1 to 10000");
    }
}

/// Notes entries of which a key is there twice.
fn check_twice<T, K: PartialEq + std::fmt::Display>(
    problems: &mut Problems,
    field: &str,
    items: &[T],
    key: impl Fn(&T) -> K,
) {
    for (i, item) in items.iter().enumerate() {
        let own = key(item);
        if items[..i].iter().any(|earlier| key(earlier) == own) {
            problems.note(&format!("{field}[{i}]"), format!("{own} is there twice"));
        }
    }
}

impl TryFrom<proto::TaskLimits> for TaskLimits {
    type Error = Invalid;

    fn try_from(limits: proto::TaskLimits) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        check_mb(&mut problems, "memory_high_mb", limits.memory_high_mb, 4);
        check_mb(&mut problems, "memory_low_mb", limits.memory_low_mb, 0);
        check_mb(&mut problems, "swap_mb", limits.swap_mb, 0);
        check_weight(&mut problems, limits.io_weight);
        let cpu_pinning = match limits.cpu_pinning() {
            // A pinning of a newer client would be a promise that nobody keeps.
            proto::CpuPinning::Unspecified if limits.cpu_pinning != 0 => {
                problems.note("cpu_pinning", "is not known to this version of mezzo");
                CpuPinning::Shared
            }
            proto::CpuPinning::Unspecified | proto::CpuPinning::Shared => CpuPinning::Shared,
            proto::CpuPinning::Exclusive => CpuPinning::Exclusive,
        };
        let io_max: Vec<IoLimit> = problems.list("io_max", limits.io_max, MOST_DEVICES);
        for (i, limit) in io_max.iter().enumerate() {
            if limit.is_empty() {
                problems.note(
                    &format!("io_max[{i}]"),
                    "limits nothing: give at least one rate",
                );
            }
        }
        check_twice(&mut problems, "io_max", &io_max, |l| l.device.to_string());
        let rlimits: Vec<Rlimit> = problems.list("rlimits", limits.rlimits, MOST_RLIMITS);
        check_twice(&mut problems, "rlimits", &rlimits, |l| l.name.clone());
        let huge_pages: Vec<HugePages> =
            problems.list("huge_pages", limits.huge_pages, MOST_PAGE_SIZES);
        check_twice(&mut problems, "huge_pages", &huge_pages, |h| h.page_kb);
        problems.finish(Some(Self {
            memory_high_mb: limits.memory_high_mb,
            memory_low_mb: limits.memory_low_mb,
            swap_mb: limits.swap_mb,
            io_weight: limits.io_weight,
            io_max,
            cpu_pinning,
            rlimits,
            huge_pages,
            memory_unlimited: limits.memory_unlimited,
        }))
    }
}

impl From<TaskLimits> for proto::TaskLimits {
    fn from(limits: TaskLimits) -> Self {
        Self {
            memory_high_mb: limits.memory_high_mb,
            memory_low_mb: limits.memory_low_mb,
            swap_mb: limits.swap_mb,
            io_weight: limits.io_weight,
            io_max: limits.io_max.into_iter().map(Into::into).collect(),
            cpu_pinning: match limits.cpu_pinning {
                CpuPinning::Shared => proto::CpuPinning::Unspecified,
                CpuPinning::Exclusive => proto::CpuPinning::Exclusive,
            }
            .into(),
            rlimits: limits.rlimits.into_iter().map(Into::into).collect(),
            huge_pages: limits.huge_pages.into_iter().map(Into::into).collect(),
            memory_unlimited: limits.memory_unlimited,
        }
    }
}

impl TryFrom<proto::IoLimit> for IoLimit {
    type Error = Invalid;

    fn try_from(limit: proto::IoLimit) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let device: Option<IoDevice> = problems.take(
            "device",
            limit
                .device
                .parse()
                .map_err(|error| Invalid::new("", format!("{error}"))),
        );
        let value = device.map(|device| Self {
            device,
            read_bytes_per_sec: limit.read_bytes_per_sec,
            write_bytes_per_sec: limit.write_bytes_per_sec,
            reads_per_sec: limit.reads_per_sec,
            writes_per_sec: limit.writes_per_sec,
        });
        for (name, rate) in value.iter().flat_map(Self::rates) {
            if rate == Some(0) {
                problems.note(name, "must be more than 0");
            }
            // The kernel counts operations in 32 bits and would quietly take less.
            if !name.contains("bytes") && rate.is_some_and(|rate| rate > u64::from(u32::MAX)) {
                problems.note(name, format!("must be at most {}", u32::MAX));
            }
        }
        problems.finish(value)
    }
}

impl From<IoLimit> for proto::IoLimit {
    fn from(limit: IoLimit) -> Self {
        Self {
            device: limit.device.to_string(),
            read_bytes_per_sec: limit.read_bytes_per_sec,
            write_bytes_per_sec: limit.write_bytes_per_sec,
            reads_per_sec: limit.reads_per_sec,
            writes_per_sec: limit.writes_per_sec,
        }
    }
}

impl TryFrom<proto::Rlimit> for Rlimit {
    type Error = Invalid;

    fn try_from(limit: proto::Rlimit) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let name = Self::known(&limit.name).ok_or_else(|| {
            let name: String = limit.name.chars().take(80).collect();
            Invalid::new(
                "",
                format!(
                    "{name:?} is none of {}",
                    crate::model::RLIMIT_NAMES.join(", ")
                ),
            )
        });
        let name = problems.take("name", name);
        let above = match (limit.soft, limit.hard) {
            (Some(soft), Some(hard)) => soft > hard,
            (None, Some(_)) => true,
            (Some(_) | None, None) => false,
        };
        if above {
            problems.note("soft", "is above the hard limit");
        }
        problems.finish(name.map(|name| Self {
            name: name.to_owned(),
            soft: limit.soft,
            hard: limit.hard,
        }))
    }
}

impl From<Rlimit> for proto::Rlimit {
    fn from(limit: Rlimit) -> Self {
        Self {
            name: limit.name,
            soft: limit.soft,
            hard: limit.hard,
        }
    }
}

impl TryFrom<proto::HugePages> for HugePages {
    type Error = Invalid;

    fn try_from(pages: proto::HugePages) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        if !pages.page_kb.is_power_of_two() {
            problems.note(
                "page_kb",
                format!(
                    "{} is no size of a page; give 2048 for 2 MiB",
                    pages.page_kb
                ),
            );
        }
        check_mb(&mut problems, "limit_mb", Some(pages.limit_mb), 0);
        problems.finish(Some(Self {
            page_kb: pages.page_kb,
            limit_mb: pages.limit_mb,
        }))
    }
}

impl From<HugePages> for proto::HugePages {
    fn from(pages: HugePages) -> Self {
        Self {
            page_kb: pages.page_kb,
            limit_mb: pages.limit_mb,
        }
    }
}

/// Limits that can be cleared, by the names of their fields.
const CLEARABLE: [&str; 9] = [
    "cpu_limit",
    "memory_limit_mb",
    "pids_limit",
    "memory_high_mb",
    "memory_low_mb",
    "swap_mb",
    "io_weight",
    "io_max",
    "huge_pages",
];

impl TryFrom<proto::UpdateTaskRequest> for LimitChange {
    type Error = Invalid;

    fn try_from(request: proto::UpdateTaskRequest) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        for (i, name) in request.clear.iter().enumerate() {
            if !CLEARABLE.contains(&name.as_str()) {
                let name: String = name.chars().take(80).collect();
                problems.note(
                    &format!("clear[{i}]"),
                    format!("{name:?} is none of {}", CLEARABLE.join(", ")),
                );
            }
        }
        let cleared = |name: &str| request.clear.iter().any(|field| field == name);
        check_mb(&mut problems, "memory_limit_mb", request.memory_limit_mb, 4);
        check_mb(&mut problems, "memory_high_mb", request.memory_high_mb, 4);
        check_mb(&mut problems, "memory_low_mb", request.memory_low_mb, 0);
        check_mb(&mut problems, "swap_mb", request.swap_mb, 0);
        check_weight(&mut problems, request.io_weight);
        let cpu_limit: Option<Scalar> = request.cpu_limit.map(Into::into);
        if cpu_limit.is_some_and(|limit| limit < Scalar::from_millis(1)) {
            problems.note("cpu_limit", "must be at least 0.001");
        }
        if request.pids_limit == Some(0) {
            problems.note("pids_limit", "must be at least 1");
        }
        let (clear_io_max, clear_huge_pages) = (cleared("io_max"), cleared("huge_pages"));
        let change = Self {
            cpu_limit: change(cpu_limit, cleared("cpu_limit")),
            memory_limit_mb: change(request.memory_limit_mb, cleared("memory_limit_mb")),
            pids_limit: change(request.pids_limit, cleared("pids_limit")),
            memory_high_mb: change(request.memory_high_mb, cleared("memory_high_mb")),
            memory_low_mb: change(request.memory_low_mb, cleared("memory_low_mb")),
            swap_mb: change(request.swap_mb, cleared("swap_mb")),
            io_weight: change(request.io_weight, cleared("io_weight")),
            clear_io_max,
            io_max: problems.list("io_max", request.io_max, MOST_DEVICES),
            clear_huge_pages,
            huge_pages: problems.list("huge_pages", request.huge_pages, MOST_PAGE_SIZES),
        };
        check_twice(&mut problems, "io_max", &change.io_max, |l| {
            l.device.to_string()
        });
        check_twice(&mut problems, "huge_pages", &change.huge_pages, |h| {
            h.page_kb
        });
        problems.finish(Some(change))
    }
}

fn change<T>(value: Option<T>, cleared: bool) -> Change<T> {
    match (value, cleared) {
        (Some(value), _) => Change::Set(value),
        (None, true) => Change::Clear,
        (None, false) => Change::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TaskInfo;

    fn task(limits: proto::TaskLimits) -> proto::TaskInfo {
        let scalar = |name: &str, millis| proto::Resource {
            name: name.into(),
            value: Some(proto::resource::Value::Scalar(proto::Scalar { millis })),
        };
        proto::TaskInfo {
            task_id: "t".into(),
            agent_id: "a".into(),
            resources: vec![scalar("cpus", 1500), scalar("mem", 64_000)],
            container: Some(proto::ContainerInfo {
                image: "i".into(),
                ..Default::default()
            }),
            limits: Some(limits),
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(limits: proto::TaskLimits, fields: &[&str]) {
        let found: Vec<String> = match TaskInfo::try_from(task(limits)) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems.into_iter().map(|p| p.field).collect(),
        };
        assert_eq!(found, fields);
    }

    fn io(device: &str, rate: Option<u64>) -> proto::IoLimit {
        proto::IoLimit {
            device: device.into(),
            writes_per_sec: rate,
            ..Default::default()
        }
    }

    fn all() -> proto::TaskLimits {
        proto::TaskLimits {
            memory_high_mb: Some(48),
            memory_low_mb: Some(8),
            swap_mb: Some(0),
            io_weight: Some(200),
            io_max: vec![io("8:0", Some(5)), io("/data", Some(7))],
            rlimits: vec![proto::Rlimit {
                name: "RLIMIT_NOFILE".into(),
                soft: Some(1),
                hard: None,
            }],
            huge_pages: vec![proto::HugePages {
                page_kb: 2048,
                limit_mb: 0,
            }],
            ..Default::default()
        }
    }

    #[test]
    fn limits_survive_the_wire() {
        let info = TaskInfo::try_from(task(all())).unwrap();
        assert_eq!(info.limits.rlimits[0].name, "nofile");
        let again = TaskInfo::try_from(proto::TaskInfo::from(info.clone())).unwrap();
        assert_eq!(again, info);
        let none = TaskInfo::try_from(task(proto::TaskLimits::default())).unwrap();
        assert_eq!(proto::TaskInfo::from(none).limits, None);
    }

    #[test]
    fn every_bad_limit_is_named() {
        let change = |change: fn(&mut proto::TaskLimits)| {
            let mut limits = all();
            change(&mut limits);
            limits
        };
        check(all(), &[]);
        check(
            change(|l| l.memory_high_mb = Some(65)),
            &["limits.memory_high_mb"],
        );
        check(
            change(|l| l.memory_low_mb = Some(u64::MAX)),
            &["limits.memory_low_mb"],
        );
        check(change(|l| l.io_weight = Some(0)), &["limits.io_weight"]);
        check(
            change(|l| l.io_max[1] = io("8:0", Some(1))),
            &["limits.io_max[1]"],
        );
        check(
            change(|l| l.io_max[1] = io("sda", Some(1))),
            &["limits.io_max[1].device"],
        );
        check(
            change(|l| l.io_max[0] = io("8:0", None)),
            &["limits.io_max[0]"],
        );
        check(
            change(|l| l.io_max[0] = io("8:0", Some(1 << 40))),
            &["limits.io_max[0].writes_per_sec"],
        );
        check(
            change(|l| l.rlimits[0].hard = Some(0)),
            &["limits.rlimits[0].soft"],
        );
        check(
            change(|l| l.rlimits[0].name = "files".into()),
            &["limits.rlimits[0].name"],
        );
        check(
            change(|l| l.huge_pages[0].page_kb = 3),
            &["limits.huge_pages[0].page_kb"],
        );
        check(change(|l| l.cpu_pinning = 2), &["limits.cpu_pinning"]);
        check(change(|l| l.cpu_pinning = 77), &["limits.cpu_pinning"]);
        check(change(|l| l.memory_unlimited = true), &["limits.swap_mb"]);
    }

    #[test]
    fn a_change_touches_only_what_it_names() {
        let info = TaskInfo::try_from(task(all())).unwrap();
        let change = LimitChange::try_from(proto::UpdateTaskRequest {
            task_id: "t".into(),
            memory_high_mb: Some(60),
            cpu_limit: Some(proto::Scalar { millis: 2000 }),
            io_max: vec![io("8:0", None), io("8:16", Some(3))],
            clear: vec!["io_weight".into()],
            ..Default::default()
        })
        .unwrap();
        let after = change.apply(&info);
        assert_eq!(after.limits.memory_high_mb, Some(60));
        assert_eq!(after.limits.memory_low_mb, Some(8));
        assert_eq!(after.cpu_limit, Some(Scalar::from_units(2)));
        assert_eq!(after.limits.io_weight, None);
        let devices: Vec<_> = after
            .limits
            .io_max
            .iter()
            .map(|limit| limit.device.to_string())
            .collect();
        assert_eq!(devices, ["/data", "8:16"]);
        assert_eq!(LimitChange::default().apply(&info), info);
        assert!(LimitChange::default().is_empty());
    }

    #[test]
    fn a_bad_change_names_its_fields() {
        let error = LimitChange::try_from(proto::UpdateTaskRequest {
            pids_limit: Some(0),
            io_weight: Some(10_001),
            clear: vec!["mem".into()],
            ..Default::default()
        })
        .unwrap_err();
        let fields: Vec<_> = error.problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["clear[0]", "io_weight", "pids_limit"]);
    }
}
