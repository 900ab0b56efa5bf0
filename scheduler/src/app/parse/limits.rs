//! `resourceLimits`: Marathon's `cpus` and `mem`, and what mezzo adds beside them.
//!
//! Pure. The additions are fields of the same object, in Marathon's units (MiB) and spelling; `docs/limits.md` lists
//! them.

use std::collections::BTreeSet;

use mezzo_api::convert::limit_problems;
use mezzo_api::model::{
    CpuPinning, HugePages, IoDevice, IoLimit, RLIMIT_NAMES, Rlimit, Scalar, TaskLimits,
};
use serde_json::Value;

use super::MAX_UNITS;
use crate::app::read::{Fields, Report};
use crate::app::spec::Limit;

/// The fields of `resourceLimits`.
const FIELDS: [&str; 11] = [
    "cpus",
    "mem",
    "memHigh",
    "memLow",
    "swap",
    "pids",
    "ioWeight",
    "ioMax",
    "cpuPinning",
    "rlimits",
    "hugePages",
];
/// JSON numbers beyond this are not exact in every client.
const MOST: u64 = 1 << 53;
/// The kernel counts operations in 32 bits.
const MOST_OPERATIONS: u64 = u32::MAX as u64;

/// What an app says about limits.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) cpus: Option<Limit>,
    pub(super) mem: Option<Limit>,
    pub(super) pids: Option<u64>,
    pub(super) more: TaskLimits,
}

pub(super) fn limits(
    fields: &Fields<'_>,
    cpus: Scalar,
    mem: Scalar,
    report: &mut Report,
) -> Limits {
    let Some(value) = fields.get("resourceLimits") else {
        return Limits::default();
    };
    let path = fields.path_of("resourceLimits");
    let Some(read) = Fields::open(value, path, &FIELDS, report) else {
        return Limits::default();
    };
    let mib =
        |name: &str, least: u64, report: &mut Report| read.integer(name, least, MAX_UNITS, report);
    let more = TaskLimits {
        memory_high_mb: mib("memHigh", 4, report),
        memory_low_mb: mib("memLow", 0, report),
        swap_mb: mib("swap", 0, report),
        io_weight: read
            .integer("ioWeight", 1, 10_000, report)
            .and_then(|weight| u32::try_from(weight).ok()),
        io_max: io_max(&read, report),
        cpu_pinning: read
            .choice(
                "cpuPinning",
                &[
                    ("shared", CpuPinning::Shared),
                    ("exclusive", CpuPinning::Exclusive),
                ],
                report,
            )
            .unwrap_or_default(),
        rlimits: rlimits(&read, report),
        huge_pages: huge_pages(&read, report),
        memory_unlimited: false,
    };
    let found = Limits {
        cpus: above("cpus", cpus, &read, report),
        mem: above("mem", mem, &read, report),
        pids: read.integer("pids", 1, MOST, report),
        more,
    };
    let (memory_limit_mb, memory_unlimited) = memory(found.mem);
    let as_asked = TaskLimits {
        memory_unlimited,
        ..found.more.clone()
    };
    for problem in limit_problems(cpus, mem, memory_limit_mb, &as_asked) {
        let name = match problem.field.as_str() {
            "limits.memory_high_mb" => "memHigh",
            "limits.memory_low_mb" => "memLow",
            "limits.swap_mb" => "swap",
            "limits.cpu_pinning" => "cpuPinning",
            _ => "mem",
        };
        report.value_problem(read.path_of(name), problem.message);
    }
    found
}

/// An app's memory limit in the API's terms: how many MiB, or that there is none.
pub(crate) fn memory(limit: Option<Limit>) -> (Option<u64>, bool) {
    match limit {
        Some(Limit::Of(limit)) => (u64::try_from(limit.units_floor()).ok(), false),
        Some(Limit::Unlimited) => (None, true),
        None => (None, false),
    }
}

/// Marathon's own: a number that is not below what is booked, or the word.
fn above(name: &str, least: Scalar, read: &Fields<'_>, report: &mut Report) -> Option<Limit> {
    let value = read.get(name)?;
    if value.as_str() == Some("unlimited") {
        return Some(Limit::Unlimited);
    }
    if let Some(text) = value.as_str() {
        report.value_problem(
            read.path_of(name),
            format!("got {text:?}, must be a number or \"unlimited\""),
        );
        return None;
    }
    let millis = read.decimal(name, 3, 1, MAX_UNITS * 1000, report)?;
    let limit = Scalar::from_millis(i64::try_from(millis).ok()?);
    if limit < least {
        report.value_problem(
            read.path_of(name),
            format!("got {limit}, must be at least the app's {name}, {least}"),
        );
    }
    Some(Limit::Of(limit))
}

fn io_max(fields: &Fields<'_>, report: &mut Report) -> Vec<IoLimit> {
    let known = [
        "device",
        "readBytesPerSecond",
        "writeBytesPerSecond",
        "readsPerSecond",
        "writesPerSecond",
    ];
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for (path, item) in fields.list("ioMax", report).unwrap_or_default() {
        let Some(read) = Fields::open(item, path.clone(), &known, report) else {
            continue;
        };
        let device = match read.string("device", report).map(|text| text.parse()) {
            Some(Ok(device)) => Some(device),
            Some(Err(error)) => {
                let error: mezzo_api::model::InvalidIoDevice = error;
                report.value_problem(read.path_of("device"), error.to_string());
                None
            }
            None if read.get("device").is_none() => {
                report.value_problem(
                    read.path_of("device"),
                    "is missing: \"8:0\" or a path such as \"/var/lib\"",
                );
                None
            }
            None => None,
        };
        let Some(device): Option<IoDevice> = device else {
            continue;
        };
        if !seen.insert(device.to_string()) {
            report.value_problem(&path, format!("device {device} is there twice"));
        }
        let limit = IoLimit {
            device,
            read_bytes_per_sec: read.integer("readBytesPerSecond", 1, MOST, report),
            write_bytes_per_sec: read.integer("writeBytesPerSecond", 1, MOST, report),
            reads_per_sec: read.integer("readsPerSecond", 1, MOST_OPERATIONS, report),
            writes_per_sec: read.integer("writesPerSecond", 1, MOST_OPERATIONS, report),
        };
        if limit.is_empty() {
            report.value_problem(path, "limits nothing: give at least one rate");
        }
        found.push(limit);
    }
    found
}

fn rlimits(fields: &Fields<'_>, report: &mut Report) -> Vec<Rlimit> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for (path, item) in fields.list("rlimits", report).unwrap_or_default() {
        let Some(read) = Fields::open(item, path.clone(), &["name", "soft", "hard"], report) else {
            continue;
        };
        let name = read.string("name", report).unwrap_or_default();
        let Some(known) = Rlimit::known(&name) else {
            report.value_problem(
                read.path_of("name"),
                format!("got {name:?}, must be one of {}", RLIMIT_NAMES.join(", ")),
            );
            continue;
        };
        if !seen.insert(known) {
            report.value_problem(&path, format!("{known} is there twice"));
        }
        // "unlimited" and nothing at all are the same.
        let value = |name: &str, report: &mut Report| {
            if read.get(name).and_then(Value::as_str) == Some("unlimited") {
                None
            } else {
                read.integer(name, 0, MOST, report)
            }
        };
        let limit = Rlimit {
            name: known.to_owned(),
            soft: value("soft", report),
            hard: value("hard", report),
        };
        if limit
            .hard
            .is_some_and(|hard| limit.soft.is_none_or(|soft| soft > hard))
        {
            report.value_problem(read.path_of("soft"), "must not be above hard");
        }
        found.push(limit);
    }
    found
}

fn huge_pages(fields: &Fields<'_>, report: &mut Report) -> Vec<HugePages> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for (path, item) in fields.list("hugePages", report).unwrap_or_default() {
        let Some(read) = Fields::open(item, path.clone(), &["pageKb", "limitMb"], report) else {
            continue;
        };
        for name in ["pageKb", "limitMb"] {
            if read.get(name).is_none() {
                report.value_problem(read.path_of(name), "is missing");
            }
        }
        let (Some(page_kb), Some(limit_mb)) = (
            read.integer("pageKb", 1, MOST, report),
            read.integer("limitMb", 0, MAX_UNITS, report),
        ) else {
            continue;
        };
        if !page_kb.is_power_of_two() {
            report.value_problem(
                read.path_of("pageKb"),
                format!("got {page_kb}, which is no size of a page; 2048 is 2 MiB"),
            );
        }
        if !seen.insert(page_kb) {
            report.value_problem(path, format!("pages of {page_kb} KiB are there twice"));
        }
        found.push(HugePages { page_kb, limit_mb });
    }
    found
}
