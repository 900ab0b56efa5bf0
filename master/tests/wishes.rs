//! What a framework says it wants while it is subscribed, and what becomes of its offers: roles, filters, suppression, time-outs,
//! the least that is offered. Over real gRPC.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the event it expects"
)]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{Agent, Framework, Master, config, framework_info, task};
use mezzo_api::proto::{self, TaskState, attribute_constraint as wire, event};
use tonic::{Code, Status};

const NODE: &str = "cpus:4;mem:4096";

fn of_roles(roles: &[&str]) -> proto::FrameworkInfo {
    let mut info = framework_info("wishes", "*", Duration::from_secs(60));
    info.roles = roles.iter().map(ToString::to_string).collect();
    info
}

async fn update(framework: &mut Framework, info: proto::FrameworkInfo) -> Result<(), Status> {
    let request = proto::UpdateFrameworkRequest {
        caller: framework.caller(),
        framework: Some(info),
        suppressed_roles: Vec::new(),
    };
    framework.client.update_framework(request).await.map(drop)
}

async fn suppress(framework: &mut Framework, roles: &[&str]) -> Result<(), Status> {
    let request = proto::SuppressRequest {
        caller: framework.caller(),
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    framework.client.suppress(request).await.map(drop)
}

async fn revive(framework: &mut Framework, roles: &[&str]) {
    let request = proto::ReviveRequest {
        caller: framework.caller(),
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    let revived = framework.client.revive(request).await;
    revived.expect("it has these roles");
}

async fn expect_rescind(framework: &mut Framework) -> String {
    loop {
        match framework.next().await.expect("the stream is open") {
            event::Event::Rescind(rescind) => return rescind.offer_id,
            event::Event::Offers(_) => {}
            other => panic!("expected Rescind, got {other:?}"),
        }
    }
}

/// The one offer that comes next, which is of that agent.
async fn one_offer(framework: &mut Framework, agent: &Agent) -> proto::Offer {
    let mut offers = framework.expect_offers().await;
    assert_eq!(offers.len(), 1, "{offers:?}");
    let offer = offers.remove(0);
    assert_eq!(offer.agent_id, agent.id);
    offer
}

#[tokio::test]
async fn an_update_drops_a_role_with_its_offers_and_changes_what_is_offered() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut framework = Framework::subscribe_as(&master, of_roles(&["a", "b"]))
        .await
        .unwrap();
    // The role that has nothing is next.
    let first_agent = Agent::attach(&master, "node-1", NODE).await;
    let left = one_offer(&mut framework, &first_agent).await;
    let second_agent = Agent::attach(&master, "node-2", NODE).await;
    let kept = one_offer(&mut framework, &second_agent).await;
    let roles = BTreeSet::from([left.role.as_str(), kept.role.as_str()]);
    assert_eq!(roles, BTreeSet::from(["a", "b"]));

    // What must not change is refused by name, and nothing has changed then.
    for (field, change) in [("principal", true), ("user", false)] {
        let mut info = of_roles(&[&kept.role]);
        let changed = if change {
            &mut info.principal
        } else {
            &mut info.user
        };
        "another".clone_into(changed);
        let refused = update(&mut framework, info).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(field), "{refused}");
    }
    let mut foreign = of_roles(&[&kept.role]);
    foreign.framework_id = "somebody-else".to_owned();
    let refused = update(&mut framework, foreign).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

    update(&mut framework, of_roles(&[&kept.role]))
        .await
        .unwrap();
    assert_eq!(expect_rescind(&mut framework).await, left.offer_id);
    let again = one_offer(&mut framework, &first_agent).await;
    assert_eq!(again.role, kept.role);
    // The offer of the role that stayed is good, the other one is not.
    for (offer, id) in [(&left, "t1"), (&kept, "t2")] {
        let info = task(id, &offer.agent_id, "cpus:1;mem:64");
        let offers = std::slice::from_ref(offer);
        framework.accept(offers, vec![info]).await;
        if offer.offer_id == left.offer_id {
            framework.expect_state(id, TaskState::TaskDropped).await;
        }
    }
    let mut second_agent = second_agent;
    assert_eq!(second_agent.expect_launch().await.role, kept.role);
    // Suppressing a role that it left is a mistake.
    let refused = suppress(&mut framework, &[&left.role]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

    // From now on it is to hear of one machine only.
    let mut info = of_roles(&[&kept.role]);
    let filter = proto::OfferFilter {
        groups: vec![proto::ConstraintGroup {
            constraints: vec![proto::AttributeConstraint {
                selector: Some(wire::Selector::Field(wire::Field::Hostname.into())),
                predicate: Some(wire::Predicate::TextEquals("node-3".to_owned())),
            }],
        }],
        minimum: Vec::new(),
    };
    info.offer_filters = [(kept.role.clone(), filter)].into();
    update(&mut framework, info).await.unwrap();
    revive(&mut framework, &[]).await;
    framework.decline(&[again], Duration::ZERO).await;
    let third_agent = Agent::attach(&master, "node-3", NODE).await;
    for _ in 0..3 {
        // The rest of the second agent may have been offered before the filter was there.
        let mut offers = framework.expect_offers().await;
        while offers[0].agent_id != third_agent.id {
            framework.decline(&offers, Duration::ZERO).await;
            offers = framework.expect_offers().await;
        }
        assert_eq!(offers.len(), 1, "{offers:?}");
        framework.decline(&offers, Duration::ZERO).await;
    }
    // What it is now is what a new master goes on with.
    let id = framework.id.clone();
    drop(framework);
    master.stop().await;
    let master = Master::start(config(dir.path())).await;
    let request = proto::ListFrameworksRequest::default();
    let listed = master.operator().await.list_frameworks(request).await;
    let listed = listed.unwrap().into_inner().frameworks;
    let info = listed[0].info.clone().unwrap();
    assert_eq!(
        (info.framework_id, info.roles),
        (id, vec![kept.role.clone()])
    );
    assert!(info.offer_filters.contains_key(&kept.role));
    master.stop().await;
}

#[tokio::test]
async fn a_suppressed_role_gets_nothing_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut framework = Framework::subscribe_as(&master, of_roles(&["a", "b"]))
        .await
        .unwrap();
    suppress(&mut framework, &["a"]).await.unwrap();
    let mut agents = Vec::new();
    // Role b keeps its offers: but for the suppression a would be next from the second on.
    for n in 1..=3 {
        agents.push(Agent::attach(&master, &format!("node-{n}"), NODE).await);
        let offer = one_offer(&mut framework, &agents[n - 1]).await;
        assert_eq!(offer.role, "b");
    }
    suppress(&mut framework, &["b"]).await.unwrap();
    revive(&mut framework, &["a"]).await;
    for n in 4..=5 {
        agents.push(Agent::attach(&master, &format!("node-{n}"), NODE).await);
        let offer = one_offer(&mut framework, &agents[n - 1]).await;
        assert_eq!(offer.role, "a");
    }
    let refused = suppress(&mut framework, &["c"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains('c'), "{refused}");
    master.stop().await;
}

#[tokio::test]
async fn an_offer_that_is_not_answered_in_time_is_taken_back_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(mezzo_master::Config {
        offer_timeout: Some(Duration::from_millis(300)),
        ..config(dir.path())
    })
    .await;
    let mut framework = Framework::subscribe(&master, "late").await;
    let agent = Agent::attach(&master, "node-1", NODE).await;
    let first = one_offer(&mut framework, &agent).await;
    assert_eq!(expect_rescind(&mut framework).await, first.offer_id);
    let second = one_offer(&mut framework, &agent).await;
    assert_ne!(second.offer_id, first.offer_id);
    // What comes too late changes nothing.
    let late = task("t1", &agent.id, "cpus:1;mem:64");
    framework.accept(&[first], vec![late]).await;
    let dropped = framework.expect_state("t1", TaskState::TaskDropped).await;
    assert!(!dropped.message.is_empty());
    master.stop().await;
}

#[tokio::test]
async fn gpus_alone_are_offered_where_the_operator_says_so() {
    let with_gpus = "cpus:1;mem:64;gpus:2";
    for (minimum, more) in [
        ("cpus:0.01|mem:32", false),
        ("cpus:0.01|mem:32|gpus:1", true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start(mezzo_master::Config {
            min_allocatable: minimum.parse().unwrap(),
            ..config(dir.path())
        })
        .await;
        let mut framework = Framework::subscribe(&master, "gpus").await;
        let mut agent = Agent::attach(&master, "node-1", with_gpus).await;
        let offer = one_offer(&mut framework, &agent).await;
        let all = task("t1", &agent.id, "cpus:1;mem:64");
        framework.accept(&[offer], vec![all]).await;
        agent.expect_launch().await;
        if !more {
            // Passes have been made over both agents when the second is offered, and only that one is.
            let other = Agent::attach(&master, "node-2", NODE).await;
            let offer = one_offer(&mut framework, &other).await;
            framework.decline(&[offer], Duration::ZERO).await;
            one_offer(&mut framework, &other).await;
        } else {
            let offer = one_offer(&mut framework, &agent).await;
            let names: Vec<_> = offer
                .resources
                .iter()
                .map(|one| one.name.as_str())
                .collect();
            assert_eq!(names, ["gpus"]);
        }
        master.stop().await;
    }
}
