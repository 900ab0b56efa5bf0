//! What a fleet has seen so far, counted by all agents together.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::Record;

/// The figures at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named for what it counts")]
pub struct Counts {
    /// Agents with a registered stream now.
    pub connected: u64,
    pub registrations: u64,
    pub launches: u64,
    /// Tasks that are held now, ended ones that are not acknowledged included.
    pub tasks: u64,
    pub ended: u64,
    pub statuses_sent: u64,
    /// Those of them that were sent before.
    pub repeats: u64,
    pub acknowledgements: u64,
    pub kills: u64,
    /// Launches that went beyond what an agent has: a master's bug.
    pub overcommitted: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) connected: AtomicU64,
    pub(crate) registrations: AtomicU64,
    pub(crate) launches: AtomicU64,
    pub(crate) tasks: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) statuses_sent: AtomicU64,
    pub(crate) repeats: AtomicU64,
    pub(crate) acknowledgements: AtomicU64,
    pub(crate) kills: AtomicU64,
    pub(crate) overcommitted: AtomicU64,
    records: Mutex<Vec<Record>>,
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn sub(counter: &AtomicU64) {
    counter.fetch_sub(1, Ordering::Relaxed);
}

impl Shared {
    pub(crate) fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connected: get(&self.connected),
            registrations: get(&self.registrations),
            launches: get(&self.launches),
            tasks: get(&self.tasks),
            ended: get(&self.ended),
            statuses_sent: get(&self.statuses_sent),
            repeats: get(&self.repeats),
            acknowledgements: get(&self.acknowledgements),
            kills: get(&self.kills),
            overcommitted: get(&self.overcommitted),
        }
    }
}
