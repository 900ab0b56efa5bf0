//! What the whole machine and the agent itself use, from procfs and statfs.
//!
//! Memory of the agent is that of its process, the launcher and the keepers, shared pages divided by who shares them.
//! The kernel walks page tables for each such figure, so a round reads a few processes in turn and adds up what it
//! knows; keepers are much alike, so those not read yet count as the mean of the others.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use mezzo_api::model::NodeUsage;
use procfs::{Current as _, CurrentSI as _, process::Process};

use crate::{actor::unix_ms, resources::detect};

/// Processes whose memory is read in one round.
const MEMORY_PER_ROUND: usize = 8;

/// Time that work on the machine has waited for something, in microseconds since the boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NodePressure {
    /// For a processor, some of it.
    pub(crate) cpu_some_us: Option<u64>,
    /// For memory: some of it, all of it.
    pub(crate) memory_some_us: Option<u64>,
    pub(crate) memory_full_us: Option<u64>,
    /// For block devices.
    pub(crate) io_some_us: Option<u64>,
    pub(crate) io_full_us: Option<u64>,
}

/// What is remembered from round to round.
pub(crate) struct Machine {
    state_dir: PathBuf,
    /// (when, busy ticks of all processors) of the round before.
    busy: Option<(u64, u64)>,
    /// Launcher and keepers.
    pub(crate) helpers: Vec<u32>,
    /// Bytes by process, as last read.
    memory: HashMap<u32, u64>,
    next: usize,
}

impl Machine {
    pub(crate) fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            busy: None,
            helpers: Vec::new(),
            memory: HashMap::new(),
            next: 0,
        }
    }

    pub(crate) fn sample(&mut self) -> (NodeUsage, NodePressure) {
        let now = unix_ms();
        let memory = procfs::Meminfo::current().ok();
        let disk = detect::disk(&self.state_dir);
        let usage = NodeUsage {
            sampled_at_ms: now,
            cpu_millis: self.cpu_millis(now),
            memory_total_bytes: memory.as_ref().map(|m| m.mem_total),
            memory_used_bytes: memory
                .as_ref()
                .and_then(|m| Some(m.mem_total.saturating_sub(m.mem_available?))),
            disk_total_bytes: disk.map(|(total, _)| total),
            disk_used_bytes: disk.map(|(_, used)| used),
            agent_memory_bytes: self.own_memory(),
            agent_cpu_total_us: own_cpu_us(),
        };
        (usage, pressure())
    }

    /// Busy since the round before; `None` in the first.
    fn cpu_millis(&mut self, now: u64) -> Option<u64> {
        let total = procfs::KernelStats::current().ok()?.total;
        let busy = total.user
            + total.nice
            + total.system
            + total.irq.unwrap_or(0)
            + total.softirq.unwrap_or(0);
        let before = self.busy.replace((now, busy));
        let (then, busy_then) = before?;
        let milliseconds = busy.saturating_sub(busy_then) * 1000 / procfs::ticks_per_second();
        (milliseconds * 1000).checked_div(now.saturating_sub(then))
    }

    /// Reads the next few, forgets who is gone.
    fn own_memory(&mut self) -> Option<u64> {
        let pids: Vec<u32> = std::iter::once(std::process::id())
            .chain(self.helpers.iter().copied())
            .collect();
        let there: HashSet<u32> = pids.iter().copied().collect();
        self.memory.retain(|pid, _| there.contains(pid));
        for _ in 0..MEMORY_PER_ROUND.min(pids.len()) {
            let pid = pids[self.next % pids.len()];
            self.next = (self.next + 1) % pids.len();
            match proportional_memory(pid) {
                Some(bytes) => self.memory.insert(pid, bytes),
                None => self.memory.remove(&pid),
            };
        }
        sum_of(&pids, &self.memory)
    }
}

/// All together; those not read yet as the middle one of the helpers that were, for one of them, the launcher, is many times as
/// large as the others. Pure.
fn sum_of(pids: &[u32], read: &HashMap<u32, u64>) -> Option<u64> {
    let known: u64 = read.values().sum();
    let (helpers, missing) = (pids.get(1..)?, pids.len().saturating_sub(read.len()) as u64);
    let mut of_helpers: Vec<u64> = helpers
        .iter()
        .filter_map(|pid| read.get(pid).copied())
        .collect();
    of_helpers.sort_unstable();
    let middle = of_helpers.get(of_helpers.len().saturating_sub(1) / 2);
    (known > 0).then(|| known + missing * middle.copied().unwrap_or(0))
}

/// A process's share of memory, as the kernel divides shared pages.
fn proportional_memory(pid: u32) -> Option<u64> {
    let pid = i32::try_from(pid).ok()?;
    let rollup = Process::new(pid).ok()?.smaps_rollup().ok()?;
    rollup
        .memory_map_rollup
        .iter()
        .find_map(|map| map.extension.map.get("Pss").copied())
}

fn own_cpu_us() -> Option<u64> {
    let used = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    u64::try_from(std::time::Duration::from(used).as_micros()).ok()
}

fn pressure() -> NodePressure {
    let read =
        |what: &str| std::fs::read_to_string(format!("/proc/pressure/{what}")).unwrap_or_default();
    let (cpu, memory, io) = (read("cpu"), read("memory"), read("io"));
    NodePressure {
        cpu_some_us: total(&cpu, "some"),
        memory_some_us: total(&memory, "some"),
        memory_full_us: total(&memory, "full"),
        io_some_us: total(&io, "some"),
        io_full_us: total(&io, "full"),
    }
}

/// The total of a line of a pressure file. Pure.
fn total(text: &str, kind: &str) -> Option<u64> {
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(kind))?;
    line.rsplit_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_measured() {
        let mut machine = Machine::new("/".into());
        let (first, _) = machine.sample();
        assert_eq!(first.cpu_millis, None, "a rate needs two samples");
        assert!(first.memory_used_bytes < first.memory_total_bytes);
        assert!(
            first
                .agent_memory_bytes
                .is_some_and(|bytes| bytes > 100_000),
            "{first:?}"
        );
        assert!(first.disk_total_bytes.is_some() && first.agent_cpu_total_us.is_some());
    }

    #[test]
    fn helpers_not_read_yet_count_as_most_of_the_others_whatever_the_launcher_takes() {
        let read = HashMap::from([(1, 1000), (2, 9000), (3, 10), (4, 30)]);
        assert_eq!(sum_of(&[1, 2, 3, 4, 5, 6], &read), Some(10_040 + 2 * 30));
        assert_eq!(sum_of(&[1], &HashMap::from([(1, 7)])), Some(7));
        assert_eq!(sum_of(&[1, 2], &HashMap::new()), None);
    }

    #[test]
    fn pressure_is_told_in_totals() {
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 total=7\n";
        assert_eq!(
            (total(text, "some"), total(text, "full")),
            (Some(12), Some(7))
        );
        assert_eq!(total("", "some"), None);
    }
}
