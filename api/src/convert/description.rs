//! A task's description as a master keeps it, a million times: what is looked at as it is, all else as on the wire, which takes
//! far less memory: 960 bytes and the texts in it become the texts and a few bytes.

use std::sync::Arc;

use prost::Message as _;

use super::{Invalid, task::beside_what_is_taken};
use crate::{
    model::{AgentId, PersistentVolume, Resources, TaskId, TaskInfo, VolumeId},
    proto,
};

/// A description that was checked. Copies share nearly all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Used once.
    pub task_id: TaskId,
    /// The agent of the offer.
    pub agent_id: AgentId,
    /// Taken from the offer.
    pub resources: Resources,
    /// It runs on what others do not use, until they need it.
    pub revocable: bool,
    /// The persistent volumes that it mounts.
    pub persistent: Vec<PersistentVolume>,
    /// Those of them that it may write to.
    written: Vec<VolumeId>,
    /// What is not above, encoded.
    pub(super) rest: Arc<[u8]>,
}

impl Description {
    /// Whether it may write to that volume.
    #[must_use]
    pub fn writes(&self, id: &VolumeId) -> bool {
        self.written.contains(id)
    }

    /// As `mezzo.v1.TaskInfo` on the wire: parts of a message that follow each other are the message.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let taken = proto::TaskInfo {
            task_id: self.task_id.to_string(),
            agent_id: self.agent_id.to_string(),
            resources: (&self.resources).into(),
            ..proto::TaskInfo::default()
        };
        let mut bytes = Vec::with_capacity(taken.encoded_len() + self.rest.len());
        taken.encode_raw(&mut bytes);
        bytes.extend_from_slice(&self.rest);
        bytes
    }
}

impl From<TaskInfo> for Description {
    fn from(info: TaskInfo) -> Self {
        let (task_id, agent_id) = (info.task_id.clone(), info.agent_id.clone());
        let (resources, revocable) = (info.resources.clone(), info.revocable);
        let persistent = info.persistent.clone();
        let ids = persistent.iter().map(|volume| &volume.id);
        let written = ids.filter(|id| info.writes(id)).cloned().collect();
        let rest = beside_what_is_taken(info);
        Self {
            task_id,
            agent_id,
            resources,
            revocable,
            persistent,
            written,
            rest: rest.encode_to_vec().into(),
        }
    }
}

impl From<&Description> for proto::TaskInfo {
    fn from(description: &Description) -> Self {
        // It was encoded here.
        let rest = Self::decode(&*description.rest).unwrap_or_default();
        Self {
            task_id: description.task_id.to_string(),
            agent_id: description.agent_id.to_string(),
            resources: (&description.resources).into(),
            ..rest
        }
    }
}

impl TryFrom<&Description> for TaskInfo {
    type Error = Invalid;

    fn try_from(description: &Description) -> Result<Self, Invalid> {
        proto::TaskInfo::from(description).try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_described_comes_back() {
        let wire = proto::TaskInfo {
            task_id: "t".into(),
            name: "web".into(),
            agent_id: "a".into(),
            resources: (&"cpus:0.5;ports:[31000-31001]".parse::<Resources>().unwrap()).into(),
            pids_limit: Some(7),
            container: Some(proto::ContainerInfo {
                image: "web:3".into(),
                network: proto::NetworkMode::Host.into(),
                args: vec!["--serve".into()],
                ..Default::default()
            }),
            kill_grace_ms: Some(500),
            labels: [("team".to_owned(), "web".to_owned())].into(),
            data: vec![0, 255],
            ..Default::default()
        };
        let info = TaskInfo::try_from(wire.clone()).unwrap();
        let description = Description::from(info.clone());
        assert_eq!(proto::TaskInfo::from(&description), wire);
        assert_eq!(proto::TaskInfo::decode(&*description.encoded()), Ok(wire));
        assert_eq!(TaskInfo::try_from(&description).unwrap(), info);
    }
}
