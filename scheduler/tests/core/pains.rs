//! What users of Marathon complained about most, by the numbers of docs/marathon-compatibility.md, each shown to be
//! gone. Those that need more than the core are in `tests/lifecycle/pains.rs`.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_scheduler::core::record::decode;

use super::*;

fn app(id: &str) -> AppId {
    id.parse().expect("valid")
}

fn named(id: &str, extra: Value) -> Command {
    let base = json!({"id": id, "cpus": 0.1, "mem": 32, "container": {"docker": {"image": "a:1"}}});
    Command::Create {
        body: mezzo_scheduler::app::merge(&base, &extra),
        force: false,
    }
}

/// What is on disk after all these turns.
fn keep(disk: &mut BTreeMap<Key, Vec<u8>>, effects: &Effects) {
    for write in &effects.writes {
        match &write.value {
            Some(value) => disk.insert(write.key.clone(), value.clone()),
            None => disk.remove(&write.key),
        };
    }
}

/// The scheduler that begins with what is on disk.
fn restarted(disk: &BTreeMap<Key, Vec<u8>>, bench: &Bench) -> Bench {
    let records = disk.iter().map(|(key, value)| (key.clone(), value.clone()));
    let state = decode(records).expect("readable");
    let mut next = Bench {
        core: Core::new(state, Settings::default()),
        ids: Counter(1_000_000),
        now: bench.now + 10_000,
        offers: 1_000_000,
    };
    let framework = "framework".parse().expect("valid");
    next.core.subscribed(&framework, next.now);
    next
}

#[test]
fn pain_01_ninety_tasks_on_ninety_hosts_take_one_round_of_offers() {
    let mut bench = Bench::new();
    bench.post(json!({"instances": 90, "constraints": [["hostname", "UNIQUE"]]}));
    let asked = bench.turn();
    assert!(
        asked.calls.contains(&Call::Revive(RoleName::any())),
        "at once"
    );
    let offers = (0..100)
        .map(|n| bench.an_offer(&format!("agent-{n}"), NODE))
        .collect();
    bench.core.offered(offers);
    let effects = bench.turn();
    assert_eq!(launched(&effects).len(), 90);
    // What is of no use goes to the others for long, and a new wish takes it back at once.
    let declined = effects.calls.iter().find_map(|call| {
        if let Call::Decline { offers, refuse } = call {
            Some((offers.len(), *refuse))
        } else {
            None
        }
    });
    assert_eq!(declined, Some((10, std::time::Duration::from_secs(120))));
    assert!(
        effects.calls.contains(&Call::Suppress(RoleName::any())),
        "nothing is hoarded"
    );
    bench.command(named("/b", json!({}))).expect("taken");
    assert!(bench.turn().calls.contains(&Call::Revive(RoleName::any())));
}

#[test]
fn pain_02_a_deployment_that_waits_locks_its_own_app_alone() {
    let mut bench = Bench::new();
    bench
        .command(named("/shop/stuck", json!({"instances": 3})))
        .expect("taken");
    bench.turn();
    // Neighbours in the same group go on.
    bench
        .command(named("/shop/other", json!({})))
        .expect("taken");
    bench.turn();
    assert_eq!(
        launched(&bench.offer("agent-1", "cpus:0.1;mem:32;ports:[31000-31001]")).len(),
        1
    );
    let locked = bench.command(Command::Restart {
        app: app("/shop/stuck"),
        force: false,
    });
    let Err(Refusal::Locked(by)) = locked else {
        panic!("{locked:?}");
    };
    assert!(
        bench.core.state().deployments.contains_key(&by[0]),
        "the one that is named is there"
    );
    // Force leaves nothing mixed: only the last wish is left, and it is reached.
    bench
        .command(Command::Update {
            updates: vec![Update {
                app: Some(app("/shop/stuck")),
                body: json!({"container": {"docker": {"image": "a:2"}}}),
            }],
            partial: true,
            create: false,
            force: true,
            dry_run: false,
        })
        .expect("by force");
    bench.turn();
    let tasks = launched(&bench.offer("agent-1", NODE));
    assert!(tasks.iter().any(|task| task.container.image == "a:2"));
    for task in tasks {
        bench.say(&task.task_id, TaskState::Running);
    }
    let state = bench.core.state();
    let stuck = &state.apps[&app("/shop/stuck")];
    assert!(
        stuck
            .instances
            .values()
            .all(|one| one.config == stuck.current.config)
    );
    assert_eq!(stuck.instances.len(), 3);
    assert!(
        !state.deployments.contains_key(&by[0]) && !state.locks.contains_key(&app("/shop/stuck"))
    );
}

#[test]
fn pain_03_an_update_with_unique_hosts_ends_and_what_cannot_end_says_why() {
    let mut bench = Bench::new();
    let first = bench.run(json!({"constraints": [["hostname", "UNIQUE"]]}));
    // Marathon's trap: one host, UNIQUE, minimumHealthCapacity 1.
    bench
        .put(json!({"container": {"docker": {"image": "a:2"}}}))
        .expect("taken");
    bench.turn();
    let second = launched(&bench.offer("agent-1", NODE));
    assert_eq!(second.len(), 1, "beside the old one");
    let effects = bench.say(&second[0].task_id, TaskState::Running);
    assert_eq!(killed(&effects), [first[0].task_id.clone()]);
    bench.say(&first[0].task_id, TaskState::Killed);
    assert!(bench.core.state().deployments.is_empty());
    // More than there is room for: taken, and it says what it waits for.
    bench.put(json!({"instances": 2})).expect("taken");
    bench.turn();
    bench.offer("agent-1", NODE);
    let why = why::waiting_for(bench.core.state(), bench.app(), bench.now);
    assert!(why.contains("hostname UNIQUE"), "{why}");
    // Fields that nobody knows are named with the one that was probably meant.
    let body = json!({"id": "/b", "instnaces": 2, "container": {"docker": {"image": "b:1"}}});
    let reply = bench
        .command(Command::Create { body, force: false })
        .expect("taken");
    let Reply::Deployed { unknown, .. } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(unknown[0].nearest.as_deref(), Some("instances"));
}

#[test]
fn pain_04_the_three_thousandth_app_costs_what_the_first_did() {
    let mut bench = Bench::new();
    let mut costs = Vec::new();
    for n in 0..3000 {
        bench
            .command(named(&format!("/many/app{n}"), json!({"instances": 0})))
            .expect("taken");
        let effects = bench.turn();
        let bytes: usize = effects
            .writes
            .iter()
            .map(|write| write.value.as_ref().map_or(0, Vec::len))
            .sum();
        costs.push((effects.writes.len(), bytes));
    }
    let (first, last) = (costs[0], costs[2999]);
    assert_eq!(first.0, last.0, "as many records");
    // Longer names, and nothing else.
    assert!(last.1 < first.1 + 200, "{first:?} {last:?}");
    // Marathon's store took no value above a mebibyte; none here comes near.
    assert!(costs.iter().all(|(_, bytes)| *bytes < 16 << 10));
}

#[test]
fn pain_06_agents_check_health_and_a_scheduler_that_is_away_kills_nothing() {
    let mut bench = Bench::new();
    let tasks =
        bench.run(json!({"instances": 20, "healthChecks": [{"protocol": "TCP", "portIndex": 0}]}));
    assert_eq!(tasks.len(), 20);
    for task in &tasks {
        assert_eq!(task.health_checks.len(), 1, "the check goes with the task");
        bench.say_more(&task.task_id, TaskState::Running, |status| {
            status.healthy = Some(true)
        });
    }
    // The line is gone for an hour.
    bench.core.disconnected();
    for _ in 0..60 {
        bench.now += 60_000;
        assert_eq!(killed(&bench.turn()), []);
    }
    bench
        .core
        .subscribed(&"framework".parse().expect("valid"), bench.now);
    let effects = bench.turn();
    assert_eq!(killed(&effects), []);
    assert_eq!(launched(&effects), []);
    assert_eq!(bench.app().instances.len(), 20);
}

#[test]
fn pain_07_an_update_to_something_sick_ends_nothing_healthy() {
    let check = json!([{"protocol": "TCP", "portIndex": 0}]);
    let mut bench = Bench::new();
    let old = bench.run(json!({"instances": 4, "healthChecks": check}));
    for task in &old {
        bench.say_more(&task.task_id, TaskState::Running, |status| {
            status.healthy = Some(true)
        });
    }
    bench
        .put(json!({"container": {"docker": {"image": "a:2"}}}))
        .expect("taken");
    bench.turn();
    let mut ended = BTreeSet::new();
    for _ in 0..5 {
        let new = launched(&bench.offer("agent-2", NODE));
        for task in new {
            let sick = bench.say_more(&task.task_id, TaskState::Running, |status| {
                status.healthy = Some(false);
            });
            ended.extend(killed(&sick));
            // The agent gives up on it.
            let gone = bench.say_more(&task.task_id, TaskState::Failed, |status| {
                status.reason = Some(Reason::HealthCheckStatusUpdated);
            });
            ended.extend(killed(&gone));
        }
        // Each round is slower than the one before.
        bench.now += 600_000;
        ended.extend(killed(&bench.turn()));
    }
    assert!(ended.is_disjoint(&old.iter().map(|task| task.task_id.clone()).collect()));
    assert!(bench.app().backoff.left_ms(bench.now) < 600_000);
}

#[test]
fn pain_07_what_is_sick_is_replaced_before_it_is_ended_and_a_fifth_at_a_time() {
    let check = json!([{"protocol": "TCP", "portIndex": 0, "intervalSeconds": 10, "maxConsecutiveFailures": 3}]);
    let mut bench = Bench::new();
    let healthy = |is: bool| {
        move |status: &mut TaskStatus| {
            status.healthy = Some(is);
            status.reason = Some(Reason::HealthCheckStatusUpdated);
        }
    };
    let old = bench.run(json!({"instances": 10, "healthChecks": check}));
    let sick_at_once = |bench: &mut Bench| {
        for task in &old {
            bench.say_more(&task.task_id, TaskState::Running, healthy(false));
        }
    };
    for task in &old {
        let agents = task
            .health_checks
            .first()
            .map(|check| check.max_consecutive_failures);
        assert_eq!(agents, Some(0), "the agent only tells");
        bench.say_more(&task.task_id, TaskState::Running, healthy(true));
    }
    // A database that all of them ask is away. Short of three failures nothing happens.
    sick_at_once(&mut bench);
    bench.now += 19_999;
    assert!(!bench.turn().calls.contains(&Call::Revive(RoleName::any())));
    bench.now += 1;
    let effects = bench.turn();
    assert!(effects.calls.contains(&Call::Revive(RoleName::any())));
    let effects = bench.offer("agent-2", NODE);
    let new = launched(&effects);
    assert_eq!(new.len(), 2, "a fifth");
    assert_eq!(killed(&effects), [], "first the replacement");
    // Running is not enough.
    assert_eq!(killed(&bench.say(&new[0].task_id, TaskState::Running)), []);
    assert_eq!(killed(&bench.say(&new[1].task_id, TaskState::Running)), []);
    let first = killed(&bench.say_more(&new[0].task_id, TaskState::Running, healthy(true)));
    assert_eq!(first.len(), 1);
    bench.say(&first[0], TaskState::Killed);
    assert!(
        bench.app().backoff.left_ms(bench.now) > 0,
        "a failure of the app"
    );
    let failure = bench
        .app()
        .last_failure
        .as_ref()
        .map(|failure| failure.message.clone());
    assert!(failure.is_some_and(|text| text.contains("health check")));
    // The database is back: the one too many goes, and nobody for its health.
    let mut gone = Vec::new();
    for task in old.iter().filter(|task| task.task_id != first[0]) {
        let effects = bench.say_more(&task.task_id, TaskState::Running, healthy(true));
        gone.extend(killed(&effects));
    }
    assert_eq!(gone, [new[1].task_id.clone()], "what was not healthy yet");
    bench.say(&gone[0], TaskState::Killed);
    assert_eq!(bench.app().instances.len(), 10);
    bench.now += 600_000;
    assert_eq!(killed(&bench.turn()), []);
}

#[test]
fn pain_07_without_room_beside_it_the_sick_one_makes_room_unless_its_word_is_old() {
    let check = json!([{"protocol": "TCP", "portIndex": 0, "intervalSeconds": 10, "maxConsecutiveFailures": 1}]);
    let mut bench = Bench::new();
    let tasks = bench.run(json!({"instances": 2, "healthChecks": check}));
    for task in &tasks {
        bench.say_more(&task.task_id, TaskState::Running, |status| {
            status.healthy = Some(false)
        });
    }
    bench.now += 59_999;
    assert_eq!(killed(&bench.turn()), []);
    // The line breaks; what it said before may not hold any more.
    bench.core.disconnected();
    bench.now += 1;
    assert_eq!(killed(&bench.turn()), []);
    bench
        .core
        .subscribed(&"framework".parse().expect("valid"), bench.now);
    assert_eq!(killed(&bench.turn()), []);
    let confirm = |status: &mut TaskStatus| {
        status.healthy = Some(false);
        status.reason = Some(Reason::Reconciliation);
    };
    let gone = killed(&bench.say_more(&tasks[0].task_id, TaskState::Running, confirm));
    assert_eq!(gone, [tasks[0].task_id.clone()]);
    let other = killed(&bench.say_more(&tasks[1].task_id, TaskState::Running, confirm));
    assert_eq!(other, [], "one at a time");
    // Its replacement waits for offers: for a while the gap counts.
    assert_eq!(killed(&bench.say(&tasks[0].task_id, TaskState::Killed)), []);
    bench.now += 500_000;
    assert_eq!(killed(&bench.turn()), []);
    bench.now += 100_000;
    assert_eq!(killed(&bench.turn()), [tasks[1].task_id.clone()]);
}

#[test]
fn pain_07_the_gap_of_a_sick_one_counts_as_long_as_no_master_can_be_asked_to_fill_it() {
    let check = json!([{"protocol": "TCP", "portIndex": 0, "intervalSeconds": 10, "maxConsecutiveFailures": 1}]);
    let sick = |status: &mut TaskStatus| {
        status.healthy = Some(false);
        status.reason = Some(Reason::Reconciliation);
    };
    let mut bench = Bench::new();
    let tasks = bench.run(json!({"instances": 2, "healthChecks": check}));
    for task in &tasks {
        bench.say_more(&task.task_id, TaskState::Running, sick);
    }
    bench.now += 60_000;
    let gone = killed(&bench.turn());
    assert_eq!(gone.len(), 1, "to make room");
    assert_eq!(killed(&bench.say(&gone[0], TaskState::Killed)), []);
    let stays = tasks.iter().find(|task| task.task_id != gone[0]);
    let stays = &stays.expect("one of two").task_id;
    // The master is away for as long as the gap counts, and longer.
    bench.core.disconnected();
    bench.now += 700_000;
    let master = "framework".parse().expect("valid");
    bench.core.subscribed(&master, bench.now);
    assert_eq!(killed(&bench.turn()), []);
    let heard = bench.say_more(stays, TaskState::Running, sick);
    assert_eq!(
        killed(&heard),
        [],
        "what takes the place was just asked for"
    );
    bench.now += 599_999;
    assert_eq!(killed(&bench.turn()), []);
    bench.now += 1;
    assert_eq!(killed(&bench.turn()), std::slice::from_ref(stays));
}

#[test]
fn pain_08_a_lost_agent_is_replaced_at_once_or_to_the_second() {
    let lost = |status: &mut TaskStatus| {
        status.update_id = None;
        status.reason = Some(Reason::AgentDisconnected);
    };
    let mut bench = Bench::new();
    let task = bench.run(json!({})).remove(0).task_id;
    let effects = bench.say_more(&task, TaskState::Unreachable, lost);
    assert!(
        effects.calls.contains(&Call::Revive(RoleName::any())),
        "by default at once"
    );
    assert_eq!(launched(&bench.offer("agent-2", NODE)).len(), 1);

    let mut bench = Bench::new();
    let wait =
        json!({"unreachableStrategy": {"inactiveAfterSeconds": 60, "expungeAfterSeconds": 600}});
    let task = bench.run(wait).remove(0).task_id;
    let effects = bench.say_more(&task, TaskState::Unreachable, lost);
    assert_eq!(
        effects.wake_at,
        Some(bench.now + 60_000),
        "not at the next reconciliation"
    );
    bench.now += 59_999;
    assert!(!bench.turn().calls.contains(&Call::Revive(RoleName::any())));
    bench.now += 1;
    assert!(bench.turn().calls.contains(&Call::Revive(RoleName::any())));
}

#[test]
fn pain_16_a_new_leader_forgets_no_task_doubles_none_and_keeps_no_ghost() {
    let mut disk = BTreeMap::new();
    let mut bench = Bench::new();
    keep(&mut disk, &bench.turn());
    bench.post(json!({"instances": 3}));
    keep(&mut disk, &bench.turn());
    let effects = bench.offer("agent-1", NODE);
    keep(&mut disk, &effects);
    let tasks: Vec<TaskId> = launched(&effects)
        .into_iter()
        .map(|task| task.task_id)
        .collect();
    // It dies before it hears anything of them, and one of them never got to the master.
    let mut next = restarted(&disk, &bench);
    let effects = next.turn();
    assert_eq!(launched(&effects), []);
    assert_eq!(killed(&effects), []);
    for task in &tasks[..2] {
        assert_eq!(killed(&next.say(task, TaskState::Running)), []);
    }
    next.say_more(&tasks[2], TaskState::Unknown, |status| {
        status.update_id = None
    });
    let replaced = launched(&next.offer("agent-2", NODE));
    assert_eq!(replaced.len(), 1, "the one that is lost, and only that");
    next.say(&replaced[0].task_id, TaskState::Running);
    assert_eq!(next.app().instances.len(), 3);
    assert!(next.core.state().deployments.is_empty());
    // What runs without being wanted goes.
    let ghost: TaskId = "a.instance-ghost._app.1".parse().expect("valid");
    assert_eq!(killed(&next.say(&ghost, TaskState::Running)), [ghost]);
}

#[test]
fn pain_18_a_node_is_drained_without_a_gap() {
    let mut bench = Bench::new();
    bench.post(json!({"instances": 2, "constraints": [["hostname", "UNIQUE"]]}));
    bench.turn();
    let one = launched(&bench.offer("agent-1", NODE)).remove(0).task_id;
    let two = launched(&bench.offer("agent-2", NODE)).remove(0).task_id;
    bench.say(&one, TaskState::Running);
    bench.say(&two, TaskState::Running);
    let effects = bench.say_more(&one, TaskState::Killing, |status| {
        status.reason = Some(Reason::AgentDraining);
    });
    assert!(
        effects.calls.contains(&Call::Revive(RoleName::any())),
        "while the old one still ends"
    );
    let three = launched(&bench.offer("agent-3", NODE)).remove(0).task_id;
    bench.say(&three, TaskState::Running);
    let effects = bench.say_more(&one, TaskState::Killed, |status| {
        status.reason = Some(Reason::AgentDraining);
    });
    assert_eq!(killed(&effects), []);
    assert_eq!(
        bench.app().backoff.left_ms(bench.now),
        0,
        "nobody's failure"
    );
    let left: Vec<&TaskId> = bench.app().instances.keys().collect();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&&two) && left.contains(&&three));
}
