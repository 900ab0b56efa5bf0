//! Readiness checks hold a deployment up until what it started is ready, and mean nothing without one.

use mezzo_api::model::{ReadinessResponse, ReadinessStatus, TaskId, TaskState, TaskStatus};
use serde_json::{Value, json};

use super::{Bench, NODE, killed, launched};

fn checked(version: u8) -> Value {
    json!({
        "env": {"VERSION": version.to_string()},
        "portDefinitions": [{"port": 0, "name": "api"}],
        "readinessChecks": [{"name": "up", "portName": "api", "path": "/ready"}],
    })
}

fn answered(status: u16) -> impl Fn(&mut TaskStatus) {
    move |told| {
        told.readiness = Some(Box::new(ReadinessStatus {
            name: "up".into(),
            ready: status == 200,
            last_response: Some(ReadinessResponse {
                status,
                content_type: String::new(),
                body: String::new(),
            }),
            problem: String::new(),
        }));
    }
}

fn deploys(bench: &Bench) -> bool {
    !bench.core.state().deployments.is_empty()
}

#[test]
fn an_update_kills_the_old_only_when_the_new_is_ready() {
    let mut bench = Bench::new();
    bench.post(checked(1));
    let old = launched(&bench.offer("agent-1", NODE));
    let check = old[0].readiness_check.clone().expect("the agent is asked");
    assert_eq!(
        (check.path.as_str(), check.ready_statuses),
        ("/ready", vec![200])
    );
    assert!(old[0].resources.ports().has(u64::from(check.port)));
    bench.say(&old[0].task_id, TaskState::Running);
    assert!(deploys(&bench), "it runs, and is not ready");
    bench.say_more(&old[0].task_id, TaskState::Running, answered(200));
    assert!(!deploys(&bench));

    bench.put(checked(2)).expect("a good app");
    let new: Vec<TaskId> = launched(&bench.offer("agent-1", NODE))
        .iter()
        .map(|task| task.task_id.clone())
        .collect();
    for (status, kills) in [(503, 0), (200, 1)] {
        let effects = bench.say_more(&new[0], TaskState::Running, answered(status));
        assert_eq!(killed(&effects).len(), kills, "{status}");
    }
    // What was ready once is not asked again, and no late word takes it back.
    let effects = bench.say_more(&new[0], TaskState::Running, answered(503));
    assert!(killed(&effects).is_empty());
    bench.say(&old[0].task_id, TaskState::Killed);
    assert!(!deploys(&bench));
}

#[test]
fn instances_of_before_the_check_do_not_wait_for_one() {
    let mut bench = Bench::new();
    let tasks = bench.run(json!({"instances": 2}));
    assert!(tasks.iter().all(|task| task.readiness_check.is_none()));
    assert!(!deploys(&bench));
    // As the record of an instance of an older scheduler: it says nothing of readiness.
    let instance = bench.app().instances.values().next().expect("one");
    let record = serde_json::to_string(&**instance).expect("a record is JSON");
    assert!(!record.to_lowercase().contains("readiness"), "{record}");
    let read: mezzo_scheduler::core::state::Instance =
        serde_json::from_str(&record).expect("an older record");
    assert!(read.is_ready());
}
