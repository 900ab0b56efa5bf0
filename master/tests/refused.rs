//! A launch that was refused has one end, however often it is asked for.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]

mod common;

use common::{Agent, Framework, Master, config, task};
use mezzo_api::proto::{self, TaskState};

#[tokio::test]
async fn a_dropped_task_that_is_killed_is_dropped_and_not_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let master = Master::start(config(dir.path())).await;
    let agent = Agent::attach(&master, "node-1", "cpus:4;mem:4096").await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework.decline(&offers, std::time::Duration::ZERO).await;
    framework
        .accept(&offers, vec![task("t1", &agent.id, "cpus:1;mem:64")])
        .await;
    let dropped = framework.expect_state("t1", TaskState::TaskDropped).await;
    let request = proto::KillRequest {
        caller: framework.caller(),
        task_id: "t1".to_owned(),
        agent_id: agent.id.clone(),
        ..proto::KillRequest::default()
    };
    framework.client.kill(request).await.expect("it is taken");
    // Offers of the freed machine may come in between.
    let again = framework.expect_state("t1", TaskState::TaskDropped).await;
    assert_eq!(again.message, dropped.message);
    framework.reconcile(&[("t1", agent.id.as_str())]).await;
    framework.expect_state("t1", TaskState::TaskDropped).await;
    master.stop().await;
}
