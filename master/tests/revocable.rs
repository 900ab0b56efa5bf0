//! What an agent lends, over gRPC: who is offered it, which tasks may take it, and what happens when it shrinks.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]

mod common;

use std::time::Duration;

use common::{Agent, Framework, Master, config, framework_info, resources, task};
use mezzo_api::proto::{self, FrameworkCapability, Reason, TaskState, agent_message, event::Event};

impl Agent {
    async fn lend(&self, what: &str) {
        let slack = proto::Slack {
            resources: resources(what),
        };
        self.say(agent_message::Message::Slack(slack)).await;
    }
}

async fn borrower(master: &Master, name: &str) -> Framework {
    let mut info = framework_info(name, "*", Duration::from_secs(60));
    info.capabilities = vec![FrameworkCapability::RevocableResources.into()];
    Framework::subscribe_as(master, info)
        .await
        .expect("the master takes it")
}

fn revocable(id: &str, agent: &str, taken: &str) -> proto::TaskInfo {
    proto::TaskInfo {
        revocable: true,
        ..task(id, agent, taken)
    }
}

/// The next offer of that kind; others are declined for an hour.
async fn offer(framework: &mut Framework, revocable: bool) -> proto::Offer {
    loop {
        let offers = framework.expect_offers().await;
        let (mut wanted, others): (Vec<_>, Vec<_>) = offers
            .into_iter()
            .partition(|offer| offer.revocable == revocable);
        if !others.is_empty() {
            framework.decline(&others, Duration::from_secs(3600)).await;
        }
        if let Some(offer) = wanted.pop() {
            return offer;
        }
    }
}

#[tokio::test]
async fn what_is_lent_is_offered_apart_to_those_who_can_deal_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", "cpus:2;mem:256").await;
    let id = agent.id.clone();
    let mut plain = Framework::subscribe(&master, "plain").await;
    let all = plain.expect_offers().await;
    plain
        .accept(&all, vec![task("web", &id, "cpus:2;mem:256")])
        .await;
    agent.expect_launch().await;
    agent.lend("cpus:1.5;mem:128").await;

    let mut batch = borrower(&master, "batch").await;
    let lent = offer(&mut batch, true).await;
    assert_eq!(lent.resources, resources("cpus:1.5;mem:128"));
    // An ordinary task on it, and a revocable one that takes what cannot be lent.
    batch
        .accept(
            std::slice::from_ref(&lent),
            vec![
                task("wrong", &id, "cpus:0.1;mem:1"),
                revocable("worse", &id, "mem:1;disk:1"),
                revocable("right", &id, "cpus:1;mem:64"),
            ],
        )
        .await;
    let refused = batch.expect_state("wrong", TaskState::TaskError).await;
    assert!(
        refused.message.contains("set `revocable`"),
        "{}",
        refused.message
    );
    let refused = batch.expect_state("worse", TaskState::TaskError).await;
    assert!(
        refused.message.contains("only cpus and mem"),
        "{}",
        refused.message
    );
    let launch = agent.expect_launch().await;
    let launched = launch.info().unwrap();
    assert!(launched.revocable && launched.task_id == "right");

    let cluster = master
        .wait_for("what is held of it", |cluster| {
            let revocable = cluster.revocable.as_ref();
            revocable.is_some_and(|lent| lent.allocated == resources("cpus:1;mem:64"))
        })
        .await;
    assert_eq!(
        cluster.total,
        resources("cpus:2;mem:256"),
        "nothing was created"
    );
    assert_eq!(cluster.allocated, resources("cpus:2;mem:256"));

    // Less is lent than is held: what is offered is taken back, what runs is the agent's to judge.
    let rest = offer(&mut batch, true).await;
    assert_eq!(rest.resources, resources("cpus:0.5;mem:64"));
    agent.lend("cpus:0.5").await;
    loop {
        match batch.next().await.unwrap() {
            Event::Rescind(rescind) if rescind.offer_id == rest.offer_id => break,
            Event::Offers(_) | Event::Update(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let mut status = agent.status(&launch, TaskState::TaskKilled, "u1");
    status.reason = Reason::ContainerPreempted.into();
    status.message = "preempted: 12.0 %".into();
    agent
        .say(agent_message::Message::Status(Box::new(status)))
        .await;
    let end = batch.expect_state("right", TaskState::TaskKilled).await;
    assert_eq!(
        (end.reason(), end.message.as_str()),
        (Reason::ContainerPreempted, "preempted: 12.0 %")
    );
    let left = offer(&mut batch, true).await;
    assert_eq!(left.resources, resources("cpus:0.5"));
    drop(plain);
}

#[tokio::test]
async fn a_revocable_task_needs_a_revocable_offer_and_kinds_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let agent = Agent::attach(&master, "node-1", "cpus:2;mem:256").await;
    agent.lend("cpus:1;mem:64").await;
    let mut batch = borrower(&master, "batch").await;
    let mut offers = Vec::new();
    while offers.len() < 2 {
        offers.extend(batch.expect_offers().await);
    }
    let taken = "cpus:0.1;mem:1";
    batch
        .accept(&offers, vec![revocable("both", &agent.id, taken)])
        .await;
    let refused = batch.expect_state("both", TaskState::TaskDropped).await;
    assert_eq!(refused.reason(), Reason::InvalidOffers);
    assert!(
        refused.message.contains("some of the offers are revocable"),
        "{}",
        refused.message
    );
    let ordinary = offer(&mut batch, false).await;
    batch
        .accept(&[ordinary], vec![revocable("plain", &agent.id, taken)])
        .await;
    let refused = batch.expect_state("plain", TaskState::TaskError).await;
    assert!(
        refused.message.contains("the offers are not revocable"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn an_agent_that_comes_back_is_the_truth_about_what_it_lends() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", "cpus:2;mem:256").await;
    agent.lend("cpus:1;mem:64").await;
    let mut batch = borrower(&master, "batch").await;
    let lent = offer(&mut batch, true).await;
    let running = revocable("t", &agent.id, "cpus:0.5;mem:32");
    batch.accept(&[lent], vec![running]).await;
    let launch = agent.expect_launch().await;
    let known = agent.task(&launch, TaskState::TaskRunning, "u1");
    let id = agent.id.clone();
    drop(agent);
    let agent = Agent::reattach(&master, &id, "node-1", "cpus:2;mem:256", vec![known])
        .await
        .unwrap();
    let held = |total: &'static str| {
        move |cluster: &proto::Cluster| {
            cluster.revocable.as_ref().is_some_and(|lent| {
                lent.allocated == resources("cpus:0.5;mem:32") && lent.total == resources(total)
            })
        }
    };
    master
        .wait_for("held, and nothing lent yet", held(""))
        .await;
    agent.lend("cpus:1;mem:64").await;
    master.wait_for("lent again", held("cpus:1;mem:64")).await;
    assert!(
        master.cluster().await.allocated.is_empty(),
        "none of it is in the ordinary books"
    );
}
