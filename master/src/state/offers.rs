//! Offers: made by a pass of the allocator, used by accept, given back by decline, taken back by rescind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mezzo_api::model::{
    AgentId, FrameworkId, Offer, OfferId, Pools, Reason, RoleName, TaskInfo, TaskState,
};

use super::{
    ConnId, Core, Effect, KnownTask, Launch, Pass, Pending, Supply, ToAgent, ToFramework, Turn,
    agents::{AgentEntry, AgentLink},
    books,
    frameworks::{FrameworkEntry, Interest},
    operations::Beside,
    tasks::{TaskEntry, master_status},
};
use crate::planted::{Bug, planted};
use crate::{
    allocator::{self, Candidate, Claimant, OfferPlan, PassRecord, Quantities, Request, Tally},
    config::to_millis,
};

/// Offers in one event, so that no event outgrows a message.
const OFFERS_PER_EVENT: usize = 100;

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

/// What a pass decided.
struct Decision {
    plans: Vec<OfferPlan>,
    /// Agents that everybody has refused, and until when.
    quiet: Vec<(AgentId, u64)>,
    tallies: Vec<(FrameworkId, RoleName, Tally)>,
    /// Agents with something free.
    n_seen: u32,
    /// The same, not looked at: everybody had refused them before.
    n_quiet: u32,
}

/// What one pass offers to one framework for one role.
struct Bundle {
    conn: Option<ConnId>,
    framework_id: FrameworkId,
    role: RoleName,
    held: Quantities,
    offers: Vec<OfferId>,
}

impl Core {
    pub(super) fn allocate(&mut self, turn: &mut Turn<'_>, pass: Pass) {
        self.counters.passes += 1;
        let pending = std::mem::replace(&mut self.pending, Pending::Agents(BTreeSet::new()));
        if self.waits_for_agents() {
            // The passes over all agents go on.
            return;
        }
        let only: Option<Vec<AgentId>> = match (pass, pending) {
            (Pass::Changed, Pending::Agents(agents)) => Some(agents.into_iter().collect()),
            (Pass::Changed, Pending::All) | (Pass::All, _) => None,
        };
        let expire = |entry: &mut AgentEntry| {
            entry.filters.expire(turn.now);
            entry.lent.filters.expire(turn.now);
        };
        match &only {
            Some(ids) => ids.iter().for_each(|id| {
                self.agents.get_mut(id).map(expire);
            }),
            None => self.agents.values_mut().for_each(expire),
        }
        for supply in self.supplies() {
            self.share(turn, pass, only.as_deref(), supply);
        }
    }

    /// One pass over one of the two ledgers of these agents, or of all.
    fn share(&mut self, turn: &mut Turn<'_>, pass: Pass, only: Option<&[AgentId]>, supply: Supply) {
        let decision = self.decide(turn, only, supply);
        for (id, until_ms) in decision.quiet {
            if let Some(entry) = self.agents.get_mut(&id) {
                let revision = entry.ledger(supply).revision();
                entry
                    .filters_mut(supply)
                    .keep_quiet(self.generation, revision, until_ms);
            }
        }
        match (pass, supply) {
            (Pass::All, Supply::Ordinary) => {
                for (framework_id, role, mut tally) in decision.tallies {
                    tally.declined = tally.declined.saturating_add(decision.n_quiet);
                    let record = PassRecord {
                        at_ms: turn.now,
                        agents: decision.n_seen.saturating_add(decision.n_quiet),
                        tally,
                    };
                    let entry = self.frameworks.get_mut(&framework_id);
                    if let Some(role) = entry.and_then(|entry| entry.roles.get_mut(&role)) {
                        role.record(record);
                    }
                }
                self.view.touch_records();
            }
            // Records tell why somebody gets nothing of what is there, not of what is lent.
            (Pass::All, Supply::Revocable) | (Pass::Changed, _) => {}
        }
        self.make_offers(turn, supply, decision.plans);
    }

    /// What the allocator makes of these agents, or of all.
    fn decide(&self, turn: &mut Turn<'_>, only: Option<&[AgentId]>, supply: Supply) -> Decision {
        // What can be taken back keeps no promise, and is no part of one.
        let no_quotas = BTreeMap::new();
        let (quotas, roles, total) = match supply {
            Supply::Ordinary if planted(Bug::LimitIgnored) => {
                (&no_quotas, &self.roles, &self.total)
            }
            Supply::Ordinary => (&self.quotas, &self.roles, &self.total),
            Supply::Revocable => (&no_quotas, &self.lent.roles, &self.lent.total),
        };
        let mut unallocated = Quantities::default();
        if quotas.values().any(|quota| !quota.guarantees.is_empty()) {
            let connected = self.agents.iter().filter(|(id, entry)| {
                matches!(entry.link, AgentLink::Connected { .. })
                    && entry.drain.is_none()
                    && !self.windows.is_closed(id)
            });
            connected.for_each(|(_, entry)| unallocated.add(entry.ledger.free().open()));
        }
        let mut candidates = Vec::new();
        let mut n_quiet = 0;
        let mut look = |(agent, entry)| {
            let (agent, entry): (&AgentId, &AgentEntry) = (agent, entry);
            let free = entry.ledger(supply).free();
            let offerable = matches!(entry.link, AgentLink::Connected { .. })
                && entry.drain.is_none()
                && !self.windows.is_closed(agent)
                && self.settings.minimum.is_met(free);
            if !offerable {
                return;
            }
            let (filters, revision) = (entry.filters(supply), entry.ledger(supply).revision());
            if filters.is_quiet(self.generation, revision, turn.now) {
                n_quiet += 1;
                return;
            }
            candidates.push(Candidate {
                agent,
                info: &entry.info,
                free,
                filters,
            });
        };
        match only {
            Some(ids) => ids
                .iter()
                .filter_map(|id| self.agents.get_key_value(id))
                .for_each(&mut look),
            None => self.agents.iter().for_each(&mut look),
        }
        for i in (1..candidates.len()).rev() {
            let j = usize::try_from(turn.source.random() % (i as u64 + 1)).unwrap_or(0);
            candidates.swap(i, j);
        }
        let request = Request {
            candidates,
            claimants: self
                .frameworks
                .iter()
                .filter(|(_, entry)| {
                    entry.conn().is_some() && (entry.takes(supply) || planted(Bug::LentToAnybody))
                })
                .flat_map(|(framework, entry)| {
                    entry
                        .roles
                        .iter()
                        .filter(|(_, state)| state.interest == Interest::Wants)
                        .map(move |(role, state)| Claimant {
                            framework,
                            role,
                            key: state.key,
                            held: state.held(supply),
                            epoch: state.epoch,
                            constraints: (entry.constraints.get(role))
                                .filter(|_| !planted(Bug::FilterIgnored)),
                        })
                })
                .collect(),
            roles,
            weights: &self.weights,
            quotas,
            total,
            unallocated: &unallocated,
            minimum: self.settings.minimum,
        };
        let outcome = allocator::allocate(&request, turn.now);
        let of = |at: usize| request.candidates[at].agent.clone();
        Decision {
            plans: outcome.plans,
            quiet: outcome
                .quiet
                .into_iter()
                .map(|(at, until_ms)| (of(at), until_ms))
                .collect(),
            tallies: request
                .claimants
                .iter()
                .zip(outcome.tallies)
                .map(|(claimant, tally)| (claimant.framework.clone(), claimant.role.clone(), tally))
                .collect(),
            n_seen: u32::try_from(request.candidates.len()).unwrap_or(u32::MAX),
            n_quiet,
        }
    }

    fn make_offers(&mut self, turn: &mut Turn<'_>, supply: Supply, plans: Vec<OfferPlan>) {
        let mut events: BTreeMap<ConnId, Vec<Offer>> = BTreeMap::new();
        let mut bundles: BTreeMap<usize, Bundle> = BTreeMap::new();
        for OfferPlan {
            agent: agent_id,
            framework: framework_id,
            role,
            claimant,
            resources,
        } in plans
        {
            let bundle = bundles.entry(claimant).or_insert_with(|| Bundle {
                conn: self
                    .frameworks
                    .get(&framework_id)
                    .and_then(FrameworkEntry::conn),
                framework_id: framework_id.clone(),
                role: role.clone(),
                held: Quantities::default(),
                offers: Vec::new(),
            });
            let Some(conn) = bundle.conn else { continue };
            // One look for all that is to be done there: among ten thousand agents it is what costs most here.
            let Some(agent) = self.agents.get_mut(&agent_id) else {
                continue;
            };
            let ledger = agent.ledger_mut(supply);
            let (offered, shift) = books::change(ledger, |ledger| ledger.offer(&resources));
            if offered {
                let offer_id = turn.source.offer_id();
                bundle.held.add_pools(&resources);
                bundle.offers.push(offer_id.clone());
                agent.offers.insert(offer_id.clone());
                events.entry(conn).or_default().push(Offer {
                    offer_id: offer_id.clone(),
                    framework_id: framework_id.clone(),
                    agent_id: agent_id.clone(),
                    hostname: agent.info.hostname.clone(),
                    role: role.clone(),
                    resources: resources.plain(),
                    reserved: resources.pool_list(),
                    volumes: resources.volumes().cloned().collect(),
                    attributes: agent.info.attributes.clone(),
                    region: agent.info.region.clone(),
                    zone: agent.info.zone.clone(),
                    address: agent.info.address.clone(),
                    revocable: supply == Supply::Revocable,
                    unavailability: self.windows.planned(&agent_id),
                });
                self.view.touch_agent(&agent_id);
                let entry = OfferEntry {
                    framework_id,
                    agent_id,
                    role,
                    supply,
                    resources,
                    made_at_ms: turn.now,
                };
                self.offers.insert(offer_id, entry);
                self.counters.offers_made += 1;
            }
            self.shift_idle_between(shift);
        }
        for bundle in bundles.into_values() {
            let (framework_id, role) = (bundle.framework_id, bundle.role);
            if let Some(framework) = self.frameworks.get_mut(&framework_id) {
                framework.offers.extend(bundle.offers);
                framework.offered_mut(supply).merge(&bundle.held);
            }
            if !planted(Bug::OfferNotBooked) {
                self.charge_sum(&framework_id, &role, supply, &bundle.held);
            }
        }
        for (conn, offers) in events {
            let mut offers = offers.into_iter();
            while offers.len() > 0 {
                let some = offers.by_ref().take(OFFERS_PER_EVENT).collect();
                turn.push(Effect::ToFramework(conn, ToFramework::Offers(some)));
            }
        }
    }

    pub(super) fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        offers: &[OfferId],
        launches: Vec<Launch>,
        refuse: Duration,
    ) {
        let hand = self.take_offers(framework_id, offers);
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
        if let Some(left) = hand.left.checked_sub(part) {
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
        if refuse.is_zero() || left.is_empty() {
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
