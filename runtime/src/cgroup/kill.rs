//! The end of all that runs in a cgroup.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Hierarchies, stats};
use crate::sys;

impl Hierarchies {
    /// Kills every process in the cgroup and in those directly below it; `false` when the time is over.
    pub(crate) fn kill_with_children(&self, cgroup: &str, timeout: Duration) -> bool {
        let mut killed = true;
        for name in self.children(cgroup) {
            killed &= self.kill(&format!("{cgroup}/{name}"), timeout);
        }
        self.kill(cgroup, timeout) && killed
    }

    /// Kills every process in the cgroup and waits until none is left; `false` when the time is over.
    ///
    /// `cgroup.kill` takes all at once. Where only version 1 knows the processes they are killed one by one until
    /// no new one appears; each is taken by pidfd and looked up again, so that a number used anew is not hit.
    pub(crate) fn kill(&self, cgroup: &str, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        if let Some(dir) = self.unified_dir(cgroup) {
            // As a rule its first process has taken all others along: then not even that file is made.
            if self.is_empty(cgroup) {
                return true;
            }
            let _ = fs::write(dir.join("cgroup.kill"), "1");
            wait_for_end(&dir, deadline);
            if self.is_empty(cgroup) {
                return true;
            }
        }
        loop {
            let pids = self.processes(cgroup);
            if pids.is_empty() {
                return true;
            }
            for pid in pids {
                if let Ok(pidfd) = sys::pidfd_open(pid)
                    && self.processes(cgroup).contains(&pid)
                {
                    let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                    let _ = sys::wait_readable(pidfd.as_fd(), Some(Duration::from_millis(100)));
                }
            }
            if Instant::now() >= deadline {
                return self.processes(cgroup).is_empty();
            }
        }
    }

    /// Whether nothing runs in it, by the hierarchies in which a container's processes are born and counted. A process
    /// that was in some other one alone would keep that from being removed, and be told then.
    fn is_empty(&self, cgroup: &str) -> bool {
        let empty = |dir: &Path| {
            fs::read(dir.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
        };
        let Some(dir) = self.unified_dir(cgroup) else {
            return false;
        };
        let other = self.controller_dir("pids", cgroup);
        empty(&dir) && other.is_none_or(|other| other == dir || empty(&other))
    }
}

/// Waits, a moment for each, for the processes in this directory that have just been killed.
fn wait_for_end(dir: &Path, deadline: Instant) {
    let dying = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in stats::parse_pids(&dying) {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Ok(pidfd) = sys::pidfd_open(pid) {
            let _ = sys::wait_readable(pidfd.as_fd(), Some(left.min(Duration::from_millis(100))));
        }
    }
}
