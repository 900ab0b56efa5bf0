//! Apps and pods with persistent volumes on real containers: what an instance writes is there for the next one, whatever was
//! restarted between them, and gone with the app.

mod common;

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use common::{Stage, check_contains, on_stage};
use mezzo_integration::cluster::{PATIENCE, Server};
use mezzo_integration::{process, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// In a volume at an absolute path, and in one in the sandbox.
const FILES: [&str; 2] = ["/data/starts", "/mnt/mezzo/sandbox/more/starts"];

/// An app that counts its starts; it keeps `/data`, and a folder of its sandbox.
fn resident(stage: &Stage) -> Value {
    let mut app = stage.app("keeper", 1);
    app["args"] = json!(["--count", FILES[0], "--count", FILES[1]]);
    app["container"]["volumes"] = json!([
        {"containerPath": "/data", "mode": "RW", "persistent": {"size": 100}},
        {"containerPath": "more", "mode": "RW", "persistent": {"type": "root", "size": 50}},
    ]);
    app
}

fn volumes(stage: &Stage) -> Result<Vec<Value>> {
    let list = stage.ask(&["volume", "list"])?;
    Ok(list.as_array().context("no list of volumes")?.clone())
}

/// The only task, once it runs and nothing is under way.
fn the_task(stage: &Stage) -> Result<Value> {
    stage.cluster.wait_running("keeper", 1)?;
    let app = stage.cluster.app("keeper")?;
    Ok(app["tasks"][0].clone())
}

fn id(task: &Value) -> Result<&str> {
    task["id"].as_str().context("a task without id")
}

/// Its log says which start it was, in both volumes: soon, for it runs a moment before it has written that.
fn check_start(stage: &Stage, task: &Value, n: u32) -> Result<()> {
    let id = id(task)?;
    wait::until("its words", PATIENCE, || {
        let log = process::output(&mut stage.cluster.mezzo(&["task", "log", id]))?;
        FILES
            .iter()
            .try_for_each(|file| check_contains(&log, &format!("start {n} in {file}\n")))
    })
}

#[test]
fn a_resident_app_finds_what_it_wrote_after_restarts_and_leaves_nothing() {
    on_stage("residents", |stage| {
        stage.cluster.deploy(&resident(stage))?;
        let first = the_task(stage)?;
        check_start(stage, &first, 1)?;
        let made = volumes(stage)?;
        ensure!(made.len() == 2, "{made:?}");
        ensure!(
            first["localVolumes"]
                .as_array()
                .is_some_and(|all| all.len() == 2),
            "{first}"
        );

        let rest = stage.cluster.rest();
        rest.post("/v2/apps/keeper/restart", "{}")?.ok()?;
        let second = the_task(stage)?;
        ensure!(id(&first)? != id(&second)?, "it was not restarted");
        ensure!(first["localVolumes"] == second["localVolumes"], "{second}");
        check_start(stage, &second, 2)?;

        // Everybody is away at once; the instance ends meanwhile.
        for server in [Server::Scheduler, Server::Agent, Server::Master] {
            stage.cluster.kill_server(server)?;
        }
        stage.cluster.wait_ready()?;
        let task = the_task(stage)?;
        rest.delete(&format!("/v2/apps/keeper/tasks/{}", id(&task)?))?
            .ok()?;
        let third = wait::until("another instance", PATIENCE, || {
            let next = the_task(stage)?;
            ensure!(id(&next)? != id(&task)?, "still {next}");
            Ok(next)
        })?;
        check_start(stage, &third, 3)?;

        // With its volumes: the next begins with empty ones.
        rest.delete(&format!("/v2/apps/keeper/tasks/{}?wipe=true", id(&third)?))?
            .ok()?;
        let fourth = wait::until("an instance with new volumes", PATIENCE, || {
            let next = the_task(stage)?;
            ensure!(
                next["localVolumes"] != third["localVolumes"],
                "still {next}"
            );
            Ok(next)
        })?;
        check_start(stage, &fourth, 1)?;

        stage.cluster.remove("keeper")?;
        wait::until("nothing to be kept any more", PATIENCE, || {
            let left = volumes(stage)?;
            let nodes = stage.ask(&["node", "list"])?;
            let folders = fs::read_dir(stage.cluster.dir().join("agent/volumes"))?.count();
            if left.is_empty() && folders == 0 {
                return Ok(());
            }
            bail!("{left:?}, {folders} folders, {nodes}")
        })
    });
}

/// Of one volume: where each container of the pod has it, and what it counts its starts in.
const SEEN: [(&str, &str, &str); 2] = [
    ("db", "/data", "/data/db-starts"),
    ("backup", "kept", "/mnt/mezzo/sandbox/kept/backup-starts"),
];

fn resident_pod(stage: &Stage) -> Value {
    let container = |(name, mount, file): (&str, &str, &str)| {
        json!({
            "name": name,
            "image": {"kind": "DOCKER", "id": stage.registry.reference("sleep:1")},
            "exec": {"command": {"argv": ["--count", file]}},
            "resources": {"cpus": 0.1, "mem": 32},
            "volumeMounts": [{"name": "data", "mountPath": mount}],
        })
    };
    json!({
        "id": "/store",
        "volumes": [{"name": "data", "persistent": {"size": 100}}],
        "containers": SEEN.map(container),
        "scheduling": {"backoff": {"backoff": 0.1}},
    })
}

fn mezzo(stage: &Stage, words: &[&str]) -> Result<String> {
    process::output(&mut stage.cluster.mezzo(words))
}

/// The only instance, once it is stable and another than `before`.
fn the_instance(stage: &Stage, before: Option<&Value>) -> Result<Value> {
    wait::until("another stable instance", PATIENCE, || {
        let status = stage.ask(&["pod", "status", "store"])?;
        let instances = status["instances"].as_array().context("no instances")?;
        ensure!(
            status["status"] == "STABLE" && instances.len() == 1,
            "{status}"
        );
        let same = before.is_some_and(|before| before["id"] == instances[0]["id"]);
        ensure!(!same, "still the one before: {status}");
        Ok(instances[0].clone())
    })
}

/// Both containers say which start it was.
fn check_starts(stage: &Stage, instance: &Value, n: u32) -> Result<()> {
    for (i, (name, _, file)) in SEEN.iter().enumerate() {
        let container = &instance["containers"][i];
        ensure!(container["name"] == *name, "{instance}");
        let task = container["containerId"].as_str().context("no task")?;
        wait::until("its words", PATIENCE, || {
            let log = process::output(&mut stage.cluster.mezzo(&["task", "log", task]))?;
            check_contains(&log, &format!("start {n} in {file}\n"))
        })?;
    }
    Ok(())
}

#[test]
fn a_pod_that_is_killed_finds_its_files_again_and_leaves_nothing() {
    on_stage("pod-residents", |stage| {
        let file = stage.dir.join("store.json");
        fs::write(&file, resident_pod(stage).to_string()).context("write the pod's file")?;
        mezzo(
            stage,
            &["pod", "add", "--wait", &file.display().to_string()],
        )?;
        let first = the_instance(stage, None)?;
        check_starts(stage, &first, 1)?;
        let [made] = &volumes(stage)?[..] else {
            bail!("{:?}", volumes(stage)?);
        };
        let kept = &first["localVolumes"][0];
        ensure!(kept["containerPath"] == "data", "{first}");
        let shown = mezzo(stage, &["pod", "status", "store"])?;
        check_contains(&shown, kept["persistenceId"].as_str().context("no id")?)?;

        // One container dies: the whole instance is another, on the same volume.
        let running = stage.cluster.containers("store");
        let victim = running.first().context("nothing runs")?;
        kill(Pid::from_raw(victim.pid), Signal::SIGKILL).context("kill it")?;
        let second = the_instance(stage, Some(&first))?;
        ensure!(second["localVolumes"] == first["localVolumes"], "{second}");
        check_starts(stage, &second, 2)?;

        // Everybody is away at once.
        for server in [Server::Scheduler, Server::Agent, Server::Master] {
            stage.cluster.kill_server(server)?;
        }
        stage.cluster.wait_ready()?;
        let id = second["id"].as_str().context("no id")?;
        mezzo(stage, &["pod", "kill", "store", id])?;
        let third = the_instance(stage, Some(&second))?;
        check_starts(stage, &third, 3)?;
        ensure!(volumes(stage)?.len() == 1, "beside {made}");

        let refused = stage.cluster.mezzo(&["pod", "wipe", "store"]).output()?;
        ensure!(!refused.status.success(), "it is not asked whether");
        mezzo(stage, &["pod", "wipe", "store", "--yes"])?;
        let fourth = the_instance(stage, Some(&third))?;
        ensure!(fourth["localVolumes"] != third["localVolumes"], "{fourth}");
        check_starts(stage, &fourth, 1)?;

        mezzo(stage, &["pod", "remove", "store", "--wait"])?;
        wait::until("nothing to be kept any more", PATIENCE, || {
            let left = volumes(stage)?;
            let folders = fs::read_dir(stage.cluster.dir().join("agent/volumes"))?.count();
            ensure!(
                left.is_empty() && folders == 0,
                "{left:?}, {folders} folders"
            );
            Ok(())
        })
    });
}
