//! Compares what an app should have with what it has: how many to launch, which to kill, and whether it is there yet.
//!
//! Pure, and by level: the answer depends only on the members, not on how they came about, so it is the same after a
//! restart of the scheduler. The bounds of rolling updates are computed here (Marathon's restart arithmetic).

mod failing;
mod victims;

use mezzo_api::model::TaskId;

use crate::app::spec::{KillSelection, PPM, UpgradeStrategy};
use victims::victims;

/// How far a member has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What an app is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// So many, of any configuration.
    Scale(u32),
    /// So many of the current configuration, none of another, within bounds on the way.
    Restart(u32, UpgradeStrategy),
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
pub fn changes(members: &[Member], wanted: Wanted, selection: KillSelection) -> Changes {
    match wanted {
        Wanted::Scale(n) => scale(members, n, selection),
        Wanted::Restart(n, strategy) => {
            let bounds = bounds(n, strategy, count(members, is_there));
            restart(members, n, bounds, selection)
        }
        Wanted::Resident(n, strategy) => {
            let bounds = resident_bounds(n, strategy, count(members, is_there));
            restart(members, n, bounds, selection)
        }
        Wanted::Stop => stop(members),
    }
}

fn count(members: &[Member], holds: impl Fn(&Member) -> bool) -> u32 {
    u32::try_from(members.iter().filter(|member| holds(member)).count()).unwrap_or(u32::MAX)
}

/// Counts towards the number of instances.
fn is_active(member: &Member) -> bool {
    match member.phase {
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
fn is_there(member: &Member) -> bool {
    !matches!(member.phase, Phase::Inactive | Phase::Abandoned)
}

fn scale(members: &[Member], n: u32, selection: KillSelection) -> Changes {
    let replaced = failing::under_replacement(members, n);
    let counts = |member: &&Member| is_active(member) && !replaced.contains(member);
    let active: Vec<&Member> = members.iter().filter(counts).collect();
    let n_active = u32::try_from(active.len()).unwrap_or(u32::MAX);
    let healthy = count(members, |member| member.phase == Phase::Healthy);
    let leaving = count(members, |member| member.phase == Phase::Leaving);
    let surplus = n_active.saturating_sub(n);
    let mut kill = failing::done_with(members, &active, &replaced, n);
    kill.extend(victims(active, surplus, selection));
    let launch = n.saturating_sub(n_active);
    let reached = launch == 0 && kill.is_empty() && healthy >= n && leaving == 0;
    let waiting_for = if reached {
        String::new()
    } else if !replaced.is_empty() {
        let all = count(members, failing::is_failing);
        format!(
            "{healthy} of {n} instances healthy, {all} that fail their health check to be replaced, {} at a time",
            replaced.len()
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

fn restart(members: &[Member], n: u32, bounds: Bounds, selection: KillSelection) -> Changes {
    let existing = count(members, is_there);
    let Bounds {
        min_healthy,
        max_capacity,
    } = bounds;
    let is_healthy = |member: &Member| member.phase == Phase::Healthy;
    let old: Vec<&Member> = members
        .iter()
        .filter(|m| !m.current && is_active(m))
        .collect();
    let n_old = u32::try_from(old.len()).unwrap_or(u32::MAX);
    let new_active = count(members, |m| m.current && is_active(m));
    let new_healthy = count(members, |m| m.current && is_healthy(m));
    let healthy = count(members, is_healthy);

    // Marathon's budget; and never a healthy one below the minimum, however the others do.
    let budget = (n_old + new_healthy).saturating_sub(min_healthy).min(n_old);
    let mut healthy_budget = healthy.saturating_sub(min_healthy);
    let mut kill = Vec::new();
    for id in victims(old.clone(), n_old, selection) {
        if kill.len() >= budget as usize {
            break;
        }
        let victim_is_healthy = old
            .iter()
            .any(|member| member.id == id && is_healthy(member));
        if victim_is_healthy {
            if healthy_budget == 0 {
                continue;
            }
            healthy_budget -= 1;
        }
        kill.push(id);
    }
    // More of the new than wanted: scaled down on the way.
    let new_members = members
        .iter()
        .filter(|m| m.current && is_active(m))
        .collect();
    kill.extend(victims(
        new_members,
        new_active.saturating_sub(n),
        selection,
    ));
    // Those of the new that fail for good make room for another try.
    let failed = members
        .iter()
        .filter(|m| m.current && failing::is_failing(m));
    let failed: Vec<TaskId> = failed.map(|m| m.id.clone()).collect();
    kill.extend(
        failed
            .into_iter()
            .filter(|id| !kill.contains(id))
            .collect::<Vec<_>>(),
    );
    // Old ones on lost machines are not wanted back.
    let lost = members
        .iter()
        .filter(|m| !m.current && m.phase == Phase::Inactive);
    kill.extend(lost.map(|m| m.id.clone()));

    let room = max_capacity.saturating_sub(existing);
    let missing = n.saturating_sub(new_active);
    let launch = missing.min(room);
    let old_there = count(members, |m| !m.current && is_there(m));
    let leaving = count(members, |m| m.phase == Phase::Leaving);
    let reached =
        kill.is_empty() && missing == 0 && new_healthy >= n && old_there == 0 && leaving == 0;
    let waiting_for = if reached {
        String::new()
    } else if new_healthy < n {
        format!(
            "{new_healthy} of {n} new instances running and healthy, {old_there} old left (at least {min_healthy} \
             healthy, at most {max_capacity} in all; {existing} exist)"
        )
    } else {
        format!("{old_there} old instance(s) to end")
    };
    Changes {
        launch,
        kill,
        reached,
        waiting_for,
    }
}

fn stop(members: &[Member]) -> Changes {
    let kill: Vec<TaskId> = members
        .iter()
        .filter(|member| !matches!(member.phase, Phase::Leaving | Phase::Abandoned))
        .map(|member| member.id.clone())
        .collect();
    let left = count(members, |member| member.phase != Phase::Abandoned);
    Changes {
        launch: 0,
        kill,
        reached: left == 0,
        waiting_for: if left == 0 {
            String::new()
        } else {
            format!("{left} instance(s) to end")
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(i: usize, current: bool, phase: Phase) -> Member {
        Member {
            id: format!("t{i}").parse().expect("valid"),
            current,
            phase,
            staged_at: i as u64,
            group: None,
            late: false,
        }
    }

    fn strategy(min: u64, over: u64) -> UpgradeStrategy {
        UpgradeStrategy {
            minimum_health_ppm: min * PPM / 100,
            maximum_over_ppm: over * PPM / 100,
        }
    }

    #[test]
    fn bounds_are_those_of_marathon() {
        for (n, min, over, existing, want) in [
            (10, 100, 100, 10, (10, 20)),
            (10, 50, 0, 10, (5, 10)),
            (10, 100, 0, 10, (10, 11)),
            (10, 100, 0, 9, (10, 10)),
            (3, 50, 50, 3, (2, 4)),
            (1, 100, 0, 1, (1, 2)),
            (1, 0, 0, 1, (0, 1)),
            (0, 100, 100, 3, (0, 1)),
            (100, 7, 0, 100, (7, 100)),
        ] {
            let got = bounds(n, strategy(min, over), existing);
            assert_eq!(
                (got.min_healthy, got.max_capacity),
                want,
                "{n} {min} {over} {existing}"
            );
        }
    }

    #[test]
    fn scaling_down_takes_the_youngest_but_staging_ones_first() {
        let mut members: Vec<Member> = (0..4).map(|i| member(i, true, Phase::Healthy)).collect();
        members[1].phase = Phase::Launching;
        let got = changes(&members, Wanted::Scale(2), KillSelection::YoungestFirst);
        let names: Vec<&str> = got.kill.iter().map(TaskId::as_str).collect();
        assert_eq!(names, ["t1", "t3"]);
        assert_eq!(got.launch, 0);
    }

    #[test]
    fn scaling_down_restores_an_even_spread_before_it_looks_at_age() {
        let mut members: Vec<Member> = (0..6).map(|i| member(i, true, Phase::Healthy)).collect();
        for (i, group) in ["a", "a", "a", "a", "b", "b"].into_iter().enumerate() {
            members[i].group = Some(group.to_owned());
        }
        let got = changes(&members, Wanted::Scale(2), KillSelection::YoungestFirst);
        let names: Vec<&str> = got.kill.iter().map(TaskId::as_str).collect();
        assert_eq!(names[..2], ["t3", "t2"]);
        let left: Vec<&Member> = members
            .iter()
            .filter(|m| !got.kill.contains(&m.id))
            .collect();
        assert_ne!(left[0].group, left[1].group);
    }

    #[test]
    fn one_that_came_back_late_goes_before_its_replacement() {
        let mut members: Vec<Member> = (0..2).map(|i| member(i, true, Phase::Healthy)).collect();
        members[0].late = true;
        let got = changes(&members, Wanted::Scale(1), KillSelection::YoungestFirst);
        assert_eq!(got.kill[0].as_str(), "t0");
    }

    #[test]
    fn an_update_of_one_starts_the_new_before_it_kills_the_old() {
        let old = [member(0, false, Phase::Healthy)];
        let got = changes(
            &old,
            Wanted::Restart(1, strategy(100, 100)),
            KillSelection::YoungestFirst,
        );
        assert_eq!((got.launch, got.kill.len()), (1, 0));
        let both = [
            member(0, false, Phase::Healthy),
            member(1, true, Phase::Healthy),
        ];
        let got = changes(
            &both,
            Wanted::Restart(1, strategy(100, 100)),
            KillSelection::YoungestFirst,
        );
        assert_eq!((got.launch, got.kill.len()), (0, 1));
    }

    fn phase() -> impl Strategy<Value = Phase> {
        prop_oneof![
            Just(Phase::Launching),
            Just(Phase::Unhealthy),
            Just(Phase::Failing),
            Just(Phase::FailingLong),
            Just(Phase::Healthy),
            Just(Phase::Healthy),
            Just(Phase::Healthy),
            Just(Phase::Unreachable),
            Just(Phase::Inactive),
            Just(Phase::Leaving),
            Just(Phase::Abandoned),
        ]
    }

    fn members() -> impl Strategy<Value = Vec<Member>> {
        proptest::collection::vec((any::<bool>(), phase(), any::<bool>()), 0..25).prop_map(|all| {
            all.into_iter()
                .enumerate()
                .map(|(i, (current, phase, late))| Member {
                    late,
                    ..member(i, current, phase)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn an_update_keeps_its_bounds(members in members(), n in 0u32..20, min in 0u64..=100, over in 0u64..=100) {
            let strategy = strategy(min, over);
            let got = changes(&members, Wanted::Restart(n, strategy), KillSelection::YoungestFirst);
            let existing = count(&members, is_there);
            let bounds = bounds(n, strategy, existing);
            let healthy = count(&members, |m| m.phase == Phase::Healthy);
            let killed_healthy = count(&members, |m| m.phase == Phase::Healthy && got.kill.contains(&m.id));
            let surplus_new = count(&members, |m| m.current && is_active(m)).saturating_sub(n);
            if surplus_new == 0 {
                prop_assert!(healthy - killed_healthy >= bounds.min_healthy.min(healthy));
            }
            prop_assert!(existing + got.launch <= bounds.max_capacity.max(existing));
            prop_assert!(!(got.reached && (got.launch > 0 || !got.kill.is_empty())));
        }

        #[test]
        fn an_update_always_gets_there(n in 0u32..12, n_old in 0usize..15, min in 0u64..=100, over in 0u64..=100) {
            let strategy = strategy(min, over);
            let mut members: Vec<Member> = (0..n_old).map(|i| member(i, false, Phase::Healthy)).collect();
            let mut next = n_old;
            for _ in 0..200 {
                let got = changes(&members, Wanted::Restart(n, strategy), KillSelection::YoungestFirst);
                if got.reached {
                    prop_assert_eq!(members.len(), n as usize);
                    prop_assert!(members.iter().all(|m| m.current));
                    return Ok(());
                }
                // Everything that was asked for happens before the next look.
                members.retain(|m| m.phase != Phase::Leaving);
                for m in &mut members {
                    if got.kill.contains(&m.id) {
                        m.phase = Phase::Leaving;
                    }
                }
                for _ in 0..got.launch {
                    members.push(member(next, true, Phase::Healthy));
                    next += 1;
                }
            }
            prop_assert!(false, "stuck with {:?}", members);
        }

        #[test]
        fn scaling_launches_or_kills_the_difference(members in members(), n in 0u32..30) {
            let replaced = failing::under_replacement(&members, n);
            let active = count(&members, |m| is_active(m) && !replaced.contains(&m));
            let got = changes(&members, Wanted::Scale(n), KillSelection::OldestFirst);
            prop_assert_eq!(got.launch, n.saturating_sub(active));
            let killed = |id: &TaskId| replaced.iter().any(|m| m.id == *id);
            let (sick, others): (Vec<_>, Vec<_>) = got.kill.iter().partition(|id| killed(id));
            prop_assert_eq!(others.len(), active.saturating_sub(n) as usize);
            prop_assert!(sick.len() <= replaced.len() && replaced.len() as u32 <= (n / 5).max(1));
        }

        #[test]
        fn stopping_takes_everything(members in members()) {
            let got = changes(&members, Wanted::Stop, KillSelection::YoungestFirst);
            prop_assert_eq!(got.launch, 0);
            prop_assert_eq!(got.kill.len(), members.iter().filter(|m| !matches!(m.phase, Phase::Leaving | Phase::Abandoned)).count());
        }
    }
}
