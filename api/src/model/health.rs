//! Health checks: whether a task works, asked by its agent as long as it runs.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};

/// Of one task.
pub const MOST_HEALTH_CHECKS: usize = 16;

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

/// For people: what it asks.
impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            CheckKind::Command => return f.write_str("command"),
            CheckKind::Http => "HTTP",
            CheckKind::Https => "HTTPS",
            CheckKind::Tcp => "TCP",
            CheckKind::Grpc => "gRPC",
        };
        write!(f, "{name} on port {}", self.port)
    }
}

/// What health checks say together: not healthy when one says so, healthy when all do, unknown (`None`) otherwise. Where
/// none is asked, none speaks against it.
#[must_use]
pub fn health_of_all(words: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(true);
    for word in words {
        match word {
            Some(true) => {}
            Some(false) => return Some(false),
            None => all = None,
        }
    }
    all
}

/// Reads the checks of a task also from what was written when there could be one: itself, or `null`.
pub(super) fn one_or_several<'de, D>(deserializer: D) -> Result<Vec<HealthCheck>, D::Error>
where
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Several(Vec<HealthCheck>),
        One(Option<HealthCheck>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Several(checks) => checks,
        Written::One(check) => check.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_speaks_for_all_and_one_that_is_silent_leaves_it_open() {
        let (yes, no) = (Some(true), Some(false));
        for (words, want) in [
            (&[][..], yes),
            (&[yes], yes),
            (&[yes, yes], yes),
            (&[yes, None], None),
            (&[None, no], no),
            (&[no, yes], no),
        ] {
            assert_eq!(health_of_all(words.iter().copied()), want, "{words:?}");
        }
    }

    #[test]
    fn what_was_written_when_there_could_be_one_is_read() {
        #[derive(Deserialize)]
        struct Task {
            #[serde(alias = "health_check", deserialize_with = "one_or_several")]
            health_checks: Vec<HealthCheck>,
        }
        let check = HealthCheck {
            kind: CheckKind::Tcp,
            path: String::new(),
            port: 80,
            command: Vec::new(),
            grace_period: Duration::ZERO,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            max_consecutive_failures: 3,
            delay: Duration::ZERO,
            ipv6: false,
        };
        let one = serde_json::to_value(&check).unwrap();
        for (written, want) in [
            (serde_json::json!({"health_check": null}), vec![]),
            (
                serde_json::json!({ "health_check": one }),
                vec![check.clone()],
            ),
            (
                serde_json::json!({"health_checks": [one, one]}),
                vec![check.clone(), check],
            ),
        ] {
            let read: Task = serde_json::from_value(written).unwrap();
            assert_eq!(read.health_checks, want);
        }
    }
}
