//! `/v2/apps` and everything below it.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{self, deployed, error, json_answer};
use super::filter::{Embed, Params, is_wanted, unknown_of_apps};
use super::{Context, render, tasks};
use crate::app::AppId;
use crate::core::command::{Command, Reply, Update, Wipe};
use crate::driver::now_ms;
use crate::time::Timestamp;

type Pairs = Query<Vec<(String, String)>>;

/// What follows `/v2/apps/`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Below {
    App(AppId),
    /// `…/*`: every app of a group.
    Tree(String),
    Tasks(AppId),
    Task(AppId, String),
    Restart(AppId),
    Versions(AppId),
    Version(AppId, String),
}

/// Splits a path (decoded) at its suffix.
fn below(path: &str) -> Result<Below, Box<Response>> {
    let path = path.trim_matches('/');
    let id = |text: &str| {
        text.parse::<AppId>().map_err(|problem| {
            Box::new(error(
                StatusCode::NOT_FOUND,
                &format!("not the id of an app: {problem}"),
            ))
        })
    };
    let parts: Vec<&str> = path.split('/').collect();
    let up_to = |n: usize| parts[..parts.len() - n].join("/");
    match parts.as_slice() {
        ["*"] => Ok(Below::Tree("/".to_owned())),
        [.., "*"] => Ok(Below::Tree(id(&up_to(1))?.to_string())),
        [_, .., "tasks"] => Ok(Below::Tasks(id(&up_to(1))?)),
        [_, .., "tasks", task] => Ok(Below::Task(id(&up_to(2))?, (*task).to_owned())),
        [_, .., "restart"] => Ok(Below::Restart(id(&up_to(1))?)),
        [_, .., "versions"] => Ok(Below::Versions(id(&up_to(1))?)),
        [_, .., "versions", version] => Ok(Below::Version(id(&up_to(2))?, (*version).to_owned())),
        _ => Ok(Below::App(id(path)?)),
    }
}

fn no_app(id: &AppId) -> Response {
    error(StatusCode::NOT_FOUND, &format!("App '{id}' does not exist"))
}

pub(super) async fn list(State(context): State<Context>, Query(pairs): Pairs) -> Response {
    let params = Params(pairs);
    let state = context.handle.state();
    let (embed, now) = (Embed::of(&params), now_ms());
    let mut text = "{\"apps\":[".to_owned();
    let wanted = state
        .visible_apps()
        .filter(|(_, app)| !app.is_pod() && is_wanted(&params, app));
    for (i, (_, app)) in wanted.enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(&render::app_text(&state, app, embed, now));
    }
    text.push_str("]}");
    let unknown = unknown_of_apps(&params);
    answer::with_warnings(answer::json_text(StatusCode::OK, text), &unknown)
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
    let reply = match answer::command(&context.handle, Command::Create { body, force }).await {
        Ok(reply) => reply,
        Err(response) => return *response,
    };
    let state = context.handle.state();
    let shown = id
        .as_ref()
        .and_then(|id| state.apps.get(id))
        .map(|app| render::app(&state, app, Embed::ALL, now_ms()));
    let mut response = deployed(StatusCode::CREATED, &reply, shown);
    if let Some(id) = id
        && let Ok(location) = format!("/v2/apps{id}").parse()
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

pub(super) async fn put_all(context: State<Context>, pairs: Pairs, bytes: Bytes) -> Response {
    update_all(context, pairs, bytes, true).await
}

pub(super) async fn patch_all(context: State<Context>, pairs: Pairs, bytes: Bytes) -> Response {
    update_all(context, pairs, bytes, false).await
}

async fn update_all(
    State(context): State<Context>,
    Query(pairs): Pairs,
    bytes: Bytes,
    create: bool,
) -> Response {
    let params = Params(pairs);
    let body = match answer::body(&bytes) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let Value::Array(items) = body else {
        return json_answer(
            StatusCode::BAD_REQUEST,
            &json!({"message": "Invalid JSON", "details": [{"path": "/", "errors": ["expected a list of apps"]}]}),
        );
    };
    let command = Command::Update {
        updates: items
            .into_iter()
            .map(|body| Update { app: None, body })
            .collect(),
        partial: params.flag("partialUpdate", true),
        create,
        force: params.flag("force", false),
        dry_run: params.flag("dryRun", false),
    };
    match answer::command(&context.handle, command).await {
        Ok(reply) => deployed(StatusCode::OK, &reply, None),
        Err(response) => *response,
    }
}

pub(super) async fn put(
    context: State<Context>,
    path: Path<String>,
    pairs: Pairs,
    bytes: Bytes,
) -> Response {
    update(context, path, pairs, bytes, true).await
}

pub(super) async fn patch(
    context: State<Context>,
    path: Path<String>,
    pairs: Pairs,
    bytes: Bytes,
) -> Response {
    update(context, path, pairs, bytes, false).await
}

async fn update(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
    bytes: Bytes,
    create: bool,
) -> Response {
    let params = Params(pairs);
    let id = match below(&path) {
        Ok(Below::App(id)) => id,
        Ok(_) => {
            return error(
                StatusCode::METHOD_NOT_ALLOWED,
                "only an app itself can be changed",
            );
        }
        Err(response) => return *response,
    };
    let body = match answer::body(&bytes) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let is_new = context.handle.state().app(&id).is_none();
    let command = Command::Update {
        updates: vec![Update {
            app: Some(id),
            body,
        }],
        partial: params.flag("partialUpdate", true),
        create,
        force: params.flag("force", false),
        dry_run: params.flag("dryRun", false),
    };
    let status = if is_new && !params.flag("dryRun", false) {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    match answer::command(&context.handle, command).await {
        Ok(reply) => deployed(status, &reply, None),
        Err(response) => *response,
    }
}

pub(super) async fn get_below(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
    headers: HeaderMap,
) -> Response {
    let below = match below(&path) {
        Ok(below) => below,
        Err(response) => return *response,
    };
    let params = Params(pairs);
    let state = context.handle.state();
    match below {
        Below::App(id) => match state.app(&id) {
            Some(app) => {
                let shown = render::app(&state, app, Embed::of_one(&params), now_ms());
                let answer = json_answer(StatusCode::OK, &json!({ "app": shown }));
                answer::with_warnings(answer, &unknown_of_apps(&params))
            }
            None => no_app(&id),
        },
        Below::Tree(prefix) => {
            let (embed, now) = (Embed::of(&params), now_ms());
            let apps: Vec<Value> = state
                .visible_apps()
                .filter(|(id, app)| !app.is_pod() && id.is_within(&prefix))
                .map(|(_, app)| render::app(&state, app, embed, now))
                .collect();
            let answer = json_answer(StatusCode::OK, &json!({ "*": apps }));
            answer::with_warnings(answer, &unknown_of_apps(&params))
        }
        Below::Tasks(id) => match state.app(&id) {
            Some(app) => tasks::of_app(app, &headers),
            None => no_app(&id),
        },
        Below::Task(id, task) => {
            let Some(app) = state.app(&id) else {
                return no_app(&id);
            };
            match app.instances.get(task.as_str()) {
                Some(instance) => json_answer(StatusCode::OK, &render::task(app, instance)),
                None => error(
                    StatusCode::NOT_FOUND,
                    &format!("Task '{task}' does not exist"),
                ),
            }
        }
        Below::Versions(id) => match state.app(&id) {
            Some(app) => {
                let versions: Vec<String> = app
                    .versions
                    .keys()
                    .rev()
                    .map(Timestamp::to_string)
                    .collect();
                json_answer(StatusCode::OK, &json!({ "versions": versions }))
            }
            None => no_app(&id),
        },
        Below::Version(id, version) => {
            let Some(app) = state.app(&id) else {
                return no_app(&id);
            };
            let found = version
                .parse::<Timestamp>()
                .ok()
                .and_then(|version| app.versions.get(&version));
            match found {
                Some(found) => json_answer(StatusCode::OK, &render::version(found)),
                None => error(
                    StatusCode::NOT_FOUND,
                    &format!("App '{id}' does not have the version {version}"),
                ),
            }
        }
        Below::Restart(_) => error(StatusCode::METHOD_NOT_ALLOWED, "POST restarts an app"),
    }
}

pub(super) async fn post_below(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
) -> Response {
    let app = match below(&path) {
        Ok(Below::Restart(id)) => id,
        Ok(_) => {
            return error(
                StatusCode::METHOD_NOT_ALLOWED,
                "POST is for /v2/apps and …/restart",
            );
        }
        Err(response) => return *response,
    };
    if context.handle.state().pod(&app).is_some() {
        return no_app(&app);
    }
    let force = Params(pairs).flag("force", false);
    match answer::command(&context.handle, Command::Restart { app, force }).await {
        Ok(reply) => deployed(StatusCode::OK, &reply, None),
        Err(response) => *response,
    }
}

pub(super) async fn delete_below(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
) -> Response {
    let below = match below(&path) {
        Ok(below) => below,
        Err(response) => return *response,
    };
    let params = Params(pairs);
    match below {
        Below::App(id) if context.handle.state().pod(&id).is_some() => no_app(&id),
        Below::App(app) => {
            let force = params.flag("force", true);
            match answer::command(&context.handle, Command::Delete { app, force }).await {
                Ok(reply) => deployed(StatusCode::OK, &reply, None),
                Err(response) => *response,
            }
        }
        Below::Tasks(id) => {
            let state = context.handle.state();
            let Some(app) = state.app(&id) else {
                return no_app(&id);
            };
            let host = params.get("host");
            let ids = app
                .instances
                .values()
                .filter(|instance| host.is_none_or(|host| host == "*" || host == instance.hostname))
                .map(|instance| instance.task_id.clone())
                .collect();
            let wipe = match (params.flag("wipe", false), host) {
                (false, _) => Wipe::Nothing,
                (true, None | Some("*")) => Wipe::AllOf(id),
                (true, Some(_)) => Wipe::Theirs,
            };
            kill(&context, &params, ids, wipe, false).await
        }
        Below::Task(id, task) => {
            let state = context.handle.state();
            let Some(app) = state.app(&id) else {
                return no_app(&id);
            };
            match app.instances.get(task.as_str()) {
                Some(instance) => {
                    let wipe = wipe_theirs(&params);
                    kill(
                        &context,
                        &params,
                        vec![instance.task_id.clone()],
                        wipe,
                        true,
                    )
                    .await
                }
                None => error(
                    StatusCode::NOT_FOUND,
                    &format!("Task '{task}' does not exist"),
                ),
            }
        }
        Below::Tree(_) | Below::Restart(_) | Below::Versions(_) | Below::Version(..) => error(
            StatusCode::METHOD_NOT_ALLOWED,
            "DELETE is for apps and their tasks",
        ),
    }
}

/// `wipe`: with the volumes of those tasks.
pub(super) fn wipe_theirs(params: &Params) -> Wipe {
    match params.flag("wipe", false) {
        true => Wipe::Theirs,
        false => Wipe::Nothing,
    }
}

async fn kill(
    context: &Context,
    params: &Params,
    ids: Vec<mezzo_api::model::TaskId>,
    wipe: Wipe,
    single: bool,
) -> Response {
    let command = Command::KillTasks {
        tasks: ids,
        pass_over: !single,
        scale: params.flag("scale", false),
        wipe,
        force: params.flag("force", false),
    };
    match answer::command(&context.handle, command).await {
        Ok(Reply::Killed(killed)) => {
            let state = context.handle.state();
            let mut rendered: Vec<Value> = killed
                .iter()
                .filter_map(|instance| Some(render::task(state.apps.get(&instance.app)?, instance)))
                .collect();
            if single {
                let task = rendered.pop().unwrap_or(Value::Null);
                json_answer(StatusCode::OK, &json!({ "task": task }))
            } else {
                json_answer(StatusCode::OK, &json!({ "tasks": rendered }))
            }
        }
        Ok(reply) => deployed(StatusCode::OK, &reply, None),
        Err(response) => *response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(text: &str) -> AppId {
        text.parse().expect("valid")
    }

    #[test]
    fn a_path_is_split_at_its_suffix() {
        for (path, want) in [
            ("sleep", Below::App(app("/sleep"))),
            ("a/b/c", Below::App(app("/a/b/c"))),
            ("/a/b/", Below::App(app("/a/b"))),
            ("tasks", Below::App(app("/tasks"))),
            ("a/tasks", Below::Tasks(app("/a"))),
            ("a/b/tasks/t-1", Below::Task(app("/a/b"), "t-1".into())),
            ("a/restart", Below::Restart(app("/a"))),
            ("a/versions", Below::Versions(app("/a"))),
            (
                "a/versions/2014-09-12T23:28:21.737Z",
                Below::Version(app("/a"), "2014-09-12T23:28:21.737Z".into()),
            ),
            ("*", Below::Tree("/".into())),
            ("shop/*", Below::Tree("/shop".into())),
        ] {
            assert_eq!(below(path).ok(), Some(want), "{path}");
        }
        for path in ["a//b", "..", "A", "a b", "a/../.."] {
            assert!(below(path).is_err(), "{path}");
        }
    }
}
