//! The OpenAPI document, from the table of routes.
//!
//! Pure. `docs/openapi.json` is a copy of it; a test compares the two.

use serde_json::{Map, Value, json};

use super::{Body, FAILURES, Gives, OPERATIONS, Operation, QUERY};
use crate::app::parse::{FIELDS, pod};
use crate::events::EVENT_TYPES;

/// The whole document, OpenAPI 3.1.
#[must_use]
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths
            .entry(operation.path)
            .or_insert_with(|| path_item(operation.path));
        if let Some(path) = path.as_object_mut() {
            path.insert(operation.method.to_owned(), one(operation));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "mezzo scheduler",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Marathon's REST API with what mezzo adds to it. Ids of apps and groups are paths: the slashes \
                in them are written as they are.",
            "license": {"name": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

/// What all operations on a path share: its parameters.
fn path_item(path: &str) -> Value {
    let parameters: Vec<Value> = path
        .split('/')
        .filter_map(|part| Some(part.strip_prefix('{')?.split_once('}')?.0))
        .map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
        })
        .collect();
    if parameters.is_empty() {
        json!({})
    } else {
        json!({ "parameters": parameters })
    }
}

fn one(operation: &Operation) -> Value {
    let mut out = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [tag(operation.path)],
        "responses": responses(operation),
    });
    let query: Vec<Value> = QUERY
        .iter()
        .filter(|(name, ..)| operation.query.contains(name))
        .map(|(name, kind, many, means)| {
            let one = json!({ "type": kind });
            let schema = if *many {
                json!({"type": "array", "items": one})
            } else {
                one
            };
            json!({"name": name, "in": "query", "description": means, "schema": schema})
        })
        .collect();
    if !query.is_empty() {
        out["parameters"] = query.into();
    }
    let schema = match operation.body {
        Body::None => return out,
        Body::Json(name) => reference(name),
        Body::List(name) => json!({"type": "array", "items": reference(name)}),
    };
    out["requestBody"] = json!({"required": true, "content": content("application/json", schema)});
    out
}

fn tag(path: &str) -> &str {
    let mut parts = path.split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some("v1" | "v2"), Some(what)) => what.split("::").next().unwrap_or(what),
        _ => "server",
    }
}

fn responses(operation: &Operation) -> Value {
    let mut out = Map::new();
    let success = match operation.gives {
        Gives::Nothing => json!({"description": "Done."}),
        Gives::Json(name) => {
            json!({"description": "Done.", "content": content("application/json", reference(name))})
        }
        Gives::JsonOrText(name) => {
            let mut content = content("application/json", reference(name));
            content["text/plain"] = json!({"schema": {"type": "string"}});
            json!({"description": "Done.", "content": content})
        }
        Gives::Text => {
            let text = json!({"type": "string"});
            json!({"description": "Done.", "content": content("text/plain", text)})
        }
        Gives::Events => json!({
            "description": "Events, until one side ends it. Each has an id for Last-Event-ID.",
            "content": content("text/event-stream", reference("Event")),
        }),
    };
    out.insert(operation.success.to_string(), success);
    for (status, means) in FAILURES {
        if operation.failures.contains(status) {
            let failure = json!({
                "description": means,
                "content": content("application/json", reference("Error")),
            });
            out.insert(status.to_string(), failure);
        }
    }
    Value::Object(out)
}

fn content(kind: &str, schema: Value) -> Value {
    let mut content = Map::new();
    content.insert(kind.to_owned(), json!({ "schema": schema }));
    Value::Object(content)
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// An object with one list in it.
fn list(field: &str, of: &str) -> Value {
    let mut properties = Map::new();
    properties.insert(
        field.to_owned(),
        json!({"type": "array", "items": reference(of)}),
    );
    json!({"type": "object", "properties": properties})
}

/// Objects are open: clients are to pass over fields that they do not know.
fn schemas() -> Value {
    let app: Map<String, Value> = FIELDS
        .iter()
        .map(|name| ((*name).to_owned(), field(name)))
        .collect();
    let deployed = json!({
        "type": "object",
        "properties": {
            "version": {"type": "string", "format": "date-time"},
            "deploymentId": {"type": "string", "format": "uuid"},
            "steps": {"type": "array", "description": "Of a dry run.", "items": reference("Step")},
        },
    });
    let mut schemas = json!({
        "App": {"type": "object", "description": "Marathon's AppDefinition: docs/apps.md.", "properties": app},
        "Apps": list("apps", "App"),
        "OneApp": {"type": "object", "properties": {"app": reference("App")}},
        "Arguments": {"type": "object", "properties": {"arguments": {"type": "string"}}},
        "Deployed": deployed,
        "Deployment": {"type": "object", "properties": {
            "id": {"type": "string", "format": "uuid"},
            "version": {"type": "string", "format": "date-time"},
            "affectedApps": {"type": "array", "items": {"type": "string"}},
            "affectedPods": {"type": "array", "items": {"type": "string"}},
            "steps": {"type": "array", "items": reference("Step")},
            "currentActions": {"type": "array", "items": {"type": "object"}},
            "currentStep": {"type": "integer"},
            "totalSteps": {"type": "integer"},
            "waitingFor": {"type": "string"},
        }},
        "Deployments": {"type": "array", "items": reference("Deployment")},
        "Empty": {"type": "object"},
        "Error": {"type": "object", "required": ["message"], "properties": {
            "message": {"type": "string"},
            "details": {"type": "array", "items": {"type": "object", "properties": {
                "path": {"type": "string"},
                "errors": {"type": "array", "items": {"type": "string"}},
            }}},
            "deployments": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "string"}}}},
        }},
        "Event": {"type": "object", "required": ["eventType", "timestamp"], "properties": {
            "eventType": {"type": "string", "enum": EVENT_TYPES},
            "timestamp": {"type": "string", "format": "date-time"},
        }},
        "Group": {"type": "object", "properties": {
            "id": {"type": "string"},
            "apps": {"type": "array", "items": reference("App")},
            "groups": {"type": "array", "items": reference("Group")},
            "pods": {"type": "array", "items": reference("Pod")},
            "dependencies": {"type": "array", "items": {"type": "string"}},
            "version": {"type": "string", "format": "date-time"},
            "scaleBy": {"type": "number"},
            "enforceRole": {"type": "boolean"},
        }},
        "GroupPatch": {"type": "object", "properties": {"enforceRole": {"type": "boolean"}}},
        "Health": {"type": "object", "properties": {"status": {"type": "string"}, "connectedToMaster": {"type": "boolean"}}},
        "Info": {"type": "object"},
        "Job": {"type": "object", "description": "docs/jobs.md", "properties": {
            "name": {"type": "string"},
            "role": {"type": "string"},
            "acceptedResourceRoles": {"type": "array", "items": {"type": "string"}},
        }},
        "Jobs": list("jobs", "Job"),
        "Killed": {"type": "object", "properties": {"killed": {"type": "integer"}}},
        "Message": {"type": "object", "properties": {"message": {"type": "string"}}},
        "Leader": {"type": "object", "properties": {"leader": {"type": "string"}}},
        "Plugins": list("plugins", "Empty"),
        "Queue": list("queue", "Empty"),
        "Run": {"type": "object", "properties": {"run": {"type": "integer"}}},
        "Runs": list("runs", "Empty"),
        "Step": {"type": "object", "properties": {"actions": {"type": "array", "items": {"type": "object", "properties": {
            "action": {"type": "string"}, "app": {"type": "string"},
        }}}}},
        "Task": {"type": "object", "properties": {
            "id": {"type": "string"},
            "appId": {"type": "string"},
            "host": {"type": "string"},
            "slaveId": {"type": "string"},
            "state": {"type": "string"},
            "ports": {"type": "array", "items": {"type": "integer"}},
            "version": {"type": "string", "format": "date-time"},
        }},
        "TaskIds": {"type": "object", "required": ["ids"], "properties": {"ids": {"type": "array", "items": {"type": "string"}}}},
        "TaskOrDeployed": {"anyOf": [{"type": "object", "properties": {"task": reference("Task")}}, reference("Deployed")]},
        "Tasks": list("tasks", "Task"),
        "TasksOrDeployed": {"anyOf": [reference("Tasks"), reference("Deployed")]},
        "VersionList": {"type": "array", "items": {"type": "string", "format": "date-time"}},
        "Versions": {"type": "object", "properties": {"versions": reference("VersionList")}},
    });
    if let (Some(schemas), Value::Object(pods)) = (schemas.as_object_mut(), pod_schemas()) {
        schemas.extend(pods);
    }
    schemas
}

fn pod_schemas() -> Value {
    let pod: Map<String, Value> = pod::FIELDS
        .iter()
        .map(|name| ((*name).to_owned(), pod_field(name)))
        .collect();
    json!({
        "InstanceIds": {"type": "array", "items": {"type": "string"}},
        "Pod": {"type": "object", "required": ["id", "containers"], "description": "Marathon's pod: docs/pods.md.", "properties": pod},
        "PodInstance": {"type": "object", "properties": {
            "id": {"type": "string"},
            "status": {"type": "string", "enum": ["PENDING", "STAGING", "STABLE", "DEGRADED", "TERMINAL"]},
            "statusSince": {"type": "string", "format": "date-time"},
            "agentHostname": {"type": "string"},
            "containers": {"type": "array", "items": {"type": "object"}},
        }},
        "PodInstances": {"type": "array", "items": reference("PodInstance")},
        "PodStatus": {"type": "object", "properties": {
            "id": {"type": "string"},
            "spec": reference("Pod"),
            "status": {"type": "string", "enum": ["DEGRADED", "STABLE"]},
            "statusSince": {"type": "string", "format": "date-time"},
            "message": {"type": "string"},
            "instances": reference("PodInstances"),
            "terminationHistory": {"type": "array", "items": {"type": "object"}},
        }},
        "PodStatuses": {"type": "array", "items": reference("PodStatus")},
        "Pods": {"type": "array", "items": reference("Pod")},
    })
}

/// The same of a pod's.
fn pod_field(name: &str) -> Value {
    match name {
        "id" | "user" | "role" | "version" => json!({"type": "string"}),
        "containers" | "volumes" | "networks" => {
            json!({"type": "array", "items": {"type": "object"}})
        }
        "legacySharedCgroups" => json!({"type": "boolean"}),
        _ => json!({"type": "object"}),
    }
}

/// The type of an app's field, where it is a plain one.
fn field(name: &str) -> Value {
    match name {
        "id" | "cmd" | "user" | "role" | "killSelection" | "placement" | "executor" => {
            json!({"type": "string"})
        }
        "cpus"
        | "mem"
        | "disk"
        | "backoffSeconds"
        | "backoffFactor"
        | "maxLaunchDelaySeconds"
        | "taskKillGracePeriodSeconds" => json!({"type": "number"}),
        "instances" | "gpus" | "tasksStaged" | "tasksRunning" | "tasksHealthy"
        | "tasksUnhealthy" => json!({"type": "integer"}),
        "requirePorts" | "revocable" | "tty" => json!({"type": "boolean"}),
        "args"
        | "constraints"
        | "dependencies"
        | "healthChecks"
        | "readinessChecks"
        | "portDefinitions"
        | "ports"
        | "networks"
        | "fetch"
        | "uris"
        | "storeUrls"
        | "acceptedResourceRoles"
        | "deployments"
        | "tasks"
        | "readinessCheckResults" => {
            json!({"type": "array"})
        }
        "check" => json!({"type": "object"}),
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn each_operation_has_a_name_of_its_own_and_known_words() {
        let mut ids = BTreeSet::new();
        let schemas = schemas();
        for operation in OPERATIONS {
            assert!(ids.insert(operation.id), "{} twice", operation.id);
            for name in operation.query {
                assert!(
                    QUERY.iter().any(|(known, ..)| known == name),
                    "{}: {name}",
                    operation.id
                );
            }
            for status in operation.failures {
                assert!(
                    FAILURES.iter().any(|(known, _)| known == status),
                    "{}: {status}",
                    operation.id
                );
            }
        }
        let text = document().to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap_or_default();
            assert!(schemas.get(name).is_some(), "no schema {name}");
        }
    }

    /// After a change: `UPDATE_OPENAPI=1 cargo test -p mezzo-scheduler openapi`.
    #[test]
    fn the_document_that_is_checked_in_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        let mut text = serde_json::to_string_pretty(&document()).expect("JSON");
        text.push('\n');
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(&path, &text).expect("docs can be written");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == text,
            "docs/openapi.json is not what the routes are: run with UPDATE_OPENAPI=1 and look at the difference"
        );
    }
}
