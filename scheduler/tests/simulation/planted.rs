//! Each rule of the simulation bites: with a bug between core and world some seed fails, and with the rule's words.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mezzo_api::model::{Resources, TaskId, TaskInfo, TaskState};

use super::rules::Planted;
use super::runs::{roll, storm};
use super::sick::sick;
use super::world::{Task, World};

/// More than any of the bugs needs.
const SEEDS: u64 = 60;

/// Tasks that nobody asked for, until so many live.
pub(super) fn add_twins(world: &mut World, n: u32) {
    let Some(info) = world.tasks.values().next().map(|task| task.info.clone()) else {
        return;
    };
    for i in world.tasks.len()..n as usize {
        let id: TaskId = format!("twin-{i}").parse().expect("valid");
        let task = Task {
            info: TaskInfo {
                task_id: id.clone(),
                resources: Resources::new(),
                ..info.clone()
            },
            state: TaskState::Running,
            health: vec![None; info.health_checks.len()],
            ready: None,
            unacknowledged: VecDeque::new(),
            pools: Default::default(),
        };
        world.tasks.insert(id, task);
    }
}

fn is_found(run: impl Fn(u64, Option<Planted>), planted: Planted, words: &[&str]) {
    for seed in 0..SEEDS {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed, Some(planted)))) else {
            continue;
        };
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        assert!(
            words.iter().any(|word| text.contains(word)),
            "{planted:?} is found by another rule, seed {seed}: {text}"
        );
        return;
    }
    panic!("{planted:?} is not found in {SEEDS} seeds");
}

#[test]
fn one_instance_too_many_is_found() {
    is_found(roll, Planted::OneTooMany, &["above the maximum"]);
}

#[test]
fn instances_that_are_killed_for_nothing_are_found() {
    is_found(roll, Planted::OneTooFew, &["below the minimum"]);
}

#[test]
fn a_launch_that_is_made_twice_is_found() {
    is_found(storm, Planted::Twice, &["is used twice"]);
}

#[test]
fn a_record_that_is_not_written_is_found() {
    is_found(
        storm,
        Planted::Unwritten,
        &["left == right", "never comes to rest"],
    );
}

#[test]
fn a_kill_that_is_not_made_is_found() {
    is_found(storm, Planted::Unkilled, &["never comes to rest"]);
}

#[test]
fn a_launch_in_the_wrong_role_is_found() {
    is_found(
        storm,
        Planted::WrongRole,
        &["in a role that is not its app's"],
    );
}

#[test]
fn a_trial_that_a_restart_forgets_is_found() {
    is_found(storm, Planted::TrialForgotten, &["before its time"]);
}

#[test]
fn a_deployment_that_does_not_say_what_it_waits_for_is_found() {
    is_found(storm, Planted::Silent, &["does not say what it waits for"]);
}

#[test]
fn the_end_of_all_that_fail_their_health_check_is_found() {
    is_found(sick, Planted::Rash, &["more than its share ends"]);
}

#[test]
fn a_sick_one_that_ends_before_its_replacement_runs_is_found() {
    is_found(sick, Planted::Unreplaced, &["before its replacement runs"]);
}
