//! `/v2/pods` and everything below it. Ids of pods have slashes; what a request is about is told by `::` behind the id.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mezzo_api::model::TaskId;
use serde_json::Value;

use super::answer::{self, deployed, error, json_answer};
use super::apps::wipe_theirs;
use super::filter::Params;
use super::{Context, render};
use crate::app::AppId;
use crate::core::command::{Command, Reply, Wipe};
use crate::core::state::State as Snapshot;
use crate::driver::now_ms;
use crate::time::Timestamp;

type Pairs = Query<Vec<(String, String)>>;

/// What follows `/v2/pods/`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Below {
    Pod(AppId),
    /// `::status` of all.
    AllStatus,
    Status(AppId),
    Versions(AppId),
    Version(AppId, String),
    Instances(AppId),
    Instance(AppId, String),
}

/// Splits a path (decoded) at its `::`.
fn below(path: &str) -> Result<Below, Box<Response>> {
    let path = path.trim_matches('/');
    let not_found = |message: String| Box::new(error(StatusCode::NOT_FOUND, &message));
    let (id, rest) = path.split_once("::").unwrap_or((path, ""));
    if id.is_empty() && rest == "status" {
        return Ok(Below::AllStatus);
    }
    let id: AppId = id
        .parse()
        .map_err(|problem| not_found(format!("not the id of a pod: {problem}")))?;
    match rest.split_once('/').unwrap_or((rest, "")) {
        ("", "") => Ok(Below::Pod(id)),
        ("status", "") => Ok(Below::Status(id)),
        ("versions", "") => Ok(Below::Versions(id)),
        ("versions", version) => Ok(Below::Version(id, version.to_owned())),
        ("instances", "") => Ok(Below::Instances(id)),
        ("instances", instance) => Ok(Below::Instance(id, instance.to_owned())),
        _ => Err(not_found(format!(
            "there is nothing at /v2/pods{id}::{rest}: a pod has ::status, ::versions and ::instances"
        ))),
    }
}

fn no_pod(id: &AppId) -> Response {
    error(StatusCode::NOT_FOUND, &format!("Pod '{id}' does not exist"))
}

pub(super) async fn list(State(context): State<Context>) -> Response {
    let state = context.handle.state();
    let pods = state.visible_apps().filter(|(_, pod)| pod.is_pod());
    let pods: Vec<Value> = pods.map(|(_, pod)| render::version(&pod.current)).collect();
    json_answer(StatusCode::OK, &pods.into())
}

pub(super) async fn all_status(State(context): State<Context>) -> Response {
    let state = context.handle.state();
    let now = now_ms();
    let pods = state.visible_apps().filter(|(_, pod)| pod.is_pod());
    let pods: Vec<Value> = pods
        .map(|(_, pod)| render::pod_status(&state, pod, now))
        .collect();
    json_answer(StatusCode::OK, &pods.into())
}

pub(super) async fn create(
    State(context): State<Context>,
    Query(pairs): Pairs,
    bytes: Bytes,
) -> Response {
    let force = Params(pairs).flag("force", false);
    let body = match answer::body(&bytes) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let id = body
        .get("id")
        .and_then(Value::as_str)
        .and_then(|id| id.parse::<AppId>().ok());
    let command = Command::CreatePod { body, force };
    let reply = match answer::command(&context.handle, command).await {
        Ok(reply) => reply,
        Err(response) => return *response,
    };
    let shown = id
        .as_ref()
        .and_then(|id| shown(&context.handle.state(), id));
    let mut response = deployed(StatusCode::CREATED, &reply, shown);
    if let Some(id) = id
        && let Ok(location) = format!("/v2/pods{id}").parse()
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn shown(state: &Snapshot, id: &AppId) -> Option<Value> {
    Some(render::version(&state.pod(id)?.current))
}

pub(super) async fn put(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
    bytes: Bytes,
) -> Response {
    let pod = match below(&path) {
        Ok(Below::Pod(pod)) => pod,
        Ok(_) => return only("PUT is for a pod itself"),
        Err(response) => return *response,
    };
    let params = Params(pairs);
    let body = match answer::body(&bytes) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let command = Command::UpdatePod {
        pod: pod.clone(),
        body,
        force: params.flag("force", false),
        dry_run: params.flag("dryRun", false),
    };
    match answer::command(&context.handle, command).await {
        Ok(reply) => {
            let shown = shown(&context.handle.state(), &pod);
            deployed(StatusCode::OK, &reply, shown)
        }
        Err(response) => *response,
    }
}

pub(super) async fn get_below(
    State(context): State<Context>,
    Path(path): Path<String>,
) -> Response {
    let below = match below(&path) {
        Ok(below) => below,
        Err(response) => return *response,
    };
    let state = context.handle.state();
    let id = match &below {
        Below::AllStatus => return all_status(State(context)).await,
        Below::Pod(id)
        | Below::Status(id)
        | Below::Versions(id)
        | Below::Version(id, _)
        | Below::Instances(id)
        | Below::Instance(id, _) => id,
    };
    let Some(pod) = state.pod(id) else {
        return no_pod(id);
    };
    let now = now_ms();
    match &below {
        Below::Pod(_) => json_answer(StatusCode::OK, &render::version(&pod.current)),
        Below::AllStatus | Below::Status(_) => {
            json_answer(StatusCode::OK, &render::pod_status(&state, pod, now))
        }
        Below::Versions(_) => {
            let versions = pod.versions.keys().rev();
            let versions: Vec<Value> = versions.map(|one| one.to_string().into()).collect();
            json_answer(StatusCode::OK, &versions.into())
        }
        Below::Version(_, text) => {
            let version = text.parse::<Timestamp>().ok();
            match version.and_then(|version| pod.versions.get(&version)) {
                Some(found) => json_answer(StatusCode::OK, &render::version(found)),
                None => error(
                    StatusCode::NOT_FOUND,
                    &format!("Pod '{id}' does not have the version {text}"),
                ),
            }
        }
        Below::Instances(_) | Below::Instance(..) => {
            only("DELETE ends instances; ::status shows them")
        }
    }
}

pub(super) async fn delete_below(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
    bytes: Bytes,
) -> Response {
    let below = match below(&path) {
        Ok(below) => below,
        Err(response) => return *response,
    };
    let params = Params(pairs);
    match below {
        Below::Pod(id) => remove(&context, id, &params).await,
        Below::Instance(id, instance) => {
            let wipe = wipe_theirs(&params);
            kill(&context, &id, &[instance], wipe, Named::One).await
        }
        // Without a list: all of them, and what none of them uses (mezzo's own).
        Below::Instances(id) if bytes.is_empty() && params.flag("wipe", false) => {
            let state = context.handle.state();
            let pod = state.pod(&id);
            let ids = pod
                .iter()
                .flat_map(|pod| pod.instances.keys())
                .map(ToString::to_string)
                .collect::<Vec<String>>();
            kill(&context, &id, &ids, Wipe::AllOf(id.clone()), Named::All).await
        }
        Below::Instances(id) => {
            let ids = answer::body(&bytes).map(serde_json::from_value::<Vec<String>>);
            match ids {
                Ok(Ok(ids)) => kill(&context, &id, &ids, wipe_theirs(&params), Named::Some).await,
                Ok(Err(problem)) => error(
                    StatusCode::BAD_REQUEST,
                    &format!("expected a list of ids of instances: {problem}"),
                ),
                Err(response) => *response,
            }
        }
        Below::AllStatus | Below::Status(_) | Below::Versions(_) | Below::Version(..) => {
            only("DELETE is for pods and their instances")
        }
    }
}

async fn remove(context: &Context, id: AppId, params: &Params) -> Response {
    if context.handle.state().pod(&id).is_none() {
        return no_pod(&id);
    }
    let command = Command::Delete {
        app: id,
        force: params.flag("force", false),
    };
    match answer::command(&context.handle, command).await {
        // As Marathon: all that is said of the deployment is in the headers.
        Ok(reply) => {
            let headers = deployed(StatusCode::ACCEPTED, &reply, None)
                .into_parts()
                .0
                .headers;
            let deployment = headers.get("marathon-deployment-id").cloned();
            let mut response = StatusCode::ACCEPTED.into_response();
            if let Some(id) = deployment {
                response.headers_mut().insert("marathon-deployment-id", id);
            }
            response
        }
        Err(response) => *response,
    }
}

/// Which instances a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// Answered with that one, not with a list.
    One,
    Some,
    /// As the last snapshot has them: what is gone since then is as it should be.
    All,
}

async fn kill(
    context: &Context,
    id: &AppId,
    instances: &[String],
    wipe: Wipe,
    named: Named,
) -> Response {
    let state = context.handle.state();
    let Some(pod) = state.pod(id) else {
        return no_pod(id);
    };
    let mut tasks: Vec<TaskId> = Vec::new();
    for name in instances {
        match pod.instances.get(name.as_str()) {
            Some(instance) => tasks.push(instance.task_id.clone()),
            None => {
                let message = format!("Instance '{name}' of pod '{id}' does not exist");
                return error(StatusCode::NOT_FOUND, &message);
            }
        }
    }
    let command = Command::KillTasks {
        tasks,
        pass_over: named == Named::All,
        scale: false,
        wipe,
        force: false,
    };
    match answer::command(&context.handle, command).await {
        Ok(Reply::Killed(killed)) => {
            let now = now_ms();
            let mut killed: Vec<Value> = killed
                .iter()
                .map(|instance| render::pod_instance(pod, instance, now))
                .collect();
            let body = match killed.pop() {
                Some(one) if named == Named::One => one,
                last => {
                    killed.extend(last);
                    killed.into()
                }
            };
            json_answer(StatusCode::OK, &body)
        }
        Ok(reply) => deployed(StatusCode::OK, &reply, None),
        Err(response) => *response,
    }
}

fn only(message: &str) -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_at_its_colons() {
        let id = |text: &str| text.parse::<AppId>().expect("valid");
        for (path, want) in [
            ("a/b", Below::Pod(id("/a/b"))),
            ("::status", Below::AllStatus),
            ("a/b::status", Below::Status(id("/a/b"))),
            ("a::versions", Below::Versions(id("/a"))),
            (
                "a::versions/2014-09-12T23:28:21.737Z",
                Below::Version(id("/a"), "2014-09-12T23:28:21.737Z".into()),
            ),
            ("a::instances", Below::Instances(id("/a"))),
            (
                "a::instances/a.instance-1",
                Below::Instance(id("/a"), "a.instance-1".into()),
            ),
        ] {
            assert_eq!(below(path).ok(), Some(want), "{path}");
        }
        for path in ["a::other", "A", "a:b", "::versions"] {
            assert!(below(path).is_err(), "{path}");
        }
    }
}
