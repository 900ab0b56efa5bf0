//! What a task may use, from its resources and limits to the numbers that the runtime takes; and what this machine
//! cannot enforce. Pure.

use std::collections::BTreeSet;

use mezzo_api::model::{CgroupMode, Reason, Scalar, TaskInfo, TaskState};

use super::status::Outcome;
use crate::{
    node::{ContainerId, Limits},
    slack::qos::Throttle,
};

const MIB: u64 = 1024 * 1024;
/// Less than this the kernel cannot give.
const LEAST_CPU_MILLIS: u64 = 10;

/// The limits of a task's container, which may run on these processors only (`None`: on all).
pub(crate) fn limits(
    info: &TaskInfo,
    processors: Option<BTreeSet<u32>>,
    default_pids: u64,
) -> Limits {
    let more = &info.limits;
    let booked = bytes(info.resources.mem());
    let memory = booked.max(info.memory_limit_mb.map_or(0, mib));
    let millis = |scalar: Scalar| u64::try_from(scalar.millis()).unwrap_or(0);
    let cpu_millis = millis(info.resources.cpus());
    let mut cpu_limit_millis = info.cpu_limit.map(millis);
    if info.revocable {
        // What was not lent to it is not its own to use.
        let most = cpu_millis.max(LEAST_CPU_MILLIS);
        cpu_limit_millis = Some(cpu_limit_millis.map_or(most, |limit| limit.min(most)));
    }
    Limits {
        cpu_millis,
        cpu_limit_millis,
        memory_bytes: (memory > 0 && !more.memory_unlimited).then_some(memory),
        pids: Some(info.pids_limit.unwrap_or(default_pids)),
        swap_bytes: more.swap_mb.map(mib),
        memory_high_bytes: more.memory_high_mb.map(mib),
        memory_low_bytes: more.memory_low_mb.map(mib),
        io_weight: more.io_weight.map(u64::from),
        io_max: more.io_max.clone(),
        cpus: processors,
        huge_pages: more.huge_pages.clone(),
        yields: info.revocable,
    }
}

/// The limits of a revocable task that is held back so far.
pub(crate) fn held_back(limits: Limits, id: &ContainerId, throttle: &Throttle) -> Limits {
    let cut = |limit: u64| {
        let cut = u128::from(limit) * u128::from(throttle.cpu_permille) / 1000;
        u64::try_from(cut).unwrap_or(u64::MAX).max(LEAST_CPU_MILLIS)
    };
    let high = throttle.memory_high.get(id).copied();
    let high = match (limits.memory_high_bytes, high) {
        (Some(own), Some(high)) => Some(own.min(high)),
        (own, high) => own.or(high),
    };
    Limits {
        cpu_limit_millis: limits.cpu_limit_millis.map(cut),
        memory_high_bytes: high,
        ..limits
    }
}

/// What this machine cannot enforce, with the field: a limit that does not hold is worse than none. What only a look
/// at the machine shows (whether swap is accounted, which disks there are) the runtime refuses at the start.
pub(crate) fn refuse(info: &TaskInfo, mode: CgroupMode) -> Option<Outcome> {
    match mode {
        CgroupMode::V2 => return None,
        // Unknown: the runtime will say what is wrong with this machine.
        CgroupMode::Unknown => return None,
        CgroupMode::V1 | CgroupMode::Hybrid => {}
    }
    let limits = &info.limits;
    let only_v2 = [
        ("memory_high_mb", limits.memory_high_mb.is_some()),
        ("memory_low_mb", limits.memory_low_mb.is_some()),
        ("io_weight", limits.io_weight.is_some()),
        ("io_max", !limits.io_max.is_empty()),
    ];
    let (field, _) = only_v2.into_iter().find(|(_, given)| *given)?;
    Some(Outcome::new(
        TaskState::Error,
        Reason::TaskInvalid,
        format!(
            "limits.{field}: needs cgroup v2, and this machine's controllers are on version 1 (its operator can boot it with systemd.unified_cgroup_hierarchy=1)"
        ),
    ))
}

fn mib(mebibytes: u64) -> u64 {
    mebibytes.saturating_mul(MIB)
}

fn bytes(mebibytes: Scalar) -> u64 {
    let millis = u64::try_from(mebibytes.millis()).unwrap_or(0);
    millis.saturating_mul(MIB) / 1000
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::IoLimit;

    use super::*;
    use crate::task::tests::a_task;

    #[test]
    fn memory_is_the_larger_of_share_and_limit() {
        let mut task = a_task("t");
        task.resources = "cpus:0.5;mem:32".parse().unwrap();
        let found = limits(&task, None, 4096);
        assert_eq!(found.memory_bytes, Some(32 << 20));
        assert_eq!((found.cpu_millis, found.pids), (500, Some(4096)));
        task.memory_limit_mb = Some(64);
        assert_eq!(limits(&task, None, 1).memory_bytes, Some(64 << 20));
        task.memory_limit_mb = None;
        task.limits.memory_unlimited = true;
        assert_eq!(limits(&task, None, 1).memory_bytes, None);
    }

    #[test]
    fn a_revocable_task_has_its_share_at_most_and_less_when_it_is_held_back() {
        let mut task = a_task("t");
        task.revocable = true;
        task.resources = "cpus:0.5;mem:32".parse().unwrap();
        let id = ContainerId::derive("t", 1);
        let found = limits(&task, None, 1);
        assert_eq!((found.cpu_limit_millis, found.yields), (Some(500), true));
        let throttle = Throttle {
            cpu_permille: 250,
            memory_high: [(id.clone(), 20 << 20)].into(),
        };
        let held = held_back(found.clone(), &id, &throttle);
        assert_eq!(held.cpu_limit_millis, Some(125));
        assert_eq!(held.memory_high_bytes, Some(20 << 20));
        assert_eq!(held_back(found.clone(), &id, &Throttle::default()), found);
        task.cpu_limit = Some("0.02".parse().unwrap());
        let held = held_back(limits(&task, None, 1), &id, &throttle);
        assert_eq!(held.cpu_limit_millis, Some(LEAST_CPU_MILLIS));
        task.revocable = false;
        let ordinary = limits(&task, None, 1);
        assert_eq!(
            (ordinary.cpu_limit_millis, ordinary.yields),
            (Some(20), false)
        );
    }

    #[test]
    fn limits_are_carried_in_bytes() {
        let mut task = a_task("t");
        task.limits.memory_high_mb = Some(3);
        task.limits.memory_low_mb = Some(u64::MAX);
        task.limits.swap_mb = Some(0);
        task.limits.io_weight = Some(7);
        let found = limits(&task, None, 1);
        assert_eq!(found.memory_high_bytes, Some(3 << 20));
        assert_eq!(found.memory_low_bytes, Some(u64::MAX));
        assert_eq!((found.swap_bytes, found.io_weight), (Some(0), Some(7)));
    }

    #[test]
    fn what_the_machine_cannot_enforce_is_refused_by_its_field() {
        let refused = |change: fn(&mut TaskInfo), mode| {
            let mut task = a_task("t");
            change(&mut task);
            refuse(&task, mode).map(|outcome| outcome.message)
        };
        let high: fn(&mut TaskInfo) = |task| task.limits.memory_high_mb = Some(4);
        assert_eq!(refused(high, CgroupMode::V2), None);
        let message = refused(high, CgroupMode::Hybrid).unwrap();
        assert!(message.starts_with("limits.memory_high_mb: needs cgroup v2"));
        let io: fn(&mut TaskInfo) = |task| {
            let mut limit = IoLimit::new("8:0".parse().unwrap());
            limit.reads_per_sec = Some(1);
            task.limits.io_max = vec![limit];
        };
        assert!(
            refused(io, CgroupMode::V1)
                .unwrap()
                .starts_with("limits.io_max: ")
        );
        assert_eq!(refused(|_| {}, CgroupMode::V1), None);
        // Swap can be limited on both; whether this machine accounts it, the runtime knows.
        assert_eq!(
            refused(|task| task.limits.swap_mb = Some(1), CgroupMode::V1),
            None
        );
    }
}
