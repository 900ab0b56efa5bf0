//! Changes of limits: the kernel first, then the checkpoint, then the answer; and what a refusal anywhere leaves.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one effect is looked for among all"
)]

use mezzo_api::model::{Change, LimitChange, Task};

use super::*;
use crate::{
    node::{LimitError, Limits},
    task::change::Refused,
};

fn pids(limit: u64) -> LimitChange {
    LimitChange {
        pids_limit: Change::Set(limit),
        ..LimitChange::default()
    }
}

impl Bench {
    fn running(id: &str) -> Self {
        let mut bench = Self::new();
        bench.launch(id);
        bench.started(id);
        bench.effects.clear();
        bench
    }

    /// Asks for a change and performs what follows at once.
    fn change(&mut self, id: &str, change: &LimitChange) -> Result<(), Refused> {
        let (_, effects) = self.core.change_limits(None, id, change)?;
        self.effects.extend(effects);
        Ok(())
    }

    /// What the runtime was told last.
    fn told(&self) -> Limits {
        let told = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Limit(_, limits) => Some((**limits).clone()),
            _ => None,
        });
        told.expect("something was told")
    }

    fn limited(&mut self, id: &str, result: Result<(), LimitError>) {
        let (container, limits) = (self.container(id), Box::new(self.told()));
        self.event(Event::Limited {
            container,
            limits,
            result,
        });
    }

    fn answers(&self) -> Vec<Result<Task, Refused>> {
        let answers = self.effects.iter().filter_map(|effect| match effect {
            Effect::Answer(_, answer) => Some(answer.clone().map(|task| *task)),
            _ => None,
        });
        answers.collect()
    }

    fn pids_limit(&self, id: &str) -> Option<u64> {
        self.core.get(&key(id)).unwrap().info.pids_limit
    }
}

#[test]
fn the_kernel_comes_first_then_the_checkpoint_then_the_answer() {
    let mut bench = Bench::running("t");
    bench.change("t", &pids(9)).unwrap();
    assert_eq!(bench.told().pids, Some(9));
    assert_eq!(bench.pids_limit("t"), None, "not yet");
    assert!(bench.answers().is_empty());
    bench.limited("t", Ok(()));
    let written = bench.effects.iter().find_map(|effect| match effect {
        Effect::Rewrite(checkpoint) => Some(checkpoint.info.pids_limit),
        _ => None,
    });
    assert_eq!(written, Some(Some(9)));
    let answers = bench.answers();
    assert_eq!(answers[0].as_ref().unwrap().info.pids_limit, Some(9));
    // What is not named stays.
    let more = LimitChange {
        cpu_limit: Change::Set(mezzo_api::model::Scalar::from_units(1)),
        ..LimitChange::default()
    };
    bench.change("t", &more).unwrap();
    assert_eq!(
        (bench.told().pids, bench.told().cpu_limit_millis),
        (Some(9), Some(1000))
    );
}

#[test]
fn what_the_kernel_refuses_changes_nothing() {
    let mut bench = Bench::running("t");
    bench.change("t", &pids(9)).unwrap();
    let refused = LimitError::Refused("no".into());
    bench.limited("t", Err(refused));
    assert_eq!(bench.answers(), [Err(Refused::Invalid("no".into()))]);
    assert_eq!(bench.pids_limit("t"), None);
    assert_eq!(bench.effects.len(), 2, "told and answered");
    // Where it is not known what holds, the limits on record are told again.
    bench.change("t", &pids(9)).unwrap();
    bench.limited("t", Err(LimitError::Failed("late".into())));
    assert_eq!(bench.told().pids, Some(4096));
}

#[test]
fn what_cannot_be_written_is_put_back() {
    let mut bench = Bench::running("t");
    bench.disk_works = false;
    bench.change("t", &pids(9)).unwrap();
    bench.limited("t", Ok(()));
    assert!(
        matches!(&bench.answers()[..], [Err(Refused::Failed(why))] if why.contains("disk full"))
    );
    assert_eq!(
        (bench.told().pids, bench.pids_limit("t")),
        (Some(4096), None)
    );
    let last = bench.effects.iter().rev().find_map(|effect| match effect {
        Effect::Rewrite(checkpoint) => Some(checkpoint.info.pids_limit),
        _ => None,
    });
    assert_eq!(last, Some(None));
}

#[test]
fn who_asks_at_the_wrong_time_hears_why() {
    let mut bench = Bench::new();
    assert_eq!(bench.change("t", &pids(9)), Err(Refused::NotFound));
    bench.launch("t");
    assert!(matches!(
        bench.change("t", &pids(9)),
        Err(Refused::NotRunning(_))
    ));
    bench.started("t");
    bench.change("t", &pids(9)).unwrap();
    assert_eq!(bench.change("t", &pids(8)), Err(Refused::Busy));
    // An end in between is an answer.
    bench.exited("t", ContainerExit::Code(0));
    assert_eq!(bench.answers(), [Err(Refused::ended())]);
    bench.limited("t", Err(LimitError::NotRunning));
    assert_eq!(bench.answers().len(), 1);
    assert_eq!(bench.change("t", &pids(9)), Err(Refused::ended()));
    let other = "g".parse().unwrap();
    let refused = bench.core.change_limits(Some(&other), "t", &pids(9));
    assert_eq!(refused.unwrap_err(), Refused::NotFound);
}

fn pinned(id: &str, cpus: &str) -> TaskInfo {
    let mut task = a_task(id);
    task.resources = cpus.parse().unwrap();
    task.limits.cpu_pinning = mezzo_api::model::CpuPinning::Exclusive;
    task
}

impl Bench {
    /// The processors that the runtime was told last for a container.
    fn told_cpus(&self, id: &str) -> Option<Vec<u32>> {
        let container = self.container(id);
        let told = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Limit(id, limits) if *id == container => Some(limits.cpus.clone()),
            Effect::Launch {
                container: id,
                limits,
                ..
            } if *id == container => Some(limits.cpus.clone()),
            _ => None,
        });
        told.expect("it was told")
            .map(|cpus| cpus.into_iter().collect())
    }
}

#[test]
fn whole_processors_are_one_tasks_alone_and_the_others_make_room() {
    let mut bench = Bench::with_total("cpus:4.5;mem:1024");
    bench.launch("shared");
    bench.started("shared");
    bench.launch("slow");
    assert_eq!(bench.told_cpus("shared"), None);
    bench.launch_task(pinned("own", "cpus:2;mem:32"));
    let written = bench.effects.iter().find_map(|effect| match effect {
        Effect::Create(checkpoint) if !checkpoint.grant.is_empty() => {
            Some(checkpoint.grant.cpus.clone())
        }
        _ => None,
    });
    assert_eq!(
        written,
        Some([0, 1].into()),
        "durable before anything starts"
    );
    assert_eq!(bench.told_cpus("own"), Some(vec![0, 1]));
    assert_eq!(bench.told_cpus("shared"), Some(vec![2, 3]));
    // One that was being made meanwhile is told as soon as it runs.
    assert_eq!(bench.told_cpus("slow"), None);
    bench.started("slow");
    assert_eq!(bench.told_cpus("slow"), Some(vec![2, 3]));
    bench.started("own");
    // One stays for all that share.
    bench.launch_task(pinned("much", "cpus:1;mem:32"));
    assert_eq!(bench.told_cpus("shared"), Some(vec![3]));
    bench.launch_task(pinned("more", "cpus:1;mem:32"));
    let last = bench
        .sent
        .iter()
        .rfind(|status| status.task_id.as_str() == "more");
    let last = last.unwrap();
    assert_eq!(
        (last.state, last.reason),
        (TaskState::Error, Some(Reason::ResourcesUnavailable))
    );
    assert!(
        last.message.starts_with("limits.cpu_pinning: 1 whole"),
        "{}",
        last.message
    );
    // What it did not get is nobody's.
    assert_eq!(bench.told_cpus("shared"), Some(vec![3]));
    bench.exited("own", ContainerExit::Code(0));
    assert_eq!(bench.told_cpus("shared"), Some(vec![0, 1, 3]));
    let key = key("much");
    bench.event(Event::Kill { key, grace: None });
    let container = bench.container("much");
    bench.event(Event::LaunchFailed(container, LaunchFailure::Cancelled));
    assert_eq!(bench.told_cpus("shared"), None);
    assert_eq!(bench.told_cpus("slow"), None);
}

/// A group whose two members run, each with 32 MiB, and nothing told yet.
fn running_group() -> Bench {
    let mut bench = Bench::new();
    bench.running_group(&["one", "two"]);
    bench.effects.clear();
    bench
}

const MIB: u64 = 1 << 20;

fn memory(mb: u64) -> LimitChange {
    LimitChange {
        memory_limit_mb: Change::Set(mb),
        ..LimitChange::default()
    }
}

impl Bench {
    /// All that the runtime was told: whose limits (a task's or its group's) and how much memory, in MiB.
    fn all_told(&self) -> Vec<(String, Option<u64>)> {
        let told = self.effects.iter().filter_map(|effect| match effect {
            Effect::Limit(id, limits) => {
                let task = self.core.by_container(id);
                let name = task.map_or("group".to_owned(), |entry| entry.key.task.to_string());
                Some((name, limits.memory_bytes.map(|bytes| bytes / MIB)))
            }
            _ => None,
        });
        told.collect()
    }

    /// The runtime does what it was told last.
    fn told_is(&mut self, result: Result<(), LimitError>) {
        let last = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Limit(id, limits) => Some((id.clone(), limits.clone())),
            _ => None,
        });
        let (container, limits) = last.unwrap();
        self.event(Event::Limited {
            container,
            limits,
            result,
        });
    }
}

#[test]
fn a_group_is_widened_before_its_member_and_narrowed_after_it() {
    let told = |entries: &[(&str, u64)]| -> Vec<(String, Option<u64>)> {
        let owned = entries
            .iter()
            .map(|(name, mb)| (name.to_string(), Some(*mb)));
        owned.collect()
    };
    let mut bench = running_group();
    bench.change("one", &memory(100)).unwrap();
    // The holder has 16 MiB of its own.
    assert_eq!(bench.all_told(), told(&[("group", 148)]));
    assert!(matches!(
        bench.change("two", &memory(50)),
        Err(Refused::Busy)
    ));
    bench.told_is(Ok(()));
    assert_eq!(bench.all_told(), told(&[("group", 148), ("one", 100)]));
    bench.told_is(Ok(()));
    assert!(bench.answers()[0].is_ok());
    assert_eq!(bench.all_told().len(), 2, "the sum is right already");
    bench.effects.clear();
    // Down again: what nobody may use any more goes last.
    bench.change("one", &memory(40)).unwrap();
    assert_eq!(bench.all_told(), told(&[("one", 40)]));
    bench.told_is(Ok(()));
    assert_eq!(bench.all_told(), told(&[("one", 40), ("group", 88)]));
    assert!(bench.answers()[0].is_ok());
    bench.told_is(Ok(()));
    assert_eq!(bench.answers().len(), 1);
}

#[test]
fn what_a_group_cannot_have_its_member_does_not_get() {
    let mut bench = running_group();
    bench.change("one", &memory(100)).unwrap();
    bench.told_is(Err(LimitError::Refused("no".into())));
    assert_eq!(bench.answers(), [Err(Refused::Invalid("no".into()))]);
    assert_eq!(bench.all_told().len(), 1, "the member is not touched");
    // The kernel refuses the member: the group's sum goes back.
    bench.effects.clear();
    bench.change("one", &memory(100)).unwrap();
    bench.told_is(Ok(()));
    bench.told_is(Err(LimitError::Refused("no".into())));
    let names: Vec<_> = bench.all_told().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["group", "one", "group"]);
    assert_eq!(bench.told().memory_bytes, Some(80 * MIB));
    bench.told_is(Ok(()));
    bench.change("two", &memory(33)).unwrap();
}
