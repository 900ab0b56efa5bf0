//! Clusters small enough to follow by hand; their outcomes are the tables of `docs/sharing.md`.
//!
//! `MEZZO_WRITE_DOCS=1 cargo test -p mezzo-master scenarios` writes the tables anew; otherwise they must be there as
//! they come out.

use mezzo_api::model::{AttributeConstraint, OfferFilter, Predicate, Selector};

use super::*;
use crate::allocator::{DEFAULT_WEIGHT_MILLIS, Share, Tally};

/// A machine so large that its whole cluster is one offer, of which each taker launches one task of its size.
fn one_task_each(total: &str, users: &[(&str, &str)]) -> Vec<(String, Vec<(u64, Quantities)>)> {
    let mut cluster = Cluster::new(1, total);
    for (user, _) in users {
        cluster = cluster.with_clients(&[(user, "*")]);
    }
    let mut steps = Vec::new();
    loop {
        let plans = cluster.plan(0).plans;
        let Some(plan) = plans.first() else { break };
        let at = cluster
            .clients
            .iter()
            .position(|client| client.framework == plan.framework)
            .unwrap();
        let task: Resources = id(users[at].1);
        let Some(left) = cluster.agents[0].free.checked_sub(&task) else {
            // Not enough for it any more: it suppresses offers.
            cluster.clients[at].wants = false;
            continue;
        };
        cluster.agents[0].free = left;
        cluster.clients[at].held.add(&task);
        let shares = cluster.clients.iter().map(|client| {
            let share = Share::dominant(&client.held, &cluster.total, DEFAULT_WEIGHT_MILLIS);
            (share.parts_per_million(), client.held.clone())
        });
        steps.push((users[at].0.to_owned(), shares.collect()));
    }
    steps
}

fn tasks(steps: &[(String, Vec<(u64, Quantities)>)], user: &str) -> usize {
    steps.iter().filter(|(who, _)| who == user).count()
}

/// The paper's two users: B comes first where both have the same share, as there.
const TABLE_1: [(&str, &str); 2] = [("1-B", "cpus:3;mem:1"), ("2-A", "cpus:1;mem:4")];

#[test]
fn the_example_of_the_drf_paper_comes_out_step_by_step() {
    let steps = one_task_each(
        "cpus:9;mem:18432",
        &TABLE_1.map(|(user, task)| {
            // The paper's memory is in GB.
            (
                user,
                if task.contains("mem:4") {
                    "cpus:1;mem:4096"
                } else {
                    "cpus:3;mem:1024"
                },
            )
        }),
    );
    let told: Vec<(&str, u64, u64)> = steps
        .iter()
        .map(|(who, shares)| (&who[2..], shares[1].0, shares[0].0))
        .collect();
    // Table 1: B, A, A, B, A; dominant shares 2/3 and 2/3.
    assert_eq!(
        told,
        [
            ("B", 0, 333_333),
            ("A", 222_222, 333_333),
            ("A", 444_444, 333_333),
            ("B", 444_444, 666_667),
            ("A", 666_667, 666_667),
        ]
    );
}

#[test]
fn the_other_examples_of_the_drf_paper_come_out() {
    // Section 6.1.1: asset fairness would give 6 and 12, and less than half of everything to the first.
    let steps = one_task_each(
        "cpus:30;mem:960",
        &[("1", "cpus:1;mem:96"), ("2", "cpus:1;mem:32")],
    );
    assert_eq!((tasks(&steps, "1"), tasks(&steps, "2")), (5, 15));
    // Section 6.1.2: CEEI can be cheated here, DRF gives as much of each one's dominant resource as fits.
    let steps = one_task_each(
        "cpus:100;mem:3200",
        &[("1", "cpus:16;mem:32"), ("2", "cpus:1;mem:64")],
    );
    assert_eq!(tasks(&steps, "1"), 4);
}

#[test]
fn roles_share_by_weight_and_frameworks_divide_their_role() {
    let offers = |clients, weights, n_agents| {
        let mut cluster = Cluster::new(n_agents, "cpus:4;mem:1024;ports:[31000-32000]")
            .with_clients(clients)
            .with_weights(weights);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for plan in cluster.pass().plans {
            *counts.entry(plan.framework.to_string()).or_default() += 1;
        }
        counts.into_values().collect::<Vec<_>>()
    };
    assert_eq!(offers(&[("f", "*"), ("g", "*")], &[], 10), [5, 5]);
    assert_eq!(
        offers(
            &[("f", "x"), ("g", "y"), ("h", "y")],
            &[("x", 3000), ("y", 1000)],
            40
        ),
        [30, 5, 5]
    );
    // The tree counts: two roles below one share what that one has.
    assert_eq!(
        offers(&[("f", "x/1"), ("g", "x/2"), ("h", "y")], &[], 40),
        [10, 10, 20]
    );
    assert_eq!(
        offers(
            &[("f", "x/1"), ("g", "x/2"), ("h", "y")],
            &[("x/1", 3000), ("x", 2000)],
            60
        ),
        [30, 10, 20]
    );
    // Frameworks of the upper role are one child beside the lower ones.
    assert_eq!(
        offers(&[("f", "x"), ("g", "x"), ("h", "x/1"), ("i", "y")], &[], 80),
        [10, 10, 20, 40]
    );
}

#[test]
fn a_pass_tells_why_a_framework_got_nothing() {
    let mut cluster = Cluster::new(4, "cpus:4;mem:1024").with_clients(&[
        ("declined", "a"),
        ("limited", "b"),
        ("picky", "c"),
        ("demanding", "d"),
    ]);
    cluster = cluster.with_quotas(&[("b", "", "cpus:0;mem:0")]);
    for agent in &mut cluster.agents {
        agent
            .filters
            .refuse(Cluster::key(0), agent.free.clone(), 10, 0);
    }
    let constraints = |filter: OfferFilter| Some(Constraints::new(&filter).unwrap());
    cluster.clients[2].constraints = constraints(OfferFilter {
        groups: vec![vec![AttributeConstraint {
            selector: Selector::Attribute("rack".into()),
            predicate: Predicate::Exists,
        }]],
        minimum: Vec::new(),
    });
    cluster.clients[3].constraints = constraints(OfferFilter {
        groups: Vec::new(),
        minimum: vec![id("cpus:8")],
    });
    let tallies = cluster.plan(0).tallies;
    let none = Tally::default();
    let [declined, limited, picky, demanding] = tallies[..] else {
        panic!()
    };
    assert_eq!(
        declined,
        Tally {
            declined: 4,
            ..none
        }
    );
    assert_eq!(
        limited,
        Tally {
            over_limit: 4,
            ..none
        }
    );
    assert_eq!(picky, Tally { unfit: 4, ..none });
    assert_eq!(
        demanding,
        Tally {
            too_little: 4,
            ..none
        }
    );

    // Half of the cluster is owed to role e, which does not want it now.
    let mut cluster = Cluster::new(4, "cpus:4;mem:1024")
        .with_clients(&[("other", "a"), ("owed", "e")])
        .with_quotas(&[("e", "cpus:8;mem:2048", "")]);
    cluster.clients[1].wants = false;
    let tally = Tally {
        offered: 2,
        kept_for_others: 2,
        ..none
    };
    assert_eq!(cluster.plan(0).tallies, [tally]);
}
