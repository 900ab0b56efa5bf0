//! How much can be lent. Pure.
//!
//! Of each ordinary task: what it was given, less its *decayed peak* of use, less a safety share. The peak rises to
//! what is used at once, and sinks slowly towards it; a task whose use is not known uses all that it was given, and so
//! does one that has just begun. So a task that wakes up has its share back with the next sample, and one that falls
//! asleep lends it little by little.
//!
//! What is *told* moves in grains, or every sample would take offers back: down at once, never above the estimate; up
//! at a pace.

use std::collections::HashMap;

use super::{Amount, MIB, Machine, TaskUse, used};
use crate::node::ContainerId;

/// What is told is a multiple of this.
const GRAIN: Amount = Amount {
    cpu_millis: 100,
    memory: 32 * MIB,
};
/// Between two words that it is more.
const PACE_MS: u64 = 15_000;

/// What the operator decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// In this time a peak sinks by about two thirds of the way to what is used.
    pub(crate) window_ms: u64,
    /// Of what each task was given; never lent.
    pub(crate) safety_percent: u64,
}

/// The estimator.
#[derive(Debug)]
pub(crate) struct Estimator {
    settings: Settings,
    /// By ordinary task.
    peaks: HashMap<ContainerId, Amount>,
    at_ms: Option<u64>,
    told: Amount,
    grew_ms: Option<u64>,
}

impl Estimator {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            peaks: HashMap::new(),
            at_ms: None,
            told: Amount::default(),
            grew_ms: None,
        }
    }

    /// What was last told.
    #[cfg(test)]
    pub(crate) fn told(&self) -> Amount {
        self.told
    }

    /// Takes a round in; what to tell, if it is another amount than before.
    pub(crate) fn round(
        &mut self,
        now_ms: u64,
        tasks: &[TaskUse],
        machine: &Machine,
    ) -> Option<Amount> {
        let slack = whole(self.estimate(now_ms, tasks, machine));
        let grows = slack.cpu_millis > self.told.cpu_millis || slack.memory > self.told.memory;
        let may_grow = self
            .grew_ms
            .is_none_or(|then| now_ms.saturating_sub(then) >= PACE_MS);
        let next = if grows && may_grow {
            self.grew_ms = Some(now_ms);
            slack
        } else {
            Amount {
                cpu_millis: slack.cpu_millis.min(self.told.cpu_millis),
                memory: slack.memory.min(self.told.memory),
            }
        };
        let changed = next != self.told;
        self.told = next;
        changed.then_some(next)
    }

    /// What is not used, exactly.
    fn estimate(&mut self, now_ms: u64, tasks: &[TaskUse], machine: &Machine) -> Amount {
        let passed_ms = now_ms.saturating_sub(self.at_ms.replace(now_ms).unwrap_or(now_ms));
        let window_ms = self.settings.window_ms.max(1);
        let mut slack = Amount::default();
        let mut peaks = HashMap::with_capacity(self.peaks.len());
        for task in tasks.iter().filter(|task| !task.revocable) {
            let given = task.given;
            let before = self.peaks.get(&task.container).copied().unwrap_or(given);
            let sunk = |before, used: Option<u64>, given| {
                decayed(before, used.unwrap_or(given), passed_ms, window_ms)
            };
            let peak = Amount {
                cpu_millis: sunk(before.cpu_millis, task.cpu_millis, given.cpu_millis),
                memory: sunk(before.memory, task.memory, given.memory),
            };
            slack = slack.plus(Amount {
                cpu_millis: self.unused(given.cpu_millis, peak.cpu_millis),
                memory: self.unused(given.memory, peak.memory),
            });
            peaks.insert(task.container.clone(), peak);
        }
        // Those that have ended go.
        self.peaks = peaks;
        // Memory that something else on the machine has taken is not there, whatever the books say.
        if let Some(available) = machine.memory_available {
            let there = available.saturating_add(used(tasks, true).memory);
            slack.memory = slack.memory.min(there);
        }
        slack
    }

    fn unused(&self, given: u64, peak: u64) -> u64 {
        let safety = u128::from(given) * u128::from(self.settings.safety_percent) / 100;
        let safety = u64::try_from(safety).unwrap_or(u64::MAX);
        given.saturating_sub(peak).saturating_sub(safety)
    }
}

/// A peak after so much time in which `used` was used.
fn decayed(peak: u64, used: u64, passed_ms: u64, window_ms: u64) -> u64 {
    let Some(above) = peak.checked_sub(used) else {
        return used;
    };
    let passed = u128::from(passed_ms.min(window_ms));
    let sinks = (u128::from(above) * passed).div_ceil(u128::from(window_ms));
    peak - u64::try_from(sinks).unwrap_or(above).min(above)
}

/// In whole grains.
fn whole(amount: Amount) -> Amount {
    Amount {
        cpu_millis: amount.cpu_millis - amount.cpu_millis % GRAIN.cpu_millis,
        memory: amount.memory - amount.memory % GRAIN.memory,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slack::tests::task;

    const SETTINGS: Settings = Settings {
        window_ms: 300_000,
        safety_percent: 10,
    };

    fn run(estimator: &mut Estimator, from_ms: u64, to_ms: u64, tasks: &[TaskUse]) {
        for now in (from_ms..to_ms).step_by(2_000) {
            estimator.round(now, tasks, &Machine::default());
        }
    }

    #[test]
    fn a_sleeper_lends_little_by_little_and_has_all_back_at_once() {
        let mut estimator = Estimator::new(SETTINGS);
        let asleep = [task("a", false, 0, 32)];
        run(&mut estimator, 100_000, 130_000, &asleep);
        let early = estimator.told();
        assert!(early.cpu_millis <= 100, "{early:?}");
        run(&mut estimator, 130_000, 3_900_000, &asleep);
        let late = estimator.told();
        // A processor less the safety share; 512 MiB less 32 and less 51.2, in whole grains.
        assert_eq!((late.cpu_millis, late.memory / MIB), (900, 416), "{late:?}");
        let awake = [task("a", false, 900, 32)];
        let told = estimator.round(3_902_000, &awake, &Machine::default());
        assert_eq!(told.map(|told| told.cpu_millis), Some(0));
    }

    #[test]
    fn unknown_use_is_all_use_and_revocable_tasks_lend_nothing() {
        let mut estimator = Estimator::new(SETTINGS);
        let unknown = TaskUse {
            cpu_millis: None,
            memory: None,
            ..task("a", false, 0, 0)
        };
        let tasks = [unknown, task("b", true, 0, 0)];
        run(&mut estimator, 100_000, 3_000_000, &tasks);
        assert_eq!(estimator.told(), Amount::default());
    }

    #[test]
    fn memory_that_the_machine_does_not_have_is_not_lent() {
        let mut estimator = Estimator::new(SETTINGS);
        let tasks = [task("a", false, 0, 0), task("b", true, 0, 64)];
        let machine = Machine {
            memory_available: Some(64 * MIB),
            ..Machine::default()
        };
        for now in (100_000..3_000_000).step_by(2_000) {
            estimator.round(now, &tasks, &machine);
        }
        assert_eq!(estimator.told().memory, 128 * MIB);
    }

    #[test]
    fn a_flutter_is_told_once() {
        let mut estimator = Estimator::new(SETTINGS);
        let mut words = 0;
        for n in 0..4_000 {
            // The peak of this stays near 80, whatever the sample.
            let tasks = [task("a", false, 20 + (n % 4) * 20, 32)];
            let told = estimator.round(100_000 + n * 2_000, &tasks, &Machine::default());
            words += u64::from(told.is_some() && n > 3_000);
        }
        assert_eq!((words, estimator.told().cpu_millis), (0, 800));
    }

    proptest! {
        #[test]
        fn what_is_used_or_kept_for_safety_is_never_lent(
            rounds in prop::collection::vec(
                (0_u64..20_000, prop::collection::vec((0_u64..5, prop::option::of(0_u64..2_000), prop::option::of(0_u64..700), any::<bool>()), 0..5)),
                1..60,
            ),
            safety_percent in 0_u64..100,
        ) {
            let mut estimator = Estimator::new(Settings { window_ms: 60_000, safety_percent });
            let mut now = 1_000_000;
            for (passed, uses) in rounds {
                now += passed;
                let mut tasks: Vec<TaskUse> = Vec::new();
                for (who, cpu, memory, revocable) in uses {
                    let name = format!("t{who}");
                    if tasks.iter().all(|task| task.container != ContainerId::derive(&name, 1)) {
                        tasks.push(TaskUse {
                            cpu_millis: cpu,
                            memory: memory.map(|mib| mib * MIB),
                            ..task(&name, revocable, 0, 0)
                        });
                    }
                }
                let before = estimator.told();
                let changed = estimator.round(now, &tasks, &Machine::default());
                let told = estimator.told();
                prop_assert_eq!(changed.is_some(), told != before);
                let most = tasks.iter().filter(|task| !task.revocable).fold(Amount::default(), |sum, task| sum.plus(Amount {
                    cpu_millis: (1000 - 1000 * safety_percent / 100).saturating_sub(task.cpu_millis.unwrap_or(1000)),
                    memory: (512 * MIB - 512 * MIB * safety_percent / 100).saturating_sub(task.memory.unwrap_or(512 * MIB)),
                }));
                prop_assert!(told.cpu_millis <= most.cpu_millis && told.memory <= most.memory, "{told:?} of {most:?}");
            }
        }

        #[test]
        fn a_peak_is_never_below_the_use_and_sinks_until_it_is_there(peak in any::<u64>(), used in any::<u64>(), passed in any::<u64>(), window in 1_u64..1_000_000) {
            let after = decayed(peak, used, passed, window);
            prop_assert!(after >= used && after <= peak.max(used));
            if passed > 0 && peak > used {
                prop_assert!(after < peak);
            }
        }
    }
}
