//! What the agent itself picks for a task, beyond the amounts of its offer: which processors, which devices. Pure.
//!
//! A grant is in the task's checkpoint before anything starts, so that an agent that comes after keeps to it.

use std::collections::BTreeSet;

use mezzo_api::model::{CpuPinning, TaskInfo};
use serde::{Deserialize, Serialize};

use super::{
    cores::{Cores, Processor},
    devices::{DeviceIds, DeviceSet, Devices},
};
use crate::node::ContainerId;

/// What one task was given. On disk, what is empty is left out, so that an older agent reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Grant {
    /// Processors that are the task's alone.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) cpus: BTreeSet<u32>,
    /// Ids of devices, by the name of their set.
    #[serde(skip_serializing_if = "DeviceIds::is_empty")]
    pub(crate) devices: DeviceIds,
}

impl Grant {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything that can be granted and who has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grants {
    cores: Cores,
    devices: Devices,
}

impl Grants {
    pub(crate) fn new(
        processors: impl IntoIterator<Item = Processor>,
        devices: Vec<DeviceSet>,
    ) -> Self {
        Self {
            cores: Cores::new(processors),
            devices: Devices::new(devices),
        }
    }

    /// Picks what a task asks for: all of it, or none of it and the reason, which names the field.
    pub(crate) fn take(&mut self, id: &ContainerId, info: &TaskInfo) -> Result<Grant, String> {
        let mut grant = Grant::default();
        match info.limits.cpu_pinning {
            CpuPinning::Shared => {}
            CpuPinning::Exclusive => {
                let wanted = usize::try_from(info.resources.cpus().units_floor()).unwrap_or(0);
                grant.cpus = self
                    .cores
                    .take(id, wanted)
                    .map_err(|error| format!("limits.cpu_pinning: {error}"))?;
            }
        }
        match self.devices.take(id, &info.resources) {
            Ok(devices) => grant.devices = devices,
            Err(error) => {
                self.cores.release(id);
                return Err(error.to_string());
            }
        }
        Ok(grant)
    }

    /// Notes what a task has that recovery found.
    pub(crate) fn adopt(&mut self, id: &ContainerId, grant: &Grant) {
        if !grant.cpus.is_empty() {
            self.cores.adopt(id, grant.cpus.clone());
        }
        if !grant.devices.is_empty() {
            self.devices.adopt(id, grant.devices.clone());
        }
    }

    /// The task's last process is gone. Whether others may now use more processors.
    pub(crate) fn release(&mut self, id: &ContainerId) -> bool {
        self.devices.release(id);
        self.cores.release(id)
    }

    /// The processors that a task with this grant may use; `None`: all.
    pub(crate) fn processors(&self, grant: &Grant) -> Option<BTreeSet<u32>> {
        if grant.cpus.is_empty() {
            self.cores.shared()
        } else {
            Some(grant.cpus.clone())
        }
    }
}
