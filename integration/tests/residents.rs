//! Apps with persistent volumes on real containers: what an instance writes is there for the next one, whatever was restarted
//! between them, and gone with the app.

mod common;

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use common::{Stage, check_contains, on_stage};
use mezzo_integration::cluster::{PATIENCE, Server};
use mezzo_integration::{process, wait};
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
