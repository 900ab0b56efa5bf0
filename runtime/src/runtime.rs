//! The runtime: an asynchronous handle on the containers of one state directory. It starts them through the
//! launcher, finds them again when it is opened, and never holds anything that its loss would lose.
//!
//! Opening, starting and stopping are here; what is known of one container is in `supervise`, the decision about
//! what a directory found at start-up means is in `recovery`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::cgroup::Hierarchies;
use crate::error::{Error, ExecError, OpenError, StartError, StartFailure};
use crate::id::ContainerId;
use crate::layout::{
    self, Layout, RECORD_VERSION, SpecRecord, create_private_dir, open_lock, try_lock,
};
use crate::link::{self, LauncherLink};
use crate::model::{
    ContainerSpec, ContainerStatus, ExecSpec, Exit, ExitRecord, RuntimeConfig, Started, Stream,
    Usage,
};
use crate::process::{self, SignalFate, signal_fate};
use crate::protocol::{ExecReply, ExecRequest, Request, StartReply};
use crate::purge::{self, PurgeError};
use crate::recovery::{self, Found, Recovery};
use crate::session::{ExecSession, ExecStream};
use crate::spec::validate;
use crate::supervise::{self, Entry, EntryState};
use crate::sys;

/// How long a killed container may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a keeper found at start-up may take to say what it watches over.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(90);
/// How much longer than a keeper the runtime waits for its answer.
const REPLY_MARGIN: Duration = Duration::from_secs(30);

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
    starts: Semaphore,
    containers: Mutex<BTreeMap<ContainerId, Arc<Entry>>>,
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
        check_config(&config)?;
        let opening = tokio::task::spawn_blocking(move || open_blocking(config));
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
        spec: ContainerSpec,
    ) -> Result<Started, StartError> {
        validate::check(&spec).map_err(|problem| StartError::BadSpec {
            id: id.clone(),
            problem,
        })?;
        let record = SpecRecord {
            version: RECORD_VERSION,
            id: id.clone(),
            boot_id: self.inner.boot_id.clone(),
            created_at_ms: process::now_ms(),
            cgroup: format!("{}/containers/{id}", self.inner.cgroup_root()),
            spec,
        };
        let entry = Arc::new(Entry::new(&record, self.inner.layout.container(id)));
        {
            let mut containers = self.inner.containers();
            if self.inner.closed.load(Ordering::Acquire) {
                return Err(StartError::Closed { id: id.clone() });
            }
            if containers.contains_key(id) {
                return Err(StartError::AlreadyExists { id: id.clone() });
            }
            containers.insert(id.clone(), Arc::clone(&entry));
        }
        let inner = Arc::clone(&self.inner);
        // Its own task: a caller that is cancelled must not leave a start half done.
        let starting = tokio::spawn(async move {
            let result = start_entry(&inner, &entry, record).await;
            if result.is_err() {
                inner.containers().remove(&entry.id);
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
        send_signal(&entry, signal)
    }

    /// Asks a container to stop, waits for at most `grace`, then kills all of it. Idempotent: an ended container
    /// gives its record again.
    ///
    /// A first process without a handler for the signal never sees it (the kernel withholds default actions from
    /// the first process of a pid namespace), so nothing could come of waiting: it is killed at once.
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
        let mut state = entry.state.subscribe();
        let _ = state
            .wait_for(|state| !matches!(state, EntryState::Starting))
            .await;
        if let Some(live) = entry.running() {
            let status = fs::read_to_string(format!("/proc/{}/status", live.process.pid))
                .unwrap_or_default();
            let heard = signal_fate(&status, stop_signal) != Some(SignalFate::Default);
            if heard && stop_signal != libc::SIGKILL {
                match send_signal(&entry, stop_signal) {
                    Ok(()) | Err(Error::NotRunning { .. }) => {}
                    Err(error) => return Err(error),
                }
                if let Ok(record) = tokio::time::timeout(grace, wait_entry(&entry)).await {
                    return record;
                }
            }
            kill_entry(&self.inner, &entry).await;
        }
        tokio::time::timeout(KILL_TIMEOUT, wait_entry(&entry))
            .await
            .unwrap_or(Err(Error::WillNotDie {
                id: id.clone(),
                seconds: KILL_TIMEOUT.as_secs(),
            }))
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
        let live = entry
            .running()
            .ok_or_else(|| Error::NotRunning { id: id.clone() })?;
        Ok(live.usage.read(process::now_ms()))
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
        run_exec(&self.inner, request).await
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
        self.inner.containers().remove(id);
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
        self.inner.link.close().await;
        let inner = Arc::clone(&self.inner);
        let purging = tokio::task::spawn_blocking(move || {
            purge::purge_unlocked(&inner.config, &inner.layout)?;
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

    async fn recover(&self) -> Result<(), OpenError> {
        let layout = self.inner.layout.clone();
        let state_error = |source| OpenError::State {
            path: self.inner.config.state_dir.clone(),
            source,
        };
        let listing = tokio::task::spawn_blocking(move || found_ids(&layout)).await;
        let ids = listing
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(state_error)?;
        let mut recoveries = tokio::task::JoinSet::new();
        for id in ids {
            let inner = Arc::clone(&self.inner);
            recoveries.spawn(async move {
                if let Err(error) = recover_one(&inner, &id).await {
                    // One damaged directory must not keep the others from being found.
                    tracing::error!(container = %id, %error, "container cannot be recovered; its directory is left as it is");
                }
            });
        }
        while recoveries.join_next().await.is_some() {}
        Ok(())
    }
}

fn check_config(config: &RuntimeConfig) -> Result<(), OpenError> {
    let bad = |field, problem: String| Err(OpenError::BadConfig { field, problem });
    let parent = &config.cgroup_parent;
    let clean = parent.starts_with('/')
        && parent.trim_end_matches('/').len() > 1
        && !parent.split('/').any(|part| part == ".." || part == ".")
        && parent.bytes().all(|byte| byte.is_ascii_graphic());
    if !clean {
        return bad(
            "cgroup_parent",
            format!("{parent:?} is not an absolute path below the root, such as /mezzo"),
        );
    }
    if config.max_parallel_starts == 0 || config.max_parallel_starts > 1024 {
        return bad(
            "max_parallel_starts",
            format!("{} is not 1 to 1024", config.max_parallel_starts),
        );
    }
    if !config.state_dir.is_absolute() {
        return bad(
            "state_dir",
            format!("{} is not an absolute path", config.state_dir.display()),
        );
    }
    Ok(())
}

fn open_blocking(config: RuntimeConfig) -> Result<Inner, OpenError> {
    let path = config.state_dir.clone();
    let state_error = |source| OpenError::State {
        path: path.clone(),
        source,
    };
    fs::create_dir_all(&config.state_dir).map_err(state_error)?;
    // Short, and without links: it goes into the OCI specification and into mount options.
    let state_dir = fs::canonicalize(&config.state_dir).map_err(state_error)?;
    let layout = Layout::new(state_dir);
    let lock = open_lock(&layout.lock()).map_err(state_error)?;
    if !try_lock(&lock).map_err(state_error)? {
        return Err(OpenError::InUse { path });
    }
    for dir in [layout.containers(), layout.removing()] {
        match create_private_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(state_error(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    // What an interrupted removal left.
    for entry in fs::read_dir(layout.removing())
        .map_err(state_error)?
        .flatten()
    {
        let _ = fs::remove_dir_all(entry.path());
    }
    let hierarchies = Hierarchies::detect().map_err(OpenError::Cgroups)?;
    let root = config.cgroup_parent.trim_end_matches('/');
    let keepers = format!("{root}/keepers");
    let containers = format!("{root}/containers");
    hierarchies
        .create(&keepers)
        .and_then(|()| hierarchies.create(&containers))
        .map_err(OpenError::Cgroups)?;
    hierarchies.delegate(root);
    hierarchies.delegate(&containers);
    let link = LauncherLink::new(&config.launcher, keepers).map_err(OpenError::Launcher)?;
    let boot_id = process::boot_id().map_err(state_error)?;
    Ok(Inner {
        starts: Semaphore::new(config.max_parallel_starts),
        layout,
        hierarchies: Arc::new(hierarchies),
        boot_id,
        link,
        containers: Mutex::new(BTreeMap::new()),
        closed: AtomicBool::new(false),
        config,
        _lock: lock,
    })
}

fn found_ids(layout: &Layout) -> io::Result<Vec<ContainerId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(layout.containers())? {
        let name = entry?.file_name();
        match name.to_str().and_then(|name| name.parse().ok()) {
            Some(id) => ids.push(id),
            None => {
                tracing::warn!(name = %name.display(), "not a container's directory, left alone")
            }
        }
    }
    Ok(ids)
}

async fn recover_one(inner: &Arc<Inner>, id: &ContainerId) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + ADOPT_TIMEOUT;
    loop {
        let dir = inner.layout.container(id);
        let (found, boot_id) = (look_at(&dir)?, &inner.boot_id);
        let recovery = recovery::classify(&found, boot_id);
        let entry = |record: &SpecRecord| {
            let entry = Arc::new(Entry::new(record, dir.clone()));
            inner.containers().insert(id.clone(), Arc::clone(&entry));
            entry
        };
        match (recovery, &found.spec) {
            (Recovery::Ended(record), Some(spec)) => {
                let entry = entry(spec);
                entry
                    .state
                    .send_replace(EntryState::Exited(Arc::new(*record)));
                if !found.lock_held {
                    // The keeper may have died between the record and the removal.
                    let hierarchies = Arc::clone(&inner.hierarchies);
                    let sweeping = tokio::task::spawn_blocking(move || {
                        hierarchies.kill(&entry.cgroup, KILL_TIMEOUT);
                        crate::keeper::release(&entry.start_request(Duration::ZERO), &hierarchies);
                    });
                    let _ = sweeping.await;
                }
                return Ok(());
            }
            (Recovery::Close(exit), Some(spec)) => {
                tracing::warn!(container = %id, ?exit, "container did not survive");
                let (entry, hierarchies) = (entry(spec), Arc::clone(&inner.hierarchies));
                let closing = Arc::clone(&entry);
                let closed = tokio::task::spawn_blocking(move || {
                    supervise::close(&closing, &hierarchies, exit)
                });
                let record = closed.await.map_err(io::Error::other)??;
                entry
                    .state
                    .send_replace(EntryState::Exited(Arc::new(record)));
                return Ok(());
            }
            (Recovery::Adopt, Some(spec)) => {
                if let Some(keeper) = &found.keeper
                    && let Some(running) = &keeper.running
                {
                    let entry = entry(spec);
                    supervise::watch_over(
                        &entry,
                        &inner.hierarchies,
                        keeper.keeper,
                        running.process,
                        running.started_at_ms,
                    );
                    return Ok(());
                }
            }
            (Recovery::Discard, _) => {
                tracing::warn!(container = %id, "start was interrupted before it began, directory removed");
                return remove_dir(&inner.layout, id);
            }
            // The first runtime is gone between making the directory and writing into it, and its request, with
            // the lock, is not on its way: the lock is free in a moment.
            (Recovery::Adopt, None) => {}
            (Recovery::Ended(_) | Recovery::Close(_), None) => {
                return Err(io::Error::other("an exit record without a specification"));
            }
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "its keeper does not say what it watches over",
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads a container's directory. The lock is looked at first: a keeper that ends meanwhile has then written its
/// record before we read it.
fn look_at(dir: &layout::ContainerDir) -> io::Result<Found> {
    let lock_held = match fs::File::open(dir.lock()) {
        Ok(file) => !try_lock(&file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    Ok(Found {
        spec: dir.read_spec()?,
        keeper: dir.read_keeper()?,
        exit: dir.read_exit()?,
        lock_held,
    })
}

async fn start_entry(
    inner: &Arc<Inner>,
    entry: &Arc<Entry>,
    record: SpecRecord,
) -> Result<Started, StartError> {
    let id = &entry.id;
    let internal = |what: &'static str| {
        move |error: io::Error| StartError::Internal {
            id: id.clone(),
            reason: format!("{what}: {error}"),
        }
    };
    let _permit = inner
        .starts
        .acquire()
        .await
        .map_err(|_| StartError::Closed { id: id.clone() })?;
    if inner.closed.load(Ordering::Acquire) {
        return Err(StartError::Closed { id: id.clone() });
    }
    let claiming = Arc::clone(entry);
    let claimed = tokio::task::spawn_blocking(move || claim(&claiming, &record)).await;
    let lock = match claimed.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(StartError::AlreadyExists { id: id.clone() });
        }
        Err(error) => return Err(internal("making the container's directory")(error)),
    };
    let answer = ask_launcher(inner, entry, lock).await;
    match answer {
        Ok(Some(StartReply::Started {
            keeper,
            process,
            started_at_ms,
        })) => {
            supervise::watch_over(entry, &inner.hierarchies, keeper, process, started_at_ms);
            Ok(Started {
                pid: process.pid,
                started_at_ms,
                keeper_pid: keeper.pid,
                cgroup: entry.cgroup.clone(),
            })
        }
        Ok(Some(StartReply::Failed(failure))) => {
            discard(inner, entry).await;
            Err(failure.into_start_error(id))
        }
        Ok(None) => {
            discard(inner, entry).await;
            Err(StartError::Internal {
                id: id.clone(),
                reason: "its keeper died while starting it".to_owned(),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            discard(inner, entry).await;
            Err(StartFailure::TimedOut {
                seconds: inner.config.start_timeout.as_secs(),
            }
            .into_start_error(id))
        }
        Err(error) => {
            discard(inner, entry).await;
            Err(internal("asking the launcher")(error))
        }
    }
}

/// Makes the container's directory, which claims the id, with everything that must be on disk before anything is
/// started. The result is the locked lock file.
fn claim(entry: &Entry, record: &SpecRecord) -> io::Result<fs::File> {
    create_private_dir(entry.dir.path())?;
    let lock = open_lock(&entry.dir.lock())?;
    if !try_lock(&lock)? {
        return Err(io::Error::other("a new lock file is locked"));
    }
    fs::create_dir(entry.dir.rootfs())?;
    entry.dir.write_spec(record)?;
    Ok(lock)
}

async fn ask_launcher(
    inner: &Inner,
    entry: &Entry,
    lock: fs::File,
) -> io::Result<Option<StartReply>> {
    let (ours, theirs) = link::packet_socket_pair()?;
    let ours = link::non_blocking(ours)?;
    let request = Request::Start(entry.start_request(inner.config.start_timeout));
    inner
        .link
        .request(&request, &[theirs.as_fd(), lock.as_fd()])
        .await?;
    // From here on only the launcher and the keeper hold them: their closing is an answer too.
    drop((theirs, lock));
    let answer = tokio::time::timeout(
        inner.config.start_timeout + REPLY_MARGIN,
        link::receive::<StartReply>(&ours),
    );
    match answer.await {
        Ok(answer) => Ok(answer?.map(|(reply, _)| reply)),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
    }
}

/// Makes sure that nothing of a failed start is left.
async fn discard(inner: &Arc<Inner>, entry: &Arc<Entry>) {
    let (inner, entry) = (Arc::clone(inner), Arc::clone(entry));
    let discarding = tokio::task::spawn_blocking(move || {
        if let Ok(false) = supervise::wait_for_lock(&entry.dir, Duration::from_secs(2))
            && let Ok(Some(record)) = entry.dir.read_keeper()
            && let Some(keeper) = record.keeper.open()
        {
            let _ = sys::pidfd_send_signal(keeper.as_fd(), libc::SIGKILL);
            let _ = supervise::wait_for_lock(&entry.dir, Duration::from_secs(10));
        }
        if !matches!(entry.dir.read_exit(), Ok(Some(_))) {
            let exit = Exit::StartFailed("the start failed".to_owned());
            if let Err(error) = supervise::close(&entry, &inner.hierarchies, exit) {
                tracing::error!(container = %entry.id, %error, "failed start not cleaned up");
            }
        }
        if let Err(error) = remove_dir(&inner.layout, &entry.id) {
            tracing::error!(container = %entry.id, %error, "directory of a failed start not removed");
        }
    });
    let _ = discarding.await;
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

fn send_signal(entry: &Entry, signal: i32) -> Result<(), Error> {
    let not_running = || Error::NotRunning {
        id: entry.id.clone(),
    };
    let live = entry.running().ok_or_else(not_running)?;
    let pidfd = live.pidfd.as_ref().ok_or_else(not_running)?;
    match sys::pidfd_send_signal(pidfd.as_fd(), signal) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(not_running()),
        Err(source) => Err(Error::Io {
            operation: "send a signal to",
            object: format!("container {}", entry.id),
            source,
        }),
    }
}

/// Kills everything in a container: its first process, and with it the pid namespace; then whatever else is in
/// the cgroup.
async fn kill_entry(inner: &Arc<Inner>, entry: &Arc<Entry>) {
    let _ = send_signal(entry, libc::SIGKILL);
    let (hierarchies, cgroup) = (Arc::clone(&inner.hierarchies), entry.cgroup.clone());
    let _ = tokio::task::spawn_blocking(move || hierarchies.kill(&cgroup, KILL_TIMEOUT)).await;
}

async fn run_exec(inner: &Inner, request: ExecRequest) -> Result<ExecSession, ExecError> {
    let id = request.id.clone();
    let internal = |error: io::Error| ExecError::Internal {
        id: id.clone(),
        reason: error.to_string(),
    };
    let (ours, theirs) = link::packet_socket_pair().map_err(internal)?;
    let reply = link::non_blocking(ours).map_err(internal)?;
    let pipes = if request.spec.terminal.is_some() {
        None
    } else {
        Some([
            io::pipe().map_err(internal)?,
            io::pipe().map_err(internal)?,
            io::pipe().map_err(internal)?,
        ])
    };
    let mut fds = vec![theirs.as_fd()];
    if let Some([stdin, stdout, stderr]) = &pipes {
        fds.extend([stdin.0.as_fd(), stdout.1.as_fd(), stderr.1.as_fd()]);
    }
    let timeout = inner.config.start_timeout;
    inner
        .link
        .request(&Request::Exec(request), &fds)
        .await
        .map_err(internal)?;
    drop(fds);
    drop(theirs);
    let answer = tokio::time::timeout(timeout, link::receive::<ExecReply>(&reply))
        .await
        .map_err(|_| {
            StartFailure::TimedOut {
                seconds: timeout.as_secs(),
            }
            .into_exec_error(&id)
        })?
        .map_err(internal)?;
    let (pid, received) = match answer {
        Some((ExecReply::Started { pid }, fds)) => (pid, fds),
        Some((ExecReply::Failed(failure), _)) => return Err(failure.into_exec_error(&id)),
        Some((ExecReply::Exited(_), _)) | None => {
            return Err(ExecError::Internal {
                id,
                reason: "its helper died".to_owned(),
            });
        }
    };
    let terminal = match received.into_iter().next() {
        Some(master) => Some(ExecStream::new(master).map_err(internal)?),
        None => None,
    };
    let (stdin, stdout, stderr) = match (pipes, &terminal) {
        (Some([stdin, stdout, stderr]), _) => (
            ExecStream::new(stdin.1.into()).map_err(internal)?,
            ExecStream::new(stdout.0.into()).map_err(internal)?,
            Some(ExecStream::new(stderr.0.into()).map_err(internal)?),
        ),
        (None, Some(terminal)) => (terminal.clone(), terminal.clone(), None),
        (None, None) => {
            return Err(ExecError::Internal {
                id,
                reason: "no terminal came".to_owned(),
            });
        }
    };
    Ok(ExecSession {
        stdin: Some(stdin),
        stdout,
        stderr,
        pid,
        terminal,
        reply,
        exit: None,
    })
}
