//! The only ways in which resources change hands.
//!
//! Each moves them in three places at once, so that sums over agents, roles and frameworks always agree: the agent's
//! ledger, the role's sum, the framework's sum for that role.

use mezzo_api::model::{AgentId, FrameworkId, OfferId, Resources, RoleName};

use super::{Core, Holder, Pending, Quantities, frameworks::Interest, offers::OfferEntry};

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
        self.generation += 1;
    }

    pub(super) fn charge(
        &mut self,
        framework_id: &FrameworkId,
        role: &RoleName,
        resources: &Resources,
    ) {
        self.charge_sum(framework_id, role, &Quantities::of(resources));
    }

    /// The same, of several things at once.
    pub(super) fn charge_sum(
        &mut self,
        framework_id: &FrameworkId,
        role: &RoleName,
        held: &Quantities,
    ) {
        if *held == Quantities::default() {
            return;
        }
        self.roles.entry(role.clone()).or_default().merge(held);
        if let Some(framework) = self.frameworks.get_mut(framework_id) {
            framework.role_mut(role, Interest::Left).held.merge(held);
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

#[cfg(test)]
impl Core {
    /// Every rule about the books and the tables that must hold between any two events.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let mut total = Quantities::default();
        let mut in_use = Quantities::default();
        for (id, agent) in &self.agents {
            total.add(agent.ledger.total());
            in_use.add(agent.ledger.offered());
            in_use.add(agent.ledger.allocated());
            if !agent.ledger.is_balanced() {
                return Err(format!(
                    "the books of agent {id} do not balance: {:?}",
                    agent.ledger
                ));
            }
            if agent.drain.is_some() && !agent.offers.is_empty() {
                return Err(format!("agent {id} is draining and offered"));
            }
            let mut offered = Resources::new();
            for offer_id in &agent.offers {
                let offer = self
                    .offers
                    .get(offer_id)
                    .ok_or(format!("agent {id} lists lost offer {offer_id}"))?;
                offered.add(&offer.resources);
            }
            if offered != *agent.ledger.offered() {
                return Err(format!(
                    "agent {id} has {} in offers, books {}",
                    offered,
                    agent.ledger.offered()
                ));
            }
            if agent.conn().is_none() && !agent.offers.is_empty() {
                return Err(format!("agent {id} is away and offered"));
            }
            for (framework_id, task_id) in agent.ledger.holders().map(|(holder, _)| holder) {
                let entry = self
                    .frameworks
                    .get(framework_id)
                    .and_then(|framework| framework.tasks.get(task_id));
                if entry.is_none_or(|entry| {
                    entry.agent_id != *id || entry.task.status.state.is_terminal()
                }) {
                    return Err(format!(
                        "{task_id} holds something on agent {id} and is {entry:?}"
                    ));
                }
            }
        }
        if total != self.total {
            return Err(format!(
                "the cluster has {total:?}, the sum says {:?}",
                self.total
            ));
        }
        let mut by_role = Quantities::default();
        self.roles.values().for_each(|held| by_role.merge(held));
        let mut by_framework = Quantities::default();
        for (id, framework) in &self.frameworks {
            framework
                .roles
                .values()
                .for_each(|role| by_framework.merge(&role.held));
            for (task_id, entry) in &framework.tasks {
                let holder = (id.clone(), task_id.clone());
                let agent = self
                    .agents
                    .get(&entry.agent_id)
                    .ok_or(format!("{task_id} is on a lost agent"))?;
                if !agent.tasks.contains(&holder) {
                    return Err(format!("agent {} does not list {task_id}", entry.agent_id));
                }
                if agent.ledger.holds(&holder) == entry.task.status.state.is_terminal() {
                    return Err(format!(
                        "{task_id} is {} and books say otherwise",
                        entry.task.status.state
                    ));
                }
            }
            if framework.is_removed() && framework.tasks.is_empty() {
                return Err(format!(
                    "framework {id} is removed, has no task and is still there"
                ));
            }
        }
        if in_use != by_role || in_use != by_framework {
            return Err(format!(
                "in use: agents {in_use:?}, roles {by_role:?}, frameworks {by_framework:?}"
            ));
        }
        Ok(())
    }
}
