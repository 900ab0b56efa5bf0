//! What operators do beside verbs, over real gRPC: watching, here; lists, credentials and rates, backups, planned work.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]
#![expect(clippy::unwrap_used, reason = "test support")]

mod common;

#[path = "operating/backups.rs"]
mod backups;
#[path = "operating/credentials.rs"]
mod credentials;
#[path = "operating/lists.rs"]
mod lists;
#[path = "operating/planned.rs"]
mod planned;

use common::{Agent, DEADLINE, Framework, Master, config, task};
use mezzo_api::proto::{self, TaskState, operator_event::Event};
use mezzo_master::Config;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

const NODE: &str = "cpus:4;mem:4096";

async fn watch(
    master: &Master,
    resume_token: &str,
) -> Result<Streaming<proto::OperatorEvent>, Status> {
    let request = proto::WatchEventsRequest {
        resume_token: resume_token.to_owned(),
        ..proto::WatchEventsRequest::default()
    };
    let mut stream = master
        .operator()
        .await
        .watch_events(request)
        .await?
        .into_inner();
    let first = next(&mut stream).await?;
    assert!(matches!(first.event, Some(Event::Started(_))), "{first:?}");
    Ok(stream)
}

/// The next one that is no heartbeat.
async fn next(
    stream: &mut Streaming<proto::OperatorEvent>,
) -> Result<proto::OperatorEvent, Status> {
    let wanted = async {
        loop {
            let event = stream.message().await?;
            let event = event.ok_or_else(|| Status::unknown("the stream ended"))?;
            if !matches!(event.event, Some(Event::Heartbeat(_))) {
                return Ok(event);
            }
        }
    };
    timeout(DEADLINE, wanted)
        .await
        .expect("the master says something")
}

async fn next_task(
    stream: &mut Streaming<proto::OperatorEvent>,
) -> (proto::OperatorEvent, TaskState) {
    loop {
        let event = next(stream).await.unwrap();
        if let Some(Event::Task(task)) = &event.event {
            let state = task.state();
            return (event, state);
        }
    }
}

async fn set_weight(master: &Master, role: &str) {
    let weight = proto::update_weights_request::Weight {
        role: role.to_owned(),
        weight_millis: 2000,
    };
    let request = proto::UpdateWeightsRequest {
        weights: vec![weight],
    };
    master
        .operator()
        .await
        .update_weights(request)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_watcher_hears_all_in_order_and_goes_on_after_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut stream = watch(&master, "").await.unwrap();
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework
        .accept(&offers, vec![task("t1", &agent.id, "cpus:1;mem:64")])
        .await;
    let launch = agent.expect_launch().await;
    agent.report(&launch, TaskState::TaskRunning, "u1").await;
    agent.report(&launch, TaskState::TaskFinished, "u2").await;

    match next(&mut stream).await.unwrap().event.unwrap() {
        Event::Agent(event) => {
            assert_eq!(event.hostname, "node-1");
            assert_eq!(event.change(), proto::agent_event::Change::Registered);
        }
        other => panic!("{other:?}"),
    }
    match next(&mut stream).await.unwrap().event.unwrap() {
        Event::Framework(event) => {
            assert_eq!(
                (event.name.as_str(), event.framework_id),
                ("test", framework.id.clone())
            );
        }
        other => panic!("{other:?}"),
    }
    let (first, state) = next_task(&mut stream).await;
    assert_eq!(state, TaskState::TaskStaging);
    drop(stream);
    // What came in between is told to the one who comes back.
    let mut stream = watch(&master, &first.resume_token).await.unwrap();
    assert_eq!(next_task(&mut stream).await.1, TaskState::TaskRunning);
    let (last, state) = next_task(&mut stream).await;
    assert_eq!(state, TaskState::TaskFinished);

    // Only what is asked for.
    let request = proto::WatchEventsRequest {
        resume_token: first.resume_token.clone(),
        kinds: vec![proto::EventKind::Role.into()],
        ..proto::WatchEventsRequest::default()
    };
    let mut roles = master
        .operator()
        .await
        .watch_events(request)
        .await
        .unwrap()
        .into_inner();
    set_weight(&master, "eng").await;
    assert!(matches!(
        next(&mut roles).await.unwrap().event,
        Some(Event::Started(_))
    ));
    assert!(matches!(
        next(&mut roles).await.unwrap().event,
        Some(Event::Role(_))
    ));

    // Another leadership has other events.
    drop((stream, roles));
    master.stop().await;
    let master = Master::start(config(dir.path())).await;
    let refused = watch(&master, &last.resume_token).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let nonsense = watch(&master, "nonsense").await.unwrap_err();
    assert_eq!(nonsense.code(), Code::InvalidArgument);
    let mut stream = watch(&master, "").await.unwrap();
    let end = async {
        master.stop().await;
        next(&mut stream).await.unwrap_err()
    };
    assert_eq!(end.await.code(), Code::Unavailable);
}

#[tokio::test]
async fn who_falls_behind_is_cut_off_and_an_old_token_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(Config {
        event_history: 16,
        ..config(dir.path())
    })
    .await;
    let mut slow = watch(&master, "").await.unwrap();
    set_weight(&master, "first").await;
    let first = next(&mut slow).await.unwrap();
    // More than the windows of HTTP/2 and the master's memory hold, while nobody reads.
    let weights = proto::UpdateWeightsRequest {
        weights: (0..10_000)
            .map(|n| proto::update_weights_request::Weight {
                role: format!("role-{n}"),
                weight_millis: 1000,
            })
            .collect(),
    };
    let mut operator = master.operator().await;
    for _ in 0..2 {
        operator.update_weights(weights.clone()).await.unwrap();
    }
    let cut_off = async {
        loop {
            if let Err(status) = next(&mut slow).await {
                return status;
            }
        }
    };
    let status = timeout(DEADLINE, cut_off).await.expect("it is cut off");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let refused = watch(&master, &first.resume_token).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(refused.message().contains("event_history"), "{refused}");
    master.stop().await;
}
