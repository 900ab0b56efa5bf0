//! `cargo xtask vm faults`: what a cluster must survive, on three machines, each fault followed by a look at the whole
//! history. The scenarios share the machines; every one brings an app of its own and leaves the cluster as it was.
//!
//! One file per kind of fault; each scenario is a name and a function that reads like a script.

mod disk;
mod link;
mod power;
mod process;
mod registry;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mezzo_integration::cluster::sleep_app;
use mezzo_integration::history::Seen;
use mezzo_integration::interrupt;
use mezzo_integration::vm::Bench;
use mezzo_integration::vm::cluster::{Cluster, Machine, PATIENCE, Plan, REGISTRY};
use serde_json::Value;

use super::programs;
use crate::runner::Counts;
use crate::steps::Steps;

/// How long an agent may be away before its tasks count as unreachable: the masters' default.
const AGENT_TIMEOUT: Duration = Duration::from_secs(15);
/// A master notices a broken stream at once, a silent one only after this.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// One fault.
struct Scenario {
    /// As it stands in the table.
    name: &'static str,
    /// Also in the runs of CI.
    sampled: bool,
    run: fn(&mut Cluster) -> Result<String>,
}

fn scenarios() -> Vec<Scenario> {
    [
        power::scenarios(),
        link::scenarios(),
        process::scenarios(),
        disk::scenarios(),
        registry::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Which of them to run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Choice<'a> {
    /// Those whose names contain this.
    Named(&'a str),
    /// Those of CI.
    Sampled,
    /// All.
    All,
}

/// Runs the scenarios on one cluster; a broken one does not keep the others from running.
pub(super) fn run(bench: &Bench, steps: &mut Steps, choice: Choice<'_>) -> Result<Counts> {
    let mut chosen = scenarios();
    chosen.retain(|scenario| match choice {
        Choice::Named(part) => scenario.name.contains(part),
        Choice::Sampled => scenario.sampled,
        Choice::All => true,
    });
    ensure!(!chosen.is_empty(), "no fault has a name like that");
    let programs = programs(steps)?;
    let mut cluster = None;
    let mut boot = |steps: &mut Steps| {
        steps.run("boot three machines", || {
            let booted = Cluster::boot(bench, Plan::new("faults", 2), &programs)?;
            cluster = Some(booted);
            Ok("2 agents connected".to_owned())
        })?;
        cluster.take().context("the cluster was not booted")
    };
    let mut machines = boot(steps)?;
    let mut counts = Counts::default();
    for (n, scenario) in chosen.iter().enumerate() {
        if interrupt::requested() {
            bail!("interrupted");
        }
        let done = steps.run(scenario.name, || {
            let told = (scenario.run)(&mut machines)?;
            let checked = machines.check()?;
            Ok(format!("{told}; {checked}"))
        });
        counts.passed += usize::from(done.is_ok());
        if let Err(error) = done {
            println!("{error:#}");
            counts.failed += 1;
            machines.keep_logs();
            // What a broken scenario leaves behind is no ground for the next.
            if n + 1 < chosen.len() {
                drop(machines);
                machines = boot(steps)?;
            }
        }
    }
    Ok(counts)
}

fn app(id: &str, instances: u32) -> Value {
    sleep_app(id, &format!("{REGISTRY}/sleep:1"), instances)
}

/// Deploys and waits.
fn deployed(cluster: &mut Cluster, app: &Value) -> Result<Vec<Seen>> {
    cluster.deploy(app)?;
    let (id, instances) = (app["id"].as_str(), app["instances"].as_u64());
    let (id, instances) = (id.context("an id")?, instances.context("instances")?);
    cluster.wait_running(id, usize::try_from(instances)?, PATIENCE)
}

/// The identities of tasks: none of them can come back once it is gone.
fn identities(seen: &[Seen]) -> BTreeSet<&Seen> {
    seen.iter().collect()
}

/// So many of them are the same processes as before.
fn n_same(before: &[Seen], after: &[Seen]) -> usize {
    identities(before).intersection(&identities(after)).count()
}

/// A machine that runs some of them, and the other: whoever was offered first may have got all of an app.
fn pick(seen: &[Seen]) -> (Machine, Machine) {
    let (first, second) = (Machine::agent(1), Machine::agent(2));
    match on(seen, first) {
        0 => (second, first),
        _ => (first, second),
    }
}

fn on(seen: &[Seen], machine: Machine) -> usize {
    seen.iter()
        .filter(|one| one.machine == machine.name())
        .count()
}

/// Waits until all tasks run on one machine, which they must do within the time that the masters wait for an agent.
/// Returns how long it took.
fn moved(cluster: &mut Cluster, id: &str, count: usize, to: Machine) -> Result<Duration> {
    let start = Instant::now();
    let running = cluster.wait_running(id, count, AGENT_TIMEOUT + PING_TIMEOUT + PATIENCE)?;
    let took = start.elapsed();
    ensure!(
        on(&running, to) == count,
        "not all of them are on {}: {running:?}",
        to.name()
    );
    Ok(took)
}
