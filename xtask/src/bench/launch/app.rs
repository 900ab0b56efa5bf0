//! The case `app`: 20 more containers on one node, from the request to the last TASK_RUNNING, beside crun starting as
//! many in a shell loop. The two alternate, so that what else the machine does falls on both.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mezzo_integration::cluster::{Cluster, Options, PATIENCE, sleep_app};
use mezzo_integration::registry::Registry;
use mezzo_integration::{images, paths, wait};
use serde_json::json;

use crate::bench::report::{Row, millis};
use crate::cargo;
use crate::crun::Crun;
use crate::setup::{self, Need};

const MORE: u32 = 20;

/// Runs the rounds in `dir`.
pub(super) fn run(dir: &Path, rounds: u32) -> Result<Row> {
    println!("{}", setup::ensure(&[Need::Build, Need::Cluster])?);
    let target = paths::target()?;
    cargo::run(&["build", "--release", "--package", "mezzo"])?;
    let sleep = images::build_sleep()?;
    let mezzo = target.join("release/mezzo");
    let registry = Registry::start(&dir.join("registry"))?;
    images::pack_and_push(&mezzo, &sleep, &registry, "1")?;
    let options = Options {
        mezzo,
        dir: dir.join("cluster"),
        registry: registry.address().to_owned(),
        resources: None,
    };
    let mut cluster = Cluster::start(options)?;
    let mut app = sleep_app("bench", &registry.reference("sleep:1"), 1);
    app["cpus"] = json!(0.02);
    cluster.deploy(&app)?;
    cluster.wait_running("bench", 1)?;
    let crun = Crun::prepare(dir, &sleep);
    if let Err(error) = &crun {
        println!("no peer: {error:#}");
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        ours.push(scale(&cluster)?);
        if let Ok(crun) = &crun {
            theirs.push(crun.start(MORE)?);
        }
        println!(
            "round {round}: ours {:?}, crun {:?}",
            ours.last(),
            theirs.last()
        );
    }
    cluster.stop()?;
    drop(registry);
    Ok(row(&ours, &theirs))
}

/// From 1 to 1 + MORE, timed, and back.
fn scale(cluster: &Cluster) -> Result<Duration> {
    let wanted = 1 + MORE as usize;
    let rest = cluster.rest();
    let start = Instant::now();
    cluster.update("bench", &json!({ "instances": wanted }))?;
    wait::until("all to run", PATIENCE, || {
        let running = rest.get("/v2/apps/bench")?.ok()?.json["app"]["tasksRunning"].as_u64();
        if running == Some(wanted as u64) {
            Ok(())
        } else {
            bail!("{running:?} run")
        }
    })?;
    let took = start.elapsed();
    cluster.wait_running("bench", wanted)?;
    cluster.update("bench", &json!({ "instances": 1 }))?;
    cluster.wait_running("bench", 1)?;
    Ok(took)
}

fn row(ours: &[Duration], theirs: &[Duration]) -> Row {
    Row {
        case: format!("scale by {MORE} on one node, image cached"),
        unit: "ms",
        ours: ours.iter().map(millis).collect(),
        peer: "crun run --detach in a shell loop".to_owned(),
        peer_values: theirs.iter().map(millis).collect(),
        floor: Vec::new(),
    }
}
