//! Oversubscription on real containers: a sleeper's share is lent, and it has it back when it wakes up.

use std::{fs, path::Path};

use mezzo_agent::Oversubscription;
use mezzo_api::{
    model::{Resources, Scalar},
    proto::{
        self, Reason,
        TaskState::{TaskDropped, TaskKilled, TaskRunning},
    },
};
use nix::sys::signal::{Signal, kill};

use crate::bench::{Bench, eventually, task};

pub(crate) fn holding(mut task: proto::TaskInfo, resources: &str) -> proto::TaskInfo {
    task.resources = resources.parse::<Resources>().unwrap().into();
    task
}

pub(crate) fn revocable(task: proto::TaskInfo, resources: &str) -> proto::TaskInfo {
    let mut task = holding(task, resources);
    task.revocable = true;
    task
}

/// Thousandths of a processor that the task used lately.
async fn cpu(bench: &Bench, task: &str) -> Option<u64> {
    let request = proto::GetStatsRequest {
        task_ids: vec![task.into()],
        with_history: false,
    };
    let round = bench.client().await.get_stats(request).await.unwrap();
    round.into_inner().tasks.first()?.rates?.cpu_millis
}

async fn until_it_uses(bench: &Bench, task: &str, wanted: impl Fn(u64) -> bool) {
    let waiting = async {
        while !cpu(bench, task).await.is_some_and(&wanted) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let deadline = std::time::Duration::from_secs(60);
    tokio::time::timeout(deadline, waiting)
        .await
        .unwrap_or_else(|_| panic!("{task} does not use what it should"));
}

/// A file of a container's cgroup, in whichever hierarchy has it.
pub(crate) fn cgroup_file(container: &proto::ContainerStatus, name: &str) -> Option<String> {
    cgroup_file_of(&container.cgroup_path, name)
}

/// The same of any cgroup.
pub(crate) fn cgroup_file_of(cgroup: &str, name: &str) -> Option<String> {
    let path = cgroup.trim_start_matches('/');
    ["", "cpu", "cpu,cpuacct", "memory"]
        .iter()
        .find_map(|hierarchy| {
            let dir = Path::new("/sys/fs/cgroup").join(hierarchy).join(path);
            let text = fs::read_to_string(dir.join(name)).ok()?;
            Some(text.trim().to_owned())
        })
}

/// The quota in microseconds of each tenth of a second.
pub(crate) fn quota(container: &proto::ContainerStatus) -> Option<u64> {
    let text =
        cgroup_file(container, "cpu.max").or_else(|| cgroup_file(container, "cpu.cfs_quota_us"))?;
    text.split(' ').next()?.parse().ok()
}

/// So much is lent at least.
pub(crate) fn lends(cpu_millis: i64, mem_mb: i64) -> impl Fn(&Resources) -> bool {
    move |slack| {
        slack.cpus() >= Scalar::from_millis(cpu_millis) && slack.mem() >= Scalar::from_units(mem_mb)
    }
}

/// The first process of a container.
pub(crate) fn pid(container: &proto::ContainerStatus) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(i32::try_from(container.pid).unwrap())
}

pub(crate) async fn what_is_not_used_is_lent_and_taken_back_when_it_is_needed(bench: &mut Bench) {
    bench.config.resources = Some("cpus:1;mem:400".parse().unwrap());
    bench.config.oversubscribe = true;
    bench.config.oversubscription = Oversubscription {
        window_secs: 2,
        // The machine is shared with whoever tests beside us: what counts here are the books.
        cpu_pressure_percent: 100,
        memory_pressure_percent: 100,
        use_percent: 30,
        pause_secs: 1,
        ..Oversubscription::default()
    };
    bench.start(1).await;
    let web = holding(task("web", &["wakes", "100"]), "cpus:1;mem:400");
    bench.launch(web).await;
    let web = bench
        .master
        .status("web", TaskRunning)
        .await
        .container
        .unwrap();
    bench
        .master
        .lends("what a sleeper does not use", lends(500, 64))
        .await;

    let greedy = revocable(task("greedy", &["sleep"]), "cpus:50;mem:32");
    bench.launch(greedy).await;
    let refused = bench.master.status("greedy", TaskDropped).await;
    assert_eq!(refused.reason(), Reason::ResourcesUnavailable);
    assert!(
        refused.message.contains("less is lent here"),
        "{}",
        refused.message
    );

    let batch = revocable(task("batch", &["wakes", "48"]), "cpus:0.2;mem:64");
    bench.launch(batch).await;
    let batch = bench
        .master
        .status("batch", TaskRunning)
        .await
        .container
        .unwrap();
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", batch.pid)).unwrap();
    assert_eq!(score.trim(), "900", "the kernel kills it first");
    assert_eq!(quota(&batch), Some(20_000), "no more than was lent to it");
    let least = ["cpu.shares", "cpu.weight"]
        .iter()
        .find_map(|name| cgroup_file(&batch, name));
    assert!(
        least
            .as_deref()
            .is_some_and(|weight| ["0", "1", "2", "3"].contains(&weight)),
        "the least weight: {least:?}"
    );

    // It works while the other sleeps.
    kill(pid(&batch), Signal::SIGUSR2).unwrap();
    // Before it is slowed down: it could not fill its memory in time then.
    eventually("filled", || {
        let files = ["memory.current", "memory.usage_in_bytes"];
        let held = files.iter().find_map(|name| cgroup_file(&batch, name));
        held.is_some_and(|held| held.parse::<u64>().unwrap() >= 48 << 20)
    })
    .await;
    kill(pid(&batch), Signal::SIGUSR1).unwrap();
    until_it_uses(bench, "batch", |cpu| cpu > 40).await;
    assert_eq!(quota(&batch), Some(20_000));
    // The other wakes up: a tenth is left to it.
    kill(pid(&web), Signal::SIGUSR1).unwrap();
    eventually("held back", || quota(&batch) == Some(2_000)).await;
    until_it_uses(bench, "batch", |cpu| cpu < 30).await;
    bench
        .master
        .lends("less", |slack| slack.cpus() < Scalar::from_millis(900))
        .await;
    // And it needs the memory, too.
    kill(pid(&web), Signal::SIGUSR2).unwrap();
    let end = bench.master.status("batch", TaskKilled).await;
    assert_eq!(end.reason(), Reason::ContainerPreempted, "{}", end.message);
    for part in [
        "preempted: tasks use 1",
        "MiB of the 400.0 MiB of memory that this machine offers, the limit is 30 %; it used 4",
        "and began last of 1 revocable task(s) here",
    ] {
        assert!(end.message.contains(part), "{part}: {}", end.message);
    }
    assert!(
        crate::bench::alive(web.pid),
        "ordinary tasks are not touched"
    );
    let text = crate::figures::metrics(bench);
    assert!(text.contains("mezzo_agent_preempted_total 1\n"), "{text}");
}
