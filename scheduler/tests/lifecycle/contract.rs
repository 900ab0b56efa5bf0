//! The contract of each route: the status, headers and fields that Marathon documents for it.
//!
//! One table, read from top to bottom as one story against one scheduler. A row names its operation; the served OpenAPI
//! document names all there are, and an operation without a row fails the test; rows of [`CHRONOS`] are beside them. What differs from Marathon on purpose
//! is in docs/marathon-compatibility.md.

#[path = "contract/pods.rs"]
mod pods;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::common::client;

/// Instead of an operation: a route of Chronos, which the document does not repeat.
const CHRONOS: &str = "chronos";

/// One request and what is to come of it.
struct Row {
    /// Of the OpenAPI document.
    operation: &'static str,
    /// `METHOD PATH`; `{name}` stands for what an earlier row kept.
    request: &'static str,
    body: Value,
    status: u16,
    /// Fields of the answer, by JSON pointer; [`any`] where only its being there counts, [`none`] where it must not be.
    fields: Vec<(&'static str, Value)>,
    headers: &'static [&'static str],
    /// Kept for later rows, by JSON pointer.
    keep: &'static [(&'static str, &'static str)],
    /// Asked again until it is so.
    waits: bool,
}

fn row(operation: &'static str, request: &'static str, status: u16) -> Row {
    Row {
        operation,
        request,
        body: Value::Null,
        status,
        fields: Vec::new(),
        headers: &[],
        keep: &[],
        waits: false,
    }
}

impl Row {
    fn body(mut self, body: Value) -> Self {
        self.body = body;
        self
    }
    fn has(mut self, pointer: &'static str, value: Value) -> Self {
        self.fields.push((pointer, value));
        self
    }
    fn headers(mut self, names: &'static [&'static str]) -> Self {
        self.headers = names;
        self
    }
    fn keep(mut self, kept: &'static [(&'static str, &'static str)]) -> Self {
        self.keep = kept;
        self
    }
    fn waits(mut self) -> Self {
        self.waits = true;
        self
    }
    /// `{version, deploymentId}` and the header.
    fn deployed(self) -> Self {
        self.has("/version", any())
            .has("/deploymentId", any())
            .headers(&["marathon-deployment-id"])
    }
}

fn any() -> Value {
    json!({"any": true})
}

fn none() -> Value {
    json!({"none": true})
}

fn web(extra: Value) -> Value {
    let mut app = json!({
        "id": "/shop/web", "cmd": "serve", "cpus": 0.1, "mem": 32, "instances": 2,
        "labels": {"tier": "front"},
        "container": {"type": "DOCKER", "docker": {"image": "web:1"}},
    });
    if let (Some(app), Some(extra)) = (app.as_object_mut(), extra.as_object()) {
        app.extend(extra.clone());
    }
    app
}

fn apps() -> Vec<Row> {
    let front = json!([web(
        json!({"id": "/shop/front", "instances": 1, "cmd": null})
    )]);
    vec![
        row("listApps", "GET /v2/apps", 200).has("/apps", json!([])),
        row("createApp", "POST /v2/apps", 400)
            .body(json!("{"))
            .has("/message", any()),
        row("createApp", "POST /v2/apps", 422)
            .body(web(json!({"cpus": -1, "id": "/Shop"})))
            .has("/message", json!("Object is not valid"))
            .has("/details/1/errors/0", any()),
        row("createApp", "POST /v2/apps", 201)
            .body(web(json!({})))
            .has("/id", json!("/shop/web"))
            .has("/cpus", json!(0.1))
            .has("/version", any())
            .has("/deployments/0/id", any())
            .has("/tasks", any())
            .headers(&["location", "marathon-deployment-id"]),
        row("createApp", "POST /v2/apps", 409)
            .body(web(json!({})))
            .has(
                "/message",
                json!("An app with id [/shop/web] already exists."),
            ),
        row("getApp", "GET /v2/apps/shop/web", 200)
            .waits()
            .has("/app/tasksRunning", json!(2))
            .has("/app/deployments", json!([]))
            .has("/app/tasks/1/state", json!("TASK_RUNNING"))
            .has("/app/tasksStaged", json!(0))
            .has("/app/tasksHealthy", json!(0))
            .has("/app/tasksUnhealthy", json!(0))
            .has("/app/versionInfo/lastScalingAt", any())
            .has("/app/versionInfo/lastConfigChangeAt", any())
            .has("/app/upgradeStrategy/minimumHealthCapacity", json!(1))
            .has("/app/unreachableStrategy/inactiveAfterSeconds", json!(0))
            .keep(&[("first", "/app/version"), ("task", "/app/tasks/0/id")]),
        row("getApp", "GET /v2/apps/shop/none", 404)
            .has("/message", json!("App '/shop/none' does not exist")),
        row("getApp", "GET /v2/apps/shop/*", 200).has("/*/0/id", json!("/shop/web")),
        row(
            "listApps",
            "GET /v2/apps?id=web&cmd=serve&label=tier%3D%3Dfront",
            200,
        )
        .has("/apps/0/id", json!("/shop/web"))
        .has("/apps/0/tasks", none()),
        row("listApps", "GET /v2/apps?cmd=other", 200).has("/apps", json!([])),
        row("listApps", "GET /v2/apps?embed=apps.tasks", 200)
            .has("/apps/0/tasks/0/appId", json!("/shop/web"))
            .has("/apps/0/tasks/0/slaveId", any())
            .has("/apps/0/taskStats", none()),
        row("listApps", "GET /v2/apps?embed=apps.taskStats", 200)
            .has(
                "/apps/0/taskStats/totalSummary/stats/counts/running",
                json!(2),
            )
            .has(
                "/apps/0/taskStats/totalSummary/stats/lifeTime/medianSeconds",
                any(),
            )
            .has(
                "/apps/0/taskStats/withLatestConfig/stats/counts/staged",
                json!(0),
            )
            .has(
                "/apps/0/taskStats/startedAfterLastScaling/stats/counts/running",
                json!(2),
            )
            .has("/apps/0/taskStats/withOutdatedConfig", none())
            .has("/apps/0/tasks", none()),
        row("getApp", "GET /v2/apps/shop/web?embed=app.taskStats", 200)
            .has("/app/taskStats/totalSummary/stats/counts/running", json!(2)),
        row("listApps", "GET /v2/apps?embed=apps.taskstat", 200)
            .has("/apps/0/taskStats", none())
            .headers(&["warning"]),
        row("putApp", "PUT /v2/apps/shop/web?dryRun=true", 200)
            .body(json!({"instances": 3}))
            .has("/steps/0/actions/0/action", json!("ScaleApplication"))
            .has("/deploymentId", none()),
        row("putApp", "PUT /v2/apps/shop/web", 200)
            .body(json!({"instances": 1, "nonsense": 1}))
            .deployed()
            .headers(&["warning"]),
        row("getApp", "GET /v2/apps/shop/web", 200)
            .waits()
            .has("/app/tasksRunning", json!(1))
            .has("/app/deployments", json!([]))
            // Partial: the rest is as it was.
            .has("/app/labels/tier", json!("front"))
            .keep(&[("task", "/app/tasks/0/id")]),
        row("patchApp", "PATCH /v2/apps/shop/none", 404).body(json!({"instances": 1})),
        row("patchApp", "PATCH /v2/apps/shop/web", 200)
            .body(json!({"env": {"LEVEL": "debug"}}))
            .deployed(),
        row("getApp", "GET /v2/apps/shop/web", 200)
            .waits()
            .has("/app/env/LEVEL", json!("debug"))
            .has("/app/deployments", json!([]))
            .has("/app/tasksRunning", json!(1)),
        row("putApp", "PUT /v2/apps/shop/web?partialUpdate=false", 200)
            .body(json!({"container": {"docker": {"image": "web:1"}}, "cpus": 0.1, "mem": 32}))
            .deployed(),
        row("getApp", "GET /v2/apps/shop/web", 200)
            .waits()
            // Everything that was not given has its default.
            .has("/app/labels", json!({}))
            .has("/app/env", json!({}))
            .has("/app/deployments", json!([])),
        row("listAppVersions", "GET /v2/apps/shop/web/versions", 200)
            .has("/versions/3", any())
            .has("/versions/4", none()),
        row("listAppVersions", "GET /v2/apps/none/versions", 404),
        row(
            "getAppVersion",
            "GET /v2/apps/shop/web/versions/{first}",
            200,
        )
        .has("/instances", json!(2))
        .has("/labels/tier", json!("front")),
        row(
            "getAppVersion",
            "GET /v2/apps/shop/web/versions/2001-01-01T00:00:00.000Z",
            404,
        ),
        row("putApp", "PUT /v2/apps/shop/web", 200)
            .body(json!({"version": "{first}"}))
            .deployed(),
        row("getApp", "GET /v2/apps/shop/web", 200)
            .waits()
            .has("/app/cmd", json!("serve"))
            .has("/app/tasksRunning", json!(2))
            .has("/app/deployments", json!([])),
        row("putApp", "PUT /v2/apps/shop/new", 201)
            .body(web(json!({"id": null})))
            .deployed(),
        row("putApps", "PUT /v2/apps", 200)
            .body(front.clone())
            .deployed(),
        row("putApps", "PUT /v2/apps", 400).body(json!({})),
        row("patchApps", "PATCH /v2/apps", 404).body(json!([{"id": "/none", "cpus": 1}])),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
        row("patchApps", "PATCH /v2/apps", 200)
            .body(json!([{"id": "/shop/front", "instances": 1}]))
            .deployed(),
        row("restartApp", "POST /v2/apps/shop/front/restart", 200).deployed(),
        row("restartApp", "POST /v2/apps/none/restart", 404),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
        row("deleteApp", "DELETE /v2/apps/shop/new", 200).deployed(),
        row("deleteApp", "DELETE /v2/apps/none", 404),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
    ]
}

fn tasks() -> Vec<Row> {
    vec![
        row("listAppTasks", "GET /v2/apps/shop/web/tasks", 200)
            .has("/tasks/0/appId", json!("/shop/web"))
            .has("/tasks/0/ports/0", any())
            .has("/tasks/0/servicePorts/0", any())
            .has("/tasks/0/stagedAt", any())
            .has("/tasks/0/startedAt", any())
            .has("/tasks/0/healthCheckResults", json!([]))
            .has("/tasks/0/ipAddresses", any())
            .has("/tasks/0/localVolumes", json!([]))
            .keep(&[("task", "/tasks/0/id"), ("other", "/tasks/1/id")]),
        row("listAppTasks", "GET /v2/apps/none/tasks", 404),
        row("getAppTask", "GET /v2/apps/shop/web/tasks/{task}", 200).has("/id", any()),
        row("getAppTask", "GET /v2/apps/shop/web/tasks/none", 404),
        row("listTasks", "GET /v2/tasks?status=running", 200).has("/tasks/2/id", any()),
        row("listTasks", "GET /v2/tasks?status[]=staging", 200).has("/tasks", json!([])),
        row(
            "killAppTask",
            "DELETE /v2/apps/shop/web/tasks/{task}?scale=true",
            200,
        )
        .deployed(),
        row("getApp", "GET /v2/apps/shop/web", 200)
            .waits()
            .has("/app/instances", json!(1))
            .has("/app/tasksRunning", json!(1))
            .has("/app/deployments", json!([])),
        row("killAppTask", "DELETE /v2/apps/shop/web/tasks/none", 404),
        row("killAppTask", "DELETE /v2/apps/shop/web/tasks/{other}", 200)
            .has("/task/id", any())
            .has("/task/appId", json!("/shop/web")),
        row(
            "killAppTasks",
            "DELETE /v2/apps/shop/web/tasks?host=elsewhere",
            200,
        )
        .has("/tasks", json!([])),
        row("killAppTasks", "DELETE /v2/apps/none/tasks", 404),
        // It is shown as running until its end is known.
        row("getAppTask", "GET /v2/apps/shop/web/tasks/{other}", 404).waits(),
        row("listAppTasks", "GET /v2/apps/shop/web/tasks", 200)
            .waits()
            .has("/tasks/0/state", json!("TASK_RUNNING"))
            .has("/tasks/1", none())
            .keep(&[("task", "/tasks/0/id")]),
        row("killTasks", "POST /v2/tasks/delete", 400).body(json!({"ids": 1})),
        row("killTasks", "POST /v2/tasks/delete", 200)
            .body(json!({"ids": ["gone.instance-1._app.1"]}))
            .has("/tasks", json!([])),
        row("killTasks", "POST /v2/tasks/delete", 200)
            .body(json!({"ids": ["{task}"]}))
            .has("/tasks/0/id", any()),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
    ]
}

fn groups() -> Vec<Row> {
    let lab = json!({"id": "/lab", "apps": [web(json!({"id": "one", "instances": 1}))]});
    let at = json!({"apps": [web(json!({"id": "two", "instances": 1}))]});
    vec![
        row("getRootGroup", "GET /v2/groups", 200)
            .has("/id", json!("/"))
            .has("/groups/0/id", json!("/shop"))
            .has("/groups/0/apps/0/id", any())
            .has("/pods", json!([])),
        row("getRootGroup", "GET /v2/groups?embed=group.groups", 200)
            .has("/groups/0/id", json!("/shop"))
            .has("/groups/0/apps", none()),
        row("getRootGroup", "GET /v2/groups?embed=group.zebra", 200).headers(&["warning"]),
        row("createGroup", "POST /v2/groups", 201)
            .body(lab.clone())
            .deployed(),
        row("createGroup", "POST /v2/groups", 409).body(lab),
        row("createGroup", "POST /v2/groups", 422).body(json!({"id": "/a", "apps": [{"id": "B"}]})),
        row("createGroupAt", "POST /v2/groups/den", 201)
            .body(at)
            .deployed(),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
        row("getGroup", "GET /v2/groups/lab", 200)
            .has("/id", json!("/lab"))
            .has("/apps/0/id", json!("/lab/one"))
            .has("/dependencies", json!([])),
        row("getGroup", "GET /v2/groups/none", 404)
            .has("/message", json!("Group '/none' does not exist")),
        row("putGroup", "PUT /v2/groups/lab?dryRun=true", 200)
            .body(json!({"scaleBy": 2}))
            .has("/steps/0/actions/0/action", json!("ScaleApplication")),
        row("putGroup", "PUT /v2/groups/lab", 200)
            .body(json!({"scaleBy": 2}))
            .deployed(),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
        row("listGroupVersions", "GET /v2/groups/lab/versions", 200)
            .has("/1", any())
            .keep(&[("group", "/1")]),
        row("listGroupVersions", "GET /v2/groups/none/versions", 404),
        row(
            "getGroupVersion",
            "GET /v2/groups/lab/versions/{group}",
            200,
        )
        .has("/apps/0/instances", json!(1)),
        row(
            "getGroupVersion",
            "GET /v2/groups/lab/versions/2001-01-01T00:00:00.000Z",
            404,
        ),
        row("putRootGroup", "PUT /v2/groups", 200)
            .body(json!({"id": "/lab", "version": "{group}"}))
            .deployed(),
        row("patchGroup", "PATCH /v2/groups/lab", 200).body(json!({"enforceRole": true})),
        row("getGroup", "GET /v2/groups/lab", 200).has("/enforceRole", json!(true)),
        row("patchGroup", "PATCH /v2/groups/lab", 200).body(json!({"enforceRole": false})),
        row("patchRootGroup", "PATCH /v2/groups", 422)
            .body(json!({"enforceRole": true}))
            .has("/details/0/path", json!("/enforceRole")),
        row("patchGroup", "PATCH /v2/groups/none", 404).body(json!({"enforceRole": false})),
        row("patchRootGroup", "PATCH /v2/groups", 400).body(json!({})),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
        row("deleteGroup", "DELETE /v2/groups/lab", 200).deployed(),
        row("deleteGroup", "DELETE /v2/groups/none", 404),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
    ]
}

fn deployments() -> Vec<Row> {
    let stuck = web(json!({
        "id": "/stuck", "container": {"docker": {"image": "stuck:1"}}, "instances": 1,
    }));
    let large = web(json!({"id": "/large", "cpus": 3.5, "instances": 2}));
    vec![
        row("createApp", "POST /v2/apps", 201)
            .body(stuck)
            .keep(&[("deployment", "/deployments/0/id")]),
        row("listDeployments", "GET /v2/deployments", 200)
            .has("/0/id", any())
            .has("/0/version", any())
            .has("/0/affectedApps/0", json!("/stuck"))
            .has("/0/affectedPods", json!([]))
            .has("/0/currentActions/0/action", json!("StartApplication"))
            .has("/0/currentActions/0/readinessCheckResults", json!([]))
            .has("/0/currentStep", json!(1))
            .has("/0/totalSteps", json!(1))
            .has("/0/waitingFor", any()),
        row("getDeployment", "GET /v2/deployments/{deployment}", 200).has("/id", any()),
        row("getDeployment", "GET /v2/deployments/none", 404)
            .has("/message", json!("DeploymentPlan none does not exist")),
        row(
            "promoteDeployment",
            "POST /v2/deployments/{deployment}/promote",
            409,
        )
        .has("/message", any()),
        row(
            "promoteDeployment",
            "POST /v2/deployments/none/promote",
            404,
        ),
        row("putApp", "PUT /v2/apps/stuck", 409)
            .body(json!({"instances": 2}))
            .has("/message", any())
            .has("/deployments/0/id", any()),
        row(
            "cancelDeployment",
            "DELETE /v2/deployments/{deployment}",
            200,
        )
        .deployed(),
        row("cancelDeployment", "DELETE /v2/deployments/none", 404),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
        row("createApp", "POST /v2/apps", 201)
            .body(large)
            .keep(&[("deployment", "/deployments/0/id")]),
        row("getQueue", "GET /v2/queue", 200)
            .waits()
            .has("/queue/0/app/id", json!("/large"))
            .has("/queue/0/count", any())
            .has("/queue/0/since", any())
            .has("/queue/0/delay/timeLeftSeconds", any())
            .has("/queue/0/delay/overdue", any())
            .has(
                "/queue/0/processedOffersSummary/rejectSummaryLastOffers/0/reason",
                any(),
            )
            .has(
                "/queue/0/processedOffersSummary/rejectSummaryLaunchAttempt/0/declined",
                any(),
            )
            .has("/queue/0/lastUnusedOffers", none()),
        row("getQueue", "GET /v2/queue?embed=lastUnusedOffers", 200)
            .waits()
            .has("/queue/0/lastUnusedOffers/0/offer/hostname", any())
            .has("/queue/0/lastUnusedOffers/0/reason/0", any())
            .has("/queue/0/lastUnusedOffers/0/timestamp", any()),
        row("resetDelay", "DELETE /v2/queue//large/delay", 204),
        row("resetDelay", "DELETE /v2/queue/none/delay", 404),
        // Only stopped: nothing comes back.
        row(
            "cancelDeployment",
            "DELETE /v2/deployments/{deployment}?force=true",
            202,
        ),
        row("listDeployments", "GET /v2/deployments", 200).has("", json!([])),
    ]
}

fn the_rest() -> Vec<Row> {
    let job = json!({"name": "nightly", "command": "true", "container": {"image": "sleep:1"}});
    vec![
        row("ping", "GET /ping", 200),
        row("getHealth", "GET /healthz", 200).has("/connectedToMaster", json!(true)),
        row("getMetrics", "GET /metrics", 200),
        row("getPrometheusMetrics", "GET /metrics/prometheus", 200),
        row("getInfo", "GET /v2/info", 200)
            .has("/name", any())
            .has("/version", any())
            .has("/frameworkId", any())
            .has("/leader", any())
            .has("/elected", json!(true))
            .has("/marathon_config/master", any())
            .has("/http_config/http_port", any()),
        row("getLeader", "GET /v2/leader", 200).has("/leader", any()),
        row("abdicate", "DELETE /v2/leader", 409).has("/message", any()),
        row("getOpenApi", "GET /openapi.json", 200).has("/openapi", json!("3.1.0")),
        row("listPlugins", "GET /v2/plugins", 200).has("/plugins", json!([])),
        // Answers that are streams are looked at in events.rs.
        row("events", "GET /v2/events", 405).has("/message", any()),
        row("listJobs", "GET /v1/jobs", 200).has("/jobs", json!([])),
        row("createJob", "POST /v1/jobs", 201)
            .body(job.clone())
            .has("/name", json!("nightly"))
            .headers(&["location"]),
        row("createJob", "POST /v1/jobs", 409).body(job.clone()),
        row("getJob", "GET /v1/jobs/nightly", 200).has("/runs", json!([])),
        row("getJob", "GET /v1/jobs/none", 404),
        row("putJob", "PUT /v1/jobs/nightly", 200).body(job),
        row("disableJob", "POST /v1/jobs/nightly/disable", 204),
        row("enableJob", "POST /v1/jobs/nightly/enable", 204),
        row("runJob", "POST /v1/jobs/nightly/run", 201).has("/run", any()),
        row("listJobRuns", "GET /v1/jobs/nightly/runs", 200).has("/runs/0", any()),
        row("killJob", "POST /v1/jobs/nightly/kill", 200).has("/killed", any()),
        row("listJobRuns", "GET /v1/jobs/nightly/runs", 200)
            .waits()
            .has("/runs/0/endedAt", any()),
        row(CHRONOS, "PUT /v1/scheduler/job/success/nightly", 204),
        row(CHRONOS, "PUT /v1/scheduler/job/success/none", 404).has("/message", any()),
        row(CHRONOS, "GET /v1/scheduler/leader", 200).has("/leader", any()),
        row(CHRONOS, "GET /v1/scheduler/stats/median", 200)
            .has("/0/jobNameLabel", json!("nightly"))
            .has("/0/time", any())
            .has("/1", none()),
        row(CHRONOS, "GET /v1/scheduler/stats/99thPercentile", 200).has("/0/time", any()),
        row(CHRONOS, "GET /v1/scheduler/stats/101thPercentile", 400).has("/message", any()),
        row("deleteJob", "DELETE /v1/jobs/nightly", 204),
        row("deleteRootGroup", "DELETE /v2/groups?force=true", 200).deployed(),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
        row("listApps", "GET /v2/apps", 200).has("/apps", json!([])),
    ]
}

/// With what was kept put in its place.
fn filled(text: &str, kept: &BTreeMap<&str, String>) -> String {
    kept.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{name}}}"), value)
    })
}

/// What is wrong with an answer; empty if it is as it should be.
fn wrong(row: &Row, answer: &client::Answer) -> String {
    let mut wrong = String::new();
    if answer.status != row.status {
        wrong.push_str(&format!(
            "status {}, wanted {}; ",
            answer.status, row.status
        ));
    }
    let value = answer.json();
    for (pointer, want) in &row.fields {
        let found = value.pointer(pointer);
        let holds = if *want == any() {
            found.is_some_and(|found| !found.is_null())
        } else if *want == none() {
            found.is_none()
        } else {
            found == Some(want)
        };
        if !holds {
            wrong.push_str(&format!("{pointer} is {found:?}, wanted {want}; "));
        }
    }
    for name in row
        .headers
        .iter()
        .chain(&["x-marathon-leader", "cache-control"])
    {
        if !answer.headers.contains_key(*name) {
            wrong.push_str(&format!("no header {name}; "));
        }
    }
    wrong
}

#[tokio::test]
async fn every_route_keeps_its_contract() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    scheduler
        .wait("/healthz", "a master", |value| {
            value["connectedToMaster"] == true
        })
        .await;
    let rows = apps()
        .into_iter()
        .chain(tasks())
        .chain(groups())
        .chain(deployments())
        .chain(pods::rows())
        .chain(the_rest());
    let mut kept: BTreeMap<&str, String> = BTreeMap::new();
    let mut covered = BTreeSet::new();
    for row in rows {
        if row.operation != CHRONOS {
            covered.insert(row.operation);
        }
        let request = filled(row.request, &kept);
        let (method, path) = request.split_once(' ').expect("METHOD PATH");
        let body = match &row.body {
            Value::Null => None,
            // Not JSON, on purpose.
            Value::String(text) => Some(text.clone()),
            body @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Some(filled(&body.to_string(), &kept))
            }
        };
        let started = Instant::now();
        let answer = loop {
            let answer = client::request(scheduler.address, method, path, body.clone()).await;
            let wrong = wrong(&row, &answer);
            if wrong.is_empty() {
                break answer;
            }
            assert!(
                row.waits && started.elapsed() < crate::common::PATIENCE,
                "{}: {request}: {wrong}\n{}",
                row.operation,
                answer.text
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        for (name, pointer) in row.keep {
            let value = answer.json();
            let value = value.pointer(pointer).and_then(Value::as_str);
            kept.insert(name, value.expect("something to keep").to_owned());
        }
    }
    let document = scheduler.get("/openapi.json").await;
    let all: BTreeSet<&str> = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|path| path.as_object().expect("methods").values())
        .filter_map(|operation| operation["operationId"].as_str())
        .collect();
    assert_eq!(
        covered, all,
        "each operation has a row, each row an operation"
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn tasks_are_told_as_text_for_load_balancers() {
    let running = Master::start(NODE).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    scheduler
        .request("POST", "/v2/apps", Some(web(json!({"instances": 1}))))
        .await;
    let app = scheduler.settled("/shop/web", 1).await;
    let task = &app["app"]["tasks"][0];
    let line = format!(
        "shop_web\t{}\tnode1:{}\n",
        task["servicePorts"][0], task["ports"][0]
    );
    for path in ["/v2/tasks", "/v2/apps/shop/web/tasks"] {
        let answer = client::accepting(scheduler.address, path, "text/plain").await;
        assert_eq!(answer.headers["content-type"], "text/plain", "{path}");
        assert_eq!(answer.text, line, "{path}");
    }
    let refused = client::accepting(scheduler.address, "/v2/events", "text/html").await;
    assert_eq!(refused.status, 405, "{}", refused.text);
    scheduler.stop().await;
}
