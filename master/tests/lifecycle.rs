//! The ordinary life of agents, frameworks and tasks, over real gRPC.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]

mod common;

use std::time::Duration;

use common::{Agent, Framework, Master, config, framework_info, task};
use mezzo_api::proto::{self, TaskState};
use tonic::Code;

const NODE: &str = "cpus:4;mem:4096;ports:[31000-31009]";

#[tokio::test]
async fn a_task_goes_from_offer_to_acknowledged_end_and_its_resources_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe(&master, "test").await;

    let offers = framework.expect_offers().await;
    assert_eq!(offers.len(), 1);
    assert_eq!(
        (offers[0].agent_id.as_str(), offers[0].hostname.as_str()),
        (agent.id.as_str(), "node-1")
    );
    framework
        .accept(&offers, vec![task("t1", &agent.id, "cpus:1;mem:64")])
        .await;

    let launch = agent.expect_launch().await;
    agent.report(&launch, TaskState::TaskStarting, "u1").await;
    agent.report(&launch, TaskState::TaskRunning, "u2").await;
    let starting = framework.expect_state("t1", TaskState::TaskStarting).await;
    framework.acknowledge(&starting).await;
    assert_eq!(agent.expect_acknowledge().await.update_id, "u1");
    let running = framework.expect_state("t1", TaskState::TaskRunning).await;
    framework.acknowledge(&running).await;
    assert_eq!(agent.expect_acknowledge().await.update_id, "u2");
    let cluster = master
        .wait_for("one running", |c| {
            c.tasks_by_state.get("TASK_RUNNING") == Some(&1)
        })
        .await;
    assert_eq!(cluster.allocated, common::resources("cpus:1;mem:64"));

    framework.kill("t1").await;
    assert_eq!(agent.expect_kill().await.task_id, "t1");
    agent.report(&launch, TaskState::TaskKilled, "u3").await;
    let killed = framework.expect_state("t1", TaskState::TaskKilled).await;
    framework.acknowledge(&killed).await;
    assert_eq!(agent.expect_acknowledge().await.update_id, "u3");
    master
        .wait_for("nothing allocated", |c| {
            c.allocated.is_empty() && c.tasks_by_state.is_empty()
        })
        .await;

    let mut operator = master.operator().await;
    let mut request = proto::ListTasksRequest::default();
    assert!(
        operator
            .list_tasks(request.clone())
            .await
            .unwrap()
            .into_inner()
            .tasks
            .is_empty()
    );
    request.include_ended = true;
    let ended = operator
        .list_tasks(request)
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(ended.len(), 1);
    assert_eq!(
        ended[0].status.as_ref().unwrap().state(),
        TaskState::TaskKilled
    );
    master.stop().await;
}

#[tokio::test]
async fn bad_launches_are_answered_with_updates_and_never_reach_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    let mut no_image = task("no-image", &agent.id, "cpus:1");
    no_image.container = None;
    let tasks = vec![
        task("too-big", &agent.id, "cpus:5"),
        task("wrong-agent", "elsewhere", "cpus:1"),
        no_image,
        task("good", &agent.id, "cpus:3"),
        task("good", &agent.id, "cpus:1"),
        task("does-not-fit-any-more", &agent.id, "cpus:2"),
    ];
    framework.accept(&offers, tasks.clone()).await;
    for id in ["too-big", "wrong-agent", "no-image"] {
        let status = framework.expect_state(id, TaskState::TaskError).await;
        assert_eq!(status.reason(), proto::Reason::TaskInvalid);
        assert!(status.update_id.is_empty() && !status.message.is_empty());
    }
    // A second task of the same id must not look like the end of the first.
    framework.expect_state("good", TaskState::TaskStaging).await;
    framework
        .expect_state("does-not-fit-any-more", TaskState::TaskError)
        .await;
    assert_eq!(agent.expect_launch().await.info().unwrap().task_id, "good");

    framework
        .accept(&offers, vec![task("late", &agent.id, "cpus:1")])
        .await;
    let status = framework.expect_state("late", TaskState::TaskDropped).await;
    assert_eq!(status.reason(), proto::Reason::InvalidOffers);
    master.stop().await;
}

#[tokio::test]
async fn offers_of_many_agents_are_used_in_one_call_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agents = [
        Agent::attach(&master, "node-1", NODE).await,
        Agent::attach(&master, "node-2", NODE).await,
    ];
    let mut framework = Framework::subscribe(&master, "test").await;
    let mut offers = framework.expect_offers().await;
    while offers.len() < 2 {
        offers.extend(framework.expect_offers().await);
    }
    let launch = |offer: &proto::Offer| proto::accept_each_request::Accept {
        offer_ids: vec![offer.offer_id.clone()],
        operations: vec![proto::Operation {
            operation: Some(proto::operation::Operation::Launch(
                proto::operation::Launch {
                    tasks: vec![task(&offer.hostname, &offer.agent_id, "cpus:1;mem:64")],
                },
            )),
            operation_id: String::new(),
        }],
        filters: None,
    };
    let accepts: Vec<_> = offers.iter().map(launch).collect();

    // What cannot be read is told by its place, and nothing of the call is done.
    let mut request = proto::AcceptEachRequest {
        caller: framework.caller(),
        accepts,
    };
    let mut wrong = request.clone();
    wrong.accepts[1].operations[0].operation = None;
    let refused = framework.client.accept_each(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().starts_with("accepts[1].operations: "),
        "{refused}"
    );
    let mut many = request.clone();
    many.accepts = vec![request.accepts[0].clone(); 1001];
    let refused = framework.client.accept_each(many).await.unwrap_err();
    assert!(refused.message().starts_with("accepts: "), "{refused}");

    // Both, and the third as if it had come alone: its offer is used.
    request.accepts.push(launch(&offers[0]));
    request.accepts[2].operations[0] = {
        let again = task("late", &offers[0].agent_id, "cpus:1;mem:64");
        proto::Operation {
            operation: Some(proto::operation::Operation::Launch(
                proto::operation::Launch { tasks: vec![again] },
            )),
            operation_id: String::new(),
        }
    };
    framework.client.accept_each(request).await.unwrap();
    let status = framework.expect_state("late", TaskState::TaskDropped).await;
    assert_eq!(status.reason(), proto::Reason::InvalidOffers);
    for (agent, hostname) in agents.iter_mut().zip(["node-1", "node-2"]) {
        let launched = agent.expect_launch().await.info().unwrap();
        assert_eq!(launched.task_id, hostname);
    }
    master.stop().await;
}

#[tokio::test]
async fn messages_reach_the_agent_of_a_task_of_the_framework_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    let of_task = vec![task("t1", &agent.id, "cpus:1;mem:64")];
    framework.accept(&offers, of_task).await;
    agent.expect_launch().await;

    let message = proto::SendMessageRequest {
        caller: framework.caller(),
        agent_id: agent.id.clone(),
        task_id: "t1".into(),
        data: b"turn left".to_vec(),
    };
    framework
        .client
        .send_message(message.clone())
        .await
        .unwrap();
    let said = agent.next().await.unwrap();
    let proto::master_message::Message::TaskMessage(said) = said else {
        panic!("expected TaskMessage, got {said:?}")
    };
    assert_eq!(
        (said.task_id.as_str(), said.data.as_slice()),
        ("t1", b"turn left".as_slice())
    );

    let mut unknown = message.clone();
    unknown.task_id = "t2".into();
    let refused = framework.client.send_message(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let mut long = message.clone();
    long.data = vec![0; 64 * 1024 + 1];
    let refused = framework.client.send_message(long).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut other = Framework::subscribe(&master, "other").await;
    let theirs = proto::SendMessageRequest {
        caller: other.caller(),
        ..message
    };
    let refused = other.client.send_message(theirs).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    master.stop().await;
}

#[tokio::test]
async fn a_declined_offer_comes_back_when_the_filter_ends_and_at_once_on_revive() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let _agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    let declined = tokio::time::Instant::now();
    framework.decline(&offers, Duration::from_millis(400)).await;
    let offers = framework.expect_offers().await;
    assert!(
        declined.elapsed() >= Duration::from_millis(350),
        "{:?}",
        declined.elapsed()
    );
    framework.decline(&offers, Duration::from_secs(3600)).await;
    let revive = proto::ReviveRequest {
        caller: framework.caller(),
        roles: Vec::new(),
    };
    framework.client.revive(revive).await.unwrap();
    framework.expect_offers().await;
    master.stop().await;
}

#[tokio::test]
async fn roles_share_by_weight() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let weight = |role: &str, weight_millis| proto::update_weights_request::Weight {
        role: role.into(),
        weight_millis,
    };
    let weights = vec![weight("heavy", 3000), weight("light", 1000)];
    let mut operator = master.operator().await;
    operator
        .update_weights(proto::UpdateWeightsRequest { weights })
        .await
        .unwrap();
    let minute = Duration::from_secs(60);
    let mut heavy = Framework::subscribe_as(&master, framework_info("h", "heavy", minute))
        .await
        .unwrap();
    let mut light = Framework::subscribe_as(&master, framework_info("l", "light", minute))
        .await
        .unwrap();
    let mut agents = Vec::new();
    for n in 0..8 {
        agents.push(Agent::attach(&master, &format!("node-{n}"), NODE).await);
    }
    let (mut n_heavy, mut n_light) = (0, 0);
    while n_heavy + n_light < 8 {
        tokio::select! {
            offers = heavy.expect_offers() => n_heavy += offers.len(),
            offers = light.expect_offers() => n_light += offers.len(),
        }
    }
    assert_eq!((n_heavy, n_light), (6, 2));
    master
        .wait_for("all offered", |c| {
            c.offered == common::resources("cpus:32;mem:32768")
        })
        .await;
    let roles = operator
        .list_roles(proto::ListRolesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .roles;
    let shares: Vec<_> = roles
        .iter()
        .map(|r| (r.name.as_str(), r.weight_millis, r.dominant_share_ppm))
        .collect();
    assert_eq!(shares, [("heavy", 3000, 750_000), ("light", 1000, 250_000)]);
    master.stop().await;
}

#[tokio::test]
async fn a_framework_that_is_torn_down_cannot_come_back_and_its_tasks_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework
        .accept(&offers, vec![task("t1", &agent.id, "cpus:1")])
        .await;
    let launch = agent.expect_launch().await;
    let request = proto::TeardownRequest {
        caller: framework.caller(),
    };
    framework.client.teardown(request).await.unwrap();
    assert_eq!(
        framework.expect_end().await.code(),
        Code::FailedPrecondition
    );
    match agent.next().await.unwrap() {
        proto::master_message::Message::ShutdownFramework(shutdown) => {
            assert_eq!(shutdown.framework_id, framework.id)
        }
        other => panic!("expected ShutdownFramework, got {other:?}"),
    }
    // What still runs is not offered to others.
    master
        .wait_for("its cpu still booked", |c| {
            c.allocated == common::resources("cpus:1")
        })
        .await;
    agent.report(&launch, TaskState::TaskKilled, "u1").await;
    assert_eq!(agent.expect_acknowledge().await.update_id, "u1");
    master
        .wait_for("nothing allocated", |c| c.allocated.is_empty())
        .await;
    let mut info = framework_info("test", "*", Duration::ZERO);
    info.framework_id = framework.id.clone();
    let error = Framework::subscribe_as(&master, info).await.err().unwrap();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    master.stop().await;
}

#[tokio::test]
async fn a_second_subscription_takes_over_and_calls_of_the_first_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut first = Framework::subscribe(&master, "test").await;
    let mut info = framework_info("test", "*", Duration::from_secs(60));
    info.framework_id = first.id.clone();
    let second = Framework::subscribe_as(&master, info).await.unwrap();
    assert_eq!(second.id, first.id);
    assert_eq!(first.expect_end().await.code(), Code::Aborted);
    let request = proto::ReconcileRequest {
        caller: first.caller(),
        tasks: Vec::new(),
    };
    assert_eq!(
        first.client.reconcile(request).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let caller = Some(proto::Caller {
        framework_id: "nobody".into(),
        stream_id: "x".into(),
    });
    let request = proto::ReconcileRequest {
        caller,
        tasks: Vec::new(),
    };
    assert_eq!(
        first.client.reconcile(request).await.unwrap_err().code(),
        Code::NotFound
    );
    master.stop().await;
}

#[tokio::test]
async fn lists_are_paged_and_agents_are_found_by_prefix_and_hostname() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut ids = Vec::new();
    let mut agents = Vec::new();
    for n in 0..5 {
        let agent = Agent::attach(&master, &format!("node-{n}"), NODE).await;
        ids.push(agent.id.clone());
        agents.push(agent);
    }
    master
        .wait_for("five agents", |c| c.agents_connected == 5)
        .await;
    ids.sort();
    let mut operator = master.operator().await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = proto::ListAgentsRequest {
            page_size: 2,
            page_token,
            ..proto::ListAgentsRequest::default()
        };
        let page = operator.list_agents(request).await.unwrap().into_inner();
        assert!(page.agents.len() <= 2);
        seen.extend(page.agents.into_iter().map(|agent| agent.agent_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ids);
    for wanted in ["node-3", agents[3].id.as_str()] {
        let request = proto::GetAgentRequest {
            agent: wanted.to_owned(),
        };
        assert_eq!(
            operator
                .get_agent(request)
                .await
                .unwrap()
                .into_inner()
                .agent_id,
            agents[3].id
        );
    }
    for (wanted, code) in [("nothing", Code::NotFound), ("", Code::InvalidArgument)] {
        let request = proto::GetAgentRequest {
            agent: wanted.to_owned(),
        };
        assert_eq!(operator.get_agent(request).await.unwrap_err().code(), code);
    }
    let request = proto::RemoveAgentRequest {
        agent_id: agents[0].id.clone(),
    };
    assert_eq!(
        operator.remove_agent(request).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    master.stop().await;
}

#[tokio::test]
async fn a_group_is_counted_at_once_and_launched_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", NODE).await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let group = |id: &str, init: Vec<proto::TaskInfo>, tasks: Vec<proto::TaskInfo>| {
        proto::operation::Operation::LaunchGroup(proto::operation::LaunchGroup {
            group_id: id.into(),
            init_tasks: init,
            tasks,
            ..proto::operation::LaunchGroup::default()
        })
    };

    // Each fits, both together do not.
    let offers = framework.expect_offers().await;
    let both = vec![
        task("a1", &agent.id, "cpus:3;mem:64"),
        task("a2", &agent.id, "cpus:3;mem:64"),
    ];
    framework.operate(&offers, group("a", vec![], both)).await;
    for id in ["a1", "a2"] {
        let error = framework.expect_state(id, TaskState::TaskError).await;
        assert_eq!(error.reason(), proto::Reason::TaskGroupInvalid);
        assert!(
            error.message.contains("task a2 of the group: it takes"),
            "{}",
            error.message
        );
    }

    // One is described badly: none of them is launched.
    let offers = framework.expect_offers().await;
    let mut nameless = task("b2", &agent.id, "cpus:1;mem:64");
    nameless.container.as_mut().unwrap().image = String::new();
    let both = vec![task("b1", &agent.id, "cpus:1;mem:64"), nameless];
    framework.operate(&offers, group("b", vec![], both)).await;
    for id in ["b1", "b2"] {
        let error = framework.expect_state(id, TaskState::TaskError).await;
        assert!(
            error.message.contains("tasks[1].container.image"),
            "{}",
            error.message
        );
    }

    // An offer that is gone.
    let used = offers;
    let offers = framework.expect_offers().await;
    let one = vec![task("c1", &agent.id, "cpus:1;mem:64")];
    framework.operate(&used, group("c", vec![], one)).await;
    framework.expect_state("c1", TaskState::TaskDropped).await;

    let init = vec![task("d0", &agent.id, "cpus:1;mem:64")];
    let rest = vec![
        task("d1", &agent.id, "cpus:1;mem:64"),
        task("d2", &agent.id, "cpus:2;mem:64"),
    ];
    framework.operate(&offers, group("d", init, rest)).await;
    let launch = agent.expect_group().await;
    let places: Vec<_> = launch
        .tasks
        .iter()
        .map(|task| {
            let group = task.group.as_ref().unwrap();
            (task.task_id.as_str(), group.position, group.init)
        })
        .collect();
    assert_eq!(
        places,
        [("d0", 0, true), ("d1", 1, false), ("d2", 2, false)]
    );
    let cluster = master
        .wait_for("all three", |c| {
            c.tasks_by_state.get("TASK_STAGING") == Some(&3)
        })
        .await;
    assert_eq!(cluster.allocated, common::resources("cpus:4;mem:192"));
    // The kill of one goes to the agent, which knows the group's policy.
    framework.kill("d1").await;
    assert_eq!(agent.expect_kill().await.task_id, "d1");
}
