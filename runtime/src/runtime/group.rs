//! Where a new container belongs: by itself, as the holder of a group, or beside the other members of one.

use super::Inner;
use crate::group::HOLDER_CGROUP;
use crate::id::ContainerId;
use crate::model::{ContainerSpec, GroupPart, MountSpec};
use crate::process::ProcessRef;
use crate::spec::validate::BadSpec;
use crate::supervise::EntryState;
use crate::users::UserRange;

/// Where.
pub(super) struct Place {
    pub(super) cgroup: String,
    pub(super) user_range: Option<UserRange>,
    /// The process whose namespaces it shares.
    pub(super) holder: Option<ProcessRef>,
}

/// Takes a range of user numbers, unless the group has one.
pub(super) fn place(
    inner: &Inner,
    id: &ContainerId,
    spec: &ContainerSpec,
) -> Result<Place, BadSpec> {
    let containers = format!("{}/containers", inner.cgroup_root());
    let own = |cgroup| {
        Ok(Place {
            cgroup,
            user_range: inner.user_range(spec)?,
            holder: None,
        })
    };
    match &spec.group {
        None => own(format!("{containers}/{id}")),
        Some(GroupPart::Holder) => own(format!("{containers}/{id}/{HOLDER_CGROUP}")),
        Some(GroupPart::Member { of }) => member(inner, id, of, spec),
    }
}

fn member(
    inner: &Inner,
    id: &ContainerId,
    of: &ContainerId,
    spec: &ContainerSpec,
) -> Result<Place, BadSpec> {
    let bad = |field: &str, problem: String| BadSpec {
        field: field.to_owned(),
        problem,
    };
    let holder = inner
        .entry(of)
        .ok()
        .filter(|entry| entry.group == Some(GroupPart::Holder));
    let holder = holder.ok_or_else(|| bad("group", format!("no group {of} is held")))?;
    let process = holder.running().map(|live| live.process);
    let process = process.ok_or_else(|| bad("group", format!("group {of} has ended")))?;
    if holder.network != spec.network {
        let problem = format!("is another than the one of group {of}: it has one for all");
        return Err(bad("network", problem));
    }
    if holder.user_range.is_some() && (spec.privileged || !spec.devices.is_empty()) {
        let problem = format!(
            "a container that is privileged or given devices needs the host's users, group {of} has its own"
        );
        return Err(bad("group", problem));
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        if let MountSpec::Shared { volume, .. } = mount
            && !holder.volumes.contains(volume)
        {
            let problem = format!("group {of} has no volume {volume}");
            return Err(bad(&format!("mounts[{index}].volume"), problem));
        }
    }
    Ok(Place {
        cgroup: format!("{}/containers/{of}/{id}", inner.cgroup_root()),
        user_range: holder.user_range,
        holder: Some(process),
    })
}

/// Whether a holder is still needed.
pub(super) fn has_members(inner: &Inner, holder: &ContainerId) -> bool {
    inner.containers().values().any(|entry| {
        let is_member = matches!(&entry.group, Some(GroupPart::Member { of }) if of == holder);
        is_member
            && matches!(
                *entry.state.borrow(),
                EntryState::Starting | EntryState::Running
            )
    })
}
