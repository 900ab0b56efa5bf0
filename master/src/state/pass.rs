//! A pass of the allocator: what it is asked, what it decided, and the offers that come of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mezzo_api::model::{AgentId, FrameworkId, OfferId, RoleName};

use super::{
    ConnId, Core, Effect, MadeOffer, Pass, Pending, Supply, ToFramework, Turn,
    agents::{AgentEntry, AgentLink},
    books,
    frameworks::{FrameworkEntry, Interest},
    offers::OfferEntry,
};
use crate::allocator::{
    self, Candidate, Claimant, OfferPlan, PassRecord, Quantities, Request, Tally,
};
use crate::planted::{Bug, planted};

/// Offers in one event, so that no event outgrows a message.
const OFFERS_PER_EVENT: usize = 100;

/// What a pass decided.
struct Decision {
    plans: Vec<OfferPlan>,
    /// Where each candidate stands among all agents.
    places: Vec<usize>,
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
        self.make_offers(turn, supply, decision.plans, &decision.places);
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
                    && entry.is_in_service()
                    && !self.windows.is_closed(id)
            });
            connected.for_each(|(_, entry)| unallocated.add(entry.ledger.free().open()));
        }
        let mut candidates = Vec::new();
        let mut places = Vec::new();
        let mut n_quiet = 0;
        let mut look = |(place, (agent, entry))| {
            let (agent, entry): (&AgentId, &AgentEntry) = (agent, entry);
            let free = entry.ledger(supply).free();
            let offerable = matches!(entry.link, AgentLink::Connected { .. })
                && entry.is_in_service()
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
            places.push(place);
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
                .filter_map(|id| self.agents.get_full(id))
                .for_each(|(place, id, entry)| look((place, (id, entry)))),
            None => self.agents.iter().enumerate().for_each(&mut look),
        }
        for i in (1..candidates.len()).rev() {
            let j = usize::try_from(turn.source.random() % (i as u64 + 1)).unwrap_or(0);
            candidates.swap(i, j);
            places.swap(i, j);
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
                            shares: entry.shares() || planted(Bug::SharedToAnybody),
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
            minimum: &self.settings.minimum,
        };
        let outcome = allocator::allocate(&request, turn.now);
        let of = |at: usize| request.candidates[at].agent.clone();
        Decision {
            plans: outcome.plans,
            places,
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

    fn make_offers(
        &mut self,
        turn: &mut Turn<'_>,
        supply: Supply,
        plans: Vec<OfferPlan>,
        places: &[usize],
    ) {
        let mut letters: BTreeMap<ConnId, Vec<MadeOffer>> = BTreeMap::new();
        let mut bundles: Vec<Option<Bundle>> = Vec::new();
        let mut shifts = Vec::new();
        let mut entries = Vec::with_capacity(plans.len());
        for OfferPlan {
            candidate,
            agent: agent_id,
            framework: framework_id,
            role,
            claimant,
            resources,
        } in plans
        {
            if bundles.len() <= claimant {
                bundles.resize_with(claimant + 1, || None);
            }
            let bundle = bundles[claimant].get_or_insert_with(|| Bundle {
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
            let place = places[candidate];
            let Some((_, agent)) = self.agents.get_index_mut(place) else {
                continue;
            };
            let ledger = agent.ledger_mut(supply);
            let (offered, shift) = books::change(ledger, |ledger| ledger.offer(&resources));
            shifts.extend(shift.is_some().then_some(shift));
            if !offered {
                continue;
            }
            let offer_id = turn.source.offer_id();
            bundle.held.add_pools(&resources.exclusive());
            bundle.offers.push(offer_id.clone());
            agent.offers.insert(offer_id.clone());
            letters.entry(conn).or_default().push(MadeOffer {
                offer_id: offer_id.clone(),
                framework_id: framework_id.clone(),
                agent_id: agent_id.clone(),
                role: role.clone(),
                resources: resources.clone(),
                info: Arc::clone(&agent.info),
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
            entries.push((offer_id, entry));
        }
        self.counters.offers_made += entries.len() as u64;
        self.offers.extend(entries);
        for shift in shifts {
            self.shift_idle_between(shift);
        }
        for bundle in bundles.into_iter().flatten() {
            let (framework_id, role) = (bundle.framework_id, bundle.role);
            if let Some(framework) = self.frameworks.get_mut(&framework_id) {
                framework.offers.extend(bundle.offers);
                framework.offered_mut(supply).merge(&bundle.held);
            }
            if !planted(Bug::OfferNotBooked) {
                self.charge_sum(&framework_id, &role, supply, &bundle.held);
            }
        }
        for (conn, offers) in letters {
            let mut offers = offers.into_iter();
            while offers.len() > 0 {
                let some = offers.by_ref().take(OFFERS_PER_EVENT).collect();
                turn.push(Effect::ToFramework(conn, ToFramework::Offers(some)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mezzo_api::{
        model::{FrameworkInfo, Resources},
        proto,
    };

    use super::*;
    use crate::{
        config::Config,
        state::{Call, Caller, Event, Registration, Settings, numbers::Numbers, tests::machine},
        store::Saved,
    };

    fn size(n: u64) -> Resources {
        format!("cpus:{};mem:{}", n + 1, 64 * (n + 1))
            .parse()
            .unwrap()
    }

    /// Each of another size, and not in the order in which they come.
    fn attach(n: u64) -> Event {
        let info = machine(format!("host-{n:02}"), size(n));
        let registration = Registration {
            agent_id: Some(format!("agent-{n:02}").parse().unwrap()),
            info,
            boot_id: String::new(),
            operations: Vec::new(),
            tasks: Vec::new(),
        };
        let conn = ConnId(n);
        Event::AgentAttached { conn, registration }
    }

    fn subscribe(n: u64) -> Event {
        let info = proto::FrameworkInfo {
            name: format!("f{n}"),
            roles: vec![["*", "a", "a/b"][n as usize % 3].into()],
            ..proto::FrameworkInfo::default()
        };
        Event::Subscribe {
            conn: ConnId(100 + n),
            info: FrameworkInfo::try_from(info).unwrap(),
            suppressed: Vec::new(),
        }
    }

    #[test]
    fn an_offer_is_of_the_agent_that_it_names_and_of_all_that_is_free_there() {
        const AGENTS: u64 = 40;
        let mut numbers = Numbers::default();
        let settings = Settings::from(&Config::default());
        let mut core = Core::restore(settings, Saved::default(), 0);
        for n in 0..AGENTS {
            let n = n * 7 % AGENTS;
            core.handle(attach(n), 0, &mut numbers);
            core.handle(Event::AgentHeard { conn: ConnId(n) }, 0, &mut numbers);
            // Who is away still has a place.
            if n.is_multiple_of(3) {
                core.handle(Event::AgentDetached { conn: ConnId(n) }, 0, &mut numbers);
            }
        }
        let mut callers = Vec::new();
        for n in 0..3 {
            for effect in core.handle(subscribe(n), 0, &mut numbers) {
                if let Effect::ToFramework(_, event) = effect
                    && let ToFramework::Subscribed {
                        framework_id,
                        stream_id,
                    } = event
                {
                    callers.push(Caller {
                        framework_id,
                        stream_id,
                    });
                }
            }
        }
        for pass in [Pass::All, Pass::Changed, Pass::All, Pass::Changed] {
            let effects = core.handle(Event::Allocate(pass), 0, &mut numbers);
            core.audit().unwrap();
            let mut offered = BTreeSet::new();
            for effect in effects {
                let Effect::ToFramework(_, event) = effect else {
                    continue;
                };
                let ToFramework::Offers(offers) = event else {
                    continue;
                };
                for offer in offers {
                    let n: u64 = offer.agent_id.as_str()[6..].parse().unwrap();
                    assert_eq!(offer.info.hostname, format!("host-{n:02}"));
                    assert_eq!(offer.resources.flat(), size(n));
                    assert!(offered.insert(n), "agent {n} is offered twice");
                    let caller = callers
                        .iter()
                        .find(|caller| caller.framework_id == offer.framework_id);
                    let call = Call::Decline {
                        offers: vec![offer.offer_id],
                        refuse: std::time::Duration::ZERO,
                    };
                    let caller = caller.unwrap().clone();
                    core.handle(Event::Call { caller, call }, 0, &mut numbers);
                }
            }
            let there: BTreeSet<u64> = (0..AGENTS).filter(|n| !n.is_multiple_of(3)).collect();
            assert_eq!(offered, there, "{pass:?}");
        }
    }
}
