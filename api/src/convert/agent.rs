//! What an agent says of its machine.

use super::{Invalid, Problems};
use crate::{
    model::{AgentInfo, CgroupMode, MOST_POOLS, MOST_VOLUMES, PersistentVolume, Pool, Pools},
    proto,
};

impl TryFrom<proto::AgentInfo> for AgentInfo {
    type Error = Invalid;

    fn try_from(info: proto::AgentInfo) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        if info.hostname.is_empty() {
            problems.note("hostname", "is empty");
        }
        for (field, text) in [
            ("hostname", &info.hostname),
            ("address", &info.address),
            ("region", &info.region),
            ("zone", &info.zone),
            ("version", &info.version),
            ("kernel", &info.kernel),
            ("architecture", &info.architecture),
        ] {
            problems.bound(field, text, 255);
        }
        let cgroup_mode = info.cgroup_mode().into();
        let resources = problems.take("resources", info.resources.try_into());
        let attributes = problems.list("attributes", info.attributes, 256);
        let reserved: Vec<Pool> = problems.list("reserved", info.reserved, MOST_POOLS);
        let volumes: Vec<PersistentVolume> = problems.list("volumes", info.volumes, MOST_VOLUMES);
        if let Some(resources) = &resources
            && let Err(error) = Pools::divided(resources, &reserved, &volumes)
        {
            problems.note("reserved", error.to_string());
        }
        problems.finish(resources.map(|resources| Self {
            hostname: info.hostname,
            address: info.address,
            resources,
            attributes,
            region: info.region,
            zone: info.zone,
            version: info.version,
            kernel: info.kernel,
            architecture: info.architecture,
            cgroup_mode,
            reserved,
            volumes,
        }))
    }
}

impl From<AgentInfo> for proto::AgentInfo {
    fn from(info: AgentInfo) -> Self {
        Self {
            hostname: info.hostname,
            address: info.address,
            resources: info.resources.into(),
            attributes: info.attributes.into_iter().map(Into::into).collect(),
            region: info.region,
            zone: info.zone,
            version: info.version,
            kernel: info.kernel,
            architecture: info.architecture,
            cgroup_mode: proto::CgroupMode::from(info.cgroup_mode).into(),
            reserved: info.reserved.into_iter().map(Into::into).collect(),
            volumes: info.volumes.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<proto::CgroupMode> for CgroupMode {
    fn from(mode: proto::CgroupMode) -> Self {
        match mode {
            proto::CgroupMode::Unspecified => Self::Unknown,
            proto::CgroupMode::V1 => Self::V1,
            proto::CgroupMode::Hybrid => Self::Hybrid,
            proto::CgroupMode::V2 => Self::V2,
        }
    }
}

impl From<CgroupMode> for proto::CgroupMode {
    fn from(mode: CgroupMode) -> Self {
        match mode {
            CgroupMode::Unknown => Self::Unspecified,
            CgroupMode::V1 => Self::V1,
            CgroupMode::Hybrid => Self::Hybrid,
            CgroupMode::V2 => Self::V2,
        }
    }
}
