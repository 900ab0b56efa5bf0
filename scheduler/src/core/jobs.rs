//! Where jobs meet apps: the same turn, the same writes, the same offers.
//!
//! Pure. What a job is and does is [`crate::jobs`]' business.

use std::sync::Arc;

use mezzo_api::model::{Offer, Resources, TaskInfo};

use super::{Core, Ids};
use crate::place::{Need, Plan};

/// What jobs took of the offers of a turn.
#[derive(Debug, Default)]
pub(super) struct JobsShare {
    /// For each offer.
    pub(super) tasks: Vec<Vec<TaskInfo>>,
}

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

    /// Whether the first job in line has waited longer than the first app.
    pub(super) fn jobs_wait_longer(&self, needs: &[Need]) -> bool {
        let apps = needs
            .iter()
            .filter_map(|need| self.state.apps.get(&need.app)?.queue.as_ref())
            .map(|queue| queue.since)
            .min();
        match (self.jobs.waits_since(), apps) {
            (Some(jobs), Some(apps)) => jobs < apps,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Launches runs of jobs on the offers, and takes what they need from these.
    pub(super) fn place_jobs(
        &mut self,
        offers: &mut [Offer],
        now: u64,
        ids: &mut dyn Ids,
    ) -> JobsShare {
        if self.jobs.demand().is_empty() {
            return JobsShare::default();
        }
        let mut left: Vec<Resources> = offers.iter().map(|one| one.resources.clone()).collect();
        let tasks = self.jobs.place(offers, &mut left, self.salt, now, ids);
        for (offer, left) in offers.iter_mut().zip(left) {
            offer.resources = left;
        }
        self.state.counters.launched += tasks.iter().map(|tasks| tasks.len() as u64).sum::<u64>();
        JobsShare { tasks }
    }
}

/// Takes what apps were given from the offers.
pub(super) fn take_placed(offers: &mut [Offer], plan: &Plan) {
    for placement in &plan.placements {
        let offer = &mut offers[placement.offer];
        if let Some(left) = offer.resources.checked_sub(&placement.resources) {
            offer.resources = left;
        }
    }
}
