//! What survives the master: a seam with one implementation in a file (`embedded`), one in etcd for several masters
//! (`etcd`), and one in memory for tests.
//!
//! Small and rarely written: which agents were admitted, which frameworks exist and when they expire, weights, quotas, planned work, and the
//! ids that must not come back. Tasks are not here: agents know them. A record is JSON of the model types, unknown
//! fields ignored, so that an older master reads a newer one's records; a change that would break that raises
//! [`FORMAT_VERSION`], and an older master then refuses the file.

pub mod backup;
mod embedded;
mod etcd;
#[cfg(any(test, feature = "testing"))]
pub mod memory;

use std::{collections::BTreeSet, path::PathBuf};

use async_trait::async_trait;
use mezzo_api::model::{AgentId, AgentInfo, FrameworkId, FrameworkInfo, RoleName, WindowName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::allocator::Quota;

pub use embedded::EmbeddedStore;
pub use etcd::EtcdStore;

/// Of the records below.
pub const FORMAT_VERSION: u32 = 1;

/// Of one record as JSON. etcd takes requests of 1.5 MiB; nothing that an honest peer describes comes near.
pub const LARGEST_RECORD: usize = 512 << 10;

/// An admitted agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Given by the master.
    pub agent_id: AgentId,
    /// As it last registered.
    pub info: AgentInfo,
    /// First registration, Unix milliseconds.
    pub registered_at_ms: u64,
    /// An operator takes it out of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Box<DrainRecord>>,
    /// An operator wants nothing of it offered since then, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deactivated_since_ms: Option<u64>,
}

/// What an operator wants of an agent that is to be out of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRecord {
    /// When it was asked for first, Unix milliseconds.
    pub since_ms: u64,
    /// When the last task is killed, Unix milliseconds; `None`: each has its own grace period.
    pub deadline_at_ms: Option<u64>,
    /// Once no task is left, it is removed.
    pub mark_gone: bool,
}

/// A framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkRecord {
    /// Given by the master.
    pub framework_id: FrameworkId,
    /// As it last subscribed.
    pub info: FrameworkInfo,
    /// First subscription, Unix milliseconds.
    pub registered_at_ms: u64,
    /// While it is not connected: when it is removed, Unix milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// Planned work on machines; see `state::maintenance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// Chosen by the operator.
    pub name: WindowName,
    /// Which machines. Never empty.
    pub agents: BTreeSet<AgentId>,
    /// From here on nothing is offered, Unix milliseconds.
    pub starts_at_ms: u64,
    /// From here on they drain, Unix milliseconds.
    pub drains_at_ms: u64,
    /// From here on they are in service again, Unix milliseconds.
    pub ends_at_ms: Option<u64>,
    /// Those that this window took out of service.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drained: BTreeSet<AgentId>,
}

/// One durable change. Applying it twice is applying it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Admit or update.
    PutAgent(Box<AgentRecord>),
    /// It was never used.
    ForgetAgent(AgentId),
    /// Its id must not come back.
    RemoveAgent {
        /// Which.
        agent_id: AgentId,
        /// When, Unix milliseconds.
        at_ms: u64,
    },
    /// The list of removed ones is bounded.
    ForgetRemovedAgent(AgentId),
    /// Admit or update.
    PutFramework(Box<FrameworkRecord>),
    /// Its id must not come back.
    RemoveFramework {
        /// Which.
        framework_id: FrameworkId,
        /// When, Unix milliseconds.
        at_ms: u64,
    },
    /// The list of removed ones is bounded.
    ForgetRemovedFramework(FrameworkId),
    /// In thousandths.
    PutWeight {
        /// Of whom.
        role: RoleName,
        /// At least 1.
        weight_millis: u64,
    },
    /// Guarantees and limits.
    PutQuota {
        /// Of whom.
        role: RoleName,
        /// `None` removes it.
        quota: Option<Quota>,
    },
    /// Planned work.
    PutWindow {
        /// Which.
        name: WindowName,
        /// `None` removes it.
        window: Option<Box<WindowRecord>>,
    },
}

/// All that is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// Admitted.
    pub agents: Vec<AgentRecord>,
    /// Id and when.
    pub removed_agents: Vec<(AgentId, u64)>,
    /// Connected or waited for.
    pub frameworks: Vec<FrameworkRecord>,
    /// Id and when.
    pub removed_frameworks: Vec<(FrameworkId, u64)>,
    /// In thousandths.
    pub weights: Vec<(RoleName, u64)>,
    /// Never an empty one.
    pub quotas: Vec<(RoleName, Quota)>,
    /// Planned work.
    pub windows: Vec<WindowRecord>,
}

/// Why the durable state cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Directory or file cannot be made or opened.
    #[error("cannot open state file {path}; give the master a state directory that it may write")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error(
        "state file {path} is in use by another master; stop that one, or give this one another state directory"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Not what a master wrote.
    #[error(
        "the state in {path} is corrupt ({problem}); put a backup in its place, or move it away: agents and frameworks \
         then register anew, weights and quotas are lost"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// From a newer master.
    #[error(
        "the state in {path} has format {found}, this master reads up to {FORMAT_VERSION}; upgrade the master"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// etcd cannot be used.
    #[error("cannot use the state in {place}: {problem}")]
    Etcd {
        /// Its address.
        place: String,
        /// What it says.
        problem: String,
    },
    /// Another master leads, or may lead by now. What was to be written was not, or nobody will be told of it.
    #[error("this master does not lead any more")]
    Deposed,
    /// A write failed. The master stops: what it cannot keep it must not promise.
    #[error("cannot write the state in {path}: {problem}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the store says.
        problem: String,
    },
}

/// Durable state. One writer: the actor.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Begins the term of one master: a number that is higher than all before, durable when this returns.
    async fn begin_term(&self) -> Result<u64, StoreError>;

    /// All of it.
    async fn load(&self) -> Result<Saved, StoreError>;

    /// All of it as of one moment, also while another task writes.
    async fn snapshot(&self) -> Result<Saved, StoreError> {
        self.load().await
    }

    /// All of them or none; durable when it returns.
    async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreError>;
}
