//! Readiness checks and their results.

use std::time::Duration;

use super::{Invalid, Problems, common::millis};
use crate::{
    model::{ReadinessCheck, ReadinessProtocol, ReadinessResponse, ReadinessStatus},
    proto,
};

/// More answers than HTTP knows.
const MOST_STATUSES: usize = 500;

impl TryFrom<proto::ReadinessCheck> for ReadinessCheck {
    type Error = Invalid;

    fn try_from(check: proto::ReadinessCheck) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let protocol = match check.kind() {
            proto::CheckKind::Http => Some(ReadinessProtocol::Http),
            proto::CheckKind::Https => Some(ReadinessProtocol::Https),
            proto::CheckKind::Unspecified
            | proto::CheckKind::Tcp
            | proto::CheckKind::Command
            | proto::CheckKind::Grpc => {
                problems.take("kind", Err(Invalid::new("", "must be HTTP or HTTPS")))
            }
        };
        problems.bound("name", &check.name, 255);
        if !check.path.starts_with('/') || check.path.chars().any(|c| c.is_control() || c == ' ') {
            problems.note(
                "path",
                format!(
                    "{:?} must begin with `/`, without spaces or control characters",
                    check.path
                ),
            );
        }
        problems.bound("path", &check.path, 4096);
        let port = problems.port(check.port);
        for (field, value) in [
            ("interval_ms", check.interval_ms),
            ("timeout_ms", check.timeout_ms),
        ] {
            if value == 0 {
                problems.note(field, "must be larger than zero");
            }
        }
        if check.ready_statuses.len() > MOST_STATUSES {
            problems.note(
                "ready_statuses",
                format!("has more than {MOST_STATUSES} entries"),
            );
        }
        let mut ready_statuses = Vec::new();
        for (i, status) in check.ready_statuses.iter().take(MOST_STATUSES).enumerate() {
            match u16::try_from(*status) {
                Ok(status @ 100..=599) => ready_statuses.push(status),
                Ok(_) | Err(_) => problems.note(
                    &format!("ready_statuses[{i}]"),
                    format!("{status} is not between 100 and 599"),
                ),
            }
        }
        if ready_statuses.is_empty() {
            ready_statuses.push(200);
        }
        problems.finish(protocol.zip(port).map(|(protocol, port)| Self {
            name: check.name,
            protocol,
            path: check.path,
            port,
            interval: Duration::from_millis(check.interval_ms),
            timeout: Duration::from_millis(check.timeout_ms),
            ready_statuses,
            preserve_last_response: check.preserve_last_response,
        }))
    }
}

impl From<ReadinessCheck> for proto::ReadinessCheck {
    fn from(check: ReadinessCheck) -> Self {
        Self {
            name: check.name,
            kind: match check.protocol {
                ReadinessProtocol::Http => proto::CheckKind::Http,
                ReadinessProtocol::Https => proto::CheckKind::Https,
            }
            .into(),
            path: check.path,
            port: check.port.into(),
            interval_ms: millis(check.interval),
            timeout_ms: millis(check.timeout),
            ready_statuses: check.ready_statuses.into_iter().map(u32::from).collect(),
            preserve_last_response: check.preserve_last_response,
        }
    }
}

impl TryFrom<proto::ReadinessStatus> for ReadinessStatus {
    type Error = Invalid;

    fn try_from(status: proto::ReadinessStatus) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        problems.bound("name", &status.name, 255);
        problems.bound("problem", &status.problem, 4096);
        let last_response = status.last_response.and_then(|response| {
            problems.bound("last_response.content_type", &response.content_type, 255);
            problems.bound(
                "last_response.body",
                &response.body,
                ReadinessResponse::MAX_BODY,
            );
            let status = problems.take(
                "last_response.status",
                u16::try_from(response.status)
                    .map_err(|_| Invalid::new("", format!("{} is no status", response.status))),
            )?;
            Some(ReadinessResponse {
                status,
                content_type: response.content_type,
                body: response.body,
            })
        });
        problems.finish(Some(Self {
            name: status.name,
            ready: status.ready,
            last_response,
            problem: status.problem,
        }))
    }
}

impl From<ReadinessStatus> for proto::ReadinessStatus {
    fn from(status: ReadinessStatus) -> Self {
        Self {
            name: status.name,
            ready: status.ready,
            last_response: status
                .last_response
                .map(|response| proto::ReadinessResponse {
                    status: response.status.into(),
                    content_type: response.content_type,
                    body: response.body,
                }),
            problem: status.problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_survives_the_wire_and_every_problem_is_named() {
        let check = proto::ReadinessCheck {
            name: "up".into(),
            kind: proto::CheckKind::Https.into(),
            path: "/ready".into(),
            port: 80,
            interval_ms: 1000,
            timeout_ms: 500,
            ready_statuses: vec![200, 204],
            preserve_last_response: true,
        };
        let checked = ReadinessCheck::try_from(check.clone()).unwrap();
        assert_eq!(proto::ReadinessCheck::from(checked), check);
        let by_default = proto::ReadinessCheck {
            ready_statuses: Vec::new(),
            ..check.clone()
        };
        assert_eq!(
            ReadinessCheck::try_from(by_default).unwrap().ready_statuses,
            [200]
        );
        let bad = proto::ReadinessCheck {
            kind: proto::CheckKind::Tcp.into(),
            path: "ready now".into(),
            port: 70_000,
            interval_ms: 0,
            timeout_ms: 0,
            ready_statuses: vec![200, 99, 600],
            ..check
        };
        let problems = ReadinessCheck::try_from(bad).unwrap_err().problems;
        let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "kind",
                "path",
                "port",
                "interval_ms",
                "timeout_ms",
                "ready_statuses[1]",
                "ready_statuses[2]"
            ]
        );
    }

    #[test]
    fn a_result_survives_the_wire() {
        let status = ReadinessStatus {
            name: "up".into(),
            ready: false,
            last_response: Some(ReadinessResponse {
                status: 503,
                content_type: "text/plain".into(),
                body: "loading".into(),
            }),
            problem: String::new(),
        };
        let wire = proto::ReadinessStatus::from(status.clone());
        assert_eq!(ReadinessStatus::try_from(wire.clone()).unwrap(), status);
        let long = proto::ReadinessStatus {
            last_response: Some(proto::ReadinessResponse {
                body: "x".repeat(5000),
                ..Default::default()
            }),
            ..wire
        };
        assert!(ReadinessStatus::try_from(long).is_err());
    }
}
