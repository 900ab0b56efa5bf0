//! The tests of what tasks keep on the machine's disk and in its memory: counted, bounded, there for the next one.

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskFailed, TaskRunning},
};
use mezzo_runtime::disk::Projects;
use std::fs;
use std::path::Path;

use crate::bench::{Bench, task};

/// A task that holds so much of the disk.
pub(crate) fn with_disk(mut task: proto::TaskInfo, mb: i64) -> proto::TaskInfo {
    task.resources.push(proto::Resource {
        name: "disk".into(),
        value: Some(proto::resource::Value::Scalar(proto::Scalar {
            millis: mb * 1000,
        })),
    });
    task
}

/// Whether the state folder is on a file system with project quotas.
pub(crate) fn has_quotas(bench: &Bench) -> bool {
    fs::create_dir_all(&bench.config.state_dir).unwrap();
    Projects::open(&bench.config.state_dir, (1 << 20, 1 << 21), 0).is_ok()
}

/// Waits until that many MiB are told of a task's disk.
pub(crate) async fn takes(bench: &Bench, task: &str, mb: u64) -> proto::TaskStats {
    takes_bytes(bench, task, mb << 20).await
}

/// The same in bytes.
pub(crate) async fn takes_bytes(bench: &Bench, task: &str, bytes: u64) -> proto::TaskStats {
    let mut client = bench.client().await;
    let request = proto::GetStatsRequest {
        task_ids: vec![task.into()],
        with_history: false,
    };
    let waiting = async {
        loop {
            let round = client.get_stats(request.clone()).await.unwrap();
            for stats in round.into_inner().tasks {
                if stats.usage.unwrap().disk_bytes >= Some(bytes) {
                    return stats;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("{task} does not take {bytes} bytes"))
}

pub(crate) async fn what_tasks_take_on_the_disk_is_told_and_too_much_ends_them(bench: &mut Bench) {
    bench.config.disk_interval_ms = 100;
    bench.start(1).await;
    // Half of it in the sandbox, half in the root file system.
    let fill = |mb| ["fill", mb, "/mnt/mezzo/sandbox/file", "/bin/file"];
    bench.launch(with_disk(task("fits", &fill("4")), 30)).await;
    bench.launch(task("free", &fill("8"))).await;
    bench.launch(with_disk(task("fills", &fill("8")), 10)).await;
    let end = bench.master.end("fills").await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskFailed, Reason::ContainerLimitationDisk),
        "{}",
        end.message
    );
    // In bytes if it is seen when it is just above.
    let limits = ["its limit is 10.0 MiB", "its limit is 10485760 bytes"];
    assert!(
        limits.iter().any(|limit| end.message.contains(limit)),
        "{}",
        end.message
    );
    assert!(end.usage.unwrap().disk_bytes > Some(10 << 20));
    let fits = takes(bench, "fits", 8).await;
    assert_eq!(fits.disk_limit_bytes, Some(30 << 20));
    assert!(fits.usage.unwrap().disk_bytes < Some(10 << 20), "{fits:?}");
    let free = takes(bench, "free", 16).await;
    assert_eq!(free.disk_limit_bytes, None);
    // The next agent counts what the one before counted.
    bench.kill_agent().await;
    bench.start(2).await;
    takes(bench, "fits", 8).await;
    for running in ["fits", "free"] {
        bench.master.status(running, TaskRunning).await;
    }
}

const SECRET: &str = "hush-2c26b46b68ffc68ff99b453c1d304134";

/// Files below a directory that hold the secret.
fn holders(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    // The agent works meanwhile: what is gone holds nothing.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            found.extend(holders(&path));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            let mut parts = bytes.windows(SECRET.len());
            if parts.any(|part| part == SECRET.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

pub(crate) async fn a_secret_is_told_to_a_task_and_to_nothing_else(bench: &mut Bench) {
    let secrets = tempfile::tempdir().unwrap();
    fs::create_dir(secrets.path().join("team")).unwrap();
    fs::write(secrets.path().join("team/key"), format!("{SECRET}\n")).unwrap();
    bench.config.secrets_dir = Some(secrets.path().into());
    bench.start(1).await;
    let with = |id: &str, secret: &str| {
        let mut task = task(id, &["sleep"]);
        let container = task.container.as_mut().unwrap();
        container.user = "1000:1001".into();
        container.volumes.push(proto::Volume {
            container_path: "/run/secrets/key".into(),
            read_only: false,
            source: Some(proto::volume::Source::Secret(secret.into())),
        });
        container.secret_env.push(proto::SecretEnv {
            name: "TOKEN".into(),
            secret: secret.into(),
        });
        task
    };
    bench.launch(with("told", "team/key")).await;
    let container = bench.master.status("told", TaskRunning).await.container;
    let pid = container.unwrap().pid;
    let inside = format!("/proc/{pid}/root/run/secrets/key");
    assert_eq!(fs::read_to_string(&inside).unwrap(), format!("{SECRET}\n"));
    let env = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let wanted = format!("TOKEN={SECRET}");
    let mut variables = env.split(|byte| *byte == 0);
    assert!(variables.any(|variable| variable == wanted.as_bytes()));
    let state = bench.config.state_dir.clone();
    assert_eq!(holders(&state), Vec::<String>::new());
    // The file may change or go: the task has what it was told, also under the next agent.
    fs::remove_file(secrets.path().join("team/key")).unwrap();
    bench.kill_agent().await;
    bench.start(2).await;
    assert_eq!(fs::read_to_string(&inside).unwrap(), format!("{SECRET}\n"));
    assert_eq!(holders(&state), Vec::<String>::new());
    // What cannot be told is named.
    for (id, secret) in [("gone", "team/key"), ("folder", "team")] {
        bench.launch(with(id, secret)).await;
        let end = bench.master.end(id).await;
        assert_eq!(
            (end.state(), end.reason()),
            (TaskFailed, Reason::ContainerLaunchFailed)
        );
        assert!(
            end.message.contains(&format!("secret \"{secret}\"")),
            "{}",
            end.message
        );
    }
}
