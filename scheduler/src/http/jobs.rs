//! Jobs over HTTP: `/v1/jobs` with all that mezzo has, and `/v1/scheduler/…` as Chronos had it.
//!
//! Edge, thin. The native routes stand beside Chronos' and not in them, because a client of Chronos expects exactly
//! its answers: 204 without a body, lists without a frame. Both take the same job bodies.

mod chronos;
mod render;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{self, Path, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::answer::{self, error, json_answer, with_warnings};
use super::filter::Params;
use super::{Context, jobs};
use crate::core::command::{Command, Reply};
use crate::core::state::State;
use crate::jobs::JobName;
use crate::jobs::command::{JobCommand, JobReply};
use crate::jobs::parse::Kind;
use crate::jobs::state::JobState;

type Pairs = Query<Vec<(String, String)>>;

/// All routes of jobs.
pub(super) fn router() -> Router<Context> {
    Router::new()
        .route("/v1/jobs", get(list).post(create))
        .route("/v1/jobs/{name}", get(show).put(put).delete(remove))
        .route("/v1/jobs/{name}/runs", get(runs))
        .route("/v1/jobs/{name}/run", post(run))
        .route("/v1/jobs/{name}/kill", post(kill))
        .route("/v1/jobs/{name}/enable", post(enable))
        .route("/v1/jobs/{name}/disable", post(disable))
        .merge(jobs::chronos::router())
}

/// The name in a path; one that cannot be a job's is not there.
fn name(text: &str) -> Result<JobName, Box<Response>> {
    text.parse().map_err(|problem| {
        Box::new(error(
            StatusCode::NOT_FOUND,
            &format!("not the name of a job: it {problem}"),
        ))
    })
}

/// Runs a command and leaves only a success to the caller.
async fn command(context: &Context, command: JobCommand) -> Result<JobReply, Box<Response>> {
    match answer::command(&context.handle, Command::Job(command)).await? {
        Reply::Job(reply) => Ok(reply),
        Reply::Deployed { .. } | Reply::Killed(_) | Reply::Planned { .. } | Reply::Done => {
            Ok(JobReply::Done)
        }
    }
}

/// Of the job, or 404.
fn found(
    context: &Context,
    text: &str,
    shown: impl FnOnce(&State, &JobState) -> Value,
) -> Response {
    let name = match name(text) {
        Ok(name) => name,
        Err(response) => return *response,
    };
    let state = context.handle.state();
    match state.jobs.get(&name) {
        Some(job) => json_answer(StatusCode::OK, &shown(&state, job)),
        None => error(
            StatusCode::NOT_FOUND,
            &format!("job '{name}' does not exist"),
        ),
    }
}

async fn list(extract::State(context): extract::State<Context>) -> Response {
    let state = context.handle.state();
    let jobs: Vec<Value> = state.jobs.values().map(|job| render::job(job)).collect();
    json_answer(StatusCode::OK, &json!({ "jobs": jobs }))
}

async fn show(
    extract::State(context): extract::State<Context>,
    Path(text): Path<String>,
) -> Response {
    found(&context, &text, |state, job| {
        let mut value = render::job(job);
        value["runs"] = render::runs(state, job, &context.about.role);
        value
    })
}

async fn runs(
    extract::State(context): extract::State<Context>,
    Path(text): Path<String>,
) -> Response {
    found(
        &context,
        &text,
        |state, job| json!({ "runs": render::runs(state, job, &context.about.role) }),
    )
}

async fn create(extract::State(context): extract::State<Context>, bytes: Bytes) -> Response {
    store(&context, None, &bytes, true).await
}

async fn put(
    extract::State(context): extract::State<Context>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Response {
    match name(&text) {
        Ok(name) => store(&context, Some(name), &bytes, false).await,
        Err(response) => *response,
    }
}

async fn store(
    context: &Context,
    name: Option<JobName>,
    bytes: &[u8],
    create_only: bool,
) -> Response {
    let body = match answer::body(bytes) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let put = JobCommand::Put {
        name,
        body,
        kind: Kind::Any,
        create_only,
    };
    match command(context, put).await {
        Ok(JobReply::Put {
            name,
            created,
            unknown,
        }) => {
            let state = context.handle.state();
            // Removed again by somebody else meanwhile: then its name is all there is to tell.
            let shown = state
                .jobs
                .get(&name)
                .map_or_else(|| json!({"name": name}), |job| render::job(job));
            let status = if created {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            let mut response = json_answer(status, &shown);
            if let Ok(location) = format!("/v1/jobs/{name}").parse() {
                response.headers_mut().insert(header::LOCATION, location);
            }
            with_warnings(response, &unknown)
        }
        Ok(JobReply::Run(_) | JobReply::Killed(_) | JobReply::Done) => no_content(),
        Err(response) => *response,
    }
}

async fn remove(
    extract::State(context): extract::State<Context>,
    Path(text): Path<String>,
) -> Response {
    on(&context, &text, JobCommand::Remove).await
}

/// `{"arguments": "…"}`, or nothing.
async fn run(
    extract::State(context): extract::State<Context>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Response {
    let body = match if bytes.is_empty() {
        Ok(json!({}))
    } else {
        answer::body(&bytes)
    } {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let arguments = body.get("arguments").filter(|value| !value.is_null());
    let arguments = match arguments.map(Value::as_str) {
        None => None,
        Some(Some(text)) => Some(text.to_owned()),
        Some(None) => {
            let problem = json!({"path": "/arguments", "errors": ["expected a string"]});
            let body = json!({"message": "Invalid JSON", "details": [problem]});
            return json_answer(StatusCode::BAD_REQUEST, &body);
        }
    };
    on(&context, &text, |name| JobCommand::Run { name, arguments }).await
}

async fn kill(
    extract::State(context): extract::State<Context>,
    Path(text): Path<String>,
    Query(pairs): Pairs,
) -> Response {
    let params = Params(pairs);
    let run = match params.get("run").map(str::parse) {
        None => None,
        Some(Ok(run)) => Some(run),
        Some(Err(_)) => {
            return error(StatusCode::BAD_REQUEST, "run: must be the number of a run");
        }
    };
    on(&context, &text, |name| JobCommand::Kill { name, run }).await
}

async fn enable(
    extract::State(context): extract::State<Context>,
    Path(text): Path<String>,
) -> Response {
    on(&context, &text, |name| JobCommand::Enable {
        name,
        enabled: true,
    })
    .await
}

async fn disable(
    extract::State(context): extract::State<Context>,
    Path(text): Path<String>,
) -> Response {
    on(&context, &text, |name| JobCommand::Enable {
        name,
        enabled: false,
    })
    .await
}

/// A command about one job, with an answer that says what came of it.
async fn on(context: &Context, text: &str, of: impl FnOnce(JobName) -> JobCommand) -> Response {
    let name = match name(text) {
        Ok(name) => name,
        Err(response) => return *response,
    };
    match command(context, of(name)).await {
        Ok(JobReply::Run(number)) => json_answer(StatusCode::CREATED, &json!({ "run": number })),
        Ok(JobReply::Killed(n)) => json_answer(StatusCode::OK, &json!({ "killed": n })),
        Ok(JobReply::Put { .. } | JobReply::Done) => no_content(),
        Err(response) => *response,
    }
}

fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
