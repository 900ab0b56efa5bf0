//! What only some machines have: pressure per task, memory that can be taken back, limits of io and huge pages (cgroup v2),
//! and a file system with project quotas below the state folder. `cargo xtask vm node in_a_guest` has all of it; elsewhere
//! these say that they are skipped.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use mezzo_agent::Oversubscription;
use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskFailed, TaskKilled, TaskRunning},
    copy_entry::Kind,
};
use nix::sys::signal::{Signal, kill};

use crate::{
    bench::{Bench, alive, eventually, said, task},
    disk::{has_quotas, takes, takes_bytes, with_disk},
    files::{copy_to, data, entry},
    groups,
    lend::{cgroup_file, cgroup_file_of, holding, lends, pid, quota, revocable},
    limits,
    volumes::{make_data, with_data},
};

/// Whether this machine promises to have all that is needed; where it does not, the test is skipped.
fn is_guest(name: &str) -> bool {
    let is_guest = std::env::var_os("MEZZO_TEST_GUEST").is_some();
    if !is_guest {
        println!("skipped: {name}: only in a guest of the test bench (cargo xtask vm node)");
    }
    is_guest
}

fn memory_high(container: &proto::ContainerStatus) -> Option<u64> {
    cgroup_file(container, "memory.high")?.parse().ok()
}

pub(crate) async fn a_revocable_task_is_squeezed_and_then_killed_in_a_guest(bench: &mut Bench) {
    if !is_guest("a_revocable_task_is_squeezed_and_then_killed") {
        return;
    }
    bench.config.resources = Some("cpus:2;mem:400".parse().unwrap());
    // Long enough between two looks of the agent for ours to see what it did after the first.
    bench.config.usage_interval_ms = 2_000;
    bench.config.oversubscribe = true;
    bench.config.oversubscription = Oversubscription {
        window_secs: 2,
        cpu_pressure_percent: 100,
        memory_pressure_percent: 100,
        use_percent: 60,
        pause_secs: 1,
        ..Oversubscription::default()
    };
    bench.start(1).await;
    let web = holding(task("web", &["wakes", "180"]), "cpus:2;mem:400");
    bench.launch(web).await;
    let web = bench.master.status("web", TaskRunning).await;
    let web = web.container.unwrap();
    bench
        .master
        .lends("what a sleeper does not use", lends(500, 128))
        .await;
    let batch = revocable(task("batch", &["eat", "100"]), "cpus:0.5;mem:128");
    bench.launch(batch).await;
    let batch = bench.master.status("batch", TaskRunning).await;
    let batch = batch.container.unwrap();
    let held = || -> u64 {
        let current = cgroup_file(&batch, "memory.current").unwrap_or_default();
        current.parse().unwrap_or(0)
    };
    eventually("eaten", || held() >= 100 << 20).await;
    assert_eq!(cgroup_file(&batch, "memory.high").as_deref(), Some("max"));
    // Both together are more than 60 % of what is offered.
    kill(pid(&web), Signal::SIGUSR2).unwrap();
    let mut squeezed = None;
    eventually("squeezed", || {
        squeezed = memory_high(&batch);
        squeezed.is_some()
    })
    .await;
    let squeezed = squeezed.unwrap();
    assert!(
        (70 << 20..90 << 20).contains(&squeezed),
        "three quarters of what it used: {squeezed}"
    );
    // Nothing of it can be written anywhere, so that does not help.
    let end = bench.master.status("batch", TaskKilled).await;
    assert_eq!(end.reason(), Reason::ContainerPreempted, "{}", end.message);
    for part in [
        "preempted: tasks use 2",
        "MiB of the 400.0 MiB of memory that this machine offers, the limit is 60 %; it used 10",
        "and began last of 1 revocable task(s) here",
    ] {
        assert!(end.message.contains(part), "{part}: {}", end.message);
    }
    let peak = end.usage.unwrap().memory_peak_bytes;
    assert!(peak >= Some(100 << 20), "{peak:?}");
    assert!(alive(web.pid), "ordinary tasks are not touched");
}

/// Waits until a task is told to have waited for a processor for more than so many thousandths of the time.
async fn until_it_waits(bench: &Bench, task: &str, permille: u64) {
    let mut client = bench.client().await;
    let request = proto::GetStatsRequest {
        task_ids: vec![task.into()],
        with_history: false,
    };
    let waiting = async {
        loop {
            let round = client.get_stats(request.clone()).await.unwrap();
            let tasks = round.into_inner().tasks;
            let rates = tasks.first().and_then(|task| task.rates);
            if rates.and_then(|rates| rates.cpu_pressure_permille) > Some(permille) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("{task} does not wait, or is not told to"));
}

pub(crate) async fn who_waits_for_a_processor_is_helped_in_a_guest(bench: &mut Bench) {
    if !is_guest("who_waits_for_a_processor_is_helped") {
        return;
    }
    let processors = std::thread::available_parallelism().unwrap().get();
    // More than there are: so the books are never full, and only waiting shows that processors are short.
    let offered = 4 * processors;
    bench.config.resources = Some(format!("cpus:{offered};mem:1024").parse().unwrap());
    bench.config.usage_interval_ms = 500;
    bench.config.oversubscribe = true;
    bench.config.oversubscription = Oversubscription {
        window_secs: 2,
        cpu_pressure_percent: 20,
        memory_pressure_percent: 100,
        use_percent: 100,
        // Nobody is killed here.
        pause_secs: 3_600,
        ..Oversubscription::default()
    };
    bench.start(1).await;
    let mut webs = Vec::new();
    for n in 0..2 * processors {
        let id = format!("web-{n}");
        bench
            .launch(holding(task(&id, &["wakes"]), "cpus:1;mem:64"))
            .await;
        let running = bench.master.status(&id, TaskRunning).await;
        webs.push(running.container.unwrap());
    }
    bench
        .master
        .lends("what sleepers do not use", lends(1_200, 100))
        .await;
    // Many, because each of them has next to nothing while others want the processors.
    let mut batches = Vec::new();
    for n in 0..6 {
        let id = format!("batch-{n}");
        bench
            .launch(revocable(task(&id, &["spin"]), "cpus:0.2;mem:16"))
            .await;
        let running = bench.master.status(&id, TaskRunning).await;
        batches.push(running.container.unwrap());
    }
    // Twice as many as there are processors: each waits half of the time.
    for web in &webs {
        kill(pid(web), Signal::SIGUSR1).unwrap();
    }
    eventually("all held back", || {
        batches.iter().all(|batch| quota(batch) == Some(2_000))
    })
    .await;
    until_it_waits(bench, "web-0", 200).await;
    let text = crate::figures::metrics(bench);
    assert!(
        text.contains("mezzo_agent_lent_cpu_permille 100\n"),
        "{text}"
    );
    for web in &webs {
        assert!(alive(web.pid));
    }
}

pub(crate) async fn swap_io_and_huge_pages_reach_the_kernel_in_a_guest(bench: &mut Bench) {
    if is_guest("swap_io_and_huge_pages_reach_the_kernel") {
        limits::swap_io_and_huge_pages_reach_the_kernel_or_are_refused_by_name(bench).await;
    }
}

/// The probe has said that the quota refuses it more of a file, and nothing else.
async fn told_refused(bench: &Bench, container: &proto::ContainerStatus, path: &str) {
    let words = refused(path);
    // Its two streams come into their logs one after the other.
    eventually("refused", || {
        said(bench, container, "stderr").len() >= words.len()
    })
    .await;
    assert_eq!(said(bench, container, "stderr"), words);
}

fn refused(path: &str) -> String {
    let is_xfs = std::env::var("MEZZO_TEST_GUEST").is_ok_and(|kind| kind == "xfs");
    let words = if is_xfs {
        "No space left on device"
    } else {
        "Disk quota exceeded"
    };
    format!("{path}: {words}\n")
}

/// Bytes that a tree takes on the disk: counted here, without help of the agent or the quota.
fn blocks(path: &Path) -> u64 {
    let found = std::fs::symlink_metadata(path).unwrap();
    let mut bytes = found.blocks() * 512;
    if found.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            bytes += blocks(&entry.unwrap().path());
        }
    }
    bytes
}

/// Waits until exactly that is told of a task's disk: what is written and what is told are looked at again and again, for
/// a file system may give room back that it had taken for more.
async fn eventually_told(bench: &Bench, task: &str, exactly: impl Fn() -> u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = takes(bench, task, 0).await.usage.unwrap().disk_bytes;
        let counted = exactly();
        if told == Some(counted) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "told {told:?}, counted {counted}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn a_project_quota_refuses_and_counts_in_a_guest(bench: &mut Bench) {
    if !is_guest("a_project_quota_refuses_and_counts") {
        return;
    }
    assert!(has_quotas(bench), "the guest was to have them");
    bench.config.disk_interval_ms = 100;
    bench.start(1).await;
    // The sandbox first; the root file system has what is left.
    let fill = ["fill", "8", "/mnt/mezzo/sandbox/file", "/bin/file"];
    bench.launch(with_disk(task("fills", &fill), 10)).await;
    let container = bench.master.status("fills", TaskRunning).await.container;
    let container = container.unwrap();
    eventually("full", || {
        said(bench, &container, "stdout").contains("full")
    })
    .await;
    told_refused(bench, &container, "/bin/file").await;
    let stats = takes(bench, "fills", 9).await;
    assert_eq!(stats.disk_limit_bytes, Some(10 << 20));
    // The logs count beside it.
    let told = stats.usage.unwrap().disk_bytes.unwrap();
    assert!(told < (10 << 20) + (64 << 10), "{told}");
    // It is what the files take, to the block: nothing is under way any more once the last write was refused.
    let state = &bench.config.state_dir;
    let id = &container.container_id;
    let exactly = || {
        let changes = state.join("images/snapshots").join(id);
        let own = [
            state.join("tasks").join(id).join("sandbox"),
            changes.join("upper"),
            changes.join("work"),
        ];
        let logs = ["stdout", "stderr"]
            .map(|stream| state.join("runtime/containers").join(id).join(stream));
        own.iter()
            .chain(&logs)
            .map(|path| blocks(path))
            .sum::<u64>()
    };
    eventually_told(bench, "fills", exactly).await;
    // What is copied in counts too, also by an agent that is the machine's root.
    let big = vec![7; 4 << 20];
    let mut parts = vec![entry("more", Kind::FileSize(big.len() as u64))];
    parts.extend(big.chunks(256 << 10).map(data));
    let answer = copy_to(bench, "fills", "/mnt/mezzo/sandbox", parts).await;
    let answer = answer.unwrap_err();
    let words = ["quota", "space"];
    assert!(
        words.iter().any(|word| answer.message().contains(word)),
        "{answer}"
    );
    // The next agent counts on. Nobody is killed for what was refused.
    bench.kill_agent().await;
    bench.start(2).await;
    takes(bench, "fills", 9).await;
    // A neighbour has a quota of its own.
    let fits = ["fill", "8", "/mnt/mezzo/sandbox/file"];
    bench.launch(with_disk(task("fits", &fits), 10)).await;
    bench.master.status("fits", TaskRunning).await;
    takes(bench, "fits", 8).await;
    assert!(alive(container.pid), "it runs on");
    bench.kill_task("fills", Some(0)).await;
    let end = bench.master.end("fills").await;
    assert_eq!(end.state(), TaskKilled, "{}", end.message);
    assert!(end.usage.unwrap().disk_bytes >= Some(9 << 20));
}

/// The lengths of the files in the only persistent volume.
fn in_volume(bench: &Bench) -> u64 {
    let mut volumes = std::fs::read_dir(bench.config.state_dir.join("volumes")).unwrap();
    let files = std::fs::read_dir(volumes.next().unwrap().unwrap().path()).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

pub(crate) async fn a_persistent_volume_has_a_quota_of_its_own_in_a_guest(bench: &mut Bench) {
    if !is_guest("a_persistent_volume_has_a_quota_of_its_own") {
        return;
    }
    assert!(has_quotas(bench), "the guest was to have them");
    bench.config.resources = Some("cpus:4;mem:2048;disk:64".parse().unwrap());
    bench.config.disk_interval_ms = 100;
    bench.start(1).await;
    // 8 MiB; the task's own 4 MiB are beside it.
    make_data(bench).await;
    let fill = ["fill", "9", "/data/file"];
    let first = with_data(with_disk(task("first", &fill), 4));
    bench.launch(first).await;
    let first = bench.master.status("first", TaskRunning).await;
    let first = first.container.unwrap();
    eventually("full", || said(bench, &first, "stdout").contains("full")).await;
    told_refused(bench, &first, "/data/file").await;
    let held = in_volume(bench);
    assert!((7 << 20..=8 << 20).contains(&held), "{held}");
    // Nobody is killed for what was refused, by this agent or the next; what is in the volume is not the task's.
    bench.kill_agent().await;
    bench.start(2).await;
    takes(bench, "first", 0).await;
    assert!(alive(first.pid), "it runs on");
    bench.kill_task("first", Some(0)).await;
    let end = bench.master.end("first").await;
    assert_eq!(end.state(), TaskKilled, "{}", end.message);
    assert!(end.usage.unwrap().disk_bytes < Some(4 << 20));
    // The next one finds the volume as full, and its own bound beside it.
    let fill = ["fill", "2", "/data/more", "/mnt/mezzo/sandbox/file"];
    let second = with_data(with_disk(task("second", &fill), 4));
    bench.launch(second).await;
    let second = bench.master.status("second", TaskRunning).await;
    let second = second.container.unwrap();
    eventually("full", || said(bench, &second, "stdout").contains("full")).await;
    told_refused(bench, &second, "/data/more").await;
    takes(bench, "second", 2).await;
    assert!(in_volume(bench) <= 8 << 20);
    assert!(alive(second.pid), "it runs on");
}

pub(crate) async fn what_a_group_has_together_is_bounded_by_a_quota_in_a_guest(bench: &mut Bench) {
    if !is_guest("what_a_group_has_together_is_bounded_by_a_quota") {
        return;
    }
    assert!(has_quotas(bench), "the guest was to have them");
    // What holds at first is the quota alone: nobody measures.
    bench.config.disk_interval_ms = 3_600_000;
    bench.start(1).await;
    let member = |id: &str, args: &[&str], disk, memory_mb, pids| {
        let mut member = with_disk(groups::member(id, args), disk);
        member.memory_limit_mb = Some(memory_mb);
        member.pids_limit = Some(pids);
        member.cpu_limit = Some(proto::Scalar { millis: 500 });
        member
    };
    let tasks = vec![
        member("fills", &["fill", "12", "/disk/file"], 6, 48, 30),
        member("other", &["sleep"], 4, 64, 40),
    ];
    groups::launch(bench, "pod", vec![], tasks).await;
    let other = bench.master.status("other", TaskRunning).await;
    let other = other.container.unwrap();
    let fills = bench.master.status("fills", TaskRunning).await;
    let fills = fills.container.unwrap();
    // The control group above both: the sum of what each may use, and the holder's.
    let group = fills.cgroup_path.rsplit_once('/').unwrap().0;
    assert_eq!(
        Some(group),
        other.cgroup_path.rsplit_once('/').map(|of| of.0)
    );
    for (file, all, own) in [
        ("memory.max", (112 + 16) << 20, 48 << 20),
        ("pids.max", 70 + 8, 30),
    ] {
        let read = |cgroup| cgroup_file_of(cgroup, file).unwrap();
        assert_eq!(read(&fills.cgroup_path), own.to_string(), "{file}");
        assert_eq!(read(group), all.to_string(), "{file}");
    }
    let cpu = |cgroup| cgroup_file_of(cgroup, "cpu.max").unwrap();
    assert_eq!(cpu(&fills.cgroup_path), "50000 100000");
    assert_eq!(cpu(group), "100000 100000");

    // Its volume takes what both hold of the disk, and no more.
    eventually("full", || said(bench, &fills, "stdout").contains("full")).await;
    told_refused(bench, &fills, "/disk/file").await;
    let mut groups = std::fs::read_dir(bench.config.state_dir.join("groups")).unwrap();
    let file = groups.next().unwrap().unwrap().path().join("disk/file");
    let held = file.metadata().unwrap().len();
    assert!((9 << 20..10 << 20).contains(&held), "{held}");
    assert!(alive(fills.pid) && alive(other.pid));
    // Nobody is killed for what was refused, also by an agent that looks: their own folders and logs have room beside it.
    bench.kill_agent().await;
    bench.config.disk_interval_ms = 100;
    bench.start(2).await;
    let put = async |name: &str, bytes: usize| {
        let content = vec![7; bytes];
        let mut parts = vec![entry(name, Kind::FileSize(bytes as u64))];
        parts.extend(content.chunks(256 << 10).map(data));
        copy_to(bench, "other", "/mnt/mezzo/sandbox", parts).await
    };
    let before = takes_bytes(bench, "other", 0).await.usage.unwrap();
    put("little", 64 << 10).await.unwrap();
    let little = before.disk_bytes.unwrap() + (64 << 10);
    takes_bytes(bench, "other", little).await;
    assert!(alive(fills.pid) && alive(other.pid));
    // What a member then has of its own is too much: the status names all, the volume first.
    // That may be seen, and end the task, before all of it is there.
    let _cut_short = put("more", 2 << 20).await;
    for id in ["fills", "other"] {
        let end = bench.master.status(id, TaskFailed).await;
        let disk = Reason::ContainerLimitationDisk;
        assert_eq!(end.reason(), disk, "{}", end.message);
        for part in [
            // In bytes if it is seen when it is just above.
            "the limit of its tasks together is 10",
            ": volume disk (at /disk) 9.",
            ", task other ",
            ", task fills 0.",
        ] {
            assert!(end.message.contains(part), "{part}: {}", end.message);
        }
    }
}
