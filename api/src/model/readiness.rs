//! Readiness: whether a task that runs can take its share of the work. Marathon's `readinessChecks`, asked by the agent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a readiness check asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadinessProtocol {
    /// Plain.
    Http,
    /// Over TLS; certificates are not verified.
    Https,
}

/// Asked from the start of a task until it passes, then never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessCheck {
    /// For people and for [`ReadinessStatus`].
    pub name: String,
    /// How.
    pub protocol: ReadinessProtocol,
    /// Begins with `/`.
    pub path: String,
    /// Within the task's own network; not 0.
    pub port: u16,
    /// Between two checks.
    pub interval: Duration,
    /// Of one check.
    pub timeout: Duration,
    /// The answers that mean ready, 100 to 599; never empty.
    pub ready_statuses: Vec<u16>,
    /// Tell the body of the last answer.
    pub preserve_last_response: bool,
}

/// The newest result of a readiness check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessStatus {
    /// Of the check.
    pub name: String,
    /// Once true, it stays so.
    pub ready: bool,
    /// `None`: there was no answer.
    pub last_response: Option<ReadinessResponse>,
    /// Why there was none; empty when there was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

/// What a task answered when asked whether it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessResponse {
    /// Of HTTP.
    pub status: u16,
    /// Empty unless the check keeps the last response.
    pub content_type: String,
    /// Likewise; cut to [`ReadinessResponse::MAX_BODY`] bytes.
    pub body: String,
}

impl ReadinessResponse {
    /// As much of a body as is told.
    pub const MAX_BODY: usize = 4096;
}
