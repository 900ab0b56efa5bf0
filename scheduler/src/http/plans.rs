//! `/v2/deployments`: what is under way.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::answer::{self, deployed, error, json_answer};
use super::filter::Params;
use super::{Context, render};
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

pub(super) async fn promote(State(context): State<Context>, Path(id): Path<String>) -> Response {
    let id = match parse(&id) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    match answer::command(&context.handle, Command::Promote { id }).await {
        Ok(_) => StatusCode::ACCEPTED.into_response(),
        Err(response) => *response,
    }
}
