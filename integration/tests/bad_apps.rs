//! Bad images and bad app files, each with the one clear error that a person gets to see, and nothing half done.

mod common;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use common::{Stage, check_contains, on_stage};
use mezzo_integration::cluster::{PATIENCE, sleep_app};
use mezzo_integration::http::Rest;
use mezzo_integration::{process, wait};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Deploys an app that cannot start, returns the message of its failure, and removes it.
fn failure_of(stage: &Stage, mut app: Value) -> Result<String> {
    let id = app["id"].as_str().context("an id")?.to_owned();
    // One attempt is enough.
    app["backoffSeconds"] = json!(300);
    app["maxLaunchDelaySeconds"] = json!(600);
    stage.cluster.deploy(&app)?;
    let message = wait::until("a failure", PATIENCE, || {
        let app = stage.cluster.app(&id)?;
        let message = app["lastTaskFailure"]["message"].as_str();
        message
            .map(str::to_owned)
            .with_context(|| format!("none is told: {}", app["lastTaskFailure"]))
    })?;
    ensure!(
        stage.cluster.containers(&id).is_empty(),
        "a container of {id} runs"
    );
    stage.cluster.remove(&id)?;
    println!("    {id}: {message}");
    Ok(message)
}

fn with_image(id: &str, image: &str) -> Value {
    sleep_app(id, image, 1)
}

/// Pushes `sleep:1` with another configuration: what no honest tool makes.
fn push_variant(stage: &Stage, tag: &str, edit: impl FnOnce(&mut Value)) -> Result<String> {
    let rest = Rest::new(stage.registry.address());
    let mut manifest = stage.registry.manifest("sleep", "1")?.json;
    let digest = manifest["config"]["digest"]
        .as_str()
        .context("no config digest")?
        .to_owned();
    let mut config = rest.get(&format!("/v2/sleep/blobs/{digest}"))?.ok()?.json;
    edit(&mut config);
    let body = config.to_string();
    let digest: String = Sha256::digest(body.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let upload = rest.post("/v2/sleep/blobs/uploads/", "")?.ok()?;
    let location = upload
        .headers
        .get("location")
        .context("no upload location")?;
    let path = location
        .strip_prefix(&format!("http://{}", stage.registry.address()))
        .unwrap_or(location);
    rest.put_as(
        &format!("{path}&digest=sha256:{digest}"),
        "application/octet-stream",
        &body,
    )?
    .ok()?;
    manifest["config"]["digest"] = json!(format!("sha256:{digest}"));
    manifest["config"]["size"] = json!(body.len());
    rest.put_as(
        &format!("/v2/sleep/manifests/{tag}"),
        MANIFEST,
        manifest.to_string(),
    )?
    .ok()?;
    Ok(stage.registry.reference(&format!("sleep:{tag}")))
}

#[test]
fn images_that_cannot_run_are_told_with_their_name_and_the_cause() {
    on_stage("bad-images", |stage| {
        let unknown = stage.registry.reference("nothing:1");
        check_contains(
            &failure_of(stage, with_image("unknown", &unknown))?,
            &unknown,
        )?;

        let digest = format!(
            "{}@sha256:{}",
            stage.registry.reference("sleep"),
            "0".repeat(64)
        );
        check_contains(
            &failure_of(stage, with_image("digest", &digest))?,
            "sha256:000000",
        )?;

        let other = push_variant(stage, "other", |config| {
            config["architecture"] = json!("s390x")
        })?;
        check_contains(
            &failure_of(stage, with_image("architecture", &other))?,
            "s390x",
        )?;

        let empty = push_variant(stage, "empty", |config| {
            config["config"]["Entrypoint"] = Value::Null
        })?;
        let told = failure_of(stage, with_image("entrypoint", &empty))?;
        check_contains(&told.to_lowercase(), "entrypoint")?;

        let absent = push_variant(stage, "absent", |config| {
            config["config"]["Entrypoint"] = json!(["/no/such/program"])
        })?;
        check_contains(
            &failure_of(stage, with_image("executable", &absent))?,
            "/no/such/program",
        )?;
        Ok(())
    });
}

#[test]
fn a_registry_that_is_down_stops_no_task_and_is_tried_again() {
    on_stage("registry-down", |stage| {
        stage.cluster.deploy(&stage.app("cached", 1))?;
        stage.cluster.wait_running("cached", 1)?;
        stage.registry.stop()?;
        // Running tasks are untouched, and a cached image still starts.
        stage.cluster.update("cached", &json!({ "instances": 2 }))?;
        stage.cluster.wait_running("cached", 2)?;
        let image = stage.registry.reference("sleep:2");
        stage.cluster.deploy(&with_image("fresh", &image))?;
        wait::until("a failed pull", PATIENCE, || {
            let app = stage.cluster.app("fresh")?;
            let message = app["lastTaskFailure"]["message"]
                .as_str()
                .context("no failure")?
                .to_owned();
            check_contains(&message, stage.registry.address())
        })?;
        stage.registry.run()?;
        stage.cluster.wait_running("fresh", 1)?;
        Ok(())
    });
}

#[test]
fn an_app_larger_than_any_node_waits_and_says_why() {
    on_stage("too-large", |stage| {
        let rest = stage.cluster.rest();
        let mut app = stage.app("huge", 1);
        app["cpus"] = json!(1000);
        let app = app.to_string();

        // Deployed before such a node comes: force says that it is meant.
        rest.post("/v2/apps?force=true", app.clone())?.ok()?;
        wait::until("a reason", PATIENCE, || {
            let queue = rest.get("/v2/queue")?.ok()?;
            check_contains(&queue.text, "/huge")?;
            check_contains(&queue.text, "InsufficientCpus")
        })?;
        let status = process::output(&mut stage.cluster.mezzo(&["status"]))?;
        check_contains(&status, "huge")?;
        stage.cluster.remove("huge")?;

        // Without force: refused with the arithmetic, once the scheduler has seen every node.
        wait::until("a refusal", PATIENCE, || {
            let answer = rest.post("/v2/apps", app.clone())?;
            if answer.status == 201 {
                stage.cluster.remove("huge")?;
            }
            ensure!(
                answer.status == 422,
                "status {}: {}",
                answer.status,
                answer.text
            );
            check_contains(&answer.text, "of 1000")
        })?;
        ensure!(
            rest.get("/v2/apps//huge")?.status == 404,
            "what was refused was kept"
        );
        Ok(())
    });
}

#[test]
fn the_rest_api_names_every_problem_of_an_app() {
    on_stage("bad-json", |stage| {
        let rest = stage.cluster.rest();
        let malformed = rest.post("/v2/apps", "{\"id\": ")?;
        ensure!(
            malformed.status == 400,
            "malformed JSON: {} {}",
            malformed.status,
            malformed.text
        );

        let types =
            json!({ "id": "wrong", "cpus": "many", "instances": -1, "mem": [] }).to_string();
        let types = rest.post("/v2/apps", types)?;
        ensure!(
            matches!(types.status, 400 | 422),
            "wrong types: {} {}",
            types.status,
            types.text
        );
        for path in ["/cpus", "/instances", "/mem"] {
            check_contains(&types.text, path)?;
        }

        let climbing = rest.post("/v2/apps", with_image("../../etc", "sleep:1").to_string())?;
        ensure!(
            climbing.status == 422,
            "a name with ../: {} {}",
            climbing.status,
            climbing.text
        );
        check_contains(&climbing.text, "/id")?;

        let mut unknown = stage.app("unknown-field", 1);
        unknown["instancse"] = json!(3);
        let unknown = rest.post("/v2/apps", unknown.to_string())?;
        ensure!(
            unknown.status == 201,
            "an unknown field: {} {}",
            unknown.status,
            unknown.text
        );
        check_contains(
            unknown
                .headers
                .get("warning")
                .context("no warning header")?,
            "instancse",
        )?;
        stage.cluster.wait_running("unknown-field", 1)?;
        stage.cluster.remove("unknown-field")?;

        let apps = rest.get("/v2/apps")?.ok()?;
        ensure!(
            apps.json["apps"] == json!([]),
            "something was made of them: {}",
            apps.text
        );
        ensure!(
            rest.get("/v2/apps/nothing")?.status == 404,
            "an unknown app"
        );
        Ok(())
    });
}

#[test]
fn the_command_line_refuses_unknown_fields_with_the_nearest_known_one() {
    on_stage("bad-file", |stage| {
        let mut app = stage.app("typo", 1);
        app["instancse"] = json!(3);
        let file = stage.dir.join("typo.json");
        fs::write(&file, app.to_string()).context("write the app file")?;
        let told = refused(
            &mut stage
                .cluster
                .mezzo(&["app", "add", &file.display().to_string()]),
        )?;
        check_contains(&told, "instancse")?;
        check_contains(&told, "instances")?;
        ensure!(
            stage.cluster.rest().get("/v2/apps/typo")?.status == 404,
            "it was deployed all the same"
        );
        let told = refused(&mut stage.cluster.mezzo(&["app", "show", "nothing"]))?;
        check_contains(&told, "nothing")
    });
}

/// What a command that must fail says.
fn refused(command: &mut Command) -> Result<String> {
    let done = command
        .output()
        .with_context(|| process::command_line(command))?;
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(
        !done.status.success(),
        "`{}` succeeded",
        process::command_line(command)
    );
    println!("    {}", told.trim());
    Ok(told)
}
