//! The case `idle`: what a whole cluster of one node uses while 1,000 containers sleep and nothing is asked of it. The
//! agent goes on sampling their usage, as it always does.
//!
//! CPU time is what the kernel accounts to each server's process, its threads included, in ticks of 10 ms: hence long
//! windows.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mezzo_integration::cluster::{Cluster, Options, Server, sleep_app};
use mezzo_integration::registry::Registry;
use mezzo_integration::{images, interrupt, paths, wait};
use serde_json::json;

use crate::bench::report::Row;
use crate::cargo;
use crate::setup::{self, Need};

const APP: &str = "idle";

/// For all to run, and for all to be gone.
const PATIENCE: Duration = Duration::from_secs(900);

/// How long everything may calm down before the first window.
const CALM: Duration = Duration::from_secs(15);

/// Ticks of /proc/PID/stat in a second: 100 on every machine that Linux tells them on.
const TICKS: f64 = 100.0;

/// Runs it in `dir`.
pub(super) fn run(dir: &Path, quick: bool) -> Result<Vec<Row>> {
    println!("{}", setup::ensure(&[Need::Build, Need::Cluster])?);
    let (count, n_windows, window) = if quick {
        (100, 1, Duration::from_secs(10))
    } else {
        (1000, 3, Duration::from_secs(30))
    };
    cargo::run(&["build", "--release", "--package", "mezzo"])?;
    let mezzo = paths::target()?.join("release/mezzo");
    let registry = Registry::start(&dir.join("registry"))?;
    images::pack_and_push(&mezzo, &images::build_sleep()?, &registry, "1")?;
    let mut cluster = Cluster::start(Options {
        mezzo,
        dir: dir.join("cluster"),
        registry: registry.address().to_owned(),
        // Sleepers need nothing: what is promised here is never used.
        resources: Some("cpus:64;mem:65536;disk:100000;ports:[31000-33000]".to_owned()),
    })?;
    let mut app = sleep_app(APP, &registry.reference("sleep:1"), count);
    app["cpus"] = json!(0.01);
    println!("\n{count} idle containers: the cluster at rest");
    cluster.deploy(&app)?;
    let begun = Instant::now();
    wait::until("all to run", PATIENCE, || {
        let running = cluster.app(APP)?["tasksRunning"].as_u64();
        thread::sleep(Duration::from_millis(200));
        ensure!(running == Some(u64::from(count)), "{running:?} run");
        Ok(())
    })?;
    println!("  all run after {:.1} s", begun.elapsed().as_secs_f64());
    rest(CALM)?;
    let mut used: Vec<Vec<f64>> = vec![Vec::new(); Server::ALL.len()];
    for _ in 0..n_windows {
        let before = ticks_of_all(&cluster)?;
        let begun = Instant::now();
        rest(window)?;
        let (took, after) = (begun.elapsed().as_secs_f64(), ticks_of_all(&cluster)?);
        let servers = used.iter_mut().zip(before).zip(after);
        for ((values, before), after) in servers {
            values.push((after - before) / TICKS / took * 100.0);
        }
    }
    let running = cluster.containers(APP).len();
    ensure!(running == count as usize, "only {running} still run");
    let memory = pss_mb(cluster.server_pid(Server::Agent)?)?;
    take_down(&mut cluster)?;
    let row = |case: String, unit, ours| Row {
        case,
        unit,
        ours,
        peer: String::new(),
        peer_values: Vec::new(),
        floor: Vec::new(),
    };
    let mut rows: Vec<Row> = Server::ALL
        .iter()
        .zip(used)
        .map(|(server, values)| {
            let name = server.name();
            row(
                format!("{name} at rest, {count} containers"),
                "% of a core",
                values,
            )
        })
        .collect();
    rows.push(row(
        format!("agent with {count} containers, PSS"),
        "MB",
        vec![memory],
    ));
    Ok(rows)
}

/// In order and with patience: the cluster's own end has less.
fn take_down(cluster: &mut Cluster) -> Result<()> {
    cluster.rest().delete(&format!("/v2/apps/{APP}"))?.ok()?;
    wait::until("all to be gone", PATIENCE, || {
        let left = cluster.containers(APP).len();
        thread::sleep(Duration::from_millis(200));
        ensure!(left == 0, "{left} run");
        Ok(())
    })?;
    // Its folder goes with the benchmark, and with it the logs.
    cluster.stop().with_context(|| cluster.logs())
}

fn rest(time: Duration) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if interrupt::requested() {
            bail!("interrupted");
        }
        thread::sleep(Duration::from_millis(50).min(time));
    }
    Ok(())
}

fn ticks_of_all(cluster: &Cluster) -> Result<Vec<f64>> {
    Server::ALL
        .iter()
        .map(|&server| ticks(cluster.server_pid(server)?))
        .collect()
}

fn ticks(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse_ticks(&text).with_context(|| format!("{path} tells no CPU time"))
}

/// Its own time and that of its children that have ended: fields 14 to 17. The name in field 2 may hold anything.
fn parse_ticks(stat: &str) -> Option<f64> {
    let fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let numbers: Vec<f64> = fields
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse().ok())
        .collect();
    (numbers.len() == 4).then(|| numbers.iter().sum())
}

fn pss_mb(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path} tells no PSS"))? * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_the_cpu_time_behind_any_name() {
        let stat = "812 (a ) b) S 1 812 812 0 -1 4194560 1 2 3 4 50 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(parse_ticks(stat), Some(71.0));
        assert_eq!(parse_ticks("812 (x) S 1"), None);
    }
}
