//! The JSON that Marathon's clients read, from a snapshot of the state.
//!
//! Pure.

use serde_json::{Map, Value, json};

use super::filter::Embed;
use crate::app::AppVersion;
use crate::core::state::{AppState, Condition, Instance, State, TaskFailure};
use crate::deployment::{Deployment, Step};
use crate::time::Timestamp;
use crate::why;

/// An app with its counts, deployments and, if wanted, tasks.
pub(crate) fn app(state: &State, app: &AppState, embed: Embed) -> Value {
    let mut out = version(&app.current);
    let Some(fields) = out.as_object_mut() else {
        return out;
    };
    fields.extend(counts(app));
    let lock = state.locks.get(&app.current.app.id);
    let deployments: Vec<Value> = lock
        .iter()
        .map(|lock| json!({"id": lock.deployment.to_string()}))
        .collect();
    fields.insert("deployments".into(), deployments.into());
    if embed.tasks {
        let tasks: Vec<Value> = app
            .instances
            .values()
            .map(|instance| task(app, instance))
            .collect();
        fields.insert("tasks".into(), tasks.into());
    }
    if embed.readiness {
        fields.insert("readinessCheckResults".into(), readiness(app));
    }
    if embed.last_task_failure
        && let Some(failure) = &app.last_failure
    {
        fields.insert("lastTaskFailure".into(), task_failure(app, failure));
    }
    out
}

/// One version of an app, without tasks.
pub(crate) fn version(version: &AppVersion) -> Value {
    let mut out = version.app.to_json();
    if let Some(fields) = out.as_object_mut() {
        fields.insert("version".into(), version.version.to_string().into());
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
    let count =
        |holds: &dyn Fn(&Instance) -> bool| app.instances.values().filter(|i| holds(i)).count();
    let staged = count(&|instance| {
        matches!(
            instance.condition,
            Condition::Provisioned | Condition::Staging | Condition::Starting
        )
    });
    let running = count(&|instance| instance.condition == Condition::Running);
    let is_checked =
        |instance: &Instance| instance.checked && instance.condition == Condition::Running;
    let healthy = count(&|instance| is_checked(instance) && instance.healthy == Some(true));
    let unhealthy = count(&|instance| is_checked(instance) && instance.healthy == Some(false));
    let mut out = Map::new();
    out.insert("tasksStaged".into(), staged.into());
    out.insert("tasksRunning".into(), running.into());
    out.insert("tasksHealthy".into(), healthy.into());
    out.insert("tasksUnhealthy".into(), unhealthy.into());
    out
}

/// A task as `/v2/tasks` and an app's `tasks` have it.
pub(crate) fn task(app: &AppState, instance: &Instance) -> Value {
    let when = |millis: u64| Timestamp::from_millis(millis).to_string();
    let mut out = json!({
        "id": instance.task_id.as_str(),
        "appId": instance.app.as_str(),
        "host": instance.hostname,
        "slaveId": instance.agent_id.as_str(),
        "state": instance.state_name(),
        "stagedAt": when(instance.staged_at),
        "startedAt": instance.started_at.map(when),
        "version": instance.version.to_string(),
        "ports": instance.ports,
        "servicePorts": app.current.app.ports.iter().map(|port| port.port).collect::<Vec<u16>>(),
        "ipAddresses": addresses(instance),
        "localVolumes": local_volumes(app, instance),
        "role": role(app, instance),
    });
    let Some(fields) = out.as_object_mut() else {
        return out;
    };
    if instance.checked
        && let Some(alive) = instance.healthy
    {
        fields.insert(
            "healthCheckResults".into(),
            json!([{"alive": alive, "taskId": instance.task_id.as_str()}]),
        );
    } else {
        fields.insert("healthCheckResults".into(), json!([]));
    }
    if !instance.message.is_empty() {
        fields.insert("message".into(), instance.message.as_str().into());
    }
    out
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

fn local_volumes(app: &AppState, instance: &Instance) -> Vec<Value> {
    let holding = instance.holding.and_then(|id| app.holdings.get(&id));
    let volumes = holding.iter().flat_map(|holding| &holding.volumes);
    volumes
        .map(|held| {
            json!({
                "containerPath": held.container_path,
                "persistenceId": held.volume.id.as_str(),
            })
        })
        .collect()
}

fn role<'a>(app: &'a AppState, instance: &Instance) -> &'a str {
    let holding = instance.holding.and_then(|id| app.holdings.get(&id));
    holding.map_or("*", |holding| holding.stack.role().as_str())
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

/// One step of a plan.
pub(crate) fn step(step: &Step) -> Value {
    let actions: Vec<Value> = step
        .actions
        .iter()
        .map(|action| json!({"action": action.kind.name(), "app": action.app.as_str()}))
        .collect();
    json!({ "actions": actions })
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
                "app": action.app.as_str(),
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
            Some(format!("{}: {text}", action.get("app")?.as_str()?))
        })
        .collect();
    let steps: Vec<Value> = deployment.steps.iter().map(step).collect();
    json!({
        "id": deployment.id.to_string(),
        "version": deployment.version.to_string(),
        "affectedApps": deployment.apps().map(|app| app.as_str()).collect::<Vec<&str>>(),
        "affectedPods": [],
        "steps": steps,
        "currentActions": actions,
        "currentStep": deployment.current + 1,
        "totalSteps": deployment.steps.len(),
        "waitingFor": waiting.join("; "),
    })
}
