//! What simulated agents did, one entry after the other, for whoever judges a master by it. Kept only if asked for.

use mezzo_api::proto::TaskState;

/// One thing that one agent did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// By the agent's clock, Unix milliseconds.
    pub at_ms: u64,
    /// Which agent, from 0.
    pub agent: usize,
    /// What.
    pub what: Happened,
}

/// What an agent did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// It began a task, told so by a master of that term.
    Launched {
        /// Which.
        task_id: String,
        /// Of the stream over which it was told.
        term: u64,
    },
    /// A task came into a state: what a true agent writes on its disk. It tells it, and may have to tell it often.
    Status {
        /// Whose.
        task_id: String,
        /// Which.
        state: TaskState,
        /// Given by the agent.
        update_id: String,
    },
}
