//! Changes of reservations and volumes, asked of an agent, and what became of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{AgentId, FrameworkId, OperationId, PoolChange};

/// A change that an agent is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolOperation {
    /// Of whoever asks.
    pub id: OperationId,
    /// `None`: an operator.
    pub framework: Option<FrameworkId>,
    /// The agent keeps and repeats what became of it until that is acknowledged.
    pub keep: bool,
    /// What.
    pub change: PoolChange,
}

/// How a change stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OperationState {
    /// On its way to the agent, or being written there.
    Pending,
    /// Done, and durable on the agent.
    Finished,
    /// Refused, or it could not be written; nothing changed.
    Failed,
    /// It never reached the agent; nothing changed.
    Dropped,
    /// The agent is expected back and may have done it.
    Recovering,
    /// Nobody has a record of it.
    Unknown,
}

impl OperationState {
    /// Nothing follows.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Finished | Self::Failed | Self::Dropped => true,
            Self::Pending | Self::Recovering | Self::Unknown => false,
        }
    }

    /// As Mesos writes it, `OPERATION_FINISHED`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "OPERATION_PENDING",
            Self::Finished => "OPERATION_FINISHED",
            Self::Failed => "OPERATION_FAILED",
            Self::Dropped => "OPERATION_DROPPED",
            Self::Recovering => "OPERATION_RECOVERING",
            Self::Unknown => "OPERATION_UNKNOWN",
        }
    }
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStatus {
    /// Of whoever asked.
    pub id: OperationId,
    /// `None`: an operator asked.
    pub framework: Option<FrameworkId>,
    /// Where; `None` where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// How it stands.
    pub state: OperationState,
    /// For people; why it failed.
    pub message: String,
    /// The agent keeps it until it is acknowledged.
    pub keep: bool,
}
