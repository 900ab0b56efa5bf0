//! Jobs over HTTP, Chronos' routes and mezzo's own, against a scripted master.

#[expect(dead_code, reason = "tests of apps use more of it")]
mod common;

use std::time::Duration;

use common::Scheduler;
use common::master::Master;
use mezzo_api::proto::TaskState;
use serde_json::{Value, json};

const NODE: &str = "cpus:4;mem:4096;disk:10000;ports:[31000-32000]";

fn job(name: &str) -> Value {
    json!({"name": name, "command": "true", "container": {"image": "sleep:1"}})
}

/// Until a job's latest run is in that state; the run.
async fn run_is(scheduler: &Scheduler, name: &str, state: &str) -> Value {
    let path = format!("/v1/jobs/{name}/runs");
    let runs = scheduler
        .wait(&path, state, |value| value["runs"][0]["state"] == state)
        .await;
    runs["runs"][0].clone()
}

#[tokio::test]
async fn a_job_of_chronos_is_put_run_shown_and_removed() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut nightly = job("nightly");
    nightly["schedule"] = json!("R/2090-01-01T02:00:00Z/P1D");
    nightly["scheduleTimeZone"] = json!("Europe/Berlin");
    nightly["epsilon"] = json!("PT15M");
    let answer = scheduler
        .request("POST", "/v1/scheduler/iso8601", Some(nightly))
        .await;
    assert_eq!((answer.status, answer.text.as_str()), (204, ""));

    let jobs = scheduler.get("/v1/scheduler/jobs").await;
    let defaults = json!({
        "name": "nightly", "schedule": "R/2090-01-01T02:00:00Z/P1D", "scheduleTimeZone": "Europe/Berlin",
        "retries": 2, "cpus": 0.1, "mem": 128, "disk": 256, "concurrent": false, "softError": false, "shell": true,
        "successCount": 0, "errorCount": 0, "lastSuccess": "", "lastError": "", "errorsSinceLastSuccess": 0,
        "catchUpSeconds": 900, "disabled": false,
    });
    for (field, value) in defaults.as_object().expect("an object") {
        assert_eq!(jobs[0][field], *value, "{field}");
    }
    // What was shown is taken back.
    let shown = scheduler.get("/v1/jobs/nightly").await;
    assert_eq!(shown["next"], "2090-01-01T01:00:00.000Z");
    let again = scheduler
        .request("PUT", "/v1/jobs/nightly", Some(shown))
        .await;
    assert_eq!(again.status, 200, "{}", again.text);
    assert!(
        !again.headers.contains_key("warning"),
        "{:?}",
        again.headers
    );

    let mut after = job("after");
    after["parents"] = json!(["nightly"]);
    let answer = scheduler
        .request("POST", "/v1/scheduler/dependency", Some(after))
        .await;
    assert_eq!(answer.status, 204, "{}", answer.text);
    let dot = scheduler
        .request("GET", "/v1/scheduler/graph/dot", None)
        .await;
    assert!(
        dot.text.contains("\"nightly\" -> \"after\""),
        "{}",
        dot.text
    );

    let run = scheduler
        .request("PUT", "/v1/scheduler/job/nightly?arguments=-v", None)
        .await;
    assert_eq!(run.status, 204, "{}", run.text);
    let run = run_is(&scheduler, "nightly", "running").await;
    let task = run["task"]["id"].as_str().expect("an id").to_owned();
    assert!(
        task.starts_with("ct:") && task.contains(":0:nightly:"),
        "{task}"
    );
    let (info, _) = running.master.world().tasks[&task].clone();
    assert_eq!(info.container.command, ["/bin/sh", "-c", "true -v"]);
    let csv = scheduler
        .request("GET", "/v1/scheduler/graph/csv", None)
        .await;
    assert!(
        csv.text.contains("node,nightly,fresh,1 running\n"),
        "{}",
        csv.text
    );

    // Its success starts the child.
    running
        .master
        .end(&task, TaskState::TaskFinished, "exit code 0");
    run_is(&scheduler, "nightly", "succeeded").await;
    let child = run_is(&scheduler, "after", "running").await;
    assert_eq!(child["cause"], "parents");
    let stat = scheduler.get("/v1/scheduler/job/stat/nightly").await;
    assert_eq!(stat["count"], 1);
    let summary = scheduler.get("/v1/scheduler/jobs/summary").await;
    assert_eq!(summary["jobs"][1]["status"], "success");
    let found = scheduler.get("/v1/scheduler/jobs/search?name=NIGHT").await;
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    let metrics = scheduler.request("GET", "/metrics", None).await;
    assert!(
        metrics.text.contains("job_runs_succeeded_total 1\n"),
        "{}",
        metrics.text
    );

    let refused = scheduler
        .request("DELETE", "/v1/scheduler/job/nightly", None)
        .await;
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains("parent of after"), "{}", refused.text);
    let killed = scheduler
        .request("DELETE", "/v1/scheduler/task/kill/after", None)
        .await;
    assert_eq!(killed.status, 204);
    run_is(&scheduler, "after", "killed").await;
    for name in ["after", "nightly"] {
        let gone = scheduler
            .request("DELETE", &format!("/v1/scheduler/job/{name}"), None)
            .await;
        assert_eq!(gone.status, 204, "{}", gone.text);
    }
    assert_eq!(scheduler.get("/v1/jobs").await, json!({"jobs": []}));
    assert!(running.master.world().live().is_empty());
    scheduler.stop().await;
}

#[tokio::test]
async fn a_slot_that_is_due_runs_and_its_failure_is_tried_again() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let body = json!({
        "schedule": "R1//PT1H", "retries": 1, "retryDelaySeconds": 0.01, "disableAfterFailures": 1,
        "container": {"image": "fail:1"}, "unknownThing": 1,
    });
    let made = scheduler.request("PUT", "/v1/jobs/once", Some(body)).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert!(
        made.headers["warning"].contains("/unknownThing"),
        "{:?}",
        made.headers
    );
    let run = run_is(&scheduler, "once", "failed").await;
    let attempts = run["attempts"].as_array().cloned().expect("a list");
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[1]["attempt"], 1);
    assert_eq!(attempts[1]["state"], "TASK_FAILED");
    assert_eq!(attempts[1]["message"], "exit code 1");
    let job = scheduler.get("/v1/jobs/once").await;
    assert_eq!(
        (&job["disabled"], &job["errorCount"]),
        (&json!(true), &json!(1))
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn a_run_under_way_is_neither_lost_nor_made_again_by_a_restart() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    scheduler
        .request("POST", "/v1/jobs", Some(job("long")))
        .await;
    let run = scheduler.request("POST", "/v1/jobs/long/run", None).await;
    assert_eq!((run.status, run.json()), (201, json!({"run": 1})));
    let run = run_is(&scheduler, "long", "running").await;
    let task = run["task"]["id"].as_str().expect("an id").to_owned();
    let busy = scheduler.request("POST", "/v1/jobs/long/run", None).await;
    assert_eq!(busy.status, 409, "{}", busy.text);
    scheduler.kill().await;
    running.master.end(&task, TaskState::TaskFinished, "");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let run = run_is(&scheduler, "long", "succeeded").await;
    assert_eq!(run["attempts"][0]["taskId"], task);
    assert_eq!(running.master.world().launched, [task]);
    scheduler.stop().await;
}

#[tokio::test]
async fn wrong_jobs_are_refused_with_everything_that_is_wrong() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let body = json!({
        "name": "a/b", "schedule": "every day", "scheduleTimeZone": "Mars/Olympus", "retries": -1,
        "uris": ["http://x"], "concurrencyPolicy": "never", "container": {"image": ""},
    });
    let answer = scheduler
        .request("POST", "/v1/scheduler/iso8601", Some(body))
        .await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let details = answer.json()["details"]
        .as_array()
        .cloned()
        .expect("a list");
    let paths: Vec<&str> = details
        .iter()
        .filter_map(|detail| detail["path"].as_str())
        .collect();
    for path in [
        "/name",
        "/schedule",
        "/scheduleTimeZone",
        "/retries",
        "/uris(0)/uri",
        "/concurrencyPolicy",
        "/container/image",
    ] {
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    for (method, path, body, status) in [
        ("POST", "/v1/scheduler/iso8601", job("x"), 422),
        ("POST", "/v1/scheduler/dependency", job("x"), 422),
        ("POST", "/v1/jobs", json!([1]), 400),
        ("POST", "/v1/jobs", json!({"name": 7}), 400),
        ("PUT", "/v1/jobs/other", job("x"), 422),
        ("PUT", "/v1/scheduler/job/nobody", json!(null), 404),
        ("POST", "/v1/jobs/nobody/run", json!({"arguments": 7}), 400),
        ("POST", "/v1/jobs/nobody/enable", json!(null), 404),
        ("DELETE", "/v1/jobs/nobody", json!(null), 404),
        ("GET", "/v1/scheduler/job/nobody", json!(null), 404),
        ("GET", "/v1/scheduler/stats/most", json!(null), 400),
        (
            "POST",
            "/v1/scheduler/job/x/task/y/progress",
            json!(null),
            501,
        ),
    ] {
        let answer = scheduler.request(method, path, Some(body.clone())).await;
        assert_eq!(
            answer.status, status,
            "{method} {path} {body}: {}",
            answer.text
        );
        assert!(
            answer.json()["message"].is_string(),
            "{method} {path}: {}",
            answer.text
        );
    }
    for (name, parents) in [("a", json!([])), ("b", json!(["a"])), ("c", json!(["b"]))] {
        let mut body = job(name);
        body["parents"] = parents;
        let made = scheduler.request("POST", "/v1/jobs", Some(body)).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
    let mut cycle = job("a");
    cycle["parents"] = json!(["c", "missing"]);
    let answer = scheduler.request("PUT", "/v1/jobs/a", Some(cycle)).await;
    assert_eq!(answer.status, 422);
    assert!(
        answer.text.contains("a before b before c before a"),
        "{}",
        answer.text
    );
    assert!(
        answer.text.contains("there is no job missing"),
        "{}",
        answer.text
    );
    let twice = scheduler.request("POST", "/v1/jobs", Some(job("a"))).await;
    assert_eq!(twice.status, 409, "{}", twice.text);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_run_waits_for_a_machine_that_its_constraints_allow_and_says_so() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut picky = job("picky");
    picky["constraints"] = json!([["hostname", "UNLIKE", "node1"]]);
    let made = scheduler.request("POST", "/v1/jobs", Some(picky)).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert!(!made.headers.contains_key("warning"), "{:?}", made.headers);
    let run = scheduler.request("POST", "/v1/jobs/picky/run", None).await;
    assert_eq!(run.status, 201, "{}", run.text);
    let path = "/v1/jobs/picky/runs";
    let runs = scheduler
        .wait(path, "a reason", |value| {
            value["runs"][0]["waitsBecause"]
                .as_str()
                .is_some_and(|why| why.contains("node1"))
        })
        .await;
    assert_eq!(runs["runs"][0]["state"], "waiting");
    let why = runs["runs"][0]["waitsBecause"].as_str().expect("a text");
    assert!(
        why.contains("node1 (constraint hostname UNLIKE node1: the node has node1)"),
        "{why}"
    );
    assert!(running.master.world().launched.is_empty());

    let mut content = job("content");
    content["constraints"] = json!([["hostname", "EQUALS", "node1"]]);
    scheduler.request("POST", "/v1/jobs", Some(content)).await;
    scheduler
        .request("POST", "/v1/jobs/content/run", None)
        .await;
    run_is(&scheduler, "content", "running").await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_failure_that_is_soft_starts_what_comes_after_and_any_other_does_not() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    for (parent, child, soft) in [("hard", "not", false), ("soft", "then", true)] {
        let mut first = job(parent);
        first["container"] = json!({"image": "fail:1"});
        first["retries"] = json!(0);
        first["softError"] = json!(soft);
        let mut second = job(child);
        second["parents"] = json!([parent]);
        for body in [first, second] {
            let made = scheduler.request("POST", "/v1/jobs", Some(body)).await;
            assert_eq!(made.status, 201, "{}", made.text);
        }
        let shown = scheduler.get(&format!("/v1/jobs/{parent}")).await;
        assert_eq!(shown["softError"], soft);
        let path = format!("/v1/jobs/{parent}/run");
        scheduler.request("POST", &path, None).await;
        run_is(&scheduler, parent, "failed").await;
    }
    let child = run_is(&scheduler, "then", "running").await;
    assert_eq!(child["cause"], "parents");
    assert_eq!(
        scheduler.get("/v1/jobs/not/runs").await["runs"],
        json!([]),
        "its parent failed before"
    );
    let soft = scheduler.get("/v1/jobs/soft").await;
    assert_eq!(soft["errorCount"], 1, "a failure all the same");
    scheduler.stop().await;
}

#[tokio::test]
async fn runs_of_high_priority_are_placed_before_those_that_wait_longer() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    for (name, is_high) in [("busy", false), ("plain", false), ("urgent", true)] {
        let mut body = job(name);
        body["cpus"] = json!(4);
        body["highPriority"] = json!(is_high);
        scheduler.request("POST", "/v1/jobs", Some(body)).await;
        let path = format!("/v1/jobs/{name}/run");
        let run = scheduler.request("POST", &path, None).await;
        assert_eq!(run.status, 201, "{}", run.text);
        let state = if name == "busy" { "running" } else { "waiting" };
        run_is(&scheduler, name, state).await;
    }
    let busy = running.master.world().live().remove(0);
    running.master.end(&busy, TaskState::TaskFinished, "");
    run_is(&scheduler, "urgent", "running").await;
    run_is(&scheduler, "plain", "waiting").await;
    let urgent = running.master.world().live().remove(0);
    running.master.end(&urgent, TaskState::TaskFinished, "");
    run_is(&scheduler, "plain", "running").await;
    scheduler.stop().await;
}

#[tokio::test]
async fn the_agent_ends_a_run_that_takes_too_long_and_it_has_failed() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut body = job("long");
    body["maxCompletionTime"] = json!(90);
    body["retries"] = json!(0);
    scheduler.request("POST", "/v1/jobs", Some(body)).await;
    scheduler.request("POST", "/v1/jobs/long/run", None).await;
    run_is(&scheduler, "long", "running").await;
    let task = running.master.world().live().remove(0);
    let (info, _) = running.master.world().tasks[&task].clone();
    assert_eq!(info.max_completion, Some(Duration::from_secs(90)));
    running.master.end_for(
        &task,
        TaskState::TaskFailed,
        "it ran longer than 90 s",
        mezzo_api::proto::Reason::MaxCompletionTimeReached,
    );
    let run = run_is(&scheduler, "long", "failed").await;
    assert_eq!(run["attempts"][0]["message"], "it ran longer than 90 s");

    scheduler
        .request("POST", "/v1/jobs", Some(job("any")))
        .await;
    scheduler.request("POST", "/v1/jobs/any/run", None).await;
    run_is(&scheduler, "any", "running").await;
    let task = running.master.world().live().remove(0);
    let (info, _) = running.master.world().tasks[&task].clone();
    assert_eq!(info.max_completion, None, "0 is as long as it takes");
    scheduler.stop().await;
}
