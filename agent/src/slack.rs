//! Oversubscription: what ordinary tasks were given and do not use is lent to revocable ones, and taken back when it is
//! needed.
//!
//! Two pure deciders, asked once per round of samples with the same figures: the *estimator* (`estimate`) says how much
//! can be lent, the *QoS controller* (`qos`) slows revocable tasks down or picks one that must go. Here are the figures
//! that both look at; `actor::lend` gathers them and does what was decided. Nothing reads the kernel for this: the
//! samples are there already.

pub(crate) mod estimate;
pub(crate) mod qos;
pub(crate) mod settings;

use mezzo_api::model::{CgroupMode, Resources, Scalar};

use crate::{node::ContainerId, usage::NodePressure};

const MIB: u64 = 1024 * 1024;

/// Processors and memory: the two things that can be lent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    /// Thousandths of a processor.
    pub(crate) cpu_millis: u64,
    /// Bytes.
    pub(crate) memory: u64,
}

impl Amount {
    /// The processors and the memory of `resources`.
    pub(crate) fn of(resources: &Resources) -> Self {
        let millis = |scalar: Scalar| u64::try_from(scalar.millis()).unwrap_or(0);
        let memory = u128::from(millis(resources.mem())) * u128::from(MIB) / 1000;
        Self {
            cpu_millis: millis(resources.cpus()),
            memory: u64::try_from(memory).unwrap_or(u64::MAX),
        }
    }

    /// As resources; memory in whole MiB.
    pub(crate) fn to_resources(self) -> Resources {
        let scalar = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let mut resources = Resources::new();
        if self.cpu_millis > 0 {
            let cpus = Scalar::from_millis(scalar(self.cpu_millis));
            resources = resources.with_scalar("cpus", cpus);
        }
        if self.memory >= MIB {
            let mem = Scalar::from_millis(scalar((self.memory / MIB).saturating_mul(1000)));
            resources = resources.with_scalar("mem", mem);
        }
        resources
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory: self.memory.saturating_add(other.memory),
        }
    }
}

/// One running task in one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskUse {
    pub(crate) container: ContainerId,
    pub(crate) revocable: bool,
    /// It was asked to end.
    pub(crate) ends: bool,
    /// Unix milliseconds.
    pub(crate) started_at_ms: u64,
    /// What it holds.
    pub(crate) given: Amount,
    /// Thousandths of a processor; `None` before the second sample.
    pub(crate) cpu_millis: Option<u64>,
    /// Its working set, in bytes.
    pub(crate) memory: Option<u64>,
    /// Thousandths of the time in which something of it waited for a processor. Version 2 cgroups alone tell.
    pub(crate) cpu_pressure: Option<u64>,
    /// The same for memory.
    pub(crate) memory_pressure: Option<u64>,
    /// Its own limit holds it up.
    pub(crate) throttled: bool,
}

/// The machine in one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// What the agent offers for ordinary tasks.
    pub(crate) offers: Amount,
    /// Thousandths of all its processors.
    pub(crate) processors_millis: u64,
    /// Thousandths of a processor that are busy, whoever with.
    pub(crate) busy_millis: Option<u64>,
    pub(crate) memory: Option<u64>,
    pub(crate) memory_available: Option<u64>,
    /// Thousandths of the time in which something on the machine waited for a processor.
    pub(crate) cpu_pressure: Option<u64>,
    /// The same for memory.
    pub(crate) memory_pressure: Option<u64>,
}

/// Thousandths of the time that passed between two readings of a total in microseconds.
pub(crate) fn permille(before: Option<u64>, after: Option<u64>, window_ms: u64) -> Option<u64> {
    let waited = after?.checked_sub(before?)?;
    // Microseconds in a window of milliseconds are thousandths as they are.
    waited.checked_div(window_ms).map(|share| share.min(1000))
}

impl Machine {
    /// Takes the pressure from two readings in.
    pub(crate) fn with_pressure(
        mut self,
        before: Option<(u64, NodePressure)>,
        (now_ms, now): (u64, NodePressure),
    ) -> Self {
        if let Some((then_ms, then)) = before {
            let window = now_ms.saturating_sub(then_ms);
            self.cpu_pressure = permille(then.cpu_some_us, now.cpu_some_us, window);
            self.memory_pressure = permille(then.memory_some_us, now.memory_some_us, window);
        }
        self
    }
}

/// Whether each task's own pressure is told.
pub(crate) fn tells_pressure(mode: CgroupMode) -> bool {
    match mode {
        CgroupMode::V2 => true,
        CgroupMode::V1 | CgroupMode::Hybrid | CgroupMode::Unknown => false,
    }
}

/// Use of all that are revocable, or of all that are not; what is not known counts as nothing.
fn used(tasks: &[TaskUse], revocable: bool) -> Amount {
    let these = tasks.iter().filter(|task| task.revocable == revocable);
    these.fold(Amount::default(), |sum, task| {
        sum.plus(Amount {
            cpu_millis: task.cpu_millis.unwrap_or(0),
            memory: task.memory.unwrap_or(0),
        })
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A task that holds a processor and 512 MiB and uses so much.
    pub(crate) fn task(name: &str, revocable: bool, cpu_millis: u64, memory_mib: u64) -> TaskUse {
        TaskUse {
            container: ContainerId::derive(name, 1),
            revocable,
            ends: false,
            started_at_ms: 0,
            given: Amount {
                cpu_millis: 1000,
                memory: 512 * MIB,
            },
            cpu_millis: Some(cpu_millis),
            memory: Some(memory_mib * MIB),
            cpu_pressure: None,
            memory_pressure: None,
            throttled: false,
        }
    }

    #[test]
    fn amounts_are_resources_and_back() {
        let resources: Resources = "cpus:1.5;mem:64;disk:7".parse().unwrap();
        let amount = Amount::of(&resources);
        assert_eq!((amount.cpu_millis, amount.memory), (1500, 64 * MIB));
        assert_eq!(amount.to_resources(), "cpus:1.5;mem:64".parse().unwrap());
        assert_eq!(Amount::default().to_resources(), Resources::new());
    }

    #[test]
    fn pressure_is_a_share_of_the_time_that_passed() {
        assert_eq!(permille(Some(1_000), Some(501_000), 2_000), Some(250));
        assert_eq!(permille(Some(0), Some(u64::MAX), 1), Some(1000));
        assert_eq!(permille(Some(5), Some(4), 1), None, "it began anew");
        assert_eq!(permille(None, Some(4), 1), None);
        assert_eq!(permille(Some(0), Some(4), 0), None);
    }
}
