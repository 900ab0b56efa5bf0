//! Updates by choice: a canary, blue and green, the word that ends a trial, and the deadline after which all is taken back.

use mezzo_api::model::{TaskId, TaskState};
use mezzo_scheduler::core::command::{Command, Refusal, Reply};
use mezzo_scheduler::deployment::DeploymentId;
use serde_json::{Value, json};

use super::{Bench, NODE, killed, launched};

fn strategy(choice: Value) -> Value {
    json!({"instances": 3, "upgradeStrategy": choice})
}

/// Version 1 runs; version 2 is asked for, and what is offered is used.
fn updated(choice: Value) -> (Bench, DeploymentId, Vec<TaskId>) {
    let mut bench = Bench::new();
    bench.run(strategy(choice));
    let Ok(Reply::Deployed { id, .. }) = bench.put(json!({"env": {"V": "2"}})) else {
        panic!("deploys")
    };
    bench.turn();
    let new = launched(&bench.offer("agent-1", NODE));
    (
        bench,
        id,
        new.into_iter().map(|task| task.task_id).collect(),
    )
}

fn is_over(bench: &Bench) -> bool {
    bench.core.state().deployments.is_empty()
}

#[test]
fn a_canary_is_held_before_the_rest_follows() {
    let (mut bench, _, new) = updated(json!({"canary": {"holdSeconds": 60}}));
    assert_eq!(new.len(), 1);
    assert!(killed(&bench.say(&new[0], TaskState::Running)).is_empty());
    assert!(bench.app().waiting_for.contains("on trial until"));
    bench.now += 59_999;
    bench.turn();
    assert!(launched(&bench.offer("agent-1", NODE)).is_empty());
    bench.now += 1;
    // With one of the new healthy, one of the old is not needed any more.
    assert_eq!(killed(&bench.turn()).len(), 1);
    assert_eq!(launched(&bench.offer("agent-1", NODE)).len(), 2);
}

#[test]
fn a_canary_that_fails_begins_anew_and_touches_no_other() {
    let (mut bench, _, new) = updated(json!({"canary": {"holdSeconds": 60}}));
    bench.say(&new[0], TaskState::Running);
    bench.now += 59_000;
    assert!(killed(&bench.say(&new[0], TaskState::Failed)).is_empty());
    bench.now += 10_000;
    bench.turn();
    let again = launched(&bench.offer("agent-1", NODE));
    assert_eq!(again.len(), 1);
    bench.say(&again[0].task_id, TaskState::Running);
    bench.now += 59_000;
    assert!(killed(&bench.turn()).is_empty());
    bench.now += 1000;
    assert_eq!(killed(&bench.turn()).len(), 1);
}

#[test]
fn a_trial_without_a_time_waits_for_a_word() {
    let (mut bench, id, new) = updated(json!({"canary": {"instances": 2}}));
    assert_eq!(new.len(), 2);
    for task in &new {
        bench.say(task, TaskState::Running);
    }
    bench.now += 1_000_000_000;
    assert!(killed(&bench.turn()).is_empty());
    assert!(bench.app().waiting_for.contains("promote"));
    bench.command(Command::Promote { id }).expect("on trial");
    assert_eq!(killed(&bench.turn()).len(), 2);
    let Err(refusal) = bench.command(Command::Promote { id }) else {
        panic!("nothing is on trial any more")
    };
    assert!(matches!(refusal, Refusal::NoTrial(_)), "{refusal}");
}

#[test]
fn blue_and_green_are_whole_beside_each_other_and_the_old_end_together() {
    let (mut bench, _, new) = updated(json!({
        "minimumHealthCapacity": 0, "maximumOverCapacity": 0, "blueGreen": {"holdSeconds": 10},
    }));
    assert_eq!(new.len(), 3, "whatever the capacities say");
    for task in &new {
        assert!(killed(&bench.say(task, TaskState::Running)).is_empty());
    }
    bench.now += 10_000;
    let old = killed(&bench.turn());
    assert_eq!(old.len(), 3);
    assert!(old.iter().all(|task| !new.contains(task)));
    for task in &old {
        bench.say(task, TaskState::Killed);
    }
    assert!(is_over(&bench));
}

#[test]
fn what_is_not_done_in_time_is_taken_back_and_says_why() {
    let (mut bench, id, new) = updated(json!({"canary": {}, "rollbackAfterSeconds": 120}));
    let failed = bench.core.state().deployments[&id].version;
    bench.now += 119_999;
    assert!(killed(&bench.turn()).is_empty());
    bench.now += 1;
    assert_eq!(killed(&bench.turn()), new);
    let rollback = bench.app().last_rollback.clone().expect("told");
    assert_eq!(rollback.version, failed);
    assert!(
        rollback
            .reason
            .contains("/a: 0 of 1 new instances on trial"),
        "{}",
        rollback.reason
    );
    bench.say(&new[0], TaskState::Killed);
    assert!(is_over(&bench));
    assert_eq!(bench.app().current.app.env.get("V"), None);
    // The next update has nothing to do with it.
    bench.put(json!({"env": {"V": "3"}})).expect("deploys");
    assert_eq!(bench.app().last_rollback, None);
}

#[test]
fn a_healthy_trial_has_all_the_time_in_the_world_and_what_follows_has_not() {
    let (mut bench, id, new) = updated(json!({"canary": {}, "rollbackAfterSeconds": 120}));
    bench.say(&new[0], TaskState::Running);
    bench.now += 1_000_000_000;
    assert!(killed(&bench.turn()).is_empty());
    bench.command(Command::Promote { id }).expect("on trial");
    assert_eq!(killed(&bench.turn()).len(), 1);
    bench.now += 119_999;
    bench.turn();
    assert_eq!(bench.app().last_rollback, None);
    bench.now += 1;
    bench.turn();
    assert!(bench.app().last_rollback.is_some());
    let back = launched(&bench.offer("agent-1", NODE));
    assert_eq!(back.len(), 1, "one for the old one that has ended");
    assert_eq!(
        killed(&bench.say(&back[0].task_id, TaskState::Running)),
        [new[0].clone()]
    );
}

#[test]
fn an_app_that_is_new_has_nothing_to_go_back_to() {
    let mut bench = Bench::new();
    bench.post(strategy(json!({"rollbackAfterSeconds": 1})));
    bench.turn();
    bench.now += 10_000_000;
    bench.turn();
    assert!(!is_over(&bench));
    assert_eq!(bench.app().current.app.instances, 3);
}
