//! One start: claim the id on disk, ask the launcher, take note of the answer; and when it fails, make sure that
//! nothing is left.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Inner, KILL_TIMEOUT, remove_dir};
use crate::error::{StartError, StartFailure};
use crate::layout::{RunningRecord, SpecRecord, create_private_dir, open_lock, try_lock};
use crate::link;
use crate::model::{Exit, Started};
use crate::protocol::{Request, StartReply};
use crate::spec::validate::BadSpec;
use crate::supervise::{self, Entry};
use crate::sys;

/// How much longer than a keeper the runtime waits for its answer.
const REPLY_MARGIN: Duration = Duration::from_secs(30);

pub(super) async fn start_entry(
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
    let secrets = &record.spec.secrets;
    let secrets = (!secrets.is_empty()).then(|| secrets.pack()).transpose();
    let secrets = secrets.map_err(internal("packing its secrets"))?;
    let is_protected = record.spec.limits.memory_low.is_some();
    let claiming = Arc::clone(entry);
    let claimed = tokio::task::spawn_blocking(move || claim(&claiming, &record)).await;
    let lock = match claimed.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(StartError::AlreadyExists { id: id.clone() });
        }
        Err(error) => {
            discard(inner, entry).await;
            return Err(internal("making the container's directory")(error));
        }
    };
    let namespace = match &entry.networks {
        None => None,
        Some(networks) => match networks.namespace(id) {
            Some(namespace) => Some(namespace),
            None => {
                discard(inner, entry).await;
                return Err(StartError::BadSpec {
                    id: id.clone(),
                    problem: BadSpec {
                        field: "network".to_owned(),
                        problem: "prepare_network was not called before the start".to_owned(),
                    },
                });
            }
        },
    };
    let beside = (secrets.as_ref(), namespace.as_ref());
    let mut answer = ask_launcher(inner, entry, lock, beside).await;
    if matches!(answer, Ok(None)) {
        // The launcher died with the request, or the keeper before it had executed anything: once more.
        if let Some(lock) = begin_again(inner, entry).await {
            tracing::warn!(container = %id, "launcher or keeper died during the start, starting again");
            answer = ask_launcher(inner, entry, lock, beside).await;
        }
    }
    match answer {
        Ok(Some(StartReply::Started {
            keeper,
            process,
            started_at_ms,
            start_cost,
            user,
        })) => {
            let running = RunningRecord {
                process,
                started_at_ms,
                start_cost,
                user,
            };
            if let Some(networks) = &entry.networks {
                networks.started(id);
            }
            supervise::watch_over(entry, &inner.hierarchies, keeper, &running);
            if is_protected {
                let (entry, hierarchies) = (Arc::clone(entry), Arc::clone(&inner.hierarchies));
                let carrying = tokio::task::spawn_blocking(move || {
                    hierarchies.carry_memory_low(entry.containers_cgroup());
                });
                let _ = carrying.await;
            }
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
    entry.dir.write_spec(record)?;
    Ok(lock)
}

/// After a start whose keeper is gone without an answer: if it is certain that the program was never executed,
/// everything back to where [`claim`] left it, with the lock taken again.
async fn begin_again(inner: &Arc<Inner>, entry: &Arc<Entry>) -> Option<fs::File> {
    let (inner, entry) = (Arc::clone(inner), Arc::clone(entry));
    let resetting = tokio::task::spawn_blocking(move || -> io::Result<Option<fs::File>> {
        let nobody = supervise::wait_for_lock(&entry.dir, Duration::from_secs(5))?;
        let executed = entry
            .dir
            .read_keeper()?
            .is_some_and(|record| record.running.is_some());
        let ended = entry.dir.read_exit()?.or(entry.dir.read_unsettled_exit());
        if !nobody || executed || ended.is_some() {
            return Ok(None);
        }
        if !inner.hierarchies.kill(&entry.cgroup, KILL_TIMEOUT) {
            return Ok(None);
        }
        crate::keeper::release(&entry.start_request(Duration::ZERO), &inner.hierarchies);
        let lock = open_lock(&entry.dir.lock())?;
        Ok(try_lock(&lock)?.then_some(lock))
    });
    resetting.await.ok()?.ok()?
}

async fn ask_launcher(
    inner: &Inner,
    entry: &Entry,
    lock: fs::File,
    (secrets, namespace): (Option<&OwnedFd>, Option<&OwnedFd>),
) -> io::Result<Option<StartReply>> {
    let (ours, theirs) = link::packet_socket_pair()?;
    let ours = link::non_blocking(ours)?;
    let mut request = entry.start_request(inner.config.start_timeout);
    request.secrets = secrets.is_some();
    let request = Request::Start(request);
    let mut descriptors = vec![theirs.as_fd(), lock.as_fd()];
    descriptors.extend(secrets.map(AsFd::as_fd));
    descriptors.extend(namespace.map(AsFd::as_fd));
    inner.link.request(&request, &descriptors).await?;
    drop(descriptors);
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
        entry.release_network();
        if let Err(error) = remove_dir(&inner.layout, &entry.id) {
            tracing::error!(container = %entry.id, %error, "directory of a failed start not removed");
        }
    });
    let _ = discarding.await;
}
