//! Who leads: one key in etcd, held by a lease.
//!
//! Whoever finds no key takes a lease and puts the key on it, in a transaction that only one can win; the key goes when
//! the lease is not kept alive. `core` decides (no clock, no I/O), `run` asks etcd and watches the key. Each leader has
//! a *term*, a number that only grows: others remember the highest that they saw, and heed no lower one.
//!
//! ```text
//!        ┌──────────────── somebody leads ◄──────────────┐
//!        ▼                                               │
//!    Resting ──nudge, time──► Looking ──nobody──► Granting ──► Running ──won──► Leading
//!        ▲                       ▲                                │lost            │ lease not kept alive in time,
//!        └───── etcd is away ────┘◄──────────── Leaving ◄─────────┴────────────────┘ deposed, told to resign
//! ```

mod core;
mod run;
#[cfg(test)]
mod simulation;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use self::run::{Candidate, Order, Standing, run};

/// The key of the leader, below the prefix.
pub const LEADER: &str = "leader";
/// The key of the highest term, below the prefix.
pub const TERM: &str = "term";

/// Who leads, as the key says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Of the process.
    pub id: String,
    /// `host:port` at which others reach it.
    pub address: String,
    /// Of its leadership.
    pub term: u64,
}

/// What a leader has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Higher than all before.
    pub term: u64,
    /// At which the leader's key was created: who writes compares it, so that none but the leader can.
    pub revision: i64,
}

/// The times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// After so long without a sign of life etcd takes the key away.
    pub lease: Duration,
    /// A leader stops acting so long before that: clocks do not run alike.
    pub margin: Duration,
    /// Between two signs of life.
    pub every: Duration,
    /// Before what failed is tried again.
    pub retry: Duration,
    /// Who follows looks again after so long, also when its watch says nothing.
    pub look: Duration,
}

impl Times {
    /// All times from the length of the lease, which etcd counts in whole seconds.
    #[must_use]
    pub fn of_lease(seconds: u32) -> Self {
        let lease = Duration::from_secs(u64::from(seconds));
        Self {
            lease,
            margin: lease / 6,
            every: lease / 6,
            retry: Duration::from_millis(100),
            // A follower whose watch is silent finds out hardly later than by its watch.
            look: lease / 6,
        }
    }
}

/// The term after that one, by the clock of the wall: the next number, or the seconds since 1970 if that is more. So the
/// terms of a cluster whose state was lost, or put back from an old copy, are still above those that others remember.
#[must_use]
pub fn next_term(last: u64) -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = unix.map_or(0, |since| since.as_secs());
    seconds.max(last.saturating_add(1))
}
