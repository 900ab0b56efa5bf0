//! The JSON that Marathon's clients read, from a snapshot of the state.
//!
//! Pure.

mod pod;
mod stats;
mod task;

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::filter::Embed;
use crate::app::json::seconds;
use crate::app::{AppId, AppVersion};
use crate::core::state::{AppState, Instance, State, TaskFailure};
use crate::deployment::{Deployment, Step};
use crate::time::Timestamp;
use crate::why;

/// An app with its counts, deployments and, if wanted, tasks and their statistics at `now`, Unix milliseconds.
pub(crate) fn app(state: &State, app: &AppState, embed: Embed, now: u64) -> Value {
    serde_json::from_str(&app_text(state, app, embed, now)).unwrap_or_default()
}

pub(crate) use pod::{instance as pod_instance, status as pod_status};

/// What is shown of an app beside its definition.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Beside<'a> {
    #[serde(flatten)]
    counts: Map<String, Value>,
    deployments: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Vec<task::Task<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    readiness_check_results: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_task_failure: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_rollback: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crash_loop: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_stats: Option<stats::TaskStats>,
}

/// The same as text. The definition, which is most of it and stays as it is, is written only once.
pub(crate) fn app_text(state: &State, app: &AppState, embed: Embed, now: u64) -> String {
    let lock = state.locks.get(&app.current.app.id);
    let last_failure = app
        .last_failure
        .as_ref()
        .filter(|_| embed.last_task_failure);
    let instances = app.instances.values();
    let beside = Beside {
        counts: counts(app),
        deployments: lock
            .iter()
            .map(|lock| json!({"id": lock.deployment.to_string()}))
            .collect(),
        tasks: embed.tasks.then(|| {
            instances
                .map(|instance| task::task(app, instance))
                .collect()
        }),
        readiness_check_results: embed.readiness.then(|| readiness(app)),
        last_task_failure: last_failure.map(|failure| task_failure(app, failure)),
        last_rollback: app.last_rollback.as_ref().map(|rollback| {
            json!({
                "version": rollback.version.to_string(),
                "timestamp": rollback.timestamp.to_string(),
                "reason": rollback.reason,
            })
        }),
        crash_loop: crash_loop(app, now),
        task_stats: embed.task_stats.then(|| stats::task_stats(app, now)),
    };
    let current = &app.current;
    let definition = current.written.get(|| version(current).to_string());
    let beside = serde_json::to_string(&beside).unwrap_or_default();
    // Two objects that are not empty become one.
    let (definition, beside) = (
        definition.strip_suffix('}').unwrap_or(definition),
        beside.strip_prefix('{').unwrap_or(&beside),
    );
    [definition, ",", beside].concat()
}

/// That it fails again and again, and what is left until the next start.
fn crash_loop(app: &AppState, now: u64) -> Option<Value> {
    let failures = app.backoff.crash_loop(app.active().app.backoff, now)?;
    Some(json!({
        "failures": failures,
        "lastFailureAt": Timestamp::from_millis(app.backoff.failed_at()).to_string(),
        "timeLeftSeconds": seconds(app.backoff.left_ms(now)),
    }))
}

/// One version of an app or a pod, without tasks.
pub(crate) fn version(version: &AppVersion) -> Value {
    let mut out = version.app.to_json();
    if let Some(fields) = out.as_object_mut() {
        fields.insert("version".into(), version.version.to_string().into());
        // Marathon's pods have none.
        if version.app.pod.is_some() {
            return out;
        }
        fields.insert(
            "versionInfo".into(),
            json!({
                "lastScalingAt": version.last_scaling_at.to_string(),
                "lastConfigChangeAt": version.last_config_change_at.to_string(),
            }),
        );
    }
    out
}

/// The latest result of each readiness check, as deployments and apps show them.
fn readiness(app: &AppState) -> Value {
    if !app.asks_readiness() {
        return Value::Array(Vec::new());
    }
    let results = app.instances.values().filter_map(|instance| {
        let last = instance.readiness.as_ref()?;
        let mut out = json!({
            "name": last.name,
            "taskId": instance.task_id.as_str(),
            "ready": last.ready,
        });
        let preserved = app
            .versions
            .get(&instance.version)
            .and_then(|version| version.app.readiness_check.as_ref())
            .is_some_and(|check| check.preserve_last_response);
        if let Some(response) = last.last_response.as_ref().filter(|_| preserved)
            && let Some(fields) = out.as_object_mut()
        {
            let response = json!({
                "status": response.status,
                "contentType": response.content_type,
                "body": response.body,
            });
            fields.insert("lastResponse".into(), response);
        }
        Some(out)
    });
    Value::Array(results.collect())
}

fn counts(app: &AppState) -> Map<String, Value> {
    let counts = stats::Counts::of(app.instances.values().map(|instance| &**instance));
    let mut out = Map::new();
    out.insert("tasksStaged".into(), counts.staged.into());
    out.insert("tasksRunning".into(), counts.running.into());
    out.insert("tasksHealthy".into(), counts.healthy.into());
    out.insert("tasksUnhealthy".into(), counts.unhealthy.into());
    out
}

/// A task as `/v2/tasks` and an app's `tasks` have it.
pub(crate) fn task(app: &AppState, instance: &Instance) -> Value {
    // It has string keys and no failing serializers.
    serde_json::to_value(task::task(app, instance)).unwrap_or_default()
}

/// Its own addresses.
pub(crate) fn addresses(instance: &Instance) -> Value {
    let addresses = instance.addresses.iter().map(|address| {
        json!({
            "ipAddress": address.to_string(),
            "protocol": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        })
    });
    Value::Array(addresses.collect())
}

fn task_failure(app: &AppState, failure: &TaskFailure) -> Value {
    json!({
        "appId": app.current.app.id.as_str(),
        "taskId": failure.task_id.as_str(),
        "state": failure.state.name(),
        "message": failure.message,
        "host": failure.host,
        "slaveId": failure.agent_id.as_str(),
        "version": failure.version.to_string(),
        "timestamp": failure.timestamp.to_string(),
    })
}

/// One step of a plan in which these are pods.
pub(crate) fn step(step: &Step, pods: &BTreeSet<AppId>) -> Value {
    let actions: Vec<Value> = step
        .actions
        .iter()
        .map(|action| json!({"action": action.kind.name(), kind(pods, &action.app): action.app.as_str()}))
        .collect();
    json!({ "actions": actions })
}

/// The field that names what an action is about.
pub(crate) fn kind(pods: &BTreeSet<AppId>, id: &AppId) -> &'static str {
    if pods.contains(id) { "pod" } else { "app" }
}

/// The apps and the pods of a plan.
pub(crate) fn affected(deployment: &Deployment) -> (Vec<&str>, Vec<&str>) {
    let (pods, apps): (Vec<&AppId>, Vec<&AppId>) = deployment
        .apps()
        .partition(|id| deployment.pods.contains(*id));
    (
        apps.into_iter().map(AppId::as_str).collect(),
        pods.into_iter().map(AppId::as_str).collect(),
    )
}

/// A deployment under way, with what it waits for.
pub(crate) fn deployment(state: &State, deployment: &Deployment, now: u64) -> Value {
    let actions: Vec<Value> = deployment
        .current_actions()
        .iter()
        .map(|action| {
            let waiting = state
                .apps
                .get(&action.app)
                .map(|app| why::waiting_for(state, app, now));
            json!({
                "action": action.kind.name(),
                kind(&deployment.pods, &action.app): action.app.as_str(),
                "readinessCheckResults": state.apps.get(&action.app).map_or_else(|| json!([]), |app| readiness(app)),
                "waitingFor": waiting.unwrap_or_default(),
            })
        })
        .collect();
    let waiting: Vec<String> = actions
        .iter()
        .filter_map(|action| {
            let text = action
                .get("waitingFor")?
                .as_str()
                .filter(|text| !text.is_empty())?;
            let id = action.get("app").or_else(|| action.get("pod"))?;
            Some(format!("{}: {text}", id.as_str()?))
        })
        .collect();
    let steps = deployment.steps.iter();
    let steps: Vec<Value> = steps.map(|one| step(one, &deployment.pods)).collect();
    let (apps, pods) = affected(deployment);
    json!({
        "id": deployment.id.to_string(),
        "version": deployment.version.to_string(),
        "affectedApps": apps,
        "affectedPods": pods,
        "steps": steps,
        "currentActions": actions,
        "currentStep": deployment.current + 1,
        "totalSteps": deployment.steps.len(),
        "waitingFor": waiting.join("; "),
    })
}
