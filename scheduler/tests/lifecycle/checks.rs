//! Marathon's `check` as a client of the REST API sees what it finds.

use mezzo_api::proto::check_result::Found;
use serde_json::{Value, json};

use crate::common::{Scheduler, master::Master};

#[tokio::test(flavor = "multi_thread")]
async fn tasks_and_containers_of_pods_show_what_their_checks_found() {
    let running = Master::start("cpus:4;mem:4096;ports:[31000-31099]").await;
    let state = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(state.path(), running.address).await;
    let app = json!({
        "id": "/web", "cpus": 0.1, "mem": 32,
        "container": {"docker": {"image": "web:1"}},
        "check": {"http": {"portIndex": 0, "path": "/"}},
    });
    let posted = scheduler.request("POST", "/v2/apps", Some(app)).await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    let shown = scheduler.settled("/web", 1).await;
    let check = json!({
        "http": {"portIndex": 0, "path": "/", "scheme": "HTTP"},
        "intervalSeconds": 60, "timeoutSeconds": 20, "delaySeconds": 15,
    });
    assert_eq!(shown["app"]["check"], check);
    let task = running.master.world().live().remove(0);
    let tasks = scheduler.get("/v2/tasks").await;
    assert!(tasks["tasks"][0].get("checkResult").is_none(), "{tasks}");
    for (found, result) in [
        (Found::HttpStatus(503), json!({"http": {"statusCode": 503}})),
        (
            Found::TcpSucceeded(false),
            json!({"tcp": {"succeeded": false}}),
        ),
        (Found::ExitCode(3), json!({"command": {"exitCode": 3}})),
    ] {
        running.master.finds(&task, Some(found));
        let shows = |tasks: &Value| tasks["tasks"][0]["checkResult"] == result;
        scheduler.wait("/v2/tasks", "the result", shows).await;
        let app = scheduler.get("/v2/apps/web?embed=app.tasks").await;
        assert_eq!(app["app"]["tasks"][0]["checkResult"], result);
        let of_app = scheduler.get("/v2/apps/web/tasks").await;
        assert_eq!(of_app["tasks"][0]["checkResult"], result);
    }
    // Durable: the next scheduler shows it, too.
    scheduler.kill().await;
    let scheduler = Scheduler::start(state.path(), running.address).await;
    let tasks = scheduler.get("/v2/tasks").await;
    assert_eq!(
        tasks["tasks"][0]["checkResult"],
        json!({"command": {"exitCode": 3}})
    );
    running.master.finds(&task, None);
    let is_gone = |tasks: &Value| tasks["tasks"][0].get("checkResult").is_none();
    scheduler.wait("/v2/tasks", "no result", is_gone).await;

    let pod = json!({
        "id": "/pod",
        "containers": [{
            "name": "one", "image": {"id": "web:1"}, "resources": {"cpus": 0.1, "mem": 32},
            "check": {"exec": {"command": {"shell": "true"}}},
        }],
    });
    let posted = scheduler.request("POST", "/v2/pods", Some(pod)).await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    let is_stable = |status: &Value| status["status"] == "STABLE";
    let path = "/v2/pods/pod::status";
    let status = scheduler.wait(path, "a stable pod", is_stable).await;
    let container = &status["instances"][0]["containers"][0];
    assert!(container.get("checkResult").is_none(), "{container}");
    let member = container["containerId"].as_str().unwrap_or_default();
    running.master.finds(member, Some(Found::ExitCode(0)));
    let result = json!({"command": {"exitCode": 0}});
    let shows = |status: &Value| status["instances"][0]["containers"][0]["checkResult"] == result;
    scheduler.wait(path, "the container's result", shows).await;
    scheduler.stop().await;
}
