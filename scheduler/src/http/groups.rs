//! `/v2/groups` and everything below it.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{self, deployed, error, json_answer};
use super::filter::{Embed, Params, unknown_of_groups};
use super::{Context, render};
use crate::core::command::{Command, Reply};
use crate::core::groups::{GroupChange, GroupCommand};
use crate::core::state::State as Snapshot;
use crate::driver::now_ms;
use crate::group::{GroupId, GroupVersion};
use crate::time::Timestamp;

type Pairs = Query<Vec<(String, String)>>;

/// What follows `/v2/groups/`.
enum Below {
    Group(GroupId),
    Versions(GroupId),
    Version(GroupId, String),
}

fn below(path: &str) -> Result<Below, Box<Response>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let id = |parts: &[&str]| {
        format!("/{}", parts.join("/"))
            .parse::<GroupId>()
            .map_err(|problem| {
                let message = format!("not the id of a group: {problem}");
                Box::new(error(StatusCode::NOT_FOUND, &message))
            })
    };
    match parts.as_slice() {
        [group @ .., "versions"] => Ok(Below::Versions(id(group)?)),
        [group @ .., "versions", version] => Ok(Below::Version(id(group)?, (*version).to_owned())),
        group => Ok(Below::Group(id(group)?)),
    }
}

/// Which parts of a group are shown. Without a word all of them are, as in Marathon.
#[derive(Debug, Clone, Copy)]
struct Parts {
    apps: bool,
    pods: bool,
    groups: bool,
    embed: Embed,
    /// Unix milliseconds.
    now: u64,
}

impl Parts {
    fn of(params: &Params) -> Self {
        let has = |names: &[&str]| {
            let mut given = params
                .all("embed")
                .map(|name| name.trim_start_matches("group."));
            given.any(|name| names.contains(&name))
        };
        let nothing_said = params.get("embed").is_none();
        let of_apps = params.all("embed").any(|name| {
            let name = name.trim_start_matches("group.");
            name.starts_with("apps.") || name.starts_with("app.")
        });
        Self {
            apps: nothing_said || has(&["apps"]) || of_apps,
            pods: nothing_said || has(&["pods"]),
            groups: nothing_said || has(&["groups"]),
            embed: Embed::of(params),
            now: now_ms(),
        }
    }
}

pub(super) async fn root(State(context): State<Context>, Query(pairs): Pairs) -> Response {
    let state = context.handle.state();
    shown(&state, &GroupId::root(), &Params(pairs))
}

pub(super) async fn get(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
) -> Response {
    let state = context.handle.state();
    match below(&path) {
        Ok(Below::Group(id)) if state.group_exists(&id) => shown(&state, &id, &Params(pairs)),
        Ok(Below::Versions(id)) if state.group_exists(&id) => {
            let record = state.groups.get(&id);
            let versions: Vec<String> = record
                .iter()
                .flat_map(|group| group.versions.keys().rev())
                .map(Timestamp::to_string)
                .collect();
            json_answer(StatusCode::OK, &json!(versions))
        }
        Ok(Below::Version(id, text)) => {
            let version = text.parse::<Timestamp>().ok();
            let found = version.and_then(|version| state.groups.get(&id)?.versions.get(&version));
            match found {
                Some(found) => json_answer(StatusCode::OK, &past(&id, found)),
                None => error(
                    StatusCode::NOT_FOUND,
                    &format!("Group '{id}' does not have the version {text}"),
                ),
            }
        }
        Ok(Below::Group(id) | Below::Versions(id)) => error(
            StatusCode::NOT_FOUND,
            &format!("Group '{id}' does not exist"),
        ),
        Err(response) => *response,
    }
}

fn shown(state: &Snapshot, id: &GroupId, params: &Params) -> Response {
    let group = group(state, id, Parts::of(params));
    let answer = json_answer(StatusCode::OK, &group);
    answer::with_warnings(answer, &unknown_of_groups(params))
}

/// A group as it is, with what lies in it.
fn group(state: &Snapshot, id: &GroupId, parts: Parts) -> Value {
    let record = state.groups.get(id).map(|group| &group.current);
    let latest = || {
        let apps = state.apps_within(id);
        apps.map(|(_, app)| app.current.version)
            .max()
            .unwrap_or_default()
    };
    let version = record.map_or_else(latest, |record| record.version);
    let mut out = json!({
        "id": id.as_str(),
        "dependencies": record.map(|record| &record.dependencies).cloned().unwrap_or_default(),
        "version": version.to_string(),
        "enforceRole": record.is_some_and(|record| record.enforce_role),
    });
    let direct = |are_pods: bool| {
        state
            .apps_within(id)
            .filter(|(app, _)| app.parent() == id.as_str())
            .map(|(_, app)| app)
            .filter(move |app| app.is_pod() == are_pods)
    };
    if parts.apps {
        let apps = direct(false).map(|app| render::app(state, app, parts.embed, parts.now));
        out["apps"] = apps.collect::<Vec<Value>>().into();
    }
    if parts.pods {
        let pods = direct(true).map(|pod| render::version(&pod.current));
        out["pods"] = pods.collect::<Vec<Value>>().into();
    }
    if parts.groups {
        let groups = state.groups_in(id);
        let groups: Vec<Value> = groups
            .iter()
            .map(|child| group(state, child, parts))
            .collect();
        out["groups"] = groups.into();
    }
    out
}

/// A group as it was: every app and pod of it in a list under the group that it lay in.
fn past(id: &GroupId, version: &GroupVersion) -> Value {
    let direct = |are_pods: bool| -> Vec<Value> {
        version
            .apps
            .iter()
            .filter(|app| app.id.parent() == id.as_str() && app.pod.is_some() == are_pods)
            .map(crate::app::App::to_json)
            .collect()
    };
    let of_apps = version.apps.iter().map(|app| GroupId::of(&app.id));
    let children: std::collections::BTreeSet<GroupId> = of_apps
        .chain(version.groups.keys().cloned())
        .filter(|group| group.is_within(id))
        .filter_map(|group| group.upwards().find(|up| up.parent().as_ref() == Some(id)))
        .collect();
    json!({
        "id": id.as_str(),
        "apps": direct(false),
        "pods": direct(true),
        "groups": children.iter().map(|child| past(child, version)).collect::<Vec<_>>(),
        "dependencies": version.groups.get(id).cloned().unwrap_or_default(),
        "version": version.version.to_string(),
    })
}

pub(super) async fn create(
    State(context): State<Context>,
    Query(pairs): Pairs,
    bytes: Bytes,
) -> Response {
    change(&context, None, Params(pairs), &bytes, GroupChange::Create).await
}

pub(super) async fn create_at(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
    bytes: Bytes,
) -> Response {
    match below(&path) {
        Ok(Below::Group(id)) => {
            change(
                &context,
                Some(id),
                Params(pairs),
                &bytes,
                GroupChange::Create,
            )
            .await
        }
        Ok(Below::Versions(_) | Below::Version(..)) => only_groups(),
        Err(response) => *response,
    }
}

pub(super) async fn put_root(
    State(context): State<Context>,
    Query(pairs): Pairs,
    bytes: Bytes,
) -> Response {
    // The body may name a group below; without a word it is the root.
    let named = serde_json::from_slice::<Value>(&bytes).is_ok_and(|body| body.get("id").is_some());
    let id = (!named).then(GroupId::root);
    change(&context, id, Params(pairs), &bytes, GroupChange::Update).await
}

pub(super) async fn put(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
    bytes: Bytes,
) -> Response {
    match below(&path) {
        Ok(Below::Group(id)) => {
            change(
                &context,
                Some(id),
                Params(pairs),
                &bytes,
                GroupChange::Update,
            )
            .await
        }
        Ok(Below::Versions(_) | Below::Version(..)) => only_groups(),
        Err(response) => *response,
    }
}

pub(super) async fn patch_root(State(context): State<Context>, bytes: Bytes) -> Response {
    enforce_role(&context, GroupId::root(), &bytes).await
}

pub(super) async fn patch(
    State(context): State<Context>,
    Path(path): Path<String>,
    bytes: Bytes,
) -> Response {
    match below(&path) {
        Ok(Below::Group(id)) => enforce_role(&context, id, &bytes).await,
        Ok(Below::Versions(_) | Below::Version(..)) => only_groups(),
        Err(response) => *response,
    }
}

/// All that Marathon lets a PATCH change is `enforceRole`.
async fn enforce_role(context: &Context, id: GroupId, bytes: &Bytes) -> Response {
    let body = match answer::body(bytes) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let Some(enforce) = body.get("enforceRole").and_then(Value::as_bool) else {
        let problem = json!([{"path": "/enforceRole", "errors": ["expected true or false"]}]);
        let answer = json!({"message": "Invalid JSON", "details": problem});
        return json_answer(StatusCode::BAD_REQUEST, &answer);
    };
    let command = GroupCommand {
        id: Some(id),
        change: GroupChange::EnforceRole(enforce),
        force: false,
        dry_run: false,
    };
    match answer::command(&context.handle, Command::Group(command)).await {
        Ok(_) => json_answer(StatusCode::OK, &json!({})),
        Err(response) => *response,
    }
}

pub(super) async fn delete_root(State(context): State<Context>, Query(pairs): Pairs) -> Response {
    remove(&context, GroupId::root(), Params(pairs)).await
}

pub(super) async fn delete(
    State(context): State<Context>,
    Path(path): Path<String>,
    Query(pairs): Pairs,
) -> Response {
    match below(&path) {
        Ok(Below::Group(id)) => remove(&context, id, Params(pairs)).await,
        Ok(Below::Versions(_) | Below::Version(..)) => only_groups(),
        Err(response) => *response,
    }
}

fn only_groups() -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        "only a group itself can be changed",
    )
}

async fn change(
    context: &Context,
    id: Option<GroupId>,
    params: Params,
    bytes: &Bytes,
    change: impl FnOnce(Value) -> GroupChange,
) -> Response {
    let body = match answer::body(bytes) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let about = id
        .clone()
        .or_else(|| body.get("id")?.as_str()?.parse().ok());
    let change = change(body);
    let created = matches!(change, GroupChange::Create(_));
    let command = GroupCommand {
        id,
        change,
        force: params.flag("force", false),
        dry_run: params.flag("dryRun", false),
    };
    match answer::command(&context.handle, Command::Group(command)).await {
        Ok(reply) if created && matches!(reply, Reply::Deployed { .. }) => {
            let mut response = deployed(StatusCode::CREATED, &reply, None);
            if let Some(id) = about
                && let Ok(location) = format!("/v2/groups{id}").parse()
            {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        Ok(reply) => deployed(StatusCode::OK, &reply, None),
        Err(response) => *response,
    }
}

async fn remove(context: &Context, id: GroupId, params: Params) -> Response {
    let command = GroupCommand {
        id: Some(id),
        change: GroupChange::Delete,
        force: params.flag("force", false),
        dry_run: params.flag("dryRun", false),
    };
    match answer::command(&context.handle, Command::Group(command)).await {
        Ok(reply) => deployed(StatusCode::OK, &reply, None),
        Err(response) => *response,
    }
}
