//! Health checks: whether a task works, asked by its agent as long as it runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How health is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// Status 200..=399 is healthy.
    Http,
    /// The same over TLS; certificates are not verified.
    Https,
    /// A connection is healthy.
    Tcp,
    /// Exit code 0 in the container is healthy.
    Command,
    /// `SERVING` in the standard gRPC health protocol is healthy.
    Grpc,
}

/// Run by the agent beside the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// How.
    pub kind: CheckKind,
    /// HTTP and HTTPS; begins with `/`. gRPC: the service, empty for the whole server.
    pub path: String,
    /// All but commands; within the task's own network.
    pub port: u16,
    /// Command.
    pub command: Vec<String>,
    /// After the start, failures before the first success do not count.
    pub grace_period: Duration,
    /// Between checks.
    pub interval: Duration,
    /// Of one check.
    pub timeout: Duration,
    /// Then the task is killed; 0: never.
    pub max_consecutive_failures: u32,
    /// Before the first check.
    pub delay: Duration,
    /// Connect to `::1` instead of `127.0.0.1`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6: bool,
}
