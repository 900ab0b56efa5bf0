//! Which state, reason and words an end deserves. Pure.
//!
//! Used by `task::core` and by recovery, so that an end is told alike whoever saw it.

use mezzo_api::model::{Exit, ExitInfo, Reason, TaskState};

use crate::node::{ContainerExit, ExitRecord};

/// Of a task that the end of its agent caught before its process ran.
pub(crate) const NEVER_RAN: &str = "the agent was restarted before the task ran";

/// A state with its reason and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Where the task stands.
    pub(crate) state: TaskState,
    /// Why.
    pub(crate) reason: Option<Reason>,
    /// For people.
    pub(crate) message: String,
}

impl Outcome {
    /// Of these parts.
    pub(crate) fn new(state: TaskState, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            state,
            reason: Some(reason),
            message: message.into(),
        }
    }
}

/// Why the agent ends a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KillCause {
    /// The framework or an operator asked.
    Requested,
    /// Asked before the process ran.
    DuringLaunch,
    /// The framework is gone.
    FrameworkRemoved,
    /// It ran longer than it may; milliseconds.
    MaxCompletion(u64),
    /// Its health checks failed.
    Unhealthy(String),
    /// It takes more of the disk than it may; in words.
    Disk(String),
    /// The agent goes away and takes its tasks along.
    AgentShutdown,
    /// Of another task of its group, in words.
    Group(String),
    /// The operator takes the machine out of service.
    Draining,
    /// It was revocable, and others need what it used; in words.
    Preempted(String),
}

impl KillCause {
    /// The outcome of a task ended for this cause; `how` tells how its process went.
    pub(crate) fn outcome(&self, how: &str) -> Outcome {
        match self {
            Self::Requested => Outcome::new(
                TaskState::Killed,
                Reason::KillRequested,
                format!("killed on request ({how})"),
            ),
            Self::DuringLaunch => Outcome::new(
                TaskState::Killed,
                Reason::TaskKilledDuringLaunch,
                "killed before it ran",
            ),
            Self::FrameworkRemoved => Outcome::new(
                TaskState::Killed,
                Reason::FrameworkRemoved,
                format!("killed because its framework was removed ({how})"),
            ),
            Self::MaxCompletion(ms) => Outcome::new(
                TaskState::Failed,
                Reason::MaxCompletionTimeReached,
                format!("killed because it ran longer than its max_completion_ms of {ms} ({how})"),
            ),
            Self::Unhealthy(message) => Outcome::new(
                TaskState::Failed,
                Reason::HealthCheckStatusUpdated,
                format!("killed because its health checks failed: {message}"),
            ),
            Self::Disk(message) => Outcome::new(
                TaskState::Failed,
                Reason::ContainerLimitationDisk,
                format!("killed for its disk limit: {message}"),
            ),
            Self::AgentShutdown => Outcome::new(
                TaskState::Killed,
                Reason::KillRequested,
                format!("killed because its agent was told to end with its tasks ({how})"),
            ),
            Self::Group(why) => Outcome::new(
                TaskState::Killed,
                Reason::TaskGroupMemberEnded,
                format!("killed because {why} ({how})"),
            ),
            Self::Draining => Outcome::new(
                TaskState::Killed,
                Reason::AgentDraining,
                format!("killed because the operator takes its agent out of service ({how})"),
            ),
            Self::Preempted(message) => Outcome::new(
                TaskState::Killed,
                Reason::ContainerPreempted,
                format!("preempted: {message}"),
            ),
        }
    }

    /// The same, for a task whose process does not run yet.
    pub(crate) fn before_it_ran(self) -> Self {
        match self {
            Self::Requested | Self::DuringLaunch => Self::DuringLaunch,
            Self::FrameworkRemoved
            | Self::MaxCompletion(_)
            | Self::Unhealthy(_)
            | Self::Disk(_)
            | Self::AgentShutdown
            | Self::Draining
            | Self::Preempted(_)
            | Self::Group(_) => self,
        }
    }

    /// The words and reason of `TASK_KILLING`.
    pub(crate) fn killing(&self, grace_ms: u64) -> Outcome {
        let (reason, why) = match self {
            Self::Requested | Self::DuringLaunch => (Reason::KillRequested, "on request"),
            Self::FrameworkRemoved => (
                Reason::FrameworkRemoved,
                "because its framework was removed",
            ),
            Self::MaxCompletion(_) => (
                Reason::MaxCompletionTimeReached,
                "because it ran longer than its max_completion_ms",
            ),
            Self::Unhealthy(_) => (
                Reason::HealthCheckStatusUpdated,
                "because its health checks failed",
            ),
            Self::Disk(message) => {
                return Outcome::new(
                    TaskState::Killing,
                    Reason::ContainerLimitationDisk,
                    message.clone(),
                );
            }
            Self::Preempted(message) => {
                return Outcome::new(
                    TaskState::Killing,
                    Reason::ContainerPreempted,
                    message.clone(),
                );
            }
            Self::AgentShutdown => (
                Reason::KillRequested,
                "because its agent ends with its tasks",
            ),
            // Recovery reads it again.
            Self::Group(_) => (Reason::TaskGroupMemberEnded, ""),
            Self::Draining => (
                Reason::AgentDraining,
                "because the operator takes its agent out of service",
            ),
        };
        let message = if let Self::Group(why) = self {
            why.clone()
        } else {
            format!("asked to end {why}; killed in {grace_ms} ms")
        };
        Outcome::new(TaskState::Killing, reason, message)
    }

    /// The cause that a `TASK_KILLING` of this reason was told for; recovery continues with it.
    pub(crate) fn from_killing(reason: Option<Reason>, message: &str) -> Self {
        match reason {
            Some(Reason::FrameworkRemoved) => Self::FrameworkRemoved,
            Some(Reason::MaxCompletionTimeReached) => Self::MaxCompletion(0),
            Some(Reason::HealthCheckStatusUpdated) => Self::Unhealthy(message.to_owned()),
            Some(Reason::TaskGroupMemberEnded) => Self::Group(message.to_owned()),
            Some(Reason::AgentDraining) => Self::Draining,
            Some(Reason::ContainerPreempted) => Self::Preempted(message.to_owned()),
            Some(Reason::ContainerLimitationDisk) => Self::Disk(message.to_owned()),
            _ => Self::Requested,
        }
    }
}

/// The outcome of a container's end, and what the status tells of the exit.
pub(crate) fn ended(record: &ExitRecord, cause: Option<&KillCause>) -> (Outcome, Option<ExitInfo>) {
    let (exit, how) = match &record.exit {
        ContainerExit::Code(code) => (Some(Exit::Code(*code)), format!("exited with code {code}")),
        ContainerExit::Signal(signal) => (
            Some(Exit::Signal(*signal)),
            format!("ended by {}", signal_name(*signal)),
        ),
        ContainerExit::KeeperLost => (
            None,
            "its supervisor was lost, and the container killed with it".to_owned(),
        ),
        ContainerExit::LostAtReboot => (None, "its machine was booted anew under it".to_owned()),
        ContainerExit::StartFailed(message) => (None, message.clone()),
        ContainerExit::StartInterrupted => (None, NEVER_RAN.to_owned()),
    };
    let outcome = match (&record.exit, cause) {
        (ContainerExit::StartFailed(_) | ContainerExit::StartInterrupted, Some(cause)) => {
            cause.clone().before_it_ran().outcome(&how)
        }
        (ContainerExit::StartFailed(message), None) => Outcome::new(
            TaskState::Failed,
            Reason::ContainerLaunchFailed,
            message.clone(),
        ),
        // The agent's fault and not the task's: a framework may launch it again without any back-off.
        (ContainerExit::StartInterrupted, None) => {
            Outcome::new(TaskState::Dropped, Reason::AgentRestarted, how.clone())
        }
        (ContainerExit::LostAtReboot, _) => {
            Outcome::new(TaskState::Gone, Reason::ContainerLost, how.clone())
        }
        (_, Some(cause)) => cause.outcome(&how),
        (ContainerExit::KeeperLost, None) => {
            Outcome::new(TaskState::Failed, Reason::ContainerLost, how.clone())
        }
        (ContainerExit::Code(0), None) => {
            Outcome::new(TaskState::Finished, Reason::CommandExited, how.clone())
        }
        (ContainerExit::Code(_) | ContainerExit::Signal(_), None) if record.oom_killed => {
            let limit = record
                .memory_limit_bytes
                .map_or_else(|| "unknown".to_owned(), mebibytes);
            let peak = record
                .usage
                .memory_peak_bytes
                .map_or_else(|| "unknown".to_owned(), mebibytes);
            Outcome::new(
                TaskState::Failed,
                Reason::ContainerLimitationMemory,
                format!("killed by the kernel: memory limit {limit}, peak {peak}"),
            )
        }
        (ContainerExit::Code(_) | ContainerExit::Signal(_), None) => {
            Outcome::new(TaskState::Failed, Reason::CommandExited, how.clone())
        }
    };
    let ran = record.started_at_ms.is_some()
        && !matches!(
            record.exit,
            ContainerExit::StartFailed(_) | ContainerExit::StartInterrupted
        );
    let info = ran.then_some(ExitInfo {
        exit,
        oom_killed: record.oom_killed,
        memory_limit_bytes: record.memory_limit_bytes,
    });
    (outcome, info)
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10 + 512 * 1024) / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(
        |_| format!("signal {signal}"),
        |known| format!("signal {signal} ({known})"),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use mezzo_api::model::{StatusSource, TaskStatus, Usage};

    use super::*;

    /// Any status.
    pub(crate) fn a_status() -> TaskStatus {
        TaskStatus {
            task_id: "t".parse().unwrap(),
            framework_id: "f".parse().unwrap(),
            agent_id: None,
            state: TaskState::Running,
            reason: None,
            source: StatusSource::Agent,
            message: String::new(),
            timestamp_ms: 0,
            update_id: None,
            healthy: None,
            health_results: Vec::new(),
            container: None,
            readiness: None,
            check_result: None,
            exit: None,
            usage: None,
        }
    }

    fn record(exit: ContainerExit, oom_killed: bool) -> ExitRecord {
        ExitRecord {
            exit,
            oom_killed,
            memory_limit_bytes: Some(32 << 20),
            started_at_ms: Some(1),
            finished_at_ms: 2,
            usage: Usage {
                memory_peak_bytes: Some(32 << 20),
                ..Usage::default()
            },
        }
    }

    #[track_caller]
    fn check(
        exit: ContainerExit,
        oom: bool,
        cause: Option<KillCause>,
        state: TaskState,
        reason: Reason,
    ) -> String {
        let (outcome, _) = ended(&record(exit, oom), cause.as_ref());
        assert_eq!(
            (outcome.state, outcome.reason),
            (state, Some(reason)),
            "{}",
            outcome.message
        );
        outcome.message
    }

    #[test]
    fn every_end_has_its_state_and_reason() {
        use ContainerExit::{
            Code, KeeperLost, LostAtReboot, Signal, StartFailed, StartInterrupted,
        };
        check(
            Code(0),
            false,
            None,
            TaskState::Finished,
            Reason::CommandExited,
        );
        let message = check(
            Code(3),
            false,
            None,
            TaskState::Failed,
            Reason::CommandExited,
        );
        assert_eq!(message, "exited with code 3");
        let message = check(
            Signal(9),
            false,
            None,
            TaskState::Failed,
            Reason::CommandExited,
        );
        assert_eq!(message, "ended by signal 9 (SIGKILL)");
        let message = check(
            Signal(9),
            true,
            None,
            TaskState::Failed,
            Reason::ContainerLimitationMemory,
        );
        assert_eq!(
            message,
            "killed by the kernel: memory limit 32.0 MiB, peak 32.0 MiB"
        );
        check(
            Code(0),
            true,
            None,
            TaskState::Finished,
            Reason::CommandExited,
        );
        check(
            Signal(15),
            false,
            Some(KillCause::Requested),
            TaskState::Killed,
            Reason::KillRequested,
        );
        check(
            Code(0),
            false,
            Some(KillCause::FrameworkRemoved),
            TaskState::Killed,
            Reason::FrameworkRemoved,
        );
        check(
            Signal(9),
            false,
            Some(KillCause::MaxCompletion(5)),
            TaskState::Failed,
            Reason::MaxCompletionTimeReached,
        );
        check(
            KeeperLost,
            false,
            None,
            TaskState::Failed,
            Reason::ContainerLost,
        );
        check(
            LostAtReboot,
            false,
            None,
            TaskState::Gone,
            Reason::ContainerLost,
        );
        check(
            StartFailed("x".into()),
            false,
            None,
            TaskState::Failed,
            Reason::ContainerLaunchFailed,
        );
        let message = check(
            StartInterrupted,
            false,
            None,
            TaskState::Dropped,
            Reason::AgentRestarted,
        );
        assert_eq!(message, NEVER_RAN);
        check(
            StartInterrupted,
            false,
            Some(KillCause::Requested),
            TaskState::Killed,
            Reason::TaskKilledDuringLaunch,
        );
    }
}
