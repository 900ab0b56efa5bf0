//! Answers: JSON with the status codes, messages and headers of Marathon.
//!
//! The one place that maps refusals to HTTP.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::{Problem, ProblemKind, Report, Unknown};
use crate::core::command::{Refusal, Reply};
use crate::driver::{Handle, Unavailable};
use crate::jobs::command::JobRefusal;

/// Warnings sent at most: headers have a bounded size.
const MAX_WARNINGS: usize = 20;

/// A JSON answer.
pub(crate) fn json_answer(status: StatusCode, body: &Value) -> Response {
    json_text(status, body.to_string())
}

/// The same of JSON that is text already.
pub(super) fn json_text(status: StatusCode, mut text: String) -> Response {
    text.push('\n');
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// `{"message": ...}`.
pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    json_answer(status, &json!({"message": message}))
}

/// Runs a command and leaves only a success to the caller.
pub(super) async fn command(
    handle: &Handle,
    command: crate::core::command::Command,
) -> Result<Reply, Box<Response>> {
    match handle.command(command).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(refusal)) => Err(Box::new(refused(&refusal))),
        Err(unavailable @ (Unavailable::Ending | Unavailable::Timeout)) => Err(Box::new(error(
            StatusCode::SERVICE_UNAVAILABLE,
            &unavailable.to_string(),
        ))),
    }
}

/// The answer to a command that was not done.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let message = refusal.to_string();
    match refusal {
        Refusal::Exists(_)
        | Refusal::PodExists(_)
        | Refusal::GroupExists(_)
        | Refusal::NoTrial(_) => error(StatusCode::CONFLICT, &message),
        Refusal::NoApp(_)
        | Refusal::NoPod(_)
        | Refusal::NoVersion(..)
        | Refusal::NoGroup(_)
        | Refusal::NoGroupVersion(..)
        | Refusal::NoDeployment(_)
        | Refusal::NoTask(_) => error(StatusCode::NOT_FOUND, &message),
        Refusal::Locked(deployments) => {
            let deployments: Vec<Value> = deployments
                .iter()
                .map(|id| json!({"id": id.to_string()}))
                .collect();
            json_answer(
                StatusCode::CONFLICT,
                &json!({"message": message, "deployments": deployments}),
            )
        }
        Refusal::Invalid(report) => with_warnings(invalid(report), &report.unknown),
        Refusal::Impossible { problem, .. } => json_answer(
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!({"message": message, "details": [{"path": "/", "errors": [problem]}]}),
        ),
        Refusal::TooManyDeployments(_) => error(StatusCode::FORBIDDEN, &message),
        Refusal::Job(refusal) => job_refused(refusal),
        Refusal::Deposed => error(StatusCode::SERVICE_UNAVAILABLE, &message),
        Refusal::NotWritten(_) => error(StatusCode::INSUFFICIENT_STORAGE, &message),
    }
}

fn job_refused(refusal: &JobRefusal) -> Response {
    let message = refusal.to_string();
    match refusal {
        JobRefusal::NoJob(_) | JobRefusal::NoRun(..) => error(StatusCode::NOT_FOUND, &message),
        JobRefusal::Exists(_) | JobRefusal::HasChildren { .. } | JobRefusal::Busy { .. } => {
            error(StatusCode::CONFLICT, &message)
        }
        JobRefusal::Invalid(report) => with_warnings(invalid(report), &report.unknown),
        JobRefusal::TooMany(..) => error(StatusCode::FORBIDDEN, &message),
    }
}

/// 400 if something has the wrong type, else 422; with every problem by its path.
fn invalid(report: &Report) -> Response {
    let wrong_type = report
        .errors
        .iter()
        .any(|problem| problem.kind == ProblemKind::Type);
    let (status, message) = if wrong_type {
        (StatusCode::BAD_REQUEST, "Invalid JSON")
    } else {
        (StatusCode::UNPROCESSABLE_ENTITY, "Object is not valid")
    };
    json_answer(
        status,
        &json!({"message": message, "details": details(&report.errors)}),
    )
}

fn details(problems: &[Problem]) -> Vec<Value> {
    let mut by_path: Vec<(&str, Vec<&str>)> = Vec::new();
    for problem in problems {
        match by_path.iter_mut().find(|(path, _)| *path == problem.path) {
            Some((_, errors)) => errors.push(&problem.message),
            None => by_path.push((&problem.path, vec![&problem.message])),
        }
    }
    by_path
        .into_iter()
        .map(|(path, errors)| json!({"path": path, "errors": errors}))
        .collect()
}

/// The body of a request, or 400 with what is wrong with it.
pub(super) fn body(bytes: &[u8]) -> Result<Value, Box<Response>> {
    serde_json::from_slice(bytes).map_err(|problem| {
        let body = json!({
            "message": "Invalid JSON",
            "details": [{"path": "/", "errors": [problem.to_string()]}],
        });
        Box::new(json_answer(StatusCode::BAD_REQUEST, &body))
    })
}

/// A deployment's answer: `{version, deploymentId}` or a body of the caller's, with the header either way.
pub(super) fn deployed(status: StatusCode, reply: &Reply, body: Option<Value>) -> Response {
    if let Reply::Planned {
        steps,
        pods,
        unknown,
    } = reply
    {
        let steps = steps.iter().map(|step| super::render::step(step, pods));
        let body = json!({"steps": steps.collect::<Vec<_>>()});
        return with_warnings(json_answer(StatusCode::OK, &body), unknown);
    }
    let Reply::Deployed {
        id,
        version,
        unknown,
    } = reply
    else {
        return json_answer(status, &body.unwrap_or_else(|| json!({})));
    };
    let body = body
        .unwrap_or_else(|| json!({"version": version.to_string(), "deploymentId": id.to_string()}));
    let mut response = with_warnings(json_answer(status, &body), unknown);
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response
            .headers_mut()
            .insert(HeaderName::from_static("marathon-deployment-id"), value);
    }
    response
}

/// Names fields that had no effect in `Warning` headers and in the log.
pub(super) fn with_warnings(mut response: Response, unknown: &[Unknown]) -> Response {
    for unknown in unknown.iter().take(MAX_WARNINGS) {
        let text = warning(unknown);
        tracing::warn!(warning = text, "something in a request has no effect");
        let text: String = text
            .chars()
            .map(|c| {
                if (' '..='~').contains(&c) && c != '"' && c != '\\' {
                    c
                } else {
                    '?'
                }
            })
            .take(200)
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 mezzo \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

fn warning(unknown: &Unknown) -> String {
    match &unknown.nearest {
        Some(nearest) => format!("unknown field: {}, did you mean {nearest}?", unknown.path),
        None => format!("unknown field: {}", unknown.path),
    }
}
