//! Reservations and volumes over gRPC: what is asked in an accept or by an operator, what the agent hears of it, and who
//! is told what became of it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is the test's failure"
)]

mod common;

#[path = "operations/shared.rs"]
mod shared;

use std::time::Duration;

use common::{Agent, Framework, Master, agent_info, config, framework_info, resources, task};
use mezzo_api::proto::{
    self, OperationState, PoolOperation, TaskState, agent_message, event::Event, master_message,
    operation::Operation, pool_change::Change,
};
use prost::Message as _;
use tonic::Code;

fn reservation(role: &str) -> proto::Reservation {
    proto::Reservation {
        role: role.to_owned(),
        kind: proto::ReservationKind::Dynamic.into(),
        principal: "the-team".to_owned(),
        ..proto::Reservation::default()
    }
}

fn reserve(what: &str) -> proto::Reserve {
    proto::Reserve {
        resources: resources(what),
        reservation: Some(reservation("eng")),
        from: Vec::new(),
    }
}

fn volume(size_mb: u64) -> proto::PersistentVolume {
    proto::PersistentVolume {
        volume_id: "orders".to_owned(),
        stack: vec![reservation("eng")],
        size_mb,
        principal: String::new(),
        shared: false,
    }
}

impl Agent {
    async fn expect_operation(&mut self) -> PoolOperation {
        match self.next().await.unwrap() {
            master_message::Message::Operation(operation) => *operation,
            other => panic!("expected an operation, got {other:?}"),
        }
    }

    async fn expect_acknowledged(&mut self, id: &str) {
        match self.next().await.unwrap() {
            master_message::Message::AcknowledgeOperation(acknowledged) => {
                assert_eq!(acknowledged.operation_id, id);
            }
            other => panic!("expected an acknowledgement, got {other:?}"),
        }
    }

    /// Tells what became of one, and what there is now.
    async fn answer(
        &self,
        operation: &PoolOperation,
        state: OperationState,
        message: &str,
        reserved: &str,
        volumes: &[proto::PersistentVolume],
    ) {
        let pool = proto::Pool {
            stack: vec![reservation("eng")],
            resources: resources(reserved),
        };
        let report = agent_message::PoolReport {
            status: Some(proto::OperationStatus {
                operation_id: operation.operation_id.clone(),
                framework_id: operation.framework_id.clone(),
                state: state.into(),
                message: message.to_owned(),
                keep: operation.keep,
                ..proto::OperationStatus::default()
            }),
            reserved: (!reserved.is_empty()).then_some(pool).into_iter().collect(),
            volumes: volumes.to_vec(),
        };
        self.say(agent_message::Message::Pools(Box::new(report)))
            .await;
    }
}

async fn team(master: &Master, id: &str) -> Result<Framework, tonic::Status> {
    let mut info = framework_info("team", "eng", Duration::from_secs(60));
    info.principal = "the-team".to_owned();
    info.framework_id = id.to_owned();
    Framework::subscribe_as(master, info).await
}

impl Framework {
    async fn perform(&mut self, offers: &[proto::Offer], operations: Vec<(&str, Operation)>) {
        let operations = operations.into_iter().map(|(id, operation)| {
            let operation_id = id.to_owned();
            let operation = Some(operation);
            proto::Operation {
                operation,
                operation_id,
            }
        });
        let request = proto::AcceptRequest {
            caller: self.caller(),
            offer_ids: offers.iter().map(|offer| offer.offer_id.clone()).collect(),
            operations: operations.collect(),
            filters: Some(proto::Filters { refuse_ms: Some(0) }),
        };
        self.client.accept(request).await.unwrap();
    }

    /// What was offered while a change was under way is passed over.
    async fn expect_offer_of(&mut self, what: &str) {
        while self.expect_offers().await[0].resources != resources(what) {}
    }

    /// Offers without are passed over.
    async fn expect_offers_with_a_volume(&mut self) -> Vec<proto::Offer> {
        loop {
            let offers = self.expect_offers().await;
            if offers.iter().any(|offer| !offer.volumes.is_empty()) {
                return offers;
            }
        }
    }

    async fn expect_operation(&mut self, id: &str, state: OperationState) -> String {
        loop {
            match self.next().await.unwrap() {
                Event::Operation(status) => {
                    assert_eq!(
                        (status.operation_id.as_str(), status.state()),
                        (id, state),
                        "{status:?}"
                    );
                    return status.message;
                }
                Event::Offers(_) | Event::Rescind(_) => {}
                other => panic!("expected the end of operation {id}, got {other:?}"),
            }
        }
    }

    async fn acknowledge_operation(&mut self, id: &str, agent_id: &str) {
        let request = proto::AcknowledgeOperationRequest {
            caller: self.caller(),
            agent_id: agent_id.to_owned(),
            operation_id: id.to_owned(),
        };
        self.client.acknowledge_operation(request).await.unwrap();
    }

    async fn reconcile_operation(&mut self, id: &str) {
        let request = proto::ReconcileOperationsRequest {
            caller: self.caller(),
            operations: vec![proto::reconcile_operations_request::OperationKey {
                operation_id: id.to_owned(),
                agent_id: String::new(),
            }],
        };
        self.client.reconcile_operations(request).await.unwrap();
    }
}

#[tokio::test]
async fn one_accept_reserves_makes_a_volume_and_launches_a_task_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", "cpus:2;mem:256;disk:100").await;
    let mut team = team(&master, "").await.unwrap();
    let offers = team.expect_offers().await;
    let mut info = task("db", &agent.id, "cpus:1;mem:64");
    info.container.as_mut().unwrap().volumes = vec![proto::Volume {
        container_path: "/data".to_owned(),
        source: Some(proto::volume::Source::PersistentVolume("orders".to_owned())),
        ..proto::Volume::default()
    }];
    let launch = proto::operation::Launch { tasks: vec![info] };
    let wanted = vec![
        ("o1", Operation::Reserve(reserve("cpus:1;disk:60"))),
        (
            "o2",
            Operation::CreateVolume(proto::CreateVolume {
                volume: Some(volume(50)),
            }),
        ),
        ("", Operation::Launch(launch)),
    ];
    team.perform(&offers, wanted).await;

    // In the same order, and the principal is the framework's.
    let first = agent.expect_operation().await;
    assert_eq!(
        (first.operation_id.as_str(), first.keep, &first.framework_id),
        ("o1", true, &team.id)
    );
    let second = agent.expect_operation().await;
    let Some(Change::CreateVolume(create)) = second.change.clone().unwrap().change else {
        panic!("{second:?}");
    };
    let made = create.volume.unwrap();
    assert_eq!(made.principal, "the-team");
    let launched = agent.expect_launch().await;
    let sent = launched.info().unwrap();
    assert_eq!(
        sent.persistent,
        std::slice::from_ref(&made),
        "the master names it"
    );
    assert_eq!(sent.reserved[0].resources, resources("cpus:1"));

    agent
        .answer(
            &first,
            OperationState::OperationFinished,
            "",
            "cpus:1;disk:60",
            &[],
        )
        .await;
    team.expect_operation("o1", OperationState::OperationFinished)
        .await;
    let volumes = [made];
    agent
        .answer(
            &second,
            OperationState::OperationFinished,
            "",
            "cpus:1;disk:10",
            &volumes,
        )
        .await;
    team.expect_operation("o2", OperationState::OperationFinished)
        .await;
    agent.report(&launched, TaskState::TaskRunning, "u1").await;
    team.expect_state("db", TaskState::TaskRunning).await;
    let id = agent.id.clone();
    for operation in ["o1", "o2"] {
        team.acknowledge_operation(operation, &id).await;
        agent.expect_acknowledged(operation).await;
    }
    team.reconcile_operation("o1").await;
    team.expect_operation("o1", OperationState::OperationUnknown)
        .await;

    let cluster = master
        .wait_for("the task and its volume in the books", |cluster| {
            cluster.allocated == resources("cpus:1;mem:64;disk:50")
        })
        .await;
    assert_eq!(
        cluster.total,
        resources("cpus:2;mem:256;disk:100"),
        "nothing was created or lost"
    );
    let listed = master
        .operator()
        .await
        .list_volumes(proto::ListVolumesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let [there] = &listed.volumes[..] else {
        panic!("{listed:?}");
    };
    assert_eq!(there.volume.as_ref(), Some(&volumes[0]));
    assert_eq!(there.users[0].task_id, "db");
}

#[tokio::test]
async fn members_of_a_group_write_to_one_volume_which_counts_once_and_is_theirs_to_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", "cpus:2;mem:256;disk:100").await;
    let mut team = team(&master, "").await.unwrap();
    let with_volume = |id: &str, read_only: bool| {
        let mut info = task(id, &agent.id, "cpus:0.5;mem:64");
        info.container.as_mut().unwrap().volumes = vec![proto::Volume {
            container_path: "/data".to_owned(),
            read_only,
            source: Some(proto::volume::Source::PersistentVolume("orders".to_owned())),
        }];
        info
    };
    let members = ["db", "backup", "viewer"].map(|id| with_volume(id, id == "viewer"));
    let (writer, reader) = (with_volume("writer", false), with_volume("reader", true));
    let offers = team.expect_offers().await;
    let create = proto::CreateVolume {
        volume: Some(volume(50)),
    };
    let group = proto::operation::LaunchGroup {
        group_id: "pod".to_owned(),
        tasks: members.to_vec(),
        ..proto::operation::LaunchGroup::default()
    };
    let wanted = vec![
        ("", Operation::Reserve(reserve("disk:50"))),
        ("", Operation::CreateVolume(create)),
        ("", Operation::LaunchGroup(group)),
    ];
    team.perform(&offers, wanted).await;
    agent.expect_operation().await;
    agent.expect_operation().await;
    let launched = agent.expect_group().await;
    let shares: Vec<_> = launched
        .tasks
        .iter()
        .map(|task| {
            assert_eq!(task.persistent.len(), 1, "{}", task.task_id);
            task.group.as_ref().unwrap().shares.clone()
        })
        .collect();
    let shared = vec!["orders".to_owned()];
    assert_eq!(shares, [vec![], shared, vec![]], "the first holds it");
    master
        .wait_for("the volume in the books, once", |cluster| {
            cluster.allocated == resources("cpus:1.5;mem:192;disk:50")
        })
        .await;

    // Who held it has ended: what is left of the group has it still, whoever asks.
    let of = |id: &str| {
        let tasks = &launched.tasks;
        let found = tasks.iter().find(|task| task.task_id == id).unwrap();
        proto::Launch {
            framework_id: launched.framework_id.clone(),
            role: launched.role.clone(),
            task: found.encode_to_vec(),
        }
    };
    agent.report(&of("db"), TaskState::TaskFinished, "u1").await;
    team.expect_state("db", TaskState::TaskFinished).await;
    for (info, why) in [(writer, "read by"), (reader, "written by")] {
        let id = info.task_id.clone();
        let offers = team.expect_offers_with_a_volume().await;
        let launch = proto::operation::Launch { tasks: vec![info] };
        team.perform(&offers, vec![("", Operation::Launch(launch))])
            .await;
        let error = team.expect_state(&id, TaskState::TaskError).await;
        assert!(error.message.contains(why), "{}", error.message);
        assert!(error.message.contains("backup"), "{}", error.message);
    }
}

#[tokio::test]
async fn an_end_is_told_again_until_it_is_acknowledged_and_an_agent_that_never_had_it_drops_it() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", "cpus:2;mem:256;disk:100").await;
    let mut framework = team(&master, "").await.unwrap();
    let offers = framework.expect_offers().await;
    let wanted = vec![
        ("good", Operation::Reserve(reserve("cpus:1"))),
        ("too-much", Operation::Reserve(reserve("cpus:9"))),
        ("lost", Operation::Reserve(reserve("cpus:0.5"))),
    ];
    framework.perform(&offers, wanted).await;
    let why = framework
        .expect_operation("too-much", OperationState::OperationFailed)
        .await;
    assert!(why.contains("cpus:9"), "{why}");
    let good = agent.expect_operation().await;
    let lost = agent.expect_operation().await;
    assert_eq!(lost.operation_id, "lost");
    agent
        .answer(&good, OperationState::OperationFinished, "", "cpus:1", &[])
        .await;
    framework
        .expect_operation("good", OperationState::OperationFinished)
        .await;

    // It comes back with the first change alone.
    let id = agent.id.clone();
    drop(agent);
    let mut info = agent_info("node-1", "cpus:2;mem:256;disk:100");
    info.reserved = vec![proto::Pool {
        stack: vec![reservation("eng")],
        resources: resources("cpus:1"),
    }];
    let register = agent_message::Register {
        agent_id: id.clone(),
        info: Some(info),
        boot_id: "boot".to_owned(),
        ..agent_message::Register::default()
    };
    let _agent = Agent::open(
        &master,
        agent_message::Message::Register(Box::new(register)),
    )
    .await
    .unwrap();
    framework
        .expect_operation("lost", OperationState::OperationDropped)
        .await;

    // Nothing was acknowledged: the next subscription hears of all three, in any order.
    let framework_id = framework.id.clone();
    let mut framework = team(&master, &framework_id).await.unwrap();
    let mut heard = std::collections::BTreeMap::new();
    while heard.len() < 3 {
        if let Event::Operation(status) = framework.next().await.unwrap() {
            heard.insert(status.operation_id.clone(), status.state());
        }
    }
    let ends = [
        ("good", OperationState::OperationFinished),
        ("lost", OperationState::OperationDropped),
        ("too-much", OperationState::OperationFailed),
    ];
    let ends = ends.map(|(id, state)| (id.to_owned(), state));
    assert_eq!(heard, ends.into());
}

#[tokio::test]
async fn an_operator_hears_what_the_agent_says_and_a_refusal_leaves_the_books_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", "cpus:2;mem:256").await;
    let mut other = Framework::subscribe(&master, "other").await;
    other.expect_offers().await;
    let mut operator = master.operator().await;
    let request = proto::ChangePoolsRequest {
        agent_id: agent.id.clone(),
        changes: vec![proto::PoolChange {
            change: Some(Change::Reserve(reserve("cpus:1.5"))),
        }],
    };
    let asked = tokio::spawn({
        let (mut operator, request) = (operator.clone(), request.clone());
        async move { operator.change_pools(request).await }
    });
    let operation = agent.expect_operation().await;
    agent
        .answer(
            &operation,
            OperationState::OperationFailed,
            "the disk is full",
            "",
            &[],
        )
        .await;
    let refused = asked.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("the disk is full"),
        "{}",
        refused.message()
    );
    agent.expect_acknowledged(&operation.operation_id).await;
    other.expect_offer_of("cpus:2;mem:256").await;

    // The offer is taken back for it again, and what is reserved comes to its role alone.
    let asked = tokio::spawn(async move { operator.change_pools(request).await });
    let operation = agent.expect_operation().await;
    agent
        .answer(
            &operation,
            OperationState::OperationFinished,
            "",
            "cpus:1.5",
            &[],
        )
        .await;
    asked.await.unwrap().unwrap();
    other.expect_offer_of("cpus:0.5;mem:256").await;
    let mut team = team(&master, "").await.unwrap();
    let theirs = team.expect_offers().await;
    assert_eq!(theirs[0].resources, resources("cpus:1.5"));
    assert_eq!(theirs[0].reserved[0].stack, [reservation("eng")]);
}

#[tokio::test]
async fn what_is_lent_cannot_be_reserved() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", "cpus:2;mem:256").await;
    let mut plain = Framework::subscribe(&master, "plain").await;
    let all = plain.expect_offers().await;
    let everything = task("web", &agent.id, "cpus:2;mem:256");
    plain.accept(&all, vec![everything]).await;
    agent.expect_launch().await;
    let slack = proto::Slack {
        resources: resources("cpus:1;mem:64"),
    };
    agent.say(agent_message::Message::Slack(slack)).await;
    let mut info = framework_info("batch", "eng", Duration::from_secs(60));
    info.capabilities = vec![proto::FrameworkCapability::RevocableResources.into()];
    let mut batch = Framework::subscribe_as(&master, info).await.unwrap();
    let lent = batch.expect_offers().await;
    assert!(lent[0].revocable);
    let mut greedy = task("greedy", &agent.id, "cpus:0.5;mem:32");
    greedy.revocable = true;
    greedy.reserved = vec![proto::Pool {
        stack: vec![reservation("eng")],
        resources: resources("cpus:0.5"),
    }];
    let launch = proto::operation::Launch {
        tasks: vec![greedy],
    };
    let wanted = vec![
        ("o1", Operation::Reserve(reserve("cpus:1"))),
        ("", Operation::Launch(launch)),
    ];
    batch.perform(&lent, wanted).await;
    let why = batch
        .expect_operation("o1", OperationState::OperationFailed)
        .await;
    assert!(why.contains("the offers are revocable"), "{why}");
    let refused = batch.expect_state("greedy", TaskState::TaskError).await;
    assert!(
        refused.message.contains("takes nothing that is reserved"),
        "{}",
        refused.message
    );
}
