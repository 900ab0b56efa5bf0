//! The whole cluster and single frameworks, as operators read them.

use std::collections::BTreeMap;

use mezzo_api::{model::NodeUsage, proto};

use super::count;
use crate::{
    actor::Context,
    allocator::{DEFAULT_WEIGHT_MILLIS, Quantities, Share},
    state::{AgentState, FrameworkView, Snapshot},
};

/// What all agents have and do, and who is there.
pub(super) fn cluster(snapshot: &Snapshot, context: &Context) -> proto::Cluster {
    let (mut total, mut allocated, mut offered) = (
        Quantities::default(),
        Quantities::default(),
        Quantities::default(),
    );
    let mut lent: Option<[Quantities; 3]> = None;
    let mut used = NodeUsage::default();
    let (mut connected, mut away) = (0, 0);
    for view in snapshot.agents.values() {
        match view.state {
            AgentState::Connected => {
                connected += 1;
                if let Some(usage) = &view.usage {
                    add_usage(&mut used, usage);
                }
            }
            AgentState::Disconnected | AgentState::Unreachable | AgentState::Recovering => {
                away += 1
            }
        }
        match view.state {
            AgentState::Connected | AgentState::Disconnected => {
                total.add(&view.info.resources);
                allocated.add_pools(&view.allocated);
                offered.add_pools(&view.offered);
                if let Some((total, allocated, offered)) = &view.lent {
                    let sums = lent.get_or_insert_default();
                    for (sum, more) in sums.iter_mut().zip([total, allocated, offered]) {
                        sum.add(more);
                    }
                }
            }
            AgentState::Unreachable | AgentState::Recovering => {}
        }
    }
    let mut states: BTreeMap<&'static str, u32> = BTreeMap::new();
    let tasks = snapshot
        .frameworks
        .values()
        .flat_map(|view| view.tasks.values());
    for state in tasks
        .map(|entry| entry.state)
        .filter(|state| !state.is_terminal())
    {
        *states.entry(state.name()).or_default() += 1;
    }
    let frameworks = snapshot
        .frameworks
        .values()
        .filter(|view| view.connected)
        .count();
    proto::Cluster {
        term: context.term,
        master_id: context.master_id.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at_ms: context.started_at_ms,
        agents_connected: connected,
        agents_disconnected: away,
        frameworks_connected: count(frameworks),
        frameworks_disconnected: count(snapshot.frameworks.len() - frameworks),
        total: total.to_resources().into(),
        allocated: allocated.to_resources().into(),
        offered: offered.to_resources().into(),
        used: Some(used.into()),
        tasks_by_state: states
            .into_iter()
            .map(|(name, n)| (name.to_owned(), n))
            .collect(),
        revocable: lent.map(|[total, allocated, offered]| proto::RevocableResources {
            total: total.to_resources().into(),
            allocated: allocated.to_resources().into(),
            offered: offered.to_resources().into(),
        }),
    }
}

fn add_usage(sum: &mut NodeUsage, usage: &NodeUsage) {
    let add = |sum: &mut Option<u64>, more: Option<u64>| {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0).saturating_add(more));
        }
    };
    sum.sampled_at_ms = sum.sampled_at_ms.max(usage.sampled_at_ms);
    add(&mut sum.cpu_millis, usage.cpu_millis);
    add(&mut sum.memory_total_bytes, usage.memory_total_bytes);
    add(&mut sum.memory_used_bytes, usage.memory_used_bytes);
    add(&mut sum.disk_total_bytes, usage.disk_total_bytes);
    add(&mut sum.disk_used_bytes, usage.disk_used_bytes);
    add(&mut sum.agent_memory_bytes, usage.agent_memory_bytes);
    add(&mut sum.agent_cpu_total_us, usage.agent_cpu_total_us);
}

/// One framework on the wire.
pub(super) fn framework(view: &FrameworkView, total: &Quantities) -> proto::Framework {
    let mut held = view.allocated.clone();
    held.merge(&view.offered);
    proto::Framework {
        info: Some(view.info.clone().into()),
        connected: view.connected,
        registered_at_ms: view.registered_at_ms,
        allocated: view.allocated.to_resources().into(),
        offered: view.offered.to_resources().into(),
        tasks: count(
            view.tasks
                .values()
                .filter(|entry| !entry.state.is_terminal())
                .count(),
        ),
        dominant_share_ppm: Share::dominant(&held, total, DEFAULT_WEIGHT_MILLIS)
            .parts_per_million(),
        suppressed_roles: view.suppressed.iter().map(ToString::to_string).collect(),
        revocable_allocated: view.lent.0.to_resources().into(),
        revocable_offered: view.lent.1.to_resources().into(),
    }
}
