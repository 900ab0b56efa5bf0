//! General checks: asked by the agent as long as a task runs, and only told. Mesos' `CheckInfo`, Marathon's `check`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest reason why a check came to no result, in bytes.
const MOST_PROBLEM: usize = 1024;

/// How a check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckAction {
    /// Whatever is answered is a result.
    Http {
        /// Over TLS; certificates are not verified.
        tls: bool,
        /// Within the task's own network; not 0.
        port: u16,
        /// Begins with `/`.
        path: String,
    },
    /// Whether a port takes a connection.
    Tcp {
        /// Within the task's own network; not 0.
        port: u16,
    },
    /// Runs in the container; never empty.
    Command(Vec<String>),
}

/// Run by the agent beside the task. Nothing is killed or held up for what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// How.
    pub action: CheckAction,
    /// Between two checks; more than 0.
    pub interval: Duration,
    /// Of one check; more than 0.
    pub timeout: Duration,
    /// Before the first check.
    pub delay: Duration,
    /// Connect to `::1` instead of `127.0.0.1`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6: bool,
}

/// What a check found last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// The status of the answer.
    Http(u16),
    /// Whether the port took a connection.
    Tcp(bool),
    /// The command's exit code.
    Command(i32),
    /// None, and why: nothing answered, or not in time.
    Nothing(String),
}

impl CheckResult {
    /// No result, for this reason, which is cut where it is long.
    #[must_use]
    pub fn nothing(problem: &str) -> Self {
        let mut end = problem.len().min(MOST_PROBLEM);
        while !problem.is_char_boundary(end) {
            end -= 1;
        }
        Self::Nothing(problem[..end].to_owned())
    }

    /// Whether it says what the other says. Why there is no result does not count: two refusals in other words are one.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing(_), Self::Nothing(_)) => true,
            (Self::Nothing(_) | Self::Http(_) | Self::Tcp(_) | Self::Command(_), _) => {
                self == other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_found_is_compared_and_long_reasons_are_cut() {
        let nothing = CheckResult::nothing;
        assert!(nothing("refused").says_the_same(&nothing("no answer")));
        assert!(!nothing("refused").says_the_same(&CheckResult::Http(503)));
        assert!(!CheckResult::Http(200).says_the_same(&CheckResult::Http(503)));
        assert!(CheckResult::Tcp(true).says_the_same(&CheckResult::Tcp(true)));
        let long = format!("{}é", "x".repeat(MOST_PROBLEM - 1));
        assert_eq!(nothing(&long), nothing(&long[..MOST_PROBLEM - 1]));
    }
}
