//! `kill -9` of the servers, in turn and together, again and again, while an app of 20 runs and now and then one of its
//! containers is killed with nobody there to see it. In the end exactly 20 run, every container that we did not kill
//! is still the same process, no task id ever ran twice at once, and API, master and kernel name the same tasks.

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use common::{Stage, all, on_stage};
use mezzo_integration::cluster::{Cluster, PATIENCE, Server};
use mezzo_integration::containers::{self, Running};
use mezzo_integration::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const APP: &str = "sleep";
const COUNT: usize = 20;

#[test]
fn servers_killed_in_turn_and_together_lose_nothing() {
    on_stage("kill-loop", |stage| {
        stage.cluster.deploy(&stage.app(APP, COUNT as u32))?;
        let before = stage.cluster.wait_running(APP, COUNT)?;
        let done = AtomicBool::new(false);
        let (killed, watched) = thread::scope(|scope| {
            let watch = scope.spawn(|| watch(&stage.cluster, &done));
            let killed = rounds(&stage.cluster);
            done.store(true, Ordering::Relaxed);
            (killed, watch.join())
        });
        let killed = killed?;
        let looks = watched.map_err(|_| anyhow::anyhow!("the watch panicked"))??;
        println!(
            "{looks} looks at /proc, {} containers killed unseen",
            killed.len()
        );
        let after = stage.cluster.wait_running(APP, COUNT)?;
        check_same_processes(&before, &after, &killed)?;
        wait::until("all to name the same tasks", PATIENCE, || {
            check_same_names(stage)
        })?;
        stage.cluster.remove(APP)
    });
}

/// Looks at what runs until `done`; an error at the first task id that runs twice.
fn watch(cluster: &Cluster, done: &AtomicBool) -> Result<usize> {
    let mut looks = 0;
    while !done.load(Ordering::Relaxed) {
        containers::check_none_twice(&cluster.containers(APP))?;
        looks += 1;
        thread::yield_now();
    }
    Ok(looks)
}

/// Returns the task ids of the containers that were killed.
fn rounds(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut killed = BTreeSet::new();
    let rounds = if all() { 60 } else { 20 };
    for round in 0..rounds {
        let victims: &[Server] = match round % 4 {
            0 => &[Server::Master],
            1 => &[Server::Agent],
            2 => &[Server::Scheduler],
            _ => &Server::ALL,
        };
        let dead: Vec<(Server, i32)> = victims
            .iter()
            .map(|&server| Ok((server, cluster.kill_server(server)?)))
            .collect::<Result<_>>()?;
        if round % 2 == 1 {
            // The agent is away in these rounds: only the keeper sees this end.
            killed.extend(kill_a_container(cluster)?);
        }
        wait::until("the servers to be back", PATIENCE, || {
            for &(server, pid) in &dead {
                ensure!(
                    cluster.server_pid(server)? != pid,
                    "the {} is still dead",
                    server.name()
                );
            }
            Ok(())
        })
        .with_context(|| format!("round {round}"))?;
        // Every other time the next blow falls before they have found each other again.
        if round % 2 == 1 {
            cluster
                .wait_running(APP, COUNT)
                .with_context(|| format!("after round {round}"))?;
        }
    }
    Ok(killed)
}

fn kill_a_container(cluster: &Cluster) -> Result<Option<String>> {
    let Some(victim) = cluster.containers(APP).into_iter().next_back() else {
        bail!("nothing runs");
    };
    kill(Pid::from_raw(victim.pid), Signal::SIGKILL)
        .with_context(|| format!("kill {}", victim.pid))?;
    wait::until("a killed container to end", PATIENCE, || {
        let still = cluster
            .containers(APP)
            .iter()
            .any(|one| one.pid == victim.pid);
        ensure!(!still, "process {} is still there", victim.pid);
        Ok(())
    })?;
    Ok(Some(victim.task_id))
}

fn check_same_processes(
    before: &[Running],
    after: &[Running],
    killed: &BTreeSet<String>,
) -> Result<()> {
    for one in before.iter().filter(|one| !killed.contains(&one.task_id)) {
        ensure!(
            after.contains(one),
            "task {} (process {}) did not live through it",
            one.task_id,
            one.pid
        );
    }
    for one in after {
        ensure!(
            !killed.contains(&one.task_id),
            "task {} ran again after its end",
            one.task_id
        );
    }
    Ok(())
}

/// The scheduler's tasks, the master's and the kernel's.
fn check_same_names(stage: &Stage) -> Result<()> {
    let real: BTreeSet<String> = stage
        .cluster
        .containers(APP)
        .into_iter()
        .map(|one| one.task_id)
        .collect();
    let app = stage.cluster.app(APP)?;
    let names = |all: &serde_json::Value| -> BTreeSet<String> {
        let all = all.as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter()
            .filter_map(|task| task["id"].as_str())
            .map(str::to_owned)
            .collect()
    };
    let told = names(&app["tasks"]);
    let masters = names(&stage.ask(&["task", "list", "--app", APP])?);
    ensure!(
        real == told,
        "the scheduler tells {told:?}, the kernel {real:?}"
    );
    ensure!(
        real == masters,
        "the master tells {masters:?}, the kernel {real:?}"
    );
    Ok(())
}
