//! Persistent volumes as a program reads them.

use mezzo_api::proto;
use serde::Serialize;

/// A volume as a program reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) role: String,
    pub(crate) node: String,
    pub(crate) agent_id: String,
    pub(crate) size_mb: u64,
    pub(crate) principal: String,
    /// Any number of tasks may have it at once.
    pub(crate) shared: bool,
    pub(crate) tasks: Vec<VolumeTask>,
}

/// A task that mounts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VolumeTask {
    pub(crate) task: String,
    pub(crate) framework: String,
    pub(crate) read_only: bool,
}

impl From<proto::VolumeOnAgent> for Volume {
    fn from(on: proto::VolumeOnAgent) -> Self {
        let volume = on.volume.unwrap_or_default();
        Self {
            role: volume
                .stack
                .last()
                .map(|top| top.role.clone())
                .unwrap_or_default(),
            id: volume.volume_id,
            node: on.hostname,
            agent_id: on.agent_id,
            size_mb: volume.size_mb,
            principal: volume.principal,
            shared: volume.shared,
            tasks: on
                .users
                .into_iter()
                .map(|user| VolumeTask {
                    task: user.task_id,
                    framework: user.framework_id,
                    read_only: user.read_only,
                })
                .collect(),
        }
    }
}
