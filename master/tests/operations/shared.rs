//! Volumes that several tasks have at once: who may make one, who is offered it, and when it ends.

use std::time::Duration;

use mezzo_api::proto::{self, OperationState, TaskState, operation::Operation};

use super::{reserve, volume};
use crate::common::{Agent, Framework, Master, config, framework_info, resources, task};

async fn member(master: &Master, name: &str, shares: bool) -> Framework {
    let mut info = framework_info(name, "eng", Duration::from_secs(60));
    info.principal = "the-team".to_owned();
    if shares {
        info.capabilities = vec![proto::FrameworkCapability::SharedResources.into()];
    }
    Framework::subscribe_as(master, info).await.unwrap()
}

fn on_the_volume(id: &str, agent_id: &str, read_only: bool) -> proto::TaskInfo {
    let mut info = task(id, agent_id, "cpus:0.5;mem:32");
    info.container.as_mut().unwrap().volumes = vec![proto::Volume {
        container_path: "/data".to_owned(),
        read_only,
        source: Some(proto::volume::Source::PersistentVolume("orders".to_owned())),
    }];
    info
}

fn launch(tasks: Vec<proto::TaskInfo>) -> (&'static str, Operation) {
    ("", Operation::Launch(proto::operation::Launch { tasks }))
}

fn destroy() -> proto::DestroyVolume {
    proto::DestroyVolume {
        role: "eng".to_owned(),
        volume_id: "orders".to_owned(),
    }
}

#[tokio::test]
async fn a_shared_volume_is_offered_while_it_is_in_use_and_ends_only_without_its_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", "cpus:4;mem:512;disk:100").await;
    let id = agent.id.clone();
    let shared = proto::PersistentVolume {
        shared: true,
        principal: "the-team".to_owned(),
        ..volume(50)
    };
    let create = || {
        Operation::CreateVolume(proto::CreateVolume {
            volume: Some(shared.clone()),
        })
    };

    // Who cannot deal with it does not make one either.
    let mut plain = member(&master, "plain", false).await;
    let offers = plain.expect_offers().await;
    plain.perform(&offers, vec![("o1", create())]).await;
    let why = plain
        .expect_operation("o1", OperationState::OperationFailed)
        .await;
    assert!(why.contains("SHARED_RESOURCES"), "{why}");
    drop(plain);

    // Two tasks of one call write, and there is room for more of them in the next offer.
    let mut first = member(&master, "first", true).await;
    let offers = first.expect_offers().await;
    let two = vec![
        on_the_volume("t1", &id, false),
        on_the_volume("t2", &id, false),
    ];
    let wanted = vec![
        ("o2", Operation::Reserve(reserve("disk:50"))),
        ("o3", create()),
        launch(two),
    ];
    first.perform(&offers, wanted).await;
    let (reserved, created) = (
        agent.expect_operation().await,
        agent.expect_operation().await,
    );
    let (one, two) = (agent.expect_launch().await, agent.expect_launch().await);
    let volumes = std::slice::from_ref(&shared);
    for launched in [&one, &two] {
        assert_eq!(launched.info().unwrap().persistent, volumes);
    }
    // Before the agent has answered, as everything.
    let again = loop {
        let offers = first.expect_offers().await;
        if offers[0].resources == resources("cpus:3;mem:448;disk:50") {
            break offers;
        }
    };
    assert_eq!(again[0].volumes, volumes, "in use by two");
    let done = OperationState::OperationFinished;
    agent.answer(&reserved, done, "", "disk:50", &[]).await;
    first.expect_operation("o2", done).await;
    agent.answer(&created, done, "", "", volumes).await;
    first.expect_operation("o3", done).await;

    // For all of the role that can deal with it.
    first.decline(&again, Duration::from_secs(3600)).await;
    let mut second = member(&master, "second", true).await;
    let theirs = second.expect_offers().await;
    assert_eq!(theirs[0].volumes, volumes);
    let reader = on_the_volume("t3", &id, true);
    second.perform(&theirs, vec![launch(vec![reader])]).await;
    agent.expect_launch().await;
    // It is in use once, however many have it.
    master
        .wait_for("three tasks and one volume", |cluster| {
            cluster.allocated == resources("cpus:1.5;mem:96;disk:50")
        })
        .await;

    // While somebody has it, it does not end: not for a framework, not for an operator.
    let offers = second.expect_offers().await;
    let end = Operation::DestroyVolume(destroy());
    second.perform(&offers, vec![("o4", end)]).await;
    let why = second
        .expect_operation("o4", OperationState::OperationFailed)
        .await;
    assert!(why.contains("in use by task t1, t2, t3"), "{why}");
    let request = proto::ChangePoolsRequest {
        agent_id: id.clone(),
        changes: vec![proto::PoolChange {
            change: Some(proto::pool_change::Change::DestroyVolume(destroy())),
        }],
    };
    let refused = master.operator().await.change_pools(request).await;
    let told = refused.unwrap_err().message().to_owned();
    assert!(told.contains("t1, t2, t3"), "{told}");
    for (launched, update) in [(&one, "u1"), (&two, "u2")] {
        let state = TaskState::TaskFinished;
        agent.report(launched, state, update).await;
    }
    master
        .wait_for("one task and one volume", |cluster| {
            cluster.allocated == resources("cpus:0.5;mem:32;disk:50")
        })
        .await;
    master.stop().await;
}
