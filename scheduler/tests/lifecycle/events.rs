//! `/v2/events` as a client sees it: Marathon's events with their fields, filters, and a way back in.

use super::*;
use crate::common::client::{self, Events, Told};

const NODE: &str = "cpus:4;mem:4096;ports:[31000-31099]";

fn names(events: &[Told]) -> Vec<&str> {
    events.iter().map(|told| told.name.as_str()).collect()
}

fn is(name: &str) -> impl Fn(&Told) -> bool {
    move |told| told.name == name
}

/// The fields of the first event with this name, sorted.
fn fields(events: &[Told], name: &str) -> Vec<String> {
    let told = events
        .iter()
        .find(|told| told.name == name)
        .unwrap_or_else(|| panic!("no {name} in {:?}", names(events)));
    assert_eq!(told.data["eventType"], name);
    let mut fields: Vec<String> = told
        .data
        .as_object()
        .expect("an object")
        .keys()
        .filter(|field| !matches!(field.as_str(), "eventType" | "timestamp"))
        .cloned()
        .collect();
    fields.sort();
    fields
}

#[tokio::test]
async fn an_apps_life_is_told_with_marathons_events_and_fields() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    scheduler
        .wait("/healthz", "a master", |value| {
            value["connectedToMaster"] == true
        })
        .await;
    let mut events = Events::open(scheduler.address, "?plan-format=light", None).await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let first = events.next().await.expect("itself");
    assert_eq!(first.name, "event_stream_attached");
    assert_eq!(first.data["remoteAddress"], "127.0.0.1");

    let mut app = sleep_app();
    app["healthChecks"] = json!([{"protocol": "TCP", "portIndex": 0}]);
    scheduler.request("POST", "/v2/apps", Some(app)).await;
    let born = events.until(is("deployment_success")).await;
    let order: Vec<&str> = names(&born)
        .into_iter()
        .filter(|name| name.starts_with("deployment") || name.starts_with("api"))
        .collect();
    assert_eq!(
        order,
        [
            "deployment_info",
            "api_post_event",
            "deployment_step_success",
            "deployment_success"
        ]
    );
    for (name, want) in [
        ("api_post_event", "appDefinition clientIp uri"),
        ("group_change_success", "groupId version"),
        ("add_health_check_event", "appId healthCheck version"),
        (
            "instance_changed_event",
            "agentId condition host instanceId runSpecId runSpecVersion",
        ),
        (
            "status_update_event",
            "appId host ipAddresses message ports slaveId taskId taskStatus version",
        ),
        (
            "instance_health_changed_event",
            "healthy instanceId runSpecId runSpecVersion",
        ),
        (
            "health_status_changed_event",
            "alive appId instanceId version",
        ),
        ("deployment_info", "currentStep plan"),
        ("deployment_step_success", "currentStep plan"),
        ("deployment_success", "id plan"),
    ] {
        assert_eq!(fields(&born, name).join(" "), want, "{name}");
    }
    let conditions: Vec<&Value> = born
        .iter()
        .filter(|told| told.name == "instance_changed_event")
        .map(|told| &told.data["condition"])
        .collect();
    assert_eq!(conditions, ["Provisioned", "Starting", "Running"]);
    let statuses: Vec<&Value> = born
        .iter()
        .filter(|told| told.name == "status_update_event")
        .map(|told| &told.data["taskStatus"])
        .collect();
    assert_eq!(statuses, ["TASK_STARTING", "TASK_RUNNING"]);
    let plan = &born.last().expect("one").data["plan"];
    assert_eq!(plan["affectedApps"], json!(["/sleep"]));
    assert_eq!(
        plan["steps"][0]["actions"][0],
        json!({"action": "StartApplication", "app": "/sleep"})
    );

    // The agent gives up on its health.
    let task = running.master.world().live().remove(0);
    running.master.end_for(
        &task,
        mezzo_api::proto::TaskState::TaskFailed,
        "3 checks failed",
        mezzo_api::proto::Reason::HealthCheckStatusUpdated,
    );
    let killed = events.until(is("instance_changed_event")).await;
    let want = "appId host instanceId reason slaveId taskId version";
    for name in ["unhealthy_task_kill_event", "unhealthy_instance_kill_event"] {
        assert_eq!(fields(&killed, name).join(" "), want, "{name}");
    }
    assert_eq!(killed.last().expect("one").data["condition"], "Failed");

    scheduler.request("DELETE", "/v2/apps/sleep", None).await;
    let gone = events.until(is("deployment_success")).await;
    assert_eq!(fields(&gone, "app_terminated_event"), ["appId"]);
    assert_eq!(fields(&gone, "remove_health_check_event"), ["appId"]);
    scheduler.stop().await;
    // The end of the scheduler ends the stream: nothing keeps it waiting.
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn only_the_types_that_are_asked_for_are_told() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let query = "?event_type=deployment_success&event_type=status_update_event&event_type=framework_message_event";
    let mut events = Events::open(scheduler.address, query, None).await;
    assert!(
        events.headers["warning"].contains("framework_message_event"),
        "{:?}",
        events.headers
    );
    scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    let told = events.until(is("deployment_success")).await;
    assert_eq!(
        names(&told),
        [
            "status_update_event",
            "status_update_event",
            "deployment_success"
        ]
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_nothing_and_is_told_what_is_gone() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let mut events = Events::open(scheduler.address, "", None).await;
    scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    let whole = events.until(is("deployment_success")).await;
    drop(events);
    // From the middle: the same events with the same ids, once each.
    let middle = whole.len() / 2;
    let last = whole[middle].id.clone().expect("an id");
    let mut again = Events::open(scheduler.address, "", Some(&last)).await;
    let rest = again.until(is("deployment_success")).await;
    assert_eq!(rest, whole[middle + 1..]);
    drop(again);

    // Another run: its ids are others.
    let last = whole.last().expect("one").id.clone().expect("an id");
    scheduler.kill().await;
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let query = format!("?event_type=event_stream_attached&lastEventId={last}");
    let mut back = Events::open(scheduler.address, &query, None).await;
    let gap = back.next().await.expect("a word");
    assert_eq!(gap.name, "event_stream_gap");
    assert_eq!(gap.id, None);
    assert_eq!(gap.data["lastEventId"], last.as_str());
    assert_eq!(
        back.next().await.expect("more").name,
        "event_stream_attached"
    );

    let path = "/v2/events?lastEventId=7";
    let wrong = client::accepting(scheduler.address, path, "text/event-stream").await;
    assert_eq!(wrong.status, 400, "{}", wrong.text);
    drop(back);
    scheduler.stop().await;
}

#[tokio::test]
async fn what_happens_to_the_line_and_to_deployments_that_are_stopped_is_told() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    // Else its first subscription could be the one that comes after the line was cut.
    scheduler
        .wait("/healthz", "a master", |value| {
            value["connectedToMaster"] == true
        })
        .await;
    let mut events = Events::open(scheduler.address, "", None).await;
    let mut app = sleep_app();
    app["container"]["docker"]["image"] = json!("stuck:1");
    let posted = scheduler
        .request("POST", "/v2/apps", Some(app.clone()))
        .await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    let id = posted.json()["deployments"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let locked = scheduler
        .request("PUT", "/v2/apps/sleep", Some(json!({"instances": 2})))
        .await;
    assert_eq!(locked.status, 409, "{}", locked.text);
    scheduler
        .request("DELETE", &format!("/v2/deployments/{id}?force=true"), None)
        .await;
    let told = events.until(is("deployment_failed")).await;
    assert_eq!(
        fields(&told, "group_change_failed").join(" "),
        "groupId reason version"
    );
    assert_eq!(
        fields(&told, "deployment_step_failure").join(" "),
        "currentStep plan"
    );
    assert_eq!(
        fields(&told, "deployment_failed").join(" "),
        "id plan reason"
    );
    running.master.cut();
    let told = events.until(is("scheduler_reregistered_event")).await;
    assert!(names(&told).contains(&"scheduler_disconnected_event"));
    assert_eq!(fields(&told, "scheduler_reregistered_event"), ["master"]);
    drop(events);
    scheduler.stop().await;
}
