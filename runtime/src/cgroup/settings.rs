//! Limits as files of control groups: which files, what they are to hold, in which order they are changed on a
//! running container, and how everything is put back when the kernel refuses one of them.
//!
//! ```text
//! Limits ─wanted (pure)─► settings ─look─► what the files hold now ─steps (pure)─► changes in a safe order
//!                                                                                     │ write, or put all back
//! ```
//!
//! **Less memory than is in use.** It is never forced, because the kernel would kill for it: what can be taken back
//! is (page cache first), and when that is not enough the change is refused and nothing is changed. Version 1
//! refuses by itself (EBUSY); version 2 is asked through `memory.high`, which takes back and never kills. A
//! container that grows in the very moment after that can still meet its new limit, as it could at any time.

mod beside;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CgroupMode;
use super::device::DeviceNumber;
use super::stats;
use crate::model::{IoLimit, Limits};
pub(crate) use beside::has_io_weight;
use beside::{
    BFQ_WEIGHT, CPUS, IO_WEIGHT, all_processors, has_no_weight, huge_pages, idle, io_weights,
    other_weight_is_there, processors,
};

/// The period of the CPU limit in microseconds: the kernel's own default.
pub(crate) const PERIOD_US: u64 = 100_000;

/// What one file is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: &'static str,
    pub(crate) file: &'static str,
    /// For `io.max` and the weights of io, which hold a line per device: the line, which begins with its key.
    pub(crate) value: String,
    /// Nothing was asked for: where the file is missing, nothing is missing.
    pub(crate) optional: bool,
}

/// Why limits were not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// The file is not there.
    #[error(
        "{} is not there: this kernel does not have it, or its controller is not given to this cgroup (cgroup.controllers says which are)", file.display()
    )]
    Missing { file: PathBuf },
    /// More memory is in use, and cannot be taken back, than the new limit allows.
    #[error("a memory limit of {wanted} bytes is less than the {used} bytes in use")]
    MemoryInUse { wanted: u64, used: u64 },
    /// The kernel did not take a value.
    #[error("{} does not take {value:?}: {source}", file.display())]
    Refused {
        file: PathBuf,
        value: String,
        source: io::Error,
    },
}

/// Every setting that limits mean, those without a limit included. Pure. `devices` are those of `limits.io_max`,
/// in its order.
pub(crate) fn wanted(limits: &Limits, mode: CgroupMode, devices: &[DeviceNumber]) -> Vec<Setting> {
    match mode {
        CgroupMode::V2 => wanted_v2(limits, devices),
        CgroupMode::V1 | CgroupMode::Hybrid => wanted_v1(limits),
    }
}

fn wanted_v2(limits: &Limits, devices: &[DeviceNumber]) -> Vec<Setting> {
    let or_max = |value: Option<u64>| value.map_or("max".to_owned(), |value| value.to_string());
    let mut settings = vec![
        setting(
            "cpu",
            "cpu.weight",
            weight(if limits.yields {
                0
            } else {
                limits.cpu_millis_weight
            })
            .to_string(),
            false,
        ),
        setting(
            "cpu",
            "cpu.max",
            format!(
                "{} {PERIOD_US}",
                or_max(limits.cpu_limit_millis.map(quota_us))
            ),
            limits.cpu_limit_millis.is_none(),
        ),
        setting(
            "memory",
            "memory.low",
            limits.memory_low.unwrap_or(0).to_string(),
            limits.memory_low.is_none(),
        ),
        setting(
            "memory",
            "memory.high",
            or_max(limits.memory_high),
            limits.memory_high.is_none(),
        ),
        setting(
            "memory",
            "memory.max",
            or_max(limits.memory_bytes),
            limits.memory_bytes.is_none(),
        ),
        // Where swap is not accounted the file is missing, and only who asks for swap is told.
        setting(
            "memory",
            "memory.swap.max",
            or_max(limits.memory_bytes.map(|_| limits.memory_swap.unwrap_or(0))),
            limits.memory_swap.is_none(),
        ),
        setting(
            "pids",
            "pids.max",
            or_max(limits.pids),
            limits.pids.is_none(),
        ),
    ];
    settings.extend(io_weights(limits));
    for (limit, device) in limits.io_max.iter().zip(devices) {
        settings.push(setting(
            "io",
            "io.max",
            io_line(*device, Some(limit)),
            false,
        ));
    }
    settings.push(processors(limits));
    settings.extend(idle(limits));
    settings.extend(huge_pages(limits, "max", |size| &size.v2));
    settings
}

fn wanted_v1(limits: &Limits) -> Vec<Setting> {
    let or_none = |value: Option<u64>| value.map_or("-1".to_owned(), |value| value.to_string());
    let with_swap = limits
        .memory_bytes
        .map(|bytes| bytes.saturating_add(limits.memory_swap.unwrap_or(0)));
    vec![
        setting(
            "cpu",
            "cpu.shares",
            shares(if limits.yields {
                0
            } else {
                limits.cpu_millis_weight
            })
            .to_string(),
            false,
        ),
        setting(
            "cpu",
            "cpu.cfs_quota_us",
            or_none(limits.cpu_limit_millis.map(quota_us)),
            limits.cpu_limit_millis.is_none(),
        ),
        setting(
            "memory",
            "memory.limit_in_bytes",
            or_none(limits.memory_bytes),
            limits.memory_bytes.is_none(),
        ),
        setting(
            "memory",
            "memory.memsw.limit_in_bytes",
            or_none(with_swap),
            limits.memory_swap.is_none(),
        ),
        setting(
            "pids",
            "pids.max",
            limits
                .pids
                .map_or("max".to_owned(), |most| most.to_string()),
            limits.pids.is_none(),
        ),
        processors(limits),
    ]
    .into_iter()
    .chain(idle(limits))
    .chain(huge_pages(limits, "-1", |size| &size.v1))
    .collect()
}

fn setting(controller: &'static str, file: &'static str, value: String, optional: bool) -> Setting {
    Setting {
        controller,
        file,
        value,
        optional,
    }
}

/// A device's line of `io.max`, as the kernel prints it; without a limit, all is allowed.
fn io_line(device: DeviceNumber, limit: Option<&IoLimit>) -> String {
    let most = |value: fn(&IoLimit) -> Option<u64>| {
        limit
            .and_then(value)
            .map_or("max".to_owned(), |value| value.to_string())
    };
    format!(
        "{device} rbps={} wbps={} riops={} wiops={}",
        most(|limit| limit.read_bytes_per_sec),
        most(|limit| limit.write_bytes_per_sec),
        most(|limit| limit.reads_per_sec),
        most(|limit| limit.writes_per_sec),
    )
}

/// 1024 shares per core; the kernel takes 2 to 262144.
pub(crate) fn shares(millis: u64) -> u64 {
    (millis.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

/// 100 per core, the kernel's default; it takes 1 to 10000.
pub(crate) fn weight(millis: u64) -> u64 {
    (millis.saturating_add(5) / 10).clamp(1, 10_000)
}

/// Microseconds per period; the kernel takes no quota under one millisecond.
pub(crate) fn quota_us(millis: u64) -> u64 {
    (millis.saturating_mul(PERIOD_US) / 1000).max(1000)
}

/// One file of a new cgroup and what is written into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FirstWrite {
    file: PathBuf,
    value: String,
    optional: bool,
}

/// What is to be written into a new cgroup, which has no limits yet. Pure.
pub(crate) fn first_writes(
    dir: &dyn Fn(&str) -> Option<PathBuf>,
    mode: CgroupMode,
    settings: Vec<Setting>,
) -> Vec<FirstWrite> {
    let there_already = wanted(&Limits::default(), mode, &[]);
    settings
        .into_iter()
        .filter(|one| !(one.optional && there_already.contains(one)))
        .map(|one| FirstWrite {
            file: dir(one.controller)
                .map_or_else(|| PathBuf::from(one.file), |dir| dir.join(one.file)),
            value: one.value,
            optional: one.optional,
        })
        .collect()
}

/// The limits of a new cgroup, with their files open: to be set in an instant.
#[derive(Debug)]
pub(crate) struct Ready<'a>(Vec<(&'a FirstWrite, File)>);

/// Opens what is to be written.
pub(crate) fn open(writes: &[FirstWrite]) -> Result<Ready<'_>, ChangeError> {
    let mut ready = Vec::with_capacity(writes.len());
    for one in writes {
        match File::options().write(true).truncate(true).open(&one.file) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && (one.optional || other_weight_is_there(&one.file)) => {}
            Err(error) => return Err(failed(&one.file, &one.value, error)),
            Ok(file) => ready.push((one, file)),
        }
    }
    Ok(Ready(ready))
}

impl Ready<'_> {
    /// Sets them.
    pub(crate) fn set(mut self) -> Result<(), ChangeError> {
        for (one, file) in &mut self.0 {
            file.write_all(not_empty(&one.value).as_bytes())
                .map_err(|error| failed(&one.file, &one.value, error))?;
        }
        Ok(())
    }
}

/// One change of a running container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Writes a value in place of another.
    Write {
        file: PathBuf,
        value: String,
        before: String,
    },
    /// Goes on only if no more memory is in use than this.
    Fits { usage: PathBuf, bytes: u64 },
}

/// What was changed, and what was there before.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    before: Vec<(PathBuf, String)>,
}

impl Changed {
    /// Puts back what was there. What cannot be put back is returned.
    pub(crate) fn undo(self) -> Vec<PathBuf> {
        let mut stuck = Vec::new();
        for (file, value) in self.before.into_iter().rev() {
            if write(&file, &value).is_err() {
                stuck.push(file);
            }
        }
        stuck
    }
}

/// Changes the limits of a running container. `dir` tells where a controller's files are. All or nothing: after an
/// error the old values are back, but for the files named beside it.
pub(crate) fn change(
    dir: &dyn Fn(&str) -> Option<PathBuf>,
    wanted: &[Setting],
) -> Result<Changed, (ChangeError, Vec<PathBuf>)> {
    let seen = look(dir, wanted).map_err(|error| (error, Vec::new()))?;
    let mut changed = Changed::default();
    for step in steps(&seen) {
        let done = match &step {
            Step::Write {
                file,
                value,
                before,
            } => write(file, value)
                .map(|()| changed.before.push((file.clone(), before.clone())))
                .map_err(|error| seen.explain(error)),
            Step::Fits { usage, bytes } => match read_number(usage) {
                Some(used) if used > *bytes => Err(ChangeError::MemoryInUse {
                    wanted: *bytes,
                    used,
                }),
                Some(_) | None => Ok(()),
            },
        };
        if let Err(error) = done {
            return Err((error, changed.undo()));
        }
    }
    Ok(changed)
}

/// A setting beside what its file holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    file: &'static str,
    path: PathBuf,
    /// The value, or, in files with a line per device, the line.
    now: String,
    wanted: String,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    found: Vec<Found>,
    /// The file that tells the memory in use, and what it tells.
    memory: Option<(PathBuf, u64)>,
}

impl Seen {
    /// Version 1 answers "busy" when it cannot take back enough.
    fn explain(&self, error: ChangeError) -> ChangeError {
        match error {
            ChangeError::Refused {
                file,
                value,
                source,
            } if source.raw_os_error() == Some(libc::EBUSY)
                && (file.ends_with("memory.limit_in_bytes")
                    || file.ends_with("memory.memsw.limit_in_bytes")) =>
            {
                let used = self.memory.as_ref().and_then(|(path, _)| read_number(path));
                match (value.parse(), used) {
                    (Ok(wanted), Some(used)) => ChangeError::MemoryInUse { wanted, used },
                    _ => ChangeError::Refused {
                        file,
                        value,
                        source,
                    },
                }
            }
            other @ (ChangeError::Missing { .. }
            | ChangeError::MemoryInUse { .. }
            | ChangeError::Refused { .. }) => other,
        }
    }
}

fn look(dir: &dyn Fn(&str) -> Option<PathBuf>, wanted: &[Setting]) -> Result<Seen, ChangeError> {
    let mut seen = Seen::default();
    for one in wanted {
        let path = dir(one.controller)
            .map(|dir| dir.join(one.file))
            .unwrap_or_else(|| PathBuf::from(one.file));
        if has_no_weight(one.file, &path) {
            continue;
        }
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) if one.optional || other_weight_is_there(&path) => continue,
            Err(_) => return Err(ChangeError::Missing { file: path }),
        };
        let now = if KEYED.contains(&one.file) {
            line_of(&text, &one.value)
        } else {
            text.trim().to_owned()
        };
        seen.found.push(Found {
            file: one.file,
            wanted: if one.file == CPUS && one.value.is_empty() {
                all_processors(&path)
            } else {
                one.value.clone()
            },
            path,
            now,
        });
    }
    // Devices that were limited and are no longer.
    if let Some(path) = dir("io").map(|dir| dir.join("io.max")) {
        for line in fs::read_to_string(&path).unwrap_or_default().lines() {
            if !wanted
                .iter()
                .any(|one| one.file == "io.max" && same_key(&one.value, line))
                && let Some(key) = line.split(' ').next()
            {
                seen.found.push(Found {
                    file: "io.max",
                    path: path.clone(),
                    now: line.to_owned(),
                    wanted: format!("{key} {NO_IO_LIMIT}"),
                });
            }
        }
    }
    seen.memory = dir("memory").and_then(|dir| {
        ["memory.current", "memory.usage_in_bytes"]
            .into_iter()
            .find_map(|name| {
                let path = dir.join(name);
                let used = read_number(&path)?;
                Some((path, used))
            })
    });
    Ok(seen)
}

/// Files that hold a line per device.
const KEYED: [&str; 3] = ["io.max", IO_WEIGHT, BFQ_WEIGHT];
/// Of a device without a line.
const NO_IO_LIMIT: &str = "rbps=max wbps=max riops=max wiops=max";

/// The line with the same key as `like`; what it means that there is none.
fn line_of(text: &str, like: &str) -> String {
    let line = text.lines().find(|line| same_key(line, like));
    line.map_or_else(
        || {
            let key = like.split(' ').next().unwrap_or_default();
            format!("{key} {NO_IO_LIMIT}")
        },
        |line| line.trim().to_owned(),
    )
}

/// Whether two values are of the same device; values of plain files always are of the same nothing.
fn same_key(one: &str, other: &str) -> bool {
    let key = |text: &str| {
        let word = text.split(' ').next().unwrap_or_default().to_owned();
        (word.contains(':') || word == "default").then_some(word)
    };
    key(one) == key(other)
}

/// The changes, in an order in which the kernel takes each of them and nothing is killed on the way. Pure.
fn steps(seen: &Seen) -> Vec<Step> {
    let of = |file: &str| seen.found.iter().find(|one| one.file == file);
    let is_memory_limit = |one: &Found| {
        matches!(
            one.file,
            "memory.max" | "memory.high" | "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes"
        )
    };
    let mut steps: Vec<Step> = Vec::new();
    let write = |steps: &mut Vec<Step>, one: &Found, value: &str| {
        steps.push(Step::Write {
            file: one.path.clone(),
            value: value.to_owned(),
            before: one.now.clone(),
        });
    };
    let changes = |one: &&Found| one.now != one.wanted;

    // Version 2: less memory than is in use.
    let max = of("memory.max").filter(changes);
    let high = of("memory.high");
    let mut squeezed = false;
    if let (Some(max), Some((usage, used))) = (max, &seen.memory)
        && number(&max.wanted) < *used
    {
        if let Some(high) = high {
            let lower = number(&high.now) < number(&max.wanted);
            write(
                &mut steps,
                high,
                if lower { &high.now } else { &max.wanted },
            );
            squeezed = true;
        }
        steps.push(Step::Fits {
            usage: usage.clone(),
            bytes: number(&max.wanted),
        });
    }
    if let Some(max) = max {
        write(&mut steps, max, &max.wanted);
    }
    if let Some(high) = high.filter(|high| squeezed || high.now != high.wanted) {
        write(&mut steps, high, &high.wanted);
    }

    // Version 1: the limit is at no time above the one that counts swap in.
    let limit = of("memory.limit_in_bytes");
    let both = of("memory.memsw.limit_in_bytes");
    let raised = both.is_some_and(|both| number(&both.wanted) >= number(&both.now));
    let ordered = if raised { [both, limit] } else { [limit, both] };
    for one in ordered.into_iter().flatten().filter(changes) {
        write(&mut steps, one, &one.wanted);
    }

    for one in seen.found.iter().filter(changes) {
        if !is_memory_limit(one) {
            write(&mut steps, one, &one.wanted);
        }
    }
    steps
}

/// A limit as a number; none at all is the greatest.
fn number(text: &str) -> u64 {
    stats::parse_single(text).unwrap_or(u64::MAX)
}

fn read_number(path: &Path) -> Option<u64> {
    stats::parse_single(&fs::read_to_string(path).ok()?)
}

fn write(file: &Path, value: &str) -> Result<(), ChangeError> {
    let open = File::options().write(true).truncate(true).open(file);
    open.and_then(|mut opened| opened.write_all(not_empty(value).as_bytes()))
        .map_err(|source| failed(file, value, source))
}

/// Without a byte nothing would be written at all.
fn not_empty(value: &str) -> &str {
    if value.is_empty() { "\n" } else { value }
}

fn failed(file: &Path, value: &str, source: io::Error) -> ChangeError {
    let file = file.to_owned();
    if source.kind() == io::ErrorKind::NotFound {
        return ChangeError::Missing { file };
    }
    let value = not_empty(value).to_owned();
    ChangeError::Refused {
        file,
        value,
        source,
    }
}

#[cfg(test)]
mod tests;
