//! Servers that are killed while an app runs.

use anyhow::{Result, ensure};
use mezzo_integration::vm::cluster::{Cluster, MASTER, Machine, PATIENCE};
use serde_json::json;

use super::{Scenario, app, deployed, n_same};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "kill -9 of every server: not a task notices",
            sampled: false,
            run: kills,
        },
        Scenario {
            name: "kill -9 in the middle of an update: it ends as it should",
            sampled: false,
            run: kills_in_an_update,
        },
    ]
}

fn kills(cluster: &mut Cluster) -> Result<String> {
    let before = deployed(cluster, &app("calm", 6))?;
    for (machine, server) in [
        (Machine::agent(1), "agent"),
        (MASTER, "scheduler"),
        (MASTER, "master"),
        (Machine::agent(2), "agent"),
    ] {
        cluster.kill(machine, server)?;
        cluster.wait_agents(2)?;
        let after = cluster.wait_running("calm", 6, PATIENCE)?;
        ensure!(
            n_same(&before, &after) == 6,
            "after the kill of the {server}: {after:?}"
        );
    }
    cluster.remove("calm")?;
    Ok("4 kills, the same 6 processes".to_owned())
}

fn kills_in_an_update(cluster: &mut Cluster) -> Result<String> {
    let mut rolling = app("rolling", 4);
    rolling["upgradeStrategy"] =
        json!({ "minimumHealthCapacity": 1.0, "maximumOverCapacity": 0.5 });
    let before = deployed(cluster, &rolling)?;
    // 4 and a half of them: the strategy's own arithmetic.
    cluster.allow("rolling", 6);
    let image = rolling["container"]["docker"]["image"]
        .as_str()
        .unwrap_or_default();
    let update = json!({ "container": { "type": "MESOS", "docker": { "image": image.replace(":1", ":2") } } });
    cluster.update("rolling", &update)?;
    for (machine, server) in [
        (MASTER, "scheduler"),
        (Machine::agent(1), "agent"),
        (MASTER, "master"),
    ] {
        cluster.kill(machine, server)?;
    }
    let after = cluster.wait_running("rolling", 4, 4 * PATIENCE)?;
    ensure!(n_same(&before, &after) == 0, "old ones are left: {after:?}");
    cluster.remove("rolling")?;
    Ok("3 kills, 4 new tasks, never more than 6".to_owned())
}
