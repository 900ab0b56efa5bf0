//! A pass of the allocator: what it is asked, what it decided, and the offers that come of it.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{AgentId, FrameworkId, Offer, OfferId, RoleName};

use super::{
    ConnId, Core, Effect, Pass, Pending, Supply, ToFramework, Turn,
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
                bundle.held.add_pools(&resources.exclusive());
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
}
