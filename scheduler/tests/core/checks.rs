//! Marathon's `check`: it goes with the task, what it finds is kept and shown, and nothing follows from it.

use mezzo_api::model::{CheckAction, CheckResult};

use super::pods::pod;
use super::*;

fn found(result: CheckResult) -> impl Fn(&mut TaskStatus) {
    move |status| {
        status.reason = Some(Reason::TaskCheckStatusUpdated);
        status.check_result = Some(Box::new(result.clone()));
    }
}

#[test]
fn what_a_check_finds_is_kept_and_neither_kills_nor_holds_anything_up() {
    let mut bench = Bench::new();
    let check = json!({"http": {"path": "/state"}, "delaySeconds": 1});
    let task = bench.run(json!({"instances": 1, "check": check})).remove(0);
    assert!(bench.core.state().deployments.is_empty(), "it runs");
    let asked = task.check.clone().expect("the agent is asked");
    let CheckAction::Http { tls, port, path } = asked.action else {
        panic!("{asked:?}");
    };
    assert_eq!((tls, path.as_str()), (false, "/state"));
    assert!(task.resources.ports().has(u64::from(port)));
    assert_eq!((asked.delay.as_secs(), asked.interval.as_secs()), (1, 60));
    let known = |bench: &Bench| {
        let mut instances = bench.app().instances.values();
        let instance = instances.next().expect("one");
        assert!(instance.is_healthy());
        instance.check_result.clone()
    };
    assert_eq!(known(&bench), None);
    for result in [
        CheckResult::Http(500),
        CheckResult::Http(200),
        CheckResult::nothing("refused"),
    ] {
        let effects = bench.say_more(&task.task_id, TaskState::Running, found(result.clone()));
        assert!(killed(&effects).is_empty() && launched(&effects).is_empty());
        assert!(bench.core.state().deployments.is_empty());
        assert_eq!(known(&bench), Some(Box::new(result)));
    }
    // An answer that leaves it out does not take it back.
    bench.say(&task.task_id, TaskState::Running);
    assert_eq!(
        known(&bench),
        Some(Box::new(CheckResult::nothing("refused")))
    );
    // Another check is another configuration.
    bench
        .put(json!({"instances": 1, "check": {"tcp": {}}}))
        .expect("a good app");
    assert!(!bench.core.state().deployments.is_empty());
}

#[test]
fn each_container_of_a_pod_has_its_own_and_the_instance_has_none() {
    let mut bench = Bench::new();
    let mut body = pod(json!({}));
    body["containers"][0]["check"] = json!({"tcp": {"endpoint": "in"}});
    body["containers"][1]["check"] = json!({"exec": {"command": {"argv": ["/log", "state"]}}});
    let tasks = bench.run_pod(json!({"containers": body["containers"]}));
    let actions = [&tasks[0], &tasks[1]].map(|task| {
        let check = task.check.clone().expect("asked");
        check.action
    });
    assert_eq!(
        actions,
        [
            CheckAction::Tcp { port: 81 },
            CheckAction::Command(vec!["/log".into(), "state".into()])
        ]
    );
    bench.say_more(
        &tasks[1].task_id,
        TaskState::Running,
        found(CheckResult::Command(3)),
    );
    let instance = bench.app().instances.values().next().expect("one").clone();
    let results = instance
        .members
        .iter()
        .map(|member| member.check_result.clone());
    assert_eq!(
        results.collect::<Vec<_>>(),
        [None, Some(Box::new(CheckResult::Command(3)))]
    );
    assert_eq!(instance.check_result, None);
    // As it is stored, and as one from before there were any.
    let record = serde_json::to_string(&*instance).expect("JSON");
    assert_eq!(decode_instance(&record), *instance);
    let older = record.replace(",\"checkResult\":{\"command\":3}", "");
    assert!(!older.contains("checkResult"), "{older}");
    assert_eq!(decode_instance(&older).members[1].check_result, None);
}

fn decode_instance(record: &str) -> mezzo_scheduler::core::state::Instance {
    serde_json::from_str(record).expect("an instance")
}
