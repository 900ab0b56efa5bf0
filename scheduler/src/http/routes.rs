//! The table of routes: what each takes and answers. The OpenAPI document is made from it.
//!
//! Pure but for the handler. One line per operation as people know it, finer than the paths by which requests are told
//! apart (`/v2/apps/{*path}` is eleven of them). The contract tests have a row for each, so a line here without a
//! handler, or the reverse, does not go unseen.

mod openapi;

use axum::http::StatusCode;
use axum::response::Response;

use super::answer::json_answer;
pub(crate) use openapi::document;

/// What a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    None,
    /// One of the document's schemas.
    Json(&'static str),
    /// A list of one of them.
    List(&'static str),
}

/// What a success gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gives {
    Nothing,
    /// One of the document's schemas.
    Json(&'static str),
    /// JSON, or the same as text with `Accept: text/plain`.
    JsonOrText(&'static str),
    Text,
    Events,
}

/// One route with one method.
#[derive(Debug, Clone, Copy)]
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    /// Names of [`QUERY`].
    query: &'static [&'static str],
    body: Body,
    success: u16,
    gives: Gives,
    /// Of [`FAILURES`].
    failures: &'static [u16],
}

/// Parameters of queries: name, type, may come more than once, what it means.
const QUERY: &[(&str, &str, bool, &str)] = &[
    (
        "force",
        "boolean",
        false,
        "Over deployments under way, which are broken off.",
    ),
    (
        "dryRun",
        "boolean",
        false,
        "Only say what would be done, step by step.",
    ),
    (
        "partialUpdate",
        "boolean",
        false,
        "Fields that are not given stay (the default); false: they get their defaults.",
    ),
    (
        "embed",
        "string",
        true,
        "Parts that are left out otherwise: apps.tasks, apps.counts, apps.deployments, apps.readiness, \
         apps.lastTaskFailure, apps.taskStats; for groups group.groups, group.apps and group.apps.*; for the queue lastUnusedOffers.",
    ),
    ("id", "string", false, "Only apps with this in their id."),
    ("cmd", "string", false, "Only apps with this in their cmd."),
    (
        "label",
        "string",
        false,
        "A label selector: a, a==b, a!=b, a in (b, c), a notin (b, c), joined by commas.",
    ),
    ("host", "string", false, "Only tasks on this host."),
    (
        "scale",
        "boolean",
        false,
        "No replacements: the apps shrink by what is killed.",
    ),
    (
        "wipe",
        "boolean",
        false,
        "What the tasks keep on their machines is given back, and what they wrote is lost.",
    ),
    ("status", "string", true, "running or staging."),
    (
        "event_type",
        "string",
        true,
        "Only events of these types; without: all.",
    ),
    (
        "plan-format",
        "string",
        false,
        "light, which is how events always are.",
    ),
    (
        "lastEventId",
        "string",
        false,
        "As the header Last-Event-ID, for clients that cannot set one.",
    ),
    ("run", "integer", false, "Only this run."),
];

/// Failures that operations name.
const FAILURES: &[(u16, &str)] = &[
    (400, "The body is not JSON, or a field has the wrong type."),
    (403, "Too many deployments are under way."),
    (404, "There is no such thing."),
    (
        405,
        "Not possible on this path, or the answer is not of a type that is accepted.",
    ),
    (
        409,
        "It is there already, or a deployment has it locked: `deployments` names them.",
    ),
    (
        422,
        "The fields cannot be so: `details` has every problem with its path.",
    ),
    (
        503,
        "The scheduler did not answer in time, or has no room for more.",
    ),
];

const NONE: &[&str] = &[];
const FORCE: &[&str] = &["force"];
const CHANGE: &[u16] = &[400, 403, 404, 409, 422, 503];
const DEPLOY: &[u16] = &[403, 404, 409, 503];
const MISSING: &[u16] = &[404];
const NEVER: &[u16] = &[];

use Body::{Json, List};
use Gives::{Events, JsonOrText, Nothing, Text};

const fn get(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    gives: Gives,
    failures: &'static [u16],
) -> Operation {
    Operation {
        method: "get",
        path,
        id,
        summary,
        query,
        body: Body::None,
        success: 200,
        gives,
        failures,
    }
}

#[expect(clippy::too_many_arguments, reason = "columns of the table below")]
const fn op(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    body: Body,
    success: u16,
    gives: Gives,
    failures: &'static [u16],
) -> Operation {
    Operation {
        method,
        path,
        id,
        summary,
        query,
        body,
        success,
        gives,
        failures,
    }
}

const DEPLOYED: Gives = Gives::Json("Deployed");
const B0: Body = Body::None;

#[rustfmt::skip]
const OPERATIONS: &[Operation] = &[
    // Apps.
    get("/v2/apps", "listApps", "All apps", &["id", "cmd", "label", "embed"], Gives::Json("Apps"), NEVER),
    op("post", "/v2/apps", "createApp", "Deploy a new app", FORCE, Json("App"), 201, Gives::Json("App"), CHANGE),
    op("put", "/v2/apps", "putApps", "Make or change several apps as one deployment", &["force", "partialUpdate", "dryRun"], List("App"), 200, DEPLOYED, CHANGE),
    op("patch", "/v2/apps", "patchApps", "Change several apps that are there", &["force", "partialUpdate", "dryRun"], List("App"), 200, DEPLOYED, CHANGE),
    get("/v2/apps/{appId}", "getApp", "One app with its tasks; with `/*` behind the path, all apps below it", &["embed"], Gives::Json("OneApp"), MISSING),
    op("put", "/v2/apps/{appId}", "putApp", "Make or change an app, or take it back to an earlier version", &["force", "partialUpdate", "dryRun"], Json("App"), 200, DEPLOYED, CHANGE),
    op("patch", "/v2/apps/{appId}", "patchApp", "Change an app that is there", &["force", "partialUpdate", "dryRun"], Json("App"), 200, DEPLOYED, CHANGE),
    op("delete", "/v2/apps/{appId}", "deleteApp", "Stop an app and forget it (force is the default)", FORCE, B0, 200, DEPLOYED, DEPLOY),
    op("post", "/v2/apps/{appId}/restart", "restartApp", "Replace every instance", FORCE, B0, 200, DEPLOYED, DEPLOY),
    get("/v2/apps/{appId}/tasks", "listAppTasks", "The tasks of an app", NONE, JsonOrText("Tasks"), MISSING),
    op("delete", "/v2/apps/{appId}/tasks", "killAppTasks", "Kill tasks of an app", &["host", "scale", "wipe", "force"], B0, 200, Gives::Json("TasksOrDeployed"), DEPLOY),
    get("/v2/apps/{appId}/tasks/{taskId}", "getAppTask", "One task of an app", NONE, Gives::Json("Task"), MISSING),
    op("delete", "/v2/apps/{appId}/tasks/{taskId}", "killAppTask", "Kill one task of an app", &["scale", "wipe", "force"], B0, 200, Gives::Json("TaskOrDeployed"), DEPLOY),
    get("/v2/apps/{appId}/versions", "listAppVersions", "The versions of an app, newest first", NONE, Gives::Json("Versions"), MISSING),
    get("/v2/apps/{appId}/versions/{version}", "getAppVersion", "An app as it was", NONE, Gives::Json("App"), MISSING),
    // Groups.
    get("/v2/groups", "getRootGroup", "The group of everything", &["embed"], Gives::Json("Group"), NEVER),
    op("post", "/v2/groups", "createGroup", "Make a group", &["force", "dryRun"], Json("Group"), 201, DEPLOYED, CHANGE),
    op("put", "/v2/groups", "putRootGroup", "Make or change a group", &["force", "dryRun"], Json("Group"), 200, DEPLOYED, CHANGE),
    op("patch", "/v2/groups", "patchRootGroup", "enforceRole, which can only be true for top-level groups", NONE, Json("GroupPatch"), 200, Gives::Json("Empty"), &[400, 404, 422]),
    op("delete", "/v2/groups", "deleteRootGroup", "Remove everything", FORCE, B0, 200, DEPLOYED, DEPLOY),
    get("/v2/groups/{groupId}", "getGroup", "A group with what lies in it", &["embed"], Gives::Json("Group"), MISSING),
    op("post", "/v2/groups/{groupId}", "createGroupAt", "Make a group at this path", &["force", "dryRun"], Json("Group"), 201, DEPLOYED, CHANGE),
    op("put", "/v2/groups/{groupId}", "putGroup", "Make, change, scale (`scaleBy`) or take back (`version`) a group", &["force", "dryRun"], Json("Group"), 200, DEPLOYED, CHANGE),
    op("patch", "/v2/groups/{groupId}", "patchGroup", "enforceRole, which can only be true for top-level groups", NONE, Json("GroupPatch"), 200, Gives::Json("Empty"), &[400, 404, 422]),
    op("delete", "/v2/groups/{groupId}", "deleteGroup", "Remove a group with everything in it", FORCE, B0, 200, DEPLOYED, DEPLOY),
    get("/v2/groups/{groupId}/versions", "listGroupVersions", "The versions of a group, newest first", NONE, Gives::Json("VersionList"), MISSING),
    get("/v2/groups/{groupId}/versions/{version}", "getGroupVersion", "A group as it was", NONE, Gives::Json("Group"), MISSING),
    // Tasks.
    get("/v2/tasks", "listTasks", "All tasks of apps", &["status"], JsonOrText("Tasks"), NEVER),
    op("post", "/v2/tasks/delete", "killTasks", "Kill these tasks; those that are gone are passed over", &["scale", "wipe", "force"], Json("TaskIds"), 200, Gives::Json("TasksOrDeployed"), CHANGE),
    // Deployments.
    get("/v2/deployments", "listDeployments", "What is under way, and what it waits for", NONE, Gives::Json("Deployments"), NEVER),
    get("/v2/deployments/{deploymentId}", "getDeployment", "One deployment", NONE, Gives::Json("Deployment"), MISSING),
    op("delete", "/v2/deployments/{deploymentId}", "cancelDeployment", "Roll back by a new deployment; with force only stop it (202, nothing in it)", FORCE, B0, 200, DEPLOYED, DEPLOY),
    op("post", "/v2/deployments/{deploymentId}/promote", "promoteDeployment", "The new version of each app on trial takes the place of the old one now (mezzo's own)", NONE, B0, 202, Nothing, &[404, 409, 503]),
    // Queue.
    get("/v2/queue", "getQueue", "What waits to be launched, and why", &["embed"], Gives::Json("Queue"), NEVER),
    op("delete", "/v2/queue/{appId}/delay", "resetDelay", "Launch again at once", NONE, B0, 204, Nothing, MISSING),
    // Events.
    get("/v2/events", "events", "What happens, as server-sent events", &["event_type", "plan-format", "lastEventId"], Events, &[400, 405, 503]),
    // Pods.
    get("/v2/pods", "listPods", "All pods", NONE, Gives::Json("Pods"), NEVER),
    op("post", "/v2/pods", "createPod", "Deploy a new pod", FORCE, Json("Pod"), 201, Gives::Json("Pod"), CHANGE),
    get("/v2/pods::status", "listPodStatus", "All pods with their instances and containers (also /v2/pods/::status)", NONE, Gives::Json("PodStatuses"), NEVER),
    get("/v2/pods/{podId}", "getPod", "One pod", NONE, Gives::Json("Pod"), MISSING),
    op("put", "/v2/pods/{podId}", "putPod", "Change a pod: what is not given gets its default", &["force", "dryRun"], Json("Pod"), 200, Gives::Json("Pod"), CHANGE),
    op("delete", "/v2/pods/{podId}", "deletePod", "Stop a pod and forget it", FORCE, B0, 202, Nothing, DEPLOY),
    get("/v2/pods/{podId}::status", "getPodStatus", "A pod with its instances and containers", NONE, Gives::Json("PodStatus"), MISSING),
    get("/v2/pods/{podId}::versions", "listPodVersions", "The versions of a pod, newest first", NONE, Gives::Json("VersionList"), MISSING),
    get("/v2/pods/{podId}::versions/{version}", "getPodVersion", "A pod as it was", NONE, Gives::Json("Pod"), MISSING),
    op("delete", "/v2/pods/{podId}::instances", "killPodInstances", "Kill these instances; others take their place (with wipe and no list: all, and all that the pod keeps)", &["wipe"], Json("InstanceIds"), 200, Gives::Json("PodInstances"), &[400, 404, 503]),
    op("delete", "/v2/pods/{podId}::instances/{instanceId}", "killPodInstance", "Kill one instance; another takes its place", &["wipe"], B0, 200, Gives::Json("PodInstance"), &[404, 503]),
    // What Marathon has and mezzo does not.
    get("/v2/plugins", "listPlugins", "There are none", NONE, Gives::Json("Plugins"), NEVER),
    // The server.
    get("/v2/info", "getInfo", "Who this is", NONE, Gives::Json("Info"), NEVER),
    get("/v2/leader", "getLeader", "Which scheduler leads", NONE, Gives::Json("Leader"), NEVER),
    op("delete", "/v2/leader", "abdicate", "Give the lead away; refused where there is only one scheduler", NONE, B0, 200, Gives::Json("Message"), &[409]),
    get("/ping", "ping", "`pong`", NONE, Text, NEVER),
    get("/healthz", "getHealth", "Whether it serves, and has a master", NONE, Gives::Json("Health"), NEVER),
    get("/metrics", "getMetrics", "Figures in Prometheus' form", NONE, Text, NEVER),
    get("/metrics/prometheus", "getPrometheusMetrics", "The same", NONE, Text, NEVER),
    get("/openapi.json", "getOpenApi", "This document", NONE, Gives::Json("Empty"), NEVER),
    // Jobs. Chronos' routes under /v1/scheduler are as Chronos documents them, and not repeated here.
    get("/v1/jobs", "listJobs", "All jobs", NONE, Gives::Json("Jobs"), NEVER),
    op("post", "/v1/jobs", "createJob", "A new job", NONE, Json("Job"), 201, Gives::Json("Job"), CHANGE),
    get("/v1/jobs/{name}", "getJob", "One job with its runs", NONE, Gives::Json("Job"), MISSING),
    op("put", "/v1/jobs/{name}", "putJob", "Make or change a job (201 if it is new)", NONE, Json("Job"), 200, Gives::Json("Job"), CHANGE),
    op("delete", "/v1/jobs/{name}", "deleteJob", "Forget a job", NONE, B0, 204, Nothing, &[404, 409]),
    get("/v1/jobs/{name}/runs", "listJobRuns", "The runs of a job", NONE, Gives::Json("Runs"), MISSING),
    op("post", "/v1/jobs/{name}/run", "runJob", "Run a job now", NONE, Json("Arguments"), 201, Gives::Json("Run"), &[400, 403, 404, 409]),
    op("post", "/v1/jobs/{name}/kill", "killJob", "Kill runs of a job", &["run"], B0, 200, Gives::Json("Killed"), &[400, 404]),
    op("post", "/v1/jobs/{name}/enable", "enableJob", "Let its schedule start it", NONE, B0, 204, Nothing, MISSING),
    op("post", "/v1/jobs/{name}/disable", "disableJob", "Let nothing start it", NONE, B0, 204, Nothing, MISSING),
];

/// `GET /openapi.json`.
pub(super) async fn openapi() -> Response {
    json_answer(StatusCode::OK, &document())
}
