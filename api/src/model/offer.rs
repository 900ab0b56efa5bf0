//! What the master offers, and how an answer suspends further offers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    AgentId, Attribute, FrameworkId, OfferId, PersistentVolume, Pool, Resources, RoleName,
};

/// Free resources of one agent, offered to one framework for one role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// To accept or decline it.
    pub offer_id: OfferId,
    /// To whom.
    pub framework_id: FrameworkId,
    /// Whose resources.
    pub agent_id: AgentId,
    /// Of the agent.
    pub hostname: String,
    /// For which role.
    pub role: RoleName,
    /// All that a task may take without saying from where.
    pub resources: Resources,
    /// What of it is reserved for the role or one above, and what is reserved with labels, which only tasks that say so
    /// get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<Pool>,
    /// That no task writes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<PersistentVolume>,
    /// Of the agent.
    pub attributes: Vec<Attribute>,
    /// Of the agent.
    pub region: String,
    /// Of the agent.
    pub zone: String,
    /// host:port of the agent's NodeService.
    pub address: String,
    /// Only for revocable tasks.
    #[serde(default)]
    pub revocable: bool,
}

/// For how long the rest of an offer, or a declined one, is not offered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
    /// At most [`Filters::LONGEST`].
    pub refuse: Duration,
}

impl Filters {
    /// Mesos' default, 5 s.
    pub const DEFAULT: Self = Self {
        refuse: Duration::from_secs(5),
    };
    /// Mesos' cap, 365 days.
    pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
}

impl Default for Filters {
    fn default() -> Self {
        Self::DEFAULT
    }
}
