//! One pass over the agents that have something free.
//!
//! Coarse-grained as in Mesos: all that an agent has free goes into one offer. Agents come in the order in which the
//! caller gives them (it shuffles); for each, roles are asked by weighted dominant share, then the frameworks of the
//! role by theirs, and the first whom no filter hides it from gets it, which moves them back in the order.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{AgentId, FrameworkId, Resources, RoleName, Scalar};

use super::{AgentFilters, DEFAULT_WEIGHT_MILLIS, Quantities, Share};

/// The least that is worth an offer: either is enough.
#[derive(Debug, Clone, Copy)]
pub struct Minimum {
    /// Processors.
    pub cpus: Scalar,
    /// MiB.
    pub mem: Scalar,
}

impl Minimum {
    /// Whether `free` is worth an offer.
    #[must_use]
    pub fn is_met(&self, free: &Resources) -> bool {
        free.cpus() >= self.cpus || free.mem() >= self.mem
    }
}

/// An agent with free resources that may be offered.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Which.
    pub agent: &'a AgentId,
    /// All that is neither offered nor held there.
    pub free: &'a Resources,
    /// Who refused what.
    pub filters: &'a AgentFilters,
}

/// A framework that takes offers for a role.
#[derive(Debug)]
pub struct Claimant<'a> {
    /// Which.
    pub framework: &'a FrameworkId,
    /// For which of its roles.
    pub role: &'a RoleName,
    /// What it holds for that role, offers included.
    pub held: Quantities,
    /// Filters of another epoch do not count.
    pub epoch: u64,
}

/// All that a pass looks at.
#[derive(Debug)]
pub struct Request<'a> {
    /// In the order in which they are given away.
    pub candidates: Vec<Candidate<'a>>,
    /// Connected, not suppressed.
    pub claimants: Vec<Claimant<'a>>,
    /// What each role holds, also through frameworks that take no offers now.
    pub roles: &'a BTreeMap<RoleName, Quantities>,
    /// Thousandths; 1000 where there is none.
    pub weights: &'a BTreeMap<RoleName, u64>,
    /// What the whole cluster has.
    pub total: &'a Quantities,
    /// Less is kept back.
    pub minimum: Minimum,
}

/// All that is free at an agent, for one framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferPlan {
    /// Whose resources.
    pub agent: AgentId,
    /// To whom.
    pub framework: FrameworkId,
    /// For which role.
    pub role: RoleName,
    /// What.
    pub resources: Resources,
}

struct RoleQueue<'a> {
    held: Quantities,
    weight_millis: u64,
    share: Share,
    members: BTreeSet<(Share, &'a FrameworkId)>,
}

/// Who is to be offered what.
#[must_use]
pub fn allocate(request: Request<'_>, now_ms: u64) -> Vec<OfferPlan> {
    let Request {
        candidates,
        claimants,
        roles,
        weights,
        total,
        minimum,
    } = request;
    let mut queues: BTreeMap<&RoleName, RoleQueue<'_>> = BTreeMap::new();
    let mut books: BTreeMap<(&RoleName, &FrameworkId), (Quantities, Share, u64)> = BTreeMap::new();
    for claimant in claimants {
        let share = Share::dominant(&claimant.held, total, DEFAULT_WEIGHT_MILLIS);
        let queue = queues.entry(claimant.role).or_insert_with(|| {
            let held = roles.get(claimant.role).cloned().unwrap_or_default();
            let weight_millis = weights
                .get(claimant.role)
                .copied()
                .unwrap_or(DEFAULT_WEIGHT_MILLIS);
            let share = Share::dominant(&held, total, weight_millis);
            RoleQueue {
                held,
                weight_millis,
                share,
                members: BTreeSet::new(),
            }
        });
        queue.members.insert((share, claimant.framework));
        books.insert(
            (claimant.role, claimant.framework),
            (claimant.held, share, claimant.epoch),
        );
    }
    let mut order: BTreeSet<(Share, &RoleName)> = queues
        .iter()
        .map(|(role, queue)| (queue.share, *role))
        .collect();

    let mut plans = Vec::new();
    for candidate in candidates {
        if !minimum.is_met(candidate.free) {
            continue;
        }
        let taker = order.iter().find_map(|&(_, role)| {
            let queue = queues.get(role)?;
            let (_, framework) = queue.members.iter().find(|(_, framework)| {
                let epoch = books
                    .get(&(role, *framework))
                    .map_or(0, |(_, _, epoch)| *epoch);
                !candidate
                    .filters
                    .hides(framework, role, candidate.free, now_ms, epoch)
            })?;
            Some((role, *framework))
        });
        let Some((role, framework)) = taker else {
            continue;
        };
        if let (Some(queue), Some((held, share, _))) =
            (queues.get_mut(role), books.get_mut(&(role, framework)))
        {
            order.remove(&(queue.share, role));
            queue.members.remove(&(*share, framework));
            held.add(candidate.free);
            queue.held.add(candidate.free);
            *share = Share::dominant(held, total, DEFAULT_WEIGHT_MILLIS);
            queue.share = Share::dominant(&queue.held, total, queue.weight_millis);
            queue.members.insert((*share, framework));
            order.insert((queue.share, role));
        }
        plans.push(OfferPlan {
            agent: candidate.agent.clone(),
            framework: framework.clone(),
            role: role.clone(),
            resources: candidate.free.clone(),
        });
    }
    plans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    fn counts(
        frameworks: &[(&str, &str)],
        weights: &[(&str, u64)],
        n_agents: usize,
    ) -> BTreeMap<String, usize> {
        let agents: Vec<AgentId> = (0..n_agents).map(|n| id(&format!("a{n:04}"))).collect();
        let free: Resources = "cpus:4;mem:1024;ports:[31000-32000]".parse().unwrap();
        let filters = AgentFilters::default();
        let mut total = Quantities::default();
        agents.iter().for_each(|_| total.add(&free));
        let frameworks: Vec<(FrameworkId, RoleName)> =
            frameworks.iter().map(|(f, r)| (id(f), id(r))).collect();
        let weights = weights
            .iter()
            .map(|(role, weight)| (id(role), *weight))
            .collect();
        let plans = allocate(
            Request {
                candidates: agents
                    .iter()
                    .map(|agent| Candidate {
                        agent,
                        free: &free,
                        filters: &filters,
                    })
                    .collect(),
                claimants: frameworks
                    .iter()
                    .map(|(framework, role)| Claimant {
                        framework,
                        role,
                        held: Quantities::default(),
                        epoch: 0,
                    })
                    .collect(),
                roles: &BTreeMap::new(),
                weights: &weights,
                total: &total,
                minimum: Minimum {
                    cpus: Scalar::from_millis(10),
                    mem: Scalar::from_units(32),
                },
            },
            0,
        );
        let mut counts = BTreeMap::new();
        plans
            .iter()
            .for_each(|plan| *counts.entry(plan.framework.to_string()).or_default() += 1);
        counts
    }

    fn expect(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
        pairs
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect()
    }

    #[test]
    fn frameworks_of_a_role_share_equally() {
        assert_eq!(
            counts(&[("f", "*"), ("g", "*")], &[], 10),
            expect(&[("f", 5), ("g", 5)])
        );
    }

    #[test]
    fn roles_share_by_weight_and_frameworks_divide_their_role() {
        assert_eq!(
            counts(
                &[("f", "x"), ("g", "y"), ("h", "y")],
                &[("x", 3000), ("y", 1000)],
                40
            ),
            expect(&[("f", 30), ("g", 5), ("h", 5)])
        );
    }

    #[test]
    fn a_filter_hides_what_was_refused_and_less_until_it_ends_or_the_epoch_does() {
        let (framework, role): (FrameworkId, RoleName) = (id("f"), id("*"));
        let mut filters = AgentFilters::default();
        filters.refuse(&framework, &role, "cpus:2;mem:64".parse().unwrap(), 100, 1);
        for (offer, now, epoch, hidden) in [
            ("cpus:2;mem:64", 99, 1, true),
            ("cpus:1;mem:64", 99, 1, true),
            ("cpus:2.001;mem:64", 99, 1, false),
            ("cpus:1;disk:1", 99, 1, false),
            ("cpus:2;mem:64", 100, 1, false),
            ("cpus:2;mem:64", 99, 2, false),
        ] {
            assert_eq!(
                filters.hides(&framework, &role, &offer.parse().unwrap(), now, epoch),
                hidden,
                "{offer} {now}"
            );
        }
    }
}
