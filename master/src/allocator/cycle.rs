//! One pass over the agents that have something free.
//!
//! Coarse-grained as in Mesos: all that an agent has free goes into one offer, unless a quota cuts it. Agents come in
//! the order in which the caller gives them (it shuffles). First, where something is owed to a guarantee, each goes to
//! those to whom it is owed, and no further than that. Then, for each, frameworks are asked in the order of the tree
//! of roles, and the first from whom nothing hides it gets it, which moves it and its roles back in the order. What is
//! still owed then is not offered to anybody else. What is reserved goes along to those of its role and below it, and to
//! nobody else (`reserved`). A shared volume goes along with each part that is given to who may have it.
//!
//! For every framework that got nothing a [`Tally`] tells why.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
};

use mezzo_api::model::{
    AgentId, AgentInfo, FrameworkId, Pools, Resources, RoleName, Scalar, Value,
};

use super::{
    AgentFilters, Constraints, Minimum, Quantities, Quota, Tally,
    axes::{Amounts, Axes},
    filters::ClaimantKey,
    reserved,
    tree::{ClaimantId, NodeId, RoleTree, UNBOUNDED},
};
use crate::planted::{Bug, planted};

/// An agent with free resources that may be offered.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Which.
    pub agent: &'a AgentId,
    /// Of the machine.
    pub info: &'a AgentInfo,
    /// All that is neither offered nor held there.
    pub free: &'a Pools,
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
    /// The same as a number, in filters.
    pub key: ClaimantKey,
    /// What it holds for that role, offers included.
    pub held: &'a Quantities,
    /// Filters of another epoch do not count.
    pub epoch: u64,
    /// It can deal with volumes that several tasks have at once; others never hear of these.
    pub shares: bool,
    /// Which agents it takes, and how little is too little for it.
    pub constraints: Option<&'a Constraints>,
}

/// All that a pass looks at.
#[derive(Debug)]
pub struct Request<'a> {
    /// In the order in which they are given away.
    pub candidates: Vec<Candidate<'a>>,
    /// Connected, not suppressed.
    pub claimants: Vec<Claimant<'a>>,
    /// What each role holds itself, also through frameworks that take no offers now, and what is reserved for it and idle.
    pub roles: &'a BTreeMap<RoleName, Quantities>,
    /// Thousandths; 1000 where there is none.
    pub weights: &'a BTreeMap<RoleName, u64>,
    /// Guarantees and limits.
    pub quotas: &'a BTreeMap<RoleName, Quota>,
    /// What the whole cluster has.
    pub total: &'a Quantities,
    /// What is free and not reserved at all agents that could be offered, candidates or not. Looked at only where there
    /// are guarantees.
    pub unallocated: &'a Quantities,
    /// Less is kept back.
    pub minimum: &'a Minimum,
}

/// What an agent has free, or a part of it, for one framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferPlan {
    /// Whose resources, by its place in the request.
    pub candidate: usize,
    /// The same.
    pub agent: AgentId,
    /// To whom.
    pub framework: FrameworkId,
    /// For which role.
    pub role: RoleName,
    /// The same two by their place in the request.
    pub claimant: usize,
    /// What.
    pub resources: Pools,
}

/// What comes of a pass.
#[derive(Debug, Default)]
pub struct Outcome {
    /// In the order of the decisions.
    pub plans: Vec<OfferPlan>,
    /// One per claimant of the request.
    pub tallies: Vec<Tally>,
    /// Candidates that every claimant has refused, with the time when the first filter ends.
    pub quiet: Vec<(usize, u64)>,
}

/// Who is to be offered what.
#[must_use]
pub fn allocate(request: &Request<'_>, now_ms: u64) -> Outcome {
    let quota_names = request.quotas.values().flat_map(|quota| {
        let names = quota.guarantees.keys().chain(quota.limits.keys());
        names.map(String::as_str)
    });
    let axes = Axes::new(
        request
            .total
            .iter()
            .map(|(name, _)| name)
            .chain(quota_names),
    );
    let tree = RoleTree::new(
        &axes,
        request.total,
        request.roles,
        request.weights,
        request.quotas,
        request
            .claimants
            .iter()
            .map(|claimant| (claimant.role, claimant.held)),
    );
    let guarded = (0..axes.len()).map(|axis| tree.is_guarded(axis)).collect();
    let mut surplus = axes.of(request.unallocated);
    for (free, owed) in surplus.iter_mut().zip(tree.owed()) {
        *free -= owed;
    }
    let pass = Pass {
        request,
        now_ms,
        guarded,
        room: axes.zero(),
        entitled: axes.zero(),
        scratch: axes.zero(),
        axes,
        tree,
        surplus,
        rests: vec![None; request.candidates.len()],
        passed_over: HashMap::new(),
        outcome: Outcome {
            tallies: vec![Tally::default(); request.claimants.len()],
            ..Outcome::default()
        },
    };
    pass.run()
}

/// To whom a pass gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Those to whom something is owed, as much as that.
    Owed,
    /// Everybody, of what is not owed to others.
    Fair,
}

/// Why a claimant does not take what could be given to it.
enum Verdict {
    Takes,
    Refused { until_ms: u64 },
    Unfit,
    TooLittle,
}

struct Pass<'a> {
    request: &'a Request<'a>,
    now_ms: u64,
    axes: Axes<'a>,
    tree: RoleTree,
    /// By axis: whether a guarantee names it.
    guarded: Vec<bool>,
    /// What is free beyond what is owed, by axis; below zero where more is owed than there is.
    surplus: Amounts,
    /// What is left of candidates of which something was given away.
    rests: Vec<Option<Pools>>,
    room: Amounts,
    entitled: Amounts,
    scratch: Amounts,
    /// Agents that a quota kept from all frameworks of a role, by leaf.
    passed_over: HashMap<NodeId, PassedOver>,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, Default)]
struct PassedOver {
    by_limit: u32,
    for_others: u32,
    reserved: u32,
}

impl Pass<'_> {
    fn run(mut self) -> Outcome {
        if self.tree.owes() {
            for at in 0..self.request.candidates.len() {
                self.give(at, Stage::Owed);
            }
        }
        for at in 0..self.request.candidates.len() {
            self.give(at, Stage::Fair);
        }
        for (leaf, passed) in &self.passed_over {
            for claimant in self.tree.claimants_at(*leaf) {
                let tally = &mut self.outcome.tallies[claimant as usize];
                tally.over_limit += passed.by_limit;
                tally.kept_for_others += passed.for_others;
                tally.reserved_for_others += passed.reserved;
            }
        }
        self.outcome
    }

    /// Gives a candidate away, in parts where quotas cut it.
    fn give(&mut self, at: usize, stage: Stage) {
        let mut first_look = true;
        loop {
            let request = self.request;
            let candidate = &request.candidates[at];
            let rest = self.rests[at].take();
            let free = rest.as_ref().unwrap_or(candidate.free);
            let found = if self.request.minimum.is_met(free) {
                self.next_taker(at, free, stage, first_look)
            } else {
                None
            };
            let Some((leaf, claimant, given)) = found else {
                self.rests[at] = rest;
                return;
            };
            first_look = false;
            let taker = &request.claimants[claimant as usize];
            let left = match &given {
                Cow::Borrowed(_) => Pools::default(),
                Cow::Owned(part) => free.without(part).unwrap_or_default(),
            };
            let given = given.into_owned();
            self.book(leaf, claimant, &given);
            self.outcome.tallies[claimant as usize].offered += 1;
            self.outcome.plans.push(OfferPlan {
                candidate: at,
                agent: candidate.agent.clone(),
                framework: taker.framework.clone(),
                role: taker.role.clone(),
                claimant: claimant as usize,
                resources: given,
            });
            self.rests[at] = Some(left);
        }
    }

    /// The first in the order who takes something of `free`, and what that is.
    fn next_taker<'f>(
        &mut self,
        at: usize,
        free: &'f Pools,
        stage: Stage,
        first_look: bool,
    ) -> Option<(NodeId, ClaimantId, Cow<'f, Pools>)> {
        let Self {
            request,
            now_ms,
            axes,
            tree,
            guarded,
            surplus,
            room,
            entitled,
            passed_over,
            outcome,
            ..
        } = self;
        let candidate = &request.candidates[at];
        let counts = first_look && stage == Stage::Fair;
        let tallies = RefCell::new(&mut outcome.tallies);
        let mut refusals = 0;
        // Those for whom nothing is there until something changes.
        let blind = Cell::new(0);
        let mut until_ms = u64::MAX;
        let part = RefCell::new(Cow::Borrowed(free));
        let cut = Cell::new(false);
        let found = tree.seek(
            &mut |leaf| {
                if free.is_open() && !tree.has_quotas() {
                    return true;
                }
                let Some(first) = tree.claimants_at(leaf).next() else {
                    return false;
                };
                let role = request.claimants[first as usize].role;
                let seen = if planted(Bug::ReservedToAnybody) {
                    Cow::Borrowed(free)
                } else {
                    free.visible_to(role)
                };
                if matches!(seen, Cow::Owned(_)) && !request.minimum.is_met(&seen) {
                    if counts {
                        passed_over.entry(leaf).or_default().reserved += 1;
                    }
                    blind.set(blind.get() + tree.claimants_at(leaf).count());
                    return false;
                }
                if !tree.has_quotas() {
                    part.replace(seen);
                    return true;
                }
                tree.allowance(leaf, room, entitled);
                let open = portion(axes, seen.open(), stage, guarded, surplus, room, entitled);
                let Some(open) = open else {
                    cut.set(true);
                    return false;
                };
                let cut_open = match open {
                    Cow::Borrowed(_) if seen.is_open() => None,
                    Cow::Borrowed(open) => Some(open.clone()),
                    Cow::Owned(open) => Some(open),
                };
                let portion = match cut_open {
                    None => seen,
                    Some(open) => reserved::within_limits(axes, tree, leaf, role, seen, open, room),
                };
                cut.set(cut.get() || matches!(portion, Cow::Owned(_)));
                let worth = request.minimum.is_met(&portion);
                if counts && !worth {
                    let passed = passed_over.entry(leaf).or_default();
                    if room.contains(&0) {
                        passed.by_limit += 1;
                    } else {
                        passed.for_others += 1;
                    }
                }
                part.replace(portion);
                worth
            },
            &mut |_, id| {
                let claimant = &request.claimants[id as usize];
                let unshared = if claimant.shares {
                    None
                } else {
                    match part.borrow().exclusive() {
                        Cow::Owned(less) => Some(less),
                        Cow::Borrowed(_) => None,
                    }
                };
                let verdict = match &unshared {
                    Some(less) => verdict(claimant, candidate, less, *now_ms),
                    None => verdict(claimant, candidate, &part.borrow(), *now_ms),
                };
                if let Verdict::Refused { until_ms: until } = verdict {
                    refusals += 1;
                    until_ms = until_ms.min(until);
                }
                if counts {
                    tallies.borrow_mut()[id as usize].count(&verdict);
                }
                let takes = matches!(verdict, Verdict::Takes);
                if let Some(less) = unshared.filter(|_| takes) {
                    part.replace(Cow::Owned(less));
                }
                takes
            },
        );
        if found.is_none()
            && counts
            && !cut.get()
            && std::ptr::eq(free, candidate.free)
            && refusals + blind.get() == request.claimants.len()
        {
            outcome.quiet.push((at, until_ms));
        }
        let (leaf, claimant) = found?;
        Some((leaf, claimant, part.into_inner()))
    }

    fn book(&mut self, leaf: NodeId, claimant: ClaimantId, given: &Pools) {
        self.axes.fill(given.open(), &mut self.scratch);
        let owed: Amounts = self.tree.owed().to_vec();
        self.tree.grant(leaf, claimant, &self.scratch, usize::MAX);
        let role = self.request.claimants[claimant as usize].role;
        for (above, amounts) in reserved::amounts(&self.axes, given) {
            let n_roles = reserved::n_below(role, above);
            self.tree.grant(leaf, claimant, &amounts, n_roles);
        }
        for (axis, before) in owed.into_iter().enumerate() {
            let paid = before - self.tree.owed()[axis];
            self.surplus[axis] -= self.scratch[axis] - paid;
        }
    }
}

impl Tally {
    fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Takes => {}
            Verdict::Refused { .. } => self.declined += 1,
            Verdict::Unfit => self.unfit += 1,
            Verdict::TooLittle => self.too_little += 1,
        }
    }
}

fn verdict(
    claimant: &Claimant<'_>,
    candidate: &Candidate<'_>,
    offer: &Pools,
    now_ms: u64,
) -> Verdict {
    let hidden = candidate
        .filters
        .hides(claimant.key, offer, now_ms, claimant.epoch);
    match (hidden, claimant.constraints) {
        (Some(until_ms), _) => Verdict::Refused { until_ms },
        (None, None) => Verdict::Takes,
        (None, Some(constraints)) if !constraints.admits(candidate.info) => Verdict::Unfit,
        (None, Some(constraints)) if !constraints.is_enough(offer) => Verdict::TooLittle,
        (None, Some(_)) => Verdict::Takes,
    }
}

/// What of `free` may go to frameworks with that room and that claim on guarantees: all of it where nothing cuts it,
/// `None` where there is nothing for them in this stage.
fn portion<'f>(
    axes: &Axes<'_>,
    free: &'f Resources,
    stage: Stage,
    guarded: &[bool],
    surplus: &[i128],
    room: &[i128],
    entitled: &[i128],
) -> Option<Cow<'f, Resources>> {
    let mut pays = false;
    let mut part = Cow::Borrowed(free);
    for (name, value) in free.iter() {
        let (Value::Scalar(have), Some(axis)) = (value, axes.position(name)) else {
            continue;
        };
        let have = i128::from(have.millis());
        let spare = if guarded[axis] {
            surplus[axis].max(0)
        } else {
            UNBOUNDED
        };
        let most = match stage {
            // What is not owed goes along where it is not owed to others either.
            Stage::Owed if entitled[axis] > 0 => entitled[axis],
            Stage::Owed => spare,
            Stage::Fair => spare.saturating_add(entitled[axis]),
        };
        let most = most.min(room[axis]);
        pays |= entitled[axis] > 0 && most > 0;
        if most < have {
            let cut = Scalar::from_millis(i64::try_from(most).unwrap_or(i64::MAX));
            part = Cow::Owned(part.into_owned().with_scalar(name, cut));
        }
    }
    match stage {
        Stage::Owed if !pays => None,
        Stage::Owed | Stage::Fair => Some(part),
    }
}
