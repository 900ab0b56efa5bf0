//! What a task may take on the disk, and when it takes too much. Pure.
//!
//! The bound is the task's `disk` resource, as in Mesos: what it holds of the machine's disk is for its writable layer,
//! its sandbox and its logs together. A task without `disk` has no bound. A persistent volume has its size, for itself.

use mezzo_api::model::{TaskId, TaskInfo, VolumeId};

use super::status::mebibytes;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskUse {
    /// Writable layer, sandbox and logs; at least so many where `counted` says that there is more.
    pub(crate) bytes: u64,
    /// Whether that is all.
    pub(crate) counted: Counted,
    /// Bytes beside the bound, because the file system itself refuses what is beyond it: logs, which have bounds of their own.
    pub(crate) beside: u64,
    /// The persistent volumes that it writes, for themselves.
    pub(crate) volumes: Vec<VolumeUse>,
}

impl DiskUse {
    /// What counts against the bound.
    pub(crate) fn that_counts(&self) -> u64 {
        self.bytes.saturating_sub(self.beside)
    }
}

/// What is in a persistent volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeUse {
    pub(crate) id: VolumeId,
    pub(crate) bytes: u64,
    pub(crate) counted: Counted,
}

/// Whether everything was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// It was.
    All,
    /// There are more files than can be counted.
    TooMany,
    /// There are directories too deep to be counted.
    TooDeep,
}

/// The bound in bytes, if the task has one.
pub(crate) fn limit(info: &TaskInfo) -> Option<u64> {
    let millis = u64::try_from(info.resources.disk().millis()).unwrap_or(0);
    let bytes = u128::from(millis) * (1 << 20) / 1000;
    (bytes > 0).then(|| u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// The bound of tasks that have something together; none if one of them has none.
pub(crate) fn sum<'a>(infos: impl Iterator<Item = &'a TaskInfo>) -> Option<u64> {
    infos
        .map(limit)
        .try_fold(0_u64, |sum, one| Some(sum.saturating_add(one?)))
}

/// Where the file system bounds the volumes of a group: what it keeps for each member's own folders, so that nobody is killed
/// for the empty folders of its root file system after a write to a volume was refused that it may have coped with.
const OWN_FOLDERS: u64 = 256 << 10;

/// What a quota lets the volumes of a group take: what its members hold together, less a little for their own folders.
pub(crate) fn volumes_limit<'a>(infos: impl Iterator<Item = &'a TaskInfo> + Clone) -> Option<u64> {
    let all = sum(infos.clone())?;
    let n_members = u64::try_from(infos.count()).unwrap_or(u64::MAX);
    Some(all - OWN_FOLDERS.saturating_mul(n_members).min(all / 4))
}

/// What a group has on the disk: its volumes, and what is each member's own.
#[derive(Debug)]
pub(crate) struct GroupUse<'a> {
    /// The volumes by name, and where some member has each.
    pub(crate) volumes: Vec<(&'a str, Option<&'a str>)>,
    /// What is in them.
    pub(crate) held: &'a DiskUse,
    /// The members that are alive, with what each takes that counts.
    pub(crate) members: Vec<(&'a TaskId, u64)>,
}

impl GroupUse<'_> {
    fn bytes(&self) -> u64 {
        let own = self.members.iter().map(|(_, bytes)| *bytes);
        own.fold(self.held.bytes, u64::saturating_add)
    }

    fn volumes(&self) -> String {
        let named = self.volumes.iter().map(|(name, path)| match path {
            Some(path) => format!("{name} (at {path})"),
            None => (*name).to_owned(),
        });
        let word = match self.volumes.len() {
            1 => "volume",
            _ => "volumes",
        };
        format!("{word} {}", named.collect::<Vec<_>>().join(" and "))
    }

    /// What takes most comes first.
    fn parts(&self) -> String {
        let mut parts: Vec<(u64, String)> = Vec::new();
        parts.extend((!self.volumes.is_empty()).then(|| (self.held.bytes, self.volumes())));
        let members = self.members.iter();
        parts.extend(members.map(|(id, bytes)| (*bytes, format!("task {id}"))));
        parts.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let beyond = parts.len().saturating_sub(PARTS_TOLD);
        parts.truncate(PARTS_TOLD);
        let mut told: Vec<String> = parts
            .iter()
            .map(|(bytes, what)| format!("{what} {}", mebibytes(*bytes)))
            .collect();
        told.extend((beyond > 0).then(|| format!("{beyond} more")));
        told.join(", ")
    }
}

/// More would make a message that nobody reads.
const PARTS_TOLD: usize = 4;

/// Why the tasks of a group must end that take this much with the group's volumes; `None`: they need not. It says what takes
/// how much of it.
pub(crate) fn group_breach(used: &GroupUse<'_>, limit: Option<u64>) -> Option<String> {
    let limit = limit?;
    let all = used.bytes();
    if all > limit {
        let (all, may) = apart(all, limit);
        return Some(format!(
            "its group takes {all} of the disk, the limit of its tasks together is {may}: {}",
            used.parts()
        ));
    }
    uncounted(
        used.held.counted,
        &format!("its group's {}", used.volumes()),
        &mebibytes(limit),
    )
}

/// Two numbers of bytes that are not the same, as text that is not the same.
fn apart(one: u64, other: u64) -> (String, String) {
    let told = (mebibytes(one), mebibytes(other));
    if told.0 == told.1 {
        (format!("{one} bytes"), format!("{other} bytes"))
    } else {
        told
    }
}

/// Why a task that takes this much must end; `None`: it need not. One that a quota has refused more to is not killed for the
/// few bytes of its logs: it may have noticed, and go on. What cannot be counted counts as too much, or files
/// could be hidden there.
pub(crate) fn breach(used: &DiskUse, limit: Option<u64>) -> Option<String> {
    let limit = limit?;
    if used.that_counts() > limit {
        let (all, may) = apart(used.bytes, limit);
        return Some(format!(
            "its writable layer, sandbox and logs take {all} of the disk, its limit is {may}"
        ));
    }
    uncounted(used.counted, "it", &mebibytes(limit))
}

/// Why a task that writes these volumes must end: one holds more than its size. The size is the volume's, not the
/// task's: the next task that mounts it is measured against it too.
pub(crate) fn volume_breach(used: &DiskUse, info: &TaskInfo) -> Option<String> {
    used.volumes.iter().find_map(|volume| {
        let mut mounted = info.persistent.iter();
        let size_mb = mounted.find(|one| one.id == volume.id)?.size_mb;
        let size = size_mb.saturating_mul(1 << 20);
        let what = format!("its persistent volume {}", volume.id);
        if volume.bytes > size {
            let (has, size) = apart(volume.bytes, size);
            return Some(format!("{what} holds {has}, its size is {size}"));
        }
        uncounted(volume.counted, &what, &mebibytes(size))
    })
}

fn uncounted(counted: Counted, what: &str, may: &str) -> Option<String> {
    let how = match counted {
        Counted::All => return None,
        Counted::TooMany => "more files than",
        Counted::TooDeep => "directories deeper in each other than",
    };
    Some(format!(
        "{what} has {how} can be counted, so its limit of {may} cannot be held"
    ))
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::PersistentVolume;

    use super::*;
    use crate::task::tests::a_task;

    #[test]
    fn the_bound_is_what_the_task_holds_of_the_disk() {
        let mut task = a_task("t");
        for (disk, bytes) in [
            ("cpus:1", None),
            ("cpus:1;disk:0", None),
            ("disk:10", Some(10 << 20)),
            ("disk:0.5", Some(1 << 19)),
        ] {
            task.resources = disk.parse().unwrap();
            assert_eq!(limit(&task), bytes, "{disk}");
        }
    }

    #[test]
    fn only_what_is_beyond_the_bound_or_cannot_be_counted_is_too_much() {
        let used = |bytes, counted| DiskUse {
            bytes,
            counted,
            beside: 0,
            volumes: Vec::new(),
        };
        assert_eq!(breach(&used(u64::MAX, Counted::TooMany), None), None);
        assert_eq!(breach(&used(10 << 20, Counted::All), Some(10 << 20)), None);
        let message = breach(&used((10 << 20) + 512 * 1024, Counted::All), Some(10 << 20)).unwrap();
        assert_eq!(
            message,
            "its writable layer, sandbox and logs take 10.5 MiB of the disk, its limit is 10.0 MiB"
        );
        // Up to its quota, and logs.
        let full = DiskUse {
            beside: 4096,
            ..used((10 << 20) + 4096, Counted::All)
        };
        assert_eq!(breach(&full, Some(10 << 20)), None);
        assert!(breach(&full, Some((10 << 20) - 1)).is_some());
        for counted in [Counted::TooMany, Counted::TooDeep] {
            assert!(breach(&used(1, counted), Some(10 << 20)).is_some());
        }
    }

    /// What fills the disk is named first, whatever little the others have: that is what somebody has to look at.
    #[test]
    fn what_takes_most_of_a_groups_disk_is_named_first() {
        let held = |bytes, counted| DiskUse {
            bytes,
            counted,
            beside: 0,
            volumes: Vec::new(),
        };
        let (web, logs): (TaskId, TaskId) = ("web".parse().unwrap(), "logs".parse().unwrap());
        let may = Some(10 << 20);
        let told = |held: &DiskUse, members: [u64; 2]| {
            let used = GroupUse {
                volumes: vec![("cache", Some("/var/cache")), ("spare", None)],
                held,
                members: vec![(&web, members[0]), (&logs, members[1])],
            };
            group_breach(&used, may)
        };
        let full = held(10 << 20, Counted::All);
        assert_eq!(told(&full, [0, 0]), None);
        assert_eq!(
            told(&full, [0, 1 << 20]).unwrap(),
            "its group takes 11.0 MiB of the disk, the limit of its tasks together is 10.0 MiB: \
             volumes cache (at /var/cache) and spare 10.0 MiB, task logs 1.0 MiB, task web 0.0 MiB"
        );
        // Little too much is not told as nothing.
        let message = told(&full, [4096, 0]).unwrap();
        let (all, limit) = ("takes 10489856 bytes", "is 10485760 bytes");
        assert!(
            message.contains(all) && message.contains(limit),
            "{message}"
        );
        let message = told(&held(0, Counted::All), [1 << 20, 10 << 20]).unwrap();
        assert!(
            message.contains(": task logs 10.0 MiB, task web"),
            "{message}"
        );
        let message = told(&held(1, Counted::TooDeep), [0, 0]).unwrap();
        assert!(message.contains("its group's volumes cache"), "{message}");
    }

    #[test]
    fn of_many_members_those_with_most_are_named() {
        let ids: Vec<TaskId> = (0..64).map(|n| format!("t-{n}").parse().unwrap()).collect();
        let held = DiskUse {
            bytes: 0,
            counted: Counted::All,
            beside: 0,
            volumes: Vec::new(),
        };
        let used = GroupUse {
            volumes: Vec::new(),
            held: &held,
            members: ids.iter().zip((1_u64..).map(|n| n << 20)).collect(),
        };
        let message = group_breach(&used, Some(10 << 20)).unwrap();
        let end = ": task t-63 64.0 MiB, task t-62 63.0 MiB, task t-61 62.0 MiB, task t-60 61.0 MiB, 60 more";
        assert!(message.ends_with(end), "{message}");
    }

    #[test]
    fn a_quota_of_volumes_leaves_a_little_for_each_members_own_folders() {
        let with = |disks: &[&str]| {
            let tasks = disks.iter().map(|disk| {
                let mut task = a_task("t");
                task.resources = disk.parse().unwrap();
                task
            });
            let tasks: Vec<TaskInfo> = tasks.collect();
            volumes_limit(tasks.iter())
        };
        assert_eq!(with(&["disk:6", "disk:4"]), Some((10 << 20) - (512 << 10)));
        assert_eq!(with(&["disk:0.5", "disk:0.5"]), Some(768 << 10));
        assert_eq!(with(&["disk:6", "cpus:1"]), None);
    }

    #[test]
    fn a_volume_is_measured_against_its_own_size() {
        let mut task = a_task("t");
        let volume: PersistentVolume = serde_json::from_value(serde_json::json!({
            "id": "data",
            "stack": [{"role": "eng", "kind": "dynamic"}],
            "size_mb": 10,
        }))
        .unwrap();
        task.persistent = vec![volume];
        let used = |id: &str, bytes, counted| DiskUse {
            bytes: u64::MAX,
            counted: Counted::TooMany,
            beside: 0,
            volumes: vec![VolumeUse {
                id: id.parse().unwrap(),
                bytes,
                counted,
            }],
        };
        assert_eq!(
            volume_breach(&used("data", 10 << 20, Counted::All), &task),
            None
        );
        assert_eq!(
            volume_breach(&used("gone", 11 << 20, Counted::All), &task),
            None
        );
        assert_eq!(
            volume_breach(&used("data", 11 << 20, Counted::All), &task).unwrap(),
            "its persistent volume data holds 11.0 MiB, its size is 10.0 MiB"
        );
        assert!(volume_breach(&used("data", 1, Counted::TooDeep), &task).is_some());
    }
}
