//! Task groups: tasks of one agent that share a network, IPC, volumes and a control group, and start all or nothing.

use serde::{Deserialize, Serialize};

use super::{GroupId, VolumeId};

/// What one member's end means for the others. A member that cannot be started ends the group under either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupPolicy {
    /// They are killed with it, unless it ended with exit code 0.
    #[default]
    KillGroup,
    /// They run on.
    Keep,
}

/// A volume that members mount by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedVolume {
    /// Safe as the name of a file.
    pub name: String,
    /// In memory, of that many bytes; `None`: a folder on the agent's disk.
    pub tmpfs_bytes: Option<u64>,
}

/// A task's membership in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskGroup {
    /// Which group, of the task's framework.
    pub id: GroupId,
    /// How many tasks are in it.
    pub n_members: u32,
    /// From 0, in the order of the launch.
    pub position: u32,
    /// Runs to its end before the next one starts.
    pub init: bool,
    /// What one member's end means for the others.
    pub policy: GroupPolicy,
    /// What members can mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<SharedVolume>,
    /// Persistent volumes that it writes and that another member holds: they count with that one alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<VolumeId>,
}
