//! Random clusters: whatever the books say, a pass gives only what is free, minds limits, guarantees and filters, and
//! leaves nothing that somebody would take.

use proptest::prelude::*;

use super::*;
use crate::allocator::quota::{ancestors, is_within};

const ROLES: [&str; 7] = ["*", "a", "a/x", "a/x/deep", "a/y", "b", "b/z"];

fn quota() -> impl Strategy<Value = (usize, u64, u64, u64)> {
    (0..ROLES.len(), 0..12_u64, 0..3_u64, 0..8_u64)
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let agents = proptest::collection::vec((0..8_u64, 0..512_u64, 0..4_u64, 0..ROLES.len()), 1..8);
    let clients = proptest::collection::vec((0..ROLES.len(), 0..6_u64, 0..600_u64, 0..5_u8), 1..8);
    let refusals = proptest::collection::vec((0..8_usize, 0..8_usize), 0..12);
    let weights = proptest::collection::vec((0..ROLES.len(), 1..5000_u64), 0..4);
    let quotas = proptest::collection::vec(quota(), 0..4);
    (agents, clients, refusals, weights, quotas).prop_map(
        |(agents, clients, refusals, weights, quotas)| {
            let mut cluster = Cluster::default();
            for (cpus, mem, reserved, role) in agents {
                let mut has = format!("cpus:{cpus}.5;mem:{mem};ports:[1-9]");
                if reserved > 1 && ROLES[role] != "*" {
                    has += &format!(";cpus({}):{reserved};ports({0}):[20-29]", ROLES[role]);
                }
                cluster.add_agent(&has);
                // Every other one that has reserved something has a volume for all of its role, too.
                if reserved == 2 && ROLES[role] != "*" {
                    cluster.add_shared(ROLES[role], 100);
                }
            }
            for (at, (role, cpus, mem, mood)) in clients.into_iter().enumerate() {
                let held: mezzo_api::model::Resources = id(&format!("cpus:{cpus}.125;mem:{mem}"));
                cluster.total.add(&held);
                cluster.clients.push(Client {
                    framework: id(&format!("f{at}")),
                    role: id(ROLES[role]),
                    held: Quantities::of(&held),
                    wants: mood > 0,
                    shares: mood > 2,
                    constraints: None,
                });
            }
            for (agent, client) in refusals {
                if let Some(agent) = cluster.agents.get_mut(agent) {
                    agent
                        .filters
                        .refuse(Cluster::key(client), agent.free.clone(), 10, 0);
                }
            }
            for (role, weight) in weights {
                cluster.weights.insert(id(ROLES[role]), weight);
            }
            for (role, amount, kind, slack) in quotas {
                let name = if amount % 2 == 0 { "cpus" } else { "mem" };
                let amount = if name == "mem" { amount * 60 } else { amount };
                let (mut guarantees, mut limits) = (String::new(), String::new());
                if kind != 1 {
                    guarantees = format!("{name}:{amount}");
                }
                if kind != 0 {
                    limits = format!("{name}:{}", amount + slack);
                }
                cluster = cluster.with_quotas(&[(ROLES[role], &guarantees, &limits)]);
            }
            cluster
        },
    )
}

/// What is owed to that role and all below it.
fn owed_within(cluster: &Cluster, top: &str, name: &str) -> i128 {
    let guarantee = cluster
        .quotas
        .get(top)
        .and_then(|quota| quota.guarantees.get(name));
    let own = guarantee.map_or(0, |amount| i128::from(amount.millis())) - cluster.held(top, name);
    own.max(owed_below(cluster, Some(top), name)).max(0)
}

fn owed_below(cluster: &Cluster, top: Option<&str>, name: &str) -> i128 {
    let inside = |role: &&str| top.is_none_or(|top| role != &top && is_within(role, top));
    let direct = |role: &&str| {
        let mut between = ancestors(role).take_while(|above| Some(*above) != top);
        !between.any(|above| cluster.quotas.contains_key(above))
    };
    let quotas = cluster.quotas.keys().map(|role| role.as_str());
    quotas
        .filter(inside)
        .filter(direct)
        .map(|role| owed_within(cluster, role, name))
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_pass_gives_what_is_free_and_minds_every_rule(before in cluster()) {
        let mut after = before.clone();
        // Takes from what is free, and fails where that is not enough.
        let outcome = after.pass();

        for plan in &outcome.plans {
            let at = before.clients.iter().position(|client| client.framework == plan.framework).unwrap();
            prop_assert!(before.clients[at].wants);
            for (stack, _) in plan.resources.reserved() {
                prop_assert!(
                    is_within(plan.role.as_str(), stack.role().as_str()),
                    "{} is offered what is reserved for {}", plan.role, stack.role()
                );
            }
            let agent = before.agents.iter().find(|agent| agent.id == plan.agent).unwrap();
            for volume in agent.free.volumes() {
                let role = plan.role.as_str();
                let may = before.clients[at].shares && is_within(role, volume.stack.role().as_str());
                // With each part that somebody gets who may have it, and with no other.
                prop_assert_eq!(plan.resources.volume(&volume.key()).is_some(), may);
                prop_assert!(!plan.resources.exclusive().is_empty());
            }
            prop_assert!(agent.filters.hides(Cluster::key(at), &plan.resources, 0, 0).is_none());
        }
        // It stays where it was, and counts for its role as before, whoever was offered it.
        for (now, then) in after.agents.iter().zip(&before.agents) {
            prop_assert!(now.free.volumes().eq(then.free.volumes()));
        }
        for role in ROLES {
            prop_assert_eq!(after.held(role, "disk"), before.held(role, "disk"));
        }
        for name in ["cpus", "mem"] {
            for (role, quota) in &before.quotas {
                if let Some(limit) = quota.limits.get(name) {
                    let most = i128::from(limit.millis()).max(before.held(role.as_str(), name));
                    prop_assert!(after.held(role.as_str(), name) <= most, "{role} passed its limit");
                }
            }
            let surplus = |cluster: &Cluster| {
                cluster.unallocated().get(name) - owed_below(cluster, None, name)
            };
            let guarded = before.quotas.values().any(|quota| quota.guarantees.contains_key(name));
            prop_assert!(
                !guarded || surplus(&after) >= surplus(&before).min(0),
                "what is owed of {name} was given to others: surplus {} before, {} after",
                surplus(&before), surplus(&after)
            );
        }
        if before.quotas.is_empty() {
            for agent in after.agents.iter().filter(|agent| !agent.free.is_empty()) {
                let taken = before.clients.iter().enumerate().any(|(at, client)| {
                    // A shared volume alone is worth no offer.
                    let seen = agent.free.visible_to(&client.role);
                    let seen = seen.exclusive();
                    let enough = seen.open().cpus() >= Scalar::from_millis(10) || !seen.is_open();
                    enough && client.wants && agent.filters.hides(Cluster::key(at), &seen, 0, 0).is_none()
                });
                prop_assert!(!taken, "{agent:?} was left over");
            }
        }
    }

    #[test]
    fn without_filters_every_guarantee_that_can_be_kept_is_kept(mut cluster in cluster()) {
        cluster.agents.iter_mut().for_each(|agent| agent.filters.clear());
        // One for each role: else nobody may be there to take what is owed.
        for (at, role) in ROLES.iter().enumerate() {
            cluster = cluster.with_clients(&[(&format!("z{at}"), role)]);
        }
        // Limits may keep a guarantee from being used.
        cluster.quotas.values_mut().for_each(|quota| quota.limits.clear());
        cluster.quotas.retain(|_, quota| !quota.is_empty());
        let unallocated = cluster.unallocated();
        let kept = |cluster: &Cluster| owed_below(cluster, None, "cpus");
        let owed = kept(&cluster);
        cluster.pass();
        // What is reserved for a role above pays too.
        prop_assert!(kept(&cluster) <= (owed - unallocated.get("cpus")).max(0));
    }

    #[test]
    fn an_agent_is_called_quiet_only_when_all_refused_it(mut cluster in cluster(), all in any::<bool>()) {
        if all {
            for at in 0..cluster.clients.len() {
                for agent in &mut cluster.agents {
                    agent.filters.refuse(Cluster::key(at), agent.free.clone(), 20 + at as u64, 0);
                }
            }
        }
        let outcome = cluster.plan(0);
        for (at, until) in outcome.quiet {
            let agent = &cluster.agents[at];
            prop_assert!(!outcome.plans.iter().any(|plan| plan.agent == agent.id));
            for (client, _) in cluster.clients.iter().enumerate().filter(|(_, client)| client.wants) {
                let seen = agent.free.visible_to(&cluster.clients[client].role);
                let blind = seen.is_open() && *seen != agent.free && seen.open().cpus().is_zero();
                let hidden = agent.filters.hides(Cluster::key(client), &seen, 0, 0);
                prop_assert!(blind || hidden.is_some_and(|ends| ends >= until));
            }
        }
    }
}
