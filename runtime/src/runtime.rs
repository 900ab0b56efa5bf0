//! The runtime: an asynchronous handle on the containers of one state directory. It starts them through the
//! launcher, finds them again when it is opened, and never holds anything that its loss would lose.
//!
//! The public calls are here; opening, starting, stopping, updating and executing are a file each below. What is known of
//! one container is in `supervise`, the decision about what a directory found at start-up means in `recovery`.

mod exec;
mod group;
mod network;
mod open;
mod start;
mod stop;
mod update;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::apparmor;
use crate::cgroup::Hierarchies;
use crate::container;
use crate::error::{Error, ExecError, OpenError, StartError, UpdateError};
use crate::id::ContainerId;
use crate::layout::{Layout, RECORD_VERSION, SpecRecord};
use crate::link::LauncherLink;
use crate::model::{
    ContainerSpec, ContainerStatus, ExecSpec, ExitRecord, Limits, RuntimeConfig, Started, Stream,
    Usage,
};
use crate::network::Networks;
use crate::process;
use crate::protocol::ExecRequest;
use crate::purge::{self, PurgeError};
use crate::session::ExecSession;
use crate::spec::grant;
use crate::spec::validate::{self, BadSpec};
use crate::supervise::{Entry, EntryState};
use crate::terminal::input::TerminalInput;
use crate::users::{RangePool, UserNamespace, UserRange};

/// How long a killed container may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);

/// A handle on the containers of one state directory; clones mean the same one.
///
/// Dropping the last clone leaves every container running: a later runtime finds them again.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RuntimeConfig,
    layout: Layout,
    hierarchies: Arc<Hierarchies>,
    boot_id: String,
    link: LauncherLink,
    networks: Arc<Networks>,
    starts: Semaphore,
    containers: Mutex<BTreeMap<ContainerId, Arc<Entry>>>,
    users: Mutex<RangePool>,
    /// Under which AppArmor profile containers are that do not say.
    apparmor: Option<String>,
    /// Why containers cannot have users of their own here, if they cannot.
    own_users: Result<(), String>,
    closed: AtomicBool,
    /// Held for as long as this runtime lives.
    _lock: fs::File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for entry in self.containers().values() {
            entry.abandon();
        }
    }
}

impl Inner {
    fn containers(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Arc<Entry>>> {
        // The map is changed by single calls, so a panic elsewhere cannot have left it half changed.
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, id: &ContainerId) -> Result<Arc<Entry>, Error> {
        self.containers()
            .get(id)
            .cloned()
            .ok_or_else(|| Error::NotFound { id: id.clone() })
    }

    fn users(&self) -> MutexGuard<'_, RangePool> {
        // Changed by single calls, as the map above.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an entry out of the list of containers, and gives back what it had to itself.
    fn forget(&self, entry: &Entry) {
        if self.containers().remove(&entry.id).is_some()
            && let Some(range) = entry.user_range
            && !entry.is_member()
        {
            self.users().give_back(range);
        }
    }

    /// The user numbers of a new container.
    fn user_range(&self, spec: &ContainerSpec) -> Result<Option<UserRange>, BadSpec> {
        let refused = |problem: String| BadSpec {
            field: "user_namespace".to_owned(),
            problem,
        };
        match spec.user_namespace {
            UserNamespace::Host => Ok(None),
            UserNamespace::Own => {
                self.own_users.clone().map_err(refused)?;
                let taken = self.users().take();
                let all_taken = || {
                    let n = self.config.user_ranges.n;
                    refused(format!(
                        "all {n} ranges of users are taken; give more of them"
                    ))
                };
                taken.map(Some).ok_or_else(all_taken)
            }
        }
    }

    fn cgroup_root(&self) -> &str {
        self.config.cgroup_parent.trim_end_matches('/')
    }
}

impl Runtime {
    /// Opens a state directory, makes it if need be, and finds the containers that are in it: running ones are
    /// watched again, ended ones have their exit records, interrupted ones are cleaned up and recorded as such.
    pub async fn open(config: RuntimeConfig) -> Result<Self, OpenError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(OpenError::NotRoot);
        }
        open::check_config(&config)?;
        let opening = tokio::task::spawn_blocking(move || open::open_blocking(config));
        let inner = opening
            .await
            .map_err(|error| OpenError::Launcher(io::Error::other(error)))??;
        let runtime = Self {
            inner: Arc::new(inner),
        };
        runtime
            .inner
            .link
            .ensure()
            .await
            .map_err(OpenError::Launcher)?;
        runtime.recover().await?;
        Ok(runtime)
    }

    /// Starts a container. When this returns, its program has been executed; when it fails, nothing of it is left
    /// (except that an existing container of the same id is untouched). The start goes on if the caller stops
    /// waiting.
    pub async fn start(
        &self,
        id: &ContainerId,
        mut spec: ContainerSpec,
    ) -> Result<Started, StartError> {
        let containers = format!("{}/containers", self.inner.cgroup_root());
        let hierarchies = &self.inner.hierarchies;
        let host = container::host_limits(hierarchies, &containers, &spec.limits);
        validate::check(&spec)
            .and_then(|()| validate::check_host(&spec.limits, &host))
            .and_then(|()| grant::check(&spec, grant::permitted()))
            .and_then(|()| apparmor::confine(&mut spec, self.inner.apparmor.as_deref()))
            .map_err(|problem| StartError::BadSpec {
                id: id.clone(),
                problem,
            })?;
        let place = group::place(&self.inner, id, &spec).map_err(|problem| {
            let id = id.clone();
            StartError::BadSpec { id, problem }
        })?;
        let user_range = place.user_range;
        let record = SpecRecord {
            version: RECORD_VERSION,
            id: id.clone(),
            boot_id: self.inner.boot_id.clone(),
            created_at_ms: process::now_ms(),
            cgroup: place.cgroup,
            user_range,
            spec,
        };
        let entry = Arc::new(
            Entry::new(
                &record,
                self.inner.layout.container(id),
                &self.inner.networks,
            )
            .with_holder(place.holder),
        );
        {
            let mut containers = self.inner.containers();
            let refused = if self.inner.closed.load(Ordering::Acquire) {
                Some(StartError::Closed { id: id.clone() })
            } else if containers.contains_key(id) {
                Some(StartError::AlreadyExists { id: id.clone() })
            } else {
                None
            };
            if let Some(refused) = refused {
                if let Some(range) = user_range.filter(|_| !entry.is_member()) {
                    self.inner.users().give_back(range);
                }
                return Err(refused);
            }
            containers.insert(id.clone(), Arc::clone(&entry));
        }
        let inner = Arc::clone(&self.inner);
        // Its own task: a caller that is cancelled must not leave a start half done.
        let starting = tokio::spawn(async move {
            let result = start::start_entry(&inner, &entry, record).await;
            if result.is_err() {
                inner.forget(&entry);
                entry.state.send_replace(EntryState::Gone);
            }
            result
        });
        starting.await.unwrap_or_else(|error| {
            Err(StartError::Internal {
                id: id.clone(),
                reason: error.to_string(),
            })
        })
    }

    /// Whether containers can have users of their own here; if not, why.
    pub fn user_namespaces(&self) -> Result<(), &str> {
        match &self.inner.own_users {
            Ok(()) => Ok(()),
            Err(reason) => Err(reason),
        }
    }

    /// Every container, running or ended, by id.
    #[expect(
        clippy::unused_async,
        reason = "part of an asynchronous interface whose answers may come from elsewhere"
    )]
    pub async fn list(&self) -> Result<Vec<ContainerStatus>, Error> {
        Ok(self
            .inner
            .containers()
            .values()
            .filter_map(|entry| entry.status())
            .collect())
    }

    /// One container; `None` if there is none of this id.
    #[expect(
        clippy::unused_async,
        reason = "part of an asynchronous interface whose answers may come from elsewhere"
    )]
    pub async fn status(&self, id: &ContainerId) -> Result<Option<ContainerStatus>, Error> {
        Ok(self
            .inner
            .containers()
            .get(id)
            .and_then(|entry| entry.status()))
    }

    /// Waits for a container's end. The record is on disk when this returns, and the container's processes and
    /// cgroup are gone.
    pub async fn wait(&self, id: &ContainerId) -> Result<ExitRecord, Error> {
        let entry = self.inner.entry(id)?;
        wait_entry(&entry).await
    }

    /// Sends a signal to a container's first process.
    #[expect(
        clippy::unused_async,
        reason = "part of an asynchronous interface whose answers may come from elsewhere"
    )]
    pub async fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Error> {
        if !(1..=64).contains(&signal) {
            return Err(Error::BadSignal { signal });
        }
        let entry = self.inner.entry(id)?;
        stop::send_signal(&entry, signal)
    }

    /// Asks a container to stop, waits for at most `grace`, then kills all of it. Idempotent: an ended container
    /// gives its record again.
    ///
    /// A first process without a handler for the signal never sees it (the kernel withholds default actions from
    /// the first process of a pid namespace). Then the others in the container that have a handler get it, as
    /// under a shell; if there are none, nothing could come of waiting and all are killed at once.
    pub async fn stop(
        &self,
        id: &ContainerId,
        grace: Duration,
        stop_signal: i32,
    ) -> Result<ExitRecord, Error> {
        if !(1..=64).contains(&stop_signal) {
            return Err(Error::BadSignal {
                signal: stop_signal,
            });
        }
        let entry = self.inner.entry(id)?;
        stop::stop(&self.inner, &entry, grace, stop_signal).await
    }

    /// A sample of what a container uses now; after its end, the last sample.
    #[expect(
        clippy::unused_async,
        reason = "part of an asynchronous interface whose answers may come from elsewhere"
    )]
    pub async fn usage(&self, id: &ContainerId) -> Result<Usage, Error> {
        let entry = self.inner.entry(id)?;
        if let EntryState::Exited(record) = &*entry.state.borrow() {
            return Ok(record.usage.clone());
        }
        entry
            .sample(&self.inner.hierarchies, &mut Vec::new())
            .ok_or_else(|| Error::NotRunning { id: id.clone() })
    }

    /// Samples of many running containers at once, and the CPU time that they took; those that are not running are left
    /// out. It reads some ten files for each without a pause: call it on a thread that may block.
    #[must_use]
    pub fn usage_of(&self, ids: &[ContainerId]) -> (Vec<(ContainerId, Usage)>, Duration) {
        let entries: Vec<_> = {
            let containers = self.inner.containers();
            ids.iter()
                .filter_map(|id| containers.get(id).cloned())
                .collect()
        };
        let clock = || {
            nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
                .map_or(Duration::ZERO, Duration::from)
        };
        let begun = clock();
        let mut buffer = Vec::new();
        let mut samples = Vec::with_capacity(entries.len());
        for entry in entries {
            if let Some(usage) = entry.sample(&self.inner.hierarchies, &mut buffer) {
                samples.push((entry.id.clone(), usage));
            }
        }
        (samples, clock().saturating_sub(begun))
    }

    /// The container's root, as the host numbers users.
    pub fn root_user(&self, id: &ContainerId) -> Result<u32, Error> {
        Ok(self.inner.entry(id)?.user_range.map_or(0, UserRange::root))
    }

    /// The root directory of a running container as its first process sees it, for `copy`. The descriptor keeps the
    /// container's mounts for as long as it is open.
    pub fn root_dir(&self, id: &ContainerId) -> Result<std::os::fd::OwnedFd, Error> {
        let entry = self.inner.entry(id)?;
        let gone = || Error::NotRunning { id: id.clone() };
        let process = entry.running().ok_or_else(gone)?.process;
        let root = fs::File::open(format!("/proc/{}/root", process.pid)).map_err(|_| gone())?;
        // Looked up after the directory was opened: if it is still the same process, the directory is its root.
        match process::ProcessRef::of(process.pid) {
            Ok(now) if now == process => Ok(root.into()),
            Ok(_) | Err(_) => Err(gone()),
        }
    }

    /// To type on the terminal of a running container's program; `None` if it has no terminal.
    pub fn terminal_input(&self, id: &ContainerId) -> Result<Option<TerminalInput>, Error> {
        let entry = self.inner.entry(id)?;
        if entry.running().is_none() {
            return Err(Error::NotRunning { id: id.clone() });
        }
        TerminalInput::open(&entry.dir.input()).map_err(|source| Error::Io {
            operation: "opening",
            object: format!("the terminal of {id}"),
            source,
        })
    }

    /// Gives a running container other limits: all of them at once, those that are `None` included. They hold when
    /// this returns, are on record for a later runtime, and are what the exit record tells. After an error the old
    /// ones hold, unless the error names a file that could not be put back.
    ///
    /// A memory limit below what is in use first makes the kernel take back what it can (page cache, mostly; this
    /// may take a while) and is refused if that is not enough: nothing is ever killed for it.
    pub async fn update(&self, id: &ContainerId, limits: Limits) -> Result<(), UpdateError> {
        validate::check_limits(&limits).map_err(|problem| UpdateError::BadLimits {
            id: id.clone(),
            problem,
        })?;
        let entry = self
            .inner
            .entry(id)
            .map_err(|_| UpdateError::NotFound { id: id.clone() })?;
        update::update(&self.inner, &entry, limits).await
    }

    /// Runs a program in a running container.
    pub async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession, ExecError> {
        validate::check_exec(&spec).map_err(|problem| ExecError::BadSpec {
            id: id.clone(),
            problem,
        })?;
        let entry = self
            .inner
            .entry(id)
            .map_err(|_| ExecError::NotFound { id: id.clone() })?;
        let process = entry
            .running()
            .ok_or_else(|| ExecError::NotRunning { id: id.clone() })?
            .process;
        let request = ExecRequest {
            id: id.clone(),
            dir: entry.dir.clone(),
            process,
            seccomp: entry.seccomp.clone(),
            spec,
        };
        exec::run_exec(&self.inner, request).await
    }

    /// Forgets an ended container: its record and its logs. Idempotent.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), Error> {
        let Ok(entry) = self.inner.entry(id) else {
            return Ok(());
        };
        match &*entry.state.borrow() {
            EntryState::Exited(_) => {}
            EntryState::Starting | EntryState::Running => {
                return Err(Error::StillRunning { id: id.clone() });
            }
            EntryState::Gone => return Ok(()),
        }
        if group::has_members(&self.inner, id) {
            return Err(Error::StillRunning { id: id.clone() });
        }
        let layout = self.inner.layout.clone();
        let removing = id.clone();
        let removed = tokio::task::spawn_blocking(move || remove_dir(&layout, &removing)).await;
        removed
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| Error::Io {
                operation: "remove",
                object: format!("container {id}"),
                source,
            })?;
        self.inner.forget(&entry);
        entry.state.send_replace(EntryState::Gone);
        Ok(())
    }

    /// Kills every container of this instance and removes its cgroups and its state. Nothing can be started
    /// afterwards.
    pub async fn purge(&self) -> Result<(), PurgeError> {
        self.inner.closed.store(true, Ordering::Release);
        // Starts under way end by themselves, one way or the other.
        let permits =
            u32::try_from(self.inner.config.max_parallel_starts.max(1)).unwrap_or(u32::MAX);
        let _all = self.inner.starts.acquire_many(permits).await;
        self.end_all().await;
        self.inner.link.close().await;
        let inner = Arc::clone(&self.inner);
        let purging = tokio::task::spawn_blocking(move || {
            purge::purge_unlocked(&inner.config, &inner.layout)?;
            inner.networks.let_go();
            let _ = fs::remove_file(inner.layout.lock());
            let _ = fs::remove_dir(inner.layout.root());
            Ok(())
        });
        let result = purging.await.unwrap_or_else(|error| {
            Err(PurgeError::Io {
                object: "everything".to_owned(),
                source: io::Error::other(error),
            })
        });
        let entries: Vec<_> = std::mem::take(&mut *self.inner.containers())
            .into_values()
            .collect();
        for entry in entries {
            entry.abandon();
            if !matches!(&*entry.state.borrow(), EntryState::Exited(_)) {
                entry.state.send_replace(EntryState::Gone);
            }
        }
        result
    }

    /// Where a container's output is; older output is beside it with `.1`, `.2` and so on.
    #[must_use]
    pub fn log_path(&self, id: &ContainerId, stream: Stream) -> PathBuf {
        self.inner.layout.container(id).log(stream)
    }

    /// The launcher's process id, for diagnosis.
    pub async fn launcher_pid(&self) -> Option<u32> {
        self.inner.link.pid().await
    }

    /// Kills what runs and waits until each end has been taken note of: a watcher that finds a keeper gone and
    /// its record already deleted would write another.
    async fn end_all(&self) {
        let entries: Vec<_> = self.inner.containers().values().cloned().collect();
        let mut ends = tokio::task::JoinSet::new();
        for entry in entries {
            let inner = Arc::clone(&self.inner);
            ends.spawn(async move {
                if entry.running().is_some() {
                    stop::kill_entry(&inner, &entry).await;
                    let _ = tokio::time::timeout(KILL_TIMEOUT, wait_entry(&entry)).await;
                }
            });
        }
        while ends.join_next().await.is_some() {}
    }

    async fn recover(&self) -> Result<(), OpenError> {
        let inner = Arc::clone(&self.inner);
        let listing = tokio::task::spawn_blocking(move || {
            let ids = open::found_ids(&inner.layout)?;
            open::sweep_cgroups(&inner, &ids);
            Ok(ids)
        });
        let ids = listing
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| OpenError::State {
                path: self.inner.config.state_dir.clone(),
                source,
            })?;
        let mut recoveries = tokio::task::JoinSet::new();
        for id in ids {
            let inner = Arc::clone(&self.inner);
            recoveries.spawn(async move {
                if let Err(error) = open::recover_one(&inner, &id).await {
                    // One damaged directory must not keep the others from being found.
                    tracing::error!(container = %id, %error, "container cannot be recovered; its directory is left as it is");
                }
            });
        }
        while recoveries.join_next().await.is_some() {}
        let inner = Arc::clone(&self.inner);
        let carrying = tokio::task::spawn_blocking(move || {
            let containers = format!("{}/containers", inner.cgroup_root());
            inner.hierarchies.carry_memory_low(&containers);
        });
        let _ = carrying.await;
        self.reconcile_networks().await;
        Ok(())
    }
}

/// Removes a container's directory: moved out of sight first, so that an interrupted removal is never taken for
/// an interrupted start.
fn remove_dir(layout: &Layout, id: &ContainerId) -> io::Result<()> {
    let from = layout.container(id);
    let to = layout
        .removing()
        .join(format!("{id}.{}", process::now_ms()));
    match fs::rename(from.path(), &to) {
        Ok(()) => fs::remove_dir_all(to),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

async fn wait_entry(entry: &Arc<Entry>) -> Result<ExitRecord, Error> {
    let mut state = entry.state.subscribe();
    let gone = || Error::NotFound {
        id: entry.id.clone(),
    };
    let ended = state
        .wait_for(|state| matches!(state, EntryState::Exited(_) | EntryState::Gone))
        .await
        .map_err(|_| gone())?;
    match &*ended {
        EntryState::Exited(record) => Ok(ExitRecord::clone(record)),
        EntryState::Starting | EntryState::Running | EntryState::Gone => Err(gone()),
    }
}
