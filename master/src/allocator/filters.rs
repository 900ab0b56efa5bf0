//! What frameworks refused at one agent, and until when.
//!
//! A filter holds for one framework and role and hides whatever is contained in what was refused: an offer with more
//! of anything passes. Reviving does not search all agents: it raises the framework's epoch, and filters of an older
//! epoch no longer count.
//!
//! An agent that everybody has refused is *quiet*: until something changes there, or somebody new wants offers, or the
//! first filter ends, a pass need not look at it at all.

use std::collections::BTreeMap;

use mezzo_api::model::Pools;

/// A framework in one role, as a number: frameworks have the upper half, their roles the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimantKey(u64);

impl ClaimantKey {
    /// Of the role number `role` of the framework number `framework`.
    #[must_use]
    pub fn new(framework: u32, role: u32) -> Self {
        Self((u64::from(framework) << 32) | u64::from(role))
    }

    fn framework(self) -> u64 {
        self.0 >> 32
    }
}

#[derive(Debug, Clone)]
struct Filter {
    refused: Pools,
    until_ms: u64,
    epoch: u64,
}

/// Why a pass need not look at an agent.
#[derive(Debug, Clone, Copy)]
struct Quiet {
    generation: u64,
    until_ms: u64,
    free: u64,
}

/// The filters of one agent.
#[derive(Debug, Clone, Default)]
pub struct AgentFilters {
    filters: BTreeMap<ClaimantKey, Filter>,
    /// No filter ends before that.
    earliest_ms: u64,
    quiet: Option<Quiet>,
}

impl AgentFilters {
    /// Hides `refused` and less from that claimant until then, in place of a former filter of theirs that hides less
    /// or ends earlier.
    pub fn refuse(&mut self, claimant: ClaimantKey, refused: Pools, until_ms: u64, epoch: u64) {
        if let Some(filter) = self.filters.get(&claimant)
            && filter.epoch == epoch
            && filter.until_ms >= until_ms
            && filter.refused.contains(&refused)
        {
            return;
        }
        self.quiet = None;
        self.earliest_ms = match self.filters.is_empty() {
            true => until_ms,
            false => self.earliest_ms.min(until_ms),
        };
        self.filters.insert(
            claimant,
            Filter {
                refused,
                until_ms,
                epoch,
            },
        );
    }

    /// Whether `offer` is hidden from them now, and then until when.
    #[must_use]
    pub fn hides(
        &self,
        claimant: ClaimantKey,
        offer: &Pools,
        now_ms: u64,
        epoch: u64,
    ) -> Option<u64> {
        let filter = self.filters.get(&claimant)?;
        (filter.epoch == epoch && now_ms < filter.until_ms && filter.refused.contains(offer))
            .then_some(filter.until_ms)
    }

    /// Everybody refused what is free here; `free` counts the changes of that, `generation` the claimants' wishes.
    pub fn keep_quiet(&mut self, generation: u64, free: u64, until_ms: u64) {
        self.quiet = Some(Quiet {
            generation,
            until_ms,
            free,
        });
    }

    /// Whether that still holds.
    #[must_use]
    pub fn is_quiet(&self, generation: u64, free: u64, now_ms: u64) -> bool {
        self.quiet.is_some_and(|quiet| {
            quiet.generation == generation && quiet.free == free && now_ms < quiet.until_ms
        })
    }

    /// Drops all: more came free here.
    pub fn clear(&mut self) {
        self.filters.clear();
        self.quiet = None;
    }

    /// Drops those that no longer count.
    pub fn expire(&mut self, now_ms: u64) {
        if now_ms < self.earliest_ms || self.filters.is_empty() {
            return;
        }
        self.filters.retain(|_, filter| now_ms < filter.until_ms);
        let next = self.filters.values().map(|filter| filter.until_ms).min();
        self.earliest_ms = next.unwrap_or(u64::MAX);
    }

    /// Drops those of a framework that is gone.
    pub fn forget(&mut self, framework: u32) {
        self.filters
            .retain(|owner, _| owner.framework() != u64::from(framework));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_hides_what_was_refused_and_less_until_it_ends_or_the_epoch_does() {
        let claimant = ClaimantKey::new(1, 0);
        let mut filters = AgentFilters::default();
        filters.refuse(claimant, "cpus:2;mem:64".parse().unwrap(), 100, 1);
        for (offer, now, epoch, hidden) in [
            ("cpus:2;mem:64", 99, 1, true),
            ("cpus:1;mem:64", 99, 1, true),
            ("cpus:2.001;mem:64", 99, 1, false),
            ("cpus:1;disk:1", 99, 1, false),
            ("cpus:2;mem:64", 100, 1, false),
            ("cpus:2;mem:64", 99, 2, false),
        ] {
            assert_eq!(
                filters.hides(claimant, &offer.parse().unwrap(), now, epoch),
                hidden.then_some(100),
                "{offer} {now}"
            );
        }
        filters.forget(2);
        assert!(filters.hides(claimant, &Pools::default(), 0, 1).is_some());
        filters.forget(1);
        assert!(filters.hides(claimant, &Pools::default(), 0, 1).is_none());
    }

    #[test]
    fn an_agent_is_quiet_only_while_nothing_changes() {
        let mut filters = AgentFilters::default();
        filters.keep_quiet(3, 7, 100);
        assert!(filters.is_quiet(3, 7, 99));
        assert!(!filters.is_quiet(3, 7, 100));
        assert!(!filters.is_quiet(4, 7, 99));
        assert!(!filters.is_quiet(3, 8, 99));
        filters.refuse(ClaimantKey::new(1, 0), Pools::default(), 50, 0);
        assert!(!filters.is_quiet(3, 7, 0));
    }
}
