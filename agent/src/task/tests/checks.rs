//! Readiness: told as statuses, asked until it passes, also by the next agent.

use mezzo_api::model::{ReadinessCheck, ReadinessProtocol, ReadinessResponse, ReadinessStatus};

use super::*;

fn checked() -> TaskInfo {
    TaskInfo {
        readiness_check: Some(ReadinessCheck {
            name: "up".into(),
            protocol: ReadinessProtocol::Http,
            path: "/".into(),
            port: 80,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            ready_statuses: vec![200],
            preserve_last_response: false,
        }),
        ..a_task("t")
    }
}

fn answered(status: u16) -> Box<ReadinessStatus> {
    Box::new(ReadinessStatus {
        name: "up".into(),
        ready: status == 200,
        last_response: Some(ReadinessResponse {
            status,
            content_type: String::new(),
            body: String::new(),
        }),
        problem: String::new(),
    })
}

fn starts(effects: &[Effect]) -> usize {
    let is_start = |effect: &&Effect| matches!(effect, Effect::StartReadiness(..));
    effects.iter().filter(is_start).count()
}

#[test]
fn readiness_is_told_and_once_there_it_stays() {
    let mut bench = Bench::new();
    bench.launch_task(checked());
    assert_eq!(starts(&bench.effects), 0, "nothing runs yet");
    bench.started("t");
    assert_eq!(starts(&bench.effects), 1);
    bench.acknowledge_all();
    let container = bench.container("t");
    bench.event(Event::Readiness(container.clone(), answered(503)));
    bench.last(TaskState::Running, Some(Reason::TaskCheckStatusUpdated));
    assert_eq!(bench.sent.last().unwrap().readiness, Some(*answered(503)));
    bench.acknowledge_all();
    bench.event(Event::Readiness(container.clone(), answered(200)));
    bench.acknowledge_all();
    // A late word of a check that was given up.
    bench.event(Event::Readiness(container, answered(503)));
    assert_eq!(bench.sent.last().unwrap().readiness, Some(*answered(200)));
    assert_eq!(bench.core.n_unacknowledged(), 0);
    bench.exited("t", ContainerExit::Code(0));
    assert_eq!(
        bench.sent.last().unwrap().readiness,
        Some(*answered(200)),
        "the end tells it too"
    );
}

#[test]
fn only_what_is_not_ready_is_asked_again_by_the_next_agent() {
    for (readiness, n) in [
        (None, 1),
        (Some(answered(503)), 1),
        (Some(answered(200)), 0),
    ] {
        let mut bench = Bench::new();
        bench.launch_task(checked());
        bench.started("t");
        let container = bench.container("t");
        if let Some(readiness) = readiness {
            bench.event(Event::Readiness(container.clone(), readiness));
        }
        let mut effects = Vec::new();
        bench
            .core
            .by_container(&container)
            .unwrap()
            .checks(&mut effects);
        assert_eq!(starts(&effects), n);
    }
}
