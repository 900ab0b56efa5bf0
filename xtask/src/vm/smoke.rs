//! `cargo xtask vm smoke`: is this a cluster? Three machines, one app, one pulled power cord.

use anyhow::{Context, Result, ensure};
use mezzo_integration::cluster::sleep_app;
use mezzo_integration::vm::Bench;
use mezzo_integration::vm::cluster::{Cluster, Machine, PATIENCE, Plan, REGISTRY};

use super::programs;
use crate::steps::Steps;

/// Runs the command.
pub(super) fn run(bench: &Bench, steps: &mut Steps) -> Result<()> {
    let programs = programs(steps)?;
    let mut cluster = None;
    steps.run("boot three machines", || {
        let booted = Cluster::boot(bench, Plan::new("smoke", 2), &programs)?;
        let agents = cluster.insert(booted).agents()?;
        Ok(format!("{} agents connected", agents.len()))
    })?;
    let mut cluster = cluster.context("the cluster was not booted")?;
    let played = play(steps, &mut cluster);
    if played.is_err() {
        cluster.keep_logs();
    }
    played
}

fn play(steps: &mut Steps, cluster: &mut Cluster) -> Result<()> {
    let victim = Machine::agent(1);
    steps.run("deploy sleep", || {
        cluster.deploy(&sleep_app("sleep", &format!("{REGISTRY}/sleep:1"), 4))?;
        let running = cluster.wait_running("sleep", 4, PATIENCE)?;
        let mut machines: Vec<&str> = running.iter().map(|one| one.machine.as_str()).collect();
        machines.dedup();
        Ok(format!("4 tasks on {}", machines.join(", ")))
    })?;
    steps.run("pull the power of agent-1: its tasks run elsewhere", || {
        cluster.pull_power(victim)?;
        let running = cluster.wait_running("sleep", 4, 4 * PATIENCE)?;
        let elsewhere = running.iter().all(|one| one.machine == "agent-2");
        ensure!(elsewhere, "they run as {running:?}");
        Ok("4 tasks on agent-2".to_owned())
    })?;
    steps.run("switch it on again", || {
        cluster.power_on(victim)?;
        cluster.wait_agents(2)?;
        cluster.wait_running("sleep", 4, PATIENCE)?;
        Ok("2 agents connected, still 4 tasks".to_owned())
    })?;
    steps.run("remove", || cluster.remove("sleep").map(|()| String::new()))?;
    steps.run("the history keeps the rules", || {
        Ok(cluster.check()?.to_string())
    })
}
