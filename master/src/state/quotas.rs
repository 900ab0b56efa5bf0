//! Quotas: set by operators, all or none, kept in the store, minded by the allocator.

use std::collections::BTreeMap;

use mezzo_api::model::{OfferId, RoleName};

use super::{Core, Effect, Notice, Refusal, Turn, agents::AgentLink};
use crate::planted::{Bug, planted};
use crate::{
    allocator::{Quantities, Quota, quota},
    store::Change,
};

impl Core {
    /// Changes the quotas of these roles. All outstanding offers are taken back: what is in them may be owed to others
    /// now, or be beyond a limit.
    pub(super) fn update_quotas(
        &mut self,
        turn: &mut Turn<'_>,
        changes: Vec<(RoleName, Quota)>,
        force: bool,
    ) -> Result<(), Refusal> {
        let mut wanted = self.quotas.clone();
        for (role, quota) in &changes {
            if quota.is_empty() {
                wanted.remove(role);
            } else {
                wanted.insert(role.clone(), quota.clone());
            }
        }
        let mut problems = quota::check(&wanted, &self.total, &self.held_by_tasks());
        // What was wrong before is not this change's fault, unless nothing could ever keep it.
        let former = quota::check(&self.quotas, &self.total, &self.held_by_tasks());
        problems.retain(|problem| !problem.may_be_forced() || !(force || former.contains(problem)));
        if !problems.is_empty() {
            return Err(Refusal::Quotas(problems));
        }
        for (role, quota) in changes {
            self.note(Notice::Role(role.clone()));
            let quota = (!quota.is_empty()).then_some(quota);
            if !planted(Bug::QuotaNotStored) {
                turn.push(Effect::Store(Change::PutQuota { role, quota }));
            }
        }
        self.quotas = wanted;
        let offers: Vec<OfferId> = self.offers.keys().cloned().collect();
        for offer_id in offers {
            self.rescind(turn, &offer_id);
        }
        self.reconsider_all();
        Ok(())
    }

    /// Right after a start most of what is held is not known yet: with quotas set, nothing is offered before four
    /// fifths of the agents are back, or their time to come back is over. Those whose loss is held back by the limit of
    /// losses do not hold offers back as well, which could take an hour.
    pub(super) fn waits_for_agents(&self) -> bool {
        if self.quotas.is_empty() {
            return false;
        }
        let awaited = self
            .agents
            .values()
            .filter(|entry| {
                matches!(entry.link, AgentLink::Recovering { .. })
                    && entry.loss_waits_since_ms.is_none()
            })
            .count();
        awaited * 5 > self.agents.len()
    }

    /// What each role holds, without offers; what is reserved for it counts.
    fn held_by_tasks(&self) -> BTreeMap<RoleName, Quantities> {
        let mut roles = self.roles.clone();
        for offer in self.offers.values() {
            let resources = offer.resources.exclusive();
            if let Some(held) = roles.get_mut(&offer.role) {
                held.sub_pools(&resources);
            }
            // It falls back to those for whom it is reserved.
            for (stack, resources) in resources.reserved() {
                let held = roles.entry(stack.role().clone()).or_default();
                held.add(resources);
            }
            for volume in resources.volumes() {
                let held = roles.entry(volume.stack.role().clone()).or_default();
                held.add_volume(volume);
            }
        }
        roles
    }
}

#[cfg(test)]
impl Core {
    /// All of them.
    pub(crate) fn quotas(&self) -> Vec<(RoleName, Quota)> {
        self.quotas.clone().into_iter().collect()
    }

    /// Each limit: of what, how much, and what is held, offers included.
    pub(crate) fn held_against_limits(&self) -> Vec<(String, i128, i128)> {
        let mut limits = Vec::new();
        for (role, quota) in &self.quotas {
            for (name, limit) in &quota.limits {
                let within = self
                    .roles
                    .iter()
                    .filter(|(other, _)| quota::is_within(other.as_str(), role.as_str()));
                let held = within.map(|(_, held)| held.get(name)).sum();
                limits.push((
                    format!("{name} of {role}"),
                    i128::from(limit.millis()),
                    held,
                ));
            }
        }
        limits
    }
}
