//! What tasks take on the disk: told while they run and at their end, and their end when it is too much.

use super::*;
use crate::task::disk::{Counted, DiskUse};

impl Bench {
    fn with_disk(enforce: bool) -> Self {
        let mut bench = Self::new();
        bench.settings.enforce_disk = enforce;
        let settings = bench.settings.clone();
        let total = "cpus:1;mem:1024;disk:100".parse().unwrap();
        bench.core = Core::new(settings, None, total, Grants::new(processors(4), vec![]));
        bench.event(Event::Registered("a".parse().unwrap()));
        let mut task = a_task("t");
        task.resources = "cpus:0.1;mem:32;disk:10".parse().unwrap();
        bench.launch_task(task);
        bench
    }

    fn takes(&mut self, mb: u64) {
        let container = self.container("t");
        let used = DiskUse {
            bytes: mb << 20,
            counted: Counted::All,
            beside: 0,
        };
        self.event(Event::Disk(vec![(container, used)]));
    }
}

#[test]
fn a_task_over_its_disk_is_killed_at_once_and_told_the_numbers() {
    let mut bench = Bench::with_disk(true);
    bench.takes(50);
    assert_eq!(bench.kills(), 0, "nothing runs yet");
    bench.started("t");
    bench.takes(10);
    assert_eq!(bench.kills(), 0, "all that it holds is not too much");
    bench.acknowledge_all();
    bench.takes(11);
    assert_eq!(bench.kills(), 1, "there is no grace");
    bench.last(TaskState::Killing, Some(Reason::ContainerLimitationDisk));
    // It goes on filling while it ends.
    bench.takes(12);
    assert_eq!(bench.kills(), 1);
    bench.exited("t", ContainerExit::Signal(9));
    bench.acknowledge_all();
    bench.last(TaskState::Failed, Some(Reason::ContainerLimitationDisk));
    let end = bench.sent.last().unwrap();
    assert!(
        end.message.contains("11.0 MiB") && end.message.contains("10.0 MiB"),
        "{}",
        end.message
    );
    assert_eq!(end.usage.as_ref().unwrap().disk_bytes, Some(12 << 20));
}

#[test]
fn where_the_operator_only_counts_nothing_is_killed() {
    let mut bench = Bench::with_disk(false);
    bench.started("t");
    bench.takes(5000);
    assert_eq!(bench.kills(), 0);
    let task = bench.core.get(&key("t")).unwrap().task();
    assert_eq!(task.status.usage, None, "no sample of the kernel's yet");
    let container = bench.container("t");
    let sample = Usage {
        pids: Some(1),
        ..Usage::default()
    };
    bench.event(Event::Usage(vec![(container, sample)]));
    let usage = bench.core.get(&key("t")).unwrap().task().status.usage;
    assert_eq!(usage.unwrap().disk_bytes, Some(5000 << 20));
}
