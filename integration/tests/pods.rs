//! Pods on real containers: what is in one sees the other on localhost, an update rolls, and the end of one container is the
//! end of its instance, which another replaces.

mod common;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use common::{Stage, on_stage};
use mezzo_integration::cluster::PATIENCE;
use mezzo_integration::containers::Running;
use mezzo_integration::{process, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Where the server listens, in the pod's own network.
const PORT: u16 = 8080;

/// A server, and a container beside it whose health check asks for the server's port at its own localhost.
fn pod(stage: &Stage, version: &str) -> Value {
    let container = |name: &str, exec: &[&str]| {
        json!({
            "name": name,
            "image": {"kind": "DOCKER", "id": stage.registry.reference(&format!("sleep:{version}"))},
            "exec": {"command": {"argv": exec}},
            "resources": {"cpus": 0.1, "mem": 32},
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        })
    };
    let mut web = container("web", &["--serve", "--count", "/shared/starts"]);
    web["environment"] = json!({"PORT0": PORT.to_string()});
    web["endpoints"] = json!([{"name": "http", "containerPort": PORT, "hostPort": 0}]);
    let mut beside = container("beside", &["100000"]);
    beside["endpoints"] = json!([{"name": "neighbour", "containerPort": PORT}]);
    beside["healthCheck"] = json!({
        "http": {"endpoint": "neighbour", "path": "/"},
        "gracePeriodSeconds": 60, "delaySeconds": 0, "intervalSeconds": 1, "timeoutSeconds": 10,
        "maxConsecutiveFailures": 10,
    });
    json!({
        "id": "/shop",
        "networks": [{"mode": "container/bridge"}],
        "volumes": [{"name": "shared"}],
        "containers": [web, beside],
        "scaling": {"kind": "fixed", "instances": 1},
        "scheduling": {"backoff": {"backoff": 0.1}},
    })
}

fn file(stage: &Stage, version: &str) -> Result<String> {
    let path = stage.dir.join(format!("pod-{version}.json"));
    fs::write(&path, pod(stage, version).to_string()).context("write the pod's file")?;
    Ok(path.display().to_string())
}

/// The two containers, once they are all there is and the scheduler calls the pod stable.
fn both(stage: &Stage) -> Result<(String, Vec<Running>)> {
    wait::until("one stable instance of two containers", PATIENCE, || {
        let status = stage.ask(&["pod", "status", "shop"])?;
        let instances = status["instances"].as_array().context("no instances")?;
        ensure!(
            status["status"] == "STABLE" && instances.len() == 1,
            "{status}"
        );
        let running = stage.cluster.containers("shop");
        ensure!(running.len() == 2, "{running:?}");
        let told: BTreeSet<&str> = instances[0]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["containerId"].as_str())
            .collect();
        let found: BTreeSet<&str> = running.iter().map(|one| one.task_id.as_str()).collect();
        ensure!(told == found, "{told:?} are told, {found:?} run");
        let id = instances[0]["id"].as_str().context("no id")?.to_owned();
        Ok((id, running))
    })
}

fn network(one: &Running) -> Result<String> {
    let link = fs::read_link(format!("/proc/{}/ns/net", one.pid))?;
    Ok(link.display().to_string())
}

#[test]
fn a_pods_containers_share_localhost_roll_together_and_are_replaced_together() {
    on_stage("pods", |stage| {
        let mezzo = |words: &[&str]| process::output(&mut stage.cluster.mezzo(words));
        mezzo(&["pod", "add", "--wait", &file(stage, "1")?])?;
        let (first, running) = both(stage)?;
        // The health check of the one that does not listen has passed: it found the other at its own localhost.
        let (one, other) = (network(&running[0])?, network(&running[1])?);
        ensure!(one == other, "different networks: {one}, {other}");
        ensure!(one != network_of_this()?, "the machine's network");

        mezzo(&["pod", "update", "--wait", &file(stage, "2")?])?;
        let (second, running) = both(stage)?;
        ensure!(second != first, "the same instance");
        let versions: BTreeSet<&str> = running.iter().map(|one| one.version.as_str()).collect();
        ensure!(versions == BTreeSet::from(["2"]), "{running:?}");

        // The one that nobody asks for is killed: both are replaced.
        let victim = running
            .iter()
            .find(|one| one.task_id.contains(".beside."))
            .context("no such container")?;
        kill(Pid::from_raw(victim.pid), Signal::SIGKILL).context("kill it")?;
        let third = wait::until("another instance", PATIENCE, || {
            let (third, now) = both(stage)?;
            ensure!(third != second, "still the one before");
            let stays = now.iter().any(|one| running.contains(one));
            ensure!(!stays, "a container outlived its instance: {now:?}");
            Ok(third)
        })?;
        let status = stage.ask(&["pod", "status", "shop"])?;
        let ended = &status["terminationHistory"][0];
        ensure!(ended["instanceID"] == second.as_str(), "{ended}");
        ensure!(
            ended["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("beside: ")),
            "{ended}"
        );

        mezzo(&["pod", "kill", "shop", &third])?;
        wait::until("yet another", PATIENCE, || {
            ensure!(both(stage)?.0 != third, "still the one before");
            Ok(())
        })?;
        mezzo(&["pod", "remove", "shop", "--wait"])?;
        ensure!(
            stage.cluster.containers("shop").is_empty(),
            "something is left"
        );
        Ok(())
    });
}

fn network_of_this() -> Result<String> {
    let link = fs::read_link("/proc/self/ns/net")?;
    Ok(link.display().to_string())
}
