//! Statuses of tasks: states, reasons, how a container ended.

use super::{Invalid, Problems, health};
use crate::{
    model::{
        AgentId, ContainerStatus, Exit, ExitInfo, FrameworkId, MOST_HEALTH_CHECKS, Reason,
        StatusSource, TaskId, TaskState, TaskStatus,
    },
    proto,
};

macro_rules! enum_both_ways {
    ($proto:ident, $model:ident { $($name:ident),* $(,)? }) => {
        impl From<$model> for proto::$proto {
            fn from(from: $model) -> Self {
                match from { $($model::$name => Self::$name),* }
            }
        }

        impl TryFrom<proto::$proto> for $model {
            type Error = Invalid;

            fn try_from(from: proto::$proto) -> Result<Self, Invalid> {
                match from {
                    $(proto::$proto::$name => Ok(Self::$name),)*
                    proto::$proto::Unspecified => Err(Invalid::new("", "is missing or not known")),
                }
            }
        }
    };
}

impl From<TaskState> for proto::TaskState {
    fn from(state: TaskState) -> Self {
        match state {
            TaskState::Staging => Self::TaskStaging,
            TaskState::Starting => Self::TaskStarting,
            TaskState::Running => Self::TaskRunning,
            TaskState::Killing => Self::TaskKilling,
            TaskState::Finished => Self::TaskFinished,
            TaskState::Failed => Self::TaskFailed,
            TaskState::Killed => Self::TaskKilled,
            TaskState::Error => Self::TaskError,
            TaskState::Dropped => Self::TaskDropped,
            TaskState::Unreachable => Self::TaskUnreachable,
            TaskState::Gone => Self::TaskGone,
            TaskState::Unknown => Self::TaskUnknown,
        }
    }
}

impl TryFrom<proto::TaskState> for TaskState {
    type Error = Invalid;

    fn try_from(state: proto::TaskState) -> Result<Self, Invalid> {
        Ok(match state {
            proto::TaskState::Unspecified => {
                return Err(Invalid::new("", "is missing or not known"));
            }
            proto::TaskState::TaskStaging => Self::Staging,
            proto::TaskState::TaskStarting => Self::Starting,
            proto::TaskState::TaskRunning => Self::Running,
            proto::TaskState::TaskKilling => Self::Killing,
            proto::TaskState::TaskFinished => Self::Finished,
            proto::TaskState::TaskFailed => Self::Failed,
            proto::TaskState::TaskKilled => Self::Killed,
            proto::TaskState::TaskError => Self::Error,
            proto::TaskState::TaskDropped => Self::Dropped,
            proto::TaskState::TaskUnreachable => Self::Unreachable,
            proto::TaskState::TaskGone => Self::Gone,
            proto::TaskState::TaskUnknown => Self::Unknown,
        })
    }
}

enum_both_ways!(StatusSource, StatusSource { Master, Agent });

enum_both_ways!(
    Reason,
    Reason {
        ImagePullFailed,
        ContainerLaunchFailed,
        ContainerLimitationMemory,
        CommandExited,
        TaskKilledDuringLaunch,
        TaskInvalid,
        TaskUnauthorized,
        InvalidOffers,
        AgentDisconnected,
        AgentRemoved,
        AgentRestarted,
        AgentReregistered,
        FrameworkRemoved,
        Reconciliation,
        MaxCompletionTimeReached,
        HealthCheckStatusUpdated,
        ContainerLost,
        ResourcesUnavailable,
        KillRequested,
        TaskCheckStatusUpdated,
        AgentDraining,
        ContainerPreempted,
        ContainerLimitationDisk,
        TaskGroupInvalid,
        TaskGroupMemberEnded,
        FetchFailed,
    }
);

impl From<proto::ExitInfo> for ExitInfo {
    fn from(exit: proto::ExitInfo) -> Self {
        Self {
            exit: exit.how.map(|how| match how {
                proto::exit_info::How::Code(code) => Exit::Code(code),
                proto::exit_info::How::Signal(signal) => Exit::Signal(signal),
            }),
            oom_killed: exit.oom_killed,
            memory_limit_bytes: exit.memory_limit_bytes,
        }
    }
}

impl From<ExitInfo> for proto::ExitInfo {
    fn from(exit: ExitInfo) -> Self {
        Self {
            how: exit.exit.map(|exit| match exit {
                Exit::Code(code) => proto::exit_info::How::Code(code),
                Exit::Signal(signal) => proto::exit_info::How::Signal(signal),
            }),
            oom_killed: exit.oom_killed,
            memory_limit_bytes: exit.memory_limit_bytes,
        }
    }
}

impl From<proto::ContainerStatus> for ContainerStatus {
    fn from(status: proto::ContainerStatus) -> Self {
        Self {
            container_id: status.container_id,
            pid: status.pid,
            cgroup_path: status.cgroup_path,
            image_digest: status.image_digest,
            // What is no address is no reason to drop the status.
            ip_addresses: status
                .ip_addresses
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect(),
        }
    }
}

impl From<ContainerStatus> for proto::ContainerStatus {
    fn from(status: ContainerStatus) -> Self {
        Self {
            container_id: status.container_id,
            pid: status.pid,
            cgroup_path: status.cgroup_path,
            image_digest: status.image_digest,
            ip_addresses: status
                .ip_addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

impl TryFrom<proto::TaskStatus> for TaskStatus {
    type Error = Invalid;

    fn try_from(status: proto::TaskStatus) -> Result<Self, Invalid> {
        read(status, KnownIds::default())
    }
}

/// Of the task that a status is beside: it shares them where they are the same.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KnownIds<'a> {
    pub(super) task_id: Option<&'a TaskId>,
    pub(super) agent_id: Option<&'a AgentId>,
    pub(super) framework_id: Option<&'a FrameworkId>,
}

pub(super) fn read(status: proto::TaskStatus, known: KnownIds<'_>) -> Result<TaskStatus, Invalid> {
    let mut problems = Problems::default();
    let state = problems.take("state", status.state().try_into());
    let source = problems.take("source", status.source().try_into());
    // An unknown reason of a newer peer is no reason to drop the status.
    let reason = status.reason().try_into().ok();
    let task_id = problems.take("task_id", TaskId::read(&status.task_id, known.task_id));
    let framework_id = FrameworkId::read(&status.framework_id, known.framework_id);
    let framework_id = problems.take("framework_id", framework_id);
    let agent_id = if status.agent_id.is_empty() {
        None
    } else {
        let agent_id = AgentId::read(&status.agent_id, known.agent_id);
        problems.take("agent_id", agent_id)
    };
    let update_id = if status.update_id.is_empty() {
        None
    } else {
        problems.take("update_id", status.update_id.parse())
    };
    problems.bound("message", &status.message, 64 * 1024);
    let readiness = status
        .readiness
        .and_then(|readiness| problems.take("readiness", readiness.try_into()))
        .map(Box::new);
    let check_result = status
        .check_result
        .and_then(|result| problems.take("check_result", result.try_into()))
        .map(Box::new);
    let results = status.health_results.len();
    if results > MOST_HEALTH_CHECKS {
        problems.note(
            "health_results",
            format!("has {results} entries; at most {MOST_HEALTH_CHECKS} are allowed"),
        );
    }
    let health_results = status.health_results.into_iter();
    let health_results = health_results.map(|result| result.healthy).collect();
    let value = (|| {
        Some(TaskStatus {
            task_id: task_id?,
            framework_id: framework_id?,
            agent_id,
            state: state?,
            reason,
            source: source?,
            message: status.message,
            timestamp_ms: status.timestamp_ms,
            update_id,
            healthy: status.healthy,
            health_results,
            container: status.container.map(|of| Box::new(of.into())),
            exit: status.exit.map(|exit| Box::new(exit.into())),
            usage: status.usage.map(|usage| Box::new((*usage).into())),
            readiness,
            check_result,
        })
    })();
    problems.finish(value)
}

impl From<TaskStatus> for proto::TaskStatus {
    fn from(status: TaskStatus) -> Self {
        Self {
            task_id: status.task_id.into(),
            framework_id: status.framework_id.into(),
            agent_id: status.agent_id.map(Into::into).unwrap_or_default(),
            state: proto::TaskState::from(status.state).into(),
            reason: status
                .reason
                .map_or(proto::Reason::Unspecified, Into::into)
                .into(),
            source: proto::StatusSource::from(status.source).into(),
            message: status.message,
            timestamp_ms: status.timestamp_ms,
            update_id: status.update_id.map(Into::into).unwrap_or_default(),
            healthy: status.healthy,
            health_results: health::results(&status.health_results),
            container: status.container.map(|of| (*of).into()),
            exit: status.exit.map(|exit| (*exit).into()),
            usage: status.usage.map(|usage| Box::new((*usage).into())),
            readiness: status.readiness.map(|of| (*of).into()),
            check_result: status.check_result.map(|of| (*of).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_the_wire() {
        for state in TaskState::ALL {
            assert_eq!(
                TaskState::try_from(proto::TaskState::from(state)).unwrap(),
                state
            );
            assert_eq!(proto::TaskState::from(state).as_str_name(), state.name());
        }
    }
}
