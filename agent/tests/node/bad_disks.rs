//! Disks that are full and disks that do not answer: nothing is lost, nothing is told before it is true, and all goes on
//! when the disk does.
//!
//! Each in a process with mounts of its own, which are gone with it.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskDropped, TaskError, TaskFinished, TaskKilled, TaskKilling, TaskRunning},
    exit_info::How,
};
use nix::sys::signal::{Signal, kill};

use crate::{
    bench::{Bench, Parts, alive, eventually, said, task},
    cases::Case,
    lend::pid,
    network::ip,
};

pub(crate) fn all() -> Vec<Case> {
    vec![
        Case {
            name: "an_agent_that_starts_on_a_full_disk_loses_no_task_and_tells_no_end_too_early",
            run: |bench| Box::pin(full(bench)),
            isolated: true,
        },
        Case {
            name: "a_task_that_waits_for_a_dead_disk_holds_what_it_has_until_it_ends",
            run: |bench| Box::pin(dead(bench)),
            isolated: true,
        },
    ]
}

/// Where the disk of a test is mounted: in its own mount namespace alone.
const DISK: &str = "/mnt";

fn run(program: &str, arguments: &str) {
    let status = Command::new(program)
        .args(arguments.split_ascii_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "{program} {arguments}");
}

/// Takes whatever room there is on the disk, also what comes free meanwhile.
struct Ballast {
    enough: Arc<AtomicBool>,
    filling: Option<JoinHandle<()>>,
}

impl Ballast {
    fn new() -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let (stop, full) = (Arc::clone(&enough), Arc::new(AtomicBool::new(false)));
        let is_full = Arc::clone(&full);
        let filling = std::thread::spawn(move || {
            let path = Path::new(DISK).join("ballast");
            let mut file = File::create(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                if file.write_all(&[0; 4096]).is_err() {
                    is_full.store(true, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            fs::remove_file(path).unwrap();
        });
        while !full.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Self {
            enough,
            filling: Some(filling),
        }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        let _ = self.filling.take().map(JoinHandle::join);
    }
}

async fn full(bench: &mut Bench) {
    ip("link set lo up");
    run("mount", &format!("-t tmpfs -o size=32m tmpfs {DISK}"));
    bench.config.state_dir = Path::new(DISK).join("state");
    bench
        .import("probe:1", &["/bin/probe"], Parts::default())
        .await;
    bench.start(1).await;
    let mut containers = Vec::new();
    for (id, args) in [("stays", "sleep"), ("goes", "sleep"), ("ends", "until")] {
        bench.launch(task(id, &[args])).await;
        let status = bench.master.status(id, TaskRunning).await;
        containers.push(status.container.unwrap());
    }
    let [stays, goes, ends] = &containers[..] else {
        unreachable!()
    };
    eventually("ready", || said(bench, ends, "stdout").contains("ready")).await;
    bench.kill_agent().await;
    let ballast = Ballast::new();
    kill(pid(ends), Signal::SIGUSR1).unwrap();
    eventually("ended", || !alive(ends.pid)).await;

    bench.start(2).await;
    let registered = bench.master.last_registration().tasks;
    assert_eq!(registered.len(), 3, "{registered:?}");
    bench.kill_task("goes", Some(0)).await;
    eventually("killed", || !alive(goes.pid)).await;
    bench.launch(task("late", &["sleep"])).await;
    let end = bench.master.end("late").await;
    assert_eq!(end.state(), TaskDropped, "{}", end.message);
    let words = "cannot write the task's checkpoint: No space left";
    assert!(end.message.contains(words), "{}", end.message);
    // Longer than anybody has patience: whose end cannot be written has not ended, whoever looks.
    for registration in 3..5 {
        tokio::time::sleep(Duration::from_secs(13)).await;
        bench.kill_agent().await;
        bench.start(registration).await;
    }
    let told = bench.master.statuses();
    let has_ended = |status: &proto::TaskStatus| {
        status.task_id != "late" && ![TaskRunning, TaskKilling].contains(&status.state())
    };
    assert!(!told.iter().any(has_ended), "{told:?}");
    drop(ballast);
    let end = bench.master.end("ends").await;
    assert_eq!(end.state(), TaskFinished, "{}", end.message);
    let end = bench.master.end("goes").await;
    let how = end.exit.and_then(|exit| exit.how);
    let killed = (TaskKilled, Some(How::Signal(9)));
    assert_eq!((end.state(), how), killed, "{}", end.message);
    assert!(alive(stays.pid));
    let told = node(bench).await;
    assert!(told.connected_to_master, "where it listens is told");
    bench.launch(task("next", &["exit", "0"])).await;
    let end = bench.master.end("next").await;
    assert_eq!(end.state(), TaskFinished, "{}", end.message);
}

/// A file system that answers no write until this is dropped.
struct Frozen;

impl Frozen {
    fn new() -> Self {
        run("fsfreeze", &format!("--freeze {DISK}"));
        Self
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = Command::new("fsfreeze").args(["--unfreeze", DISK]).status();
        if !thawed.is_ok_and(|status| status.success()) {
            eprintln!("{DISK} stays frozen");
        }
    }
}

/// In uninterruptible sleep.
fn is_stuck(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    state == Some(b'D')
}

async fn node(bench: &Bench) -> proto::Node {
    let request = proto::GetNodeRequest {};
    let node = bench.client().await.get_node(request).await.unwrap();
    node.into_inner()
}

/// A task that needs more than is left beside another is refused.
async fn no_room_for(bench: &Bench, id: &str) {
    bench.launch(task(id, &["sleep"])).await;
    let end = bench.master.end(id).await;
    let told = (end.state(), end.reason());
    assert_eq!(told, (TaskError, Reason::ResourcesUnavailable), "{end:?}");
}

async fn dead(bench: &mut Bench) {
    let makes = Command::new("mkfs.ext4").arg("-V").output();
    if makes.is_err() {
        println!("skipped: a_task_that_waits_for_a_dead_disk: needs mkfs.ext4");
        return;
    }
    ip("link set lo up");
    let image = bench.config.state_dir.with_file_name("disk");
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let image = image.display();
    run("mkfs.ext4", &format!("-q -O ^has_journal {image}"));
    run("mount", &format!("-o loop {image} {DISK}"));
    bench.config.host_path_allow = vec![DISK.into()];
    bench.config.resources = Some("cpus:0.15;mem:64".parse().unwrap());
    bench.start(1).await;
    let all = node(bench).await.available;

    let frozen = Frozen::new();
    let mut writes = task("writes", &["put", "/data/file"]);
    let container = writes.container.as_mut().unwrap();
    container.volumes.push(proto::Volume {
        container_path: "/data".into(),
        read_only: false,
        source: Some(proto::volume::Source::HostPath(DISK.into())),
    });
    bench.launch(writes).await;
    let container = bench.master.status("writes", TaskRunning).await.container;
    let container = container.unwrap();
    eventually("stuck", || is_stuck(container.pid)).await;
    let booked = node(bench).await.available;
    assert_ne!(booked, all);

    bench.kill_task("writes", Some(0)).await;
    bench.master.status("writes", TaskKilling).await;
    no_room_for(bench, "first").await;
    // The next agent finds it as it is, and tries again.
    bench.kill_agent().await;
    bench.start(2).await;
    let registered = bench.master.last_registration();
    let of = |task: &proto::Task| task.info.as_ref().unwrap().task_id == "writes";
    let kept = registered.tasks.into_iter().find(of).unwrap();
    assert_eq!(kept.status.unwrap().state(), TaskKilling);
    no_room_for(bench, "second").await;
    assert_eq!(node(bench).await.available, booked);
    assert!(is_stuck(container.pid));
    let told = bench.master.statuses();
    let has_ended = |status: &proto::TaskStatus| {
        status.task_id == "writes" && ![TaskRunning, TaskKilling].contains(&status.state())
    };
    assert!(!told.iter().any(has_ended), "{told:?}");

    drop(frozen);
    let end = bench.master.status("writes", TaskKilled).await;
    assert_eq!(end.reason(), Reason::KillRequested, "{}", end.message);
    let how = end.exit.and_then(|exit| exit.how);
    assert_eq!(how, Some(How::Signal(9)), "{}", end.message);
    assert!(!alive(container.pid));
    assert_eq!(node(bench).await.available, all);
    bench.launch(task("third", &["exit", "0"])).await;
    let end = bench.master.end("third").await;
    assert_eq!(end.state(), TaskFinished, "{}", end.message);
}
