//! The scheduler as a whole, over HTTP on one side and gRPC to a scripted master on the other.

#[path = "lifecycle/checks.rs"]
mod checks;
mod common;
#[path = "lifecycle/contract.rs"]
mod contract;
#[path = "lifecycle/events.rs"]
mod events;
#[path = "lifecycle/groups.rs"]
mod groups;
#[path = "lifecycle/masters.rs"]
mod masters;
#[path = "lifecycle/pains.rs"]
mod pains;
#[path = "lifecycle/readiness.rs"]
mod readiness;

use std::time::Instant;

use common::Scheduler;
use common::master::Master;
use mezzo_api::proto::TaskState;
use serde_json::{Value, json};

fn sleep_app() -> Value {
    json!({
        "id": "/sleep",
        "cpus": 0.01,
        "mem": 32,
        "container": {"type": "DOCKER", "docker": {"image": "sleep:1"}}
    })
}

const NODE: &str = "cpus:4;mem:4096;disk:10000;ports:[31000-32000]";

#[tokio::test]
async fn an_app_is_posted_scaled_updated_and_removed() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;

    let posted = scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    assert!(
        posted.headers.contains_key("marathon-deployment-id"),
        "{:?}",
        posted.headers
    );
    assert_eq!(posted.headers["location"], "/v2/apps/sleep");
    let app = scheduler.settled("/sleep", 1).await;
    let task = &app["app"]["tasks"][0];
    assert_eq!(task["state"], "TASK_RUNNING");
    assert_eq!(task["host"], "node1");
    assert_eq!(task["ports"].as_array().map(Vec::len), Some(1));
    let again = scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    assert_eq!(again.status, 409, "{}", again.text);

    let accepts = running.master.world().accepts;
    let scaled = scheduler
        .request("PUT", "/v2/apps/sleep", Some(json!({"instances": 20})))
        .await;
    assert_eq!(scaled.status, 200, "{}", scaled.text);
    scheduler.settled("/sleep", 20).await;
    assert_eq!(
        running.master.world().accepts,
        accepts + 1,
        "all that fit go with one call"
    );

    let before = running.master.world().live();
    let updated = scheduler
        .request(
            "PUT",
            "/v2/apps/sleep",
            Some(json!({"container": {"type": "DOCKER", "docker": {"image": "sleep:2"}}})),
        )
        .await;
    assert_eq!(updated.status, 200, "{}", updated.text);
    scheduler.settled("/sleep", 20).await;
    let after = running.master.world().live();
    assert!(
        before.iter().all(|task| !after.contains(task)),
        "every task was replaced"
    );

    let versions = scheduler.get("/v2/apps/sleep/versions").await;
    let versions = versions["versions"].as_array().cloned().expect("a list");
    assert_eq!(versions.len(), 3);
    let oldest = versions[2].as_str().expect("text");
    let first = scheduler
        .get(&format!("/v2/apps/sleep/versions/{oldest}"))
        .await;
    assert_eq!(first["container"]["docker"]["image"], "sleep:1");

    let removed = scheduler.request("DELETE", "/v2/apps/sleep", None).await;
    assert_eq!(removed.status, 200, "{}", removed.text);
    scheduler
        .wait("/v2/deployments", "no deployment left", |value| {
            value == &json!([])
        })
        .await;
    assert!(running.master.world().live().is_empty());
    assert_eq!(
        scheduler
            .request("GET", "/v2/apps/sleep", None)
            .await
            .status,
        404
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn a_task_that_ends_is_replaced_and_one_that_fails_is_delayed() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    scheduler.settled("/sleep", 1).await;

    // Killed from outside: at once, without a delay.
    let first = running.master.world().live()[0].clone();
    running
        .master
        .end(&first, TaskState::TaskKilled, "by an operator");
    scheduler
        .wait("/v2/apps/sleep", "a replacement", |value| {
            value["app"]["tasks"][0]["id"] != first.as_str() && value["app"]["tasksRunning"] == 1
        })
        .await;

    // Failed: after the back-off.
    let second = running.master.world().live()[0].clone();
    let began = Instant::now();
    running
        .master
        .end(&second, TaskState::TaskFailed, "exit code 3");
    scheduler
        .wait("/v2/apps/sleep", "a replacement", |value| {
            value["app"]["tasks"][0]["id"] != second.as_str() && value["app"]["tasksRunning"] == 1
        })
        .await;
    assert!(
        began.elapsed().as_millis() >= 950,
        "came after {:?}",
        began.elapsed()
    );
    let app = scheduler.get("/v2/apps/sleep").await;
    assert_eq!(app["app"]["lastTaskFailure"]["message"], "exit code 3");

    // And said so meanwhile, which takes one that is long.
    let mut slow = sleep_app();
    slow["id"] = json!("/slow");
    slow["backoffSeconds"] = json!(300);
    scheduler.request("POST", "/v2/apps", Some(slow)).await;
    let app = scheduler.settled("/slow", 1).await;
    let third = app["app"]["tasks"][0]["id"].as_str().expect("an id");
    running
        .master
        .end(third, TaskState::TaskFailed, "exit code 4");
    let queue = scheduler
        .wait("/v2/queue", "a delay", |value| {
            value["queue"][0]["delay"]["overdue"] == false
        })
        .await;
    let why = queue["queue"][0]["waitingFor"].as_str().expect("text");
    assert!(why.contains("exit code 4"), "{why}");
    scheduler.stop().await;
}

#[tokio::test]
async fn a_scheduler_that_dies_goes_on_where_it_was() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut app = sleep_app();
    app["instances"] = json!(10);
    scheduler.request("POST", "/v2/apps", Some(app)).await;
    scheduler.settled("/sleep", 10).await;
    let before = running.master.world().live();
    scheduler.kill().await;

    // While it is away one task ends, and the line to the master breaks.
    running.master.cut();
    running
        .master
        .end(&before[0], TaskState::TaskKilled, "while nobody looked");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    scheduler
        .wait("/v2/apps/sleep", "ten again", |value| {
            value["app"]["tasksRunning"] == 10
                && value["app"]["tasks"].as_array().map(Vec::len) == Some(10)
                && !value.to_string().contains(&before[0])
        })
        .await;
    let after = running.master.world().live();
    assert_eq!(after.len(), 10);
    assert_eq!(after.iter().filter(|task| before.contains(task)).count(), 9);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_broken_line_loses_no_launch_and_doubles_none() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    for round in 1..=5 {
        let body = json!({"instances": round * 3, "cpus": 0.01, "mem": 32, "container": {"docker": {"image": "sleep:1"}}});
        running.master.cut();
        let answer = scheduler
            .request("PUT", "/v2/apps/sleep?force=true", Some(body))
            .await;
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text);
        running.master.cut();
        scheduler.settled("/sleep", round * 3).await;
        assert_eq!(running.master.world().live().len() as u64, round * 3);
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn what_waits_says_why() {
    let running = Master::start("cpus:1;mem:512;ports:[31000-31009]").await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut app = sleep_app();
    app["cpus"] = json!(2);
    app["id"] = json!("/shop/big");
    let posted = scheduler.request("POST", "/v2/apps", Some(app)).await;
    assert_eq!(posted.status, 201);
    let queue = scheduler
        .wait(
            "/v2/queue?embed=lastUnusedOffers",
            "a refused offer",
            |value| {
                value["queue"][0]["lastUnusedOffers"]
                    .as_array()
                    .is_some_and(|offers| !offers.is_empty())
            },
        )
        .await;
    let entry = &queue["queue"][0];
    assert_eq!(entry["count"], 1);
    let why = entry["waitingFor"].as_str().expect("text");
    assert!(why.contains("node1 (cpus: asks for 2, 1 offered)"), "{why}");
    assert_eq!(
        entry["lastUnusedOffers"][0]["reason"],
        json!(["InsufficientCpus"])
    );
    let deployments = scheduler.get("/v2/deployments").await;
    let waiting = deployments[0]["waitingFor"].as_str().expect("text");
    assert!(
        waiting.contains("0 of 1") && waiting.contains("cpus"),
        "{waiting}"
    );

    // Locked for others, but not for force.
    let locked = scheduler
        .request("PUT", "/v2/apps/shop/big", Some(json!({"cpus": 0.5})))
        .await;
    assert_eq!(locked.status, 409, "{}", locked.text);
    assert_eq!(locked.json()["deployments"][0]["id"], deployments[0]["id"]);
    let forced = scheduler
        .request(
            "PUT",
            "/v2/apps/shop%2Fbig?force=true",
            Some(json!({"cpus": 0.5})),
        )
        .await;
    assert_eq!(forced.status, 200, "{}", forced.text);
    scheduler.settled("/shop/big", 1).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn wrong_apps_get_every_problem_with_its_path() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;

    let broken = common::client::request(
        scheduler.address,
        "POST",
        "/v2/apps",
        Some("{\"id\": ".into()),
    )
    .await;
    assert_eq!(broken.status, 400);
    assert_eq!(broken.json()["message"], "Invalid JSON");

    let typed = scheduler
        .request("POST", "/v2/apps", Some(json!({"id": "/x", "cpus": "one", "mem": -5, "container": {"docker": {"image": "a"}}})))
        .await;
    assert_eq!(typed.status, 400, "{}", typed.text);
    let paths: Vec<Value> = typed.json()["details"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|d| d["path"].clone())
        .collect();
    assert_eq!(paths, [json!("/cpus"), json!("/mem")]);

    let valued = scheduler
        .request("POST", "/v2/apps", Some(json!({"id": "../x", "cpus": 0.0001, "instances": -1, "constraints": [["hostname", "NEAR"]]})))
        .await;
    assert_eq!(valued.status, 422, "{}", valued.text);
    assert_eq!(valued.json()["message"], "Object is not valid");
    for path in [
        "/id",
        "/cpus",
        "/instances",
        "/constraints(0)",
        "/container/docker/image",
    ] {
        assert!(
            valued.text.contains(&format!("\"{path}\"")),
            "{path}: {}",
            valued.text
        );
    }

    let mut app = sleep_app();
    app["instanses"] = json!(3);
    let warned = scheduler.request("POST", "/v2/apps", Some(app)).await;
    assert_eq!(warned.status, 201);
    assert_eq!(
        warned.headers["warning"],
        "299 mezzo \"unknown field: /instanses, did you mean instances?\""
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn what_get_returns_put_accepts_without_a_change() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    scheduler.settled("/sleep", 1).await;
    let got = scheduler.get("/v2/apps/sleep").await["app"].clone();
    let put = scheduler
        .request("PUT", "/v2/apps/sleep", Some(got.clone()))
        .await;
    assert_eq!(put.status, 200, "{}", put.text);
    assert!(!put.headers.contains_key("warning"), "{:?}", put.headers);
    let after = scheduler.settled("/sleep", 1).await;
    assert_eq!(after["app"]["version"], got["version"]);
    assert_eq!(after["app"]["tasks"][0]["id"], got["tasks"][0]["id"]);
    scheduler.stop().await;
}

#[tokio::test]
async fn tasks_can_be_killed_with_and_without_scaling() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut app = sleep_app();
    app["instances"] = json!(3);
    scheduler.request("POST", "/v2/apps", Some(app)).await;
    scheduler.settled("/sleep", 3).await;
    let tasks = running.master.world().live();
    let killed = scheduler
        .request(
            "DELETE",
            &format!("/v2/apps/sleep/tasks/{}", tasks[0]),
            None,
        )
        .await;
    assert_eq!(killed.status, 200, "{}", killed.text);
    assert_eq!(killed.json()["task"]["id"], tasks[0].as_str());
    scheduler
        .wait("/v2/apps/sleep", "a replacement", |value| {
            value["app"]["tasksRunning"] == 3 && !value.to_string().contains(&tasks[0])
        })
        .await;
    assert!(!running.master.world().live().contains(&tasks[0]));

    let scaled = scheduler
        .request(
            "POST",
            "/v2/tasks/delete?scale=true",
            Some(json!({"ids": [tasks[1]]})),
        )
        .await;
    assert_eq!(scaled.status, 200, "{}", scaled.text);
    let app = scheduler.settled("/sleep", 2).await;
    assert_eq!(app["app"]["instances"], 2);
    assert!(!running.master.world().live().contains(&tasks[1]));
    let text = scheduler.get("/v2/tasks").await;
    assert_eq!(text["tasks"].as_array().map(Vec::len), Some(2));
    scheduler.stop().await;
}

#[tokio::test]
async fn a_broken_update_waits_and_is_rolled_back() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut app = sleep_app();
    app["instances"] = json!(4);
    scheduler.request("POST", "/v2/apps", Some(app)).await;
    scheduler.settled("/sleep", 4).await;
    let good = running.master.world().live();
    let update = scheduler
        .request(
            "PUT",
            "/v2/apps/sleep",
            Some(json!({"container": {"docker": {"image": "stuck:1"}}})),
        )
        .await;
    let id = update.json()["deploymentId"]
        .as_str()
        .expect("an id")
        .to_owned();
    scheduler
        .wait("/v2/apps/sleep", "new ones staged", |value| {
            value["app"]["tasksStaged"] == 4
        })
        .await;
    assert!(
        good.iter()
            .all(|task| running.master.world().live().contains(task)),
        "the old ones run on"
    );
    let rolled = scheduler
        .request("DELETE", &format!("/v2/deployments/{id}"), None)
        .await;
    assert_eq!(rolled.status, 200, "{}", rolled.text);
    let app = scheduler.settled("/sleep", 4).await;
    assert_eq!(app["app"]["container"]["docker"]["image"], "sleep:1");
    assert_eq!(
        running.master.world().live(),
        good,
        "no good task was touched"
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn an_update_to_a_sick_version_keeps_the_healthy_one() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut app = sleep_app();
    app["healthChecks"] = json!([
        {"protocol": "TCP", "portIndex": 0},
        {"protocol": "COMMAND", "command": {"value": "true"}},
    ]);
    app["instances"] = json!(2);
    scheduler.request("POST", "/v2/apps", Some(app)).await;
    let app = scheduler.settled("/sleep", 2).await;
    assert_eq!(app["app"]["tasksHealthy"], 2);
    let task = &app["app"]["tasks"][0];
    let result = json!({"alive": true, "taskId": task["id"]});
    assert_eq!(task["healthCheckResults"], json!([result, result]));
    let good = running.master.world().live();
    scheduler
        .request(
            "PUT",
            "/v2/apps/sleep",
            Some(json!({"container": {"docker": {"image": "sick:1"}}})),
        )
        .await;
    let app = scheduler
        .wait("/v2/apps/sleep", "two sick ones", |value| {
            value["app"]["tasksUnhealthy"] == 2
        })
        .await;
    assert_eq!(app["app"]["tasksHealthy"], 2);
    assert!(
        good.iter()
            .all(|task| running.master.world().live().contains(task))
    );
    let deployments = scheduler.get("/v2/deployments").await;
    let waiting = deployments[0]["waitingFor"].as_str().expect("text");
    assert!(waiting.contains("0 of 2 new instances"), "{waiting}");
    assert_eq!(
        deployments[0]["currentActions"][0]["action"],
        "RestartApplication"
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn an_app_that_always_fails_is_slowed_down_and_says_what_fails() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut app = sleep_app();
    app["container"]["docker"]["image"] = json!("fail:1");
    app["backoffSeconds"] = json!(0.01);
    app["backoffFactor"] = json!(20);
    scheduler.request("POST", "/v2/apps", Some(app)).await;
    scheduler
        .wait("/v2/queue", "a delay of more than ten seconds", |value| {
            value["queue"][0]["delay"]["timeLeftSeconds"]
                .as_f64()
                .is_some_and(|left| left > 10.0)
        })
        .await;
    // 0.01, 0.2, 4, 80: four failures.
    assert_eq!(running.master.world().launched.len(), 4);
    let deployments = scheduler.get("/v2/deployments").await;
    assert!(
        deployments[0]["waitingFor"]
            .as_str()
            .is_some_and(|text| text.contains("exit code 1")),
        "{deployments}"
    );
    let reset = scheduler
        .request("DELETE", "/v2/queue//sleep/delay", None)
        .await;
    assert_eq!(reset.status, 204, "{}", reset.text);
    scheduler
        .wait("/v2/queue", "a launch", |_| {
            running.master.world().launched.len() > 4
        })
        .await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_list_of_apps_is_put_at_once() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let app = |id: &str| {
        let mut app = sleep_app();
        app["id"] = json!(id);
        app["labels"] = json!({"group": "shop"});
        app
    };
    let put = scheduler
        .request(
            "PUT",
            "/v2/apps",
            Some(json!([app("/shop/a"), app("/shop/b")])),
        )
        .await;
    assert_eq!(put.status, 200, "{}", put.text);
    scheduler.settled("/shop/a", 1).await;
    scheduler.settled("/shop/b", 1).await;
    let tree = scheduler.get("/v2/apps/shop/*").await;
    assert_eq!(tree["*"].as_array().map(Vec::len), Some(2));
    let labelled = scheduler
        .get("/v2/apps?label=group%3D%3Dshop&id=/b&embed=apps.tasks")
        .await;
    assert_eq!(labelled["apps"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        labelled["apps"][0]["tasks"].as_array().map(Vec::len),
        Some(1)
    );

    let wrong = scheduler
        .request(
            "PUT",
            "/v2/apps",
            Some(json!([app("/shop/a"), {"id": "/shop/c", "cpus": -1}])),
        )
        .await;
    assert_eq!(wrong.status, 422, "{}", wrong.text);
    assert!(wrong.text.contains("(1)/cpus"), "{}", wrong.text);
    assert_eq!(
        scheduler
            .request("GET", "/v2/apps/shop/c", None)
            .await
            .status,
        404,
        "all or nothing"
    );
    let patched = scheduler
        .request("PATCH", "/v2/apps/shop/none", Some(json!({"cpus": 1})))
        .await;
    assert_eq!(patched.status, 404, "{}", patched.text);
    scheduler.stop().await;
}

#[tokio::test]
async fn reads_go_on_while_the_master_is_away() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    scheduler.settled("/sleep", 1).await;
    let master = running.master.clone();
    drop(running);
    master.cut();
    scheduler
        .wait("/healthz", "the loss noticed", |value| {
            value["connectedToMaster"] == false
        })
        .await;
    assert_eq!(
        scheduler.get("/v2/apps/sleep").await["app"]["tasksRunning"],
        1
    );
    let scaled = scheduler
        .request("PUT", "/v2/apps/sleep", Some(json!({"instances": 2})))
        .await;
    assert_eq!(scaled.status, 200, "{}", scaled.text);
    let queue = scheduler.get("/v2/queue").await;
    let why = queue["queue"][0]["waitingFor"].as_str().expect("text");
    assert!(why.contains("not connected to the master"), "{why}");
    scheduler.stop().await;
}

#[tokio::test]
async fn the_small_routes_answer() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    assert_eq!(scheduler.request("GET", "/ping", None).await.text, "pong");
    let info = scheduler
        .wait("/v2/info", "a framework id", |value| {
            value["frameworkId"] == "framework-1"
        })
        .await;
    assert_eq!(info["elected"], true);
    assert_eq!(
        scheduler.get("/v2/leader").await["leader"],
        scheduler.address.to_string()
    );
    assert_eq!(scheduler.get("/healthz").await["status"], "ok");
    assert!(
        scheduler
            .request("GET", "/metrics", None)
            .await
            .text
            .contains("mezzo_scheduler_connected 1")
    );
    assert_eq!(
        scheduler.request("GET", "/v2/nothing", None).await.status,
        404
    );
    assert_eq!(
        scheduler.request("DELETE", "/v2/apps", None).await.status,
        405
    );
    assert_eq!(
        scheduler
            .request("DELETE", "/v2/queue/none/delay", None)
            .await
            .status,
        404
    );
    scheduler.stop().await;
}
