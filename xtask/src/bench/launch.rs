//! `cargo xtask bench launch`: 20 more containers on one node, from the request to the last TASK_RUNNING, beside crun
//! starting as many in a shell loop.
//!
//! The two alternate, so that what else the machine does falls on both. The result is `target/bench/launch.json`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mezzo_integration::cluster::{Cluster, Options, PATIENCE, sleep_app};
use mezzo_integration::registry::Registry;
use mezzo_integration::{images, paths, wait};
use serde_json::{Value, json};

use crate::crun::Crun;
use crate::setup::{self, Need};
use crate::{Bench, BenchArgs, cargo, table};

const MORE: u32 = 20;

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match args.what {
        Bench::Launch => launch(if args.quick { 3 } else { 15 }),
    }
}

fn launch(rounds: u32) -> Result<()> {
    println!("{}", setup::ensure(&[Need::Build, Need::Cluster])?);
    let target = paths::target()?;
    let dir = target.join("bench/launch");
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
    let crun = Crun::prepare(&dir, &sleep);
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
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    report(&target.join("bench/launch.json"), &ours, &theirs)
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

fn report(file: &Path, ours: &[Duration], theirs: &[Duration]) -> Result<()> {
    let row = row(ours, theirs);
    fs::write(file, format!("{:#}\n", json!([row])))
        .with_context(|| format!("write {}", file.display()))?;
    let cells = ["case", "ours", "peer_value", "ratio", "min", "max", "runs"];
    let text = cells
        .iter()
        .map(|name| row[name].to_string().trim_matches('"').to_owned())
        .collect();
    println!(
        "\n{}written to {}",
        table::render(&cells, &[text], &[1, 2, 3, 4, 5, 6]),
        file.display()
    );
    Ok(())
}

/// One row of the format that all benchmarks share: medians, in milliseconds.
fn row(ours: &[Duration], theirs: &[Duration]) -> Value {
    let ms = |time: &Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
    let median = |times: &[Duration]| {
        let mut sorted = times.to_vec();
        sorted.sort();
        sorted.get(sorted.len() / 2).map(ms)
    };
    let (mine, peer) = (median(ours), median(theirs));
    let ratio = mine
        .zip(peer)
        .map(|(mine, peer)| (mine / peer * 1000.0).round() / 1000.0);
    json!({
        "case": format!("scale by {MORE} on one node, image cached"), "unit": "ms", "ours": mine,
        "peer": peer.map(|_| "crun run --detach in a shell loop"), "peer_value": peer, "ratio": ratio,
        "floor": null, "runs": ours.len(), "min": ours.iter().min().map(ms), "max": ours.iter().max().map(ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_medians_and_their_ratio() {
        let times = |all: &[u64]| {
            all.iter()
                .map(|&ms| Duration::from_millis(ms))
                .collect::<Vec<_>>()
        };
        let row = row(&times(&[300, 100, 200]), &times(&[400, 800, 500]));
        assert_eq!(row["ours"], 200.0);
        assert_eq!(row["peer_value"], 500.0);
        assert_eq!(row["ratio"], 0.4);
        assert_eq!(
            (&row["min"], &row["max"], &row["runs"]),
            (&json!(100.0), &json!(300.0), &json!(3))
        );
        assert_eq!(super::row(&times(&[5]), &[])["peer"], Value::Null);
    }
}
