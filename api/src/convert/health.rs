//! Health checks, and what they say.

use std::time::Duration;

use super::{Invalid, Problems, common::millis, container::check_args};
use crate::{
    model::{CheckKind, HealthCheck},
    proto,
};

impl TryFrom<proto::HealthCheck> for HealthCheck {
    type Error = Invalid;

    fn try_from(check: proto::HealthCheck) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let kind = match check.kind() {
            proto::CheckKind::Unspecified => {
                problems.take("kind", Err(Invalid::new("", "is missing")))
            }
            proto::CheckKind::Http => Some(CheckKind::Http),
            proto::CheckKind::Https => Some(CheckKind::Https),
            proto::CheckKind::Tcp => Some(CheckKind::Tcp),
            proto::CheckKind::Command => Some(CheckKind::Command),
            proto::CheckKind::Grpc => Some(CheckKind::Grpc),
        };
        if kind == Some(CheckKind::Command) {
            if check.command.is_empty() {
                problems.note("command", "is empty");
            }
        } else if check.port == 0 {
            problems.note("port", "is missing");
        }
        if matches!(kind, Some(CheckKind::Http | CheckKind::Https)) && !check.path.starts_with('/')
        {
            problems.note("path", format!("{:?} must begin with `/`", check.path));
        }
        if check.path.chars().any(|c| c.is_control() || c == ' ') {
            problems.note(
                "path",
                "holds a space or a control character; encode it as %20",
            );
        }
        problems.bound("path", &check.path, 4096);
        check_args(&mut problems, "command", &check.command);
        if check.interval_ms == 0 {
            problems.note("interval_ms", "must be larger than zero");
        }
        if check.timeout_ms == 0 {
            problems.note("timeout_ms", "must be larger than zero");
        }
        let port = problems.take(
            "port",
            u16::try_from(check.port)
                .map_err(|_| Invalid::new("", format!("{} is beyond 65535", check.port))),
        );
        problems.finish(kind.zip(port).map(|(kind, port)| Self {
            kind,
            path: check.path,
            port,
            command: check.command,
            grace_period: Duration::from_millis(check.grace_period_ms),
            interval: Duration::from_millis(check.interval_ms),
            timeout: Duration::from_millis(check.timeout_ms),
            max_consecutive_failures: check.max_consecutive_failures,
            delay: Duration::from_millis(check.delay_ms),
            ipv6: check.ipv6,
        }))
    }
}

impl From<HealthCheck> for proto::HealthCheck {
    fn from(check: HealthCheck) -> Self {
        Self {
            kind: match check.kind {
                CheckKind::Http => proto::CheckKind::Http,
                CheckKind::Https => proto::CheckKind::Https,
                CheckKind::Tcp => proto::CheckKind::Tcp,
                CheckKind::Command => proto::CheckKind::Command,
                CheckKind::Grpc => proto::CheckKind::Grpc,
            }
            .into(),
            path: check.path,
            port: check.port.into(),
            command: check.command,
            grace_period_ms: millis(check.grace_period),
            interval_ms: millis(check.interval),
            timeout_ms: millis(check.timeout),
            max_consecutive_failures: check.max_consecutive_failures,
            delay_ms: millis(check.delay),
            ipv6: check.ipv6,
        }
    }
}

/// What each check says.
pub(super) fn results(words: &[Option<bool>]) -> Vec<proto::HealthResult> {
    words
        .iter()
        .map(|word| proto::HealthResult { healthy: *word })
        .collect()
}
