//! Apps with several health checks: when an instance counts as healthy, when it is replaced, and what is told of each check.

use mezzo_scheduler::app::AppVersion;
use mezzo_scheduler::events::EventKind;

use super::*;

/// The first gives up after 20 seconds, the second after 5.
fn checks() -> Value {
    json!([
        {"protocol": "TCP", "portIndex": 0, "intervalSeconds": 10, "maxConsecutiveFailures": 3},
        {"protocol": "COMMAND", "command": {"value": "true"}, "intervalSeconds": 5, "maxConsecutiveFailures": 2},
    ])
}

/// An agent's word of each check, and of them together.
fn each(words: [Option<bool>; 2]) -> impl Fn(&mut TaskStatus) {
    move |status| {
        status.health_results = words.to_vec();
        status.healthy = mezzo_api::model::health_of_all(words);
        status.reason = Some(Reason::HealthCheckStatusUpdated);
    }
}

/// Of health: the event, and the number of the check or what is said.
fn told(effects: &Effects) -> Vec<String> {
    let kinds = effects.events.iter().map(|event| &event.kind);
    let told = kinds.filter_map(|kind| {
        let says = if let EventKind::AddHealthCheck { number, .. }
        | EventKind::FailedHealthCheck { number, .. } = kind
        {
            number.to_string()
        } else if let EventKind::HealthStatusChanged { alive, .. } = kind {
            alive.to_string()
        } else if let EventKind::InstanceHealthChanged { instance } = kind {
            format!("{:?}", instance.healthy)
        } else if let EventKind::RemoveHealthCheck { app } = kind {
            app.to_string()
        } else {
            return None;
        };
        Some(format!("{} {says}", kind.name().trim_end_matches("_event")))
    });
    told.collect()
}

const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);

#[test]
fn each_check_goes_with_the_task_and_the_instance_is_healthy_when_all_say_so() {
    let mut bench = Bench::new();
    let task = bench
        .run(json!({"instances": 1, "healthChecks": checks()}))
        .remove(0);
    let asked = task.health_checks.iter().map(ToString::to_string);
    let port = task.health_checks[0].port;
    assert_eq!(
        asked.collect::<Vec<_>>(),
        [format!("TCP on port {port}"), "command".to_owned()]
    );
    for (words, done) in [([YES, None], false), ([YES, YES], true)] {
        bench.say_more(&task.task_id, TaskState::Running, each(words));
        assert_eq!(bench.core.state().deployments.is_empty(), done, "{words:?}");
    }
}

#[test]
fn an_instance_is_replaced_when_the_first_check_gives_up_on_it() {
    let mut bench = Bench::new();
    let task = bench
        .run(json!({"instances": 1, "healthChecks": checks()}))
        .remove(0);
    let id = &task.task_id;
    bench.say_more(id, TaskState::Running, each([YES, YES]));
    let wants_another = |bench: &mut Bench| {
        let calls = bench.turn().calls;
        calls.contains(&Call::Revive(RoleName::any()))
    };
    // The impatient one recovers in time, the other goes on to fail.
    bench.say_more(id, TaskState::Running, each([NO, NO]));
    bench.now += 4_999;
    assert!(!wants_another(&mut bench));
    bench.say_more(id, TaskState::Running, each([NO, YES]));
    bench.now += 15_000;
    assert!(!wants_another(&mut bench));
    bench.now += 1;
    assert!(wants_another(&mut bench));
    let effects = bench.offer("agent-2", NODE);
    let new = launched(&effects).remove(0).task_id;
    assert_eq!(killed(&effects), []);
    let half = bench.say_more(&new, TaskState::Running, each([YES, None]));
    assert_eq!(killed(&half), [], "not healthy yet");
    let whole = bench.say_more(&new, TaskState::Running, each([YES, YES]));
    assert_eq!(killed(&whole), std::slice::from_ref(id));
}

#[test]
fn events_tell_of_each_check_and_of_all_together() {
    let mut bench = Bench::new();
    let body = json!({
        "id": "/a", "cpus": 0.1, "mem": 32, "container": {"docker": {"image": "a:1"}}, "healthChecks": checks(),
    });
    let create = Command::Create { body, force: false };
    bench.command(create).expect("a good app");
    assert_eq!(
        told(&bench.turn()),
        ["add_health_check 0", "add_health_check 1"]
    );
    let id = launched(&bench.offer("agent-1", NODE)).remove(0).task_id;
    bench.say(&id, TaskState::Running);
    for (words, want) in [
        ([YES, None], &["health_status_changed true"][..]),
        (
            [YES, YES],
            &[
                "instance_health_changed Some(true)",
                "health_status_changed true",
            ],
        ),
        ([YES, YES], &[]),
        (
            [YES, NO],
            &[
                "instance_health_changed Some(false)",
                "failed_health_check 1",
                "health_status_changed false",
            ],
        ),
        (
            [NO, NO],
            &["failed_health_check 0", "health_status_changed false"],
        ),
        ([NO, YES], &["health_status_changed true"]),
        (
            [YES, YES],
            &[
                "instance_health_changed Some(true)",
                "health_status_changed true",
            ],
        ),
    ] {
        let effects = bench.say_more(&id, TaskState::Running, each(words));
        assert_eq!(told(&effects), want, "{words:?}");
    }
    bench
        .put(json!({"healthChecks": []}))
        .expect("a good update");
    assert_eq!(
        told(&bench.turn()),
        ["remove_health_check /a", "remove_health_check /a"]
    );
}

#[test]
fn versions_and_instances_are_read_as_they_were_written() {
    let mut bench = Bench::new();
    let task = bench.run(json!({"healthChecks": checks()})).remove(0);
    bench.say_more(&task.task_id, TaskState::Running, each([YES, NO]));
    let written = |state: &State, key: &Key| encode(state, key).expect("it is there");
    let state = bench.core.state();
    let version = bench.app().current.version;
    let app: AppId = "/a".parse().expect("valid");
    let stored = written(state, &Key::Version(app, version));
    let read: AppVersion = serde_json::from_slice(&stored).expect("a version");
    assert_eq!(read, *bench.app().current);
    let stored = written(state, &Key::Instance(task.task_id.clone()));
    let read: mezzo_scheduler::core::state::Instance =
        serde_json::from_slice(&stored).expect("an instance");
    let known = bench.app().instances.get(&task.task_id);
    assert_eq!(read, **known.expect("it is there"));
    assert_eq!(read.words().collect::<Vec<_>>(), [YES, NO]);
}
