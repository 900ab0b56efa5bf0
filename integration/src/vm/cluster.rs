//! A cluster of guests: machine 1 has the registry, the master and the scheduler, the others an agent each. Made to
//! read like a script: deploy, wait, pull a cord, wait, check.
//!
//! ```text
//! master 10.77.0.1 ─┐
//! agent-1 10.77.0.2 ─┼─ Network (links can be cut)        every wait looks at all kernels ──► History
//! agent-2 10.77.0.3 ─┘
//! ```
//!
//! Servers are started again a second after they end, as an init does. Their state and logs are on disks that survive
//! a power cut. [`Cluster::check`] judges what happened by the rules of [`crate::history`].

mod faults;
mod look;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::accel::Speed;
use super::bench::Bench;
use super::guest::Guest;
use super::net::{self, Network};
use super::spec::{GuestSpec, Run};
use crate::history::History;
use crate::http::{self, Answer};

/// Where the registry is, as all machines see it.
pub const REGISTRY: &str = "10.77.0.1:5000";
const SCHEDULER: &str = "127.0.0.1:8080";
/// The cgroup of all containers.
const CGROUP: &str = "/mezzo";
/// At full speed; stretched.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often the state of a cluster is looked at.
const PACE: Duration = Duration::from_millis(200);

/// Runs a command again whenever it ends, and keeps what it says.
const KEEP: &str = "#!/bin/sh
name=$1
shift
while :; do
    \"$@\" 2>&1
    echo \"$name ended with $?\"
    sleep 1
done | tee -a /data/log/$name.log
";

/// A machine, by its number in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Machine(u8);

/// Registry, master and scheduler.
pub const MASTER: Machine = Machine(1);

impl Machine {
    /// The nth agent's, from 1.
    pub const fn agent(n: u8) -> Self {
        Self(n + 1)
    }

    /// Its host name.
    pub fn name(self) -> String {
        match self.0 {
            1 => "master".to_owned(),
            n => format!("agent-{}", n - 1),
        }
    }
}

/// What is copied to every machine.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The program under test.
    pub mezzo: PathBuf,
    /// Debian's.
    pub registry: PathBuf,
    /// The program of the sleep image.
    pub sleep: PathBuf,
}

/// What to boot.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For its logs.
    pub name: String,
    /// One machine each.
    pub agents: u8,
    /// What each offers.
    pub resources: String,
    /// Thousandths of a processor in `resources`.
    pub cpu_millis: u64,
    /// Of each agent's disk.
    pub disk_mb: u64,
}

impl Plan {
    /// Agents with 4 processors and 1 GiB to offer.
    pub fn new(name: &str, agents: u8) -> Self {
        Self {
            name: name.to_owned(),
            agents,
            resources: "cpus:4;mem:1024;disk:1000;ports:[31000-31100]".to_owned(),
            cpu_millis: 4_000,
            disk_mb: 1024,
        }
    }
}

/// A running cluster; everything of it ends on drop.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    guests: Vec<Guest>,
    /// How often each was switched on.
    boots: Vec<u32>,
    network: Network,
    history: History,
    began: Instant,
    cut_off: BTreeSet<Machine>,
    frozen: BTreeSet<Machine>,
    scratch: PathBuf,
    logs: PathBuf,
    speed: Speed,
}

impl Cluster {
    /// Boots the machines, starts the servers, pushes `sleep:1` and `sleep:2`, and waits until all agents are connected.
    pub fn boot(bench: &Bench, plan: Plan, programs: &Programs) -> Result<Self> {
        let scratch = bench
            .dir
            .join("run")
            .join(format!("{}-{}", std::process::id(), plan.name));
        fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
        let network = Network::default();
        let machines: Vec<Machine> = (1..=plan.agents + 1).map(Machine).collect();
        let mut cluster = Self {
            logs: bench.dir.join("logs").join(&plan.name),
            guests: Vec::new(),
            boots: vec![1; machines.len()],
            history: History {
                capacity_millis: plan.cpu_millis,
                ..History::default()
            },
            began: Instant::now(),
            cut_off: BTreeSet::new(),
            frozen: BTreeSet::new(),
            speed: *bench.speed(),
            plan,
            network,
            scratch,
        };
        let specs: Vec<GuestSpec> = machines
            .iter()
            .map(|machine| cluster.spec(*machine, programs))
            .collect::<Result<_>>()?;
        // All at once: each waits for its disk and its kernel most of the time.
        let booted: Vec<Result<Guest>> = thread::scope(|scope| {
            let booting: Vec<_> = specs
                .into_iter()
                .map(|spec| scope.spawn(|| Guest::boot(bench, spec)))
                .collect();
            let joined = booting.into_iter().map(|one| one.join());
            joined
                .map(|one| one.unwrap_or_else(|_| bail!("booting a guest panicked")))
                .collect()
        });
        cluster.guests = booted.into_iter().collect::<Result<_>>()?;
        cluster.bring_up().inspect_err(|_| cluster.keep_logs())?;
        Ok(cluster)
    }

    fn spec(&self, machine: Machine, programs: &Programs) -> Result<GuestSpec> {
        let mut spec = GuestSpec::new(&machine.name());
        spec.memory_mb = 768;
        spec.nic = Some(self.network.nic(machine.0));
        spec.disk_mb = Some(self.plan.disk_mb);
        spec.with_program(&programs.mezzo, "/usr/local/bin/mezzo")?;
        // Clients of registries load the system's certificates before they know whether they need them.
        let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
        if certificates.is_file() {
            spec.with_same(certificates);
        }
        let mut file = |name: &str, guest: &str, mode: u32, text: &str| -> Result<()> {
            let path = self.scratch.join(format!("{}-{name}", machine.0));
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            spec.with(&path, guest);
            if let Some(file) = spec.files.last_mut() {
                file.mode = Some(mode);
            }
            Ok(())
        };
        file("keep", "/usr/local/bin/keep", 0o755, KEEP)?;
        let address = net::address(machine.0);
        if machine == MASTER {
            let master = format!(
                "listen = \"{address}:5050\"\nstate_dir = \"/data/master\"\nallow_anonymous = true\n"
            );
            let scheduler = format!(
                "listen = \"{SCHEDULER}\"\nmaster = \"{address}:5050\"\nstate_dir = \"/data/scheduler\"\n"
            );
            let registry = format!(
                "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
                storage: {{filesystem: {{rootdirectory: /data/registry}}}}\nhttp: {{addr: \"{REGISTRY}\"}}\n"
            );
            file("master.toml", "/etc/mezzo/master.toml", 0o644, &master)?;
            file(
                "scheduler.toml",
                "/etc/mezzo/scheduler.toml",
                0o644,
                &scheduler,
            )?;
            file("registry.yml", "/etc/registry.yml", 0o644, &registry)?;
            spec.with_program(&programs.registry, "/usr/local/bin/docker-registry")?;
            spec.with(&programs.sleep, "/usr/local/lib/sleep");
        } else {
            let master = net::address(MASTER.0);
            let resources = &self.plan.resources;
            let agent = format!(
                "listen = \"{address}:5051\"\nmaster = \"{master}:5050\"\nstate_dir = \"/data/agent\"\n\
                hostname = \"{}\"\nresources = \"{resources}\"\ncgroup_parent = \"{CGROUP}\"\n\
                insecure_registries = [\"{REGISTRY}\"]\nretain_ended = 100000\nretain_secs = 864000\n",
                machine.name()
            );
            file("agent.toml", "/etc/mezzo/agent.toml", 0o644, &agent)?;
        }
        Ok(spec)
    }

    fn bring_up(&mut self) -> Result<()> {
        for machine in self.machines() {
            self.serve(machine)?;
        }
        for version in ["1", "2"] {
            let pack = format!(
                "mezzo image pack /usr/local/lib/sleep -t {REGISTRY}/sleep:{version} --env SLEEP_VERSION={version} \
                --push --insecure-registry {REGISTRY}"
            );
            self.until("the registry", PATIENCE, |cluster| {
                cluster.guest(MASTER).sh(&pack).map(drop)
            })?;
        }
        self.wait_agents(usize::from(self.plan.agents))
    }

    /// Starts the servers of a machine, which has just been switched on.
    fn serve(&mut self, machine: Machine) -> Result<()> {
        let guest = &mut self.guests[usize::from(machine.0) - 1];
        guest.sh("mkdir -p /data/log")?;
        let mut start = |name: &str, words: &[&str], log: &str| {
            let run = Run::new(&[&["/usr/local/bin/keep", name], words].concat())
                .env("MEZZO_LOG", log)
                .env("OTEL_TRACES_EXPORTER", "none");
            guest.listen(name, &run)
        };
        if machine == MASTER {
            start(
                "registry",
                &["docker-registry", "serve", "/etc/registry.yml"],
                "info",
            )?;
            start(
                "master",
                &["mezzo", "master", "--config", "/etc/mezzo/master.toml"],
                "info",
            )?;
            // What the scheduler is told, status by status, is half of the history.
            start(
                "scheduler",
                &[
                    "mezzo",
                    "scheduler",
                    "--config",
                    "/etc/mezzo/scheduler.toml",
                    "--log-format",
                    "json",
                ],
                "info,mezzo_scheduler=debug",
            )
        } else {
            start(
                "agent",
                &["mezzo", "agent", "--config", "/etc/mezzo/agent.toml"],
                "info",
            )
        }
    }

    fn machines(&self) -> Vec<Machine> {
        (1..=self.plan.agents + 1).map(Machine).collect()
    }

    /// A machine.
    pub fn guest(&self, machine: Machine) -> &Guest {
        &self.guests[usize::from(machine.0) - 1]
    }

    fn guest_mut(&mut self, machine: Machine) -> &mut Guest {
        &mut self.guests[usize::from(machine.0) - 1]
    }

    /// The links between the machines, whose numbers are the last bytes of their addresses.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A time limit, stretched by how slow machines are here.
    pub fn limit(&self, limit: Duration) -> Duration {
        self.speed.stretch(limit)
    }

    // What a person does.

    /// Asks the scheduler.
    pub fn rest(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let request = http::request(method, path, body);
        let answer = self.guest(MASTER).call(SCHEDULER, &request);
        http::parse(&answer?).with_context(|| format!("{method} {path}"))
    }

    /// POST /v2/apps, with at most its instances at once unless [`Cluster::allow`] says otherwise.
    pub fn deploy(&mut self, app: &Value) -> Result<()> {
        let id = app["id"].as_str().context("an app without an id")?;
        let id = format!("/{}", id.trim_start_matches('/'));
        let instances = app["instances"].as_u64().unwrap_or(1);
        self.allow(&id, usize::try_from(instances)?);
        let cpus = app["cpus"].as_f64().unwrap_or(1.0);
        let millis = (cpus * 1000.0).round() as u64;
        self.history.cpu_millis.insert(id, millis);
        self.rest("POST", "/v2/apps", &app.to_string())?
            .ok()
            .map(drop)
    }

    /// PUT /v2/apps/{id}: merges fields.
    pub fn update(&self, id: &str, fields: &Value) -> Result<()> {
        let path = format!("/v2/apps/{}", id.trim_start_matches('/'));
        self.rest("PUT", &path, &fields.to_string())?.ok().map(drop)
    }

    /// From now on never more than so many of an app at once.
    pub fn allow(&mut self, app: &str, most: usize) {
        let app = format!("/{}", app.trim_start_matches('/'));
        self.history.allowed.push((self.began.elapsed(), app, most));
    }

    /// Removes an app and waits until nothing of it runs.
    pub fn remove(&mut self, id: &str) -> Result<()> {
        let app = format!("/{}", id.trim_start_matches('/'));
        let path = format!("/v2/apps{app}");
        self.rest("DELETE", &path, "")?.ok()?;
        self.until(&format!("{app} to be gone"), PATIENCE, |cluster| {
            let status = cluster.rest("GET", &path, "")?.status;
            let n_left = cluster.running(&app).len();
            ensure!(
                status == 404 && n_left == 0,
                "GET answers {status}, {n_left} run"
            );
            Ok(())
        })
    }

    /// Copies the logs of all machines below `target/vm/logs`, and says where: for tests that fail.
    pub fn keep_logs(&mut self) {
        for guest in &mut self.guests {
            guest.keep_console();
            let dir = self.logs.join(guest.name());
            let Ok(()) = fs::create_dir_all(&dir) else {
                continue;
            };
            for (name, text) in guest.all_heard() {
                let _best_effort = fs::write(dir.join(format!("{name}.log")), text);
            }
        }
        eprintln!("the logs of all machines are below {}", self.logs.display());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_logs();
        }
        self.guests.clear();
        let _left_for_the_next_run = fs::remove_dir_all(&self.scratch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_named_by_their_numbers() {
        let names = [MASTER, Machine::agent(1), Machine::agent(2)].map(Machine::name);
        assert_eq!(names, ["master", "agent-1", "agent-2"]);
    }
}
