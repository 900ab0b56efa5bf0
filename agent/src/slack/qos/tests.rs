//! Scenarios in simulated time, and what holds whatever happens.

use proptest::prelude::*;

use super::*;
use crate::slack::tests::task;

const SETTINGS: Settings = Settings {
    cpu_pressure_percent: 20,
    memory_pressure_percent: 10,
    use_percent: 95,
    pause_ms: 10_000,
    by_task: true,
};

/// Two processors and a GiB, all of it offered.
fn machine() -> Machine {
    Machine {
        offers: Amount {
            cpu_millis: 2000,
            memory: 1024 * MIB,
        },
        processors_millis: 2000,
        busy_millis: Some(1000),
        memory: Some(4096 * MIB),
        memory_available: Some(3000 * MIB),
        ..Machine::default()
    }
}

/// Rounds of two seconds, from the one after `now` on.
struct Bench {
    controller: Controller,
    now_ms: u64,
    acts: Vec<(u64, Act)>,
}

impl Bench {
    fn new(by_task: bool) -> Self {
        Self {
            controller: Controller::new(Settings {
                by_task,
                ..SETTINGS
            }),
            now_ms: 1_000_000,
            acts: Vec::new(),
        }
    }

    fn rounds(&mut self, n: u32, tasks: &[TaskUse], machine: &Machine) {
        for _ in 0..n {
            self.now_ms += 2_000;
            let acts = self.controller.round(self.now_ms, tasks, machine);
            self.acts
                .extend(acts.into_iter().map(|act| (self.now_ms, act)));
        }
    }

    fn quotas(&mut self) -> Vec<u64> {
        let acts = std::mem::take(&mut self.acts).into_iter();
        acts.map(|(_, act)| match act {
            Act::Throttle(throttle) => throttle.cpu_permille,
            Act::Preempt { message, .. } => panic!("{message}"),
        })
        .collect()
    }

    fn killed(&self) -> Vec<(u64, String, &str)> {
        let killed = self.acts.iter().filter_map(|(at, act)| match act {
            Act::Throttle(_) => None,
            Act::Preempt {
                container, message, ..
            } => Some((*at, container.to_string(), message.as_str())),
        });
        killed.collect()
    }
}

fn waits(mut task: TaskUse, cpu: u64, memory: u64) -> TaskUse {
    task.cpu_pressure = Some(cpu);
    task.memory_pressure = Some(memory);
    task
}

#[test]
fn an_ordinary_task_that_wakes_up_has_the_processors_back_step_by_step() {
    let mut bench = Bench::new(true);
    let lent = |cpu| task("batch", true, cpu, 10);
    bench.rounds(5, &[task("web", false, 50, 10), lent(1000)], &machine());
    assert_eq!(bench.quotas(), [0; 0], "nobody needs anything");
    // It waits, and has less than it was given.
    let awake = waits(task("web", false, 700, 10), 300, 0);
    bench.rounds(1, &[awake.clone(), lent(1000)], &machine());
    bench.rounds(1, &[awake.clone(), lent(500)], &machine());
    bench.rounds(1, &[awake, lent(250)], &machine());
    assert_eq!(bench.quotas(), [500, 250, 100]);
    // Content now. Up again only as far as there is room: 950 and 1000 fill the machine.
    let content = waits(task("web", false, 950, 10), 10, 0);
    bench.rounds(60, &[content, lent(100)], &machine());
    assert_eq!(bench.quotas(), [250, 500]);
    let asleep = waits(task("web", false, 10, 10), 0, 0);
    bench.rounds(10, &[asleep, lent(100)], &machine());
    assert_eq!(bench.quotas(), [1000]);
}

#[test]
fn full_books_slow_down_and_do_not_kill() {
    let mut bench = Bench::new(false);
    let tasks = [task("web", false, 1900, 10), task("batch", true, 100, 10)];
    bench.rounds(100, &tasks, &machine());
    assert_eq!(bench.quotas(), [500, 250, 100]);
}

#[test]
fn waiting_that_does_not_end_kills_the_youngest_that_uses_something_one_at_a_time() {
    let mut bench = Bench::new(true);
    let old = task("old", true, 100, 10);
    let mut young = task("young", true, 80, 10);
    young.started_at_ms = 7;
    let mut idle = task("idle", true, 0, 10);
    idle.started_at_ms = 9;
    let web = waits(task("web", false, 400, 10), 452, 0);
    let mut tasks = vec![web, old, young, idle];
    bench.rounds(9, &tasks, &machine());
    let killed = bench.killed();
    // Three steps, and ten seconds at the lowest.
    assert_eq!(killed.len(), 1, "{killed:?}");
    assert_eq!(
        (killed[0].0, killed[0].1.as_str()),
        (1_016_000, "young-0000000000000001")
    );
    assert_eq!(
        killed[0].2,
        "an ordinary task waits 45.2 % of the time for a processor, the limit is 20 %; it used 0.08 cpus, held to \
         10.0 % of its share for 10 s, and began last of 3 revocable task(s) here"
    );
    // As long as it is there, nobody else goes, however long that takes.
    tasks[2].ends = true;
    bench.rounds(50, &tasks, &machine());
    assert_eq!(bench.killed().len(), 1);
    tasks.remove(2);
    bench.rounds(1, &tasks, &machine());
    assert_eq!(bench.killed()[1].1, "old-0000000000000001");
    tasks.remove(1);
    bench.rounds(50, &tasks, &machine());
    assert_eq!(bench.killed().len(), 2, "one that uses nothing is let be");
}

#[test]
fn who_is_held_up_by_its_own_limit_or_has_more_than_its_share_needs_nobodys() {
    let mut bench = Bench::new(true);
    let mut limited = waits(task("limited", false, 400, 10), 1000, 0);
    limited.throttled = true;
    let greedy = waits(task("greedy", false, 1000, 10), 1000, 0);
    let full = waits(task("full", false, 10, 500), 0, 1000);
    let tasks = [limited, greedy, full, task("batch", true, 100, 10)];
    bench.rounds(50, &tasks, &machine());
    assert_eq!(bench.acts, []);
}

#[test]
fn version_1_counts_the_machines_waiting_only_while_ordinary_work_fills_half_of_it() {
    let waiting = Machine {
        busy_millis: Some(2000),
        cpu_pressure: Some(900),
        ..machine()
    };
    let mut bench = Bench::new(false);
    bench.rounds(
        20,
        &[task("web", false, 500, 10), task("batch", true, 1200, 10)],
        &waiting,
    );
    assert_eq!(bench.acts, [], "the revocable task waits for itself");
    bench.rounds(
        1,
        &[task("web", false, 900, 10), task("batch", true, 600, 10)],
        &waiting,
    );
    assert_eq!(bench.quotas(), [500]);
}

#[test]
fn memory_is_squeezed_where_it_can_be_and_then_the_youngest_is_killed() {
    let tasks = [
        task("web", false, 10, 700),
        task("old", true, 10, 200),
        task("young", true, 10, 100),
    ];
    let mut bench = Bench::new(true);
    bench.rounds(1, &tasks, &machine());
    let Some((_, Act::Throttle(throttle))) = bench.acts.first() else {
        panic!("{:?}", bench.acts);
    };
    let high: Vec<u64> = throttle
        .memory_high
        .values()
        .map(|high| high / MIB)
        .collect();
    assert_eq!((high, throttle.cpu_permille), (vec![150, 75], 1000));
    bench.rounds(1, &tasks, &machine());
    let killed = bench.killed();
    assert_eq!(killed.len(), 1);
    assert_eq!(
        (killed[0].1.as_str(), killed[0].2),
        (
            "young-0000000000000001",
            "tasks use 1000.0 MiB of the 1024.0 MiB of memory that this machine offers, the limit is 95 %; it used \
             100.0 MiB, and began last of 2 revocable task(s) here"
        )
    );
    // It was enough: nobody else, and after a while the other may grow again.
    bench.rounds(20, &tasks[..2], &machine());
    assert_eq!(bench.killed().len(), 1);
    assert_eq!(*bench.controller.throttle(), Throttle::default());

    let mut bench = Bench::new(false);
    bench.rounds(1, &tasks, &machine());
    assert_eq!(bench.killed().len(), 1, "version 1 cannot squeeze");
}

#[test]
fn a_machine_without_memory_and_tasks_that_wait_for_it_are_told_with_their_numbers() {
    let tasks = [task("web", false, 10, 100), task("batch", true, 10, 100)];
    let message = |by_task, tasks: &[TaskUse], machine: &Machine| {
        let mut bench = Bench::new(by_task);
        bench.rounds(2, tasks, machine);
        bench
            .killed()
            .first()
            .map(|(_, _, words)| (*words).to_owned())
    };
    let left = |mib: u64| Machine {
        memory_available: Some(mib * MIB),
        memory_pressure: Some(300),
        ..machine()
    };
    let words = message(true, &tasks, &left(123)).unwrap();
    assert!(
        words.starts_with(
            "3.0 % of the machine's memory is left, the limit is 5 %; it used 100.0 MiB"
        ),
        "{words}"
    );
    assert_eq!(message(false, &tasks, &left(1000)), None);
    let words = message(false, &tasks, &left(300)).unwrap();
    assert!(
        words.starts_with("ordinary work waits 30.0 % of the time for memory, the limit is 10 %"),
        "{words}"
    );
    assert_eq!(
        message(true, &tasks, &left(300)),
        None,
        "nobody's own waiting"
    );
    let waiting = [waits(tasks[0].clone(), 0, 101), tasks[1].clone()];
    assert!(message(true, &waiting, &machine()).is_some());
}

fn any_tasks() -> impl Strategy<Value = Vec<TaskUse>> {
    let one = (
        any::<bool>(),
        any::<bool>(),
        prop::option::of(0_u64..2_500),
        prop::option::of(0_u64..900),
        prop::option::of(0_u64..=1000),
        prop::option::of(0_u64..=1000),
    );
    prop::collection::vec(one, 0..6).prop_map(|list| {
        let tasks = list.into_iter().enumerate();
        tasks
            .map(
                |(n, (revocable, ends, cpu, memory, waits, starves))| TaskUse {
                    ends: ends && n % 3 == 0,
                    started_at_ms: n as u64,
                    cpu_millis: cpu,
                    memory: memory.map(|mib| mib * MIB),
                    cpu_pressure: waits,
                    memory_pressure: starves,
                    ..task(&format!("t{n}"), revocable, 0, 0)
                },
            )
            .collect()
    })
}

proptest! {
    #[test]
    fn only_revocable_tasks_are_touched_and_one_goes_at_a_time(
        rounds in prop::collection::vec((any_tasks(), 0_u64..4_000, prop::option::of(0_u64..=1000)), 1..60),
        by_task in any::<bool>(),
    ) {
        let mut bench = Bench::new(by_task);
        let mut last_kill: Option<u64> = None;
        for (tasks, mib, waits) in rounds {
            let machine = Machine {
                memory_available: Some(mib * MIB),
                cpu_pressure: waits,
                memory_pressure: waits,
                busy_millis: Some(2000),
                ..machine()
            };
            bench.now_ms += 2_000;
            let acts = bench.controller.round(bench.now_ms, &tasks, &machine);
            let find = |id: &ContainerId| tasks.iter().find(|task| task.container == *id);
            let mut kills = 0;
            for act in acts {
                match act {
                    Act::Throttle(throttle) => {
                        prop_assert!(STEPS.contains(&throttle.cpu_permille));
                        prop_assert!(by_task || throttle.memory_high.is_empty());
                    }
                    Act::Preempt { container, .. } => {
                        kills += 1;
                        let task = find(&container).expect("one that is there");
                        prop_assert!(task.revocable && tasks.iter().all(|task| !(task.revocable && task.ends)));
                        prop_assert!(last_kill.is_none_or(|then| bench.now_ms - then >= SETTINGS.pause_ms));
                        last_kill = Some(bench.now_ms);
                    }
                }
            }
            prop_assert!(kills <= 1);
            if tasks.iter().all(|task| !task.revocable) {
                prop_assert_eq!(bench.controller.throttle(), &Throttle::default());
            }
        }
    }
}
