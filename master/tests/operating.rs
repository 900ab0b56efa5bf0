//! What operators do beside lists and verbs, over real gRPC: watching, filters, credentials, rates, backups, planned work.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]
#![expect(clippy::unwrap_used, reason = "test support")]

mod common;

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use common::{Agent, DEADLINE, Framework, Master, config, framework_info, task};
use mezzo_api::proto::{
    self, TaskState, event, framework_service_client::FrameworkServiceClient,
    master_message::Message, operator_event::Event, operator_service_client::OperatorServiceClient,
};
use mezzo_master::{
    Config,
    store::{EmbeddedStore, Store as _, backup},
};
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

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

#[tokio::test]
async fn lists_are_filtered_and_their_tokens_are_bound_to_the_filters() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agents = Vec::new();
    for n in 0..5 {
        agents.push(Agent::attach(&master, &format!("node-{}", n % 2), NODE).await);
    }
    // Readers see it a moment after the call.
    master
        .wait_for("all agents", |cluster| cluster.agents_connected == 5)
        .await;
    let mut operator = master.operator().await;
    let mut request = proto::ListAgentsRequest {
        hostname: "node-0".into(),
        page_size: 2,
        states: vec![proto::AgentState::AgentConnected.into()],
        draining: Some(false),
        ..proto::ListAgentsRequest::default()
    };
    let page = operator
        .list_agents(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.agents.len(), 2);
    request.page_token = page.next_page_token;
    let other = proto::ListAgentsRequest {
        hostname: "node-1".into(),
        ..request.clone()
    };
    let refused = operator.list_agents(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("other filters"), "{refused}");
    let page = operator.list_agents(request).await.unwrap().into_inner();
    assert_eq!((page.agents.len(), page.next_page_token.as_str()), (1, ""));

    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework
        .accept(
            &offers[..1],
            vec![task("t1", &offers[0].agent_id, "cpus:1;mem:64")],
        )
        .await;
    for (states, role, n) in [
        (vec![], "", 1),
        (vec![TaskState::TaskStaging], "*", 1),
        (vec![TaskState::TaskRunning], "", 0),
        (vec![], "eng", 0),
    ] {
        let request = proto::ListTasksRequest {
            states: states.into_iter().map(Into::into).collect(),
            role: role.to_owned(),
            ..proto::ListTasksRequest::default()
        };
        // Readers see it a moment after the call.
        let listed = async {
            loop {
                let page = operator
                    .list_tasks(request.clone())
                    .await
                    .unwrap()
                    .into_inner();
                if page.tasks.len() == n {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, listed).await.expect("the filter fits");
    }
    for role in ["eng", "eng/web", "sales"] {
        set_weight(&master, role).await;
    }
    let request = proto::ListRolesRequest {
        within: "eng".into(),
        page_size: 1,
        ..proto::ListRolesRequest::default()
    };
    let listed = async {
        loop {
            let both = proto::ListRolesRequest {
                page_size: 0,
                ..request.clone()
            };
            if operator
                .list_roles(both)
                .await
                .unwrap()
                .into_inner()
                .roles
                .len()
                == 2
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, listed)
        .await
        .expect("both roles are listed");
    let page = operator
        .list_roles(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.roles[0].name, "eng");
    let request = proto::ListRolesRequest {
        page_token: page.next_page_token,
        ..request
    };
    let page = operator.list_roles(request).await.unwrap().into_inner();
    assert_eq!(
        (page.roles[0].name.as_str(), page.next_page_token.as_str()),
        ("eng/web", "")
    );
    master.stop().await;
}

/// A credentials file with these principals, and their `authorization`.
fn credentials(dir: &Path, principals: &[(&str, &str)], rest: &str) -> (Config, Vec<String>) {
    let (mut text, mut lines) = (String::new(), Vec::new());
    for (name, allow) in principals {
        let (line, entry) = mezzo_master::new_credential(name).unwrap();
        text += &entry.replace("allow = []", &format!("allow = {allow}"));
        lines.push(format!("Bearer {line}"));
    }
    text += rest;
    let path = dir.join("credentials.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = Config {
        credentials: Some(path),
        ..config(dir)
    };
    (config, lines)
}

fn with<T>(message: T, authorization: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = authorization.parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

async fn subscribe(
    channel: Channel,
    authorization: &str,
    info: proto::FrameworkInfo,
) -> Result<String, Status> {
    let request = proto::SubscribeRequest {
        framework: Some(info),
        suppressed_roles: Vec::new(),
    };
    let mut client = FrameworkServiceClient::new(channel);
    let mut stream = client
        .subscribe(with(request, authorization))
        .await?
        .into_inner();
    match stream.message().await?.unwrap().event.unwrap() {
        event::Event::Subscribed(subscribed) => Ok(subscribed.framework_id),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_principal_may_do_what_its_rules_say_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let principals = [
        ("ops", "['operate']"),
        ("team-a", "['subscribe a', 'subscribe a/*']"),
        ("team-b", "['subscribe a', 'read']"),
        ("eng", "['update-weights eng']"),
    ];
    let (config, lines) = credentials(dir.path(), &principals, "");
    let [ops, team_a, team_b, eng] = &lines[..] else {
        panic!()
    };
    let master = Master::start(config).await;
    let channel = master.channel().await;
    let mut operator = OperatorServiceClient::new(channel.clone());
    let get = proto::GetClusterRequest {};
    let code = |status: Result<_, Status>| status.map(drop).map_err(|status| status.code());
    assert_eq!(
        code(operator.get_cluster(get).await),
        Err(Code::Unauthenticated)
    );
    for (who, wanted) in [
        (ops.as_str(), Ok(())),
        (team_a, Err(Code::PermissionDenied)),
        (team_b, Ok(())),
        ("Bearer ops:guess", Err(Code::Unauthenticated)),
        ("ops", Err(Code::Unauthenticated)),
    ] {
        let answer = operator.get_cluster(with(get, who)).await;
        assert_eq!(code(answer), wanted, "{}", who.split(':').next().unwrap());
    }
    // By the object, too.
    for (role, wanted) in [("eng", Ok(())), ("sales", Err(Code::PermissionDenied))] {
        let weight = proto::update_weights_request::Weight {
            role: role.into(),
            weight_millis: 1,
        };
        let request = proto::UpdateWeightsRequest {
            weights: vec![weight],
        };
        let answer = operator.update_weights(with(request, eng)).await;
        assert_eq!(
            answer.map(drop).map_err(|status| status.code()),
            wanted,
            "{role}"
        );
    }
    // Frameworks: in roles of the principal, under its name, and nobody else's.
    let info = |role: &str| framework_info("f", role, Duration::from_secs(60));
    for role in ["b", "*"] {
        let refused = subscribe(channel.clone(), team_a, info(role))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(
            refused.message().contains("team-a may not subscribe"),
            "{refused}"
        );
    }
    let id = subscribe(channel.clone(), team_a, info("a/b"))
        .await
        .unwrap();
    let listed = async {
        loop {
            let request = with(proto::ListFrameworksRequest::default(), ops);
            let listed = operator.list_frameworks(request).await.unwrap();
            // Readers see it a moment after the call.
            match listed.into_inner().frameworks.pop() {
                Some(framework) => return framework.info.unwrap(),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let shown = timeout(DEADLINE, listed).await.expect("it is listed");
    assert_eq!(
        (shown.framework_id.as_str(), shown.principal.as_str()),
        (id.as_str(), "team-a")
    );
    let stolen = proto::FrameworkInfo {
        framework_id: id,
        ..info("a")
    };
    let refused = subscribe(channel.clone(), team_b, stolen)
        .await
        .unwrap_err();
    assert!(refused.message().contains("another principal"), "{refused}");
    let forged = proto::FrameworkInfo {
        principal: "ops".into(),
        ..info("a")
    };
    let refused = subscribe(channel, team_a, forged).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // Agents need a credential, too.
    let refused = Agent::reattach(&master, "", "node-1", NODE, Vec::new()).await;
    assert_eq!(
        refused.map(|_| ()).unwrap_err().code(),
        Code::Unauthenticated
    );
    master.stop().await;
}

#[tokio::test]
async fn a_principal_that_calls_too_often_is_told_when_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let rest = "calls_per_sec = 1\ncalls_burst = 3\n";
    let (config, lines) = credentials(
        dir.path(),
        &[("ops", "['operate']"), ("busy", "['read']")],
        rest,
    );
    let master = Master::start(config).await;
    let mut operator = master.operator().await;
    let get = proto::GetClusterRequest {};
    let refused = async {
        loop {
            if let Err(status) = operator.get_cluster(with(get, &lines[1])).await {
                return status;
            }
        }
    };
    let refused = timeout(DEADLINE, refused).await.expect("the burst ends");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let pause = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
    let pause: u64 = pause.to_str().unwrap().parse().unwrap();
    assert!((1..=1000).contains(&pause), "{pause}");
    // Others are not held up by it.
    for _ in 0..20 {
        operator.get_cluster(with(get, &lines[0])).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(pause)).await;
    operator.get_cluster(with(get, &lines[1])).await.unwrap();
    master.stop().await;
}

#[tokio::test]
async fn credentials_that_everybody_can_read_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _) = credentials(dir.path(), &[("ops", "['*']")], "");
    let path = config.credentials.clone().unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let error = mezzo_master::run(config, stop).await.unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

async fn read_backup(master: &Master) -> Vec<u8> {
    let mut stream = master
        .operator()
        .await
        .backup(proto::BackupRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut file = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        file.extend(chunk.data);
    }
    file
}

#[tokio::test]
async fn a_backup_of_a_running_master_brings_another_to_the_same_state() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = Master::start(config(dir.path())).await;
    let agent = Agent::attach(&master, "node-1", NODE).await;
    let framework = Framework::subscribe(&master, "test").await;
    set_weight(&master, "eng").await;
    let now = master.cluster().await.started_at_ms;
    let window = proto::MaintenanceWindow {
        name: "kernel".into(),
        agent_ids: vec![agent.id.clone()],
        starts_at_ms: now + 3_600_000,
        drains_at_ms: now + 7_200_000,
        ..proto::MaintenanceWindow::default()
    };
    let request = proto::ScheduleMaintenanceRequest {
        window: Some(window),
    };
    master
        .operator()
        .await
        .schedule_maintenance(request)
        .await
        .unwrap();
    let file = read_backup(&master).await;
    // What comes later is not in it.
    set_weight(&master, "late").await;
    let backup = backup::read(&file).unwrap();
    assert_eq!(backup.saved.agents.len(), 1);
    master.stop().await;

    let target = config(other.path());
    mezzo_master::restore(&target, &backup, false)
        .await
        .unwrap();
    let error = mezzo_master::restore(&target, &backup, false)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("--replace"), "{error}");
    let saved = EmbeddedStore::open(other.path())
        .unwrap()
        .load()
        .await
        .unwrap();
    assert_eq!(saved, backup.saved);

    let master = Master::start(target).await;
    let error = mezzo_master::restore(&config(other.path()), &backup, true)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    let info = proto::FrameworkInfo {
        framework_id: framework.id.clone(),
        ..framework_info("test", "*", Duration::from_secs(60))
    };
    let again = Framework::subscribe_as(&master, info).await.unwrap();
    assert_eq!(again.id, framework.id);
    let windows = master
        .operator()
        .await
        .list_maintenance(proto::ListMaintenanceRequest::default())
        .await;
    let windows = windows.unwrap().into_inner().windows;
    assert_eq!(
        (windows.len(), windows[0].agent_ids.as_slice()),
        (1, &[agent.id.clone()][..])
    );
    master.stop().await;
}

#[tokio::test]
async fn a_window_asks_frameworks_then_drains_and_then_the_agent_is_back() {
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
    let running = framework.expect_state("t1", TaskState::TaskRunning).await;
    framework.acknowledge(&running).await;

    let mut operator = master.operator().await;
    let mut window = proto::MaintenanceWindow {
        name: "kernel".into(),
        agent_ids: vec![agent.id.clone()],
        starts_at_ms: 1,
        drains_at_ms: u64::MAX / 2,
        ..proto::MaintenanceWindow::default()
    };
    let schedule = |window: &proto::MaintenanceWindow| proto::ScheduleMaintenanceRequest {
        window: Some(window.clone()),
    };
    operator
        .schedule_maintenance(schedule(&window))
        .await
        .unwrap();
    let asked = loop {
        match framework.next().await.unwrap() {
            event::Event::InverseOffers(mut asked) => break asked.offers.remove(0),
            event::Event::Offers(_) | event::Event::Rescind(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (asked.hostname.as_str(), asked.window.as_str()),
        ("node-1", "kernel")
    );
    let answer = proto::AnswerInverseOffersRequest {
        caller: framework.caller(),
        inverse_offer_ids: vec![asked.inverse_offer_id],
        accept: true,
    };
    framework
        .client
        .answer_inverse_offers(answer)
        .await
        .unwrap();
    let answered = async {
        loop {
            let listed = operator
                .list_maintenance(proto::ListMaintenanceRequest::default())
                .await;
            let window = listed.unwrap().into_inner().windows.remove(0);
            assert_eq!(window.stage(), proto::MaintenanceStage::Vacating);
            if window
                .answers
                .iter()
                .any(|answer| answer.accepted == Some(true))
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, answered)
        .await
        .expect("the answer is shown");
    // Now the time for it has come.
    window.drains_at_ms = 2;
    operator
        .schedule_maintenance(schedule(&window))
        .await
        .unwrap();
    loop {
        match agent.next().await.unwrap() {
            Message::Drain(_) => break,
            Message::Acknowledge(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let request = proto::CancelMaintenanceRequest {
        name: "kernel".into(),
    };
    operator.cancel_maintenance(request.clone()).await.unwrap();
    loop {
        match agent.next().await.unwrap() {
            Message::Activate(_) => break,
            Message::Acknowledge(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let refused = operator.cancel_maintenance(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    master.stop().await;
}
