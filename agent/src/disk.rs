//! What tasks take on the disk: bounded by the file system where it has project quotas, and measured in any case.
//!
//! A task's trees are its root file system's changes and its sandbox; its logs are a few plain files beside them. What
//! follows from a measurement is decided in `task::disk`. Measuring has a thread of its own that lets everybody else go
//! first and works a quarter of the time at most; everything here but [`run`] blocks. Where all tasks would take more than a few
//! thousandths of a processor, each round measures some of them, in turn.
//!
//! A quota is believed only of a container with users of its own: root with the machine's numbers may take its files out
//! of its project. Others are walked. The keeper writes the logs as the machine's root, so they have no part in the quota.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use mezzo_api::model::TaskInfo;
use mezzo_runtime::disk::{self as trees, Bounds, End, Projects, QuotaError};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    actor::{Command, Handle},
    node::{ContainerId, Images, Runtime, Snapshot, Stream, runtime::chain},
    store::Store,
    task::{
        disk::{Counted, DiskUse, limit},
        event::Event,
    },
    usage::{Worker, turn::Turn},
};

/// A walk works so long, and then rests.
const WORK: Duration = Duration::from_millis(5);
/// So many times as long as it worked.
const REST: u32 = 3;
/// Of a processor, in thousandths: what measuring may cost, but for the first 50 tasks.
const SHARE_PERMILLE: u32 = 3;
/// So many are told together, and after so long at the latest.
const TOLD: (usize, Duration) = (64, Duration::from_secs(1));
/// Files of one log: more are never kept.
const MAX_LOG_FILES: usize = 100;

/// Where tasks keep what they write, and the quotas.
pub(crate) struct Disk {
    store: Store,
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    projects: Option<Projects>,
    /// Whether quotas bound, or only count.
    enforce: bool,
}

impl Disk {
    /// Looks whether the file system of the state folder has project quotas.
    pub(crate) fn open(
        config: &Config,
        store: &Store,
        runtime: &Arc<dyn Runtime>,
        images: &Arc<dyn Images>,
    ) -> Self {
        let projects = match Projects::open(
            &config.state_dir,
            config.disk_project_ids,
            rand::random(),
        ) {
            Ok(projects) => Some(projects),
            Err(error @ QuotaError::Absent { .. }) => {
                tracing::info!(%error, "what tasks take on the disk is measured every disk_interval_ms");
                None
            }
            Err(error @ (QuotaError::Io { .. } | QuotaError::NoId { .. })) => {
                tracing::warn!(
                    error = chain(&error),
                    "no project quotas: what tasks take on the disk is measured"
                );
                None
            }
        };
        Self {
            store: store.clone(),
            runtime: Arc::clone(runtime),
            images: Arc::clone(images),
            projects,
            enforce: config.enforce_disk,
        }
    }

    /// Has the file system count a container that is about to start, and refuse it more than the task holds. Where that
    /// fails it is measured like any other.
    /// Whether [`Disk::bound`] does anything here.
    pub(crate) fn has_quotas(&self) -> bool {
        self.projects.is_some()
    }

    pub(crate) fn bound(&self, id: &ContainerId, info: &TaskInfo, snapshot: &Snapshot) {
        let Some(projects) = &self.projects else {
            return;
        };
        let bytes = if self.enforce {
            limit(info).unwrap_or(0)
        } else {
            0
        };
        let sandbox = self.store.sandbox(id);
        let dirs = [sandbox.as_path(), &snapshot.upper, &snapshot.work];
        if let Err(error) = projects.limit(&dirs, bytes) {
            tracing::warn!(container = %id, error = chain(&error), "no quota for a container: what it takes is measured");
        }
    }

    /// Bounds what the volumes of a group on the disk may take together; they are made and empty. Where that fails they are
    /// measured like any other.
    pub(crate) fn bound_group(&self, holder: &ContainerId, names: &[String], bytes: Option<u64>) {
        let Some(projects) = self.projects.as_ref().filter(|_| !names.is_empty()) else {
            return;
        };
        let bytes = bytes.filter(|_| self.enforce).unwrap_or(0);
        let mut dirs = vec![self.store.group(holder)];
        dirs.extend(
            names
                .iter()
                .map(|name| self.store.group_volume(holder, name)),
        );
        let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        if let Err(error) = projects.limit(&dirs, bytes) {
            tracing::warn!(%holder, error = chain(&error), "no quota for the volumes of a group: what they take is measured");
        }
    }

    /// What a running container takes, or the volumes on the disk of a group that it holds; `None` when it was stopped or
    /// there is nothing to measure.
    pub(crate) fn measure(&self, id: &ContainerId, stop: &CancellationToken) -> Option<DiskUse> {
        let group = self.store.group(id);
        let (sandbox, trees, logs) = if group.is_dir() {
            (group.clone(), vec![group], Vec::new())
        } else {
            let sandbox = self.store.sandbox(id);
            let trees = vec![self.images.changes_dir(id.as_str()), sandbox.clone()];
            (sandbox, trees, self.logs(id))
        };
        let logs = trees::files(logs.iter().map(PathBuf::as_path));
        if let Some(bytes) = self.by_quota(id, &sandbox) {
            return Some(DiskUse {
                bytes: bytes.saturating_add(logs),
                counted: Counted::All,
                beside: logs,
            });
        }
        let mut used = DiskUse {
            bytes: logs,
            counted: Counted::All,
            beside: 0,
        };
        let mut begun = Instant::now();
        let mut go_on = |_| {
            let worked = begun.elapsed();
            if worked >= WORK {
                std::thread::sleep(worked * REST);
                begun = Instant::now();
            }
            !stop.is_cancelled()
        };
        for tree in trees {
            let found = match trees::walk(&tree, Bounds::default(), &mut go_on) {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(container = %id, tree = %tree.display(), %error, "not measured");
                    continue;
                }
            };
            used.bytes = used.bytes.saturating_add(found.bytes);
            match found.end {
                End::Complete => {}
                End::Stopped => return None,
                End::TooMany => used.counted = Counted::TooMany,
                End::TooDeep => used.counted = Counted::TooDeep,
            }
        }
        Some(used)
    }

    fn by_quota(&self, id: &ContainerId, sandbox: &Path) -> Option<u64> {
        let projects = self.projects.as_ref()?;
        let (_, root) = self.runtime.root_dir(id).ok()?;
        if root == 0 {
            return None;
        }
        projects.used(projects.project(sandbox)?).ok()
    }

    /// Takes the bound away before a task's folder goes: its id is for others then.
    pub(crate) fn forget(&self, id: &ContainerId) {
        let Some(projects) = &self.projects else {
            return;
        };
        let of_task = projects.project(&self.store.sandbox(id));
        let project = of_task.or_else(|| projects.project(&self.store.group(id)));
        if let Some(project) = project
            && let Err(error) = projects.forget(project)
        {
            tracing::debug!(container = %id, error = chain(&error), "a quota stays behind");
        }
    }

    /// The files of both logs, those put aside too.
    fn logs(&self, id: &ContainerId) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let newest = self.runtime.log_path(id, stream);
            for n in 1..MAX_LOG_FILES {
                let mut name = newest.clone().into_os_string();
                name.push(format!(".{n}"));
                let aside = PathBuf::from(name);
                if !aside.exists() {
                    break;
                }
                files.push(aside);
            }
            files.push(newest);
        }
        files
    }
}

/// Measures until told to stop: every interval all running containers, one after the other.
pub(crate) async fn run(
    handle: Handle,
    disk: Arc<Disk>,
    interval: Duration,
    shutdown: CancellationToken,
) {
    let worker = match Worker::start("disk") {
        Ok(worker) => worker,
        Err(error) => {
            tracing::error!(%error, "no thread for the disk: what tasks take on it is not measured");
            return;
        }
    };
    worker.run(trees::yield_to_everybody).await;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = Turn::with_share(interval, SHARE_PERMILLE);
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
        let (mut found, mut told, mut cost) = (Vec::new(), Instant::now(), Duration::ZERO);
        let asked = chosen.len();
        for (n, container) in chosen.into_iter().enumerate() {
            let (disk, stop) = (Arc::clone(&disk), shutdown.clone());
            let id = container.clone();
            let used = tokio::select! {
                // The walk ends by itself at its next step.
                () = shutdown.cancelled() => return,
                used = worker.run(move || {
                    let before = worked();
                    (disk.measure(&id, &stop), worked().saturating_sub(before))
                }) => used,
            };
            let Some((used, took)) = used else {
                tracing::error!(
                    "the thread for the disk broke: what tasks take on it is not measured any more"
                );
                return;
            };
            cost += took;
            found.extend(used.map(|used| (container, used)));
            if found.len() < TOLD.0 && told.elapsed() < TOLD.1 && n + 1 < asked {
                continue;
            }
            told = Instant::now();
            let event = Event::Disk(std::mem::take(&mut found));
            if handle.event(event).await.is_err() {
                return;
            }
        }
        turn.learned(asked, cost);
    }
}

/// Processor time of this thread so far.
fn worked() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(Duration::ZERO, Duration::from)
}
