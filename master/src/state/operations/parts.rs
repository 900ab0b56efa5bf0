//! Which part of an offer a task gets: its pools, and the volumes that it names.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{Capability, PersistentVolume, Pools, TaskInfo, VolumeId, VolumeSource};

use super::{
    super::{Core, Supply, offers::Hand},
    named_tasks,
};

/// The persistent volumes that members of a group hold which were looked at before: the others share them.
#[derive(Debug, Default)]
pub(in crate::state) struct Beside {
    held: BTreeMap<VolumeId, PersistentVolume>,
}

impl Core {
    /// What of `left` a task takes. Says in the task which reservations and volumes those are.
    pub(in crate::state) fn part_for(
        &self,
        info: &mut TaskInfo,
        hand: &Hand,
        left: &Pools,
        beside: &mut Beside,
    ) -> Result<Pools, String> {
        if info.agent_id != hand.agent_id {
            return Err(format!(
                "`agent_id` is {}, the offers are of {}",
                info.agent_id, hand.agent_id
            ));
        }
        if Supply::of(info.revocable) != hand.supply {
            let problem = match hand.supply {
                Supply::Ordinary => {
                    "`revocable` is set, the offers are not revocable: use one with `revocable`"
                }
                Supply::Revocable => "the offers are revocable, the task is not: set `revocable`",
            };
            return Err(problem.to_owned());
        }
        if info.container.image.is_empty() {
            return Err("`container.image` is empty".to_owned());
        }
        if info.resources.is_empty() {
            return Err(
                "`resources` is empty: a task must take something from the offers".to_owned(),
            );
        }
        self.name_volumes(info, hand, left, beside)?;
        if info.reserved.is_empty() {
            match left.pick(&info.resources) {
                Some(picked) => info.reserved = picked.pool_list(),
                None => {
                    return Err(format!(
                        "it takes {}, the offers still hold {left}",
                        info.resources
                    ));
                }
            }
        }
        let part = info
            .pools()
            .map_err(|error| format!("`reserved`: {error}"))?;
        if left.contains(&part) {
            Ok(part)
        } else {
            Err(format!("it takes {part}, the offers still hold {left}"))
        }
    }

    /// Fills in which volumes a task mounts, and which of them another member of its group holds.
    fn name_volumes(
        &self,
        info: &mut TaskInfo,
        hand: &Hand,
        left: &Pools,
        beside: &mut Beside,
    ) -> Result<(), String> {
        info.persistent.clear();
        let named: BTreeSet<_> = info
            .container
            .volumes
            .iter()
            .filter_map(|mount| match &mount.source {
                VolumeSource::Persistent(id) => Some(id.clone()),
                VolumeSource::HostPath(_)
                | VolumeSource::Tmpfs(_)
                | VolumeSource::Secret(_)
                | VolumeSource::Group(_) => None,
            })
            .collect();
        for id in named {
            let writes = info.writes(&id);
            if let Some(held) = beside.held.get(&id) {
                info.persistent.push(held.clone());
                if let Some(group) = info.group.as_mut().filter(|_| writes) {
                    group.shares.push(id);
                }
                continue;
            }
            let Some(volume) = left.volume_for(&hand.role, id.as_str()) else {
                return Err(format!(
                    "the offers hold no persistent volume {id}: there is none for role {} on agent {}, a task writes to it, \
                     or it is shared and the framework has not the capability {}",
                    hand.role,
                    hand.agent_id,
                    Capability::SharedResources.name()
                ));
            };
            // However many have it.
            if volume.shared {
                info.persistent.push(volume.clone());
                continue;
            }
            let (users, writers) = self.users_of(&hand.agent_id, &volume.key());
            if writes && !users.is_empty() {
                return Err(format!(
                    "volume {} is read by {}: it is written by one task alone",
                    volume.key(),
                    named_tasks(&users)
                ));
            }
            // Who held it has ended, another member of its group has not.
            if !writers.is_empty() {
                return Err(format!(
                    "volume {} is written by {}",
                    volume.key(),
                    named_tasks(&writers)
                ));
            }
            if writes {
                beside.held.insert(id, volume.clone());
            }
            info.persistent.push(volume.clone());
        }
        Ok(())
    }
}
