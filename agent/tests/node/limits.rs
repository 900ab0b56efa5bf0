//! The tests of what a task may use: read back from the kernel's own files, on whichever cgroup version this machine has.

use std::fs;
use std::path::{Path, PathBuf};

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskError, TaskRunning},
};

use crate::bench::{Bench, task};

/// Whether all controllers are on cgroup v2.
fn v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A file of a container's cgroup; the name that this machine's version has for it.
fn cgroup_file(cgroup: &str, controller: &str, v1: &str, unified: &str) -> PathBuf {
    let below = cgroup.trim_start_matches('/');
    if v2() {
        Path::new("/sys/fs/cgroup").join(below).join(unified)
    } else {
        let dir = Path::new("/sys/fs/cgroup").join(controller);
        dir.join(below).join(v1)
    }
}

fn read(path: &Path) -> String {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().to_owned()
}

fn pids_max(cgroup: &str) -> String {
    read(&cgroup_file(cgroup, "pids", "pids.max", "pids.max"))
}

fn memory_max(cgroup: &str) -> String {
    let names = ("memory.limit_in_bytes", "memory.max");
    read(&cgroup_file(cgroup, "memory", names.0, names.1))
}

pub(crate) async fn limits_reach_the_container_or_are_refused_by_name(bench: &mut Bench) {
    bench.start(1).await;
    let mut limited = task("limited", &["sleep"]);
    limited.pids_limit = Some(33);
    limited.memory_limit_mb = Some(48);
    limited.limits = Some(proto::TaskLimits {
        rlimits: vec![proto::Rlimit {
            name: "nofile".into(),
            soft: Some(100),
            hard: Some(200),
        }],
        ..proto::TaskLimits::default()
    });
    bench.launch(limited).await;
    let container = bench
        .master
        .status("limited", TaskRunning)
        .await
        .container
        .unwrap();
    assert_eq!(pids_max(&container.cgroup_path), "33");
    assert_eq!(memory_max(&container.cgroup_path), (48 << 20).to_string());
    let limits = read(Path::new(&format!("/proc/{}/limits", container.pid)));
    let files = limits.lines().find(|l| l.starts_with("Max open files"));
    let files: Vec<&str> = files.unwrap().split_whitespace().collect();
    assert_eq!(files[3..5], ["100", "200"], "{limits}");

    let mut soft = task("soft", &["sleep"]);
    soft.limits = Some(proto::TaskLimits {
        memory_high_mb: Some(16),
        io_weight: Some(300),
        ..proto::TaskLimits::default()
    });
    bench.launch(soft).await;
    if v2() {
        let container = bench.master.status("soft", TaskRunning).await.container;
        let cgroup = container.unwrap().cgroup_path;
        let file = |name: &str| read(&cgroup_file(&cgroup, "", name, name));
        assert_eq!(file("memory.high"), (16 << 20).to_string());
        assert_eq!(file("io.weight"), "default 300");
    } else {
        let end = bench.master.end("soft").await;
        assert_eq!(
            (end.state(), end.reason()),
            (TaskError, Reason::TaskInvalid),
            "{}",
            end.message
        );
        assert!(
            end.message
                .starts_with("limits.memory_high_mb: needs cgroup v2"),
            "{}",
            end.message
        );
    }
}
