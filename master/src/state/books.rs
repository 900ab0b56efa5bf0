//! The only ways in which resources change hands.
//!
//! Each moves them in three places at once, so that sums over agents, roles and frameworks always agree: the agent's
//! ledger, the role's sum, the framework's sum for that role. What is reserved and free is in the sum of its role. So are
//! volumes that are shared, always and once: who is offered one, or has one, is not charged for it.

use std::collections::BTreeMap;

#[cfg(test)]
use mezzo_api::model::PersistentVolume;
use mezzo_api::model::{AgentId, FrameworkId, OfferId, Pools, RoleName};

use super::{
    Core, Holder, Ledger, Pending, Quantities, Supply, frameworks::Interest, offers::OfferEntry,
};

/// What is reserved for each role and free.
pub(super) fn idle(ledger: &Ledger) -> BTreeMap<RoleName, Quantities> {
    let mut idle: BTreeMap<RoleName, Quantities> = BTreeMap::new();
    for (stack, resources) in ledger.free().reserved() {
        idle.entry(stack.role().clone()).or_default().add(resources);
    }
    for volume in ledger.free().volumes() {
        let of = idle.entry(volume.stack.role().clone()).or_default();
        of.add_volume(volume);
    }
    idle
}

/// What is reserved and idle at an agent, before and after a change of its ledger; `None` where that is the same.
pub(super) type IdleShift = Option<(
    BTreeMap<RoleName, Quantities>,
    BTreeMap<RoleName, Quantities>,
)>;

/// Changes a ledger. What that makes of the sums over reservations is for [`Core::shift_idle_between`].
#[must_use]
pub(super) fn change<T>(
    ledger: &mut Ledger,
    change: impl FnOnce(&mut Ledger) -> T,
) -> (T, IdleShift) {
    let before = (!ledger.total().is_open()).then(|| idle(ledger));
    let done = change(ledger);
    let after = (!ledger.total().is_open()).then(|| idle(ledger));
    let shift = (before != after).then(|| (before.unwrap_or_default(), after.unwrap_or_default()));
    (done, shift)
}

/// What a task has, as its agent says.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) holder: Holder,
    pub(super) role: RoleName,
    pub(super) supply: Supply,
    pub(super) pools: Pools,
}

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

    /// Changes one of the two books of an agent, and with them what is reserved and idle: of the ordinary ones alone, as
    /// nothing that is lent is reserved.
    pub(super) fn with_ledger<T>(
        &mut self,
        agent_id: &AgentId,
        supply: Supply,
        change: impl FnOnce(&mut Ledger) -> T,
    ) -> Option<T> {
        let ledger = self.agents.get_mut(agent_id)?.ledger_mut(supply);
        let (done, shift) = self::change(ledger, change);
        self.shift_idle_between(shift);
        Some(done)
    }

    /// What is reserved and idle became something else.
    pub(super) fn shift_idle_between(&mut self, shift: IdleShift) {
        if let Some((before, after)) = shift {
            self.shift_idle(before, -1);
            self.shift_idle(after, 1);
        }
    }

    /// What is reserved and idle comes or goes.
    pub(super) fn shift_idle(&mut self, idle: BTreeMap<RoleName, Quantities>, sign: i128) {
        for (role, quantities) in idle {
            let held = self.roles.entry(role.clone()).or_default();
            held.merge_times(&quantities, sign);
            if *held == Quantities::default() {
                self.roles.remove(&role);
            }
        }
    }

    pub(super) fn charge(
        &mut self,
        framework_id: &FrameworkId,
        role: &RoleName,
        supply: Supply,
        pools: &Pools,
    ) {
        let held = Quantities::of_pools(&pools.exclusive());
        self.charge_sum(framework_id, role, supply, &held);
    }

    /// The same, of several things at once.
    pub(super) fn charge_sum(
        &mut self,
        framework_id: &FrameworkId,
        role: &RoleName,
        supply: Supply,
        held: &Quantities,
    ) {
        if *held == Quantities::default() {
            return;
        }
        let roles = self.roles_mut(supply);
        roles.entry(role.clone()).or_default().merge(held);
        if let Some(framework) = self.frameworks.get_mut(framework_id) {
            let entry = framework.role_mut(role, Interest::Left);
            entry.held_mut(supply).merge(held);
            self.view.touch_framework(framework_id);
        }
    }

    pub(super) fn discharge(
        &mut self,
        framework_id: &FrameworkId,
        role: &RoleName,
        supply: Supply,
        pools: &Pools,
    ) {
        let pools = pools.exclusive();
        let roles = self.roles_mut(supply);
        if let Some(held) = roles.get_mut(role) {
            held.sub_pools(&pools);
            if *held == super::Quantities::default() {
                roles.remove(role);
            }
        }
        if let Some(framework) = self.frameworks.get_mut(framework_id) {
            let entry = framework.role_mut(role, Interest::Left);
            entry.held_mut(supply).sub_pools(&pools);
            framework.drop_left_roles();
            self.view.touch_framework(framework_id);
        }
    }

    /// Ends an offer: what it held is free again.
    pub(super) fn withdraw_offer(&mut self, offer_id: &OfferId) -> Option<OfferEntry> {
        let offer = self.offers.swap_remove(offer_id)?;
        self.with_ledger(&offer.agent_id, offer.supply, |ledger| {
            ledger.withdraw(&offer.resources);
        });
        if let Some(agent) = self.agents.get_mut(&offer.agent_id) {
            agent.offers.remove(offer_id);
            self.view.touch_agent(&offer.agent_id);
        }
        if let Some(framework) = self.frameworks.get_mut(&offer.framework_id) {
            framework.offers.swap_remove(offer_id);
            framework
                .offered_mut(offer.supply)
                .sub_pools(&offer.resources.exclusive());
        }
        self.discharge(
            &offer.framework_id,
            &offer.role,
            offer.supply,
            &offer.resources,
        );
        self.reconsider(&offer.agent_id);
        Some(offer)
    }

    /// Books what an agent says that tasks hold.
    pub(super) fn admit(&mut self, agent_id: &AgentId, held: Vec<Held>) {
        let mut sums: Vec<(FrameworkId, RoleName, Supply, Quantities)> = Vec::new();
        for one in &held {
            let key = (&one.holder.0, &one.role, one.supply);
            let taken = Quantities::of_pools(&one.pools.exclusive());
            match sums.last_mut() {
                Some((framework, role, supply, sum)) if (&*framework, &*role, *supply) == key => {
                    sum.merge(&taken);
                }
                Some(_) | None => sums.push((key.0.clone(), key.1.clone(), key.2, taken)),
            }
        }
        let (lent, ordinary): (Vec<_>, Vec<_>) = held
            .into_iter()
            .partition(|one| one.supply == Supply::Revocable);
        for (supply, held) in [(Supply::Ordinary, ordinary), (Supply::Revocable, lent)] {
            if held.is_empty() {
                continue;
            }
            let held = held.into_iter().map(|one| (one.holder, one.pools));
            if self
                .with_ledger(agent_id, supply, |ledger| ledger.admit(held))
                .is_none()
            {
                return;
            }
            self.view.touch_agent(agent_id);
        }
        for (framework_id, role, supply, sum) in sums {
            self.charge_sum(&framework_id, &role, supply, &sum);
        }
    }

    /// Frees what a task held, if it still held anything.
    pub(super) fn release(&mut self, agent_id: &AgentId, holder: &Holder, role: &RoleName) {
        let mut release = |supply| {
            let released = self.with_ledger(agent_id, supply, |ledger| ledger.release(holder));
            Some((supply, released??))
        };
        let released = release(Supply::Ordinary).or_else(|| release(Supply::Revocable));
        let Some((supply, resources)) = released else {
            return;
        };
        if let Some(agent) = self.agents.get_mut(agent_id) {
            agent.filters_mut(supply).clear();
        }
        self.view.touch_agent(agent_id);
        self.discharge(&holder.0, role, supply, &resources);
        self.reconsider(agent_id);
    }
}

#[cfg(test)]
impl Core {
    /// Every rule about the books and the tables that must hold between any two events.
    pub(crate) fn audit(&self) -> Result<(), String> {
        self.audit_books(Supply::Ordinary, &self.total)?;
        self.audit_books(Supply::Revocable, &self.lent.total)?;
        for (id, agent) in &self.agents {
            if agent.drain.is_some() && !agent.offers.is_empty() {
                return Err(format!("agent {id} is draining and offered"));
            }
            if agent.deactivated_since_ms.is_some() && !agent.offers.is_empty() {
                return Err(format!("agent {id} is deactivated and offered"));
            }
            if agent.conn().is_none() && !agent.offers.is_empty() {
                return Err(format!("agent {id} is away and offered"));
            }
        }
        for (id, framework) in &self.frameworks {
            for (task_id, entry) in framework.tasks.iter() {
                let holder = (id.clone(), task_id.clone());
                if entry.state != entry.task.status.state {
                    return Err(format!("{task_id} is counted as {}", entry.state));
                }
                let agent = self
                    .agents
                    .get(entry.agent_id())
                    .ok_or(format!("{task_id} is on a lost agent"))?;
                if !agent.tasks.contains(&holder) {
                    return Err(format!(
                        "agent {} does not list {task_id}",
                        entry.agent_id()
                    ));
                }
                let holds = [Supply::Ordinary, Supply::Revocable]
                    .map(|supply| agent.ledger(supply).holds(&holder));
                let supply = Supply::of(entry.task.info.revocable);
                let may = !entry.task.status.state.is_terminal();
                let wanted = [Supply::Ordinary, Supply::Revocable].map(|one| may && one == supply);
                if holds != wanted {
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
        Ok(())
    }

    /// One of the two ledgers of each agent, and the sums over them.
    fn audit_books(&self, supply: Supply, sum: &Quantities) -> Result<(), String> {
        let mut total = Quantities::default();
        let mut in_use = Quantities::default();
        let mut reserved = Quantities::default();
        for (id, agent) in &self.agents {
            let ledger = agent.ledger(supply);
            total.add_pools(ledger.total());
            in_use.add_pools(ledger.offered());
            in_use.add_pools(ledger.allocated());
            idle(ledger).values().for_each(|held| reserved.merge(held));
            let there = match supply {
                Supply::Ordinary => ledger.total().flat() == agent.info.resources,
                Supply::Revocable => ledger.total().is_open(),
            };
            if !there {
                return Err(format!(
                    "what agent {id} has and what is reserved there do not add up ({supply:?})"
                ));
            }
            if !ledger.is_balanced() {
                return Err(format!(
                    "the {supply:?} books of agent {id} do not balance: {ledger:?}"
                ));
            }
            let mut offered = Pools::default();
            for offer_id in &agent.offers {
                let offer = self
                    .offers
                    .get(offer_id)
                    .ok_or(format!("agent {id} lists lost offer {offer_id}"))?;
                let takes = self
                    .frameworks
                    .get(&offer.framework_id)
                    .is_some_and(|framework| framework.takes(offer.supply));
                if !takes {
                    return Err(format!("offer {offer_id} is to who cannot deal with it"));
                }
                if *offer.resources.visible_to(&offer.role) != offer.resources {
                    return Err(format!(
                        "role {} is offered {}, some of it reserved for others",
                        offer.role, offer.resources
                    ));
                }
                let shared: Vec<_> = (offer.resources.volumes())
                    .filter(|volume| volume.shared)
                    .collect();
                let framework = self.frameworks.get(&offer.framework_id);
                if !shared.is_empty() && !framework.is_some_and(|entry| entry.shares()) {
                    return Err(format!(
                        "offer {offer_id} has a shared volume and is to who cannot deal with it"
                    ));
                }
                let there = agent.ledger.total();
                let is_gone = |one: &&&PersistentVolume| there.volume(&one.key()) != Some(**one);
                if let Some(gone) = shared.iter().find(is_gone) {
                    let key = gone.key();
                    return Err(format!("offer {offer_id} has volume {key}, which is gone"));
                }
                if offer.supply == supply {
                    let sum = offered.checked_add(&offer.resources.exclusive());
                    offered = sum.map_err(|error| error.to_string())?;
                }
            }
            if offered != *ledger.offered() {
                return Err(format!(
                    "agent {id} has {offered} in {supply:?} offers, books {}",
                    ledger.offered()
                ));
            }
            // What was promised is covered; what was lent may be taken back, but then none of it is offered.
            if supply == Supply::Revocable && !ledger.covers() && !ledger.offered().is_empty() {
                return Err(format!("agent {id} lends less than is held, and offers it"));
            }
            for (framework_id, task_id) in ledger.holders().map(|(holder, _)| holder) {
                let entry = self
                    .frameworks
                    .get(framework_id)
                    .and_then(|framework| framework.tasks.get(task_id));
                if entry.is_none_or(|entry| {
                    *entry.agent_id() != *id || entry.task.status.state.is_terminal()
                }) {
                    return Err(format!(
                        "{task_id} holds something on agent {id} and is {entry:?}"
                    ));
                }
            }
        }
        if total != *sum {
            return Err(format!(
                "agents have {total:?} ({supply:?}), the sum says {sum:?}"
            ));
        }
        let mut by_role = Quantities::default();
        let roles = match supply {
            Supply::Ordinary => &self.roles,
            Supply::Revocable => &self.lent.roles,
        };
        roles.values().for_each(|held| by_role.merge(held));
        let mut by_framework = Quantities::default();
        for framework in self.frameworks.values() {
            let mut offered = Quantities::default();
            for offer in framework.offers.iter().filter_map(|id| self.offers.get(id)) {
                if offer.supply == supply {
                    offered.add_pools(&offer.resources.exclusive());
                }
            }
            if offered != *framework.offered(supply) {
                return Err(format!("{offered:?} is offered, the sum says otherwise"));
            }
            let roles = framework.roles.values();
            roles.for_each(|role| by_framework.merge(role.held(supply)));
        }
        let mut with_idle = in_use.clone();
        with_idle.merge(&reserved);
        if with_idle != by_role || in_use != by_framework {
            return Err(format!(
                "in use ({supply:?}): agents {in_use:?} and idle {reserved:?}, roles {by_role:?}, frameworks {by_framework:?}"
            ));
        }
        Ok(())
    }
}
