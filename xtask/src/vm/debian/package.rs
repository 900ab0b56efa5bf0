//! The life of an installation: a package is installed, 50 tasks run, the agent restarts, the package is upgraded,
//! all is removed. The tasks are the same processes until the last.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mezzo_integration::vm::{Guest, GuestSpec, Run};
use mezzo_integration::{images, registry, wait};
use serde_json::{Value, json};

use super::Scratch;
use crate::steps::Steps;

const REGISTRY: &str = "127.0.0.1:5000";
const N_TASKS: usize = 50;
/// At full speed; stretched.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first starts may come before the master's.
const MAX_RESTARTS: u32 = 3;
pub(super) const OLD: &str = "/root/mezzo.deb";
const NEW: &str = "/root/mezzo-upgrade.deb";
const SERVERS: [&str; 3] = ["mezzo-master", "mezzo-scheduler", "mezzo-agent"];
/// Each with its start time: a process id alone may be used again.
const PROCESSES: &str =
    "grep -lz '^MARATHON_APP_ID=/sleep$' /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 |
    while read pid; do echo $pid $(cut -d' ' -f22 /proc/$pid/stat); done";
/// What a removal must not leave. The bench's own program is in `/run`.
const LEFT: &str =
    "ls -l /proc/[0-9]*/exe 2>/dev/null | grep mezzo | grep -v /run/mezzo-guest || true
    find /sys/fs/cgroup -type d -name '*mezzo*' ! -path '*/mezzo-guest.service*'
    grep -E 'overlay|/mezzo/' /proc/mounts || true
    ls -d /usr/bin/mezzo /etc/mezzo /var/lib/mezzo 2>/dev/null || true";

/// What the guest gets: the packages, a registry, and something to deploy.
pub(super) fn fill(
    spec: &mut GuestSpec,
    scratch: &Scratch,
    deb: &Path,
    upgrade: &Path,
) -> Result<()> {
    // The agent leaves 512 MB to the machine.
    spec.memory_mb = 2048;
    spec.with(deb, OLD).with(upgrade, NEW);
    spec.with_program(&registry::find_binary()?, "/usr/local/bin/docker-registry")?;
    spec.with(&images::build_sleep()?, "/usr/local/lib/sleep");
    let config = json!({
        "version": 0.1, "log": { "level": "warn", "accesslog": { "disabled": true } },
        "storage": { "filesystem": { "rootdirectory": "/srv/registry" } }, "http": { "addr": REGISTRY },
    });
    let app = json!({
        "id": "sleep", "cpus": 0.02, "mem": 16, "instances": N_TASKS,
        "container": { "type": "MESOS", "docker": { "image": format!("{REGISTRY}/sleep:1") } },
    });
    for (name, content, path) in [
        ("registry.yml", config, "/etc/registry.yml"),
        ("app.json", app, "/root/app.json"),
    ] {
        let file = scratch.0.join(name);
        fs::write(&file, content.to_string())
            .with_context(|| format!("write {}", file.display()))?;
        spec.with(&file, path);
    }
    Ok(())
}

/// All of it; the table tells what each step took.
pub(super) fn play(steps: &mut Steps, guest: &Guest) -> Result<()> {
    steps.run("install the package: nothing starts", || install(guest))?;
    steps.run("start a registry, pack and push", || push(guest))?;
    steps.run("start master, scheduler and agent", || start(guest))?;
    let mut before = BTreeSet::new();
    steps.run("deploy 50 tasks", || {
        patient(guest, "mezzo app add /root/app.json --wait")?;
        before = processes(guest)?;
        ensure!(before.len() == N_TASKS, "{} processes", before.len());
        let units = guest.sh("systemctl show -P MemoryCurrent mezzo-agent mezzo-tasks | xargs")?;
        Ok(format!("memory of agent and of tasks: {}", units.trim()))
    })?;
    steps.run("restart the agent: the same processes", || {
        restart(guest, "systemctl restart mezzo-agent", &["mezzo-agent"])?;
        same(guest, &before)
    })?;
    steps.run("reload the servers: the same processes", || reload(guest))?;
    steps.run("upgrade the package: the same processes", || {
        restart(guest, &format!("dpkg -i {NEW}"), &SERVERS)?;
        same(guest, &before)
    })?;
    steps.run("remove the package: nothing is left", || remove(guest))
}

fn reload(guest: &Guest) -> Result<String> {
    let mut told = Vec::new();
    for unit in SERVERS {
        let main = || {
            guest.sh(&format!(
                "systemctl show -P MainPID,NRestarts {unit} | xargs"
            ))
        };
        let before = main()?;
        guest.sh(&format!(
            "systemctl reload {unit} && systemctl is-active {unit}"
        ))?;
        // It says so, so it took the signal and did not die of it.
        patient(
            guest,
            &format!("until journalctl -u {unit} | grep -q 'to read again'; do sleep 0.1; done"),
        )?;
        let after = main()?;
        ensure!(
            before == after,
            "{unit}: process and restarts: {before}, then {after}"
        );
        told.push(after.trim().to_owned());
    }
    Ok(format!("processes {}", told.join(", ")))
}

/// A command that may take as long as anything here.
pub(super) fn patient(guest: &Guest, script: &str) -> Result<String> {
    let run = Run::new(&["/bin/sh", "-ec", script]).within(PATIENCE);
    guest.run(&run)?.ok()
}

fn install(guest: &Guest) -> Result<String> {
    patient(
        guest,
        &format!("DEBIAN_FRONTEND=noninteractive dpkg -i {OLD}"),
    )?;
    for unit in SERVERS {
        let state = guest.sh(&format!(
            "systemctl is-enabled {unit} || true; systemctl is-active {unit} || true"
        ))?;
        ensure!(state == "disabled\ninactive\n", "{unit} is {state:?}");
    }
    Ok(guest.sh("mezzo --version")?.trim().to_owned())
}

fn push(guest: &Guest) -> Result<String> {
    guest.sh(
        "systemd-run --quiet --unit registry -E OTEL_TRACES_EXPORTER=none \
         docker-registry serve /etc/registry.yml",
    )?;
    let pack = format!(
        "mezzo image pack /usr/local/lib/sleep -t {REGISTRY}/sleep:1 --push --insecure-registry {REGISTRY}"
    );
    wait::until("the registry", guest.limit(PATIENCE), || {
        patient(guest, &pack)
    })?;
    Ok(String::new())
}

fn start(guest: &Guest) -> Result<String> {
    // An operator would edit the file.
    guest.sh(&format!(
        "echo 'insecure_registries = [\"{REGISTRY}\"]' >> /etc/mezzo/agent.toml"
    ))?;
    patient(guest, &format!("systemctl start {}", SERVERS.join(" ")))?;
    connected(guest)?;
    Ok(guest
        .sh("mezzo node list")?
        .lines()
        .last()
        .unwrap_or_default()
        .trim()
        .to_owned())
}

/// The agent is known to the master. One that systemd starts over and over never will be.
fn connected(guest: &Guest) -> Result<()> {
    let gave_up = wait::until("a connected node", guest.limit(PATIENCE), || {
        let restarts = guest.sh("systemctl show -P NRestarts mezzo-agent")?;
        if restarts.trim().parse::<u32>().context("restarts")? > MAX_RESTARTS {
            return Ok(Some(
                guest.sh("journalctl -u mezzo-agent -n 8 -o cat --no-pager")?,
            ));
        }
        let nodes = guest.sh("mezzo node list -o json")?;
        ensure!(
            nodes.contains("\"connected\""),
            "no node is connected: {nodes}"
        );
        Ok(None)
    })?;
    match gave_up {
        Some(told) => bail!("the agent does not stay up: {}", told.replace('\n', " | ")),
        None => Ok(()),
    }
}

fn main_pids(guest: &Guest, units: &[&str]) -> Result<Vec<String>> {
    let told = guest.sh(&format!("systemctl show -P MainPID {}", units.join(" ")))?;
    let pids = told
        .split_whitespace()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    ensure!(
        pids.len() == units.len(),
        "main processes of {units:?}: {told}"
    );
    Ok(pids)
}

/// Does what restarts these units, and waits until they work again.
fn restart(guest: &Guest, script: &str, units: &[&str]) -> Result<()> {
    let before = main_pids(guest, units)?;
    patient(guest, script)?;
    for (unit, (old, new)) in units
        .iter()
        .zip(before.iter().zip(main_pids(guest, units)?))
    {
        ensure!(*old != new, "{unit} is still process {old}");
    }
    connected(guest)
}

fn processes(guest: &Guest) -> Result<BTreeSet<String>> {
    let told = guest.sh(PROCESSES)?;
    Ok(told.lines().map(str::to_owned).collect())
}

/// The processes of before are all there is, and mezzo knows them.
fn same(guest: &Guest, before: &BTreeSet<String>) -> Result<String> {
    let now = processes(guest)?;
    let gone = before.difference(&now).count();
    let new = now.difference(before).count();
    ensure!(gone + new == 0, "{gone} processes are gone, {new} are new");
    wait::until("50 running tasks", guest.limit(PATIENCE), || {
        let told = guest.sh("mezzo task list -o json")?;
        let tasks: Value = serde_json::from_str(&told).context("the list of tasks")?;
        let running = tasks.as_array().context("the list of tasks")?.iter();
        let running = running
            .filter(|task| task["state"] == "TASK_RUNNING")
            .count();
        ensure!(running == N_TASKS, "{running} tasks run");
        Ok(())
    })?;
    // And they stay: the agent has not killed one as unknown.
    ensure!(
        processes(guest)? == *before,
        "the processes changed afterwards"
    );
    Ok(format!("{N_TASKS} of {N_TASKS}"))
}

fn remove(guest: &Guest) -> Result<String> {
    patient(guest, "dpkg --purge mezzo")?;
    // dpkg returns when all has been told to end; cgroups and mounts go a moment later.
    wait::until("the end of the tasks", guest.limit(PATIENCE / 10), || {
        let left = guest.sh(LEFT)?;
        let tasks = processes(guest)?.len();
        if tasks > 0 || !left.trim().is_empty() {
            bail!("{tasks} tasks; {}", left.trim().replace('\n', ", "));
        }
        Ok(())
    })?;
    Ok("no process, no cgroup, no mount, no file".to_owned())
}
