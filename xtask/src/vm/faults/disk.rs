//! Disks without space. What runs must not care; what cannot be done must be said, and done when there is space again.

use anyhow::{Result, ensure};
use mezzo_integration::vm::cluster::{Cluster, MASTER, Machine, PATIENCE};
use serde_json::json;

use super::{Scenario, app, deployed, n_same};

/// Down to the last block, also those that only root may have.
const FILL: &str = "dd if=/dev/zero of=/data/ballast bs=1M 2>/dev/null || true
    dd if=/dev/zero of=/data/crumbs bs=1k 2>/dev/null || true
    sync";
const FREE: &str = "rm -f /data/ballast /data/crumbs; sync";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "the disk of an agent is full",
            sampled: false,
            run: agent,
        },
        Scenario {
            name: "the disk of the master is full",
            sampled: false,
            run: master,
        },
    ]
}

fn agent(cluster: &mut Cluster) -> Result<String> {
    let full = Machine::agent(1);
    let before = deployed(cluster, &app("roomy", 4))?;
    cluster.guest(full).sh(FILL)?;
    cluster.allow("roomy", 8);
    cluster.update("roomy", &json!({ "instances": 8 }))?;
    // The other agent has room for all of them; what the full one is given may fail, and is then tried elsewhere.
    cluster.until("the running ones to be untouched", PATIENCE, |cluster| {
        let now = cluster.running("roomy");
        ensure!(n_same(&before, &now) == 4, "these run: {now:?}");
        ensure!(now.len() > 4, "none has come: {now:?}");
        Ok(())
    })?;
    cluster.guest(full).sh(FREE)?;
    cluster.wait_agents(2)?;
    let after = cluster.wait_running("roomy", 8, 4 * PATIENCE)?;
    ensure!(n_same(&before, &after) == 4, "{after:?}");
    cluster.remove("roomy")?;
    Ok("the same 4 processes ran on, 8 in the end".to_owned())
}

fn master(cluster: &mut Cluster) -> Result<String> {
    let before = deployed(cluster, &app("frugal", 4))?;
    cluster.guest(MASTER).sh(FILL)?;
    // A database may have pages to spare, so a first request may still be taken. Whatever is answered must hold.
    let refusal = cluster.until("a request to be refused", PATIENCE, |cluster| {
        let wish = app(&format!("wish-{}", cluster.n_looks()), 1);
        let answer = cluster.rest("POST", "/v2/apps", &wish.to_string())?;
        ensure!(answer.status == 507, "{} {}", answer.status, answer.text);
        Ok(answer.json["message"].to_string())
    })?;
    ensure!(refusal.contains("No space left"), "it says {refusal}");
    let watched = cluster.limit(std::time::Duration::from_secs(1));
    cluster.always("tasks do not need the master's disk", watched, |cluster| {
        let now = cluster.running("frugal");
        ensure!(n_same(&before, &now) == 4, "these run: {now:?}");
        Ok(())
    })?;
    cluster.guest(MASTER).sh(FREE)?;
    cluster.wait_agents(2)?;
    cluster.wait_running("frugal", 4, 2 * PATIENCE)?;
    for id in cluster.app_ids()? {
        cluster.remove(&id)?;
    }
    Ok(format!("the same 4 processes ran on; refused: {refusal}"))
}
