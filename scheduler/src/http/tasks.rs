//! `/v2/tasks`, and the tasks of one app; as JSON or, for load balancers, as text.

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{self, deployed, error, json_answer};
use super::filter::Params;
use super::{Context, render};
use crate::core::command::{Command, Reply};
use crate::core::state::{AppState, Condition, Instance};

pub(super) async fn list(
    State(context): State<Context>,
    Query(pairs): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let params = Params(pairs);
    let state = context.handle.state();
    let wanted: Vec<&str> = params.all("status").chain(params.all("status[]")).collect();
    let is_wanted = |instance: &Instance| {
        wanted.is_empty()
            || wanted.iter().any(|status| match *status {
                "running" => instance.condition == Condition::Running,
                "staging" => matches!(
                    instance.condition,
                    Condition::Provisioned | Condition::Staging | Condition::Starting
                ),
                _ => false,
            })
    };
    if wants_text(&headers) {
        let lines: String = state
            .visible_apps()
            .filter(|(_, app)| !app.is_pod())
            .map(|(_, app)| text(app))
            .collect();
        return plain(lines);
    }
    let tasks: Vec<Value> = state
        .visible_apps()
        .filter(|(_, app)| !app.is_pod())
        .flat_map(|(_, app)| {
            app.instances
                .values()
                .filter(|instance| is_wanted(instance))
                .map(|instance| render::task(app, instance))
        })
        .collect();
    json_answer(StatusCode::OK, &json!({ "tasks": tasks }))
}

/// `/v2/apps/{id}/tasks`.
pub(super) fn of_app(app: &AppState, headers: &HeaderMap) -> Response {
    if wants_text(headers) {
        return plain(text(app));
    }
    let tasks: Vec<Value> = app
        .instances
        .values()
        .map(|instance| render::task(app, instance))
        .collect();
    json_answer(StatusCode::OK, &json!({ "tasks": tasks }))
}

pub(super) async fn delete_many(
    State(context): State<Context>,
    Query(pairs): Query<Vec<(String, String)>>,
    bytes: Bytes,
) -> Response {
    let params = Params(pairs);
    let body = match answer::body(&bytes) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let Some(ids) = body.get("ids").and_then(Value::as_array) else {
        return wrong_ids("/ids", "expected a list of task ids");
    };
    let mut tasks = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        match id.as_str().map(str::parse::<mezzo_api::model::TaskId>) {
            Some(Ok(id)) => tasks.push(id),
            Some(Err(problem)) => return wrong_ids(&format!("/ids({i})"), &problem.to_string()),
            None => return wrong_ids(&format!("/ids({i})"), "expected a string"),
        }
    }
    let command = Command::KillTasks {
        tasks,
        // As Marathon.
        pass_over: true,
        scale: params.flag("scale", false),
        wipe: super::apps::wipe_theirs(&params),
        force: params.flag("force", false),
    };
    match answer::command(&context.handle, command).await {
        Ok(Reply::Killed(killed)) => {
            let state = context.handle.state();
            let tasks: Vec<Value> = killed
                .iter()
                .filter_map(|instance| Some(render::task(state.apps.get(&instance.app)?, instance)))
                .collect();
            json_answer(StatusCode::OK, &json!({ "tasks": tasks }))
        }
        Ok(reply) => deployed(StatusCode::OK, &reply, None),
        Err(response) => *response,
    }
}

fn wrong_ids(path: &str, problem: &str) -> Response {
    json_answer(
        StatusCode::BAD_REQUEST,
        &json!({"message": "Invalid JSON", "details": [{"path": path, "errors": [problem]}]}),
    )
}

fn wants_text(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.starts_with("text/plain"))
}

fn plain(text: String) -> Response {
    if text.len() > (256 << 20) {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the list is too long");
    }
    ([(header::CONTENT_TYPE, "text/plain")], text).into_response()
}

/// Per service port: app, port, and host:port of every running task.
fn text(app: &AppState) -> String {
    let name = app.current.app.id.safe_path();
    let running: Vec<&Instance> = app
        .instances
        .values()
        .map(|instance| &**instance)
        .filter(|instance| instance.condition == Condition::Running)
        .collect();
    if app.current.app.ports.is_empty() {
        let hosts: String = running
            .iter()
            .map(|instance| format!("\t{}", instance.hostname))
            .collect();
        return format!("{name}\t {hosts}\n");
    }
    app.current
        .app
        .ports
        .iter()
        .enumerate()
        .map(|(i, definition)| {
            let places: String = running
                .iter()
                .filter_map(|instance| {
                    let assigned = app.current.app.assigned_ports(&instance.ports);
                    let port = assigned.get(i)?;
                    Some(match (port.host, instance.addresses.first()) {
                        (Some(host), _) => format!("\t{}:{host}", instance.hostname),
                        // Reached at its own address, without the machine's help.
                        (None, Some(own)) => {
                            let own = std::net::SocketAddr::new(*own, port.inside);
                            format!("\t{own}")
                        }
                        (None, None) => return None,
                    })
                })
                .collect();
            format!("{name}\t{}{places}\n", definition.port)
        })
        .collect()
}
