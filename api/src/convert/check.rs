//! General checks and their results.

use std::time::Duration;

use super::{Invalid, Problems, common::millis, container::check_args};
use crate::{
    model::{Check, CheckAction, CheckResult},
    proto::{self, check_result::Found},
};

impl TryFrom<proto::Check> for Check {
    type Error = Invalid;

    fn try_from(check: proto::Check) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let kind = check.kind();
        let action = match kind {
            proto::CheckKind::Http | proto::CheckKind::Https => {
                let port = problems.port(check.port);
                problems.bound("path", &check.path, 4096);
                let is_bad = |c: char| c.is_control() || c == ' ';
                if !check.path.starts_with('/') || check.path.contains(is_bad) {
                    problems.note(
                        "path",
                        format!(
                            "{:?} must begin with `/`, without spaces or control characters",
                            check.path
                        ),
                    );
                }
                port.map(|port| CheckAction::Http {
                    tls: kind == proto::CheckKind::Https,
                    port,
                    path: check.path,
                })
            }
            proto::CheckKind::Tcp => problems
                .port(check.port)
                .map(|port| CheckAction::Tcp { port }),
            proto::CheckKind::Command => {
                if check.command.is_empty() {
                    problems.note("command", "is empty");
                }
                check_args(&mut problems, "command", &check.command);
                Some(CheckAction::Command(check.command))
            }
            proto::CheckKind::Unspecified | proto::CheckKind::Grpc => problems.take(
                "kind",
                Err(Invalid::new("", "must be HTTP, HTTPS, TCP or COMMAND")),
            ),
        };
        for (field, value) in [
            ("interval_ms", check.interval_ms),
            ("timeout_ms", check.timeout_ms),
        ] {
            if value == 0 {
                problems.note(field, "must be larger than zero");
            }
        }
        problems.finish(action.map(|action| Self {
            action,
            interval: Duration::from_millis(check.interval_ms),
            timeout: Duration::from_millis(check.timeout_ms),
            delay: Duration::from_millis(check.delay_ms),
            ipv6: check.ipv6,
        }))
    }
}

impl From<Check> for proto::Check {
    fn from(check: Check) -> Self {
        let mut out = Self {
            interval_ms: millis(check.interval),
            timeout_ms: millis(check.timeout),
            delay_ms: millis(check.delay),
            ipv6: check.ipv6,
            ..Self::default()
        };
        let kind = match check.action {
            CheckAction::Http { tls, port, path } => {
                out.port = port.into();
                out.path = path;
                match tls {
                    true => proto::CheckKind::Https,
                    false => proto::CheckKind::Http,
                }
            }
            CheckAction::Tcp { port } => {
                out.port = port.into();
                proto::CheckKind::Tcp
            }
            CheckAction::Command(command) => {
                out.command = command;
                proto::CheckKind::Command
            }
        };
        out.kind = kind.into();
        out
    }
}

impl TryFrom<proto::CheckResult> for CheckResult {
    type Error = Invalid;

    fn try_from(result: proto::CheckResult) -> Result<Self, Invalid> {
        Ok(match result.found {
            Some(Found::HttpStatus(status)) => Self::Http(
                u16::try_from(status)
                    .map_err(|_| Invalid::new("http_status", format!("{status} is no status")))?,
            ),
            Some(Found::TcpSucceeded(succeeded)) => Self::Tcp(succeeded),
            Some(Found::ExitCode(code)) => Self::Command(code),
            None => Self::nothing(&result.problem),
        })
    }
}

impl From<CheckResult> for proto::CheckResult {
    fn from(result: CheckResult) -> Self {
        let (found, problem) = match result {
            CheckResult::Http(status) => (Some(Found::HttpStatus(status.into())), String::new()),
            CheckResult::Tcp(succeeded) => (Some(Found::TcpSucceeded(succeeded)), String::new()),
            CheckResult::Command(code) => (Some(Found::ExitCode(code)), String::new()),
            CheckResult::Nothing(problem) => (None, problem),
        };
        Self { found, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http() -> proto::Check {
        proto::Check {
            kind: proto::CheckKind::Https.into(),
            path: "/state".into(),
            port: 80,
            command: Vec::new(),
            interval_ms: 1000,
            timeout_ms: 500,
            delay_ms: 7,
            ipv6: true,
        }
    }

    fn fields(check: proto::Check) -> Vec<String> {
        let problems = Check::try_from(check).unwrap_err().problems;
        problems.into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn a_check_survives_the_wire() {
        let tcp = proto::Check {
            kind: proto::CheckKind::Tcp.into(),
            path: String::new(),
            ..http()
        };
        let command = proto::Check {
            kind: proto::CheckKind::Command.into(),
            port: 0,
            path: String::new(),
            command: vec!["test".into(), "-e".into(), "/ready".into()],
            ..http()
        };
        for check in [http(), tcp, command] {
            let checked = Check::try_from(check.clone()).unwrap();
            assert_eq!(proto::Check::from(checked), check);
        }
    }

    #[test]
    fn every_problem_is_named() {
        let bad = proto::Check {
            path: "state now".into(),
            port: 70_000,
            interval_ms: 0,
            timeout_ms: 0,
            ..http()
        };
        assert_eq!(fields(bad), ["port", "path", "interval_ms", "timeout_ms"]);
        for kind in [proto::CheckKind::Unspecified, proto::CheckKind::Grpc] {
            let kind = kind.into();
            assert_eq!(fields(proto::Check { kind, ..http() }), ["kind"]);
        }
        let kind = proto::CheckKind::Command.into();
        assert_eq!(fields(proto::Check { kind, ..http() }), ["command"]);
        let command = vec!["a\0b".into()];
        let bad = proto::Check {
            kind,
            command,
            ..http()
        };
        assert_eq!(fields(bad), ["command[0]"]);
    }

    #[test]
    fn a_result_survives_the_wire_and_one_that_is_empty_is_none() {
        for result in [
            CheckResult::Http(503),
            CheckResult::Tcp(false),
            CheckResult::Command(-1),
            CheckResult::Nothing("refused".into()),
        ] {
            let sent = proto::CheckResult::from(result.clone());
            assert_eq!(CheckResult::try_from(sent), Ok(result));
        }
        let empty = CheckResult::try_from(proto::CheckResult::default());
        assert_eq!(empty, Ok(CheckResult::Nothing(String::new())));
        let found = Some(Found::HttpStatus(70_000));
        let problem = String::new();
        let error = CheckResult::try_from(proto::CheckResult { found, problem });
        assert_eq!(error.unwrap_err().problems[0].field, "http_status");
    }
}
