//! A container's usage from the kernel's own files, through descriptors opened once and kept: a sample is a few
//! `pread`s, and it still works in the moment when the cgroup's directory is being removed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::{CgroupMode, Hierarchies, stats};
use crate::layout::StartCost;
use crate::model::Usage;

/// The kept descriptors of one cgroup.
#[derive(Debug)]
pub(crate) struct UsageReader {
    mode: CgroupMode,
    start_cost: Option<StartCost>,
    files: Vec<(&'static str, File)>,
    /// Where the pressure files are, on version 2. They are opened for each sample: three more descriptors kept per
    /// container would bring the agent to its limit of open files a third earlier.
    pressure: Option<PathBuf>,
}

/// Controller and file, on version 2.
const V2_FILES: &[(&str, &str)] = &[
    ("cpu", "cpu.stat"),
    ("memory", "memory.current"),
    ("memory", "memory.peak"),
    ("memory", "memory.stat"),
    ("memory", "memory.events"),
    ("pids", "pids.current"),
    ("io", "io.stat"),
];

/// Controller and file, on version 1.
const V1_FILES: &[(&str, &str)] = &[
    ("cpuacct", "cpuacct.usage"),
    ("cpuacct", "cpuacct.usage_user"),
    ("cpuacct", "cpuacct.usage_sys"),
    ("cpu", "cpu.stat"),
    ("memory", "memory.usage_in_bytes"),
    ("memory", "memory.max_usage_in_bytes"),
    ("memory", "memory.kmem.usage_in_bytes"),
    ("memory", "memory.stat"),
    ("memory", "memory.oom_control"),
    ("pids", "pids.current"),
    ("blkio", "blkio.throttle.io_service_bytes_recursive"),
];

impl UsageReader {
    /// Opens what there is; a missing file means a value that is not told.
    pub(crate) fn open(
        hierarchies: &Hierarchies,
        cgroup: &str,
        start_cost: Option<StartCost>,
    ) -> Self {
        let wanted = match hierarchies.mode {
            CgroupMode::V2 => V2_FILES,
            CgroupMode::V1 | CgroupMode::Hybrid => V1_FILES,
        };
        let files = wanted
            .iter()
            .filter_map(|(controller, name)| {
                let path = hierarchies.controller_dir(controller, cgroup)?.join(name);
                Some((*name, File::open(path).ok()?))
            })
            .collect();
        Self {
            mode: hierarchies.mode,
            start_cost,
            files,
            pressure: (hierarchies.mode == CgroupMode::V2)
                .then(|| hierarchies.unified_dir(cgroup))
                .flatten(),
        }
    }

    /// Takes a sample.
    pub(crate) fn read(&self, now_ms: u64) -> Usage {
        let text = |name: &str| self.text(name);
        let usage = match self.mode {
            CgroupMode::V2 => usage_v2(now_ms, &text),
            CgroupMode::V1 | CgroupMode::Hybrid => usage_v1(now_ms, &text),
        };
        Usage {
            cpu_start_us: self.start_cost.map(|cost| cost.total_us),
            cpu_start_own_us: self.start_cost.map(|cost| cost.own_us),
            ..usage
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        if name.ends_with(".pressure") {
            return std::fs::read_to_string(self.pressure.as_ref()?.join(name)).ok();
        }
        let (_, file) = self.files.iter().find(|(known, _)| *known == name)?;
        let mut buffer = vec![0_u8; 8192];
        let mut length = 0;
        loop {
            match file.read_at(&mut buffer[length..], length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // ENODEV: the cgroup is gone, and with it the answer.
                Err(_) => return None,
            }
            if length == buffer.len() {
                if length >= 1 << 20 {
                    break;
                }
                buffer.resize(length * 2, 0);
            }
        }
        buffer.truncate(length);
        String::from_utf8(buffer).ok()
    }
}

/// What making a container has cost, asked while its first process waits for the word to go. `None` where one of
/// the two clocks cannot be read.
pub(crate) fn start_cost(
    hierarchies: &Hierarchies,
    cgroup: &str,
    first_process: i32,
) -> Option<StartCost> {
    let text = |controller: &str, file: &str| {
        let dir = hierarchies.controller_dir(controller, cgroup)?;
        std::fs::read_to_string(dir.join(file)).ok()
    };
    let total_us = match hierarchies.mode {
        CgroupMode::V2 => stats::parse_keyed(&text("cpu", "cpu.stat")?, "usage_usec")?,
        CgroupMode::V1 | CgroupMode::Hybrid => {
            stats::parse_single(&text("cpuacct", "cpuacct.usage")?)? / 1000
        }
    };
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(first_process)).ok()?;
    let used = std::time::Duration::from(nix::time::clock_gettime(clock).ok()?);
    Some(StartCost {
        total_us,
        own_us: u64::try_from(used.as_micros()).ok()?,
    })
}

/// Pure: a sample from the texts of version 2 files.
fn usage_v2(now_ms: u64, text: &dyn Fn(&str) -> Option<String>) -> Usage {
    let single = |file: &str| stats::parse_single(&text(file)?);
    let pressure = |file: &str| stats::parse_pressure(&text(file)?);
    let events = text("memory.events").unwrap_or_default();
    let cpu = text("cpu.stat").unwrap_or_default();
    let memory = text("memory.stat").unwrap_or_default();
    let io = text("io.stat").map(|text| stats::parse_io_stat(&text));
    Usage {
        sampled_at_ms: now_ms,
        cpu_total_us: stats::parse_keyed(&cpu, "usage_usec").unwrap_or(0),
        cpu_start_us: None,
        cpu_start_own_us: None,
        cpu_user_us: stats::parse_keyed(&cpu, "user_usec"),
        cpu_system_us: stats::parse_keyed(&cpu, "system_usec"),
        memory_bytes: single("memory.current"),
        memory_peak_bytes: single("memory.peak"),
        memory_anon_bytes: stats::parse_keyed(&memory, "anon"),
        memory_file_bytes: stats::parse_keyed(&memory, "file"),
        memory_inactive_file_bytes: stats::parse_keyed(&memory, "inactive_file"),
        memory_kernel_bytes: stats::parse_keyed(&memory, "kernel"),
        memory_sock_bytes: stats::parse_keyed(&memory, "sock"),
        pids: single("pids.current"),
        oom_kills: stats::parse_keyed(&events, "oom_kill"),
        throttled_us: stats::parse_keyed(&cpu, "throttled_usec"),
        cpu_periods: stats::parse_keyed(&cpu, "nr_periods"),
        cpu_throttled_periods: stats::parse_keyed(&cpu, "nr_throttled"),
        memory_high_events: stats::parse_keyed(&events, "high"),
        memory_max_events: stats::parse_keyed(&events, "max"),
        memory_oom_events: stats::parse_keyed(&events, "oom"),
        cpu_pressure: pressure("cpu.pressure"),
        memory_pressure: pressure("memory.pressure"),
        io_pressure: pressure("io.pressure"),
        io_read_bytes: io.map(|(read, _)| read),
        io_write_bytes: io.map(|(_, written)| written),
    }
}

/// Pure: a sample from the texts of version 1 files.
fn usage_v1(now_ms: u64, text: &dyn Fn(&str) -> Option<String>) -> Usage {
    let keyed = |file: &str, key: &str| stats::parse_keyed(&text(file)?, key);
    let single = |file: &str| stats::parse_single(&text(file)?);
    let micros = |file: &str| single(file).map(|nanos| nanos / 1000);
    let memory = text("memory.stat").unwrap_or_default();
    let io = text("blkio.throttle.io_service_bytes_recursive")
        .and_then(|text| stats::parse_blkio(&text));
    Usage {
        sampled_at_ms: now_ms,
        cpu_total_us: micros("cpuacct.usage").unwrap_or(0),
        cpu_user_us: micros("cpuacct.usage_user"),
        cpu_system_us: micros("cpuacct.usage_sys"),
        memory_bytes: single("memory.usage_in_bytes"),
        memory_peak_bytes: single("memory.max_usage_in_bytes"),
        memory_anon_bytes: stats::parse_keyed(&memory, "total_rss"),
        memory_file_bytes: stats::parse_keyed(&memory, "total_cache"),
        memory_inactive_file_bytes: stats::parse_keyed(&memory, "total_inactive_file"),
        memory_kernel_bytes: single("memory.kmem.usage_in_bytes"),
        pids: single("pids.current"),
        oom_kills: keyed("memory.oom_control", "oom_kill"),
        throttled_us: keyed("cpu.stat", "throttled_time").map(|nanos| nanos / 1000),
        cpu_periods: keyed("cpu.stat", "nr_periods"),
        cpu_throttled_periods: keyed("cpu.stat", "nr_throttled"),
        io_read_bytes: io.map(|(read, _)| read),
        io_write_bytes: io.map(|(_, written)| written),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pressure;

    fn from(files: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| {
            files
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, text)| (*text).to_owned())
        }
    }

    #[test]
    fn version_2_files_become_a_sample() {
        let usage = usage_v2(
            5,
            &from(&[
                (
                    "cpu.stat",
                    "usage_usec 300\nuser_usec 100\nsystem_usec 200\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
                ),
                ("memory.current", "4096\n"),
                (
                    "memory.stat",
                    "anon 1024\nfile 2048\nkernel 512\nsock 0\ninactive_file 1000\n",
                ),
                (
                    "memory.events",
                    "low 0\nhigh 8\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n",
                ),
                ("pids.current", "3\n"),
                (
                    "cpu.pressure",
                    "some avg10=0.00 total=5\nfull avg10=0.00 total=4\n",
                ),
            ]),
        );
        assert_eq!(
            (usage.cpu_total_us, usage.cpu_user_us, usage.throttled_us),
            (300, Some(100), Some(7))
        );
        assert_eq!(
            (usage.memory_anon_bytes, usage.memory_sock_bytes),
            (Some(1024), Some(0))
        );
        assert_eq!(usage.memory_working_set_bytes(), Some(3096));
        assert_eq!((usage.oom_kills, usage.pids), (Some(1), Some(3)));
        assert_eq!(
            (usage.cpu_periods, usage.cpu_throttled_periods),
            (Some(4), Some(2))
        );
        assert_eq!(
            [
                usage.memory_high_events,
                usage.memory_max_events,
                usage.memory_oom_events
            ],
            [Some(8), Some(9), Some(2)]
        );
        let pressure = Pressure {
            some_us: 5,
            full_us: Some(4),
        };
        assert_eq!(
            (usage.cpu_pressure, usage.memory_pressure),
            (Some(pressure), None)
        );
        // No memory.peak before Linux 5.19, no io controller: not told, not zero.
        assert_eq!((usage.memory_peak_bytes, usage.io_read_bytes), (None, None));
    }

    #[test]
    fn version_1_files_become_a_sample() {
        let usage = usage_v1(
            5,
            &from(&[
                ("cpuacct.usage", "3000000\n"),
                (
                    "cpu.stat",
                    "nr_periods 0\nnr_throttled 0\nthrottled_time 9000\n",
                ),
                ("memory.usage_in_bytes", "4096\n"),
                ("memory.max_usage_in_bytes", "8192\n"),
                (
                    "memory.stat",
                    "cache 1\nrss 2\ntotal_cache 10\ntotal_rss 20\n",
                ),
                (
                    "memory.oom_control",
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
                ),
            ]),
        );
        assert_eq!(
            (usage.cpu_total_us, usage.cpu_user_us, usage.throttled_us),
            (3000, None, Some(9))
        );
        assert_eq!(
            (usage.memory_peak_bytes, usage.memory_anon_bytes),
            (Some(8192), Some(20))
        );
        assert_eq!(
            (usage.oom_kills, usage.pids, usage.memory_sock_bytes),
            (Some(2), None, None)
        );
        // What only version 2 tells is absent.
        assert_eq!(
            (
                usage.cpu_periods,
                usage.memory_high_events,
                usage.cpu_pressure
            ),
            (Some(0), None, None)
        );
    }
}
