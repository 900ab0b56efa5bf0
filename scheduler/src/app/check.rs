//! The check of an app or of a pod's container: what it says, how it is written, what the agent is asked to do, and how what
//! it finds is shown.
//!
//! Pure. Marathon's `check`, which only tells: no deployment waits for it and nothing ends by it.

use std::time::Duration;

use mezzo_api::model::{Check, CheckAction, CheckResult};
use serde_json::{Value, json};

use super::json::seconds;
use super::spec::{AssignedPort, CheckPort, PortDefinition};
use crate::task::shell;

/// What the agent asks and tells as long as a task runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppCheck {
    /// How.
    pub way: CheckWay,
    /// Thousandths of seconds, more than 0.
    pub interval_ms: u64,
    /// Thousandths of seconds, more than 0.
    pub timeout_ms: u64,
    /// Thousandths of seconds.
    pub delay_ms: u64,
}

/// How a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckWay {
    /// `http`.
    Http {
        /// Of a pod's container always by index.
        port: CheckPort,
        /// Begins with `/`.
        path: String,
        /// The scheme `HTTPS`; certificates are not verified.
        tls: bool,
    },
    /// `tcp`; the port as above.
    Tcp(CheckPort),
    /// `exec`.
    Exec(CheckCommand),
}

/// What a check runs in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckCommand {
    /// A line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments, without a shell.
    Argv(Vec<String>),
}

impl AppCheck {
    /// As Marathon writes it in an app.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.written(|port| match port {
            CheckPort::Index(index) => ("portIndex", index.into()),
            CheckPort::Fixed(port) => ("port", port.into()),
        })
    }

    /// As Marathon writes it in a container of a pod that has these endpoints.
    #[must_use]
    pub fn to_pod_json(&self, endpoints: &[PortDefinition]) -> Value {
        self.written(|port| {
            let endpoint = match port {
                CheckPort::Index(index) => endpoints.get(index as usize),
                CheckPort::Fixed(_) => None,
            };
            (
                "endpoint",
                json!(endpoint.and_then(|port| port.name.as_deref())),
            )
        })
    }

    fn written(&self, port_json: impl Fn(CheckPort) -> (&'static str, Value)) -> Value {
        let mut out = json!({
            "intervalSeconds": seconds(self.interval_ms),
            "timeoutSeconds": seconds(self.timeout_ms),
            "delaySeconds": seconds(self.delay_ms),
        });
        match &self.way {
            CheckWay::Http { port, path, tls } => {
                let (name, value) = port_json(*port);
                let scheme = if *tls { "HTTPS" } else { "HTTP" };
                out["http"] = json!({name: value, "path": path, "scheme": scheme});
            }
            CheckWay::Tcp(port) => {
                let (name, value) = port_json(*port);
                out["tcp"] = json!({ name: value });
            }
            CheckWay::Exec(command) => {
                let command = match command {
                    CheckCommand::Shell(line) => json!({ "shell": line }),
                    CheckCommand::Argv(argv) => json!({ "argv": argv }),
                };
                out["exec"] = json!({ "command": command });
            }
        }
        out
    }

    /// What the agent does for one task that has these ports; `None` if the port is gone, which no checked app comes to.
    #[must_use]
    pub fn for_task(&self, ports: &[AssignedPort]) -> Option<Check> {
        // It is asked in the task's own network, where it listens on its own ports.
        let number = |port: &CheckPort| match port {
            CheckPort::Fixed(port) => Some(*port),
            CheckPort::Index(index) => Some(ports.get(*index as usize)?.inside),
        };
        let action = match &self.way {
            CheckWay::Http { port, path, tls } => CheckAction::Http {
                tls: *tls,
                port: number(port)?,
                path: path.clone(),
            },
            CheckWay::Tcp(port) => CheckAction::Tcp {
                port: number(port)?,
            },
            CheckWay::Exec(CheckCommand::Shell(line)) => CheckAction::Command(shell(line)),
            CheckWay::Exec(CheckCommand::Argv(argv)) => CheckAction::Command(argv.clone()),
        };
        Some(Check {
            action,
            interval: Duration::from_millis(self.interval_ms),
            timeout: Duration::from_millis(self.timeout_ms),
            delay: Duration::from_millis(self.delay_ms),
            ipv6: false,
        })
    }
}

/// `checkResult` of a task, as Marathon writes it: not there where the last check came to none.
pub(crate) fn result_json(result: &CheckResult) -> Option<Value> {
    match result {
        CheckResult::Http(status) => Some(json!({"http": {"statusCode": status}})),
        CheckResult::Tcp(succeeded) => Some(json!({"tcp": {"succeeded": succeeded}})),
        CheckResult::Command(code) => Some(json!({"command": {"exitCode": code}})),
        CheckResult::Nothing(_) => None,
    }
}
