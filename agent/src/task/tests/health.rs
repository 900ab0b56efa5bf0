//! Health: what each check says and what they say together is told, and the first that gives up kills.

use mezzo_api::model::{CheckKind, HealthCheck};

use super::*;
use crate::task::event::Verdict;

/// Asks that port.
fn a_check(port: u16) -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tcp,
        path: String::new(),
        port,
        command: Vec::new(),
        grace_period: Duration::ZERO,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        max_consecutive_failures: 3,
        delay: Duration::ZERO,
        ipv6: false,
    }
}

/// One that runs, with checks of these ports.
fn checked(bench: &mut Bench, ports: &[u16]) -> ContainerId {
    bench.launch_task(TaskInfo {
        health_checks: ports.iter().copied().map(a_check).collect(),
        ..a_task("t")
    });
    bench.started("t");
    bench.acknowledge_all();
    bench.container("t")
}

fn starts(effects: &[Effect]) -> Vec<(usize, u16)> {
    let starts = effects.iter().filter_map(|effect| {
        let Effect::StartHealth(_, number, check) = effect else {
            return None;
        };
        Some((*number, check.port))
    });
    starts.collect()
}

#[test]
fn health_changes_are_told_and_too_many_failures_kill() {
    let mut bench = Bench::new();
    let container = checked(&mut bench, &[80]);
    for _ in 0..3 {
        bench.event(Event::Health(container.clone(), 0, Verdict::Healthy));
    }
    bench.last(TaskState::Running, Some(Reason::HealthCheckStatusUpdated));
    assert_eq!(
        (
            bench.sent.last().unwrap().healthy,
            bench.core.n_unacknowledged()
        ),
        (Some(true), 1)
    );
    bench.event(Event::Health(
        container,
        0,
        Verdict::Kill("3 in a row".into()),
    ));
    bench.exited("t", ContainerExit::Signal(15));
    bench.acknowledge_all();
    bench.last(TaskState::Failed, Some(Reason::HealthCheckStatusUpdated));
    assert_eq!(
        bench.sent.last().unwrap().message,
        "killed because its health checks failed: 3 in a row"
    );
}

#[test]
fn several_checks_are_told_each_and_together_and_the_first_that_gives_up_kills() {
    let mut bench = Bench::new();
    let container = checked(&mut bench, &[80, 81]);
    assert_eq!(starts(&bench.effects), [(0, 80), (1, 81)]);
    let (yes, no) = (Some(true), Some(false));
    for (number, verdict, each, together) in [
        (0, Verdict::Healthy, [yes, None], None),
        (1, Verdict::Unhealthy, [yes, no], no),
        (0, Verdict::Unhealthy, [no, no], no),
        (1, Verdict::Healthy, [no, yes], no),
        (0, Verdict::Healthy, [yes, yes], yes),
    ] {
        bench.event(Event::Health(container.clone(), number, verdict));
        let told = bench.sent.last().unwrap().clone();
        assert_eq!(told.reason, Some(Reason::HealthCheckStatusUpdated));
        assert_eq!(
            (told.health_results.as_slice(), told.healthy),
            (&each[..], together)
        );
        bench.acknowledge_all();
    }
    // Of a check that it does not have.
    bench.event(Event::Health(container.clone(), 2, Verdict::Unhealthy));
    assert_eq!(bench.core.n_unacknowledged(), 0);
    bench.event(Event::Health(
        container.clone(),
        1,
        Verdict::Kill("3 in a row".into()),
    ));
    bench.event(Event::Health(container, 0, Verdict::Kill("later".into())));
    bench.exited("t", ContainerExit::Signal(15));
    bench.acknowledge_all();
    bench.last(TaskState::Failed, Some(Reason::HealthCheckStatusUpdated));
    let end = bench.sent.last().unwrap();
    assert_eq!(
        end.message,
        "killed because its health checks failed: health_checks[1] (TCP on port 81): 3 in a row"
    );
    assert_eq!(end.health_results, [yes, no]);
}

#[test]
fn the_next_agent_asks_all_of_them_again() {
    let mut bench = Bench::new();
    let container = checked(&mut bench, &[80, 81]);
    bench.event(Event::Health(container.clone(), 0, Verdict::Healthy));
    let mut effects = Vec::new();
    let entry = bench.core.by_container(&container).unwrap();
    entry.checks(&mut effects);
    assert_eq!(starts(&effects), [(0, 80), (1, 81)]);
}
