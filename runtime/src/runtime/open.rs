//! Opening a state directory: taking its lock, making the cgroups, and turning each directory found into a known
//! container, by the decision of `recovery`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Inner, KILL_TIMEOUT, remove_dir, update};
use crate::apparmor;
use crate::cgroup::Hierarchies;
use crate::error::OpenError;
use crate::id::ContainerId;
use crate::layout::{
    self, KeeperRecord, Layout, SpecRecord, create_private_dir, open_lock, try_lock,
};
use crate::link::LauncherLink;
use crate::model::{ExitRecord, RuntimeConfig};
use crate::network::Networks;
use crate::process;
use crate::recovery::{self, Found, Recovery};
use crate::stage;
use crate::supervise::{self, Entry, EntryState};
use crate::users::RangePool;

/// How long a keeper found at start-up may take to say what it watches over.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(90);

pub(super) fn check_config(config: &RuntimeConfig) -> Result<(), OpenError> {
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
    if let Some(problem) = config.user_ranges.problem() {
        return bad("user_ranges", problem);
    }
    if let Err((field, problem)) = config.network.check() {
        return bad(field, problem);
    }
    if !config.state_dir.is_absolute() {
        return bad(
            "state_dir",
            format!("{} is not an absolute path", config.state_dir.display()),
        );
    }
    Ok(())
}

pub(super) fn open_blocking(config: RuntimeConfig) -> Result<Inner, OpenError> {
    let path = config.state_dir.clone();
    let state_error = |source| OpenError::State {
        path: path.clone(),
        source,
    };
    layout::ensure_private_dir(&config.state_dir).map_err(state_error)?;
    // Short, and without links: it goes into the OCI specification and into mount options.
    let state_dir = fs::canonicalize(&config.state_dir).map_err(state_error)?;
    let layout = Layout::new(state_dir);
    let lock = open_lock(&layout.lock()).map_err(state_error)?;
    if !try_lock(&lock).map_err(state_error)? {
        return Err(OpenError::InUse { path });
    }
    if let Some(newer) = layout::versions::newer(&layout).map_err(state_error)? {
        return Err(OpenError::Newer {
            path: newer.path,
            found: newer.version,
            known: layout::RECORD_VERSION,
        });
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
        .and_then(|()| hierarchies.fill_cpusets(&containers))
        .map_err(OpenError::Cgroups)?;
    hierarchies.delegate(root, &containers);
    let apparmor = apparmor::set_up(&config.apparmor).map_err(|problem| OpenError::BadConfig {
        field: "apparmor",
        problem,
    })?;
    let link = LauncherLink::new(&config.launcher, keepers).map_err(OpenError::Launcher)?;
    let boot_id = process::boot_id().map_err(state_error)?;
    let own_users = stage::probe_own_users(layout.root());
    let networks =
        Networks::open(config.network.clone(), layout.root(), &boot_id).map_err(state_error)?;
    Ok(Inner {
        networks: Arc::new(networks),
        starts: Semaphore::new(config.max_parallel_starts),
        layout,
        hierarchies: Arc::new(hierarchies),
        boot_id,
        link,
        containers: Mutex::new(BTreeMap::new()),
        users: Mutex::new(RangePool::new(config.user_ranges)),
        apparmor,
        own_users,
        closed: AtomicBool::new(false),
        config,
        _lock: lock,
    })
}

pub(super) fn found_ids(layout: &Layout) -> io::Result<Vec<ContainerId>> {
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

pub(super) async fn recover_one(inner: &Arc<Inner>, id: &ContainerId) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + ADOPT_TIMEOUT;
    loop {
        let dir = inner.layout.container(id);
        let (found, boot_id) = (look_at(&dir)?, &inner.boot_id);
        let recovery = recovery::classify(&found, boot_id);
        let entry = |record: &SpecRecord| {
            let entry = Arc::new(Entry::new(record, dir.clone(), &inner.networks));
            if let Some(range) = record.user_range
                && !entry.is_member()
            {
                inner.users().note(range);
            }
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
                        entry.release_network();
                    });
                    let _ = sweeping.await;
                } else if entry.networks.is_some() {
                    let releasing = tokio::task::spawn_blocking(move || entry.release_network());
                    let _ = releasing.await;
                }
                return Ok(());
            }
            (Recovery::Settle(record), Some(spec)) => {
                let (entry, hierarchies) = (entry(spec), Arc::clone(&inner.hierarchies));
                let settling = Arc::clone(&entry);
                let settled = tokio::task::spawn_blocking(move || {
                    supervise::settle(&settling, &hierarchies, *record)
                });
                let settled = settled.await.map_err(io::Error::other)?;
                let keeper = found.keeper.filter(|_| spec.boot_id == *boot_id);
                return ended_or_later(inner, &entry, keeper, settled);
            }
            (Recovery::Close(exit), Some(spec)) => {
                tracing::warn!(container = %id, ?exit, "container did not survive");
                let (entry, hierarchies) = (entry(spec), Arc::clone(&inner.hierarchies));
                let closing = Arc::clone(&entry);
                let closed = tokio::task::spawn_blocking(move || {
                    supervise::close(&closing, &hierarchies, exit)
                });
                let closed = closed.await.map_err(io::Error::other)?;
                let keeper = found.keeper.filter(|_| spec.boot_id == *boot_id);
                return ended_or_later(inner, &entry, keeper, closed);
            }
            (Recovery::Adopt, Some(spec)) => {
                if let Some(keeper) = &found.keeper
                    && let Some(running) = &keeper.running
                {
                    let entry = entry(spec);
                    supervise::watch_over(&entry, &inner.hierarchies, keeper.keeper, running);
                    update::enforce(inner, &entry, &spec.spec.limits).await;
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
            (Recovery::Ended(_) | Recovery::Settle(_) | Recovery::Close(_), None) => {
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

/// Takes note of an end. If it could not be brought about or written, and the container is of this boot, it runs on without
/// its keeper until it can, and keeps nothing else from being found.
fn ended_or_later(
    inner: &Inner,
    entry: &Arc<Entry>,
    keeper: Option<KeeperRecord>,
    end: io::Result<ExitRecord>,
) -> io::Result<()> {
    match end {
        Ok(record) => {
            let exited = EntryState::Exited(Arc::new(record));
            entry.state.send_replace(exited);
        }
        Err(error) => match keeper.map(|record| (record.keeper, record.running)) {
            Some((keeper, Some(running))) => {
                supervise::watch_over(entry, &inner.hierarchies, keeper, &running);
            }
            _ => return Err(error),
        },
    }
    Ok(())
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
        unsettled: dir.read_unsettled_exit(),
        exit: dir.read_exit()?,
        lock_held,
    })
}

/// Removes cgroups of containers that have no directory: what a keeper that was killed in the middle of a start
/// may have left after the start was given up.
pub(super) fn sweep_cgroups(inner: &Inner, known: &[ContainerId]) {
    let containers = format!("{}/containers", inner.cgroup_root());
    for name in inner.hierarchies.children(&containers) {
        if known.iter().any(|id| id.as_str() == name) {
            continue;
        }
        let cgroup = format!("{containers}/{name}");
        tracing::warn!(cgroup, "cgroup without a container, removed");
        inner.hierarchies.kill_with_children(&cgroup, KILL_TIMEOUT);
        if let Err(error) = inner.hierarchies.remove(&cgroup, KILL_TIMEOUT) {
            tracing::warn!(cgroup, %error, "cgroup not removed");
        }
    }
}
