//! The tree of roles within one pass: who is next, what they may still have, and what a grant changes.
//!
//! ```text
//! root ── a ── (frameworks of a)        each level is sorted by weighted dominant share, offers included
//!      │   └── a/b ── (frameworks of a/b)
//!      └── c ── (frameworks of c)
//! ```
//!
//! As in Mesos' hierarchical sorter, the frameworks of a role that has roles below it are one more child beside
//! those, with weight 1. Order sets hold only what leads to a framework that wants offers; sums hold all.
//!
//! What a node is *owed* is the larger of what its own guarantee lacks and what is owed below it. A claimant may have,
//! beside what is free for all, the sum of each node's *slack* on its way up: what the node's guarantee lacks beyond
//! what is owed to its children. Giving exactly that lowers what is owed by as much, so that nobody's guarantee is
//! used up by somebody else of the same subtree.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mezzo_api::model::RoleName;

use super::{
    DEFAULT_WEIGHT_MILLIS, Quantities, Quota, Share,
    axes::{Amounts, Axes, add},
};

/// A place in the tree.
pub(super) type NodeId = u32;

/// A framework in one role: its place in the request.
pub(super) type ClaimantId = u32;

const ROOT: NodeId = 0;

/// No limit.
pub(super) const UNBOUNDED: i128 = i128::MAX;

#[derive(Debug, Default)]
struct Node {
    parent: Option<NodeId>,
    weight_millis: u64,
    held: Amounts,
    share: Share,
    /// What is below, of nodes that lead to a claimant.
    order: BTreeSet<(Share, NodeId)>,
    /// The claimants, where this stands for the frameworks of a role.
    queue: BTreeSet<(Share, ClaimantId)>,
    /// [`UNBOUNDED`] where there is none. Empty: none at all.
    limit: Amounts,
    /// Empty: none at all.
    guarantee: Amounts,
    /// Empty in a pass without guarantees.
    owed: Amounts,
    owed_below: Amounts,
}

#[derive(Debug)]
struct Holding {
    held: Amounts,
    share: Share,
}

/// All roles of a pass.
#[derive(Debug)]
pub(super) struct RoleTree {
    nodes: Vec<Node>,
    claimants: Vec<Holding>,
    total: Amounts,
    has_limits: bool,
    has_guarantees: bool,
}

impl RoleTree {
    /// From the books: what each role holds itself (not what is below it), weights and quotas, and per claimant its
    /// role and what it holds.
    pub(super) fn new<'a>(
        axes: &Axes<'_>,
        total: &Quantities,
        roles: &'a BTreeMap<RoleName, Quantities>,
        weights: &BTreeMap<RoleName, u64>,
        quotas: &'a BTreeMap<RoleName, Quota>,
        claimants: impl Iterator<Item = (&'a RoleName, &'a Quantities)>,
    ) -> Self {
        let mut tree = Self {
            nodes: vec![Node {
                held: axes.zero(),
                ..Node::default()
            }],
            claimants: Vec::new(),
            total: axes.of(total),
            has_limits: quotas.values().any(|quota| !quota.limits.is_empty()),
            has_guarantees: quotas.values().any(|quota| !quota.guarantees.is_empty()),
        };
        let mut claimed: BTreeMap<&RoleName, Vec<ClaimantId>> = BTreeMap::new();
        for (role, held) in claimants {
            let id = ClaimantId::try_from(tree.claimants.len()).unwrap_or(ClaimantId::MAX);
            claimed.entry(role).or_default().push(id);
            let held = axes.of(held);
            tree.claimants.push(Holding {
                share: Share::of(&held, &tree.total, DEFAULT_WEIGHT_MILLIS),
                held,
            });
        }
        let names: BTreeSet<&RoleName> = claimed
            .keys()
            .copied()
            .chain(roles.keys())
            .chain(quotas.keys())
            .collect();
        let mut by_path: HashMap<&str, NodeId> = HashMap::new();
        for name in names {
            let role = tree.ensure(name.as_str(), &mut by_path, axes, weights);
            let held = roles.get(name).map(|held| axes.of(held));
            if let Some(held) = &held {
                let mut at = Some(role);
                while let Some(id) = at {
                    let node = &mut tree.nodes[id as usize];
                    add(&mut node.held, held);
                    at = node.parent;
                }
            }
            if let Some(ids) = claimed.get(name) {
                let leaf = tree.push(Some(role), DEFAULT_WEIGHT_MILLIS, axes);
                let queue = ids
                    .iter()
                    .map(|id| (tree.claimants[*id as usize].share, *id))
                    .collect();
                let node = &mut tree.nodes[leaf as usize];
                node.queue = queue;
                if let Some(held) = held {
                    node.held = held;
                }
            }
            if let Some(quota) = quotas.get(name) {
                tree.set_quota(role, quota, axes);
            }
        }
        tree.sort();
        tree
    }

    /// The frameworks in order, until `wanted` says yes; `enter` may pass over all frameworks of a role.
    pub(super) fn seek(
        &self,
        enter: &mut impl FnMut(NodeId) -> bool,
        wanted: &mut impl FnMut(NodeId, ClaimantId) -> bool,
    ) -> Option<(NodeId, ClaimantId)> {
        self.seek_below(ROOT, enter, wanted)
    }

    fn seek_below(
        &self,
        at: NodeId,
        enter: &mut impl FnMut(NodeId) -> bool,
        wanted: &mut impl FnMut(NodeId, ClaimantId) -> bool,
    ) -> Option<(NodeId, ClaimantId)> {
        let node = &self.nodes[at as usize];
        if !node.queue.is_empty() && enter(at) {
            let found = node
                .queue
                .iter()
                .find(|(_, claimant)| wanted(at, *claimant));
            if let Some((_, claimant)) = found {
                return Some((at, *claimant));
            }
        }
        node.order
            .iter()
            .find_map(|(_, child)| self.seek_below(*child, enter, wanted))
    }

    /// The frameworks that a leaf stands for.
    pub(super) fn claimants_at(&self, leaf: NodeId) -> impl Iterator<Item = ClaimantId> {
        self.nodes[leaf as usize]
            .queue
            .iter()
            .map(|(_, claimant)| *claimant)
    }

    /// Whether a quota of any kind is set.
    pub(super) fn has_quotas(&self) -> bool {
        self.has_limits || self.has_guarantees
    }

    /// Whether somebody is owed something.
    pub(super) fn owes(&self) -> bool {
        self.nodes[ROOT as usize].owed.iter().any(|owed| *owed > 0)
    }

    /// All that is owed; empty without guarantees.
    pub(super) fn owed(&self) -> &[i128] {
        &self.nodes[ROOT as usize].owed
    }

    /// Whether some guarantee names that resource.
    pub(super) fn is_guarded(&self, axis: usize) -> bool {
        self.has_guarantees
            && self
                .nodes
                .iter()
                .any(|node| node.guarantee.get(axis).is_some_and(|amount| *amount > 0))
    }

    /// The most that frameworks at that leaf may have more: by limits, and by what is owed to them.
    pub(super) fn allowance(&self, leaf: NodeId, room: &mut [i128], entitled: &mut [i128]) {
        room.fill(UNBOUNDED);
        entitled.fill(0);
        let mut at = Some(leaf);
        while let Some(id) = at {
            let node = &self.nodes[id as usize];
            for (axis, limit) in node.limit.iter().enumerate() {
                if *limit != UNBOUNDED {
                    room[axis] = room[axis].min((limit - node.held[axis]).max(0));
                }
            }
            for (axis, guarantee) in node.guarantee.iter().enumerate() {
                let slack = guarantee - node.held[axis] - node.owed_below[axis];
                entitled[axis] += slack.max(0);
            }
            at = node.parent;
        }
    }

    /// The same within the lowest `n_roles` roles alone, and only by limits: for what counts for those above already.
    pub(super) fn room_within(&self, leaf: NodeId, n_roles: usize, room: &mut [i128]) {
        room.fill(UNBOUNDED);
        let mut at = self.nodes[leaf as usize].parent;
        for _ in 0..n_roles {
            let Some(id) = at else { break };
            let node = &self.nodes[id as usize];
            for (axis, limit) in node.limit.iter().enumerate() {
                if *limit != UNBOUNDED {
                    room[axis] = room[axis].min((limit - node.held[axis]).max(0));
                }
            }
            at = node.parent;
        }
    }

    /// Books `given` for a claimant, and puts all on the way up where they belong now. It counts for the lowest `n_roles`
    /// roles alone: those above have it already, as a reservation.
    pub(super) fn grant(
        &mut self,
        leaf: NodeId,
        claimant: ClaimantId,
        given: &[i128],
        n_roles: usize,
    ) {
        let holding = &mut self.claimants[claimant as usize];
        add(&mut holding.held, given);
        let node = &mut self.nodes[leaf as usize];
        if node.queue.len() > 1 {
            node.queue.remove(&(holding.share, claimant));
            holding.share = Share::of(&holding.held, &self.total, DEFAULT_WEIGHT_MILLIS);
            node.queue.insert((holding.share, claimant));
        }
        let mut at = leaf;
        // The leaf stands beside the roles: where none counts it, it does not either.
        let mut counts = if n_roles == 0 {
            0
        } else {
            n_roles.saturating_add(1)
        };
        loop {
            let node = &mut self.nodes[at as usize];
            if counts > 0 {
                counts -= 1;
                add(&mut node.held, given);
            }
            let Some(parent) = node.parent else { break };
            self.settle(at);
            // Alone among its equals, it needs no order.
            if self.nodes[parent as usize].order.len() > 1 {
                let node = &mut self.nodes[at as usize];
                let former = node.share;
                node.share = Share::of(&node.held, &self.total, node.weight_millis);
                let share = node.share;
                let order = &mut self.nodes[parent as usize].order;
                order.remove(&(former, at));
                order.insert((share, at));
            }
            at = parent;
        }
    }

    /// What is owed there now, and what that changes one above.
    fn settle(&mut self, at: NodeId) {
        if !self.has_guarantees {
            return;
        }
        let Some(parent) = self.nodes[at as usize].parent else {
            return;
        };
        for axis in 0..self.total.len() {
            let node = &mut self.nodes[at as usize];
            let own = node.guarantee.get(axis).copied().unwrap_or(0);
            let owed = (own - node.held[axis]).max(node.owed_below[axis]).max(0);
            let change = owed - std::mem::replace(&mut node.owed[axis], owed);
            let above = &mut self.nodes[parent as usize];
            above.owed_below[axis] += change;
            if parent == ROOT {
                above.owed[axis] = above.owed_below[axis];
            }
        }
    }

    fn ensure<'a>(
        &mut self,
        path: &'a str,
        by_path: &mut HashMap<&'a str, NodeId>,
        axes: &Axes<'_>,
        weights: &BTreeMap<RoleName, u64>,
    ) -> NodeId {
        if let Some(id) = by_path.get(path) {
            return *id;
        }
        let parent = match path.rsplit_once('/') {
            Some((above, _)) => self.ensure(above, by_path, axes, weights),
            None => ROOT,
        };
        let weight = weights.get(path).copied().unwrap_or(DEFAULT_WEIGHT_MILLIS);
        let id = self.push(Some(parent), weight, axes);
        by_path.insert(path, id);
        id
    }

    fn push(&mut self, parent: Option<NodeId>, weight_millis: u64, axes: &Axes<'_>) -> NodeId {
        self.nodes.push(Node {
            parent,
            weight_millis,
            held: axes.zero(),
            ..Node::default()
        });
        NodeId::try_from(self.nodes.len() - 1).unwrap_or(NodeId::MAX)
    }

    fn set_quota(&mut self, at: NodeId, quota: &Quota, axes: &Axes<'_>) {
        let node = &mut self.nodes[at as usize];
        if !quota.limits.is_empty() {
            node.limit = vec![UNBOUNDED; axes.len()];
        }
        if !quota.guarantees.is_empty() {
            node.guarantee = axes.zero();
        }
        for (name, limit) in &quota.limits {
            if let Some(axis) = axes.position(name) {
                node.limit[axis] = i128::from(limit.millis());
            }
        }
        for (name, guarantee) in &quota.guarantees {
            if let Some(axis) = axes.position(name) {
                node.guarantee[axis] = i128::from(guarantee.millis());
            }
        }
    }

    /// Shares, order sets and what is owed; children stand behind their parents in the list.
    fn sort(&mut self) {
        let n_axes = self.total.len();
        if self.has_guarantees {
            for node in &mut self.nodes {
                node.owed = vec![0; n_axes];
                node.owed_below = vec![0; n_axes];
            }
        }
        for at in (1..self.nodes.len()).rev() {
            let id = NodeId::try_from(at).unwrap_or(NodeId::MAX);
            self.settle(id);
            let node = &mut self.nodes[at];
            node.share = Share::of(&node.held, &self.total, node.weight_millis);
            let (share, parent) = (node.share, node.parent.unwrap_or(ROOT));
            if !(node.order.is_empty() && node.queue.is_empty()) {
                self.nodes[parent as usize].order.insert((share, id));
            }
        }
    }
}
