//! What a task may take on the disk, and when it takes too much. Pure.
//!
//! The bound is the task's `disk` resource, as in Mesos: what it holds of the machine's disk is for its writable layer,
//! its sandbox and its logs together. A task without `disk` has no bound.

use mezzo_api::model::TaskInfo;

use super::status::mebibytes;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskUse {
    /// Writable layer, sandbox and logs; at least so many where `counted` says that there is more.
    pub(crate) bytes: u64,
    /// Whether that is all.
    pub(crate) counted: Counted,
    /// Bytes beside the bound, because the file system itself refuses what is beyond it: logs, which have bounds of their own.
    pub(crate) beside: u64,
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

/// Why the tasks of a group must end that take this much with the group's volumes; `None`: they need not.
pub(crate) fn group_breach(used: DiskUse, limit: Option<u64>) -> Option<String> {
    let may = mebibytes(limit?);
    if used.bytes > limit? {
        return Some(format!(
            "the tasks of its group and the group's volumes take {} of the disk, their limit together is {may}",
            mebibytes(used.bytes)
        ));
    }
    match used.counted {
        Counted::All => None,
        Counted::TooMany | Counted::TooDeep => Some(format!(
            "the volumes of its group have more files, or deeper directories, than can be counted, so the limit of {may} cannot be held"
        )),
    }
}

/// Why a task that takes this much must end; `None`: it need not. One that a quota has refused more to is not killed for the
/// few bytes of its logs: it may have noticed, and go on. What cannot be counted counts as too much, or files
/// could be hidden there.
pub(crate) fn breach(used: DiskUse, limit: Option<u64>) -> Option<String> {
    let limit = limit?;
    let may = mebibytes(limit);
    if used.bytes.saturating_sub(used.beside) > limit {
        return Some(format!(
            "its writable layer, sandbox and logs take {} of the disk, its limit is {may}",
            mebibytes(used.bytes)
        ));
    }
    match used.counted {
        Counted::All => None,
        Counted::TooMany => Some(format!(
            "it has more files than can be counted, so its limit of {may} cannot be held"
        )),
        Counted::TooDeep => Some(format!(
            "it has directories deeper in each other than can be counted, so its limit of {may} cannot be held"
        )),
    }
}

#[cfg(test)]
mod tests {
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
        };
        assert_eq!(breach(used(u64::MAX, Counted::TooMany), None), None);
        assert_eq!(breach(used(10 << 20, Counted::All), Some(10 << 20)), None);
        let message = breach(used((10 << 20) + 512 * 1024, Counted::All), Some(10 << 20)).unwrap();
        assert_eq!(
            message,
            "its writable layer, sandbox and logs take 10.5 MiB of the disk, its limit is 10.0 MiB"
        );
        // Up to its quota, and logs.
        let full = DiskUse {
            beside: 4096,
            ..used((10 << 20) + 4096, Counted::All)
        };
        assert_eq!(breach(full, Some(10 << 20)), None);
        assert!(breach(full, Some((10 << 20) - 1)).is_some());
        for counted in [Counted::TooMany, Counted::TooDeep] {
            assert!(breach(used(1, counted), Some(10 << 20)).is_some());
        }
    }
}
