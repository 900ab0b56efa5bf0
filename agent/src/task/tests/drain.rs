//! Out of service: everything ends with the shorter grace, nothing begins, and the reason says so.

use super::*;

fn drain(max_secs: Option<u64>) -> Event {
    Event::Drain {
        max_grace: max_secs.map(Duration::from_secs),
    }
}

#[test]
fn a_drain_ends_every_task_within_the_shorter_of_the_two_graces() {
    for (own, most, killed_after) in [
        (Some(60), Some(10), 10),
        (Some(5), Some(10), 5),
        (None, Some(10), 3),
        (Some(60), None, 60),
        (Some(60), Some(0), 0),
    ] {
        let mut bench = Bench::new();
        bench.launch_task(TaskInfo {
            kill_grace: own.map(Duration::from_secs),
            ..a_task("t")
        });
        bench.started("t");
        bench.acknowledge_all();
        bench.event(drain(most));
        bench.last(TaskState::Killing, Some(Reason::AgentDraining));
        let container = bench.container("t");
        let killed = |bench: &Bench| bench.effects.contains(&Effect::Kill(container.clone()));
        if killed_after > 0 {
            bench.advance(killed_after * 1000 - 1);
            assert!(!killed(&bench), "{own:?} {most:?}");
        }
        bench.advance(1);
        assert!(killed(&bench), "{own:?} {most:?}");
        bench.exited("t", ContainerExit::Signal(9));
        bench.acknowledge_all();
        bench.last(TaskState::Killed, Some(Reason::AgentDraining));
    }
}

#[test]
fn a_task_that_is_being_launched_ends_with_the_drain_and_none_begins() {
    let mut bench = Bench::new();
    bench.launch("early");
    bench.event(drain(None));
    let container = bench.container("early");
    assert!(
        bench
            .effects
            .contains(&Effect::CancelLaunch(container.clone()))
    );
    bench.event(Event::LaunchFailed(container, LaunchFailure::Cancelled));
    bench.acknowledge_all();
    bench.last(TaskState::Killed, Some(Reason::AgentDraining));
    let launches = bench.launches();
    bench.launch("late");
    bench.last(TaskState::Dropped, Some(Reason::AgentDraining));
    assert_eq!(bench.launches(), launches);
    bench.event(Event::Activate);
    bench.launch("again");
    assert_eq!(bench.launches(), launches + 1);
}

#[test]
fn a_drain_lasts_as_long_as_the_master_says() {
    let mut bench = Bench::new();
    bench.event(drain(None));
    bench.event(Event::Disconnected);
    bench.event(Event::Registered("a".parse().unwrap()));
    bench.launch("t");
    assert_eq!(bench.launches(), 1, "the new registration ended it");
    bench.started("t");
    bench.event(drain(Some(2)));
    bench.event(drain(Some(1)));
    bench.advance(1_000);
    let container = bench.container("t");
    assert!(
        bench.effects.contains(&Effect::Kill(container)),
        "the shorter grace counts"
    );
}
