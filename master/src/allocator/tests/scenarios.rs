//! Clusters small enough to follow by hand; their outcomes are the tables of `docs/sharing.md`.
//!
//! `MEZZO_WRITE_DOCS=1 cargo test -p mezzo-master scenarios` writes the tables anew; otherwise they must be there as
//! they come out.

use std::{fmt::Write as _, fs, path::Path};

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
        let task: Pools = id(users[at].1);
        let Some(left) = cluster.agents[0].free.checked_sub(&task) else {
            // Not enough for it any more: it suppresses offers.
            cluster.clients[at].wants = false;
            continue;
        };
        cluster.agents[0].free = left;
        cluster.clients[at].held.add_pools(&task);
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

/// Where the tables are.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sharing.md");
const BEGIN: &str = "<!-- tables: written by the allocator's tests -->\n";
const END: &str = "<!-- end of tables -->\n";

/// A cluster of agents with 4 cpus and 4 GiB each, and what every framework holds after one pass.
fn table(title: &str, n_agents: usize, cluster: impl Fn(Cluster) -> Cluster) -> String {
    let mut cluster = cluster(Cluster::new(n_agents, "cpus:4;mem:4096"));
    cluster.pass();
    let mut text = format!(
        "\n**{title}** ({n_agents} agents of 4 cpus)\n\n\
         | framework | role | weight | guarantee | limit | cpus |\n|---|---|---|---|---|---|\n"
    );
    let blank = Quota::default();
    for client in &cluster.clients {
        let (mut weights, mut guarantees, mut limits) = (vec![], vec![], vec![]);
        let role = client.role.as_str();
        let mut path: Vec<&str> = crate::allocator::quota::ancestors(role).collect();
        path.insert(0, role);
        for name in path.into_iter().rev() {
            if let Some(weight) = cluster.weights.get(name) {
                weights.push(format!("{name}: {}", weight / 1000));
            }
            let quota = cluster.quotas.get(name).unwrap_or(&blank);
            for (amounts, told) in [
                (&quota.guarantees, &mut guarantees),
                (&quota.limits, &mut limits),
            ] {
                told.extend(
                    amounts
                        .get("cpus")
                        .map(|amount| format!("{name}: {amount}")),
                );
            }
        }
        let cpus = Scalar::from_millis(i64::try_from(client.held.get("cpus")).unwrap());
        let _ = writeln!(
            text,
            "| {} | {role} | {} | {} | {} | {cpus} |",
            client.framework,
            weights.join(", "),
            guarantees.join(", "),
            limits.join(", ")
        );
    }
    text
}

#[test]
fn the_tables_in_the_documentation_are_what_comes_out() {
    let tables = [
        table("Equal frameworks of one role", 12, |cluster| {
            cluster.with_clients(&[("f", "*"), ("g", "*"), ("h", "*")])
        }),
        table("A role of weight 3 beside one of weight 1", 12, |cluster| {
            cluster
                .with_clients(&[("f", "prod"), ("g", "test"), ("h", "test")])
                .with_weights(&[("prod", 3000)])
        }),
        table(
            "A tree: what `eng` gets is shared below it",
            12,
            |cluster| {
                cluster
                    .with_clients(&[("f", "eng/web"), ("g", "eng/data"), ("h", "ops")])
                    .with_weights(&[("eng/web", 2000)])
            },
        ),
        table(
            "A limit holds for all below it; the rest goes to others",
            12,
            |cluster| {
                cluster
                    .with_clients(&[("f", "eng/web"), ("g", "eng/data"), ("h", "ops")])
                    .with_quotas(&[("eng", "", "cpus:10")])
            },
        ),
        table("A guarantee comes before fairness", 12, |cluster| {
            cluster
                .with_clients(&[("f", "eng"), ("g", "ops"), ("h", "lab")])
                .with_quotas(&[("eng", "cpus:32", "")])
        }),
        table(
            "What is owed to a role that wants nothing now is kept for it",
            12,
            |mut cluster| {
                cluster = cluster
                    .with_clients(&[("f", "eng"), ("g", "ops"), ("h", "lab")])
                    .with_quotas(&[("eng", "cpus:32", "")]);
                cluster.clients[0].wants = false;
                cluster
            },
        ),
        table("Guarantees below a guarantee", 12, |cluster| {
            cluster
                .with_clients(&[("f", "eng/web"), ("g", "eng/data"), ("h", "ops")])
                .with_quotas(&[("eng", "cpus:40", ""), ("eng/web", "cpus:30", "cpus:30")])
        }),
    ]
    .concat();
    let text = fs::read_to_string(DOCS).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    if std::env::var_os("MEZZO_WRITE_DOCS").is_some() {
        fs::write(
            Path::new(DOCS),
            [before, BEGIN, &tables, "\n", END, after].concat(),
        )
        .unwrap();
        return;
    }
    assert_eq!(written, tables + "\n", "run it with MEZZO_WRITE_DOCS=1");
}
