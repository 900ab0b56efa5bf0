//! A container's usage from the kernel's own files, through descriptors opened once and kept: a sample is a few
//! `pread`s, and it still works in the moment when the cgroup's directory is being removed.

use std::fs::File;
use std::path::PathBuf;

use super::{CgroupMode, Hierarchies, stats};
use crate::layout::StartCost;
use crate::model::Usage;
use crate::stats_file;
use crate::traffic::TrafficReader;

/// The kept descriptors of one container.
#[derive(Debug)]
pub(crate) struct UsageReader {
    mode: CgroupMode,
    start_cost: Option<StartCost>,
    files: Vec<(&'static str, File)>,
    /// Where the pressure files are, on version 2. They are opened for each sample: three more descriptors kept per
    /// container would bring the agent to its limit of open files a third earlier.
    pressure: Option<PathBuf>,
    /// Of a container with a network of its own.
    traffic: Option<TrafficReader>,
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
    ("blkio", "blkio.throttle.io_serviced_recursive"),
];

impl UsageReader {
    /// Opens what there is; a missing file means a value that is not told.
    pub(crate) fn open(
        hierarchies: &Hierarchies,
        cgroup: &str,
        start_cost: Option<StartCost>,
        traffic: Option<TrafficReader>,
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
            traffic,
        }
    }

    /// Takes a sample. The buffer is for the texts; who takes many samples uses it again.
    pub(crate) fn read(&self, now_ms: u64, buffer: &mut Vec<u8>) -> Usage {
        let traffic = self
            .traffic
            .as_ref()
            .and_then(|traffic| traffic.read(buffer));
        let mut usage = Usage {
            sampled_at_ms: now_ms,
            cpu_start_us: self.start_cost.map(|cost| cost.total_us),
            cpu_start_own_us: self.start_cost.map(|cost| cost.own_us),
            traffic,
            ..Usage::default()
        };
        let take = match self.mode {
            CgroupMode::V2 => take_v2,
            CgroupMode::V1 | CgroupMode::Hybrid => take_v1,
        };
        for (name, file) in &self.files {
            if let Some(text) = stats_file::read(file, buffer) {
                take(&mut usage, name, text);
            }
        }
        if let Some(dir) = &self.pressure {
            for name in ["cpu.pressure", "memory.pressure", "io.pressure"] {
                if let Ok(file) = File::open(dir.join(name))
                    && let Some(text) = stats_file::read(&file, buffer)
                {
                    take_v2(&mut usage, name, text);
                }
            }
        }
        usage
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

/// Pure: takes from the text of a version 2 file what a sample tells.
fn take_v2(usage: &mut Usage, file: &str, text: &str) {
    match file {
        "cpu.stat" => {
            for (key, value) in stats::pairs(text) {
                match key {
                    "usage_usec" => usage.cpu_total_us = value,
                    "user_usec" => usage.cpu_user_us = Some(value),
                    "system_usec" => usage.cpu_system_us = Some(value),
                    "nr_periods" => usage.cpu_periods = Some(value),
                    "nr_throttled" => usage.cpu_throttled_periods = Some(value),
                    "throttled_usec" => usage.throttled_us = Some(value),
                    _ => {}
                }
            }
        }
        "memory.current" => usage.memory_bytes = stats::parse_single(text),
        "memory.peak" => usage.memory_peak_bytes = stats::parse_single(text),
        "memory.stat" => {
            for (key, value) in stats::pairs(text) {
                match key {
                    "anon" => usage.memory_anon_bytes = Some(value),
                    "file" => usage.memory_file_bytes = Some(value),
                    "inactive_file" => usage.memory_inactive_file_bytes = Some(value),
                    "kernel" => usage.memory_kernel_bytes = Some(value),
                    "sock" => usage.memory_sock_bytes = Some(value),
                    _ => {}
                }
            }
        }
        "memory.events" => {
            for (key, value) in stats::pairs(text) {
                match key {
                    "high" => usage.memory_high_events = Some(value),
                    "max" => usage.memory_max_events = Some(value),
                    "oom" => usage.memory_oom_events = Some(value),
                    "oom_kill" => usage.oom_kills = Some(value),
                    _ => {}
                }
            }
        }
        "pids.current" => usage.pids = stats::parse_single(text),
        "io.stat" => {
            let io = stats::parse_io_stat(text);
            usage.io_read_bytes = Some(io.read_bytes);
            usage.io_write_bytes = Some(io.write_bytes);
            usage.io_read_ops = Some(io.read_ops);
            usage.io_write_ops = Some(io.write_ops);
        }
        "cpu.pressure" => usage.cpu_pressure = stats::parse_pressure(text),
        "memory.pressure" => usage.memory_pressure = stats::parse_pressure(text),
        "io.pressure" => usage.io_pressure = stats::parse_pressure(text),
        _ => {}
    }
}

/// Pure: takes from the text of a version 1 file what a sample tells.
fn take_v1(usage: &mut Usage, file: &str, text: &str) {
    let micros = || stats::parse_single(text).map(|nanos| nanos / 1000);
    match file {
        "cpuacct.usage" => usage.cpu_total_us = micros().unwrap_or(0),
        "cpuacct.usage_user" => usage.cpu_user_us = micros(),
        "cpuacct.usage_sys" => usage.cpu_system_us = micros(),
        "cpu.stat" => {
            for (key, value) in stats::pairs(text) {
                match key {
                    "nr_periods" => usage.cpu_periods = Some(value),
                    "nr_throttled" => usage.cpu_throttled_periods = Some(value),
                    "throttled_time" => usage.throttled_us = Some(value / 1000),
                    _ => {}
                }
            }
        }
        "memory.usage_in_bytes" => usage.memory_bytes = stats::parse_single(text),
        "memory.max_usage_in_bytes" => usage.memory_peak_bytes = stats::parse_single(text),
        "memory.kmem.usage_in_bytes" => usage.memory_kernel_bytes = stats::parse_single(text),
        "memory.stat" => {
            for (key, value) in stats::pairs(text) {
                match key {
                    "total_rss" => usage.memory_anon_bytes = Some(value),
                    "total_cache" => usage.memory_file_bytes = Some(value),
                    "total_inactive_file" => usage.memory_inactive_file_bytes = Some(value),
                    _ => {}
                }
            }
        }
        "memory.oom_control" => usage.oom_kills = stats::parse_keyed(text, "oom_kill"),
        "pids.current" => usage.pids = stats::parse_single(text),
        "blkio.throttle.io_service_bytes_recursive" => {
            let io = stats::parse_blkio(text);
            usage.io_read_bytes = io.map(|(read, _)| read);
            usage.io_write_bytes = io.map(|(_, written)| written);
        }
        "blkio.throttle.io_serviced_recursive" => {
            let io = stats::parse_blkio(text);
            usage.io_read_ops = io.map(|(read, _)| read);
            usage.io_write_ops = io.map(|(_, written)| written);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pressure;

    fn sample(take: fn(&mut Usage, &str, &str), files: &[(&str, &str)]) -> Usage {
        let mut usage = Usage::default();
        for (name, text) in files {
            take(&mut usage, name, text);
        }
        usage
    }

    #[test]
    fn version_2_files_become_a_sample() {
        let usage = sample(
            take_v2,
            &[
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
            ],
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
        let usage = sample(
            take_v1,
            &[
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
            ],
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
