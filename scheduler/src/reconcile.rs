//! Compares what an app should have with what it has: how many to launch, which to kill, and whether it is there yet.
//!
//! Pure, and by level: the answer depends only on the members, not on how they came about, so it is the same after a
//! restart of the scheduler. The bounds of rolling updates are computed here (Marathon's restart arithmetic).

mod failing;
mod roster;
#[cfg(test)]
mod tests;
mod update;
mod victims;

use std::collections::HashSet;

use mezzo_api::model::TaskId;

use crate::app::spec::{KillSelection, PPM, UpgradeStrategy};
pub use failing::at_a_time;
use roster::Pick;
pub use roster::{Aged, Class, Roster, Shelf};
use update::{restart, trial};
use victims::victims;

/// How far a member has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepted, not running yet.
    Launching,
    /// Runs, but is not known to be healthy, or to be ready.
    Unhealthy,
    /// Runs, and has failed its health check as often as it may: to be replaced.
    Failing,
    /// The same for so long that there seems to be no room for a replacement beside it.
    FailingLong,
    /// Runs, is healthy and ready, as far as it has checks for that.
    Healthy,
    /// On a machine that cannot be reached; still counted.
    Unreachable,
    /// The same for so long that a replacement is wanted.
    Inactive,
    /// Somebody decided that it goes.
    Leaving,
    /// It is to go and cannot be reached: nobody waits for its end, and it is killed if it comes back.
    Abandoned,
}

/// One task of the app, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub id: TaskId,
    /// Has the configuration that is wanted now.
    pub current: bool,
    /// How far.
    pub phase: Phase,
    /// When it was launched.
    pub staged_at: u64,
    /// Where it is, if the app spreads its instances evenly over such groups.
    pub group: Option<String>,
    /// Came back after its replacement was due: the first to go if there are too many.
    pub late: bool,
}

impl Member {
    /// What it has in common with others.
    #[must_use]
    pub fn class(&self) -> Class {
        Class {
            late: self.late,
            current: self.current,
            phase: self.phase,
        }
    }
}

/// What an app is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// So many, of any configuration.
    Scale(u32),
    /// At least so many: those beyond stay, as what comes next has to choose among them.
    AtLeast(u32),
    /// So many of the current configuration, none of another, within bounds on the way.
    Restart(u32, UpgradeStrategy),
    /// The first so many, and of the current configuration at first only as many as the second number.
    Trial(u32, u32, UpgradeStrategy),
    /// The same where a new one takes what an old one keeps: never more than asked for.
    Resident(u32, UpgradeStrategy),
    /// None.
    Stop,
}

/// The way there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Tasks to start in addition to those that exist.
    pub launch: u32,
    /// Tasks to end.
    pub kill: Vec<TaskId>,
    /// Nothing is left to do or to wait for.
    pub reached: bool,
    /// Otherwise: what for, for people.
    pub waiting_for: String,
}

/// Bounds while a rolling update goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// As many healthy ones stay.
    pub min_healthy: u32,
    /// As many exist at most.
    pub max_capacity: u32,
}

/// Marathon's restart arithmetic for `n` instances of which `existing` are there.
#[must_use]
pub fn bounds(n: u32, strategy: UpgradeStrategy, existing: u32) -> Bounds {
    let n_wide = u64::from(n);
    let min_healthy = (n_wide * strategy.minimum_health_ppm).div_ceil(PPM);
    let mut max_capacity = n_wide * (PPM + strategy.maximum_over_ppm) / PPM;
    // No room to move: without one more than asked for nothing could ever be replaced.
    if min_healthy == max_capacity && max_capacity <= u64::from(existing) {
        max_capacity += 1;
    }
    Bounds {
        min_healthy: u32::try_from(min_healthy).unwrap_or(u32::MAX),
        max_capacity: u32::try_from(max_capacity).unwrap_or(u32::MAX),
    }
}

/// The same for an app with persistent volumes: without room to move, one less than asked for is enough.
#[must_use]
pub fn resident_bounds(n: u32, strategy: UpgradeStrategy, existing: u32) -> Bounds {
    let strategy = UpgradeStrategy {
        maximum_over_ppm: 0,
        ..strategy
    };
    let Bounds {
        min_healthy,
        max_capacity,
    } = bounds(n, strategy, 0);
    let stuck = min_healthy == max_capacity && max_capacity <= existing;
    Bounds {
        min_healthy: min_healthy - u32::from(stuck && min_healthy > 0),
        // Where none is asked for, `bounds` leaves room for one.
        max_capacity: max_capacity.min(n),
    }
}

/// What to do about an app now.
#[must_use]
pub fn changes<'r>(roster: &'r Roster<'r>, wanted: Wanted, selection: KillSelection) -> Changes {
    match wanted {
        Wanted::Scale(n) => scale(roster, n, Some(selection)),
        Wanted::AtLeast(n) => scale(roster, n, None),
        Wanted::Trial(n, tried, strategy) => {
            let bounds = bounds(n, strategy, roster.count(is_there));
            trial(roster, n, tried, bounds, selection)
        }
        Wanted::Restart(n, strategy) => {
            let bounds = bounds(n, strategy, roster.count(is_there));
            restart(roster, n, bounds, selection)
        }
        Wanted::Resident(n, strategy) => {
            let bounds = resident_bounds(n, strategy, roster.count(is_there));
            restart(roster, n, bounds, selection)
        }
        Wanted::Stop => stop(roster),
    }
}

/// Counts towards the number of instances.
fn is_active(class: &Class) -> bool {
    match class.phase {
        Phase::Launching
        | Phase::Unhealthy
        | Phase::Failing
        | Phase::FailingLong
        | Phase::Healthy
        | Phase::Unreachable => true,
        Phase::Inactive | Phase::Leaving | Phase::Abandoned => false,
    }
}

/// Takes room, as far as anybody can tell.
fn is_there(class: &Class) -> bool {
    !matches!(class.phase, Phase::Inactive | Phase::Abandoned)
}

/// Who is to end, each once.
#[derive(Debug, Default)]
struct Kills {
    ids: Vec<TaskId>,
    known: HashSet<TaskId>,
    /// How many of them are healthy.
    healthy: u32,
}

impl Kills {
    fn extend<'r>(&mut self, picks: impl IntoIterator<Item = Pick<'r>>) {
        for pick in picks {
            if self.known.insert(pick.aged.1.clone()) {
                self.ids.push(pick.aged.1.clone());
                self.healthy += u32::from(pick.is_healthy());
            }
        }
    }
}

/// Without a selection none is too many.
fn scale(roster: &Roster<'_>, n: u32, selection: Option<KillSelection>) -> Changes {
    let replaced = failing::under_replacement(roster, n);
    let n_replaced = u32::try_from(replaced.len()).unwrap_or(u32::MAX);
    let n_active = roster.count(is_active).saturating_sub(n_replaced);
    let healthy = roster.count(|class| class.phase == Phase::Healthy);
    let leaving = roster.count(|class| class.phase == Phase::Leaving);
    let surplus = selection.map_or(0, |_| n_active.saturating_sub(n));
    let mut kills = Kills::default();
    kills.extend(failing::done_with(roster, &replaced, n));
    let except: HashSet<&TaskId> = replaced.iter().map(|pick| &pick.aged.1).collect();
    let selection = selection.unwrap_or_default();
    kills.extend(victims(roster, is_active, &except, surplus, selection));
    let kill = kills.ids;
    let launch = n.saturating_sub(n_active);
    let reached = launch == 0 && kill.is_empty() && healthy >= n && leaving == 0;
    let waiting_for = if reached {
        String::new()
    } else if n_replaced > 0 {
        let all = roster.count(failing::is_failing);
        format!(
            "{healthy} of {n} instances healthy, {all} that fail their health check to be replaced, {n_replaced} at a time"
        )
    } else if launch > 0 {
        format!("{healthy} of {n} instances healthy, {launch} to be launched")
    } else if healthy < n {
        format!("{healthy} of {n} instances running and healthy")
    } else {
        format!("{} instance(s) to end", leaving + surplus)
    };
    Changes {
        launch,
        kill,
        reached,
        waiting_for,
    }
}

fn stop(roster: &Roster<'_>) -> Changes {
    let is_kept = |class: &Class| !matches!(class.phase, Phase::Leaving | Phase::Abandoned);
    let mut kills = Kills::default();
    kills.extend(roster.each(is_kept));
    let left = roster.count(|class| class.phase != Phase::Abandoned);
    Changes {
        launch: 0,
        kill: kills.ids,
        reached: left == 0,
        waiting_for: if left == 0 {
            String::new()
        } else {
            format!("{left} instance(s) to end")
        },
    }
}
