//! What frameworks refused at one agent, and until when.
//!
//! A filter holds for one framework and role and hides whatever is contained in what was refused: an offer with more
//! of anything passes. Reviving does not search all agents: it raises the framework's epoch, and filters of an older
//! epoch no longer count.

use std::collections::BTreeMap;

use mezzo_api::model::{FrameworkId, Resources, RoleName};

#[derive(Debug, Clone)]
struct Filter {
    refused: Resources,
    until_ms: u64,
    epoch: u64,
}

/// The filters of one agent.
#[derive(Debug, Clone, Default)]
pub struct AgentFilters(BTreeMap<(FrameworkId, RoleName), Filter>);

impl AgentFilters {
    /// Hides `refused` and less from that framework and role until then, in place of a former filter of theirs that
    /// hides less or ends earlier.
    pub fn refuse(
        &mut self,
        framework: &FrameworkId,
        role: &RoleName,
        refused: Resources,
        until_ms: u64,
        epoch: u64,
    ) {
        let key = (framework.clone(), role.clone());
        if let Some(filter) = self.0.get(&key)
            && filter.epoch == epoch
            && filter.until_ms >= until_ms
            && filter.refused.contains(&refused)
        {
            return;
        }
        self.0.insert(
            key,
            Filter {
                refused,
                until_ms,
                epoch,
            },
        );
    }

    /// Whether `offer` is hidden from them now.
    #[must_use]
    pub fn hides(
        &self,
        framework: &FrameworkId,
        role: &RoleName,
        offer: &Resources,
        now_ms: u64,
        epoch: u64,
    ) -> bool {
        if self.0.is_empty() {
            return false;
        }
        self.0
            .get(&(framework.clone(), role.clone()))
            .is_some_and(|filter| {
                filter.epoch == epoch && now_ms < filter.until_ms && filter.refused.contains(offer)
            })
    }

    /// Drops all: more came free here.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Drops those that no longer count.
    pub fn expire(&mut self, now_ms: u64) {
        self.0.retain(|_, filter| now_ms < filter.until_ms);
    }

    /// Drops those of a framework that is gone.
    pub fn forget(&mut self, framework: &FrameworkId) {
        self.0.retain(|(owner, _), _| owner != framework);
    }
}
