//! The gRPC fronts: thin. They turn messages into events and calls, and effects into messages; they decide nothing.
//!
//! `agent` and `framework` hold one stream per peer through an [`outbox`]; `operator` answers from published
//! snapshots. `sharing` reads and tells quotas and the reasons for offers, `volumes` lists volumes. `status` is the one place where the core's words become gRPC codes.

mod agent;
mod framework;
mod operator;
pub(crate) mod outbox;
mod sharing;
pub(crate) mod status;
mod volumes;

pub(crate) use agent::{AgentFront, AgentLine};
pub(crate) use framework::{FrameworkFront, FrameworkLine};
pub(crate) use operator::OperatorFront;

/// Nothing that the API needs is larger.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// An agent's inventory of thousands of tasks in one message.
pub(crate) const MAX_INVENTORY_BYTES: usize = 64 * 1024 * 1024;
