//! What the master offers, and how an answer suspends further offers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    AgentId, Attribute, FrameworkId, OfferId, PersistentVolume, Pool, Resources, RoleName,
    WindowName,
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
    /// Work is planned on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailability: Option<Box<Unavailability>>,
}

/// When a machine is out of service, as an operator planned it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unavailability {
    /// The operator's name of the maintenance window.
    pub window: WindowName,
    /// From here on nothing of it is offered, Unix milliseconds.
    pub starts_at_ms: u64,
    /// What runs there then is killed, Unix milliseconds.
    pub drains_at_ms: u64,
    /// From here on it is in service again, Unix milliseconds; `None`: nobody knows yet.
    pub ends_at_ms: Option<u64>,
}

impl Offer {
    /// Whether a task that takes so long, begun now, has ended before work on the machine that is planned by now ends it.
    #[must_use]
    pub fn has_time_for(&self, runs_for: Duration, now_ms: u64) -> bool {
        let needed = u64::try_from(runs_for.as_millis()).unwrap_or(u64::MAX);
        self.unavailability
            .as_ref()
            .is_none_or(|planned| now_ms.saturating_add(needed) <= planned.drains_at_ms)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_the_time_until_the_drain() {
        let mut offer = Offer {
            offer_id: "o".parse().unwrap(),
            framework_id: "f".parse().unwrap(),
            agent_id: "a".parse().unwrap(),
            hostname: String::new(),
            role: "*".parse().unwrap(),
            resources: Resources::new(),
            reserved: Vec::new(),
            volumes: Vec::new(),
            attributes: Vec::new(),
            region: String::new(),
            zone: String::new(),
            address: String::new(),
            revocable: false,
            unavailability: Some(Box::new(Unavailability {
                window: "kernel".parse().unwrap(),
                starts_at_ms: 50_000,
                drains_at_ms: 65_000,
                ends_at_ms: None,
            })),
        };
        let minute = Duration::from_secs(60);
        assert!(offer.has_time_for(minute, 5_000));
        assert!(!offer.has_time_for(minute, 5_001));
        // As the wire tells it.
        let wire = crate::proto::Offer::from(offer.clone());
        assert_eq!(Offer::try_from(wire.clone()), Ok(offer.clone()));
        let mut wrong = wire;
        wrong.unavailability.as_mut().unwrap().window = "a/b".to_owned();
        let told = Offer::try_from(wrong).unwrap_err().to_string();
        assert!(told.contains("unavailability.window"), "{told}");
        offer.unavailability = None;
        assert!(offer.has_time_for(Duration::MAX, u64::MAX));
    }
}
