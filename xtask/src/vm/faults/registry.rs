//! A registry that hangs, truncates or lies: the real one, stopped, or with its disk damaged beneath it.

use anyhow::{Context, Result, ensure};
use mezzo_integration::vm::cluster::{Cluster, MASTER, PATIENCE, REGISTRY};
use serde_json::{Value, json};

use super::{Scenario, app, deployed, n_same};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "a registry that hangs, truncates and lies",
        sampled: false,
        run: registry,
    }]
}

fn registry(cluster: &mut Cluster) -> Result<String> {
    let before = deployed(cluster, &app("cached", 2))?;
    for tag in ["hang", "short", "lie"] {
        let pack = format!(
            "mezzo image pack /usr/local/lib/sleep -t {REGISTRY}/{tag}:1 --env OF={tag} --push \
            --insecure-registry {REGISTRY} >/dev/null; sync"
        );
        cluster.guest(MASTER).sh(&pack)?;
    }
    let signal =
        |cluster: &Cluster, name: &str| cluster.signal(MASTER, name, &["docker-registry", "serve"]);
    signal(cluster, "STOP")?;
    cluster.deploy(&image("hang"))?;
    // What is here still starts.
    cluster.allow("cached", 4);
    cluster.update("cached", &json!({ "instances": 4 }))?;
    let now = cluster.wait_running("cached", 4, PATIENCE)?;
    ensure!(n_same(&before, &now) == 2, "{now:?}");
    signal(cluster, "CONT")?;
    cluster.wait_running("hang", 1, 4 * PATIENCE)?;
    // The manifest of each image names its config: a blob of its own, because the environment differs.
    let mut told = Vec::new();
    for (tag, damage, complaint) in [
        (
            "short",
            "head -c $(($(stat -c %s $f) - 7)) /data/kept > $f",
            "wrong size",
        ),
        (
            "lie",
            "printf X | dd of=$f bs=1 seek=9 conv=notrunc 2>/dev/null",
            "wrong digest",
        ),
    ] {
        let script = format!(
            "f=$(grep -rl 'OF={tag}' /data/registry/docker/registry/v2/blobs | head -n 1); test -n \"$f\"
            echo $f > /data/victim; cp $f /data/kept; {damage}; sync"
        );
        cluster.guest(MASTER).sh(&script)?;
        cluster.deploy(&image(tag))?;
        let why = cluster.until("a failure that says why", 2 * PATIENCE, |cluster| {
            let told = cluster
                .rest("GET", &format!("/v2/apps/{tag}"), "")?
                .ok()?
                .json;
            let message = told["app"]["lastTaskFailure"]["message"].as_str();
            message.map(str::to_owned).context("no failure yet")
        })?;
        ensure!(why.contains(complaint), "not for {complaint}: {why}");
        ensure!(cluster.running(tag).is_empty(), "{tag} runs");
        told.push(format!("{tag}: {why}"));
        cluster
            .guest(MASTER)
            .sh("cp /data/kept $(cat /data/victim)")?;
        cluster.wait_running(tag, 1, 4 * PATIENCE)?;
    }
    for id in ["cached", "hang", "short", "lie"] {
        cluster.remove(id)?;
    }
    println!("{}", told.join("\n"));
    Ok("cached images start, each failure says why and heals".to_owned())
}

fn image(name: &str) -> Value {
    let mut app = app(name, 1);
    app["container"]["docker"]["image"] = json!(format!("{REGISTRY}/{name}:1"));
    app
}
