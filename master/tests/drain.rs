//! Taking agents out of service, over real gRPC and with the durable store.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]

mod common;

use std::time::Duration;

use common::{Agent, DEADLINE, Framework, Master, config, task};
use mezzo_api::proto::{self, DrainState, TaskState, master_message::Message};
use tonic::Code;

const NODE: &str = "cpus:4;mem:4096";

async fn drain(master: &Master, agent_id: &str, deadline_ms: Option<u64>, mark_gone: bool) {
    let request = proto::DrainAgentRequest {
        agent_id: agent_id.to_owned(),
        deadline_ms,
        mark_gone,
    };
    let drained = master.operator().await.drain_agent(request).await;
    drained.expect("the agent is known");
}

/// The next word on drains; `None` within is one without a deadline.
async fn expect_drain(agent: &mut Agent) -> Option<u64> {
    loop {
        match agent.next().await.expect("the stream is open") {
            Message::Drain(drain) => return drain.max_grace_ms,
            Message::Activate(_) => panic!("activated"),
            _ => {}
        }
    }
}

async fn seen(master: &Master, agent_id: &str) -> Result<proto::Agent, tonic::Status> {
    let request = proto::GetAgentRequest {
        agent: agent_id.to_owned(),
    };
    let answer = master.operator().await.get_agent(request).await;
    answer.map(tonic::Response::into_inner)
}

/// Polls until the agent's drain stands so.
async fn stage(master: &Master, agent_id: &str, wanted: Option<DrainState>) -> proto::Agent {
    let polled = tokio::time::timeout(DEADLINE, async {
        loop {
            let agent = seen(master, agent_id).await.expect("it is known");
            if agent.drain.as_ref().map(proto::Drain::state) == wanted {
                return agent;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    polled.await.expect("the drain gets there")
}

#[tokio::test]
async fn a_drain_outlives_the_master_and_ends_when_every_end_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let id = agent.id.clone();
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework
        .accept(&offers, vec![task("t1", &id, "cpus:1;mem:64")])
        .await;
    let launch = agent.expect_launch().await;
    agent.report(&launch, TaskState::TaskRunning, "u1").await;
    framework.expect_state("t1", TaskState::TaskRunning).await;

    drain(&master, &id, Some(600_000), false).await;
    let left = expect_drain(&mut agent).await.expect("a deadline");
    assert!(left <= 600_000 && left > 500_000, "{left}");
    let shown = stage(&master, &id, Some(DrainState::Draining)).await;
    let since = shown.drain.unwrap().since_ms;
    // What was offered before the drain is worth nothing now.
    framework
        .accept(&offers, vec![task("t2", &id, "cpus:1;mem:64")])
        .await;
    framework.expect_state("t2", TaskState::TaskDropped).await;

    // The next master knows of it before the agent is back, and tells it again.
    let at = shown.drain.unwrap().deadline_at_ms;
    let running = agent.task(&launch, TaskState::TaskRunning, "u1");
    master.stop().await;
    let master = Master::start(config(dir.path())).await;
    let known = seen(&master, &id).await.unwrap().drain.unwrap();
    assert_eq!((known.since_ms, known.deadline_at_ms), (since, at));
    assert_eq!(
        known.state(),
        DrainState::Draining,
        "nobody knows its tasks yet"
    );
    let mut info = common::framework_info("test", "*", Duration::from_secs(60));
    info.framework_id = framework.id.clone();
    let mut framework = Framework::subscribe_as(&master, info).await.unwrap();
    let mut agent = Agent::reattach(&master, &id, "node-1", NODE, vec![running])
        .await
        .unwrap();
    assert!(expect_drain(&mut agent).await.expect("a deadline") <= left);

    framework.expect_state("t1", TaskState::TaskRunning).await;
    agent.report(&launch, TaskState::TaskKilled, "u2").await;
    let killed = framework.expect_state("t1", TaskState::TaskKilled).await;
    // The end is not acknowledged.
    let held = stage(&master, &id, Some(DrainState::Draining)).await;
    assert!(held.drain.is_some());
    framework.acknowledge(&killed).await;
    let drained = stage(&master, &id, Some(DrainState::Drained)).await;
    assert!(drained.offered.is_empty());

    // Back in service it is offered again.
    let request = proto::ActivateAgentRequest {
        agent_id: id.clone(),
    };
    let mut operator = master.operator().await;
    operator.activate_agent(request.clone()).await.unwrap();
    operator.activate_agent(request).await.unwrap();
    assert_eq!(framework.expect_offers().await[0].agent_id, id);
    stage(&master, &id, None).await;
    master.stop().await;
}

#[tokio::test]
async fn a_deactivated_agent_is_not_offered_and_its_tasks_run_on_over_the_masters_restart() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let id = agent.id.clone();
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework
        .accept(&offers, vec![task("t1", &id, "cpus:1;mem:64")])
        .await;
    let launch = agent.expect_launch().await;
    agent.report(&launch, TaskState::TaskRunning, "u1").await;
    let running = framework.expect_state("t1", TaskState::TaskRunning).await;
    framework.acknowledge(&running).await;

    let request = proto::DeactivateAgentRequest {
        agent_id: id.clone(),
    };
    // The rest was offered again, or was about to be.
    let mut operator = master.operator().await;
    operator.deactivate_agent(request.clone()).await.unwrap();
    let shown = seen(&master, &id).await.unwrap();
    let since = shown.deactivated_since_ms.expect("it is deactivated");
    assert!(shown.offered.is_empty() && shown.drain.is_none());
    assert_eq!(shown.tasks, 1);
    operator.deactivate_agent(request).await.unwrap();
    let unknown = proto::DeactivateAgentRequest {
        agent_id: "nobody".to_owned(),
    };
    let refused = operator.deactivate_agent(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    drop(operator);
    let held = agent.task(&launch, TaskState::TaskRunning, "u1");
    master.stop().await;

    let master = Master::start(config(dir.path())).await;
    let mut info = common::framework_info("test", "*", Duration::from_secs(60));
    info.framework_id = framework.id.clone();
    let mut framework = Framework::subscribe_as(&master, info).await.unwrap();
    let deactivated = Agent::reattach(&master, &id, "node-1", NODE, vec![held])
        .await
        .unwrap();
    // It is known again, with its task.
    framework.expect_state("t1", TaskState::TaskRunning).await;
    let other = Agent::attach(&master, "node-2", NODE).await;
    // Passes have been made over both.
    let offers = framework.expect_offers().await;
    assert!(offers.iter().all(|offer| offer.agent_id == other.id));
    let shown = seen(&master, &id).await.unwrap();
    assert_eq!(shown.deactivated_since_ms, Some(since));
    assert!(shown.offered.is_empty());
    assert_eq!(shown.tasks, 1);
    for (wanted, n) in [(None, 2), (Some(true), 1), (Some(false), 1)] {
        let request = proto::ListAgentsRequest {
            deactivated: wanted,
            ..proto::ListAgentsRequest::default()
        };
        let mut operator = master.operator().await;
        let listed = operator.list_agents(request).await.unwrap().into_inner();
        assert_eq!(listed.agents.len(), n, "{wanted:?}");
    }

    let request = proto::ActivateAgentRequest {
        agent_id: id.clone(),
    };
    let mut operator = master.operator().await;
    operator.activate_agent(request).await.unwrap();
    assert_eq!(framework.expect_offers().await[0].agent_id, id);
    assert_eq!(seen(&master, &id).await.unwrap().deactivated_since_ms, None);
    // Its task was never told to end.
    deactivated
        .report(&launch, TaskState::TaskFinished, "u2")
        .await;
    framework.expect_state("t1", TaskState::TaskFinished).await;
    master.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_marked_gone_leaves_once_it_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let id = agent.id.clone();
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework
        .accept(&offers, vec![task("t1", &id, "cpus:1;mem:64")])
        .await;
    let launch = agent.expect_launch().await;
    drain(&master, &id, None, true).await;
    assert_eq!(expect_drain(&mut agent).await, None, "no deadline");
    agent.report(&launch, TaskState::TaskKilled, "u1").await;
    let killed = framework.expect_state("t1", TaskState::TaskKilled).await;
    assert!(seen(&master, &id).await.is_ok());
    framework.acknowledge(&killed).await;
    loop {
        match agent.next().await {
            Ok(Message::Refused(refused)) => {
                assert!(refused.message.contains("gone"), "{}", refused.message);
                break;
            }
            other => {
                other.expect("it is refused before the stream ends");
            }
        }
    }
    let gone = tokio::time::timeout(DEADLINE, async {
        loop {
            match seen(&master, &id).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(status) => return status,
            }
        }
    });
    assert_eq!(gone.await.expect("it goes").code(), Code::NotFound);
    let register = proto::agent_message::Register {
        agent_id: id,
        info: Some(common::agent_info("node-1", NODE)),
        boot_id: "boot".to_owned(),
        tasks: Vec::new(),
        operations: Vec::new(),
    };
    let first = proto::agent_message::Message::Register(Box::new(register));
    let mut back = Agent::open(&master, first).await.unwrap();
    assert!(
        matches!(back.next().await, Ok(Message::Refused(_))),
        "its id cannot come back"
    );
    master.stop().await;
}

#[tokio::test]
async fn what_cannot_be_drained_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut operator = master.operator().await;
    let mut request = proto::DrainAgentRequest {
        agent_id: "nobody".into(),
        deadline_ms: Some(u64::MAX),
        mark_gone: false,
    };
    let refused = operator.drain_agent(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("deadline_ms"), "{refused}");
    request.deadline_ms = None;
    let refused = operator.drain_agent(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let request = proto::ActivateAgentRequest {
        agent_id: "nobody".into(),
    };
    let refused = operator.activate_agent(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    master.stop().await;
}
