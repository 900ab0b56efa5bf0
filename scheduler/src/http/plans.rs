//! `/v2/deployments` and `/v2/queue`: what is under way and what waits.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{self, deployed, error, json_answer};
use super::filter::Params;
use super::{Context, render};
use crate::app::AppId;
use crate::core::command::Command;
use crate::deployment::DeploymentId;
use crate::driver::now_ms;

pub(super) async fn deployments(State(context): State<Context>) -> Response {
    let state = context.handle.state();
    let now = now_ms();
    let all: Vec<Value> = state
        .deployments
        .values()
        .map(|deployment| render::deployment(&state, deployment, now))
        .collect();
    json_answer(StatusCode::OK, &Value::Array(all))
}

fn parse(id: &str) -> Result<DeploymentId, Box<Response>> {
    id.parse().map(DeploymentId).map_err(|_| {
        Box::new(error(
            StatusCode::NOT_FOUND,
            &format!("DeploymentPlan {id} does not exist"),
        ))
    })
}

pub(super) async fn deployment(State(context): State<Context>, Path(id): Path<String>) -> Response {
    let id = match parse(&id) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    let state = context.handle.state();
    match state.deployments.get(&id) {
        Some(deployment) => json_answer(
            StatusCode::OK,
            &render::deployment(&state, deployment, now_ms()),
        ),
        None => error(
            StatusCode::NOT_FOUND,
            &format!("DeploymentPlan {id} does not exist"),
        ),
    }
}

pub(super) async fn cancel(
    State(context): State<Context>,
    Path(id): Path<String>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let id = match parse(&id) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    let force = Params(pairs).flag("force", false);
    match answer::command(&context.handle, Command::CancelDeployment { id, force }).await {
        Ok(_) if force => StatusCode::ACCEPTED.into_response(),
        Ok(reply) => deployed(StatusCode::OK, &reply, None),
        Err(response) => *response,
    }
}

pub(super) async fn queue(
    State(context): State<Context>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let params = Params(pairs);
    let with_offers = params.all("embed").any(|embed| embed == "lastUnusedOffers");
    let state = context.handle.state();
    let now = now_ms();
    let queue: Vec<Value> = state
        .apps
        .values()
        .filter_map(|app| render::queue_entry(&state, app, with_offers, now))
        .collect();
    json_answer(StatusCode::OK, &json!({ "queue": queue }))
}

pub(super) async fn reset_delay(
    State(context): State<Context>,
    Path(path): Path<String>,
) -> Response {
    let path = path.trim_matches('/');
    let Some(id) = path.strip_suffix("/delay") else {
        return error(StatusCode::NOT_FOUND, "DELETE is for /v2/queue/{app}/delay");
    };
    let app = match id.parse::<AppId>() {
        Ok(app) => app,
        Err(problem) => {
            return error(
                StatusCode::NOT_FOUND,
                &format!("not the id of an app: {problem}"),
            );
        }
    };
    match answer::command(&context.handle, Command::ResetDelay { app }).await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(response) => *response,
    }
}
