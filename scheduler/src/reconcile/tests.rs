//! The rules of updates and of scaling, case by case and for any members.

use proptest::prelude::*;

use super::*;

fn changes(members: &[Member], wanted: Wanted, selection: KillSelection) -> Changes {
    super::changes(&Roster::of(members), wanted, selection)
}

fn count(members: &[Member], holds: impl Fn(&Member) -> bool) -> u32 {
    u32::try_from(members.iter().filter(|member| holds(member)).count()).expect("few")
}

fn is_there(member: &Member) -> bool {
    super::is_there(&member.class())
}

fn is_active(member: &Member) -> bool {
    super::is_active(&member.class())
}

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
        ..UpgradeStrategy::default()
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
fn residents_go_below_the_minimum_rather_than_above_what_is_asked_for() {
    for (n, min, existing, want) in [
        (1, 50, 1, (0, 1)),
        (2, 50, 2, (1, 2)),
        (3, 100, 3, (2, 3)),
        (3, 100, 2, (3, 3)),
        (10, 50, 10, (5, 10)),
        (1, 0, 1, (0, 1)),
        (0, 50, 2, (0, 0)),
    ] {
        let got = resident_bounds(n, strategy(min, 0), existing);
        let got = (got.min_healthy, got.max_capacity);
        assert_eq!(got, want, "{n} {min} {existing}");
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
fn while_a_step_is_awaited_none_is_too_many_and_none_too_few() {
    // Blue and green, taken over by another deployment before the new ones run.
    let mut members = vec![member(0, false, Phase::Healthy)];
    members.extend((1..5).map(|i| member(i, true, Phase::Launching)));
    let selection = KillSelection::YoungestFirst;
    assert_eq!(changes(&members, Wanted::Scale(4), selection).kill.len(), 1);
    let got = changes(&members, Wanted::AtLeast(4), selection);
    assert_eq!((got.kill.len(), got.launch), (0, 0));
    let got = changes(&members[..3], Wanted::AtLeast(4), selection);
    assert_eq!((got.kill.len(), got.launch), (0, 1));
    // What fails for good is still replaced.
    let mut sick: Vec<Member> = (0..4).map(|i| member(i, true, Phase::Healthy)).collect();
    sick[0].phase = Phase::Failing;
    assert_eq!(changes(&sick, Wanted::AtLeast(4), selection).launch, 1);
    sick.push(member(4, true, Phase::Healthy));
    let got = changes(&sick, Wanted::AtLeast(4), selection);
    assert_eq!((got.kill.len(), got.launch), (1, 0));
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

/// On a full cluster nothing else would ever make room for the new.
#[test]
fn an_old_one_that_fails_for_long_makes_room_for_the_new_and_a_new_one_for_another_try() {
    let strategy = strategy(100, 100);
    for wanted in [Wanted::Restart(2, strategy), Wanted::Trial(2, 1, strategy)] {
        let members = [
            member(0, false, Phase::FailingLong),
            member(1, false, Phase::FailingLong),
        ];
        let got = changes(&members, wanted, KillSelection::YoungestFirst);
        let is_trial = matches!(wanted, Wanted::Trial(..));
        // One at a time; in a trial the old stay, so that there are no more of the new than it is to have.
        let want = if is_trial { &[][..] } else { &members[..1] };
        let want: Vec<TaskId> = want.iter().map(|member| member.id.clone()).collect();
        assert_eq!(got.kill, want);
        let members = [
            member(0, false, Phase::Healthy),
            member(1, false, Phase::Healthy),
            member(2, true, Phase::Failing),
        ];
        let got = changes(&members, wanted, KillSelection::YoungestFirst);
        assert_eq!(got.kill, [members[2].id.clone()]);
    }
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
        prop_assert!(healthy - killed_healthy >= bounds.min_healthy.min(healthy));
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
    fn an_update_of_residents_gets_there_without_one_too_many(n in 0u32..12, n_old in 0u32..15, min in 0u64..=100) {
        let mut members: Vec<Member> = (0..n_old).map(|i| member(i as usize, false, Phase::Healthy)).collect();
        let mut next = n_old as usize;
        for _ in 0..200 {
            let got = changes(&members, Wanted::Resident(n, strategy(min, 0)), KillSelection::YoungestFirst);
            if got.reached {
                prop_assert!(members.len() == n as usize && members.iter().all(|m| m.current));
                return Ok(());
            }
            let existing = count(&members, is_there);
            prop_assert!(got.launch == 0 || existing + got.launch <= n);
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
    fn a_trial_keeps_its_bounds_and_ends_old_ones_only_for_room(
        members in members(), n in 1u32..20, tried in 1u32..20, min in 0u64..=100, over in 0u64..=100,
    ) {
        let strategy = strategy(min, over);
        let tried = tried.min(n);
        let got = changes(&members, Wanted::Trial(n, tried, strategy), KillSelection::YoungestFirst);
        let existing = count(&members, is_there);
        let bounds = bounds(n, strategy, existing);
        let healthy = count(&members, |m| m.phase == Phase::Healthy);
        let killed = |holds: &dyn Fn(&Member) -> bool| count(&members, |m| holds(m) && got.kill.contains(&m.id));
        let n_old = count(&members, |m| !m.current && is_active(m));
        prop_assert!(healthy - killed(&|m| m.phase == Phase::Healthy) >= bounds.min_healthy.min(healthy));
        prop_assert!(existing + got.launch <= bounds.max_capacity.max(existing));
        let killed_old = killed(&|m| !m.current && is_active(m));
        prop_assert!(n_old - killed_old >= (n - tried).min(n_old));
        prop_assert!(got.launch == 0 || killed_old == 0 || got.launch <= bounds.max_capacity.saturating_sub(existing));
        prop_assert!(!(got.reached && (got.launch > 0 || !got.kill.is_empty())));
    }

    #[test]
    fn a_trial_always_gets_there(
        n in 1u32..12, n_old in 0usize..15, tried in 1u32..12, min in 0u64..=100, over in 0u64..=100,
    ) {
        let (strategy, tried) = (strategy(min, over), tried.min(n));
        let mut members: Vec<Member> = (0..n_old).map(|i| member(i, false, Phase::Healthy)).collect();
        for next in n_old..n_old + 200 {
            let got = changes(&members, Wanted::Trial(n, tried, strategy), KillSelection::YoungestFirst);
            if got.reached {
                let new = count(&members, |m| m.current);
                prop_assert!(new >= tried && new <= n, "{new} of the new");
                return Ok(());
            }
            members.retain(|m| m.phase != Phase::Leaving);
            for m in &mut members {
                if got.kill.contains(&m.id) {
                    m.phase = Phase::Leaving;
                }
            }
            members.extend((0..got.launch).map(|i| member(1000 * next + i as usize, true, Phase::Healthy)));
        }
        prop_assert!(false, "stuck with {:?}", members);
    }

    #[test]
    fn scaling_launches_or_kills_the_difference(members in members(), n in 0u32..30) {
        let roster = Roster::of(&members);
        let replaced: Vec<&TaskId> = failing::under_replacement(&roster, n).iter().map(|pick| &pick.aged.1).collect();
        let active = count(&members, |m| is_active(m) && !replaced.contains(&&m.id));
        let got = changes(&members, Wanted::Scale(n), KillSelection::OldestFirst);
        prop_assert_eq!(got.launch, n.saturating_sub(active));
        let killed = |id: &TaskId| replaced.contains(&id);
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
