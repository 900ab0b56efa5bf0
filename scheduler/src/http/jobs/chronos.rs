//! `/v1/scheduler/…`: the routes of Chronos 3.
//!
//! Edge, thin. Changes answer 204 without a body.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde_json::{Value, json};

use super::super::answer::{self, error, json_answer, with_warnings};
use super::super::filter::Params;
use super::{Context, Pairs, command, found, name, no_content, render};
use crate::jobs::JobName;
use crate::jobs::command::{JobCommand, JobReply};
use crate::jobs::graph;
use crate::jobs::parse::Kind;
use crate::jobs::state::{JobState, Outcome, Phase};

pub(super) fn router() -> Router<Context> {
    let at = |path: &str| format!("/v1/scheduler/{path}");
    Router::new()
        .route(&at("jobs"), get(list))
        .route(&at("jobs/summary"), get(summary))
        .route(&at("jobs/search"), get(search))
        .route(&at("iso8601"), post(iso8601).put(iso8601))
        .route(&at("dependency"), post(dependency).put(dependency))
        .route(&at("job/{name}"), get(show).put(run).delete(remove))
        .route(&at("job/success/{name}"), put(succeed))
        .route(&at("job/stat/{name}"), get(stat))
        .route(&at("job/{name}/task/{task}/progress"), post(progress))
        .route(&at("stats/{percentile}"), get(stats))
        .route(&at("task/kill/{name}"), delete(kill))
        .route(&at("graph/dot"), get(dot))
        .route(&at("graph/csv"), get(csv))
        .route(&at("leader"), get(leader))
}

async fn list(State(context): State<Context>) -> Response {
    let state = context.handle.state();
    let jobs: Vec<Value> = state
        .jobs
        .values()
        .map(|job| render::chronos_job(job))
        .collect();
    json_answer(StatusCode::OK, &json!(jobs))
}

async fn show(State(context): State<Context>, Path(text): Path<String>) -> Response {
    found(&context, &text, |_, job| render::chronos_job(job))
}

async fn summary(State(context): State<Context>) -> Response {
    let state = context.handle.state();
    let jobs: Vec<Value> = state
        .jobs
        .values()
        .map(|state| {
            let job = &state.job;
            json!({
                "name": job.name,
                "status": graph::status(state),
                "state": graph::activity(state),
                "schedule": job.to_json().get("schedule").cloned().unwrap_or_else(|| json!("")),
                "parents": job.parents().cloned().unwrap_or_default(),
                "disabled": job.disabled,
            })
        })
        .collect();
    json_answer(StatusCode::OK, &json!({ "jobs": jobs }))
}

/// By parts of the name, the command, or either, whatever their case.
async fn search(State(context): State<Context>, Query(pairs): Pairs) -> Response {
    let params = Params(pairs);
    let number = |field: &str, default: usize| params.get(field).map_or(Ok(default), str::parse);
    let (Ok(limit), Ok(offset)) = (number("limit", usize::MAX), number("offset", 0)) else {
        return error(
            StatusCode::BAD_REQUEST,
            "limit and offset: must be whole numbers",
        );
    };
    let has = |field: &str, texts: &[&str]| {
        let wanted = params.get(field).unwrap_or_default().to_lowercase();
        texts
            .iter()
            .any(|text| text.to_lowercase().contains(&wanted))
    };
    let state = context.handle.state();
    let found: Vec<Value> = state
        .jobs
        .values()
        .filter(|state| {
            let (name, command) = (state.job.name.as_str(), state.job.command.as_str());
            has("name", &[name]) && has("command", &[command]) && has("any", &[name, command])
        })
        .skip(offset)
        .take(limit)
        .map(|state| render::chronos_job(state))
        .collect();
    json_answer(StatusCode::OK, &json!(found))
}

async fn iso8601(context: State<Context>, bytes: Bytes) -> Response {
    store(context, bytes, Kind::Times).await
}

async fn dependency(context: State<Context>, bytes: Bytes) -> Response {
    store(context, bytes, Kind::Parents).await
}

async fn store(State(context): State<Context>, bytes: Bytes, kind: Kind) -> Response {
    let body = match answer::body(&bytes) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let put = JobCommand::Put {
        name: None,
        body,
        kind,
        create_only: false,
    };
    match command(&context, put).await {
        Ok(JobReply::Put { unknown, .. }) => with_warnings(no_content(), &unknown),
        Ok(JobReply::Run(_) | JobReply::Killed(_) | JobReply::Done) => no_content(),
        Err(response) => *response,
    }
}

/// Run now: `?arguments=` is added to the command.
async fn run(context: State<Context>, path: Path<String>, Query(pairs): Pairs) -> Response {
    let arguments = Params(pairs).get("arguments").map(str::to_owned);
    change(context, path, |name| JobCommand::Run { name, arguments }).await
}

async fn remove(context: State<Context>, path: Path<String>) -> Response {
    change(context, path, JobCommand::Remove).await
}

async fn succeed(context: State<Context>, path: Path<String>) -> Response {
    change(context, path, JobCommand::Succeed).await
}

async fn kill(context: State<Context>, path: Path<String>) -> Response {
    change(context, path, |name| JobCommand::Kill { name, run: None }).await
}

async fn change(
    State(context): State<Context>,
    Path(text): Path<String>,
    of: impl FnOnce(JobName) -> JobCommand,
) -> Response {
    let name = match name(&text) {
        Ok(name) => name,
        Err(response) => return *response,
    };
    match command(&context, of(name)).await {
        Ok(_) => no_content(),
        Err(response) => *response,
    }
}

/// For tasks whose end their executor did not tell; here an end is always told.
async fn progress(Path((text, _)): Path<(String, String)>) -> Response {
    error(
        StatusCode::NOT_IMPLEMENTED,
        &format!(
            "progress of {text}: mezzo has no asynchronous jobs, a run ends when its task does"
        ),
    )
}

/// How long its known runs took, in seconds.
async fn stat(State(context): State<Context>, Path(text): Path<String>) -> Response {
    found(&context, &text, |_, state| {
        let times = durations(state);
        let mean = if times.is_empty() {
            0.0
        } else {
            times.iter().sum::<f64>() / times.len() as f64
        };
        json!({
            "count": times.len(),
            "mean": mean,
            "median": percentile(&times, 50.0),
            "75thPercentile": percentile(&times, 75.0),
            "95thPercentile": percentile(&times, 95.0),
            "98thPercentile": percentile(&times, 98.0),
            "99thPercentile": percentile(&times, 99.0),
        })
    })
}

/// One percentile of all jobs, such as `mean`, `median` or `95thPercentile`.
async fn stats(State(context): State<Context>, Path(text): Path<String>) -> Response {
    let rank = match text.as_str() {
        "median" => Some(50.0),
        other => other
            .strip_suffix("thPercentile")
            .and_then(|n| n.parse::<f64>().ok()),
    };
    let Some(rank) = rank.filter(|rank| (0.0..=100.0).contains(rank)) else {
        return error(
            StatusCode::BAD_REQUEST,
            &format!(
                "{text:?} is not one of median, 75thPercentile, 95thPercentile, 98thPercentile, 99thPercentile"
            ),
        );
    };
    let state = context.handle.state();
    let all: Vec<Value> = state
        .jobs
        .iter()
        .map(|(name, state)| json!({"jobNameLabel": name, "time": percentile(&durations(state), rank)}))
        .collect();
    json_answer(StatusCode::OK, &json!(all))
}

/// Seconds of the successful runs, sorted.
fn durations(state: &JobState) -> Vec<f64> {
    let succeeded = |phase: &Phase| {
        matches!(
            phase,
            Phase::Over {
                outcome: Outcome::Succeeded,
                ..
            }
        )
    };
    let runs = state.runs.values().filter(|run| succeeded(&run.phase));
    let mut times: Vec<f64> = runs
        .filter_map(|run| run.attempts.last())
        .map(|last| {
            last.ended_at
                .saturating_sub(last.started_at.unwrap_or(last.launched_at)) as f64
                / 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

fn percentile(sorted: &[f64], rank: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (rank / 100.0 * last as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

async fn dot(State(context): State<Context>) -> Response {
    let text = graph::dot(&context.handle.state().jobs);
    ([(header::CONTENT_TYPE, "text/vnd.graphviz")], text).into_response()
}

async fn csv(State(context): State<Context>) -> Response {
    let text = graph::csv(&context.handle.state().jobs);
    ([(header::CONTENT_TYPE, "text/plain")], text).into_response()
}

async fn leader(State(context): State<Context>) -> Response {
    json_answer(StatusCode::OK, &json!({"leader": context.about.address}))
}
