//! The runtime's view of one container: what is known of it, the task that waits for its keeper's end, and
//! closing the books when the keeper could not.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cgroup::Hierarchies;
use crate::cgroup::usage::UsageReader;
use crate::group::cgroup_above;
use crate::id::ContainerId;
use crate::keeper;
use crate::layout::{ContainerDir, RunningRecord, SpecRecord, StartCost, open_lock, try_lock};
use crate::model::{
    ContainerSpec, ContainerState, ContainerStatus, Exit, ExitRecord, GroupPart, MountSpec,
    Network, SHARED_VOLUMES, Usage,
};
use crate::network::Networks;
use crate::process::{self, ProcessRef};
use crate::protocol::{GroupRequest, StartRequest};
use crate::seccomp::Filter;
use crate::spec::security;
use crate::sys;
use crate::traffic::TrafficReader;
use crate::users::UserRange;

/// How long killed processes may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one try to close the books waits for that, and how long after it the next one is.
const TRY: Duration = Duration::from_secs(2);

/// One container.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: ContainerId,
    pub(crate) dir: ContainerDir,
    pub(crate) cgroup: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) seccomp: Option<Filter>,
    pub(crate) log: crate::model::LogLimits,
    /// The user numbers that are its own.
    pub(crate) user_range: Option<UserRange>,
    /// Where its network is to be released, if it was given one.
    pub(crate) networks: Option<Arc<Networks>>,
    /// Its part in a group, if it has one.
    pub(crate) group: Option<GroupPart>,
    /// The holder's process, for a member that is to be started.
    holder: Option<ProcessRef>,
    pub(crate) network: Network,
    pub(crate) volumes: Vec<String>,
    /// Whether its network is loopback, and its own.
    alone: bool,
    /// Whether its program has a terminal.
    terminal: bool,
    pub(crate) state: watch::Sender<EntryState>,
    /// While it runs, and no longer: its descriptors keep the kernel from forgetting the cgroup.
    live: Mutex<Option<Arc<Live>>>,
    /// Held by whoever changes its limits.
    pub(crate) updating: Mutex<()>,
    watcher: Mutex<Option<JoinHandle<()>>>,
}

/// What a container is doing, as far as the runtime has learned.
#[derive(Clone, Debug)]
pub(crate) enum EntryState {
    Starting,
    Running,
    Exited(Arc<ExitRecord>),
    /// It never came to be; `start` has told why.
    Gone,
}

/// Of a container that runs under this runtime.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) keeper: ProcessRef,
    pub(crate) process: ProcessRef,
    /// `None` if it had ended before it could be opened.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) started_at_ms: u64,
    start_cost: Option<StartCost>,
    /// Opened with the first sample: many a container has ended before.
    usage: OnceLock<UsageReader>,
}

impl Entry {
    pub(crate) fn new(record: &SpecRecord, dir: ContainerDir, networks: &Arc<Networks>) -> Self {
        let spec = &record.spec;
        Self {
            id: record.id.clone(),
            dir,
            cgroup: record.cgroup.clone(),
            labels: spec.labels.clone(),
            seccomp: (!spec.privileged).then(|| Filter {
                capabilities: security::capability_set(spec)
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
                profile: spec.seccomp.clone(),
            }),
            log: spec.log,
            user_range: record.user_range,
            networks: match (spec.network, &spec.group) {
                (_, Some(GroupPart::Member { .. })) => None,
                (Network::Prepared, _) => Some(Arc::clone(networks)),
                (Network::Host | Network::None, _) => None,
            },
            alone: spec.network == Network::None
                && !matches!(spec.group, Some(GroupPart::Member { .. })),
            terminal: spec.terminal,
            group: spec.group.clone(),
            holder: None,
            network: spec.network,
            volumes: shared_volumes(spec),
            state: watch::Sender::new(EntryState::Starting),
            live: Mutex::new(None),
            updating: Mutex::new(()),
            watcher: Mutex::new(None),
        }
    }

    /// The same for a member of the group that this process holds.
    pub(crate) fn with_holder(self, holder: Option<ProcessRef>) -> Self {
        Self { holder, ..self }
    }

    /// Whether it shares what another container holds.
    pub(crate) fn is_member(&self) -> bool {
        matches!(self.group, Some(GroupPart::Member { .. }))
    }

    /// The cgroup that its limits are of.
    pub(crate) fn limited_cgroup(&self) -> &str {
        match self.group {
            Some(GroupPart::Holder) => cgroup_above(&self.cgroup),
            Some(GroupPart::Member { .. }) | None => &self.cgroup,
        }
    }

    /// The cgroup that all containers are below.
    pub(crate) fn containers_cgroup(&self) -> &str {
        match self.group {
            Some(_) => cgroup_above(cgroup_above(&self.cgroup)),
            None => cgroup_above(&self.cgroup),
        }
    }

    pub(crate) fn start_request(&self, timeout: Duration) -> StartRequest {
        StartRequest {
            id: self.id.clone(),
            dir: self.dir.clone(),
            cgroup: self.cgroup.clone(),
            log: self.log,
            seccomp: self.seccomp.clone(),
            secrets: false,
            own_users: self.user_range.is_some(),
            alone: self.alone,
            terminal: self.terminal,
            group: self.group.as_ref().map(|_| GroupRequest {
                holder: self.holder,
            }),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Takes the network back from a container that has ended or never ran. May block. Idempotent.
    pub(crate) fn release_network(&self) {
        if let Some(networks) = &self.networks {
            networks.release(&self.id);
        }
    }

    pub(crate) fn status(&self) -> Option<ContainerStatus> {
        let live = self.live();
        let state = match (&*self.state.borrow(), &live) {
            (EntryState::Exited(record), _) => {
                ContainerState::Exited(Box::new(ExitRecord::clone(record)))
            }
            (EntryState::Running, Some(live)) => ContainerState::Running {
                pid: live.process.pid,
                started_at_ms: live.started_at_ms,
                cgroup: self.cgroup.clone(),
            },
            (EntryState::Running, None) | (EntryState::Starting, _) => ContainerState::Starting,
            (EntryState::Gone, _) => return None,
        };
        let keeper_pid = match &state {
            ContainerState::Running { .. } => live.as_ref().map(|live| live.keeper.pid),
            ContainerState::Starting | ContainerState::Exited(_) => None,
        };
        Some(ContainerStatus {
            id: self.id.clone(),
            state,
            keeper_pid,
            labels: self.labels.clone(),
        })
    }

    /// The running container, if it runs.
    pub(crate) fn running(&self) -> Option<Arc<Live>> {
        match &*self.state.borrow() {
            EntryState::Running => self.live(),
            EntryState::Starting | EntryState::Exited(_) | EntryState::Gone => None,
        }
    }

    /// What it has used up to now, if it runs.
    pub(crate) fn sample(&self, hierarchies: &Hierarchies, buffer: &mut Vec<u8>) -> Option<Usage> {
        let live = self.running()?;
        let open = || {
            let traffic = match self.is_member() {
                true => None,
                false => TrafficReader::of(live.process),
            };
            UsageReader::open(hierarchies, &self.cgroup, live.start_cost, traffic)
        };
        let reader = live.usage.get_or_init(open);
        Some(reader.read(process::now_ms(), buffer))
    }

    fn live(&self) -> Option<Arc<Live>> {
        // Changed by single assignments: a panic elsewhere cannot have left it half changed.
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_live(&self, live: Option<Live>) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live.map(Arc::new);
    }

    pub(crate) fn set_watcher(&self, handle: JoinHandle<()>) {
        if let Ok(mut watcher) = self.watcher.lock()
            && let Some(old) = watcher.replace(handle)
        {
            old.abort();
        }
    }

    /// Stops waiting for the keeper; the container is left alone.
    pub(crate) fn abandon(&self) {
        if let Ok(mut watcher) = self.watcher.lock()
            && let Some(handle) = watcher.take()
        {
            handle.abort();
        }
    }
}

/// Takes note of a running container and starts to wait for its end.
pub(crate) fn watch_over(
    entry: &Arc<Entry>,
    hierarchies: &Arc<Hierarchies>,
    keeper: ProcessRef,
    running: &RunningRecord,
) {
    let live = Live {
        keeper,
        process: running.process,
        pidfd: running.process.open(),
        started_at_ms: running.started_at_ms,
        start_cost: running.start_cost,
        usage: OnceLock::new(),
    };
    entry.set_live(Some(live));
    entry.state.send_replace(EntryState::Running);
    let (watched, hierarchies) = (Arc::clone(entry), Arc::clone(hierarchies));
    entry.set_watcher(tokio::spawn(async move {
        wait_for_keeper(&watched, keeper).await;
        let record = closed(&watched, &hierarchies).await;
        watched
            .state
            .send_replace(EntryState::Exited(Arc::new(record)));
        watched.set_live(None);
    }));
}

async fn wait_for_keeper(entry: &Entry, keeper: ProcessRef) {
    if let Some(pidfd) = keeper.open() {
        match sys::register(pidfd, Interest::READABLE) {
            Ok(pidfd) => {
                let _ = pidfd.readable().await;
            }
            Err(error) => {
                tracing::error!(container = %entry.id, %error, "cannot wait for the keeper")
            }
        }
    }
}

/// Closes the books of a container whose keeper is gone, however long that takes: a process in uninterruptible sleep does
/// not die, a full disk takes no record. Until then the container runs, for all that anybody may know.
async fn closed(entry: &Arc<Entry>, hierarchies: &Arc<Hierarchies>) -> ExitRecord {
    let mut told = false;
    loop {
        let (closing, hierarchies) = (Arc::clone(entry), Arc::clone(hierarchies));
        let result = tokio::task::spawn_blocking(move || {
            let record = close_books(&closing, &hierarchies)?;
            hierarchies.carry_less_memory_low(closing.containers_cgroup());
            io::Result::Ok(record)
        });
        match result.await.unwrap_or_else(|error| Err(error.into())) {
            Ok(record) => return record,
            Err(error) if !told => {
                told = true;
                tracing::error!(container = %entry.id, %error, "a container that lost its keeper cannot be closed; trying until it can");
            }
            Err(_) => {}
        }
        tokio::time::sleep(TRY).await;
    }
}

/// After the keeper's end: its exit record, or, if it could not write one, the container's end by our hand.
fn close_books(entry: &Entry, hierarchies: &Hierarchies) -> io::Result<ExitRecord> {
    match entry.dir.read_exit()? {
        Some(record) => {
            // It may have been killed behind its record.
            if hierarchies.is_there(&entry.cgroup) {
                keeper::release(&entry.start_request(Duration::ZERO), hierarchies);
            }
            // Before anybody is told: whoever gets the container's ports next must find them free.
            entry.release_network();
            Ok(record)
        }
        None => match entry.dir.read_unsettled_exit() {
            Some(record) => settle(entry, hierarchies, record),
            None => close(entry, hierarchies, Exit::KeeperLost),
        },
    }
}

/// What a keeper does last, for one that died before: makes the record of the end durable and removes what is left.
pub(crate) fn settle(
    entry: &Entry,
    hierarchies: &Hierarchies,
    record: ExitRecord,
) -> io::Result<ExitRecord> {
    entry.dir.write_exit(&record)?;
    hierarchies.kill(&entry.cgroup, KILL_TIMEOUT);
    keeper::release(&entry.start_request(Duration::ZERO), hierarchies);
    entry.release_network();
    Ok(record)
}

/// Kills what is left of a container that has no keeper, records its end, and removes what it leaves behind. An error
/// leaves it to be closed later.
pub(crate) fn close(
    entry: &Entry,
    hierarchies: &Hierarchies,
    exit: Exit,
) -> io::Result<ExitRecord> {
    let running = entry
        .dir
        .read_keeper()
        .ok()
        .flatten()
        .and_then(|record| record.running);
    let same_boot = exit != Exit::LostAtReboot;
    if same_boot {
        // The first process of the container's pid namespace takes everything in it along, wherever that is.
        if let Some(pidfd) = running.as_ref().and_then(|running| running.process.open()) {
            use std::os::fd::AsFd;
            let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = sys::wait_readable(pidfd.as_fd(), Some(TRY));
        }
        if !hierarchies.kill(&entry.cgroup, TRY) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "killed processes are still there",
            ));
        }
    }
    let usage = if same_boot {
        let start_cost = running.as_ref().and_then(|running| running.start_cost);
        keeper::last_usage(hierarchies, &entry.cgroup, start_cost, None)
    } else {
        Usage::default()
    };
    let record = ExitRecord {
        id: entry.id.clone(),
        exit,
        oom_killed: usage.oom_kills.is_some_and(|kills| kills > 0),
        memory_limit_bytes: keeper::memory_limit(&entry.dir),
        started_at_ms: running.map_or(0, |running| running.started_at_ms),
        finished_at_ms: process::now_ms(),
        usage,
    };
    settle(entry, hierarchies, record)
}

/// What a holder has for its members, by name.
fn shared_volumes(spec: &ContainerSpec) -> Vec<String> {
    let targets = spec.mounts.iter().filter_map(|mount| match mount {
        MountSpec::Tmpfs { target, .. } => target.strip_prefix(SHARED_VOLUMES).ok(),
        MountSpec::Bind { .. } | MountSpec::Shared { .. } => None,
    });
    targets
        .filter_map(|name| name.to_str())
        .map(str::to_owned)
        .collect()
}

/// Waits until the container's keeper is gone, by its lock.
pub(crate) fn wait_for_lock(dir: &ContainerDir, timeout: Duration) -> io::Result<bool> {
    let file = open_lock(&dir.lock())?;
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_micros(100);
    loop {
        if try_lock(&file)? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
