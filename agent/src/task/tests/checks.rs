//! Readiness: told as statuses, asked until it passes, also by the next agent. General checks: asked on, told and no more.

use mezzo_api::model::{
    Check, CheckAction, CheckResult, ReadinessCheck, ReadinessProtocol, ReadinessResponse,
    ReadinessStatus,
};

use super::*;

fn checked() -> TaskInfo {
    TaskInfo {
        readiness_check: Some(Box::new(ReadinessCheck {
            name: "up".into(),
            protocol: ReadinessProtocol::Http,
            path: "/".into(),
            port: 80,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            ready_statuses: vec![200],
            preserve_last_response: false,
        })),
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
    assert_eq!(bench.sent.last().unwrap().readiness, Some(answered(503)));
    bench.acknowledge_all();
    bench.event(Event::Readiness(container.clone(), answered(200)));
    bench.acknowledge_all();
    // A late word of a check that was given up.
    bench.event(Event::Readiness(container, answered(503)));
    assert_eq!(bench.sent.last().unwrap().readiness, Some(answered(200)));
    assert_eq!(bench.core.n_unacknowledged(), 0);
    bench.exited("t", ContainerExit::Code(0));
    assert_eq!(
        bench.sent.last().unwrap().readiness,
        Some(answered(200)),
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

#[test]
fn what_a_check_finds_is_told_when_it_is_another_and_changes_nothing_else() {
    let mut bench = Bench::new();
    bench.launch_task(TaskInfo {
        check: Some(Box::new(Check {
            action: CheckAction::Http {
                tls: false,
                port: 80,
                path: "/".into(),
            },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            delay: Duration::ZERO,
            ipv6: false,
        })),
        ..a_task("t")
    });
    let asked = |effects: &[Effect]| {
        let is_start = |effect: &&Effect| matches!(effect, Effect::StartCheck(..));
        effects.iter().filter(is_start).count()
    };
    assert_eq!(asked(&bench.effects), 0, "nothing runs yet");
    bench.started("t");
    assert_eq!(asked(&bench.effects), 1);
    bench.acknowledge_all();
    let container = bench.container("t");
    let nothing = CheckResult::nothing;
    for (result, is_told) in [
        (nothing("refused"), true),
        (nothing("no answer"), false),
        (CheckResult::Http(503), true),
        (CheckResult::Http(503), false),
        (CheckResult::Http(200), true),
        (nothing("no answer"), true),
    ] {
        let before = bench.sent.len();
        bench.event(Event::Check(container.clone(), result.clone()));
        assert_eq!(bench.sent.len() - before, usize::from(is_told));
        if is_told {
            let told = bench.sent.last().unwrap();
            assert_eq!(
                (told.state, told.reason, told.healthy),
                (
                    TaskState::Running,
                    Some(Reason::TaskCheckStatusUpdated),
                    None
                )
            );
            assert_eq!(told.check_result, Some(Box::new(result)));
        }
        bench.acknowledge_all();
    }
    // The next agent asks on, whatever was found.
    let mut effects = Vec::new();
    let entry = bench.core.by_container(&container).unwrap();
    entry.checks(&mut effects);
    assert_eq!(asked(&effects), 1);
    bench.exited("t", ContainerExit::Code(0));
    let end = bench.sent.last().unwrap();
    assert_eq!(end.check_result, Some(Box::new(nothing("no answer"))));
}

#[test]
fn results_that_come_faster_than_they_are_taken_are_told_as_the_last_of_them() {
    let mut bench = Bench::new();
    bench.launch_task(a_task("t"));
    bench.started("t");
    let container = bench.container("t");
    for status in 200..300 {
        bench.event(Event::Check(container.clone(), CheckResult::Http(status)));
    }
    assert!(
        bench.core.n_unacknowledged() < 10,
        "they wait for their turn"
    );
    bench.acknowledge_all();
    bench.event(Event::Tick);
    bench.acknowledge_all();
    let told = bench.sent.last().unwrap();
    assert_eq!(told.check_result, Some(Box::new(CheckResult::Http(299))));
}
