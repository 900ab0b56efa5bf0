//! What a framework says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{FrameworkId, Resources, RoleName};

/// A framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkInfo {
    /// `None` before the first subscription.
    pub framework_id: Option<FrameworkId>,
    /// For people.
    pub name: String,
    /// For people.
    pub user: String,
    /// Never empty; ascending, each once.
    pub roles: Vec<RoleName>,
    /// How long its tasks are kept when its stream broke.
    pub failover_timeout: Duration,
    /// Where it runs.
    pub hostname: String,
    /// Whom it claims to be.
    pub principal: String,
    /// Where people look at it.
    pub webui_url: String,
    /// Opaque to mezzo.
    pub labels: BTreeMap<String, String>,
    /// Which agents it wants to hear of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offer_filters: BTreeMap<RoleName, OfferFilter>,
    /// What it can deal with beyond the ordinary.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<Capability>,
}

/// What a framework may be able to deal with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Capability {
    /// Offers of revocable resources.
    RevocableResources,
    /// Persistent volumes that several tasks may have at once.
    SharedResources,
}

impl Capability {
    /// As Mesos writes it, `REVOCABLE_RESOURCES`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RevocableResources => "REVOCABLE_RESOURCES",
            Self::SharedResources => "SHARED_RESOURCES",
        }
    }
}

/// What is worth an offer for a framework in one role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferFilter {
    /// All constraints of one of them must hold; none: every agent will do.
    #[serde(default)]
    pub groups: Vec<Vec<AttributeConstraint>>,
    /// Offers must contain one of them; none: whatever the master finds worth an offer.
    #[serde(default)]
    pub minimum: Vec<Resources>,
}

/// One thing that must hold for an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeConstraint {
    /// What is looked at.
    pub selector: Selector,
    /// What must hold of it.
    pub predicate: Predicate,
}

/// What a constraint looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// All attributes of that name.
    Attribute(String),
    /// The agent's host name.
    Hostname,
    /// The agent's region; there is none where it is empty.
    Region,
    /// The agent's zone; there is none where it is empty.
    Zone,
}

/// What a constraint asks. Negations hold exactly where the plain predicate does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predicate {
    /// There is one.
    Exists,
    /// There is none.
    NotExists,
    /// One is that text.
    TextEquals(String),
    /// None is that text.
    TextNotEquals(String),
    /// The regular expression matches the whole text of one.
    TextMatches(String),
    /// The regular expression matches the whole text of none.
    TextNotMatches(String),
}
