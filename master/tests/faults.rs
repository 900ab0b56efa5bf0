//! Masters that restart, agents that vanish and return, frameworks that do not read, peers that talk nonsense.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]

mod common;

use std::{fs, time::Duration};

use common::{Agent, DEADLINE, Framework, Master, agent_info, config, framework_info, task};
use mezzo_api::proto::{self, TaskState, agent_message, event, master_message};
use mezzo_master::{Config, Error, store::StoreError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

const NODE: &str = "cpus:4;mem:4096";

#[tokio::test]
async fn after_a_restart_the_master_knows_agents_frameworks_and_tasks_again_and_offers_only_what_is_free()
 {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework
        .accept(&offers, vec![task("t1", &agent.id, "cpus:1;mem:64")])
        .await;
    let launch = agent.expect_launch().await;
    agent.report(&launch, TaskState::TaskRunning, "u1").await;
    framework.expect_state("t1", TaskState::TaskRunning).await;
    master.stop().await;
    assert_eq!(framework.expect_end().await.code(), Code::Unavailable);

    let master = Master::start(config(dir.path())).await;
    let cluster = master.cluster().await;
    assert_eq!(
        (cluster.agents_disconnected, cluster.frameworks_disconnected),
        (1, 1)
    );
    let mut info = framework_info("test", "*", Duration::from_secs(60));
    info.framework_id = framework.id.clone();
    let mut framework = Framework::subscribe_as(&master, info).await.unwrap();
    // Its agent is expected back: no answer now, the truth when it is there.
    framework.reconcile(&[("t1", &agent.id)]).await;
    let running = vec![agent.task(&launch, TaskState::TaskRunning, "u1")];
    let back = Agent::reattach(&master, &agent.id, "node-1", NODE, running)
        .await
        .unwrap();
    assert_eq!(back.id, agent.id);
    let status = framework.expect_state("t1", TaskState::TaskRunning).await;
    assert_eq!(status.reason(), proto::Reason::AgentReregistered);
    let offers = framework.expect_offers().await;
    assert_eq!(offers[0].resources, common::resources("cpus:3;mem:4032"));
    framework.reconcile(&[]).await;
    let status = framework.expect_state("t1", TaskState::TaskRunning).await;
    assert_eq!(status.reason(), proto::Reason::Reconciliation);
    master.stop().await;
}

#[tokio::test]
async fn an_agent_that_vanishes_costs_its_offers_at_once_and_its_tasks_become_unreachable_later() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(Config {
        agent_timeout: Duration::from_secs(3),
        ..config(dir.path())
    })
    .await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    let tasks = ["kept", "lost", "never-arrived"].map(|id| task(id, &agent.id, "cpus:1"));
    framework.accept(&offers, tasks.to_vec()).await;
    let leftover = framework.expect_offers().await;
    let kept = agent.expect_launch().await;
    let lost = agent.expect_launch().await;
    for (launch, id) in [(&kept, "u1"), (&lost, "u2")] {
        agent.report(launch, TaskState::TaskRunning, id).await;
        framework.expect_update().await;
    }
    let (id, task) = (
        agent.id.clone(),
        agent.task(&kept, TaskState::TaskRunning, "u1"),
    );
    drop(agent);
    match framework.next().await.unwrap() {
        event::Event::Rescind(rescind) => assert_eq!(rescind.offer_id, leftover[0].offer_id),
        other => panic!("expected Rescind, got {other:?}"),
    }
    // A kill waits for the agent.
    framework.kill("kept").await;
    for task_id in ["kept", "lost", "never-arrived"] {
        framework
            .expect_state(task_id, TaskState::TaskUnreachable)
            .await;
    }
    match framework.next().await.unwrap() {
        event::Event::AgentLost(lost) => assert_eq!(lost.agent_id, id),
        other => panic!("expected AgentLost, got {other:?}"),
    }
    let mut agent = Agent::reattach(&master, &id, "node-1", NODE, vec![task])
        .await
        .unwrap();
    assert_eq!(agent.expect_kill().await.task_id, "kept");
    let mut states = Vec::new();
    for _ in 0..3 {
        let status = framework.expect_update().await;
        assert!(status.update_id.is_empty());
        states.push((status.task_id.clone(), status.state()));
    }
    states.sort();
    let expected = [
        ("kept", TaskState::TaskRunning),
        ("lost", TaskState::TaskGone),
        ("never-arrived", TaskState::TaskDropped),
    ];
    assert_eq!(states, expected.map(|(id, state)| (id.to_owned(), state)));
    framework
        .reconcile(&[
            ("lost", &id),
            ("no-such-task", ""),
            ("no-such-task-there", &id),
        ])
        .await;
    framework.expect_state("lost", TaskState::TaskGone).await;
    framework
        .expect_state("no-such-task", TaskState::TaskUnknown)
        .await;
    framework
        .expect_state("no-such-task-there", TaskState::TaskGone)
        .await;
    master.stop().await;
}

#[tokio::test]
async fn a_silent_agent_is_cut_off_and_the_newer_of_two_streams_wins() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(Config {
        agent_ping_timeout: Duration::from_secs(3),
        ..config(dir.path())
    })
    .await;
    let mut first = Agent::attach(&master, "node-1", NODE).await;
    let mut second = Agent::reattach(&master, &first.id, "node-1", NODE, Vec::new())
        .await
        .unwrap();
    assert_eq!(first.next().await.unwrap_err().code(), Code::Aborted);
    assert_eq!(
        master
            .wait_for("one agent", |c| c.agents_connected == 1)
            .await
            .agents_disconnected,
        0
    );
    // Its stream stays open, but nobody answers the pings.
    second.mute();
    master
        .wait_for("it to be cut off", |c| c.agents_disconnected == 1)
        .await;
    assert_eq!(
        second.next().await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
    let mut operator = master.operator().await;
    operator
        .remove_agent(proto::RemoveAgentRequest {
            agent_id: first.id.clone(),
        })
        .await
        .unwrap();
    let mut refused = Agent::open(&master, register(&first.id)).await.unwrap();
    match refused.next().await.unwrap() {
        master_message::Message::Refused(refusal) => assert!(refusal.message.contains(&first.id)),
        other => panic!("expected Refused, got {other:?}"),
    }
    assert_eq!(
        refused.next().await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    master.stop().await;
}

fn register(id: &str) -> agent_message::Message {
    agent_message::Message::Register(Box::new(agent_message::Register {
        agent_id: id.to_owned(),
        info: Some(agent_info("node-1", NODE)),
        ..agent_message::Register::default()
    }))
}

#[tokio::test]
async fn a_framework_is_removed_when_its_deadline_passes_also_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let quick = || Config {
        recovery_timeout: Duration::from_millis(300),
        ..config(dir.path())
    };
    let master = Master::start(quick()).await;
    let agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe_as(
        &master,
        framework_info("f", "*", Duration::from_millis(100)),
    )
    .await
    .unwrap();
    let offers = framework.expect_offers().await;
    framework
        .accept(&offers, vec![task("t1", &agent.id, "cpus:1")])
        .await;
    let mut agent = agent;
    let launch = agent.expect_launch().await;
    agent.report(&launch, TaskState::TaskRunning, "u1").await;
    framework.expect_state("t1", TaskState::TaskRunning).await;
    master.stop().await;

    let master = Master::start(quick()).await;
    let running = vec![agent.task(&launch, TaskState::TaskRunning, "u1")];
    let mut agent = Agent::reattach(&master, &agent.id, "node-1", NODE, running)
        .await
        .unwrap();
    match agent.next().await.unwrap() {
        master_message::Message::ShutdownFramework(shutdown) => {
            assert_eq!(shutdown.framework_id, framework.id)
        }
        other => panic!("expected ShutdownFramework, got {other:?}"),
    }
    agent.report(&launch, TaskState::TaskKilled, "u2").await;
    assert_eq!(agent.expect_acknowledge().await.update_id, "u2");
    master
        .wait_for("nothing left", |c| {
            c.allocated.is_empty() && c.frameworks_disconnected == 0
        })
        .await;
    master.stop().await;
}

#[tokio::test]
async fn a_framework_that_does_not_read_is_cut_off_and_the_master_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(Config {
        framework_queue: 16,
        ..config(dir.path())
    })
    .await;
    let agent = Agent::attach(&master, "node-1", NODE).await;
    let mut slow = Framework::subscribe(&master, "slow").await;
    // Far more events than queue and windows hold, and none is read.
    let many: Vec<_> = (0..2000)
        .map(|n| (format!("no-such-task-{n}"), agent.id.clone()))
        .collect();
    let keys: Vec<_> = many
        .iter()
        .map(|(task, agent)| (task.as_str(), agent.as_str()))
        .collect();
    let mut calls = slow.client.clone();
    let caller = slow.caller();
    let cut_off = async {
        loop {
            let tasks = keys
                .iter()
                .map(|(task, agent)| proto::reconcile_request::TaskKey {
                    task_id: (*task).to_owned(),
                    agent_id: (*agent).to_owned(),
                });
            let request = proto::ReconcileRequest {
                caller: caller.clone(),
                tasks: tasks.collect(),
            };
            if let Err(status) = calls.reconcile(request).await {
                return status;
            }
        }
    };
    let status = timeout(DEADLINE, cut_off)
        .await
        .expect("it is cut off in time");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(slow.expect_end().await.code(), Code::ResourceExhausted);
    let mut info = framework_info("slow", "*", Duration::from_secs(60));
    info.framework_id = slow.id.clone();
    let mut again = Framework::subscribe_as(&master, info).await.unwrap();
    again.reconcile(&[("no-such-task", &agent.id)]).await;
    again
        .expect_state("no-such-task", TaskState::TaskGone)
        .await;
    master.stop().await;
}

#[tokio::test]
async fn nonsense_ends_the_stream_with_a_word_and_silence_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let pong = agent_message::Message::Pong(agent_message::Pong { sequence: 1 });
    let nameless = agent_message::Message::Register(Box::default());
    let bad_id = register("a/b");
    for first in [pong, nameless, bad_id] {
        let mut agent = Agent::open(&master, first).await.unwrap();
        assert_eq!(
            agent.next().await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    let mut info = framework_info("test", "*", Duration::ZERO);
    info.roles = vec!["../up".to_owned()];
    assert_eq!(
        Framework::subscribe_as(&master, info)
            .await
            .err()
            .unwrap()
            .code(),
        Code::InvalidArgument
    );

    assert_eq!(master.cluster().await.agents_connected, 0);
    master.stop().await;

    let master = Master::start(Config {
        greeting_timeout: Duration::from_millis(500),
        ..config(dir.path())
    })
    .await;
    // One says nothing, one half a greeting, one HTTP that is none: all are gone after the deadline.
    for said in [
        &b""[..],
        b"PRI * H",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(master.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let closed = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "still open after {said:?}");
    }
    master.stop().await;
}

#[tokio::test]
async fn metrics_and_health_are_served_on_the_same_port() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let _agent = Agent::attach(&master, "node-1", NODE).await;
    master
        .wait_for("one agent", |c| c.agents_connected == 1)
        .await;
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(master.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: mezzo\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer
    };
    let metrics = get("/metrics").await;
    for line in [
        "mezzo_master_agents{state=\"connected\"} 1",
        "mezzo_master_resources_total{resource=\"cpus\"} 4",
        "mezzo_master_agent_registrations_total 1",
        "mezzo_master_allocation_seconds_count",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/nothing").await.starts_with("HTTP/1.1 404"));
    let address = fs::read_to_string(dir.path().join("address")).unwrap();
    assert_eq!(address.trim(), master.address.to_string());
    master.stop().await;
}

#[tokio::test]
async fn a_master_that_cannot_start_says_why_in_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let run = async |config: Config| {
        mezzo_master::run(config, CancellationToken::new())
            .await
            .unwrap_err()
    };
    assert!(matches!(
        run(config(dir.path())).await,
        Error::Store(StoreError::InUse { .. })
    ));

    let other = tempfile::tempdir().unwrap();
    let taken = Config {
        listen: master.address,
        ..config(other.path())
    };
    let error = run(taken).await;
    assert!(
        matches!(error, Error::Listen { .. }) && error.to_string().contains("listen"),
        "{error}"
    );

    fs::write(other.path().join("master.redb"), b"half a file").unwrap();
    let error = run(config(other.path())).await;
    assert!(
        matches!(error, Error::Store(StoreError::Corrupt { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("master.redb"), "{error}");

    let file = other.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = run(config(&file.join("below"))).await;
    assert!(
        matches!(error, Error::Store(StoreError::Open { .. })),
        "{error}"
    );
    master.stop().await;
}
