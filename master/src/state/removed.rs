//! Ids that must not come back. Bounded: the oldest are forgotten.

use std::collections::{BTreeMap, BTreeSet};

/// Some weeks of a busy cluster, as in Mesos' registry.
const MOST: usize = 102_400;

/// Ids with the time of their removal.
#[derive(Debug)]
pub(super) struct Removed<Id> {
    since: BTreeMap<Id, u64>,
    by_age: BTreeSet<(u64, Id)>,
}

impl<Id: Ord + Clone> Removed<Id> {
    pub(super) fn restore(saved: Vec<(Id, u64)>) -> Self {
        Self {
            by_age: saved.iter().map(|(id, at)| (*at, id.clone())).collect(),
            since: saved.into_iter().collect(),
        }
    }

    pub(super) fn contains(&self, id: &Id) -> bool {
        self.since.contains_key(id)
    }

    /// Since when each is.
    #[cfg(test)]
    pub(super) fn since(&self) -> &BTreeMap<Id, u64> {
        &self.since
    }

    /// Remembers an id; returns the one that had to go for it, if any.
    pub(super) fn insert(&mut self, id: Id, at_ms: u64) -> Option<Id> {
        if let Some(former) = self.since.insert(id.clone(), at_ms) {
            self.by_age.remove(&(former, id.clone()));
        }
        self.by_age.insert((at_ms, id));
        if self.since.len() <= MOST {
            return None;
        }
        let (_, oldest) = self.by_age.pop_first()?;
        self.since.remove(&oldest);
        Some(oldest)
    }
}
