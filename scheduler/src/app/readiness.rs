//! The readiness check of an app: what it says, how it is written, and what the agent is asked to do.
//!
//! Pure. Marathon's `readinessChecks`, of which it took one as well.

use std::time::Duration;

use mezzo_api::model::{ReadinessCheck, ReadinessProtocol};
use serde_json::{Value, json};

use super::json::seconds;
use super::spec::{App, AssignedPort};

/// How the agent asks whether a new task can take its share of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppReadinessCheck {
    /// For people.
    pub name: String,
    /// How.
    pub protocol: ReadinessProtocol,
    /// Begins with `/`.
    pub path: String,
    /// The name of one of the app's ports.
    pub port_name: String,
    /// Thousandths of seconds.
    pub interval_ms: u64,
    /// Thousandths of seconds.
    pub timeout_ms: u64,
    /// Sorted, never empty.
    pub ready_statuses: Vec<u16>,
    /// Tell the body of the last answer.
    pub preserve_last_response: bool,
}

impl AppReadinessCheck {
    /// Marathon's names for the ways to ask.
    pub const PROTOCOLS: [(&'static str, ReadinessProtocol); 2] = [
        ("HTTP", ReadinessProtocol::Http),
        ("HTTPS", ReadinessProtocol::Https),
    ];

    /// As Marathon writes it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "protocol": match self.protocol {
                ReadinessProtocol::Http => "HTTP",
                ReadinessProtocol::Https => "HTTPS",
            },
            "path": self.path,
            "portName": self.port_name,
            "intervalSeconds": seconds(self.interval_ms),
            "timeoutSeconds": seconds(self.timeout_ms),
            "httpStatusCodesForReady": self.ready_statuses,
            "preserveLastResponse": self.preserve_last_response,
        })
    }

    /// What the agent does for one task of `app` that has these ports; `None` if the port is gone, which no checked app
    /// comes to.
    #[must_use]
    pub fn for_task(&self, app: &App, ports: &[AssignedPort]) -> Option<ReadinessCheck> {
        let is_ours = |name: Option<&String>| name == Some(&self.port_name);
        let index = app
            .ports
            .iter()
            .position(|port| is_ours(port.name.as_ref()))?;
        Some(ReadinessCheck {
            name: self.name.clone(),
            protocol: self.protocol,
            path: self.path.clone(),
            port: ports.get(index)?.inside,
            interval: Duration::from_millis(self.interval_ms),
            timeout: Duration::from_millis(self.timeout_ms),
            ready_statuses: self.ready_statuses.clone(),
            preserve_last_response: self.preserve_last_response,
        })
    }
}
