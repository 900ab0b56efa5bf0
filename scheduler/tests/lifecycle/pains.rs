//! What users of Marathon complained about most, as far as it takes a whole scheduler to show that it is gone. The rest
//! is in `tests/core/pains.rs`.

use super::*;
use crate::common::client::Events;

/// Neither a coordination service nor anything else: a file.
#[tokio::test]
async fn pain_05_a_scheduler_starts_with_its_file_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let running = Master::start(NODE).await;
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    scheduler.settled("/sleep", 1).await;
    scheduler.kill().await;
    let address = running.address;
    drop(running);
    // Not even a master is there: it serves, knows its apps, and takes changes.
    let scheduler = Scheduler::start(directory.path(), address).await;
    let app = scheduler.get("/v2/apps/sleep").await;
    assert_eq!(app["app"]["tasksRunning"], 1);
    let scaled = scheduler
        .request("PUT", "/v2/apps/sleep", Some(json!({"instances": 2})))
        .await;
    assert_eq!(scaled.status, 200, "{}", scaled.text);
    scheduler.stop().await;
}

/// One reader stays, one comes back again and again: both have the same events in the same order, none twice.
#[tokio::test]
async fn pain_15_events_are_neither_lost_nor_doubled_nor_out_of_order() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut steady = Events::open(scheduler.address, "", None).await;
    let first = steady.next().await.expect("itself");
    let (mut wanderer, mut last) = (Vec::new(), first.id.expect("an id"));
    for instances in 1..=10 {
        let mut app = sleep_app();
        app["instances"] = json!(instances);
        let answer = scheduler.request("PUT", "/v2/apps/sleep", Some(app)).await;
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text);
        // It reads three events and goes away again.
        let mut back = Events::open(scheduler.address, "", Some(&last)).await;
        for _ in 0..3 {
            let told = back.next().await.expect("more");
            last = told.id.clone().expect("an id: nothing is lost");
            wanderer.push(told);
        }
        scheduler.settled("/sleep", instances).await;
    }
    let mut whole = steady
        .until(|told| told.id.as_deref() == Some(last.as_str()))
        .await;
    assert_eq!(wanderer, whole);
    let mut back = Events::open(scheduler.address, "", Some(&last)).await;
    let deployments = |told: &[crate::common::client::Told]| {
        let ends = told.iter().filter(|told| told.name == "deployment_success");
        ends.count()
    };
    while deployments(&whole) < 10 {
        let told = steady.next().await.expect("more");
        assert_eq!(back.next().await.as_ref(), Some(&told));
        whole.push(told);
    }
    // What an event tells of can be read when it comes, and numbers leave nothing out.
    let numbers: Vec<u64> = whole
        .iter()
        .filter_map(|told| told.id.as_ref()?.rsplit('-').next()?.parse().ok())
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    drop((steady, back));
    scheduler.stop().await;
}
