//! Tasks: what each is, how it is, and how it ended.

use std::collections::BTreeMap;

use mezzo_api::model::TaskLimits;
use mezzo_api::proto::{self, check_result::Found};
use serde::Serialize;

use super::{Resources, Usage, enum_name};

/// How a task's first process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
    pub(crate) memory_limit_bytes: Option<u64>,
}

/// What a task's check found last; one of the first three, or the problem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct CheckResult {
    pub(crate) http_status: Option<u32>,
    pub(crate) tcp_succeeded: Option<bool>,
    pub(crate) exit_code: Option<i32>,
    /// Why it found nothing.
    pub(crate) problem: Option<String>,
}

impl CheckResult {
    fn new(result: proto::CheckResult) -> Self {
        let none = Self::default();
        match result.found {
            Some(Found::HttpStatus(status)) => Self {
                http_status: Some(status),
                ..none
            },
            Some(Found::TcpSucceeded(succeeded)) => Self {
                tcp_succeeded: Some(succeeded),
                ..none
            },
            Some(Found::ExitCode(code)) => Self {
                exit_code: Some(code),
                ..none
            },
            None => Self {
                problem: Some(result.problem),
                ..none
            },
        }
    }
}

/// One task.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) framework_id: String,
    pub(crate) role: String,
    pub(crate) agent_id: String,
    /// The machine's host name; empty when the master does not know the agent any more.
    pub(crate) node: String,
    /// As in the API: `TASK_RUNNING`.
    pub(crate) state: String,
    /// As in the API: `REASON_COMMAND_EXITED`; `null` when there is none.
    pub(crate) reason: Option<String>,
    pub(crate) message: String,
    pub(crate) healthy: Option<bool>,
    /// `null` without a readiness check, or before its first result.
    pub(crate) ready: Option<bool>,
    /// `null` without a check, or before its first result.
    pub(crate) check: Option<CheckResult>,
    pub(crate) updated_at_ms: u64,
    pub(crate) started_at_ms: Option<u64>,
    pub(crate) image: String,
    pub(crate) image_digest: Option<String>,
    pub(crate) command: Vec<String>,
    pub(crate) args: Vec<String>,
    pub(crate) resources: Resources,
    /// These are lent: it makes way when others need them.
    pub(crate) revocable: bool,
    pub(crate) cpu_limit: Option<f64>,
    pub(crate) memory_limit_mb: Option<u64>,
    pub(crate) pids_limit: Option<u64>,
    /// Beyond these, as the API names them.
    pub(crate) limits: TaskLimits,
    pub(crate) container_id: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) cgroup_path: Option<String>,
    /// `host`, `none`, `bridge` or `container`.
    pub(crate) network: String,
    /// Its own, where it has a network of its own.
    pub(crate) ip_addresses: Vec<String>,
    /// Ports of the node that lead to it: `31000->80/tcp`.
    pub(crate) port_mappings: Vec<String>,
    /// The task group that it is in: `pod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Its place there: `2 of 3`, `1 of 3, init`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group_place: Option<String>,
    pub(crate) exit: Option<Exit>,
    pub(crate) usage: Option<Usage>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// A mapped port in one word.
fn mapping(mapping: &proto::PortMapping) -> String {
    let protocol = match mapping.protocol() {
        proto::PortProtocol::Unspecified | proto::PortProtocol::Tcp => "tcp",
        proto::PortProtocol::Udp => "udp",
        proto::PortProtocol::TcpUdp => "tcp,udp",
    };
    match mapping.host_port {
        0 => format!("{}/{protocol}", mapping.container_port),
        host => format!("{host}->{}/{protocol}", mapping.container_port),
    }
}

impl Task {
    /// `hostname` is that of the task's agent.
    pub(crate) fn new(task: &proto::Task, hostname: &str) -> Self {
        let info = task.info.clone().unwrap_or_default();
        let status = task.status.clone().unwrap_or_default();
        let container = info.container.unwrap_or_default();
        let running = status.container.clone();
        let network = match container.network() {
            proto::NetworkMode::Unspecified | proto::NetworkMode::Host => proto::NetworkMode::Host,
            network @ (proto::NetworkMode::None
            | proto::NetworkMode::Bridge
            | proto::NetworkMode::Container) => network,
        };
        let port_mappings = container.port_mappings.iter().map(mapping).collect();
        #[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
        let cpu_limit = info.cpu_limit.map(|scalar| scalar.millis as f64 / 1000.0);
        Self {
            id: info.task_id,
            name: info.name,
            framework_id: task.framework_id.clone(),
            role: task.role.clone(),
            agent_id: info.agent_id,
            node: hostname.to_owned(),
            state: status.state().as_str_name().to_owned(),
            reason: (status.reason() != proto::Reason::Unspecified)
                .then(|| status.reason().as_str_name().to_owned()),
            healthy: status.healthy,
            ready: status.readiness.map(|last| last.ready),
            check: status.check_result.map(CheckResult::new),
            updated_at_ms: status.timestamp_ms,
            started_at_ms: task.started_at_ms,
            image: container.image,
            image_digest: running
                .as_ref()
                .map(|running| running.image_digest.clone())
                .filter(|text| !text.is_empty()),
            command: container.command,
            args: container.args,
            resources: Resources::new(&info.resources),
            revocable: info.revocable,
            cpu_limit,
            memory_limit_mb: info.memory_limit_mb,
            pids_limit: info.pids_limit,
            // What does not read is of a newer agent.
            limits: info
                .limits
                .and_then(|limits| limits.try_into().ok())
                .unwrap_or_default(),
            container_id: running
                .as_ref()
                .map(|running| running.container_id.clone())
                .filter(|text| !text.is_empty()),
            pid: running
                .as_ref()
                .map(|running| running.pid)
                .filter(|pid| *pid != 0),
            network: enum_name(network.as_str_name(), "NETWORK_MODE_"),
            ip_addresses: running
                .as_ref()
                .map(|running| running.ip_addresses.clone())
                .unwrap_or_default(),
            port_mappings,
            group_place: info.group.as_ref().map(|group| {
                let init = if group.init { ", init" } else { "" };
                let place = group.position.saturating_add(1);
                format!("{place} of {}{init}", group.n_members)
            }),
            group: info.group.map(|group| group.group_id),
            cgroup_path: running
                .map(|running| running.cgroup_path)
                .filter(|text| !text.is_empty()),
            exit: status.exit.as_ref().map(exit),
            usage: status.usage.as_deref().map(Usage::from),
            message: status.message,
            labels: info.labels.into_iter().collect(),
        }
    }

    /// The state without its prefix, in lower case: `running`.
    pub(crate) fn short_state(&self) -> String {
        enum_name(&self.state, "TASK_")
    }

    /// Whether it can still change.
    pub(crate) fn is_live(&self) -> bool {
        matches!(
            self.state.as_str(),
            "TASK_STAGING" | "TASK_STARTING" | "TASK_RUNNING" | "TASK_KILLING" | "TASK_UNREACHABLE"
        )
    }
}

fn exit(exit: &proto::ExitInfo) -> Exit {
    let (code, signal) = match exit.how {
        Some(proto::exit_info::How::Code(code)) => (Some(code), None),
        Some(proto::exit_info::How::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    Exit {
        code,
        signal,
        oom_killed: exit.oom_killed,
        memory_limit_bytes: exit.memory_limit_bytes,
    }
}
