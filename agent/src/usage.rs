//! Samples: every interval running tasks from the runtime's kept descriptors, and the machine from procfs (`machine`).
//!
//! One task of its own with one thread for all that blocks: not from the pool, in which a thousand launches wait for
//! their disk. What it reads goes to the owner, which keeps the last samples and reports them to the master.
//!
//! It stays cheap however much runs: a round may take a share of one processor, and where the tasks of a machine need
//! more than that, each round samples a part of them in turn (`turn`, pure). Rates are reckoned between two samples of
//! the same task, whenever they came.

mod machine;
pub(crate) mod turn;

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use mezzo_api::model::{NodeUsage, Usage};

use tokio::{sync::oneshot, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    actor::{Command, Handle, unix_ms},
    node::{ContainerId, ContainerState, Runtime},
    usage::{machine::Machine, turn::Turn},
};
pub(crate) use machine::NodePressure;

/// Rounds between two lists of the keepers.
const LIST_EVERY: u32 = 5;

/// What one round has found.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) node: NodeUsage,
    pub(crate) pressure: NodePressure,
    pub(crate) samples: Vec<(ContainerId, Usage)>,
    /// The end of the round: monotonic and Unix milliseconds.
    ended: (u64, u64),
}

impl Round {
    /// The end of the round, in monotonic milliseconds.
    pub(crate) fn ended_ms(&self) -> u64 {
        self.ended.0
    }

    /// When a sample of this round was taken, in monotonic milliseconds: a clock that is set does not change rates.
    pub(crate) fn taken_ms(&self, usage: &Usage) -> u64 {
        let (mono, unix) = self.ended;
        mono.saturating_sub(unix.saturating_sub(usage.sampled_at_ms))
    }
}

/// Samples until told to stop.
pub(crate) async fn run(
    handle: Handle,
    runtime: Arc<dyn Runtime>,
    state_dir: PathBuf,
    interval: Duration,
    shutdown: CancellationToken,
) {
    let worker = match Worker::start("samples") {
        Ok(worker) => worker,
        Err(error) => {
            tracing::error!(%error, "no thread for samples: usage is not measured");
            return;
        }
    };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut machine = Machine::new(state_dir);
    let mut turn = Turn::new(interval);
    let mut round = 0_u32;
    let begun = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Ok(targets) = handle.ask(Command::Alive).await else {
            return;
        };
        let Ok(holders) = handle.ask(Command::Holders).await else {
            return;
        };
        let tasks = targets.into_iter().map(|target| target.container);
        let chosen = turn.choose(tasks.chain(holders));
        if round.is_multiple_of(LIST_EVERY) {
            machine.helpers = helpers(&runtime).await;
        }
        round = round.wrapping_add(1);
        let from = Arc::clone(&runtime);
        let sampled = worker
            .run(move || {
                let (samples, took) = from.sample(&chosen);
                let mono = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                let ended = (mono, unix_ms());
                let (node, pressure) = machine.sample();
                let round = Round {
                    node,
                    pressure,
                    samples,
                    ended,
                };
                (machine, round, took, chosen.len())
            })
            .await;
        let Some((back, found, took, asked)) = sampled else {
            tracing::error!("the thread for samples broke: usage is not measured any more");
            return;
        };
        machine = back;
        turn.learned(asked, took);
        if handle.send(Command::Usage(Box::new(found))).await.is_err() {
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

type Job = Box<dyn FnOnce() + Send>;

/// One thread that does one thing after the other; it ends with this.
pub(crate) struct Worker(mpsc::SyncSender<Job>);

impl Worker {
    pub(crate) fn start(name: &str) -> std::io::Result<Self> {
        let (sender, jobs) = mpsc::sync_channel::<Job>(1);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                for job in jobs {
                    job();
                }
            })?;
        Ok(Self(sender))
    }

    /// What the job gives; `None` if it broke.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (told, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            let _ = told.send(job());
        });
        // Never full: one job at a time is waited for.
        self.0.try_send(job).ok()?;
        result.await.ok()
    }
}
