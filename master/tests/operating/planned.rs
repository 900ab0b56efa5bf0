//! Planned work: windows, inverse offers, drains.

use std::time::Duration;

use mezzo_api::proto::{self, TaskState, event, master_message::Message};
use tokio::time::timeout;
use tonic::Code;

use super::NODE;
use crate::common::{Agent, DEADLINE, Framework, Master, config, task};

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
