//! An agent by itself: messages in, messages out.

use std::time::Duration;

use mezzo_api::proto::{
    Launch,
    master_message::{Acknowledge, Drain, Kill},
};

use prost::Message as _;

use super::*;

fn agent(change: impl FnOnce(&mut Config)) -> Agent {
    let mut config = Config::default();
    change(&mut config);
    Agent::new(7, Arc::new(config), Arc::default())
}

fn launch(task: &str, cpus: i64) -> In {
    let scalar = proto::resource::Value::Scalar(proto::Scalar {
        millis: cpus * 1000,
    });
    In::Launch(Launch {
        framework_id: "f".into(),
        role: "*".into(),
        task: proto::TaskInfo {
            task_id: task.into(),
            resources: vec![proto::Resource {
                name: "cpus".into(),
                value: Some(scalar),
            }],
            ..proto::TaskInfo::default()
        }
        .encode_to_vec(),
    })
}

fn statuses(outcome: Outcome) -> Vec<proto::TaskStatus> {
    let Outcome::Send(out) = outcome else {
        panic!("{outcome:?}")
    };
    out.into_iter()
        .filter_map(|message| {
            let Some(Out::Status(status)) = message.message else {
                return None;
            };
            Some(*status)
        })
        .collect()
}

fn states(statuses: &[proto::TaskStatus]) -> Vec<TaskState> {
    statuses.iter().map(proto::TaskStatus::state).collect()
}

fn acknowledge(status: &proto::TaskStatus) -> In {
    In::Acknowledge(Acknowledge {
        framework_id: "f".into(),
        task_id: status.task_id.clone(),
        update_id: status.update_id.clone(),
    })
}

#[test]
fn statuses_go_one_by_one_and_are_repeated_until_acknowledged() {
    let mut agent = agent(|config| config.tell_starting = true);
    let first = statuses(agent.handle(launch("t", 1), 0));
    assert_eq!(states(&first), [TaskState::TaskStarting]);
    assert!(agent.repeat(9_999, false).is_empty());
    assert_eq!(agent.repeat(10_000, false).len(), 1);
    let next = statuses(agent.handle(acknowledge(&first[0]), 1));
    assert_eq!(states(&next), [TaskState::TaskRunning]);
    assert!(
        statuses(agent.handle(acknowledge(&first[0]), 2)).is_empty(),
        "it was acknowledged before"
    );
    assert!(agent.is_waiting());
    assert!(statuses(agent.handle(acknowledge(&next[0]), 3)).is_empty());
    assert!(!agent.is_waiting() && agent.tasks.len() == 1);
}

#[test]
fn tasks_end_by_themselves_and_are_gone_when_that_is_acknowledged() {
    let mut agent = agent(|config| {
        config.start_delay = Duration::from_millis(5);
        config.run_for = Some((Duration::from_secs(1), Duration::from_secs(2)));
        config.failures_per_mille = 1000;
    });
    assert!(statuses(agent.handle(launch("t", 1), 0)).is_empty());
    let running = statuses(Outcome::Send(agent.due(5)));
    assert_eq!(states(&running), [TaskState::TaskRunning]);
    assert!((1005..=2005).contains(&agent.next_due().unwrap()));
    assert!(
        agent.due(2005).is_empty(),
        "TASK_RUNNING is not acknowledged yet"
    );
    let failed = statuses(agent.handle(acknowledge(&running[0]), 2006));
    assert_eq!(states(&failed), [TaskState::TaskFailed]);
    agent.handle(acknowledge(&failed[0]), 2007);
    assert!(agent.tasks.is_empty() && agent.held["cpus"] == 0);
}

#[test]
fn what_it_holds_is_told_at_the_next_registration() {
    let mut agent = agent(|_| {});
    agent.handle(launch("t", 1), 0);
    let sent = agent.register().encode_to_vec();
    // As a master reads it.
    let Some(Out::Register(register)) = AgentMessage::decode(&*sent).unwrap().message else {
        panic!()
    };
    let (task, info) = (&register.tasks[0], register.info.as_ref().unwrap());
    assert_eq!(info.hostname, "sim-000007");
    assert_eq!(task.info.as_ref().unwrap().task_id, "t");
    assert_eq!(task.framework_id, "f");
    assert_eq!(
        task.status.as_ref().unwrap().state(),
        TaskState::TaskRunning
    );
    assert_eq!(agent.repeat(1, true).len(), 1, "and its status again");
}

#[test]
fn more_than_it_has_is_refused_and_counted() {
    let mut agent = agent(|_| {});
    agent.handle(launch("a", 7), 0);
    let told = statuses(agent.handle(launch("b", 2), 0));
    assert_eq!(states(&told), [TaskState::TaskDropped]);
    assert_eq!(agent.counts.read().overcommitted, 1);
}

#[test]
fn a_kill_and_a_drain_end_tasks() {
    let mut agent = agent(|_| {});
    for task in ["a", "b"] {
        let running = statuses(agent.handle(launch(task, 1), 0));
        agent.handle(acknowledge(&running[0]), 0);
    }
    let kill = In::Kill(Kill {
        framework_id: "f".into(),
        task_id: "a".into(),
        grace_ms: None,
    });
    assert_eq!(
        states(&statuses(agent.handle(kill, 1))),
        [TaskState::TaskKilled]
    );
    let drained = statuses(agent.handle(In::Drain(Drain { max_grace_ms: None }), 2));
    assert_eq!(drained[0].reason(), Reason::AgentDraining);
    assert_eq!(
        states(&statuses(agent.handle(launch("c", 1), 3))),
        [TaskState::TaskDropped]
    );
}
