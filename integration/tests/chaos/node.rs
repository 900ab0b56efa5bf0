//! The processes of a node, read from `/proc`: whom to hit, and what may have leaked.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mezzo_integration::cluster::{Cluster, Server};
use mezzo_integration::{containers, leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Dice;

/// Descriptors that a server may have more than before its first task: connections, and files it keeps open for good.
const MORE_DESCRIPTORS: usize = 12;

/// What an agent may hold: its state, and what the allocator keeps. Far below what a leak per task would come to.
const MOST_MEMORY_KIB: u64 = 160 * 1024;

/// What a node holds while nothing runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    agent_descriptors: usize,
    launcher_descriptors: usize,
    agent_kib: u64,
    launcher_kib: u64,
    n_keepers: usize,
    n_containers: usize,
    n_cgroups: usize,
    n_mounts: usize,
    /// Of this network namespace, but for loopback and the bridge, which is made when it is first needed.
    n_links: usize,
    /// Addresses that somebody has.
    n_leases: usize,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "agent {} descriptors, {} KiB; launcher {} descriptors, {} KiB; {} keepers, {} containers, {} cgroups, {} mounts, {} links, {} addresses",
            self.agent_descriptors,
            self.agent_kib,
            self.launcher_descriptors,
            self.launcher_kib,
            self.n_keepers,
            self.n_containers,
            self.n_cgroups,
            self.n_mounts,
            self.n_links,
            self.n_leases
        )
    }
}

impl Node {
    /// Looks.
    pub(crate) fn look(cluster: &Cluster) -> Result<Self> {
        let agent = cluster.server_pid(Server::Agent)?;
        let launcher = launcher(cluster).context("there is no launcher")?;
        let parent = leftovers::cluster_cgroup(cluster.dir());
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        let dir = cluster.dir().display().to_string();
        Ok(Self {
            agent_descriptors: descriptors(agent)?,
            launcher_descriptors: descriptors(launcher)?,
            agent_kib: pss_kib(agent)?,
            launcher_kib: pss_kib(launcher)?,
            n_keepers: keepers(cluster).len(),
            n_containers: containers::running(&parent).len(),
            n_cgroups: cgroups(&parent),
            n_mounts: mounts.lines().filter(|line| line.contains(&dir)).count(),
            n_links: links()?,
            n_leases: leases(cluster)?,
        })
    }

    /// An error if there is more than before.
    pub(crate) fn check_against(&self, before: &Self) -> Result<()> {
        ensure!(self.n_containers == 0, "{self}: containers are left");
        ensure!(self.n_keepers == 0, "{self}: keepers are left");
        ensure!(
            self.n_cgroups <= before.n_cgroups,
            "{self}: cgroups are left; before: {before}"
        );
        ensure!(
            self.n_mounts == before.n_mounts,
            "{self}: mounts are left; before: {before}"
        );
        ensure!(
            self.n_links == before.n_links && self.n_leases == 0,
            "{self}: links or addresses are left; before: {before}"
        );
        ensure!(
            self.agent_descriptors <= before.agent_descriptors + MORE_DESCRIPTORS,
            "{self}: the agent's descriptors grew; before: {before}"
        );
        ensure!(
            self.launcher_descriptors <= before.launcher_descriptors,
            "{self}: the launcher's descriptors grew; before: {before}"
        );
        ensure!(
            self.agent_kib + self.launcher_kib <= MOST_MEMORY_KIB,
            "{self}: agent and launcher hold more than {MOST_MEMORY_KIB} KiB"
        );
        Ok(())
    }
}

/// Kills the agent's launcher; how many that were.
pub(crate) fn kill_launcher(cluster: &Cluster) -> usize {
    launcher(cluster).map_or(0, strike)
}

/// Kills one keeper of this cluster; how many that were.
pub(crate) fn kill_a_keeper(cluster: &Cluster, dice: &mut Dice) -> usize {
    let found = keepers(cluster);
    match found.len() as u64 {
        0 => 0,
        count => strike(found[dice.roll(count) as usize]),
    }
}

fn strike(pid: i32) -> usize {
    usize::from(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok())
}

/// The child of the agent that was executed as a launcher.
fn launcher(cluster: &Cluster) -> Option<i32> {
    let agent = cluster.server_pid(Server::Agent).ok()?;
    pids().find(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.starts_with(b"mezzo-launcher\0") && parent_of(&stat) == Some(agent)
    })
}

/// Field 4 of /proc/PID/stat; the name in field 2 may hold anything.
fn parent_of(stat: &str) -> Option<i32> {
    let rest = &stat[stat.rfind(')')? + 1..];
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Processes that call themselves keepers, in the cluster's own cgroup for them.
fn keepers(cluster: &Cluster) -> Vec<i32> {
    let group = format!("{}/keepers", leftovers::cluster_cgroup(cluster.dir()));
    pids()
        .filter(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim_end() == "mezzo-keeper"
                && containers::cgroup_of(*pid).is_ok_and(|found| found == group)
        })
        .collect()
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn descriptors(pid: i32) -> Result<usize> {
    let dir = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&dir)
        .with_context(|| format!("list {dir}"))?
        .count())
}

fn links() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/net/dev").context("read the links")?;
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    Ok(names
        .filter(|(name, _)| !["lo", "mezzo0"].contains(&name.trim()))
        .count())
}

fn leases(cluster: &Cluster) -> Result<usize> {
    let dir = cluster.dir().join("agent/runtime/network/leases");
    match fs::read_dir(&dir) {
        Ok(entries) => Ok(entries.count()),
        // Before the first task with a network of its own.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("list {}", dir.display())),
    }
}

fn pss_kib(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} tells no PSS"))
}

/// How many there are of this cluster's containers, in all hierarchies.
fn cgroups(parent: &str) -> usize {
    let entries = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    let mut roots: Vec<_> = entries.map(|entry| entry.path()).collect();
    roots.push("/sys/fs/cgroup".into());
    let inside = format!("{}/containers", parent.trim_start_matches('/'));
    roots
        .iter()
        .map(|root| folders_in(&root.join(&inside)))
        .sum()
}

fn folders_in(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .count()
}
