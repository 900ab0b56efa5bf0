//! The QoS controller: when ordinary tasks need what was lent, revocable ones are slowed down, and if that does not
//! help, killed, one at a time. Pure.
//!
//! ```text
//! processors short: ── quota of all revocable tasks a step down ──…── lowest step, still waits ── kill one ── pause
//! memory short:     ── (version 2) their memory is squeezed ── still short ── kill one ── pause
//! calm for a while: ── a step up, if what they may use then still fits
//! ```
//!
//! *Short* is what the books show (tasks use nearly all that the machine offers, which cannot be while only what was
//! not used is lent), and what the kernel tells (somebody waits). Waiting counts only where revocable tasks can be to
//! blame: not of a task that its own limit holds up or that uses more than it was given, and never when revocable
//! tasks use nothing. Version 1 cgroups tell no task's waiting; there the machine's counts, while ordinary work fills
//! half of it, or memory really is short.
//!
//! The one to go is the one that began last: it loses the least.

use std::collections::BTreeMap;

use mezzo_api::model::Scalar;

use super::{Amount, MIB, Machine, TaskUse, used};
use crate::{node::ContainerId, task::status::mebibytes};

/// Of what each revocable task holds of the processors, in thousandths: how much it may use, step by step.
const STEPS: [u64; 4] = [1000, 500, 250, 100];
/// Without a sign of shortage, until a step up.
const CALM_MS: u64 = 10_000;
/// The same, until memory is given back.
const MEMORY_CALM_MS: u64 = 30_000;
/// Nobody is squeezed below this.
const LEAST_MEMORY: u64 = 16 * MIB;
/// Who uses less of it is not killed for it: that would help nobody.
const WORTH: Amount = Amount {
    cpu_millis: 10,
    memory: MIB,
};

/// What the operator decided, and what the machine can do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Of the time; who waits longer for a processor waits too long.
    pub(crate) cpu_pressure_percent: u64,
    /// The same for memory.
    pub(crate) memory_pressure_percent: u64,
    /// Of what the machine offers; beyond it, it is short.
    pub(crate) use_percent: u64,
    /// Between two kills, and between the lowest step and the first.
    pub(crate) pause_ms: u64,
    /// Each task's own waiting is told, and its memory can be taken back: version 2 cgroups.
    pub(crate) by_task: bool,
}

/// How far revocable tasks are held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Throttle {
    /// Of the processors that they hold, in thousandths.
    pub(crate) cpu_permille: u64,
    /// Bytes beyond which their memory is taken back.
    pub(crate) memory_high: BTreeMap<ContainerId, u64>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            cpu_permille: STEPS[0],
            memory_high: BTreeMap::new(),
        }
    }
}

/// What is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scarce {
    Cpu,
    Memory,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Hold all of them back so far from now on.
    Throttle(Throttle),
    /// End this one.
    Preempt {
        container: ContainerId,
        scarce: Scarce,
        /// With the numbers.
        message: String,
    },
}

/// A sign of shortage.
struct Strain {
    words: String,
    /// Somebody waits: not only the books are full.
    waits: bool,
}

/// The controller.
#[derive(Debug)]
pub(crate) struct Controller {
    settings: Settings,
    step: usize,
    throttle: Throttle,
    /// When processors, and memory, were last short, or a step was taken.
    cpu_ms: u64,
    memory_ms: u64,
    lowest_since_ms: u64,
    killed_ms: Option<u64>,
}

impl Controller {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            step: 0,
            throttle: Throttle::default(),
            cpu_ms: 0,
            memory_ms: 0,
            lowest_since_ms: 0,
            killed_ms: None,
        }
    }

    /// How far they are held back now.
    pub(crate) fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// Takes a round in and says what to do.
    pub(crate) fn round(&mut self, now_ms: u64, tasks: &[TaskUse], machine: &Machine) -> Vec<Act> {
        let before = self.throttle.clone();
        let mut short = None;
        if tasks.iter().any(|task| task.revocable) {
            short = self.cpu(now_ms, tasks, machine);
            short = self.memory(now_ms, tasks, machine).or(short);
        } else {
            self.step = 0;
            self.throttle = Throttle::default();
        }
        let mut acts = Vec::new();
        if self.throttle != before {
            acts.push(Act::Throttle(self.throttle.clone()));
        }
        if let Some((scarce, strain)) = short {
            acts.extend(self.preempt(now_ms, tasks, scarce, &strain));
        }
        acts
    }

    /// Steps down or up; what is short when no step is left.
    fn cpu(
        &mut self,
        now_ms: u64,
        tasks: &[TaskUse],
        machine: &Machine,
    ) -> Option<(Scarce, Strain)> {
        let lowest = STEPS.len() - 1;
        let mut short = None;
        if let Some(strain) = self.cpu_strain(tasks, machine) {
            self.cpu_ms = now_ms;
            if self.step < lowest {
                self.step += 1;
                self.lowest_since_ms = now_ms;
            } else if strain.waits
                && now_ms.saturating_sub(self.lowest_since_ms) >= self.settings.pause_ms
            {
                short = Some((Scarce::Cpu, strain));
            }
        } else if self.step > 0
            && now_ms.saturating_sub(self.cpu_ms) >= CALM_MS
            && self.fits(self.step - 1, tasks, machine)
        {
            self.step -= 1;
            self.cpu_ms = now_ms;
        }
        self.throttle.cpu_permille = STEPS[self.step];
        short
    }

    /// Whether there is room for all that revocable tasks may use at that step.
    fn fits(&self, step: usize, tasks: &[TaskUse], machine: &Machine) -> bool {
        let revocable = tasks.iter().filter(|task| task.revocable);
        let held: u64 = revocable.map(|task| task.given.cpu_millis).sum();
        let may = held.saturating_mul(STEPS[step]) / 1000;
        let wanted = used(tasks, false).cpu_millis.saturating_add(may);
        wanted <= self.most(machine.offers.cpu_millis)
    }

    fn most(&self, offers: u64) -> u64 {
        let most = u128::from(offers) * u128::from(self.settings.use_percent) / 100;
        u64::try_from(most).unwrap_or(u64::MAX)
    }

    fn cpu_strain(&self, tasks: &[TaskUse], machine: &Machine) -> Option<Strain> {
        let (lent, own) = (used(tasks, true).cpu_millis, used(tasks, false).cpu_millis);
        if lent < WORTH.cpu_millis {
            return None;
        }
        let limit = self.settings.cpu_pressure_percent;
        let waiting = if self.settings.by_task {
            let entitled = |task: &&TaskUse| {
                !task.revocable
                    && !task.throttled
                    && task
                        .cpu_millis
                        .is_some_and(|cpu| cpu < task.given.cpu_millis)
            };
            let worst = tasks
                .iter()
                .filter(entitled)
                .filter_map(|task| task.cpu_pressure);
            let worst = worst.max().filter(|worst| *worst > limit * 10);
            worst.map(|worst| {
                format!(
                    "an ordinary task waits {} of the time for a processor, the limit is {limit} %",
                    percent(worst)
                )
            })
        } else {
            let busy = machine.busy_millis.unwrap_or(0);
            let full = busy >= machine.processors_millis / 100 * 95
                && busy.saturating_sub(lent) >= machine.processors_millis / 2;
            let waits = machine
                .cpu_pressure
                .filter(|waits| full && *waits > limit * 10);
            waits.map(|waits| {
                format!(
                    "the machine's processors are busy, and something waits {} of the time for one, the limit is {limit} %",
                    percent(waits)
                )
            })
        };
        if let Some(words) = waiting {
            return Some(Strain { words, waits: true });
        }
        let (offers, use_percent) = (machine.offers.cpu_millis, self.settings.use_percent);
        let both = lent.saturating_add(own);
        (both > self.most(offers)).then(|| Strain {
            words: format!(
                "tasks use {} of the {} cpus that this machine offers, the limit is {use_percent} %",
                cpus(both),
                cpus(offers)
            ),
            waits: false,
        })
    }

    /// Squeezes, or lets go; what is short when that is done already, or cannot be done.
    fn memory(
        &mut self,
        now_ms: u64,
        tasks: &[TaskUse],
        machine: &Machine,
    ) -> Option<(Scarce, Strain)> {
        let squeezed = !self.throttle.memory_high.is_empty();
        let Some(strain) = self.memory_strain(tasks, machine) else {
            if squeezed && now_ms.saturating_sub(self.memory_ms) >= MEMORY_CALM_MS {
                self.throttle.memory_high.clear();
            }
            return None;
        };
        self.memory_ms = now_ms;
        if squeezed || !self.settings.by_task {
            return Some((Scarce::Memory, strain));
        }
        let revocable = tasks.iter().filter(|task| task.revocable);
        self.throttle.memory_high = revocable
            .filter_map(|task| {
                let high = (task.memory? / 4 * 3).max(LEAST_MEMORY);
                Some((task.container.clone(), high.min(task.given.memory)))
            })
            .collect();
        None
    }

    fn memory_strain(&self, tasks: &[TaskUse], machine: &Machine) -> Option<Strain> {
        let (lent, own) = (used(tasks, true).memory, used(tasks, false).memory);
        if lent < WORTH.memory {
            return None;
        }
        let (offers, use_percent) = (machine.offers.memory, self.settings.use_percent);
        let kept = 100_u64.saturating_sub(use_percent);
        let both = lent.saturating_add(own);
        if both > self.most(offers) {
            return Some(Strain {
                words: format!(
                    "tasks use {} of the {} of memory that this machine offers, the limit is {use_percent} %",
                    mebibytes(both),
                    mebibytes(offers)
                ),
                waits: false,
            });
        }
        let left = machine.memory_available.zip(machine.memory);
        let left = left.and_then(|(left, all)| {
            let share = (u128::from(left) * 1000).checked_div(u128::from(all))?;
            u64::try_from(share).ok()
        });
        if let Some(left) = left.filter(|left| *left < kept * 10) {
            return Some(Strain {
                words: format!(
                    "{} of the machine's memory is left, the limit is {kept} %",
                    percent(left)
                ),
                waits: false,
            });
        }
        let limit = self.settings.memory_pressure_percent;
        let waits = if self.settings.by_task {
            // One that is near what it was given waits for its own limit.
            let below = |task: &&TaskUse| {
                let most = task.given.memory / 10 * 9;
                !task.revocable && task.memory.is_some_and(|memory| memory < most)
            };
            let ordinary = tasks.iter().filter(below);
            ordinary.filter_map(|task| task.memory_pressure).max()
        } else {
            let tight = left.is_some_and(|left| left < kept * 20);
            machine.memory_pressure.filter(|_| tight)
        };
        let waits = waits.filter(|waits| *waits > limit * 10)?;
        Some(Strain {
            words: format!(
                "ordinary work waits {} of the time for memory, the limit is {limit} %",
                percent(waits)
            ),
            waits: true,
        })
    }

    /// Who goes, if somebody may go now.
    fn preempt(
        &mut self,
        now_ms: u64,
        tasks: &[TaskUse],
        scarce: Scarce,
        strain: &Strain,
    ) -> Option<Act> {
        let paused = self
            .killed_ms
            .is_some_and(|then| now_ms.saturating_sub(then) < self.settings.pause_ms);
        let revocable = || tasks.iter().filter(|task| task.revocable);
        if paused || revocable().any(|task| task.ends) {
            return None;
        }
        let worth = |task: &&TaskUse| match scarce {
            Scarce::Cpu => task.cpu_millis.is_some_and(|cpu| cpu >= WORTH.cpu_millis),
            Scarce::Memory => task.memory.is_some_and(|memory| memory >= WORTH.memory),
        };
        let victim = revocable()
            .filter(worth)
            .max_by_key(|task| (task.started_at_ms, &task.container))?;
        self.killed_ms = Some(now_ms);
        let used = match scarce {
            Scarce::Cpu => format!(
                "it used {} cpus, held to {} of its share for {} s",
                cpus(victim.cpu_millis.unwrap_or(0)),
                percent(self.throttle.cpu_permille),
                now_ms.saturating_sub(self.lowest_since_ms) / 1000
            ),
            Scarce::Memory => format!("it used {}", mebibytes(victim.memory.unwrap_or(0))),
        };
        Some(Act::Preempt {
            container: victim.container.clone(),
            scarce,
            message: format!(
                "{}; {used}, and began last of {} revocable task(s) here",
                strain.words,
                revocable().count()
            ),
        })
    }
}

fn percent(permille: u64) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

fn cpus(millis: u64) -> String {
    Scalar::from_millis(i64::try_from(millis).unwrap_or(i64::MAX)).to_string()
}

#[cfg(test)]
mod tests;
