//! Naming a process so that a number used again by the kernel is never taken for it: pid and start time within
//! one boot, checked through a pidfd.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::sys;

/// A process of the current boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRef {
    pub(crate) pid: i32,
    /// Field 22 of its `stat`: clock ticks since boot.
    pub(crate) start_ticks: u64,
}

impl ProcessRef {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_ticks = parse_start_ticks(&text).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("/proc/{pid}/stat is not understood"),
            )
        })?;
        Ok(Self { pid, start_ticks })
    }

    /// A descriptor for exactly this process; `None` when it is gone.
    pub(crate) fn open(self) -> Option<OwnedFd> {
        let pidfd = sys::pidfd_open(self.pid).ok()?;
        // Looked up after the descriptor was made: if the start time fits now, the descriptor is of that process.
        (Self::of(self.pid).ok()? == self).then_some(pidfd)
    }
}

/// The start time from a `stat` line; the name before it may hold spaces and brackets.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// What tells this boot from any other.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What becomes of a signal sent to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalFate {
    /// A handler, an explicit "ignore", or a mask with a waiting reader: the program has decided.
    Decided,
    /// The default action, which the kernel withholds from the first process of a pid namespace.
    Default,
}

/// Looks a signal up in the text of `/proc/<pid>/status`. Pure.
pub(crate) fn signal_fate(status: &str, signal: i32) -> Option<SignalFate> {
    let bit = 1_u64.checked_shl(u32::try_from(signal).ok()?.checked_sub(1)?)?;
    let mut decided = false;
    for field in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        decided |= u64::from_str_radix(line.trim(), 16).ok()? & bit != 0;
    }
    Some(if decided {
        SignalFate::Decided
    } else {
        SignalFate::Default
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_any_name() {
        let stat = "77 (a) b (c)) S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 789 10";
        assert_eq!(parse_start_ticks(stat), Some(123_456));
        assert_eq!(parse_start_ticks("77 (x"), None);
    }

    #[test]
    fn this_process_can_be_named_and_a_stranger_with_its_number_cannot() {
        let me = ProcessRef::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.open().is_some());
        assert!(
            ProcessRef {
                start_ticks: me.start_ticks + 1,
                ..me
            }
            .open()
            .is_none()
        );
    }

    #[test]
    fn the_fate_of_a_signal_is_read_from_the_masks() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004002\n";
        assert_eq!(signal_fate(status, 15), Some(SignalFate::Decided));
        assert_eq!(signal_fate(status, 13), Some(SignalFate::Decided));
        assert_eq!(signal_fate(status, 10), Some(SignalFate::Default));
        assert_eq!(signal_fate("Name:\tx\n", 10), None);
    }
}
