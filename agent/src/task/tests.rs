//! The core against its promises: one launch per task id, kills in every phase, order and durability of statuses,
//! collection.

mod checks;
mod disk;
mod drain;
mod group;
mod health;
mod lend;
mod limits;
mod pools;

use std::time::Duration;

use mezzo_api::model::{ContainerInfo, Reason, RoleName, TaskInfo, TaskState, TaskStatus, Usage};
use proptest::prelude::*;

use super::{
    Context, Now, TaskKey,
    core::{Core, Settings},
    event::{Effect, Event, LaunchFailure},
    status::Outcome,
    updates::Retry,
};
use crate::{
    node::{ContainerExit, ContainerId, ExitRecord, Started},
    resources::{cores::Processor, grant::Grants},
};

/// A task that anybody could run.
pub(crate) fn a_task(id: &str) -> TaskInfo {
    TaskInfo {
        task_id: id.parse().unwrap(),
        name: id.into(),
        agent_id: "a".parse().unwrap(),
        resources: "cpus:0.1;mem:32".parse().unwrap(),
        cpu_limit: None,
        memory_limit_mb: None,
        pids_limit: None,
        container: ContainerInfo {
            image: "sleep:1".into(),
            ..ContainerInfo::default()
        },
        kill_grace: None,
        health_checks: Vec::new(),
        max_completion: None,
        labels: std::collections::BTreeMap::new(),
        data: Vec::new(),
        limits: mezzo_api::model::TaskLimits::default(),
        group: None,
        readiness_check: None,
        check: None,
        reserved: Vec::new(),
        persistent: Vec::new(),
        revocable: false,
    }
}

/// So many processors, each a core of its own.
fn processors(n: u32) -> impl Iterator<Item = Processor> {
    (0..n).map(|number| Processor {
        package: 0,
        core: number,
        number,
    })
}

/// A core with a disk that works at once, and a record of what was sent.
struct Bench {
    settings: Settings,
    core: Core,
    now: Now,
    random: u128,
    effects: Vec<Effect>,
    sent: Vec<TaskStatus>,
    disk_works: bool,
}

fn key(id: &str) -> TaskKey {
    TaskKey {
        framework: "f".parse().unwrap(),
        task: id.parse().unwrap(),
    }
}

impl Bench {
    fn new() -> Self {
        let settings = Settings {
            retry: Retry {
                first_ms: 1_000,
                max_ms: 30_000,
            },
            kill_grace: Duration::from_secs(3),
            retain_ended: 2,
            retain_ms: 3_600_000,
            allow_privileged: false,
            allow_host_users: false,
            allow_capabilities: vec![],
            host_path_allow: vec![],
            boot_id: "b".into(),
            default_pids: 4096,
            enforce_disk: true,
            cgroup_mode: mezzo_api::model::CgroupMode::V2,
        };
        let total = "cpus:1;mem:1024;ports:[31000-31009]".parse().unwrap();
        let mut bench = Self {
            settings: settings.clone(),
            core: Core::new(settings, None, total, Grants::new(processors(4), vec![])),
            now: Now {
                unix_ms: 1_000_000,
                mono_ms: 1_000_000,
            },
            random: 0,
            effects: vec![],
            sent: vec![],
            disk_works: true,
        };
        bench.event(Event::Registered("a".parse().unwrap()));
        bench
    }

    fn with_total(total: &str) -> Self {
        let mut bench = Self::new();
        let settings = bench.settings.clone();
        let total = total.parse().unwrap();
        bench.core = Core::new(settings, None, total, Grants::new(processors(4), vec![]));
        bench.event(Event::Registered("a".parse().unwrap()));
        bench
    }

    fn event(&mut self, event: Event) {
        let random = &mut self.random;
        let mut next = || {
            *random += 1;
            *random
        };
        let mut ctx = Context {
            now: self.now,
            random: &mut next,
        };
        let effects = self.core.handle(event, &mut ctx);
        for effect in effects {
            let follow = match &effect {
                Effect::Create(checkpoint) if self.disk_works => {
                    Some(Event::Created(checkpoint.container.clone()))
                }
                Effect::Create(checkpoint) => Some(Event::CreateFailed(
                    checkpoint.container.clone(),
                    "disk full".into(),
                )),
                Effect::Append(id, status) => Some(Event::Written(
                    id.clone(),
                    status.update_id.clone().unwrap(),
                )),
                Effect::Send(status) => {
                    self.sent.push((**status).clone());
                    None
                }
                Effect::Rewrite(checkpoint) => Some(Event::Rewritten(
                    checkpoint.clone(),
                    if self.disk_works {
                        Ok(())
                    } else {
                        Err("disk full".into())
                    },
                )),
                Effect::WriteBook { .. } => Some(Event::BookWritten(if self.disk_works {
                    Ok(())
                } else {
                    Err("disk full".into())
                })),
                Effect::AppendAcknowledged(..)
                | Effect::Purge(_)
                | Effect::SendPools(_)
                | Effect::Limit(..)
                | Effect::Answer(..)
                | Effect::AppendForgotten(_)
                | Effect::Launch { .. }
                | Effect::Hold(_)
                | Effect::Admit(..)
                | Effect::LetGo(_)
                | Effect::CancelLaunch(_)
                | Effect::Watch(_)
                | Effect::Terminate(_)
                | Effect::Kill(_)
                | Effect::StartHealth(..)
                | Effect::StartReadiness(..)
                | Effect::StartCheck(..)
                | Effect::StopHealth(_)
                | Effect::DropSnapshot(_)
                | Effect::Collect(_) => None,
            };
            self.effects.push(effect);
            if let Some(follow) = follow {
                self.event(follow);
            }
        }
    }

    fn launch(&mut self, id: &str) {
        self.launch_task(a_task(id));
    }

    fn launch_task(&mut self, info: TaskInfo) {
        let framework = "f".parse().unwrap();
        self.event(Event::Launch {
            framework,
            role: RoleName::any(),
            info: Box::new(info),
        });
    }

    fn container(&self, id: &str) -> ContainerId {
        self.core.get(&key(id)).unwrap().container.clone()
    }

    fn started(&mut self, id: &str) {
        let container = self.container(id);
        let started = Started {
            addresses: Vec::new(),
            pid: 7,
            cgroup: "/c".into(),
            started_at_ms: self.now.unix_ms,
        };
        self.event(Event::Launched {
            container,
            started,
            image_digest: "sha256:0".into(),
        });
    }

    fn exited(&mut self, id: &str, exit: ContainerExit) {
        let record = ExitRecord {
            exit,
            oom_killed: false,
            memory_limit_bytes: None,
            started_at_ms: Some(1),
            finished_at_ms: 2,
            usage: Usage::default(),
        };
        let container = self.container(id);
        self.event(Event::Exited(container, Box::new(record)));
    }

    fn advance(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        self.event(Event::Tick);
    }

    fn acknowledge_all(&mut self) {
        while let Some(status) = self
            .sent
            .iter()
            .rfind(|status| status.update_id.is_some())
            .cloned()
        {
            let before = self.sent.len();
            let key = TaskKey {
                framework: status.framework_id,
                task: status.task_id,
            };
            self.event(Event::Acknowledge {
                key,
                update: status.update_id.unwrap(),
            });
            if self.sent.len() == before {
                return;
            }
        }
    }

    fn kill(&mut self, id: &str, grace: Option<u64>) {
        self.event(Event::Kill {
            key: key(id),
            grace: grace.map(Duration::from_millis),
        });
    }

    fn launches(&self) -> usize {
        self.effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Launch { .. }))
            .count()
    }

    fn kills(&self) -> usize {
        self.effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Kill(_)))
            .count()
    }

    #[track_caller]
    fn last(&self, state: TaskState, reason: Option<Reason>) {
        let last = self.sent.last().expect("something was sent");
        assert_eq!(
            (last.state, last.reason),
            (state, reason),
            "{}",
            last.message
        );
    }
}

#[test]
fn a_task_is_launched_once_however_often_it_is_asked_for() {
    let mut bench = Bench::new();
    bench.launch("t");
    bench.launch("t");
    bench.started("t");
    bench.launch("t");
    assert_eq!(bench.launches(), 1);
    bench.acknowledge_all();
    bench.exited("t", ContainerExit::Code(0));
    bench.acknowledge_all();
    let before = bench.sent.len();
    bench.launch("t");
    assert_eq!(bench.sent.len(), before + 1, "its end is told again");
    bench.last(TaskState::Finished, Some(Reason::CommandExited));
    bench.advance(2 * 3_600_000);
    assert!(bench.core.get(&key("t")).is_none(), "collected");
    bench.launch("t");
    assert_eq!(bench.launches(), 1, "and still known");
    bench.last(TaskState::Finished, Some(Reason::CommandExited));
}

#[test]
fn updates_arrive_one_by_one_and_are_repeated() {
    let mut bench = Bench::new();
    bench.launch("t");
    bench.started("t");
    bench.exited("t", ContainerExit::Code(3));
    assert_eq!(bench.sent.len(), 1);
    bench.last(TaskState::Running, None);
    bench.advance(1_000);
    assert_eq!(bench.sent.len(), 2, "repeated after a second");
    bench.event(Event::Disconnected);
    bench.advance(60_000);
    assert_eq!(bench.sent.len(), 2, "not without a master");
    bench.event(Event::Registered("a".parse().unwrap()));
    assert_eq!(bench.sent.len(), 3, "at once on a new stream");
    bench.acknowledge_all();
    bench.last(TaskState::Failed, Some(Reason::CommandExited));
    assert_eq!(bench.sent.len(), 4);
    assert!(bench.core.snapshot().is_empty());
}

#[test]
fn what_does_not_fit_or_is_meant_for_others_is_an_error() {
    let mut bench = Bench::new();
    bench.launch_task(TaskInfo {
        resources: "cpus:2".parse().unwrap(),
        ..a_task("big")
    });
    bench.last(TaskState::Error, Some(Reason::ResourcesUnavailable));
    bench.launch_task(TaskInfo {
        agent_id: "other".parse().unwrap(),
        ..a_task("astray")
    });
    bench.last(TaskState::Error, Some(Reason::TaskInvalid));
    assert_eq!(bench.launches(), 0);
}

#[test]
fn a_message_without_end_is_cut() {
    let mut bench = Bench::new();
    bench.launch("t");
    let container = bench.container("t");
    let outcome = Outcome::new(
        TaskState::Failed,
        Reason::ContainerLaunchFailed,
        "ü".repeat(100_000),
    );
    bench.event(Event::LaunchFailed(
        container,
        LaunchFailure::Failed(outcome),
    ));
    assert!(bench.sent.last().unwrap().message.len() < 5_000);
}

#[test]
fn a_kill_during_the_launch_ends_it() {
    let mut bench = Bench::new();
    bench.launch("pulling");
    bench.kill("pulling", None);
    let container = bench.container("pulling");
    assert!(
        bench
            .effects
            .contains(&Effect::CancelLaunch(container.clone()))
    );
    bench.event(Event::LaunchFailed(container, LaunchFailure::Cancelled));
    bench.last(TaskState::Killed, Some(Reason::TaskKilledDuringLaunch));

    bench.launch("late");
    bench.kill("late", None);
    bench.started("late");
    assert_eq!(bench.kills(), 1, "it came up nevertheless: killed at once");
    bench.exited("late", ContainerExit::Signal(9));
    bench.last(TaskState::Killed, Some(Reason::TaskKilledDuringLaunch));
}

#[test]
fn a_grace_period_can_be_shortened_but_not_lengthened() {
    let mut bench = Bench::new();
    bench.launch("t");
    bench.started("t");
    bench.acknowledge_all();
    bench.kill("t", Some(10_000));
    bench.last(TaskState::Killing, Some(Reason::KillRequested));
    bench.kill("t", Some(60_000));
    bench.kill("t", Some(2_000));
    bench.advance(1_999);
    assert_eq!(bench.kills(), 0);
    bench.advance(1);
    assert_eq!(bench.kills(), 1);
    bench.advance(5_000);
    assert_eq!(bench.kills(), 2, "one that survives is killed again");
    bench.exited("t", ContainerExit::Signal(9));
    bench.acknowledge_all();
    bench.last(TaskState::Killed, Some(Reason::KillRequested));
}

#[test]
fn a_port_is_held_until_the_process_is_gone() {
    let with_port = |id: &str| TaskInfo {
        resources: "ports:[31000-31000]".parse().unwrap(),
        ..a_task(id)
    };
    let mut bench = Bench::new();
    bench.launch_task(with_port("old"));
    bench.started("old");
    bench.kill("old", None);
    bench.launch_task(with_port("too-early"));
    assert_eq!(bench.launches(), 1);
    bench.exited("old", ContainerExit::Signal(15));
    bench.launch_task(with_port("new"));
    assert_eq!(bench.launches(), 2);
}

#[test]
fn a_task_that_runs_too_long_fails() {
    let mut bench = Bench::new();
    bench.launch_task(TaskInfo {
        max_completion: Some(Duration::from_secs(10)),
        ..a_task("t")
    });
    bench.started("t");
    bench.acknowledge_all();
    bench.advance(10_000);
    bench.last(TaskState::Killing, Some(Reason::MaxCompletionTimeReached));
    bench.exited("t", ContainerExit::Signal(15));
    bench.acknowledge_all();
    bench.last(TaskState::Failed, Some(Reason::MaxCompletionTimeReached));
}

#[test]
fn progress_is_told_and_never_piles_up() {
    let mut bench = Bench::new();
    bench.launch("t");
    for percent in 0..50 {
        let container = bench.container("t");
        bench.event(Event::Progress(container, format!("pulling {percent} %")));
    }
    assert_eq!(bench.core.n_unacknowledged(), 1);
    bench.last(TaskState::Starting, None);
    assert_eq!(bench.sent.last().unwrap().message, "pulling 0 %");
}

#[test]
fn without_a_disk_nothing_starts_and_the_framework_hears_of_it() {
    let mut bench = Bench::new();
    bench.disk_works = false;
    bench.launch("t");
    assert_eq!(bench.launches(), 0);
    bench.last(TaskState::Dropped, Some(Reason::ContainerLaunchFailed));
    assert!(
        bench
            .core
            .ledger()
            .free()
            .contains(bench.core.ledger().total()),
        "nothing is held"
    );
}

#[test]
fn a_removed_framework_is_killed_and_not_waited_for_forever() {
    let mut bench = Bench::new();
    bench.launch("t");
    bench.started("t");
    bench.event(Event::ShutdownFramework("f".parse().unwrap()));
    bench.exited("t", ContainerExit::Signal(15));
    for _ in 0..20 {
        bench.advance(30_000);
    }
    assert_eq!(bench.core.n_unacknowledged(), 0);
}

#[test]
fn only_so_many_ended_tasks_are_kept() {
    let mut bench = Bench::new();
    for n in 0..5 {
        let id = format!("t{n}");
        bench.launch(&id);
        bench.started(&id);
        bench.exited(&id, ContainerExit::Code(0));
        bench.acknowledge_all();
        bench.advance(1);
    }
    bench.advance(60_000);
    assert_eq!(bench.core.entries().count(), 2);
    assert_eq!(
        bench
            .effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Collect(_)))
            .count(),
        3
    );
}

#[derive(Debug, Clone)]
enum Step {
    Launch(u8),
    Started(u8),
    LaunchFailed(u8),
    Exited(u8),
    Kill(u8),
    Acknowledge,
    Disconnect,
    Register,
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..4).prop_map(Step::Launch),
        (0_u8..4).prop_map(Step::Started),
        (0_u8..4).prop_map(Step::LaunchFailed),
        (0_u8..4).prop_map(Step::Exited),
        (0_u8..4).prop_map(Step::Kill),
        Just(Step::Acknowledge),
        Just(Step::Disconnect),
        Just(Step::Register),
        (0_u64..10_000).prop_map(Step::Advance),
    ]
}

proptest! {
    /// Whatever comes in whatever order: a task id is launched at most once, its statuses go only forward, nothing
    /// follows a terminal one, and what is held equals what has not ended.
    #[test]
    fn whatever_happens_the_promises_hold(steps in prop::collection::vec(step(), 0..120)) {
        let mut bench = Bench::new();
        for step in steps {
            let known = |bench: &Bench, n: u8| bench.core.get(&key(&format!("t{n}"))).is_some();
            match step {
                Step::Launch(n) => bench.launch(&format!("t{n}")),
                Step::Started(n) if known(&bench, n) => bench.started(&format!("t{n}")),
                Step::LaunchFailed(n) if known(&bench, n) => {
                    let container = bench.container(&format!("t{n}"));
                    bench.event(Event::LaunchFailed(container, LaunchFailure::Cancelled));
                }
                Step::Exited(n) if known(&bench, n) => bench.exited(&format!("t{n}"), ContainerExit::Code(1)),
                Step::Kill(n) => bench.kill(&format!("t{n}"), None),
                Step::Acknowledge => bench.acknowledge_all(),
                Step::Disconnect => bench.event(Event::Disconnected),
                Step::Register => bench.event(Event::Registered("a".parse().unwrap())),
                Step::Advance(ms) => bench.advance(ms),
                Step::Started(_) | Step::LaunchFailed(_) | Step::Exited(_) => {}
            }
        }
        for n in 0..4 {
            let id = format!("t{n}");
            let launches = bench.effects.iter().filter(|effect| matches!(effect, Effect::Launch { info, .. } if info.task_id.as_str() == id)).count();
            prop_assert!(launches <= 1);
            let mut order: Vec<_> = bench.sent.iter().filter(|status| status.task_id.as_str() == id && status.update_id.is_some()).cloned().collect();
            order.dedup_by(|a, b| a.update_id == b.update_id);
            for pair in order.windows(2) {
                prop_assert!(!pair[0].state.is_terminal(), "{:?} after {:?}", pair[1].state, pair[0].state);
                prop_assert!(pair[0].state < pair[1].state);
            }
        }
        let alive: i64 = bench.core.entries().filter(|entry| entry.ended_at().is_none()).map(|entry| entry.info.resources.cpus().millis()).sum();
        prop_assert_eq!(bench.core.ledger().free().cpus().millis(), 1_000 - alive);
    }
}
