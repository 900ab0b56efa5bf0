//! Signals and stopping: ask those who can hear, wait, then kill everything.

use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::{Inner, KILL_TIMEOUT, wait_entry};
use crate::error::Error;
use crate::model::ExitRecord;
use crate::process::{SignalFate, signal_fate};
use crate::supervise::{Entry, EntryState};
use crate::sys;

/// See [`crate::Runtime::stop`].
pub(super) async fn stop(
    inner: &Arc<Inner>,
    entry: &Arc<Entry>,
    grace: Duration,
    signal: i32,
) -> Result<ExitRecord, Error> {
    let mut state = entry.state.subscribe();
    let _ = state
        .wait_for(|state| !matches!(state, EntryState::Starting))
        .await;
    if entry.running().is_some() {
        if signal != libc::SIGKILL
            && ask(inner, entry, signal).await?
            && let Ok(record) = tokio::time::timeout(grace, wait_entry(entry)).await
        {
            return record;
        }
        kill_entry(inner, entry).await;
    }
    tokio::time::timeout(KILL_TIMEOUT, wait_entry(entry))
        .await
        .unwrap_or_else(|_| {
            Err(Error::WillNotDie {
                id: entry.id.clone(),
                seconds: KILL_TIMEOUT.as_secs(),
            })
        })
}

/// Sends the signal to those that can hear it; tells whether there are any.
async fn ask(inner: &Arc<Inner>, entry: &Arc<Entry>, signal: i32) -> Result<bool, Error> {
    let Some(first) = entry.running().map(|live| live.process.pid) else {
        return Ok(false);
    };
    if hears(first, signal) {
        return match send_signal(entry, signal) {
            Ok(()) | Err(Error::NotRunning { .. }) => Ok(true),
            Err(error) => Err(error),
        };
    }
    let (inner, entry) = (Arc::clone(inner), Arc::clone(entry));
    let asking = tokio::task::spawn_blocking(move || {
        let others = || {
            inner
                .hierarchies
                .processes(&entry.cgroup)
                .into_iter()
                .filter(|pid| *pid != first)
        };
        let mut asked = false;
        for pid in others() {
            // Looked up again behind the descriptor: the number may have been used anew.
            if let Ok(pidfd) = sys::pidfd_open(pid)
                && hears(pid, signal)
                && others().any(|still| still == pid)
            {
                asked |= sys::pidfd_send_signal(pidfd.as_fd(), signal).is_ok();
            }
        }
        asked
    });
    Ok(asking.await.unwrap_or(false))
}

/// Whether the process has decided what to do with the signal. One that cannot be looked at is given the benefit.
fn hears(pid: i32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    signal_fate(&status, signal) != Some(SignalFate::Default)
}

pub(super) fn send_signal(entry: &Entry, signal: i32) -> Result<(), Error> {
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
pub(super) async fn kill_entry(inner: &Arc<Inner>, entry: &Arc<Entry>) {
    let _ = send_signal(entry, libc::SIGKILL);
    let (hierarchies, cgroup) = (Arc::clone(&inner.hierarchies), entry.cgroup.clone());
    let _ = tokio::task::spawn_blocking(move || hierarchies.kill(&cgroup, KILL_TIMEOUT)).await;
}
