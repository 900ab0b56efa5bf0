//! What readers see: a snapshot that shares with the former one all that did not change.
//!
//! Lists, metrics and the cluster's sums are made from it by whoever reads, never by the core. Only agents and
//! frameworks that were touched since are copied.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use mezzo_api::model::{
    AgentId, AgentInfo, FrameworkId, FrameworkInfo, NodeUsage, OperationId, OperationStatus, Pools,
    Resources, RoleName, TaskId, WindowName,
};

use super::{
    Core, KnownTask, Ledger, Supply, Table, TaskEntry, WindowView, agents::AgentLink,
    drain::DrainStage, frameworks::Interest,
};
use crate::{
    allocator::{DEFAULT_WEIGHT_MILLIS, PassRecord, Quantities, Quota, quota},
    store::DrainRecord,
};

/// How an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentState {
    /// Its stream is open.
    Connected,
    /// It broke.
    Disconnected,
    /// For too long.
    Unreachable,
    /// Not seen since the master's start.
    Recovering,
}

/// One machine.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// Which.
    pub agent_id: AgentId,
    /// As it last registered.
    pub info: Arc<AgentInfo>,
    /// How it stands.
    pub state: AgentState,
    /// First registration.
    pub registered_at_ms: u64,
    /// Held by tasks.
    pub allocated: Pools,
    /// In offers.
    pub offered: Pools,
    /// What it lends: all, held by tasks, in offers.
    pub lent: Option<(Resources, Resources, Resources)>,
    /// Of the machine.
    pub usage: Option<NodeUsage>,
    /// Not ended, or not acknowledged.
    pub n_tasks: usize,
    /// Out of service, and how far that has come.
    pub drain: Option<(DrainStage, DrainRecord)>,
    /// Nothing of it is offered since then, by an operator's word; Unix milliseconds.
    pub deactivated_since_ms: Option<u64>,
    /// It waits to be given up since then, Unix milliseconds.
    pub loss_waits_since_ms: Option<u64>,
    /// The maintenance window that it is in.
    pub window: Option<WindowName>,
}

/// One framework.
#[derive(Debug, Clone)]
pub struct FrameworkView {
    /// Which.
    pub framework_id: FrameworkId,
    /// As it last subscribed.
    pub info: FrameworkInfo,
    /// Its stream is open.
    pub connected: bool,
    /// First subscription.
    pub registered_at_ms: u64,
    /// Held by tasks.
    pub allocated: Quantities,
    /// In offers.
    pub offered: Quantities,
    /// Of what agents lend: held by its tasks, in its offers.
    pub lent: (Quantities, Quantities),
    /// Not ended, or not acknowledged.
    pub tasks: Table<TaskId, TaskEntry>,
    /// Ended.
    pub ended: Table<TaskId, Arc<KnownTask>>,
    /// Roles for which it takes no offers.
    pub suppressed: Vec<RoleName>,
}

/// One role that is used or has a weight.
#[derive(Debug, Clone)]
pub struct RoleView {
    /// Which.
    pub name: RoleName,
    /// 1000 by default.
    pub weight_millis: u64,
    /// Subscribed to it.
    pub frameworks: Vec<FrameworkId>,
    /// Offers included, and what is reserved for it and free; what is below the role not.
    pub held: Quantities,
    /// The same with all roles below it: what its quota counts.
    pub held_within: Quantities,
    /// Empty where it has none.
    pub quota: Quota,
}

/// What passes over all agents gave to frameworks, and why no more; the newest last.
pub type PassRecords = BTreeMap<(FrameworkId, RoleName), Vec<PassRecord>>;

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named for what it counts")]
pub struct Counters {
    pub events: u64,
    pub passes: u64,
    pub agent_registrations: u64,
    pub agents_lost: u64,
    pub subscriptions: u64,
    pub offers_made: u64,
    pub offers_accepted: u64,
    pub offers_declined: u64,
    pub offers_rescinded: u64,
    pub tasks_launched: u64,
    pub tasks_refused: u64,
    pub tasks_ended: u64,
    pub statuses_received: u64,
    pub updates_sent: u64,
    pub acknowledgements: u64,
    pub kills: u64,
    pub reconciliations: u64,
}

/// All that readers may know.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// When it was made, Unix milliseconds.
    pub at_ms: u64,
    /// By id.
    pub agents: Table<AgentId, Arc<AgentView>>,
    /// By id.
    pub frameworks: Arc<BTreeMap<FrameworkId, Arc<FrameworkView>>>,
    /// By name.
    pub roles: Arc<BTreeMap<RoleName, RoleView>>,
    /// Of roles that frameworks want offers for.
    pub records: Arc<PassRecords>,
    /// Planned work, by name.
    pub windows: Arc<BTreeMap<WindowName, WindowView>>,
    /// What operators asked for lately, and what became of it.
    pub operations: Arc<BTreeMap<OperationId, OperationStatus>>,
    /// Of all admitted agents.
    pub total: Quantities,
    /// Outstanding.
    pub n_offers: usize,
    /// Since the start.
    pub counters: Counters,
}

/// The last snapshot, and what changed since.
#[derive(Debug, Default)]
pub(super) struct Cache {
    last: Snapshot,
    agents: HashSet<AgentId>,
    frameworks: HashSet<FrameworkId>,
    /// A pass was recorded.
    records: bool,
    /// One of them changed.
    windows: bool,
}

impl Cache {
    /// Nothing was shown yet.
    pub(super) fn restore() -> Self {
        Self {
            windows: true,
            ..Self::default()
        }
    }

    pub(super) fn touch_windows(&mut self) {
        self.windows = true;
    }

    pub(super) fn touch_agent(&mut self, id: &AgentId) {
        if !self.agents.contains(id) {
            self.agents.insert(id.clone());
        }
    }

    pub(super) fn touch_records(&mut self) {
        self.records = true;
    }

    pub(super) fn touch_framework(&mut self, id: &FrameworkId) {
        if !self.frameworks.contains(id) {
            self.frameworks.insert(id.clone());
        }
    }
}

pub(super) fn snapshot(core: &mut Core, now: u64) -> Snapshot {
    let mut cache = std::mem::take(&mut core.view);
    let agents = std::mem::take(&mut cache.agents);
    if !agents.is_empty() {
        let table = &mut cache.last.agents;
        for id in agents {
            match agent_view(core, &id) {
                Some(view) => table.insert(id, Arc::new(view)),
                None => table.remove(&id),
            };
        }
    }
    let frameworks = std::mem::take(&mut cache.frameworks);
    if !frameworks.is_empty() {
        let map = Arc::make_mut(&mut cache.last.frameworks);
        for id in frameworks {
            match framework_view(core, &id) {
                Some(view) => map.insert(id, Arc::new(view)),
                None => map.remove(&id),
            };
        }
    }
    if std::mem::take(&mut cache.records) {
        cache.last.records = Arc::new(records(core));
    }
    if std::mem::take(&mut cache.windows) {
        cache.last.windows = Arc::new(core.windows.views(now));
    }
    cache.last.roles = Arc::new(role_views(core));
    cache.last.at_ms = now;
    cache.last.operations = core.operations.shared();
    cache.last.total = core.total.clone();
    cache.last.n_offers = core.offers.len();
    cache.last.counters = core.counters;
    let snapshot = cache.last.clone();
    core.view = cache;
    snapshot
}

fn agent_view(core: &Core, id: &AgentId) -> Option<AgentView> {
    let entry = core.agents.get(id)?;
    Some(AgentView {
        agent_id: id.clone(),
        info: Arc::clone(&entry.info),
        state: match entry.link {
            AgentLink::Introduced { .. } | AgentLink::Connected { .. } => AgentState::Connected,
            AgentLink::Disconnected { .. } => AgentState::Disconnected,
            AgentLink::Unreachable | AgentLink::Missing => AgentState::Unreachable,
            AgentLink::Recovering { .. } => AgentState::Recovering,
        },
        registered_at_ms: entry.registered_at_ms,
        allocated: entry.ledger.in_use().into_owned(),
        offered: entry.ledger.offered().clone(),
        lent: lent(entry.ledger(Supply::Revocable)),
        usage: entry.usage.clone(),
        n_tasks: entry.tasks.len(),
        drain: entry.drain_stage().zip(entry.drain),
        deactivated_since_ms: entry.deactivated_since_ms,
        loss_waits_since_ms: entry.loss_waits_since_ms,
        window: core.windows.of(id).cloned(),
    })
}

/// `None` when nothing is lent, held or offered.
fn lent(ledger: &Ledger) -> Option<(Resources, Resources, Resources)> {
    let all = [ledger.total(), ledger.allocated(), ledger.offered()];
    let lends = all.iter().any(|pools| !pools.is_empty());
    let [total, allocated, offered] = all.map(Pools::flat);
    lends.then_some((total, allocated, offered))
}

fn framework_view(core: &Core, id: &FrameworkId) -> Option<FrameworkView> {
    let entry = core.frameworks.get(id)?;
    // What it holds is in tasks or in offers.
    let sums = |supply| {
        let offered = entry.offered(supply).clone();
        let mut allocated = Quantities::default();
        for role in entry.roles.values() {
            allocated.merge(role.held(supply));
        }
        allocated.part(&offered);
        (allocated, offered)
    };
    let (allocated, offered) = sums(Supply::Ordinary);
    Some(FrameworkView {
        framework_id: id.clone(),
        info: entry.info.clone(),
        connected: entry.conn().is_some(),
        registered_at_ms: entry.registered_at_ms,
        allocated,
        offered,
        lent: sums(Supply::Revocable),
        tasks: entry.tasks.clone(),
        ended: entry.ended.clone(),
        suppressed: entry
            .roles
            .iter()
            .filter(|(_, role)| role.interest == Interest::Suppressed)
            .map(|(name, _)| name.clone())
            .collect(),
    })
}

fn role_views(core: &Core) -> BTreeMap<RoleName, RoleView> {
    let mut roles: BTreeMap<RoleName, RoleView> = BTreeMap::new();
    let blank = |name: &RoleName| RoleView {
        name: name.clone(),
        weight_millis: core
            .weights
            .get(name)
            .copied()
            .unwrap_or(DEFAULT_WEIGHT_MILLIS),
        frameworks: Vec::new(),
        held: core.roles.get(name).cloned().unwrap_or_default(),
        held_within: Quantities::default(),
        quota: core.quotas.get(name).cloned().unwrap_or_default(),
    };
    let named = core.weights.keys().chain(core.roles.keys());
    for name in named.chain(core.quotas.keys()) {
        roles.entry(name.clone()).or_insert_with(|| blank(name));
    }
    for (id, entry) in &core.frameworks {
        for (name, role) in &entry.roles {
            if role.interest != Interest::Left {
                roles
                    .entry(name.clone())
                    .or_insert_with(|| blank(name))
                    .frameworks
                    .push(id.clone());
            }
        }
    }
    for (name, held) in &core.roles {
        let name = name.as_str();
        for within in std::iter::once(name).chain(quota::ancestors(name)) {
            if let Some(role) = roles.get_mut(within) {
                role.held_within.merge(held);
            }
        }
    }
    roles
}

fn records(core: &Core) -> PassRecords {
    let mut records = PassRecords::new();
    for (id, entry) in &core.frameworks {
        for (name, role) in &entry.roles {
            if !role.records.is_empty() {
                let kept = role.records.iter().copied().collect();
                records.insert((id.clone(), name.clone()), kept);
            }
        }
    }
    records
}
