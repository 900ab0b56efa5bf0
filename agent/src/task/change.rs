//! A change of a running task's limits: where it stands, what is refused, and why. Pure.
//!
//! Only limits change: what is booked (`cpus`, `mem`, …) comes from an offer, and to grow it another offer is needed.
//! The kernel comes first, the checkpoint second; whoever asked hears of it after both.
//!
//! ```text
//! asked ─► Applying ─(kernel)─► Recording ─(checkpoint)─► answered
//!             └─ refused: nothing changed      └─ not written: the limits before are put back
//! ```

use mezzo_api::{
    convert::{limit_problems, revocable_problems},
    model::{Change, LimitChange, TaskInfo},
};

/// A change that is under way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Changing {
    /// The kernel is being told; the task as it is to be.
    Applying(Box<TaskInfo>),
    /// The kernel enforces it, the checkpoint is being written; the task as it was.
    Recording(Box<TaskInfo>),
}

/// Why limits do not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("is not on this machine")]
    NotFound,
    #[error("{0}; only the limits of a running task can be changed")]
    NotRunning(&'static str),
    #[error("another change of its limits is under way; try again")]
    Busy,
    #[error("{0}")]
    Invalid(String),
    #[error("cannot change its limits: {0}")]
    Failed(String),
}

impl Refused {
    pub(crate) fn ended() -> Self {
        Self::NotRunning("has ended")
    }
}

/// The task as it is after the change, or every reason why it cannot be so.
pub(crate) fn changed(info: &TaskInfo, change: &LimitChange) -> Result<TaskInfo, Refused> {
    let after = change.apply(info);
    let mem = info.resources.mem();
    let mut problems: Vec<String> = limit_problems(
        info.resources.cpus(),
        mem,
        after.memory_limit_mb,
        &after.limits,
    )
    .iter()
    .chain(&revocable_problems(&after))
    .map(ToString::to_string)
    .collect();
    if let Change::Set(limit) = change.memory_limit_mb
        && u64::try_from(mem.units_floor()).is_ok_and(|booked| limit < booked)
    {
        problems.push(format!(
            "memory_limit_mb: {limit} is below the {mem} MiB that the task has booked; to book less, run it anew"
        ));
    }
    if problems.is_empty() {
        Ok(after)
    } else {
        Err(Refused::Invalid(problems.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::a_task;

    #[test]
    fn what_is_booked_stays_and_every_contradiction_is_told() {
        let task = a_task("t");
        let change = LimitChange {
            memory_limit_mb: Change::Set(16),
            memory_high_mb: Change::Set(64),
            ..LimitChange::default()
        };
        let refused = changed(&task, &change).unwrap_err().to_string();
        assert!(
            refused.contains("limits.memory_high_mb: 64 is above"),
            "{refused}"
        );
        assert!(
            refused.contains("memory_limit_mb: 16 is below the 32 MiB"),
            "{refused}"
        );
        let change = LimitChange {
            memory_limit_mb: Change::Set(64),
            memory_high_mb: Change::Set(64),
            ..LimitChange::default()
        };
        let after = changed(&task, &change).unwrap();
        assert_eq!(after.memory_limit_mb, Some(64));
        assert_eq!(after.resources, task.resources);
    }
}
