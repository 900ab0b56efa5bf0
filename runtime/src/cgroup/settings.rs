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

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::CgroupMode;
use super::device::DeviceNumber;
use super::stats;
use crate::model::{IoLimit, Limits};

/// The period of the CPU limit in microseconds: the kernel's own default.
pub(crate) const PERIOD_US: u64 = 100_000;

/// What one file is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: &'static str,
    pub(crate) file: &'static str,
    /// For `io.max` and `io.weight`, which hold a line per device: the line, which begins with its key.
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
            weight(limits.cpu_millis_weight).to_string(),
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
        setting(
            "io",
            "io.weight",
            format!("default {}", limits.io_weight.unwrap_or(DEFAULT_IO_WEIGHT)),
            limits.io_weight.is_none(),
        ),
    ];
    for (limit, device) in limits.io_max.iter().zip(devices) {
        settings.push(setting(
            "io",
            "io.max",
            io_line(*device, Some(limit)),
            false,
        ));
    }
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
            shares(limits.cpu_millis_weight).to_string(),
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
    ]
}

fn setting(controller: &'static str, file: &'static str, value: String, optional: bool) -> Setting {
    Setting {
        controller,
        file,
        value,
        optional,
    }
}

/// What the kernel starts with.
const DEFAULT_IO_WEIGHT: u64 = 100;

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

/// Sets the limits of a new version 2 cgroup, which has none yet.
pub(crate) fn set(dir: &Path, settings: &[Setting]) -> Result<(), ChangeError> {
    let there_already = wanted_v2(&Limits::default(), &[]);
    for one in settings {
        let file = dir.join(one.file);
        if one.optional && (there_already.contains(one) || !file.exists()) {
            continue;
        }
        write(&file, &one.value)?;
    }
    Ok(())
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
            if fs::write(&file, &value).is_err() {
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
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) if one.optional => continue,
            Err(_) => return Err(ChangeError::Missing { file: path }),
        };
        let now = if KEYED.contains(&one.file) {
            line_of(&text, &one.value)
        } else {
            text.trim().to_owned()
        };
        seen.found.push(Found {
            file: one.file,
            path,
            now,
            wanted: one.value.clone(),
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
const KEYED: [&str; 2] = ["io.max", "io.weight"];
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
    // Nothing can be made in a cgroup, so for a file that is not there the kernel's answer is "permission denied".
    fs::write(file, value).map_err(|source| {
        if file.exists() {
            ChangeError::Refused {
                file: file.to_owned(),
                value: value.to_owned(),
                source,
            }
        } else {
            ChangeError::Missing {
                file: file.to_owned(),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IoDevice;

    const MIB: u64 = 1 << 20;

    fn fixture(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    /// As the kernel shows a version 2 cgroup without any limit.
    fn fresh() -> tempfile::TempDir {
        fixture(&[
            ("cpu.weight", "100\n"),
            ("cpu.max", "max 100000\n"),
            ("memory.low", "0\n"),
            ("memory.high", "max\n"),
            ("memory.max", "max\n"),
            ("memory.swap.max", "max\n"),
            ("memory.current", "8388608\n"),
            ("pids.max", "max\n"),
            ("io.weight", "default 100\n"),
            ("io.max", ""),
        ])
    }

    fn io_limits() -> Limits {
        Limits {
            io_max: vec![IoLimit {
                device: IoDevice::Path("/data".into()),
                read_bytes_per_sec: None,
                write_bytes_per_sec: Some(4 * MIB),
                reads_per_sec: None,
                writes_per_sec: Some(100),
            }],
            ..Limits::default()
        }
    }

    const DISK: DeviceNumber = DeviceNumber {
        major: 253,
        minor: 16,
    };

    fn apply(
        dir: &Path,
        limits: &Limits,
        mode: CgroupMode,
        devices: &[DeviceNumber],
    ) -> Result<Changed, (ChangeError, Vec<PathBuf>)> {
        let dir = dir.to_owned();
        change(&move |_| Some(dir.clone()), &wanted(limits, mode, devices))
    }

    fn writes(seen: &Seen) -> Vec<String> {
        steps(seen)
            .into_iter()
            .map(|step| match step {
                Step::Write { file, value, .. } => {
                    format!("{}={value}", file.file_name().unwrap().display())
                }
                Step::Fits { bytes, .. } => format!("fits {bytes}"),
            })
            .collect()
    }

    #[test]
    fn weights_are_in_proportion_and_in_the_kernels_range() {
        assert_eq!(
            [0, 1, 20, 500, 1000, 2000, u64::MAX].map(weight),
            [1, 1, 2, 50, 100, 200, 10_000]
        );
    }

    #[test]
    fn shares_stay_in_the_kernels_range() {
        assert_eq!(
            [
                shares(0),
                shares(1),
                shares(1000),
                shares(100),
                shares(u64::MAX)
            ],
            [2, 2, 1024, 102, 262_144]
        );
    }

    #[test]
    fn a_new_cgroup_gets_what_was_asked_for_and_no_more() {
        let limits = Limits {
            cpu_millis_weight: 500,
            cpu_limit_millis: Some(1500),
            memory_bytes: Some(64 * MIB),
            memory_high: Some(32 * MIB),
            memory_low: Some(16 * MIB),
            pids: Some(20),
            io_weight: Some(300),
            ..io_limits()
        };
        let dir = fresh();
        set(dir.path(), &wanted(&limits, CgroupMode::V2, &[DISK])).unwrap();
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            [text("cpu.weight"), text("cpu.max"), text("pids.max")],
            ["50", "150000 100000", "20"]
        );
        assert_eq!(
            ["memory.max", "memory.high", "memory.low", "memory.swap.max"].map(text),
            ["67108864", "33554432", "16777216", "0"]
        );
        assert_eq!(
            [text("io.weight"), text("io.max")],
            [
                "default 300",
                "253:16 rbps=max wbps=4194304 riops=max wiops=100"
            ]
        );
        // Nothing asked for: only the weight.
        let dir = fresh();
        set(dir.path(), &wanted(&Limits::default(), CgroupMode::V2, &[])).unwrap();
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!([text("cpu.weight"), text("memory.max")], ["1", "max\n"]);
    }

    #[test]
    fn a_limit_whose_file_is_missing_is_an_error_and_its_absence_is_none() {
        let dir = fixture(&[("cpu.weight", "100\n")]);
        let none = Limits::default();
        set(dir.path(), &wanted(&none, CgroupMode::V2, &[])).unwrap();
        apply(dir.path(), &none, CgroupMode::V2, &[]).unwrap();
        let (error, stuck) = apply(dir.path(), &io_limits(), CgroupMode::V2, &[DISK]).unwrap_err();
        assert!(
            matches!(&error, ChangeError::Missing { file } if file.ends_with("io.max")),
            "{error:?}"
        );
        assert_eq!(stuck, Vec::<PathBuf>::new());
    }

    #[test]
    fn what_was_changed_can_be_put_back() {
        let dir = fresh();
        let limits = Limits {
            cpu_millis_weight: 2000,
            memory_bytes: Some(64 * MIB),
            pids: Some(5),
            ..io_limits()
        };
        let changed = apply(dir.path(), &limits, CgroupMode::V2, &[DISK]).unwrap();
        let texts = || {
            ["cpu.weight", "memory.max", "pids.max", "io.max"]
                .map(|name| fs::read_to_string(dir.path().join(name)).unwrap())
        };
        let line = "253:16 rbps=max wbps=4194304 riops=max wiops=100";
        assert_eq!(texts(), ["200", "67108864", "5", line]);
        assert_eq!(changed.undo(), Vec::<PathBuf>::new());
        let line = "253:16 rbps=max wbps=max riops=max wiops=max";
        assert_eq!(texts(), ["100", "max", "max", line]);
    }

    #[test]
    fn a_refused_change_puts_the_others_back_and_is_named() {
        let dir = fresh();
        // Readable, and not to be written even by root.
        fs::remove_file(dir.path().join("pids.max")).unwrap();
        std::os::unix::fs::symlink("/proc/version", dir.path().join("pids.max")).unwrap();
        let limits = Limits {
            cpu_millis_weight: 2000,
            memory_bytes: Some(64 * MIB),
            pids: Some(5),
            ..Limits::default()
        };
        let (error, stuck) = apply(dir.path(), &limits, CgroupMode::V2, &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("pids.max does not take \"5\""), "{text}");
        assert_eq!(stuck, Vec::<PathBuf>::new());
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            ["cpu.weight", "memory.max", "memory.swap.max"].map(text),
            ["100", "max", "max"]
        );
    }

    #[test]
    fn less_memory_than_is_in_use_is_refused_and_nothing_changes() {
        let dir = fresh();
        let limits = Limits {
            cpu_millis_weight: 2000,
            memory_bytes: Some(4 * MIB),
            ..Limits::default()
        };
        let (error, stuck) = apply(dir.path(), &limits, CgroupMode::V2, &[]).unwrap_err();
        assert!(
            matches!(error, ChangeError::MemoryInUse { wanted, used } if (wanted, used) == (4 * MIB, 8 * MIB)),
            "{error:?}"
        );
        assert_eq!(stuck, Vec::<PathBuf>::new());
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            ["memory.high", "memory.max", "cpu.weight"].map(|name| text(name).trim().to_owned()),
            ["max", "max", "100"]
        );
    }

    #[test]
    fn memory_is_taken_back_before_its_limit_is_lowered() {
        let dir = fresh();
        let limits = Limits {
            memory_bytes: Some(4 * MIB),
            cpu_millis_weight: 1000,
            ..Limits::default()
        };
        let seen = look(
            &|_| Some(dir.path().to_owned()),
            &wanted(&limits, CgroupMode::V2, &[]),
        )
        .unwrap();
        assert_eq!(
            writes(&seen),
            [
                "memory.high=4194304",
                "fits 4194304",
                "memory.max=4194304",
                "memory.high=max",
                "memory.swap.max=0"
            ]
        );
        // Never by raising what holds it down already.
        fs::write(dir.path().join("memory.high"), "2097152\n").unwrap();
        let seen = look(
            &|_| Some(dir.path().to_owned()),
            &wanted(&limits, CgroupMode::V2, &[]),
        )
        .unwrap();
        assert_eq!(writes(&seen)[..2], ["memory.high=2097152", "fits 4194304"]);
    }

    #[test]
    fn on_version_1_the_limit_stays_below_the_one_that_counts_swap_in() {
        let files = |limit: &str, both: &str| {
            fixture(&[
                ("cpu.shares", "2\n"),
                ("memory.limit_in_bytes", limit),
                ("memory.memsw.limit_in_bytes", both),
                ("memory.usage_in_bytes", "4096\n"),
            ])
        };
        let order = |dir: &tempfile::TempDir, bytes: Option<u64>| {
            let limits = Limits {
                memory_bytes: bytes,
                ..Limits::default()
            };
            let wanted = wanted(&limits, CgroupMode::Hybrid, &[]);
            writes(&look(&|_| Some(dir.path().to_owned()), &wanted).unwrap())
        };
        let dir = files("8388608\n", "8388608\n");
        assert_eq!(
            order(&dir, Some(16 * MIB)),
            [
                "memory.memsw.limit_in_bytes=16777216",
                "memory.limit_in_bytes=16777216"
            ]
        );
        assert_eq!(
            order(&dir, None),
            ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]
        );
        assert_eq!(
            order(&dir, Some(4 * MIB)),
            [
                "memory.limit_in_bytes=4194304",
                "memory.memsw.limit_in_bytes=4194304"
            ]
        );
    }

    #[test]
    fn a_device_that_is_no_longer_named_is_no_longer_limited() {
        let dir = fresh();
        let disk = "253:16 rbps=max wbps=1048576 riops=max wiops=max\n";
        let other = "8:0 rbps=5 wbps=max riops=max wiops=max\n";
        fs::write(dir.path().join("io.max"), format!("{disk}{other}")).unwrap();
        let seen = look(
            &|_| Some(dir.path().to_owned()),
            &wanted(&io_limits(), CgroupMode::V2, &[DISK]),
        )
        .unwrap();
        assert_eq!(
            writes(&seen),
            [
                "cpu.weight=1",
                "io.max=253:16 rbps=max wbps=4194304 riops=max wiops=100",
                "io.max=8:0 rbps=max wbps=max riops=max wiops=max"
            ]
        );
        assert_eq!(
            seen.found
                .iter()
                .filter(|one| one.file == "io.max")
                .map(|one| one.now.as_str())
                .collect::<Vec<_>>(),
            [disk.trim(), other.trim()]
        );
    }
}
