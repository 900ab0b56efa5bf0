//! A task as `/v2/tasks` and an app's `tasks` have it, written straight to text: lists of apps have a hundred thousand.
//!
//! Pure.

use serde::Serialize;
use serde_json::Value;

use crate::app::check::result_json;
use crate::core::state::{AppState, Instance};
use crate::time::Timestamp;

/// What is shown of a task.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Task<'a> {
    id: &'a str,
    app_id: &'a str,
    host: &'a str,
    slave_id: &'a str,
    state: &'static str,
    staged_at: Timestamp,
    started_at: Option<Timestamp>,
    version: Timestamp,
    ports: &'a [u16],
    service_ports: Vec<u16>,
    ip_addresses: Vec<Address>,
    local_volumes: Vec<LocalVolume<'a>>,
    role: &'a str,
    health_check_results: Vec<Health<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check_result: Option<Value>,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    ip_address: String,
    protocol: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LocalVolume<'a> {
    container_path: &'a str,
    persistence_id: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health<'a> {
    alive: bool,
    task_id: &'a str,
}

/// The task that is this instance of the app.
pub(crate) fn task<'a>(app: &'a AppState, instance: &'a Instance) -> Task<'a> {
    let holding = instance.holding.and_then(|id| app.holdings.get(&id));
    let volumes = holding.iter().flat_map(|holding| &holding.volumes);
    Task {
        id: instance.task_id.as_str(),
        app_id: instance.app.as_str(),
        host: &instance.hostname,
        slave_id: instance.agent_id.as_str(),
        state: instance.state_name(),
        staged_at: Timestamp::from_millis(instance.staged_at),
        started_at: instance.started_at.map(Timestamp::from_millis),
        version: instance.version,
        ports: &instance.ports,
        service_ports: app.current.app.ports.iter().map(|port| port.port).collect(),
        ip_addresses: instance
            .addresses
            .iter()
            .map(|address| Address {
                ip_address: address.to_string(),
                protocol: if address.is_ipv4() { "IPv4" } else { "IPv6" },
            })
            .collect(),
        local_volumes: volumes
            .map(|held| LocalVolume {
                container_path: &held.container_path,
                persistence_id: held.volume.id.as_str(),
            })
            .collect(),
        role: instance.role.as_str(),
        health_check_results: instance
            .words()
            .flatten()
            .map(|alive| Health {
                alive,
                task_id: instance.task_id.as_str(),
            })
            .collect(),
        check_result: instance.check_result.as_deref().and_then(result_json),
        message: &instance.message,
    }
}
