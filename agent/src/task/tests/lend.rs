//! Revocable tasks: booked apart, held back together, and the end of one of them.

use super::*;
use crate::{
    slack::qos::{Scarce, Throttle},
    task::status::KillCause,
};

fn revocable(id: &str, resources: &str) -> TaskInfo {
    let mut task = a_task(id);
    task.revocable = true;
    task.resources = resources.parse().unwrap();
    task
}

fn lending(resources: &str) -> Bench {
    let mut bench = Bench::new();
    bench.event(Event::Lend(resources.parse().unwrap()));
    bench
}

fn told(bench: &Bench) -> Vec<(Option<u64>, Option<u64>)> {
    let limits = bench.effects.iter().filter_map(|effect| {
        if let Effect::Limit(_, limits) = effect {
            Some((limits.cpu_limit_millis, limits.memory_high_bytes))
        } else {
            None
        }
    });
    limits.collect()
}

#[test]
fn what_is_lent_is_booked_apart_from_what_is_there() {
    let mut bench = lending("cpus:0.5;mem:64");
    let free = bench.core.ledger().free();
    bench.launch_task(revocable("r", "cpus:0.4;mem:64"));
    assert_eq!(bench.launches(), 1);
    assert_eq!(bench.core.ledger().free(), free);
    assert_eq!(bench.core.lent().1, "cpus:0.1".parse().unwrap());
    // All that is there can still be had.
    let mut all = a_task("all");
    all.resources = "cpus:1;mem:1024".parse().unwrap();
    bench.launch_task(all);
    assert_eq!(bench.launches(), 2);
    // Less is lent than is held: that stays, and nothing more begins.
    bench.event(Event::Lend("cpus:0.1".parse().unwrap()));
    assert!(bench.core.lent().1.is_empty());
    bench.launch_task(revocable("late", "mem:1"));
    bench.last(TaskState::Dropped, Some(Reason::ResourcesUnavailable));
    bench.started("r");
    bench.exited("r", ContainerExit::Code(0));
    assert_eq!(bench.core.lent().1, "cpus:0.1".parse().unwrap());
}

#[test]
fn all_are_held_back_together_and_ordinary_tasks_are_not() {
    let mut bench = lending("cpus:1;mem:128");
    bench.launch_task(revocable("r", "cpus:0.4;mem:64"));
    bench.launch("o");
    bench.started("r");
    bench.started("o");
    let throttle = Throttle {
        cpu_permille: 500,
        memory_high: [(bench.container("r"), 20 << 20)].into(),
    };
    bench.event(Event::HoldBack(throttle.clone()));
    assert_eq!(told(&bench), [(Some(200), Some(20 << 20))]);
    bench.event(Event::HoldBack(throttle));
    assert_eq!(told(&bench).len(), 1, "it was told");
    bench.event(Event::HoldBack(Throttle::default()));
    assert_eq!(told(&bench)[1], (Some(400), None));
}

#[test]
fn one_that_must_go_is_told_the_numbers_and_only_a_revocable_one_goes() {
    let mut bench = lending("cpus:1;mem:128");
    bench.launch_task(revocable("r", "cpus:0.4;mem:64"));
    bench.launch("o");
    bench.started("r");
    bench.started("o");
    bench.acknowledge_all();
    let preempt = |bench: &Bench, id: &str, scarce| Event::Preempt {
        container: bench.container(id),
        scarce,
        message: "12 % of 10 %".into(),
    };
    bench.event(preempt(&bench, "o", Scarce::Memory));
    assert_eq!(bench.kills(), 0);
    bench.event(preempt(&bench, "r", Scarce::Memory));
    assert_eq!(bench.kills(), 1, "there is no grace for memory");
    let latest = |bench: &Bench| bench.core.get(&key("r")).unwrap().latest.clone();
    let told = latest(&bench);
    assert_eq!(
        (told.state, told.reason),
        (TaskState::Killing, Some(Reason::ContainerPreempted))
    );
    bench.exited("r", ContainerExit::Signal(9));
    let told = latest(&bench);
    assert_eq!(
        (told.state, told.reason, told.message.as_str()),
        (
            TaskState::Killed,
            Some(Reason::ContainerPreempted),
            "preempted: 12 % of 10 %"
        )
    );
    let cause = KillCause::from_killing(Some(Reason::ContainerPreempted), "12 % of 10 %");
    assert_eq!(cause, KillCause::Preempted("12 % of 10 %".into()));
}

#[test]
fn for_processors_it_has_its_grace() {
    let mut bench = lending("cpus:1;mem:128");
    bench.launch_task(revocable("r", "cpus:0.4;mem:64"));
    bench.started("r");
    let container = bench.container("r");
    bench.event(Event::Preempt {
        container,
        scarce: Scarce::Cpu,
        message: "waits".into(),
    });
    assert_eq!(bench.kills(), 0);
    bench.advance(3_000);
    assert_eq!(bench.kills(), 1);
}
