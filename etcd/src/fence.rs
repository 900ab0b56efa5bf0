//! How long a leader may act, by this machine's own clock.
//!
//! The clock is the kernel's `CLOCK_BOOTTIME`: it never goes back, and it goes on while the machine sleeps, so that a
//! leader that was frozen or suspended finds its time over when it wakes, whatever it was about to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

/// Time since this machine was switched on, its sleep included.
///
/// # Panics
///
/// On kernels older than 2.6.39.
#[must_use]
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("each kernel we run on has it");
    Duration::from(time)
}

/// Open until a time. Clones are the same fence.
#[derive(Debug, Clone)]
pub struct Fence(Arc<AtomicU64>);

impl Fence {
    /// Never closes: of a server that nobody can take the place of.
    #[must_use]
    pub fn always_open() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// Opens until then.
    #[must_use]
    pub fn until(end: Duration) -> Self {
        Self(Arc::new(AtomicU64::new(millis(end))))
    }

    /// Whether the leader may still act.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open_at(now())
    }

    /// The same, at a time of the caller's.
    #[must_use]
    pub fn is_open_at(&self, now: Duration) -> bool {
        millis(now) < self.0.load(Ordering::Acquire)
    }

    /// It stays open longer. A fence that was closed stays closed.
    pub(crate) fn extend(&self, end: Duration) {
        let longer = |until: u64| (until != 0).then(|| until.max(millis(end)));
        // It was closed for good; then nothing changes.
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, longer);
    }

    /// For good.
    pub fn close(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// Rounded down: a fence rather closes early.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_closes_at_its_time_and_for_good() {
        let fence = Fence::until(Duration::from_secs(10));
        assert!(fence.is_open_at(Duration::from_secs(9)));
        assert!(!fence.is_open_at(Duration::from_secs(10)));
        fence.extend(Duration::from_secs(20));
        fence.extend(Duration::from_secs(15));
        assert!(fence.is_open_at(Duration::from_secs(19)));
        fence.close();
        fence.extend(Duration::from_secs(30));
        assert!(!fence.is_open_at(Duration::ZERO));
        assert!(Fence::always_open().is_open());
        assert!(now() > Duration::ZERO);
    }
}
