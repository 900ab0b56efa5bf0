//! What an agent says of its machine.

use serde::{Deserialize, Serialize};

use super::{PersistentVolume, Pool, Pools, Resources, Scalar};

/// How the machine's cgroups are mounted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupMode {
    /// Not said.
    #[default]
    Unknown,
    /// Only v1 hierarchies.
    V1,
    /// Controllers on v1 beside a v2 tree.
    Hybrid,
    /// One v2 tree with all controllers.
    V2,
}

/// Value of an [`Attribute`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AttributeValue {
    /// A number.
    Scalar(Scalar),
    /// Any text.
    Text(String),
}

/// A name and a value that an operator gave the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Such as `rack`.
    pub name: String,
    /// Such as `r12`.
    pub value: AttributeValue,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// As people know the machine.
    pub hostname: String,
    /// host:port of the agent's NodeService.
    pub address: String,
    /// All it has to offer.
    pub resources: Resources,
    /// For constraints.
    pub attributes: Vec<Attribute>,
    /// Empty where there is none.
    pub region: String,
    /// Empty where there is none.
    pub zone: String,
    /// mezzo's.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// "x86_64", "aarch64", ...
    pub architecture: String,
    /// Where limits are enforced.
    pub cgroup_mode: CgroupMode,
    /// What of its resources is reserved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<Pool>,
    /// Their disk is part of its resources, and of no reservation in the list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<PersistentVolume>,
}

impl AgentInfo {
    /// Its resources by whose they are; nothing where these do not add up, which the border does not let in.
    #[must_use]
    pub fn pools(&self) -> Pools {
        Pools::divided(&self.resources, &self.reserved, &self.volumes).unwrap_or_default()
    }
}
