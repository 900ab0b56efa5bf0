//! Offers: used by accept, given back by decline, taken back by rescind. `pass` makes them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mezzo_api::model::{
    AgentId, FrameworkId, OfferId, Pools, Reason, RoleName, TaskInfo, TaskState, VolumeKey,
};

use super::{
    Accept, ConnId, Core, Effect, KnownTask, Launch, Supply, ToAgent, ToFramework, Turn,
    agents::AgentEntry,
    frameworks::FrameworkEntry,
    operations::Beside,
    tasks::{TaskEntry, master_status},
};
use crate::config::to_millis;
use crate::planted::{Bug, planted};

/// Something that a framework may use.
#[derive(Debug, Clone)]
pub(super) struct OfferEntry {
    pub(super) framework_id: FrameworkId,
    pub(super) agent_id: AgentId,
    pub(super) role: RoleName,
    pub(super) supply: Supply,
    pub(super) resources: Pools,
    pub(super) made_at_ms: u64,
}

/// What an accept has in hand: the offers it named, all of one agent, role and supply.
pub(super) struct Hand {
    pub(super) agent_id: AgentId,
    pub(super) conn: ConnId,
    pub(super) role: RoleName,
    pub(super) supply: Supply,
    pub(super) left: Pools,
}

impl Core {
    pub(super) fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        accept: Accept,
    ) {
        let Accept {
            offers,
            launches,
            refuse,
        } = accept;
        let hand = self.take_offers(framework_id, &offers);
        let mut hand = match hand {
            Ok(hand) => hand,
            Err(problem) => {
                for launch in &launches {
                    if let Launch::Change { id: Some(id), .. } = launch {
                        self.drop_change(turn, framework_id, id, &problem);
                    }
                }
                for task_id in launches.into_iter().flat_map(Launch::into_ids) {
                    if self.tell_if_known(turn, framework_id, &task_id) {
                        continue;
                    }
                    let (state, reason) = (TaskState::Dropped, Reason::InvalidOffers);
                    let status = master_status(
                        framework_id,
                        &task_id,
                        None,
                        state,
                        reason,
                        &problem,
                        turn.now,
                    );
                    self.tell(turn, status);
                }
                return;
            }
        };
        self.counters.offers_accepted += 1;
        for launch in launches {
            match launch {
                Launch::Valid(info) => self.launch(turn, framework_id, &mut hand, *info),
                Launch::Invalid { task_id, message } => {
                    self.refuse_task(turn, framework_id, &hand.agent_id, &task_id, &message);
                }
                Launch::Change { id, change } => {
                    self.change_for_framework(turn, framework_id, &mut hand, id, *change);
                }
                Launch::Group(infos) => self.launch_group(turn, framework_id, &mut hand, infos),
                Launch::InvalidGroup { task_ids, message } => {
                    self.refuse_group(turn, framework_id, &hand, &task_ids, &message);
                }
            }
        }
        let place = (&hand.agent_id, hand.supply);
        self.put_back(turn, framework_id, place, &hand.role, hand.left, refuse);
    }

    /// Ends the named offers and gathers what they held; or, when they cannot be used together, just ends them.
    fn take_offers(
        &mut self,
        framework_id: &FrameworkId,
        offers: &[OfferId],
    ) -> Result<Hand, String> {
        let named: BTreeSet<&OfferId> = offers.iter().collect();
        let mut taken = Vec::new();
        let mut problem = if named.is_empty() {
            Some("the accept names no offer".to_owned())
        } else {
            None
        };
        for offer_id in named {
            match self.offers.get(offer_id) {
                Some(offer) if offer.framework_id == *framework_id => {
                    taken.extend(self.withdraw_offer(offer_id))
                }
                Some(_) | None => {
                    problem = Some(format!(
                        "offer {offer_id} is not outstanding: used, declined or rescinded before"
                    ));
                }
            }
        }
        if let Some(problem) = problem {
            return Err(problem);
        }
        let Some(first) = taken.first().cloned() else {
            return Err("the accept names no offer".to_owned());
        };
        if taken
            .iter()
            .any(|offer| offer.agent_id != first.agent_id || offer.role != first.role)
        {
            return Err("the offers are not of one agent and one role".to_owned());
        }
        if taken.iter().any(|offer| offer.supply != first.supply) {
            return Err("some of the offers are revocable and some are not".to_owned());
        }
        let Some(conn) = self.agents.get(&first.agent_id).and_then(AgentEntry::conn) else {
            return Err(format!("agent {} is not connected", first.agent_id));
        };
        let mut left = Pools::default();
        for offer in &taken {
            left = left.checked_add(&offer.resources).unwrap_or(left);
        }
        Ok(Hand {
            agent_id: first.agent_id,
            conn,
            role: first.role,
            supply: first.supply,
            left,
        })
    }

    fn launch(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        hand: &mut Hand,
        mut info: TaskInfo,
    ) {
        let task_id = info.task_id.clone();
        if self.tell_if_known(turn, framework_id, &task_id) {
            self.counters.tasks_refused += 1;
            return;
        }
        let part = match &info.group {
            Some(_) => Err("`group` is the master's to fill in: use LaunchGroup".to_owned()),
            None => self.part_for(&mut info, hand, &hand.left, &mut Beside::default()),
        };
        let resources = match part {
            Ok(part) => part,
            Err(problem) => {
                self.refuse_task(turn, framework_id, &hand.agent_id, &task_id, &problem);
                return;
            }
        };
        let holder = (framework_id.clone(), task_id.clone());
        let taken = self.with_ledger(&hand.agent_id, hand.supply, |ledger| {
            ledger.take(holder, &resources)
        });
        if taken != Some(true) {
            // Only where the agent turned out overcommitted between offer and accept.
            let problem = format!("agent {} no longer has {resources} free", hand.agent_id);
            let (state, reason) = (TaskState::Dropped, Reason::ResourcesUnavailable);
            let agent_id = Some(hand.agent_id.clone());
            let status = master_status(
                framework_id,
                &task_id,
                agent_id,
                state,
                reason,
                &problem,
                turn.now,
            );
            self.tell(turn, status);
            return;
        }
        let task = self.enter_task(turn, framework_id, hand, info, &resources);
        if planted(Bug::LaunchedTwice) {
            let again = ToAgent::Launch(Arc::clone(&task));
            turn.push(Effect::ToAgent(hand.conn, again));
        }
        turn.push(Effect::ToAgent(hand.conn, ToAgent::Launch(task)));
    }

    /// Books a task whose resources the agent's ledger has taken already, and puts it into the tables.
    pub(super) fn enter_task(
        &mut self,
        turn: &Turn<'_>,
        framework_id: &FrameworkId,
        hand: &mut Hand,
        mut info: TaskInfo,
        part: &Pools,
    ) -> Arc<KnownTask> {
        // The same text, kept once.
        info.agent_id = hand.agent_id.clone();
        let task_id = info.task_id.clone();
        let holder = (framework_id.clone(), task_id.clone());
        self.charge(framework_id, &hand.role, hand.supply, part);
        if let Some(left) = hand.left.without(part) {
            hand.left = left;
        }
        let mut status = master_status(
            framework_id,
            &task_id,
            Some(hand.agent_id.clone()),
            TaskState::Staging,
            Reason::Reconciliation,
            "",
            turn.now,
        );
        status.reason = None;
        let entry = TaskEntry::new(KnownTask {
            info: info.into(),
            framework_id: framework_id.clone(),
            role: hand.role.clone(),
            status,
            started_at_ms: None,
        });
        let task = Arc::clone(&entry.task);
        if let Some(framework) = self.frameworks.get_mut(framework_id) {
            framework.tasks.insert(task_id, entry);
        }
        self.note_task(&holder);
        if let Some(agent) = self.agents.get_mut(&hand.agent_id) {
            agent.tasks.insert(holder);
        }
        self.view.touch_agent(&hand.agent_id);
        self.counters.tasks_launched += 1;
        task
    }

    fn refuse_task(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        agent_id: &AgentId,
        task_id: &mezzo_api::model::TaskId,
        message: &str,
    ) {
        self.counters.tasks_refused += 1;
        if self.tell_if_known(turn, framework_id, task_id) {
            return;
        }
        let (state, reason) = (TaskState::Error, Reason::TaskInvalid);
        let agent_id = Some(agent_id.clone());
        let status = master_status(
            framework_id,
            task_id,
            agent_id,
            state,
            reason,
            message,
            turn.now,
        );
        self.tell(turn, status);
    }

    pub(super) fn decline(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        offers: &[OfferId],
        refuse: Duration,
    ) {
        for offer_id in offers {
            if self
                .offers
                .get(offer_id)
                .is_none_or(|offer| offer.framework_id != *framework_id)
            {
                continue;
            }
            if let Some(offer) = self.withdraw_offer(offer_id) {
                self.counters.offers_declined += 1;
                let place = (&offer.agent_id, offer.supply);
                let (role, resources) = (&offer.role, offer.resources);
                self.put_back(turn, framework_id, place, role, resources, refuse);
            }
        }
    }

    /// What is free again is hidden for a while from the one who did not want it.
    fn put_back(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        (agent_id, supply): (&AgentId, Supply),
        role: &RoleName,
        left: Pools,
        refuse: Duration,
    ) {
        self.reconsider(agent_id);
        // A shared volume is left whenever it was offered: that says nothing.
        if refuse.is_zero() || left.exclusive().is_empty() {
            return;
        }
        let until_ms = turn.now.saturating_add(to_millis(refuse));
        let entry = self.frameworks.get(framework_id);
        let Some(state) = entry.and_then(|entry| entry.roles.get(role)) else {
            return;
        };
        if let Some(agent) = self.agents.get_mut(agent_id) {
            let filters = agent.filters_mut(supply);
            filters.refuse(state.key, left, until_ms, state.epoch);
        }
    }

    /// Takes an offer back and says so.
    pub(super) fn rescind(&mut self, turn: &mut Turn<'_>, offer_id: &OfferId) {
        let Some(offer) = self.withdraw_offer(offer_id) else {
            return;
        };
        self.counters.offers_rescinded += 1;
        if let Some(conn) = self
            .frameworks
            .get(&offer.framework_id)
            .and_then(FrameworkEntry::conn)
        {
            turn.push(Effect::ToFramework(
                conn,
                ToFramework::Rescind(offer_id.clone()),
            ));
        }
    }

    pub(super) fn rescind_agent_offers(&mut self, turn: &mut Turn<'_>, agent_id: &AgentId) {
        for supply in [Supply::Ordinary, Supply::Revocable] {
            self.rescind_offers_of(turn, agent_id, supply);
        }
    }

    /// Those from one of the agent's two ledgers.
    pub(super) fn rescind_offers_of(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        supply: Supply,
    ) {
        let entry = self.agents.get(agent_id);
        let offers = entry.into_iter().flat_map(|entry| &entry.offers);
        let offers: Vec<OfferId> = offers
            .filter(|id| {
                let offer = self.offers.get(*id);
                offer.is_some_and(|offer| offer.supply == supply)
            })
            .cloned()
            .collect();
        for offer_id in offers {
            self.rescind(turn, &offer_id);
        }
    }

    /// Those that have a volume which ends.
    pub(super) fn rescind_offers_with(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        key: &VolumeKey,
    ) {
        let entry = self.agents.get(agent_id);
        let offers = entry.into_iter().flat_map(|entry| &entry.offers);
        let offers: Vec<OfferId> = offers
            .filter(|id| {
                let offer = self.offers.get(*id);
                offer.is_some_and(|offer| offer.resources.volume(key).is_some())
            })
            .cloned()
            .collect();
        for offer_id in offers {
            self.rescind(turn, &offer_id);
        }
    }

    pub(super) fn time_out_offers(&mut self, turn: &mut Turn<'_>) {
        let Some(timeout) = self.settings.offer_timeout_ms else {
            return;
        };
        let late: Vec<OfferId> = self
            .offers
            .iter()
            .filter(|(_, offer)| turn.now >= offer.made_at_ms.saturating_add(timeout))
            .map(|(id, _)| id.clone())
            .collect();
        for offer_id in late {
            self.rescind(turn, &offer_id);
        }
    }
}
