//! The framework SDK against a real master and simulated agents: what an author's program lives through.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use common::{Master, PATIENCE, fleet};
use mezzo_api::proto::{self, operator_service_client::OperatorServiceClient};
use mezzo_framework::{
    CallError, Error, Event, Framework, REFUSE_LONG, Reconciliation, Room, Task,
    model::{AgentId, FrameworkId, TaskId, TaskState},
};
use tokio::time::timeout;

fn framework(masters: &[SocketAddr], id: Option<FrameworkId>) -> Framework {
    Framework::builder("test")
        .masters(masters.iter().map(ToString::to_string))
        .id(id)
        .failover_timeout(Duration::from_secs(600))
        .spawn()
        .unwrap()
}

async fn next(framework: &mut Framework) -> Event {
    timeout(PATIENCE, framework.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

async fn subscribed(framework: &mut Framework) -> FrameworkId {
    loop {
        if let Event::Subscribed { framework_id, .. } = next(framework).await {
            return framework_id;
        }
    }
}

/// How many frameworks of that name the master knows, and how many of them are connected.
async fn seen(master: &Master, name: &str) -> (usize, usize) {
    let request = proto::ListFrameworksRequest {
        name: name.to_owned(),
        ..proto::ListFrameworksRequest::default()
    };
    let address = format!("http://{}", master.address);
    let mut operator = OperatorServiceClient::connect(address).await.unwrap();
    let listed = operator.list_frameworks(request).await.unwrap();
    let listed = listed.into_inner().frameworks;
    let n_connected = listed.iter().filter(|one| one.connected).count();
    (listed.len(), n_connected)
}

type Running = BTreeMap<TaskId, AgentId>;

/// Launches so many tasks and waits until all run.
async fn run_tasks(framework: &mut Framework, n: usize) -> Running {
    let calls = framework.calls();
    let mut waiting: Vec<Task> = (0..n)
        .map(|n| Task::new(format!("t{n}")).image("i").cpus("0.5").mem(32))
        .collect();
    let mut running = Running::new();
    while running.len() < n {
        match next(framework).await {
            Event::Offers(offers) => {
                let mut launches = Vec::new();
                for offer in offers {
                    let mut room = Room::of(&offer);
                    let mut infos = Vec::new();
                    while let Some(info) = waiting.last().and_then(|task| room.place(task).ok()) {
                        waiting.pop();
                        infos.push(info);
                    }
                    launches.push((offer.offer_id, infos));
                }
                calls.launch_each(launches, Duration::ZERO).await.unwrap();
            }
            Event::Update(status) => {
                calls.acknowledge(&status).await.unwrap();
                assert_eq!(status.state, TaskState::Running, "{status:?}");
                running.insert(status.task_id.clone(), status.agent_id.clone().unwrap());
            }
            Event::Subscribed { .. } | Event::Rescinded(_) => {}
            other @ (Event::Disconnected { .. }
            | Event::AgentLost(_)
            | Event::Operation(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)) => panic!("{other:?}"),
        }
    }
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_lower_term_than_was_seen_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::any(dir.path()).await;
    let of_term = |term: u64| {
        Framework::builder("heedful")
            .masters([master.address.to_string()])
            .failover_timeout(Duration::from_secs(600))
            .master_term(term)
            .spawn()
            .unwrap()
    };
    let mut heedless = of_term(0);
    let Event::Subscribed { term, .. } = next(&mut heedless).await else {
        panic!("the first event is Subscribed");
    };
    assert!(term > 0);
    heedless.close().await;
    // The same term is no lower one.
    let mut equal = of_term(term);
    subscribed(&mut equal).await;
    equal.close().await;

    let mut ahead = of_term(term + 1);
    // The master takes its subscriptions, and each is gone again.
    timeout(PATIENCE, async {
        while seen(&master, "heedful").await.0 < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while seen(&master, "heedful").await.1 > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    // And the author has heard of none.
    let heard = timeout(Duration::from_millis(50), ahead.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    ahead.close().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_run_are_killed_and_the_stream_ends_with_the_teardown() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::any(dir.path()).await;
    let fleet = fleet(master.address, 5, |_| {}).await;
    let mut framework = framework(&[master.address], None);
    let running = run_tasks(&mut framework, 20).await;
    let calls = framework.calls();
    for (task, agent) in &running {
        calls.kill(task, Some(agent), None).await.unwrap();
    }
    let mut ended = std::collections::BTreeSet::new();
    while ended.len() < running.len() {
        if let Event::Update(status) = next(&mut framework).await {
            calls.acknowledge_all([&*status]).await.unwrap();
            // What was not acknowledged in time is told again.
            if status.state != TaskState::Running {
                assert_eq!(status.state, TaskState::Killed, "{status:?}");
                ended.insert(status.task_id.clone());
            }
        }
    }
    fleet
        .until("all tasks gone", PATIENCE, |counts| counts.tasks == 0)
        .await
        .unwrap();
    assert_eq!(fleet.counts().overcommitted, 0);
    calls.teardown().await.unwrap();
    while let Some(event) = timeout(PATIENCE, framework.next()).await.unwrap() {
        event.unwrap();
    }
    fleet.stop().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_outlives_its_master_and_itself_and_reconciles() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::any(dir.path()).await;
    let fleet = fleet(master.address, 5, |_| {}).await;
    // The first one listed is not there.
    let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let masters = [nobody, master.address];
    let mut first = framework(&masters, None);
    let running = run_tasks(&mut first, 20).await;

    let master = master.restart(dir.path()).await;
    let id = subscribed(&mut first).await;
    reconciled(&mut first, &running).await;

    // The process dies; the next one has the id from the disk.
    first.close().await;
    let mut second = framework(&masters, Some(id.clone()));
    assert_eq!(subscribed(&mut second).await, id);
    second.calls().suppress(&[]).await.unwrap();
    reconciled(&mut second, &running).await;

    assert_eq!(fleet.counts().launches, 20, "nothing ran twice");
    fleet.stop().await;
    second.close().await;
    master.stop().await;
}

/// Asks for all tasks until each was told to run.
async fn reconciled(framework: &mut Framework, running: &Running) {
    let tasks = running
        .iter()
        .map(|(task, agent)| (task.clone(), Some(agent.clone())));
    let mut open = Reconciliation::of(tasks);
    let calls = framework.calls();
    let deadline = Instant::now() + PATIENCE;
    while !open.is_over() {
        assert!(Instant::now() < deadline, "{open:?}");
        calls.reconcile(open.due(Instant::now())).await.unwrap();
        let event = timeout(Duration::from_millis(200), framework.next()).await;
        if let Ok(event) = event
            && let Event::Update(status) = event.unwrap().unwrap()
        {
            assert_eq!(status.state, TaskState::Running, "{status:?}");
            open.answered(&status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_takes_over_and_the_first_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::any(dir.path()).await;
    let mut first = framework(&[master.address], None);
    assert!(matches!(
        first.calls().revive(&[]).await,
        Err(CallError::NotSubscribed { .. }) | Ok(())
    ));
    let id = subscribed(&mut first).await;
    let mut second = framework(&[master.address], Some(id.clone()));
    subscribed(&mut second).await;
    let told = timeout(PATIENCE, first.next()).await.unwrap().unwrap();
    assert_eq!(told, Err(Error::Superseded { framework_id: id }));
    assert!(first.next().await.is_none());
    assert!(matches!(
        first.calls().revive(&[]).await,
        Err(CallError::NotSubscribed { .. })
    ));
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_the_master_has_forgotten_and_a_wrong_description_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::any(dir.path()).await;
    let id: FrameworkId = "never-heard-of".parse().unwrap();
    let mut unknown = framework(&[master.address], Some(id.clone()));
    let told = timeout(PATIENCE, unknown.next()).await.unwrap().unwrap();
    // A master takes ids that it does not know for those of a former master's frameworks, unless they were removed.
    if let Ok(Event::Subscribed { .. }) = told {
        unknown.calls().teardown().await.unwrap();
        let mut again = framework(&[master.address], Some(id.clone()));
        let told = timeout(PATIENCE, again.next()).await.unwrap().unwrap();
        assert!(matches!(told, Err(Error::Forgotten { framework_id, .. }) if framework_id == id));
    } else {
        assert!(matches!(told, Err(Error::Forgotten { .. })), "{told:?}");
    }
    let bad = "(".to_owned();
    let filter = mezzo_framework::model::OfferFilter {
        groups: vec![vec![mezzo_framework::model::AttributeConstraint {
            selector: mezzo_framework::model::Selector::Hostname,
            predicate: mezzo_framework::model::Predicate::TextMatches(bad),
        }]],
        ..Default::default()
    };
    let mut wrong = Framework::builder("test")
        .masters([master.address.to_string()])
        .offer_filter("*".parse().unwrap(), filter)
        .spawn()
        .unwrap();
    let told = timeout(PATIENCE, wrong.next()).await.unwrap().unwrap();
    assert!(matches!(told, Err(Error::Refused { .. })), "{told:?}");
    master.stop().await;
}

/// Refuses every call and names that leader.
async fn standby(leader: SocketAddr) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let leader = leader.to_string();
    let refuse = move || {
        let mut status = tonic::Status::unavailable("another master leads");
        mezzo_api::masters::name_leader(status.metadata_mut(), &leader, 1);
        std::future::ready(status.into_http::<axum::body::Body>())
    };
    let routes = tonic::service::Routes::from(axum::Router::new().fallback(refuse));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let standby = listener.local_addr().unwrap();
    let serve = tonic::transport::Server::builder()
        .add_routes(routes)
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    let serve = tokio::spawn(async move { serve.await.unwrap() });
    (standby, serve)
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_follow_a_standby_that_names_the_leader() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::any(dir.path()).await;
    let (standby, serve) = standby(master.address).await;
    let fleet = fleet(standby, 5, |_| {}).await;
    assert_eq!(fleet.counts().connected, 5);
    fleet.stop().await;
    serve.abort();
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_names_the_leader_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::any(dir.path()).await;
    let (standby, serve) = standby(master.address).await;
    let mut framework = framework(&[standby], None);
    subscribed(&mut framework).await;
    framework.calls().decline([], REFUSE_LONG).await.unwrap();
    framework.calls().revive(&[]).await.unwrap();
    framework.close().await;
    serve.abort();
    master.stop().await;
}
