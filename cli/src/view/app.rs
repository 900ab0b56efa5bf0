//! What tables read from the scheduler's JSON: apps, deployments, the launch queue.
//!
//! Pure and forgiving: Marathon's answers differ between versions, so a field that is missing has its default. For
//! `-o json` the scheduler's own answer is printed instead of these.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// An app with its counts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) cmd: Option<String>,
    pub(crate) args: Vec<String>,
    pub(crate) cpus: f64,
    pub(crate) mem: f64,
    pub(crate) disk: f64,
    pub(crate) instances: u64,
    pub(crate) container: Option<Container>,
    pub(crate) env: Value,
    pub(crate) labels: Value,
    pub(crate) constraints: Value,
    pub(crate) health_checks: Vec<Value>,
    pub(crate) version: String,
    pub(crate) tasks_staged: u64,
    pub(crate) tasks_running: u64,
    pub(crate) tasks_healthy: u64,
    pub(crate) tasks_unhealthy: u64,
    pub(crate) deployments: Vec<DeploymentId>,
    pub(crate) tasks: Vec<AppTask>,
    pub(crate) last_task_failure: Option<TaskFailure>,
    /// mezzo's addition.
    pub(crate) crash_loop: Option<CrashLoop>,
}

impl App {
    pub(crate) fn image(&self) -> &str {
        self.container
            .as_ref()
            .and_then(|container| container.docker.as_ref())
            .map_or("", |docker| &docker.image)
    }

    /// Everything asked for runs, nothing else is under way.
    pub(crate) fn is_settled(&self) -> bool {
        self.deployments.is_empty()
            && self.tasks_running == self.instances
            && self.tasks_staged == 0
            && self.tasks_unhealthy == 0
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Container {
    pub(crate) docker: Option<Docker>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Docker {
    pub(crate) image: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct DeploymentId {
    pub(crate) id: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct AppTask {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) ports: Vec<u32>,
    pub(crate) state: String,
    pub(crate) staged_at: Option<String>,
    pub(crate) started_at: Option<String>,
    pub(crate) version: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TaskFailure {
    pub(crate) app_id: String,
    pub(crate) host: String,
    pub(crate) message: String,
    pub(crate) state: String,
    pub(crate) task_id: String,
    pub(crate) timestamp: String,
}

/// An app that fails again and again.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct CrashLoop {
    pub(crate) failures: u64,
    /// Until the next start; 0 where one is under way.
    pub(crate) time_left_seconds: f64,
}

/// A change under way.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) affected_apps: Vec<String>,
    pub(crate) affected_pods: Vec<String>,
    pub(crate) current_step: u64,
    pub(crate) total_steps: u64,
    pub(crate) current_actions: Vec<Action>,
    /// mezzo's addition: what it waits for.
    #[serde(alias = "waitingFor", alias = "blockedBecause")]
    pub(crate) reason: Option<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Step {
    pub(crate) actions: Vec<Action>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Action {
    pub(crate) action: String,
    #[serde(alias = "type")]
    pub(crate) kind: Option<String>,
    #[serde(alias = "pod")]
    pub(crate) app: String,
}

/// Instances of an app that wait to be launched.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct QueueItem {
    pub(crate) count: u64,
    pub(crate) delay: Delay,
    pub(crate) since: String,
    #[serde(alias = "pod")]
    pub(crate) app: DeploymentId,
    pub(crate) processed_offers_summary: OffersSummary,
    pub(crate) last_unused_offers: Vec<UnusedOffer>,
    /// mezzo's addition: why it waits, in a sentence.
    #[serde(alias = "waitingFor")]
    pub(crate) reason: Option<String>,
}

/// An offer that was not enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct UnusedOffer {
    pub(crate) offer: OfferedNode,
    pub(crate) timestamp: String,
    /// mezzo's addition: every reason in words.
    pub(crate) details: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct OfferedNode {
    pub(crate) hostname: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Delay {
    pub(crate) time_left_seconds: f64,
    pub(crate) overdue: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct OffersSummary {
    pub(crate) processed_offers_count: u64,
    pub(crate) unused_offers_count: u64,
    pub(crate) reject_summary_last_offers: Vec<Rejection>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Rejection {
    pub(crate) reason: String,
    pub(crate) declined: u64,
    pub(crate) processed: u64,
}

/// The list under `key`, or the answer itself when it is a list. Entries that cannot be read are left out.
pub(crate) fn list<T: DeserializeOwned>(answer: &Value, key: &str) -> Vec<T> {
    raw_list(answer, key)
        .iter()
        .filter_map(|one| serde_json::from_value(without_nulls(one)).ok())
        .collect()
}

/// One record, with defaults for what is missing or null.
pub(crate) fn one<T: DeserializeOwned + Default>(value: &Value) -> T {
    serde_json::from_value(without_nulls(value)).unwrap_or_default()
}

/// The entries of a list answer as they are.
pub(crate) fn raw_list<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer
        .as_array()
        .or_else(|| answer.get(key).and_then(Value::as_array))
        .map_or(&[], Vec::as_slice)
}

/// Marathon writes `"args": null` where it means the default.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nulls_and_missing_fields_are_defaults() {
        let app: App = one(&json!({"id": "/a", "args": null, "instances": 3, "unknown": {"x": 1}}));
        assert_eq!(
            (app.id.as_str(), app.instances, app.args.len()),
            ("/a", 3, 0)
        );
    }

    #[test]
    fn lists_come_bare_or_under_their_name() {
        let bare = json!([{"id": "d1", "affectedApps": ["/a"]}]);
        let named = json!({"deployments": bare.clone()});
        assert_eq!(
            list::<Deployment>(&bare, "deployments"),
            list::<Deployment>(&named, "deployments")
        );
    }

    #[test]
    fn settled_means_all_run_and_none_is_unwell() {
        let app = App {
            instances: 2,
            tasks_running: 2,
            ..App::default()
        };
        assert!(app.is_settled());
        assert!(
            !App {
                tasks_unhealthy: 1,
                ..app.clone()
            }
            .is_settled()
        );
        assert!(
            !App {
                deployments: vec![DeploymentId { id: "x".into() }],
                ..app
            }
            .is_settled()
        );
    }
}
