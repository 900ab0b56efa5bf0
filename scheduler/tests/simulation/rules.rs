//! What must hold after every turn, judged from the core's state before and after it, and the bugs that are planted to
//! see that each rule bites.

use std::collections::BTreeMap;

use mezzo_api::model::TaskId;
use mezzo_scheduler::app::AppId;
use mezzo_scheduler::app::spec::{PPM, Trial, UpgradeStrategy};
use mezzo_scheduler::core::state::{AppState, State};
use mezzo_scheduler::deployment::course::Stage;
use mezzo_scheduler::deployment::{ActionKind, DeploymentId};
use mezzo_scheduler::reconcile::{Bounds, Member, Phase, bounds, resident_bounds};

/// A bug, planted between the core and the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A second task for one that is launched.
    OneTooMany,
    /// A launch is performed twice.
    Twice,
    /// While an update goes on, one that runs is killed for nothing.
    OneTooFew,
    /// The record of an instance never gets to the disk.
    Unwritten,
    /// Kills are not performed.
    Unkilled,
    /// Offers lose the role that they are of.
    WrongRole,
    /// A restart forgets that a trial is under way.
    TrialForgotten,
    /// Nothing says what a deployment waits for.
    Silent,
    /// All that fail their health check for good are killed at once, as Marathon did.
    Rash,
    /// One that fails its health check for good is to end at once, whether there is another or not.
    Unreplaced,
}

/// The capacities that an update keeps to: blue and green has two of everything.
pub(crate) fn limits(strategy: UpgradeStrategy, n: u32, existing: u32) -> Bounds {
    let strategy = match strategy.trial {
        Trial::BlueGreen { .. } => UpgradeStrategy {
            minimum_health_ppm: PPM,
            maximum_over_ppm: PPM,
            ..strategy
        },
        Trial::None | Trial::Canary { .. } => strategy,
    };
    bounds(n, strategy, existing)
}

/// What was seen of trials so far.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    /// Since when each holds without a break.
    held: BTreeMap<(DeploymentId, AppId), u64>,
    /// Those that somebody ended with a word.
    pub(crate) promoted: std::collections::BTreeSet<DeploymentId>,
}

fn count(members: &[Member], holds: impl Fn(&Member) -> bool) -> u32 {
    u32::try_from(members.iter().filter(|member| holds(member)).count()).expect("small")
}

fn takes_room(member: &Member) -> bool {
    !matches!(member.phase, Phase::Inactive | Phase::Abandoned)
}

/// Of one app that is updated: its bounds, by what the scheduler knows.
pub(crate) fn check_update(id: &AppId, before: &AppState, after: &AppState, now: u64) {
    let spec = &after.active().app;
    let (was, is) = (before.members(now), after.members(now));
    let existing = count(&was, takes_room);
    let limits = if spec.residency.is_some() {
        resident_bounds(spec.instances, spec.upgrade, existing)
    } else {
        limits(spec.upgrade, spec.instances, existing)
    };
    let exist = count(&is, takes_room);
    assert!(
        exist <= limits.max_capacity.max(existing),
        "{id}: above the maximum: {existing}, then {exist} exist, {limits:?}"
    );
    let phase_before: BTreeMap<&TaskId, Phase> = was
        .iter()
        .map(|member| (&member.id, member.phase))
        .collect();
    let ended = count(&is, |member| {
        member.phase == Phase::Leaving && phase_before.get(&member.id) == Some(&Phase::Healthy)
    });
    let healthy = count(&is, |member| member.phase == Phase::Healthy);
    assert!(
        ended == 0 || healthy >= limits.min_healthy,
        "{id}: below the minimum: {ended} healthy ones are ended, {healthy} are left, {limits:?}"
    );
}

/// Of an app that nothing is done to: what fails its health check for good is replaced before it ends, unless there was no
/// room for that for long.
pub(crate) fn check_replaced(id: &AppId, before: &AppState, after: &AppState, now: u64) {
    let is_failing = |member: &&Member| member.phase == Phase::Failing;
    let members = before.members(now);
    let failing: Vec<&TaskId> = members
        .iter()
        .filter(is_failing)
        .map(|member| &member.id)
        .collect();
    let is = after.members(now);
    let ended = is
        .iter()
        .find(|member| member.phase == Phase::Leaving && failing.contains(&&member.id));
    let run = count(&is, |member| match member.phase {
        Phase::Unhealthy | Phase::Failing | Phase::FailingLong | Phase::Healthy => true,
        Phase::Launching
        | Phase::Unreachable
        | Phase::Inactive
        | Phase::Leaving
        | Phase::Abandoned => false,
    });
    let wanted = after.active().app.instances;
    assert!(
        ended.is_none() || run >= wanted,
        "{id}: {ended:?} ends for bad health before its replacement runs: {run} of {wanted} run"
    );
}

impl Trials {
    /// After a turn that began in `before`.
    pub(crate) fn check(&mut self, before: &State, after: &State, now: u64, quiet: bool) {
        for (id, app) in &after.apps {
            let Some(was) = before.apps.get(id) else {
                continue;
            };
            let same = before.locks.get(id) == after.locks.get(id)
                && was.active().version == app.active().version;
            if same && after.action_on(id) == Some(ActionKind::RestartApplication) && !quiet {
                check_update(id, was, app, now);
            }
            if same && after.action_on(id).is_none() {
                check_replaced(id, was, app, now);
            }
            self.check_course(id, after, now);
        }
        for deployment in after.deployments.values() {
            let apps = deployment.current_actions().iter();
            let told = apps
                .filter_map(|action| after.apps.get(&action.app))
                .any(|app| !app.waiting_for.is_empty());
            assert!(
                told,
                "deployment {} does not say what it waits for: {:?}",
                deployment.id,
                deployment.current_actions()
            );
        }
    }

    fn check_course(&mut self, id: &AppId, state: &State, now: u64) {
        let (Some(course), Some(lock)) = (state.course_of(id), state.locks.get(id)) else {
            return;
        };
        let key = (lock.deployment, id.clone());
        let strategy = state.apps[id].active().app.upgrade;
        let hold = match strategy.trial {
            Trial::Canary { hold_ms, .. } | Trial::BlueGreen { hold_ms } => hold_ms,
            Trial::None => Some(0),
        };
        let restarts = state.action_on(id) == Some(ActionKind::RestartApplication);
        let tries = restarts && strategy.trial != Trial::None;
        // Nothing is tried of an app without instances.
        if course.stage == Stage::Going && tries && state.apps[id].active().app.instances > 0 {
            let held_enough = self
                .held
                .get(&key)
                .zip(hold)
                .is_some_and(|(since, hold)| now >= since + hold);
            assert!(
                held_enough || hold == Some(0) || self.promoted.contains(&lock.deployment),
                "{id}: its trial is over before its time: {course:?}, held since {:?}",
                self.held.get(&key)
            );
        }
        match course.stage {
            Stage::Holding => {
                self.held.entry(key).or_insert(now);
            }
            Stage::Trying => {
                self.held.remove(&key);
            }
            Stage::Going => {}
        }
    }
}
