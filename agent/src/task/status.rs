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
    let (exit, mut how) = match &record.exit {
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
    // With a cause the last SIGKILL was ours, as far as anybody knows.
    let shortage = Shortage::of(record).filter(|_| cause.is_none());
    if shortage.is_none() && exit.is_some() {
        how.push_str(&killed_before(record));
    }
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
        (ContainerExit::Code(_) | ContainerExit::Signal(_), None) => match shortage {
            Some(shortage) => Outcome::new(
                TaskState::Failed,
                Reason::ContainerLimitationMemory,
                shortage.words(record),
            ),
            None => Outcome::new(TaskState::Failed, Reason::CommandExited, how.clone()),
        },
    };
    let ran = record.started_at_ms.is_some()
        && !matches!(
            record.exit,
            ContainerExit::StartFailed(_) | ContainerExit::StartInterrupted
        );
    let info = ran.then_some(ExitInfo {
        exit,
        oom_killed: shortage.is_some(),
        memory_limit_bytes: record
            .memory_limit_bytes
            .filter(|_| shortage != Some(Shortage::Above)),
    });
    (outcome, info)
}

/// Where memory was short when the kernel ended a task for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    /// At the task's own limit.
    Own,
    /// Above it: its group's limit was met, that of all tasks, or the machine's memory.
    Above,
}

impl Shortage {
    /// `None` if the first process did not end by SIGKILL, or nobody was killed for memory: a program may lose many
    /// processes to the kernel and end in its own way long after.
    fn of(record: &ExitRecord) -> Option<Self> {
        const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;
        // A shell passes on how its command ended.
        const SIGKILL_BY_A_SHELL: i32 = 128 + SIGKILL;
        let killed = matches!(
            record.exit,
            ContainerExit::Signal(SIGKILL) | ContainerExit::Code(SIGKILL_BY_A_SHELL)
        );
        if !killed || !record.oom_killed {
            return None;
        }
        let usage = &record.usage;
        let met = match (
            record.memory_limit_bytes,
            usage.memory_oom_events,
            usage.memory_peak_bytes,
        ) {
            (None, _, _) => false,
            // Version 2 counts at the limit that was met, and below it never.
            (Some(_), Some(events), _) => events > 0,
            (Some(limit), None, Some(peak)) => peak.saturating_add(NEAR_BYTES) >= limit,
            (Some(_), None, None) => true,
        };
        Some(if met { Self::Own } else { Self::Above })
    }

    fn words(self, record: &ExitRecord) -> String {
        let or_unknown = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), mebibytes);
        let limit = or_unknown(record.memory_limit_bytes);
        let peak = or_unknown(record.usage.memory_peak_bytes);
        match (self, record.memory_limit_bytes) {
            (Self::Own, _) => format!("killed by the kernel: memory limit {limit}, peak {peak}"),
            (Self::Above, Some(_)) => format!(
                "killed by the kernel for want of memory above the task, its group's or the machine's; its own limit of {limit} was not met, peak {peak}"
            ),
            (Self::Above, None) => format!(
                "killed by the kernel for want of memory above the task, its group's or the machine's; it has no limit of its own, peak {peak}"
            ),
        }
    }
}

/// So near to its limit a cgroup of version 1 was at it: what does not fit any more is a few pages.
const NEAR_BYTES: u64 = 1 << 20;

/// What the kernel killed of a task that ended for something else, to stand behind how it ended.
fn killed_before(record: &ExitRecord) -> String {
    match record.usage.oom_kills {
        _ if !record.oom_killed => String::new(),
        Some(1) => "; the kernel had killed 1 of its processes for memory before".to_owned(),
        Some(kills) => {
            format!("; the kernel had killed {kills} of its processes for memory before")
        }
        None => "; the kernel had killed processes of it for memory before".to_owned(),
    }
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
                oom_kills: Some(if oom_killed { 2 } else { 0 }),
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

    #[test]
    fn only_who_was_killed_itself_ended_for_want_of_memory() {
        use ContainerExit::{Code, KeeperLost, Signal};
        let failed = |exit, oom, reason| check(exit, oom, None, TaskState::Failed, reason);
        let (memory, other) = (Reason::ContainerLimitationMemory, Reason::CommandExited);
        let limit = "killed by the kernel: memory limit 32.0 MiB, peak 32.0 MiB";
        let before = "; the kernel had killed 2 of its processes for memory before";
        assert_eq!(failed(Signal(9), true, memory), limit);
        assert_eq!(failed(Code(137), true, memory), limit);
        assert_eq!(
            failed(Signal(9), false, other),
            "ended by signal 9 (SIGKILL)"
        );
        assert_eq!(failed(Code(137), false, other), "exited with code 137");
        assert_eq!(
            failed(Code(3), true, other),
            format!("exited with code 3{before}")
        );
        assert_eq!(
            failed(Signal(11), true, other),
            format!("ended by signal 11 (SIGSEGV){before}")
        );
        let told = check(Code(0), true, None, TaskState::Finished, other);
        assert_eq!(told, format!("exited with code 0{before}"));
        // The last SIGKILL was the agent's.
        let told = check(
            Signal(9),
            true,
            Some(KillCause::Requested),
            TaskState::Killed,
            Reason::KillRequested,
        );
        assert_eq!(
            told,
            format!("killed on request (ended by signal 9 (SIGKILL){before})")
        );
        for (exit, cause, oom_killed) in [
            (Signal(9), None, true),
            (Code(137), None, true),
            (Code(3), None, false),
            (Signal(11), None, false),
            (Code(0), None, false),
            (KeeperLost, None, false),
            (Signal(9), Some(KillCause::Requested), false),
        ] {
            let (_, info) = ended(&record(exit.clone(), true), cause.as_ref());
            let info = info.unwrap();
            assert_eq!(
                (info.oom_killed, info.memory_limit_bytes),
                (oom_killed, Some(32 << 20)),
                "{exit:?}"
            );
        }
    }

    #[test]
    fn a_limit_that_was_not_met_is_not_told_as_the_one_that_held() {
        let killed = |limit: Option<u64>, peak: u64, events: Option<u64>| {
            let mut record = record(ContainerExit::Signal(9), true);
            record.memory_limit_bytes = limit;
            record.usage.memory_peak_bytes = Some(peak);
            record.usage.memory_oom_events = events;
            let (outcome, info) = ended(&record, None);
            assert_eq!(outcome.reason, Some(Reason::ContainerLimitationMemory));
            let info = info.unwrap();
            assert!(info.oom_killed);
            (outcome.message, info.memory_limit_bytes)
        };
        const MIB: u64 = 1 << 20;
        let own = "killed by the kernel: memory limit 32.0 MiB, peak ";
        let above = "killed by the kernel for want of memory above the task, its group's or the machine's; ";
        // Version 2 says so; what was charged to it does not.
        let limit = Some(32 * MIB);
        assert_eq!(
            killed(limit, 32 * MIB, Some(0)),
            (
                format!("{above}its own limit of 32.0 MiB was not met, peak 32.0 MiB"),
                None
            )
        );
        assert_eq!(
            killed(limit, 31 * MIB, Some(1)),
            (format!("{own}31.0 MiB"), limit)
        );
        // Version 1 tells by the peak alone.
        assert_eq!(
            killed(limit, 8 * MIB, None),
            (
                format!("{above}its own limit of 32.0 MiB was not met, peak 8.0 MiB"),
                None
            )
        );
        assert_eq!(
            killed(limit, 32 * MIB - 4096, None),
            (format!("{own}32.0 MiB"), limit)
        );
        assert_eq!(
            killed(None, 8 * MIB, None),
            (
                format!("{above}it has no limit of its own, peak 8.0 MiB"),
                None
            )
        );
    }
}
