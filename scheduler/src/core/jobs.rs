//! Where jobs meet apps: the same turn, the same writes, the same offers.
//!
//! Pure. What a job is and does is [`crate::jobs`]' business.

use std::sync::Arc;

use mezzo_api::model::RoleName;

use super::launch::Hands;
use super::{Core, Ids};
use crate::place::Need;

impl Core {
    /// Brings jobs up to date; what it leads to goes with the turn's.
    pub(super) fn settle_jobs(&mut self, now: u64) {
        self.jobs.settle(now, self.state.connected);
        self.dirty.extend(self.jobs.take_dirty());
        let calls = self.jobs.take_calls();
        if self.state.connected {
            self.calls.extend(calls);
        }
        if self.jobs.take_changed() {
            self.changed = true;
            self.state.jobs = Arc::clone(self.jobs.all());
        }
    }

    /// Whether the first job in line for offers of the role has waited longer than the first app.
    pub(super) fn jobs_wait_longer(&self, role: &RoleName, needs: &[Need]) -> bool {
        let apps = needs
            .iter()
            .filter_map(|need| self.state.apps.get(&need.app)?.queue.as_ref())
            .map(|queue| queue.since)
            .min();
        match (self.jobs.waits_since(role), apps) {
            (Some(jobs), Some(apps)) => jobs < apps,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Launches runs of jobs of the role on what is left of its offers.
    pub(super) fn place_jobs(
        &mut self,
        role: &RoleName,
        hands: &mut Hands,
        now: u64,
        ids: &mut dyn Ids,
    ) {
        if !self.jobs.waits_in(role) {
            return;
        }
        let (offers, left) = (&hands.offers, &mut hands.left);
        let tasks = self.jobs.place(role, offers, left, self.salt, now, ids);
        for (using, tasks) in hands.uses.iter_mut().zip(tasks) {
            self.state.counters.launched += tasks.len() as u64;
            using.tasks.extend(tasks);
        }
    }
}
