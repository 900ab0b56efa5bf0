//! One task and the phase it is in. Pure data with the few questions that others ask of it.

use mezzo_api::model::{
    CheckResult, ContainerStatus, ReadinessStatus, RoleName, Task, TaskInfo, TaskStatus, Usage,
    health_of_all,
};

use super::{
    TaskKey,
    change::Changing,
    event::Effect,
    status::{KillCause, Outcome},
    updates::UpdateQueue,
};
use crate::{
    node::{ContainerId, Limits},
    resources::grant::Grant,
};

/// Where a task stands. Times are monotonic milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Its checkpoint is being written.
    Creating(Next),
    /// Image, root file system, container.
    Launching {
        /// Given up for this cause.
        kill: Option<KillCause>,
    },
    /// Its process runs.
    Running {
        /// When it has run too long.
        complete_by_ms: Option<u64>,
    },
    /// It was asked to end.
    Killing {
        /// Why.
        cause: KillCause,
        /// When it is killed, or killed again.
        kill_at_ms: u64,
    },
    /// Nothing of it runs.
    Ended {
        /// Since then.
        at_ms: u64,
    },
}

/// What follows the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// The launch.
    Launch,
    /// The end: refused, or killed meanwhile.
    End(Outcome),
}

/// How far the launch of a member of a group has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Its image is on the way.
    Pulling,
    /// All is here; it waits for its turn.
    Ready,
    /// It may start. Of tasks in no group, always.
    Open,
}

/// Whether somebody still asks for the statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// The framework does.
    Framework,
    /// The framework was removed; the master may acknowledge, but is not waited for.
    Nobody,
}

/// One task.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: TaskKey,
    pub(crate) role: RoleName,
    pub(crate) info: TaskInfo,
    pub(crate) container: ContainerId,
    pub(crate) phase: Phase,
    pub(crate) updates: UpdateQueue,
    pub(crate) interest: Interest,
    /// The newest status, told or not.
    pub(crate) latest: TaskStatus,
    /// Once there is a process.
    pub(crate) container_status: Option<Box<ContainerStatus>>,
    /// Unix milliseconds.
    pub(crate) started_at_ms: Option<u64>,
    pub(crate) usage: Option<Usage>,
    /// What it took on the disk when that was last measured.
    pub(crate) disk_bytes: Option<u64>,
    /// So much of that counts against a bound.
    pub(crate) disk_that_counts: u64,
    /// What each of its health checks said last.
    pub(crate) health: Vec<Option<bool>>,
    /// The last result of the readiness check.
    pub(crate) readiness: Option<Box<ReadinessStatus>>,
    /// What its check found last.
    pub(crate) check_result: Option<Box<CheckResult>>,
    /// What the agent picked for it.
    pub(crate) grant: Grant,
    /// Unix milliseconds; of the checkpoint.
    pub(crate) created_at_ms: u64,
    /// What the runtime was last told that it may use, if it was told.
    pub(crate) told_limits: Option<Limits>,
    /// Of a member of a group: who holds what the group shares.
    pub(crate) holder: Option<ContainerId>,
    /// Of a member of a group: how far its launch may go.
    pub(crate) gate: Gate,
    /// A change of limits that is under way.
    pub(crate) changing: Option<Changing>,
}

impl Entry {
    /// As the API shows it.
    pub(crate) fn task(&self) -> Task {
        let mut status = self.latest.clone();
        if !status.state.is_terminal()
            && let Some(usage) = &self.usage
        {
            status.usage = Some(Box::new(usage.clone()));
        }
        Task {
            info: self.info.clone(),
            framework_id: self.key.framework.clone(),
            role: self.role.clone(),
            status,
            started_at_ms: self.started_at_ms,
        }
    }

    /// The checks that its running process still needs.
    pub(crate) fn checks(&self, effects: &mut Vec<Effect>) {
        let id = &self.container;
        for (number, check) in self.info.health_checks.iter().enumerate() {
            let check = Box::new(check.clone());
            effects.push(Effect::StartHealth(id.clone(), number, check));
        }
        let is_ready = self.readiness.as_ref().is_some_and(|last| last.ready);
        if let Some(check) = self.info.readiness_check.as_ref().filter(|_| !is_ready) {
            effects.push(Effect::StartReadiness(id.clone(), check.clone()));
        }
        if let Some(check) = &self.info.check {
            effects.push(Effect::StartCheck(id.clone(), check.clone()));
        }
    }

    /// What its health checks say together; `None` without any, too.
    pub(crate) fn healthy(&self) -> Option<bool> {
        let is_checked = !self.health.is_empty();
        health_of_all(self.health.iter().copied()).filter(|_| is_checked)
    }

    /// What a health check says, with its name where there are others.
    pub(crate) fn with_check(&self, number: usize, message: String) -> String {
        let checks = &self.info.health_checks;
        match checks.get(number).filter(|_| checks.len() > 1) {
            Some(check) => format!("health_checks[{number}] ({check}): {message}"),
            None => message,
        }
    }

    /// Its process runs.
    pub(crate) fn is_alive(&self) -> bool {
        match self.phase {
            Phase::Running { .. } | Phase::Killing { .. } => true,
            Phase::Creating(_) | Phase::Launching { .. } | Phase::Ended { .. } => false,
        }
    }

    /// It has ended, at that time.
    pub(crate) fn ended_at(&self) -> Option<u64> {
        match self.phase {
            Phase::Ended { at_ms } => Some(at_ms),
            Phase::Creating(_)
            | Phase::Launching { .. }
            | Phase::Running { .. }
            | Phase::Killing { .. } => None,
        }
    }

    /// It has ended and everybody knows.
    pub(crate) fn is_settled(&self) -> bool {
        self.ended_at().is_some() && self.updates.is_empty()
    }
}
