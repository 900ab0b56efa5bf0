//! What becomes of an instance that does not start, fails, or is on a machine that is lost.

use super::*;

#[test]
fn a_task_that_does_not_start_in_time_is_killed_unless_it_makes_progress() {
    let mut bench = Bench::new();
    bench.post(json!({}));
    let task = launched(&bench.offer("agent-1", NODE)).remove(0).task_id;
    bench.now += 200_000;
    assert!(
        killed(&bench.say_more(&task, TaskState::Starting, |s| s.message =
            "pulled 10 %".into()))
        .is_empty()
    );
    bench.now += 200_000;
    let due = bench.now + 100_000;
    loop {
        let effects = bench.turn();
        let ended = killed(&effects);
        if bench.now >= due {
            assert_eq!(ended, [task]);
            break;
        }
        assert!(ended.is_empty(), "progress 200 s ago");
        // Other things may come first; nothing lets the deadline pass.
        bench.now = effects.wake_at.expect("a time");
        assert!(bench.now <= due);
    }
}

#[test]
fn a_kill_is_repeated_until_the_task_ends() {
    let mut bench = Bench::new();
    let task = bench.run(json!({})).remove(0).task_id;
    bench.put(json!({"instances": 0})).expect("scales");
    assert_eq!(killed(&bench.turn()), std::slice::from_ref(&task));
    assert!(killed(&bench.turn()).is_empty());
    bench.now += 30_000;
    assert_eq!(killed(&bench.turn()), std::slice::from_ref(&task));
    bench.say(&task, TaskState::Killed);
    bench.now += 30_000;
    assert!(killed(&bench.turn()).is_empty());
    assert!(bench.core.state().deployments.is_empty());
}

#[test]
fn failures_are_delayed_and_what_was_killed_or_lost_is_not() {
    for (state, delayed) in [
        (TaskState::Failed, true),
        (TaskState::Finished, true),
        (TaskState::Error, true),
        (TaskState::Killed, false),
        (TaskState::Gone, false),
        (TaskState::Dropped, false),
        (TaskState::Unknown, false),
    ] {
        let mut bench = Bench::new();
        let task = bench.run(json!({})).remove(0).task_id;
        let effects = bench.say(&task, state);
        assert_eq!(
            effects.calls.contains(&Call::Revive(RoleName::any())),
            !delayed,
            "{state}"
        );
        assert_eq!(
            bench.app().backoff.left_ms(bench.now) > 0,
            delayed,
            "{state}"
        );
        if delayed {
            assert!(launched(&bench.offer("agent-1", NODE)).is_empty());
            assert_eq!(bench.turn().wake_at, Some(bench.now + 1000));
            bench.now += 1000;
            assert!(bench.turn().calls.contains(&Call::Revive(RoleName::any())));
        }
        assert_eq!(launched(&bench.offer("agent-1", NODE)).len(), 1, "{state}");
    }
}

#[test]
fn a_crash_loop_is_told_with_how_often_it_failed_also_after_a_restart() {
    let mut bench = Bench::new();
    let mut task = bench.run(json!({})).remove(0).task_id;
    let waits = |bench: &Bench| why::why_not_launched(bench.core.state(), bench.app(), bench.now);
    for n in 1..=3 {
        bench.say(&task, TaskState::Failed);
        let text = waits(&bench).expect("it waits");
        let told = format!("crash loop: {n} failures in a row; the next launch is delayed by");
        assert_eq!(text.starts_with(&told), n == 3, "{text}");
        if n < 3 {
            bench.now = bench.app().backoff.until();
            bench.turn();
            task = launched(&bench.offer("agent-1", NODE)).remove(0).task_id;
            bench.say(&task, TaskState::Running);
        }
    }
    let record = encode(bench.core.state(), &Key::App("/a".parse().expect("valid")));
    let record: Value = serde_json::from_slice(&record.expect("a record")).expect("JSON");
    assert_eq!(record["backoff"]["failures"], 3);
}

#[test]
fn a_new_configuration_forgets_the_delay() {
    let mut bench = Bench::new();
    let task = bench.run(json!({})).remove(0).task_id;
    bench.say(&task, TaskState::Failed);
    assert!(bench.app().backoff.left_ms(bench.now) > 0);
    bench.put(json!({"env": {"FIXED": "1"}})).expect("updates");
    assert_eq!(bench.app().backoff.left_ms(bench.now), 0);
}

#[test]
fn a_lost_machine_is_replaced_and_what_returns_late_goes() {
    let mut bench = Bench::new();
    let task = bench.run(json!({"unreachableStrategy": {"inactiveAfterSeconds": 60, "expungeAfterSeconds": 120}}))
        .remove(0)
        .task_id;
    let lost = |status: &mut TaskStatus| {
        status.update_id = None;
        status.reason = Some(Reason::AgentDisconnected);
    };
    let effects = bench.say_more(&task, TaskState::Unreachable, lost);
    assert!(
        !effects.calls.contains(&Call::Revive(RoleName::any())),
        "not yet"
    );
    assert_eq!(
        effects.wake_at,
        Some(bench.now + 60_000),
        "to the second, not at the next reconciliation"
    );
    bench.now += 60_000;
    assert!(bench.turn().calls.contains(&Call::Revive(RoleName::any())));
    let replacement = launched(&bench.offer("agent-2", NODE)).remove(0).task_id;
    bench.say(&replacement, TaskState::Running);
    assert_eq!(bench.app().instances.len(), 2);
    bench.now += 60_000;
    let back = bench.say_more(&task, TaskState::Running, |s| {
        s.reason = Some(Reason::AgentReregistered)
    });
    assert_eq!(killed(&back), [task]);
}

#[test]
fn one_that_returns_before_its_replacement_runs_is_kept() {
    let mut bench = Bench::new();
    let task = bench
        .run(
            json!({"unreachableStrategy": {"inactiveAfterSeconds": 5, "expungeAfterSeconds": 600}}),
        )
        .remove(0)
        .task_id;
    bench.say_more(&task, TaskState::Unreachable, |s| s.update_id = None);
    bench.now += 5000;
    let replacement = launched(&bench.offer("agent-2", NODE)).remove(0).task_id;
    let back = bench.say_more(&task, TaskState::Running, |s| {
        s.reason = Some(Reason::AgentReregistered)
    });
    assert_eq!(killed(&back), [replacement]);
}

#[test]
fn a_removed_apps_lost_task_is_killed_when_it_returns() {
    let mut bench = Bench::new();
    let task = bench.run(json!({})).remove(0).task_id;
    bench.say_more(&task, TaskState::Unreachable, |s| s.update_id = None);
    let app = "/a".parse().expect("valid");
    bench
        .command(Command::Delete { app, force: true })
        .expect("removes");
    bench.turn();
    assert!(
        bench.core.state().apps.is_empty(),
        "nobody waits for a lost machine"
    );
    let back = bench.say_more(&task, TaskState::Running, |s| {
        s.reason = Some(Reason::AgentReregistered)
    });
    assert_eq!(killed(&back), std::slice::from_ref(&task));
    let effects = bench.say(&task, TaskState::Killed);
    assert!(bench.core.state().orphans.is_empty());
    assert!(
        effects
            .writes
            .iter()
            .any(|write| write.key == Key::Instance(task.clone()) && write.value.is_none())
    );
}

#[test]
fn a_task_nobody_knows_is_killed() {
    let mut bench = Bench::new();
    let stranger: TaskId = "stranger".parse().expect("valid");
    assert_eq!(
        killed(&bench.say(&stranger, TaskState::Running)),
        [stranger]
    );
}
