//! A task on this machine: what becomes of it, decided without any I/O.
//!
//! [`core`] holds all tasks and turns events into effects; [`event`] names both; [`updates`] is the queue of statuses
//! of one task; [`status`] finds the words and reasons; [`spec`] merges image and task into a container; [`limits`] says
//! what it may use, [`change`] what stands in the way of changing that, [`disk`] when it takes too much of the disk.
//!
//! ```text
//! Creating ─► Launching ─► Running ─► Killing ─► Ended ─(acknowledged, old)─► collected
//!     └───────────┴───────────┴────────────────────▲
//! ```

pub(crate) mod change;
pub(crate) mod core;
pub(crate) mod disk;
pub(crate) mod entry;
pub(crate) mod event;
pub(crate) mod limits;
pub(crate) mod spec;
pub(crate) mod status;
pub(crate) mod updates;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

use mezzo_api::model::{FrameworkId, TaskId};
use serde::{Deserialize, Serialize};

/// A task id is unique within its framework only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct TaskKey {
    /// Whose.
    pub(crate) framework: FrameworkId,
    /// Which.
    pub(crate) task: TaskId,
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.task, self.framework)
    }
}

/// The time of one event, read once at the edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// For timestamps.
    pub(crate) unix_ms: u64,
    /// For deadlines: milliseconds since the agent's start, never going back.
    pub(crate) mono_ms: u64,
}

/// What an event is handled with.
pub(crate) struct Context<'a> {
    /// Now.
    pub(crate) now: Now,
    /// Random bits, for names of containers and updates.
    pub(crate) random: &'a mut dyn FnMut() -> u128,
}
