//! The only ways in which resources change hands.
//!
//! Each moves them in three places at once, so that sums over agents, roles and frameworks always agree: the agent's
//! ledger, the role's sum, the framework's sum for that role.

use mezzo_api::model::{AgentId, FrameworkId, OfferId, Resources, RoleName};

use super::{Core, Holder, Pending, frameworks::Interest, offers::OfferEntry};

impl Core {
    /// Something may be offered at that agent that was not before.
    pub(super) fn reconsider(&mut self, agent_id: &AgentId) {
        match &mut self.pending {
            Pending::Agents(agents) => {
                agents.insert(agent_id.clone());
            }
            Pending::All => {}
        }
    }

    /// Somebody wants offers who did not before.
    pub(super) fn reconsider_all(&mut self) {
        self.pending = Pending::All;
    }

    pub(super) fn charge(
        &mut self,
        framework_id: &FrameworkId,
        role: &RoleName,
        resources: &Resources,
    ) {
        self.roles.entry(role.clone()).or_default().add(resources);
        if let Some(framework) = self.frameworks.get_mut(framework_id) {
            framework.role_mut(role, Interest::Left).held.add(resources);
            self.view.touch_framework(framework_id);
        }
    }

    pub(super) fn discharge(
        &mut self,
        framework_id: &FrameworkId,
        role: &RoleName,
        resources: &Resources,
    ) {
        if let Some(held) = self.roles.get_mut(role) {
            held.sub(resources);
            if *held == super::Quantities::default() {
                self.roles.remove(role);
            }
        }
        if let Some(framework) = self.frameworks.get_mut(framework_id) {
            framework.role_mut(role, Interest::Left).held.sub(resources);
            framework.drop_left_roles();
            self.view.touch_framework(framework_id);
        }
    }

    /// Ends an offer: what it held is free again.
    pub(super) fn withdraw_offer(&mut self, offer_id: &OfferId) -> Option<OfferEntry> {
        let offer = self.offers.remove(offer_id)?;
        if let Some(agent) = self.agents.get_mut(&offer.agent_id) {
            agent.ledger.withdraw(&offer.resources);
            agent.offers.remove(offer_id);
            self.view.touch_agent(&offer.agent_id);
        }
        if let Some(framework) = self.frameworks.get_mut(&offer.framework_id) {
            framework.offers.remove(offer_id);
        }
        self.discharge(&offer.framework_id, &offer.role, &offer.resources);
        self.reconsider(&offer.agent_id);
        Some(offer)
    }

    /// Books what an agent says that a task holds.
    pub(super) fn admit(
        &mut self,
        agent_id: &AgentId,
        holder: Holder,
        role: &RoleName,
        resources: &Resources,
    ) {
        let framework_id = holder.0.clone();
        if let Some(agent) = self.agents.get_mut(agent_id) {
            agent.ledger.admit(holder, resources);
            self.view.touch_agent(agent_id);
            self.charge(&framework_id, role, resources);
        }
    }

    /// Frees what a task held, if it still held anything.
    pub(super) fn release(&mut self, agent_id: &AgentId, holder: &Holder, role: &RoleName) {
        let Some(agent) = self.agents.get_mut(agent_id) else {
            return;
        };
        let Some(resources) = agent.ledger.release(holder) else {
            return;
        };
        agent.filters.clear();
        self.view.touch_agent(agent_id);
        self.discharge(&holder.0, role, &resources);
        self.reconsider(agent_id);
    }
}
