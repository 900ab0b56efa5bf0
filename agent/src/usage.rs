//! Samples: every interval all running tasks from the runtime's kept descriptors, and the machine from procfs.
//!
//! One task of its own; what it reads goes to the owner, which keeps the last samples and reports them to the master.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mezzo_api::model::NodeUsage;
use procfs::{Current as _, CurrentSI as _, process::Process};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    actor::{Command, Handle, unix_ms},
    node::{ContainerState, Runtime},
    resources::detect,
};

/// Rounds between two readings of the agent's own memory: the kernel walks page tables for it.
const OWN_MEMORY_EVERY: u32 = 5;

/// Samples until told to stop.
pub(crate) async fn run(
    handle: Handle,
    runtime: Arc<dyn Runtime>,
    state_dir: PathBuf,
    interval: Duration,
    shutdown: CancellationToken,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sampler = Sampler {
        state_dir,
        busy: None,
        own_memory: None,
        round: 0,
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Ok(targets) = handle.ask(Command::Alive).await else {
            return;
        };
        let mut samples = Vec::with_capacity(targets.len());
        for target in targets {
            // One that ended just now has its final sample in the exit record.
            if let Ok(usage) = runtime.usage(&target.container).await {
                samples.push((target.container, usage));
            }
        }
        let keepers = if sampler.round.is_multiple_of(OWN_MEMORY_EVERY) {
            helpers(&runtime).await
        } else {
            Vec::new()
        };
        let sampled = tokio::task::spawn_blocking(move || {
            let node = sampler.sample(&keepers);
            (sampler, node)
        })
        .await;
        let Ok((back, node)) = sampled else { return };
        sampler = back;
        if handle.send(Command::Usage(node, samples)).await.is_err() {
            return;
        }
    }
}

/// The launcher and the keepers.
async fn helpers(runtime: &Arc<dyn Runtime>) -> Vec<u32> {
    let mut pids: Vec<u32> = runtime.launcher_pid().await.into_iter().collect();
    for container in runtime.list().await.unwrap_or_default() {
        if matches!(container.state, ContainerState::Running(_)) {
            pids.extend(container.keeper_pid);
        }
    }
    pids
}

struct Sampler {
    state_dir: PathBuf,
    /// (when, busy ticks of all processors) of the round before.
    busy: Option<(u64, u64)>,
    own_memory: Option<u64>,
    round: u32,
}

impl Sampler {
    fn sample(&mut self, helpers: &[u32]) -> NodeUsage {
        let now = unix_ms();
        let memory = procfs::Meminfo::current().ok();
        let disk = detect::disk(&self.state_dir);
        if self.round.is_multiple_of(OWN_MEMORY_EVERY) {
            let own = i32::try_from(std::process::id()).ok();
            let pids = own
                .into_iter()
                .chain(helpers.iter().filter_map(|pid| i32::try_from(*pid).ok()));
            self.own_memory = Some(pids.filter_map(proportional_memory).sum());
        }
        self.round = self.round.wrapping_add(1);
        NodeUsage {
            sampled_at_ms: now,
            cpu_millis: self.cpu_millis(now),
            memory_total_bytes: memory.as_ref().map(|m| m.mem_total),
            memory_used_bytes: memory
                .as_ref()
                .and_then(|m| Some(m.mem_total.saturating_sub(m.mem_available?))),
            disk_total_bytes: disk.map(|(total, _)| total),
            disk_used_bytes: disk.map(|(_, used)| used),
            agent_memory_bytes: self.own_memory,
            agent_cpu_total_us: own_cpu_us(),
        }
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
}

/// A process's share of memory, as the kernel divides shared pages.
fn proportional_memory(pid: i32) -> Option<u64> {
    let rollup = Process::new(pid).ok()?.smaps_rollup().ok()?;
    rollup
        .memory_map_rollup
        .iter()
        .find_map(|map| map.extension.map.get("Pss").copied())
}

fn own_cpu_us() -> Option<u64> {
    let stat = Process::myself().ok()?.stat().ok()?;
    Some((stat.utime + stat.stime) * 1_000_000 / procfs::ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_measured() {
        let mut sampler = Sampler {
            state_dir: "/".into(),
            busy: None,
            own_memory: None,
            round: 0,
        };
        let first = sampler.sample(&[]);
        assert_eq!(first.cpu_millis, None, "a rate needs two samples");
        assert!(first.memory_used_bytes < first.memory_total_bytes);
        assert!(
            first
                .agent_memory_bytes
                .is_some_and(|bytes| bytes > 100_000),
            "{first:?}"
        );
        assert!(first.disk_total_bytes.is_some());
    }
}
