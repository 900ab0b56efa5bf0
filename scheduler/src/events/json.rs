//! Events as Marathon writes them, with the fields of its 1.9 and later: deployments in the light form, without the
//! whole tree of apps before and after.
//!
//! Pure. Source of the fields: Marathon's event bus documentation and the answers of its `/v2/events`.

use serde_json::{Map, Value, json};

use super::{Event, EventKind};
use crate::app::json::health_check;
use crate::core::state::Instance;
use crate::deployment::Deployment;
use crate::http::render;
use crate::time::Timestamp;

/// The event's data. `master` is where the scheduler looks for masters.
#[must_use]
pub fn to_json(event: &Event, master: &str) -> Value {
    let mut fields = fields(&event.kind, master);
    fields.insert("eventType".into(), event.kind.name().into());
    fields.insert(
        "timestamp".into(),
        Timestamp::from_millis(event.at).to_string().into(),
    );
    Value::Object(fields)
}

fn fields(kind: &EventKind, master: &str) -> Map<String, Value> {
    let value = match kind {
        EventKind::ApiPost { origin, app } => json!({
            "clientIp": origin.client.to_string(),
            "uri": origin.uri,
            "appDefinition": render::version(app),
        }),
        EventKind::PodCreated { origin }
        | EventKind::PodUpdated { origin }
        | EventKind::PodDeleted { origin } => json!({
            "clientIp": origin.client.to_string(),
            "uri": origin.uri,
        }),
        EventKind::StatusUpdate {
            task,
            instance,
            state,
            message,
        } => json!({
            "slaveId": instance.agent_id.as_str(),
            "taskId": task.as_str(),
            "taskStatus": state.name(),
            "message": message,
            "appId": instance.app.as_str(),
            "host": instance.hostname,
            "ipAddresses": render::addresses(instance),
            "ports": instance.ports,
            "version": instance.version.to_string(),
        }),
        EventKind::InstanceChanged {
            instance,
            condition,
        } => json!({
            "instanceId": instance_id(instance.task_id.as_str()),
            "condition": condition,
            "runSpecId": instance.app.as_str(),
            "agentId": instance.agent_id.as_str(),
            "host": instance.hostname,
            "runSpecVersion": instance.version.to_string(),
        }),
        EventKind::InstanceHealthChanged { instance } => json!({
            "instanceId": instance_id(instance.task_id.as_str()),
            "runSpecId": instance.app.as_str(),
            "healthy": instance.healthy,
            "runSpecVersion": instance.version.to_string(),
        }),
        EventKind::UnknownInstanceTerminated { task, condition } => json!({
            "instanceId": instance_id(task.as_str()),
            "runSpecId": run_spec_id(task.as_str()),
            "condition": condition,
        }),
        EventKind::AppTerminated { app } | EventKind::RemoveHealthCheck { app } => {
            json!({"appId": app.as_str()})
        }
        EventKind::AddHealthCheck { app, number } => json!({
            "appId": app.app.id.as_str(),
            "version": app.version.to_string(),
            "healthCheck": app.app.health_checks.get(*number).map(health_check),
        }),
        EventKind::FailedHealthCheck {
            instance,
            app,
            number,
        } => json!({
            "appId": instance.app.as_str(),
            "taskId": instance.task_id.as_str(),
            "healthCheck": app.app.health_checks.get(*number).map(health_check),
        }),
        EventKind::HealthStatusChanged { instance, alive } => json!({
            "appId": instance.app.as_str(),
            "instanceId": instance_id(instance.task_id.as_str()),
            "version": instance.version.to_string(),
            "alive": alive,
        }),
        EventKind::UnhealthyTaskKill { instance, reason }
        | EventKind::UnhealthyInstanceKill { instance, reason } => json!({
            "appId": instance.app.as_str(),
            "taskId": instance.task_id.as_str(),
            "instanceId": instance_id(instance.task_id.as_str()),
            "version": instance.version.to_string(),
            "reason": reason,
            "host": instance.hostname,
            "slaveId": instance.agent_id.as_str(),
        }),
        EventKind::GroupChangeSuccess { group, version } => {
            json!({"groupId": group.as_str(), "version": version.to_string()})
        }
        EventKind::GroupChangeFailed { group, reason } => {
            json!({"groupId": group.as_str(), "version": "", "reason": reason})
        }
        EventKind::DeploymentInfo(deployment)
        | EventKind::DeploymentStepSuccess(deployment)
        | EventKind::DeploymentStepFailure(deployment) => json!({
            "plan": plan(deployment),
            "currentStep": current_step(deployment),
        }),
        EventKind::DeploymentSuccess(deployment) => json!({
            "id": deployment.id.to_string(),
            "plan": plan(deployment),
        }),
        EventKind::DeploymentFailed {
            plan: deployment,
            reason,
        } => json!({
            "id": deployment.id.to_string(),
            "plan": plan(deployment),
            "reason": reason,
        }),
        EventKind::SchedulerRegistered(framework) => {
            json!({"frameworkId": framework.as_str(), "master": master})
        }
        EventKind::SchedulerReregistered => json!({ "master": master }),
        EventKind::SchedulerDisconnected => json!({}),
        EventKind::StreamAttached(client) | EventKind::StreamDetached(client) => {
            json!({"remoteAddress": client.to_string()})
        }
    };
    match value {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

fn plan(deployment: &Deployment) -> Value {
    let (apps, pods) = render::affected(deployment);
    let steps = deployment.steps.iter();
    json!({
        "id": deployment.id.to_string(),
        "version": deployment.version.to_string(),
        "affectedApps": apps,
        "affectedPods": pods,
        "steps": steps.map(|step| render::step(step, &deployment.pods)).collect::<Vec<Value>>(),
    })
}

/// With the actions' names under `type`, too, as events had them from the beginning.
fn current_step(deployment: &Deployment) -> Value {
    let actions: Vec<Value> = deployment
        .current_actions()
        .iter()
        .map(|action| {
            json!({
                "action": action.kind.name(),
                "type": action.kind.name(),
                render::kind(&deployment.pods, &action.app): action.app.as_str(),
            })
        })
        .collect();
    json!({ "actions": actions })
}

/// `shop_cart.instance-UUID._app.1` is a task of the instance `shop_cart.instance-UUID`.
pub(crate) fn instance_id(task: &str) -> &str {
    let Some(at) = task.find(".instance-") else {
        return task;
    };
    let from = at + ".instance-".len();
    match task.get(from..).and_then(|rest| rest.find('.')) {
        Some(end) => &task[..from + end],
        None => task,
    }
}

/// The path of the app that a task is of, by its id.
fn run_spec_id(task: &str) -> String {
    let name = task.split(".instance-").next().unwrap_or(task);
    format!("/{}", name.replace('_', "/"))
}

/// Marathon's word for where an instance stands.
pub(crate) fn condition(instance: &Instance) -> &'static str {
    use crate::core::state::Condition;
    match instance.condition {
        Condition::Provisioned => "Provisioned",
        Condition::Staging => "Staging",
        Condition::Starting => "Starting",
        Condition::Running => "Running",
        Condition::Killing => "Killing",
        Condition::Unreachable { .. } => "Unreachable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_tells_its_instance_and_app() {
        let task = "shop_cart.instance-b6ff5fa5-7714-11e7-a55c-5ecf1c4671f6._app.1";
        assert_eq!(
            instance_id(task),
            "shop_cart.instance-b6ff5fa5-7714-11e7-a55c-5ecf1c4671f6"
        );
        assert_eq!(run_spec_id(task), "/shop/cart");
        assert_eq!(instance_id("other"), "other");
    }
}
