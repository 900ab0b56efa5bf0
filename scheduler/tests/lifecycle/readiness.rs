//! Readiness checks as a client of the REST API sees them.

use crate::common::{Scheduler, master::Master};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_waits_for_readiness_and_shows_the_results() {
    let running = Master::start("cpus:4;mem:4096;ports:[31000-31099]").await;
    let state = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(state.path(), running.address).await;
    let app = json!({
        "id": "/web", "cpus": 0.1, "mem": 32,
        "container": {"type": "DOCKER", "docker": {"image": "web:1"}},
        "portDefinitions": [{"port": 0, "name": "api"}],
        "readinessChecks": [{"name": "up", "portName": "api", "preserveLastResponse": true}],
    });
    let posted = scheduler.request("POST", "/v2/apps", Some(app)).await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    let is_running = |app: &Value| app["app"]["tasksRunning"] == 1;
    let seen = scheduler.wait("/v2/apps/web", "running", is_running).await;
    assert_eq!(seen["app"]["deployments"].as_array().map(Vec::len), Some(1));
    let task = running.master.world().live().remove(0);
    running.master.answers(&task, 503, "loading");
    let first = |plans: &Value| plans[0]["currentActions"][0].clone();
    let plans = scheduler
        .wait("/v2/deployments", "a result", |plans| {
            first(plans)["readinessCheckResults"][0].is_object()
        })
        .await;
    let result = json!({
        "name": "up", "taskId": task, "ready": false,
        "lastResponse": {"status": 503, "contentType": "text/plain", "body": "loading"},
    });
    assert_eq!(first(&plans)["readinessCheckResults"], json!([result]));
    let waiting = first(&plans)["waitingFor"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        waiting.contains("not ready") && waiting.contains("503"),
        "{waiting}"
    );

    // Durable: the next scheduler knows it too, and waits on.
    scheduler.kill().await;
    let scheduler = Scheduler::start(state.path(), running.address).await;
    let plans = scheduler.get("/v2/deployments").await;
    assert_eq!(first(&plans)["readinessCheckResults"], json!([result]));
    running.master.answers(&task, 200, "up");
    let app = scheduler.settled("/web", 1).await;
    assert_eq!(app["app"]["readinessCheckResults"][0]["ready"], true);
    scheduler.stop().await;
}
