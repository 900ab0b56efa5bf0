//! The life of apps on a real cluster: deploy, scale, replace, recover, update, remove, and what it all uses. What
//! runs is read from `/proc`, what it uses from the kernel's cgroup files; mezzo's own words are checked against that.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use common::{Stage, on_stage};
use mezzo_integration::cluster::{PATIENCE, Server};
use mezzo_integration::containers::{self, Running};
use mezzo_integration::{kernel, paths, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn identities(running: &[Running]) -> BTreeSet<(i32, u64)> {
    running.iter().map(|one| (one.pid, one.started)).collect()
}

fn kill_process(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill {pid}"))
}

#[test]
fn an_app_is_deployed_scaled_up_and_down_and_removed() {
    on_stage("scale", |stage| {
        let cluster = &stage.cluster;
        cluster.deploy(&stage.app("sleep", 1))?;
        let first = cluster.wait_running("sleep", 1)?;
        cluster.update("sleep", &json!({ "instances": 20 }))?;
        let twenty = cluster.wait_running("sleep", 20)?;
        ensure!(
            identities(&twenty).is_superset(&identities(&first)),
            "scaling replaced the first task"
        );
        cluster.update("sleep", &json!({ "instances": 3 }))?;
        let three = cluster.wait_running("sleep", 3)?;
        ensure!(
            identities(&twenty).is_superset(&identities(&three)),
            "scaling down started a task"
        );
        cluster.remove("sleep")
    });
}

#[test]
fn a_plain_marathon_file_deploys_and_answers_with_marathons_fields() {
    on_stage("marathon", |stage| {
        let cluster = &stage.cluster;
        let file = paths::workspace().join("examples/apps/sleep.json");
        let text = fs::read_to_string(&file).context("read examples/apps/sleep.json")?;
        let text = text.replace("127.0.0.1:5000", stage.registry.address());
        let created = cluster.rest().post("/v2/apps", &text)?;
        ensure!(
            created.status == 201,
            "POST answers {}: {}",
            created.status,
            created.text
        );
        ensure!(
            created.headers.contains_key("marathon-deployment-id"),
            "no deployment header: {:?}",
            created.headers
        );
        ensure!(
            created.json["deployments"]
                .as_array()
                .is_some_and(|all| all.len() == 1),
            "{}",
            created.text
        );
        cluster.wait_running("sleep", 1)?;
        let app = cluster.app("sleep")?;
        for (field, wanted) in [
            ("id", json!("/sleep")),
            ("instances", json!(1)),
            ("tasksStaged", json!(0)),
            ("tasksRunning", json!(1)),
            ("tasksHealthy", json!(0)),
            ("tasksUnhealthy", json!(0)),
            ("deployments", json!([])),
            ("mem", json!(16)),
        ] {
            ensure!(
                loosely_equal(&app[field], &wanted),
                "{field} is {}, not {wanted}",
                app[field]
            );
        }
        ensure!(
            app["version"]
                .as_str()
                .is_some_and(|version| version.ends_with('Z')),
            "version {}",
            app["version"]
        );
        let task = &app["tasks"][0];
        for field in [
            "id",
            "appId",
            "host",
            "startedAt",
            "stagedAt",
            "version",
            "slaveId",
            "state",
            "ports",
        ] {
            ensure!(!task[field].is_null(), "a task has no {field}: {task}");
        }
        ensure!(
            task["state"] == "TASK_RUNNING" && task["appId"] == "/sleep",
            "{task}"
        );
        let again = cluster.rest().post("/v2/apps", &text)?;
        ensure!(
            again.status == 409,
            "a second POST answers {}",
            again.status
        );
        for path in [
            "/v2/apps",
            "/v2/tasks",
            "/v2/apps/sleep/tasks",
            "/v2/deployments",
            "/v2/queue",
            "/v2/info",
        ] {
            cluster
                .rest()
                .get(path)?
                .ok()
                .with_context(|| path.to_owned())?;
        }
        ensure!(
            cluster.rest().get("/ping")?.text.trim() == "pong",
            "no pong"
        );
        cluster.remove("sleep")
    });
}

/// Marathon itself writes 16 or 16.0.
fn loosely_equal(one: &Value, other: &Value) -> bool {
    one == other
        || one
            .as_f64()
            .zip(other.as_f64())
            .is_some_and(|(one, other)| (one - other).abs() < 1e-9)
}

#[test]
fn a_container_killed_from_outside_is_replaced() {
    on_stage("replace", |stage| {
        let cluster = &stage.cluster;
        cluster.deploy(&stage.app("sleep", 3))?;
        let before = cluster.wait_running("sleep", 3)?;
        let victim = before[0].clone();
        kill_process(victim.pid)?;
        let after = wait::until("a replacement", PATIENCE, || {
            let running = cluster.wait_running("sleep", 3)?;
            ensure!(
                !running.iter().any(|one| one.task_id == victim.task_id),
                "the old task is still there"
            );
            Ok(running)
        })?;
        ensure!(
            identities(&before)
                .intersection(&identities(&after))
                .count()
                == 2,
            "others were replaced too"
        );
        let told = stage.ask(&["task", "show", &victim.task_id])?;
        ensure!(
            told["state"] == "TASK_FAILED" && told["exit"]["signal"] == 9,
            "its end is told as {told}"
        );
        let failure = &cluster.app("sleep")?["lastTaskFailure"];
        ensure!(
            failure["taskId"] == victim.task_id.as_str(),
            "the last failure is {failure}"
        );
        Ok(())
    });
}

#[test]
fn a_killed_agent_comes_back_with_the_same_twenty_processes() {
    on_stage("agent", |stage| {
        let cluster = &stage.cluster;
        cluster.deploy(&stage.app("sleep", 20))?;
        let before = cluster.wait_running("sleep", 20)?;
        let dead = cluster.kill_server(Server::Agent)?;
        wait::until("a new agent", PATIENCE, || {
            let pid = cluster.server_pid(Server::Agent)?;
            let nodes = stage.ask(&["node", "list"])?;
            ensure!(
                pid != dead && nodes[0]["state"] == "connected" && nodes[0]["tasks"] == 20,
                "not yet: {nodes}"
            );
            Ok(())
        })?;
        let after = cluster.wait_running("sleep", 20)?;
        ensure!(
            identities(&before) == identities(&after),
            "not the same processes"
        );
        // And it is in charge of them: their ends are seen.
        cluster.remove("sleep")
    });
}

#[test]
fn containers_outlive_mezzo_dev_and_the_next_one_adopts_them() {
    on_stage("adopt", |stage| {
        stage.cluster.deploy(&stage.app("sleep", 5))?;
        let before = stage.cluster.wait_running("sleep", 5)?;
        stage.cluster.kill_dev()?;
        wait::always(
            "containers outlive mezzo dev",
            Duration::from_millis(500),
            || {
                ensure!(
                    identities(&stage.cluster.containers("sleep")) == identities(&before),
                    "some ended"
                );
                Ok(())
            },
        )?;
        stage.cluster.run()?;
        let after = stage.cluster.wait_running("sleep", 5)?;
        ensure!(
            identities(&before) == identities(&after),
            "not the same processes"
        );
        stage.cluster.remove("sleep")
    });
}

#[test]
fn an_app_over_its_memory_limit_is_reported_with_limit_and_peak() {
    on_stage("oom", |stage| {
        let mut app = stage.app("oom", 1);
        app["mem"] = json!(32);
        app["args"] = json!(["--memory-mb", "64"]);
        app["backoffSeconds"] = json!(300);
        app["maxLaunchDelaySeconds"] = json!(600);
        stage.cluster.deploy(&app)?;
        let task = wait::until("an out-of-memory kill", PATIENCE, || {
            let tasks = stage.ask(&["task", "list", "--app", "oom", "--all"])?;
            let ended = tasks
                .as_array()
                .and_then(|all| all.iter().find(|task| !task["exit"].is_null()))
                .cloned();
            ended.with_context(|| format!("none has ended: {tasks}"))
        })?;
        ensure!(
            task["exit"]["oom_killed"] == true,
            "told as {}",
            task["exit"]
        );
        ensure!(
            task["reason"] == "REASON_CONTAINER_LIMITATION_MEMORY",
            "told as {}",
            task["reason"]
        );
        ensure!(
            task["exit"]["memory_limit_bytes"] == 32 << 20,
            "limit {}",
            task["exit"]["memory_limit_bytes"]
        );
        let peak = task["usage"]["memory_peak_bytes"]
            .as_u64()
            .context("no peak")?;
        ensure!(
            (16 << 20..=32 << 20).contains(&peak),
            "a peak of {peak} bytes"
        );
        Ok(())
    });
}

#[test]
fn a_rolling_update_never_falls_below_the_minimum_health_capacity() {
    on_stage("update", |stage| {
        let cluster = &stage.cluster;
        let mut app = stage.app("sleep", 10);
        app["upgradeStrategy"] =
            json!({ "minimumHealthCapacity": 0.8, "maximumOverCapacity": 0.2 });
        cluster.deploy(&app)?;
        cluster.wait_running("sleep", 10)?;
        let image = stage.registry.reference("sleep:2");
        cluster.update(
            "sleep",
            &json!({ "container": { "type": "MESOS", "docker": { "image": image } } }),
        )?;
        wait::until("only the new version", PATIENCE, || {
            // The first error of a watch must not be retried away.
            watch_capacity(stage, 8, 12).unwrap_or_else(|error| panic!("{error:#}"));
            let running = stage.cluster.containers("sleep");
            let new = running.iter().filter(|one| one.version == "2").count();
            ensure!(
                new == 10 && running.len() == 10,
                "{new} of {} are new",
                running.len()
            );
            Ok(())
        })?;
        cluster.wait_running("sleep", 10)?;
        // And back.
        let versions = stage.ask(&["app", "versions", "sleep"])?;
        ensure!(
            versions.as_array().is_some_and(|all| all.len() >= 2),
            "versions: {versions}"
        );
        mezzo_integration::process::output(
            &mut cluster.mezzo(&["app", "rollback", "sleep", "--wait"]),
        )?;
        let running = cluster.wait_running("sleep", 10)?;
        ensure!(
            running.iter().all(|one| one.version == "1"),
            "not all are back at version 1"
        );
        cluster.remove("sleep")
    });
}

/// What the API tells to run, and what really runs.
fn watch_capacity(stage: &Stage, fewest: usize, most: usize) -> Result<()> {
    let real = stage.cluster.containers("sleep");
    containers::check_none_twice(&real)?;
    let told = stage.cluster.app("sleep")?;
    let told = told["tasks"].as_array().map_or(0, |all| {
        all.iter()
            .filter(|task| task["state"] == "TASK_RUNNING")
            .count()
    });
    if real.len() < fewest || told < fewest {
        bail!(
            "{} run and {told} are told to, fewer than {fewest}",
            real.len()
        );
    }
    // A killed process may be seen for a moment beside its replacement's replacement.
    ensure!(
        real.len() <= most + 1,
        "{} run, more than {most}",
        real.len()
    );
    Ok(())
}

#[test]
fn usage_agrees_with_the_kernels_own_files() {
    on_stage("usage", |stage| {
        let cluster = &stage.cluster;
        let mut app = stage.app("busy", 2);
        app["mem"] = json!(64);
        app["args"] = json!(["--memory-mb", "20", "--cpu-ms", "1500"]);
        cluster.deploy(&app)?;
        let running = cluster.wait_running("busy", 2)?;
        for one in &running {
            let group = containers::cgroup_of(one.pid)?;
            wait::until("the work to be done", PATIENCE, || {
                let used = kernel::cpu_us(&group)?;
                ensure!(used >= 1_500_000, "{used} us so far");
                Ok(())
            })?;
            // While nothing changes in the container, two readings of the kernel enclose ours.
            wait::until("figures that agree", PATIENCE, || {
                check_usage(stage, &one.task_id, &group)
            })?;
        }
        ensure!(
            kernel::memory_limit(&containers::cgroup_of(running[0].pid)?)? == Some(64 << 20),
            "another limit"
        );
        cluster.remove("busy")?;
        // The last figures are kept, although the cgroup is gone.
        let told = wait::until("the task's end", PATIENCE, || {
            let told = stage.ask(&["task", "show", &running[0].task_id])?;
            ensure!(told["state"] == "TASK_KILLED", "it is {}", told["state"]);
            Ok(told)
        })?;
        let cpu = told["usage"]["cpu_total_us"]
            .as_u64()
            .context("no final usage")?;
        ensure!((1_500_000..3_000_000).contains(&cpu), "a final {cpu} us");
        Ok(())
    });
}

fn check_usage(stage: &Stage, task: &str, group: &str) -> Result<()> {
    let read = || -> Result<_> {
        Ok((
            kernel::cpu_us(group)?,
            kernel::memory_bytes(group)?,
            kernel::pids(group)?,
        ))
    };
    let before = read()?;
    let told = stage.ask(&["task", "show", task])?;
    let after = read()?;
    let figure = |name: &str| {
        told["usage"][name]
            .as_u64()
            .with_context(|| format!("no {name} in {told}"))
    };
    let (cpu, memory, pids) = (
        figure("cpu_total_us")?,
        figure("memory_bytes")?,
        figure("pids")?,
    );
    ensure!(
        (before.0..=after.0).contains(&cpu),
        "cpu {cpu}, the kernel {} and {}",
        before.0,
        after.0
    );
    ensure!(
        (before.1.min(after.1)..=before.1.max(after.1)).contains(&memory),
        "memory {memory}, {before:?}, {after:?}"
    );
    ensure!(
        pids == before.2 && pids == after.2,
        "pids {pids}, the kernel {} and {}",
        before.2,
        after.2
    );
    Ok(())
}

#[test]
fn logs_and_sessions_reach_into_a_container() {
    on_stage("logs", |stage| {
        let cluster = &stage.cluster;
        cluster.deploy(&stage.app("sleep", 1))?;
        let running = cluster.wait_running("sleep", 1)?;
        let task = &running[0].task_id;
        // It runs a moment before it has said so.
        wait::until("its first words", PATIENCE, || {
            let log =
                mezzo_integration::process::output(&mut cluster.mezzo(&["task", "log", task]))?;
            common::check_contains(&log, "sleep 1 starts, pid 1")
        })?;
        let words = [
            "task",
            "exec",
            task,
            "--",
            "/sleep",
            "0",
            "--exit-code",
            "7",
        ];
        let done = cluster.mezzo(&words).output().context("mezzo task exec")?;
        ensure!(
            done.status.code() == Some(7),
            "exec ended with {:?}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        common::check_contains(&String::from_utf8_lossy(&done.stdout), "starts, pid")?;
        cluster.remove("sleep")
    });
}
