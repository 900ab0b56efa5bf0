//! `kill -9` of the agent in the middle of launches, and of a change of limits of a running task: after the kernel has it
//! and before it is on record, after the runtime's record and before the agent's checkpoint. What the next agent finds is
//! what holds, everywhere.
//!
//! The moment of a change is not left to chance: where the temporary file of a record would be made there is a pipe that
//! nobody reads, and whoever opens it for writing waits there until it is killed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mezzo_api::proto::{
    self, CpuPinning, TaskLimits,
    TaskState::{TaskDropped, TaskGone, TaskKilled, TaskRunning},
};
use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{
    bench::{Bench, alive, eventually, processes_of, task},
    limits::{change, memory_max, pids_max, processors},
};

/// A pipe in the place of a file that is about to be written.
struct Obstacle(PathBuf);

impl Obstacle {
    fn at(path: PathBuf) -> Self {
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        Self(path)
    }
}

impl Drop for Obstacle {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn record_dir(bench: &Bench, container: &str) -> PathBuf {
    let state = &bench.config.state_dir;
    state.join("runtime/containers").join(container)
}

/// Before the runtime's record of a container.
fn before_the_record(bench: &Bench, container: &str) -> Obstacle {
    Obstacle::at(record_dir(bench, container).join(".spec.json.new"))
}

/// Before the agent's checkpoint of a task.
fn before_the_checkpoint(bench: &Bench, container: &str) -> Obstacle {
    Obstacle::at(bench.container_dir(container).join("task.new"))
}

/// What a record says: the value at that pointer.
fn recorded(file: &Path, pointer: &str) -> serde_json::Value {
    let text = fs::read(file).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    record.pointer(pointer).cloned().unwrap_or_default()
}

fn wanted(pids: u64) -> proto::UpdateTaskRequest {
    proto::UpdateTaskRequest {
        pids_limit: Some(pids),
        memory_limit_mb: Some(64),
        ..change("live")
    }
}

pub(crate) async fn a_change_of_limits_that_is_cut_short_leaves_what_was_before(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("live", &["sleep"])).await;
    let container = bench.master.status("live", TaskRunning).await;
    let container = container.container.unwrap();
    let (id, cgroup) = (container.container_id, container.cgroup_path);
    let record = record_dir(bench, &id).join("spec.json");
    let on_record = || recorded(&record, "/spec/limits/pids");
    let (pids, memory, noted) = (pids_max(&cgroup), memory_max(&cgroup), on_record());
    assert_eq!(noted.to_string(), pids);
    for (round, obstacle) in [before_the_record, before_the_checkpoint]
        .into_iter()
        .enumerate()
    {
        let is_first = round == 0;
        let obstacle = obstacle(bench, &id);
        let mut client = bench.client().await;
        let asked = tokio::spawn(async move { client.update_task(wanted(44)).await });
        eventually("told to the kernel", || {
            pids_max(&cgroup) == "44" && memory_max(&cgroup) == (64 << 20).to_string()
        })
        .await;
        if is_first {
            assert_eq!(on_record(), noted, "not on record yet");
        } else {
            eventually("on record", || on_record() == 44).await;
        }
        bench.kill_agent().await;
        let answer = asked.await.unwrap();
        assert!(answer.is_err(), "nobody was told that it holds: {answer:?}");
        drop(obstacle);

        bench.start(round + 2).await;
        let registered = bench.master.last_registration();
        let info = registered.tasks[0].info.as_ref().unwrap();
        assert_eq!((info.pids_limit, info.memory_limit_mb), (None, None));
        eventually("as it was before", || {
            (pids_max(&cgroup), memory_max(&cgroup), on_record())
                == (pids.clone(), memory.clone(), noted.clone())
        })
        .await;
        assert!(alive(container.pid));
    }
    // And nothing stands in the way of the next one, which holds.
    let mut client = bench.client().await;
    client.update_task(wanted(45)).await.unwrap();
    bench.kill_agent().await;
    bench.start(4).await;
    let registered = bench.master.last_registration();
    assert_eq!(
        registered.tasks[0].info.as_ref().unwrap().pids_limit,
        Some(45)
    );
    assert_eq!((pids_max(&cgroup), on_record()), ("45".into(), 45.into()));
}

pub(crate) async fn processors_that_change_hands_while_the_agent_is_killed_end_in_one_hand(
    bench: &mut Bench,
) {
    let all = processors(std::process::id());
    if all.len() < 2 {
        eprintln!("skipped: needs two processors");
        return;
    }
    bench.start(1).await;
    bench.launch(task("shared", &["sleep"])).await;
    let shared = bench.master.status("shared", TaskRunning).await;
    let shared = shared.container.unwrap();
    let record = record_dir(bench, &shared.container_id).join("spec.json");
    let on_record = || recorded(&record, "/spec/limits/cpuset");
    assert!(on_record().is_null());

    // Those that share are told to make room, and that is not on record.
    let obstacle = before_the_record(bench, &shared.container_id);
    let mut own = task("own", &["sleep"]);
    own.resources[0].value = Some(proto::resource::Value::Scalar(proto::Scalar {
        millis: 1_000,
    }));
    own.limits = Some(TaskLimits {
        cpu_pinning: CpuPinning::Exclusive.into(),
        ..TaskLimits::default()
    });
    bench.launch(own).await;
    let own = bench.master.status("own", TaskRunning).await;
    let own = own.container.unwrap().pid;
    let its = processors(own);
    let rest: Vec<u32> = all.iter().copied().filter(|n| !its.contains(n)).collect();
    assert_eq!(rest.len(), all.len() - 1);
    eventually("room made", || processors(shared.pid) == rest).await;
    assert!(on_record().is_null());
    bench.kill_agent().await;
    drop(obstacle);
    bench.start(2).await;
    eventually("room made again, and on record", || {
        processors(shared.pid) == rest && !on_record().is_null()
    })
    .await;
    assert_eq!(processors(own), its);

    // The same on the way back.
    let obstacle = before_the_record(bench, &shared.container_id);
    bench.kill_task("own", Some(0)).await;
    bench.master.status("own", TaskKilled).await;
    eventually("given back", || processors(shared.pid) == all).await;
    assert!(!on_record().is_null());
    bench.kill_agent().await;
    drop(obstacle);
    bench.start(3).await;
    eventually("given back, and on record", || {
        processors(shared.pid) == all && on_record().is_null()
    })
    .await;
    assert!(alive(shared.pid));
}

/// At moments that are different in every round.
pub(crate) async fn kills_of_the_agent_in_the_middle_of_launches_run_nothing_twice(
    bench: &mut Bench,
) {
    bench.start(1).await;
    let begin = std::time::Instant::now();
    for n in 0..20 {
        bench.launch(task(&format!("calm{n}"), &["sleep"])).await;
    }
    for n in 0..20 {
        bench.master.status(&format!("calm{n}"), TaskRunning).await;
    }
    eprintln!(
        "20 launches to 20 times TASK_RUNNING: {} ms",
        begin.elapsed().as_millis()
    );
    for round in 0..5_u64 {
        for n in 0..4 {
            bench
                .launch(task(&format!("hasty{round}-{n}"), &["sleep"]))
                .await;
        }
        // Not synchronisation: the point is to hit the launches at a different moment in every round.
        tokio::time::sleep(std::time::Duration::from_millis(round * 15)).await;
        bench.kill_agent().await;
        bench.start(usize::try_from(round).unwrap() + 2).await;
    }
    let mut client = bench.client().await;
    let node = client
        .get_node(proto::GetNodeRequest {})
        .await
        .unwrap()
        .into_inner();
    let holds: Vec<_> = node
        .tasks
        .iter()
        .map(|task| task.info.as_ref().unwrap().task_id.clone())
        .collect();
    for round in 0..5 {
        for n in 0..4 {
            let id = format!("hasty{round}-{n}");
            if holds.contains(&id) {
                // Running, or told to have been dropped.
                bench
                    .master
                    .any(&id, &[TaskRunning, TaskDropped, TaskGone, TaskKilled])
                    .await;
            }
        }
    }
    // Every task that runs does so in exactly one process, and every process is a task's.
    let node = client
        .get_node(proto::GetNodeRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut pids: Vec<_> = node
        .tasks
        .iter()
        .filter_map(|task| task.status.as_ref())
        .filter(|status| status.state() == TaskRunning)
        .map(|status| status.container.as_ref().unwrap().pid)
        .collect();
    assert!(pids.len() >= 20);
    let mut found = processes_of(&bench.config.cgroup_parent.clone().unwrap());
    pids.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, pids);
}
