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

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::bench::Bench;
use super::guest::Guest;
use super::net::{self, Network};
use super::spec::{GuestSpec, Run};
use crate::history::{Checked, History, Look, Seen, Status};
use crate::http::{self, Answer};
use crate::interrupt;

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
    /// More lines of `master.toml`.
    pub master_settings: String,
    /// More lines of `agent.toml`.
    pub agent_settings: String,
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
            master_settings: String::new(),
            agent_settings: String::new(),
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
    slow: Duration,
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
            slow: bench.speed().stretch(PATIENCE),
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
            let settings = &self.plan.master_settings;
            let master =
                format!("listen = \"{address}:5050\"\nstate_dir = \"/data/master\"\n{settings}\n");
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
            let (resources, settings) = (&self.plan.resources, &self.plan.agent_settings);
            let agent = format!(
                "listen = \"{address}:5051\"\nmaster = \"{master}:5050\"\nstate_dir = \"/data/agent\"\n\
                hostname = \"{}\"\nresources = \"{resources}\"\ncgroup_parent = \"{CGROUP}\"\n\
                insecure_registries = [\"{REGISTRY}\"]\nretain_ended = 100000\nretain_secs = 864000\n{settings}\n",
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

    /// How slow machines are here.
    pub fn limit(&self, limit: Duration) -> Duration {
        limit.mul_f64(self.slow.as_secs_f64() / PATIENCE.as_secs_f64())
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

    // What goes wrong.

    /// Pulls the power cord of a machine.
    pub fn pull_power(&mut self, machine: Machine) -> Result<()> {
        self.guest_mut(machine).pull_power()
    }

    /// Pulls it at the very moment that something becomes true.
    pub fn pull_power_when(
        &mut self,
        machine: Machine,
        what: &str,
        within: Duration,
        mut moment: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let (limit, start) = (self.limit(within), Instant::now());
        while !moment(self) {
            if interrupt::requested() {
                bail!("interrupted while waiting for {what}");
            }
            ensure!(
                start.elapsed() < limit,
                "waited {} s for {what}",
                limit.as_secs()
            );
            thread::sleep(Duration::from_millis(1));
        }
        self.pull_power(machine)
    }

    /// Switches it on again; its servers start.
    pub fn power_on(&mut self, machine: Machine) -> Result<()> {
        self.boots[usize::from(machine.0) - 1] += 1;
        self.guest_mut(machine).power_on()?;
        self.serve(machine)
    }

    /// Cuts a machine off from all others.
    pub fn isolate(&mut self, machine: Machine) {
        self.cut_off.insert(machine);
        for other in self.machines() {
            self.network.cut(machine.0, other.0);
        }
    }

    /// Nothing from this machine arrives at the master; the way back is open.
    pub fn mute(&mut self, machine: Machine) {
        self.cut_off.insert(machine);
        let cut = net::Weather {
            cut: true,
            ..net::Weather::default()
        };
        self.network.set(machine.0, MASTER.0, cut);
    }

    /// All links are fair again. What ran on machines that were cut off counts again from the next time that
    /// [`Cluster::wait_running`] has found its app in order.
    pub fn heal(&mut self) {
        self.network.heal();
    }

    /// Stops a machine and its clock.
    pub fn freeze(&mut self, machine: Machine) -> Result<()> {
        self.guest(machine).freeze()?;
        self.cut_off.insert(machine);
        self.frozen.insert(machine);
        Ok(())
    }

    /// Lets it go on.
    pub fn thaw(&mut self, machine: Machine) -> Result<()> {
        self.guest(machine).thaw()?;
        self.frozen.remove(&machine);
        Ok(())
    }

    /// `kill -9` of a server, by its verb; it is started again.
    pub fn kill(&self, machine: Machine, server: &str) -> Result<()> {
        self.signal(machine, "KILL", &["mezzo", server])
    }

    /// A signal to the processes whose command line begins with two words; an error if there is none.
    pub fn signal(&self, machine: Machine, signal: &str, words: &[&str; 2]) -> Result<()> {
        let [program, verb] = words;
        let script = format!(
            "found=1
            for file in $(grep -lz '^{verb}$' /proc/[0-9]*/cmdline 2>/dev/null); do
                pid=${{file#/proc/}}
                case \"$(tr '\\0' ' ' < $file)\" in
                    '{program} {verb} '*) kill -{signal} ${{pid%/cmdline}} && found=0;;
                esac
            done
            exit $found"
        );
        let sent = self.guest(machine).sh(&script).map(drop);
        sent.with_context(|| format!("send {signal} to {program} {verb} on {}", machine.name()))
    }

    // What is so.

    /// Waits for a state of the cluster. Every look is also a look at all kernels, for the history.
    pub fn until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut probe: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let (limit, start) = (self.limit(within), Instant::now());
        loop {
            self.look()?;
            if interrupt::requested() {
                bail!("interrupted while waiting for {what}");
            }
            match probe(self) {
                Ok(found) => return Ok(found),
                Err(reason) if start.elapsed() >= limit => {
                    let secs = limit.as_secs();
                    return Err(reason).with_context(|| format!("waited {secs} s for {what}"));
                }
                Err(_) => thread::sleep(PACE),
            }
        }
    }

    /// Looks for as long as `during` (of this machine's clock) lasts; fails when `probe` does.
    pub fn always(
        &mut self,
        what: &str,
        during: Duration,
        mut probe: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < during {
            self.look()?;
            if interrupt::requested() {
                bail!("interrupted while watching that {what}");
            }
            probe(self).with_context(|| what.to_owned())?;
            thread::sleep(PACE);
        }
        Ok(())
    }

    /// Asks every kernel what runs.
    fn look(&mut self) -> Result<()> {
        let at = self.began.elapsed();
        let mut seen = Vec::new();
        for machine in self.machines().into_iter().skip(1) {
            if !self.guest(machine).is_on() || self.frozen.contains(&machine) {
                continue;
            }
            let boot = self.boots[usize::from(machine.0) - 1];
            let run = Run::new(&["/sbin/mezzo-guest", "running", CGROUP]).within(PATIENCE);
            let told = self.guest(machine).run(&run)?.ok()?;
            let lines = told.lines().map(|line| parse_seen(line, machine, boot));
            seen.extend(lines.collect::<Result<Vec<_>>>()?);
        }
        let cut_off = self.cut_off.iter().map(|machine| machine.name()).collect();
        self.history.looks.push(Look { at, seen, cut_off });
        Ok(())
    }

    /// What ran of an app at the latest look, on machines that are not cut off.
    pub fn running(&self, app: &str) -> Vec<Seen> {
        let app = format!("/{}", app.trim_start_matches('/'));
        let Some(look) = self.history.looks.last() else {
            return Vec::new();
        };
        let seen = look.seen.iter();
        seen.filter(|one| one.app == app && !look.cut_off.contains(&one.machine))
            .cloned()
            .collect()
    }

    /// Waits until the API and the kernels agree that exactly `count` of an app run and nothing is under way.
    pub fn wait_running(&mut self, app: &str, count: usize, within: Duration) -> Result<Vec<Seen>> {
        let path = format!("/v2/apps/{}", app.trim_start_matches('/'));
        let what = format!("{count} running tasks of {app}");
        let lonely: BTreeSet<Machine> = self.cut_off.clone();
        let found = self.until(&what, within, |cluster| {
            let told = cluster.rest("GET", &path, "")?.ok()?.json;
            let n_told = told["app"]["tasksRunning"].as_u64();
            let n_under_way = told["app"]["deployments"].as_array().map_or(0, Vec::len);
            let running = cluster.running(app);
            ensure!(
                n_told == Some(count as u64) && running.len() == count && n_under_way == 0,
                "the API tells {n_told:?} running and {n_under_way} deployments, {} run; last failure: {}",
                running.len(),
                told["app"]["lastTaskFailure"]["message"]
            );
            Ok(running)
        })?;
        // Of a machine that is reached again, everything counts from here on.
        if lonely.iter().all(|machine| self.is_connected(*machine)) {
            self.cut_off.clear();
            self.frozen.clear();
        }
        Ok(found)
    }

    /// The tasks of which the scheduler has been told the end so far.
    pub fn ended(&self) -> BTreeSet<String> {
        let heard = self.guest(MASTER).heard("scheduler");
        let told = heard.lines().filter_map(parse_told);
        told.filter(Status::is_terminal)
            .map(|status| status.task)
            .collect()
    }

    /// All apps.
    pub fn app_ids(&self) -> Result<Vec<String>> {
        let told = self.rest("GET", "/v2/apps", "")?.ok()?.json;
        let apps = told["apps"].as_array().context("no list of apps")?.iter();
        let ids = apps.filter_map(|app| app["id"].as_str().map(str::to_owned));
        Ok(ids.collect())
    }

    /// How often the kernels were looked at.
    pub fn n_looks(&self) -> usize {
        self.history.looks.len()
    }

    fn is_connected(&self, machine: Machine) -> bool {
        let agents = self.agents().unwrap_or_default();
        agents
            .iter()
            .any(|(name, state)| *name == machine.name() && state == "connected")
    }

    /// Names and states of the agents, as the master tells them.
    pub fn agents(&self) -> Result<Vec<(String, String)>> {
        let list = format!(
            "mezzo node list -o json --master {}:5050",
            net::address(MASTER.0)
        );
        let told: Value = serde_json::from_str(&self.guest(MASTER).sh(&list)?)
            .context("the list of nodes is no JSON")?;
        let nodes = told.as_array().or_else(|| told["nodes"].as_array());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let nodes = nodes.context("the list of nodes is none")?.iter();
        Ok(nodes
            .map(|node| (text(&node["hostname"]), text(&node["state"])))
            .collect())
    }

    /// Waits until so many agents are connected.
    pub fn wait_agents(&mut self, count: usize) -> Result<()> {
        self.until(&format!("{count} connected agents"), PATIENCE, |cluster| {
            let agents = cluster.agents()?;
            let n_connected = agents
                .iter()
                .filter(|(_, state)| state == "connected")
                .count();
            ensure!(n_connected == count, "the master tells {agents:?}");
            Ok(())
        })
    }

    // What was so.

    /// Waits until the witnesses have nothing more to tell, and judges the whole history.
    pub fn check(&mut self) -> Result<Checked> {
        self.until("a history that keeps the rules", PATIENCE, |cluster| {
            cluster.gather()?;
            match cluster.history.check() {
                Err(broken) if broken.may_heal => Err(broken.into()),
                judged => Ok(judged),
            }
        })?
        .map_err(Into::into)
    }

    /// Asks the scheduler's log and the agents' disks.
    fn gather(&mut self) -> Result<()> {
        let heard = self.guest(MASTER).heard("scheduler");
        self.history.told = heard.lines().filter_map(parse_told).collect();
        let mut written: BTreeMap<String, Vec<Status>> = BTreeMap::new();
        for machine in self.machines().into_iter().skip(1) {
            if !self.guest(machine).is_on() {
                continue;
            }
            let logs = "find /data/agent/tasks -name log.jsonl -exec cat {} + 2>/dev/null || true";
            let run = Run::new(&["/bin/sh", "-c", logs]).within(PATIENCE);
            let text = self.guest(machine).run(&run)?.ok()?;
            for status in text.lines().filter_map(parse_written) {
                written.entry(status.task.clone()).or_default().push(status);
            }
        }
        self.history.written = written;
        Ok(())
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

/// A line of `mezzo-guest running`.
fn parse_seen(line: &str, machine: Machine, boot: u32) -> Result<Seen> {
    let context = || format!("{}: not a running task: {line}", machine.name());
    let value: Value = serde_json::from_str(line).with_context(context)?;
    let text = |name: &str| {
        value[name]
            .as_str()
            .map(str::to_owned)
            .with_context(context)
    };
    let number = |name: &str| value[name].as_u64().with_context(context);
    Ok(Seen {
        task: text("task")?,
        app: text("app")?,
        machine: machine.name(),
        boot,
        pid: i32::try_from(number("pid")?).with_context(context)?,
        started: number("started")?,
    })
}

/// A line of the scheduler's log, if it is about a status.
fn parse_told(line: &str) -> Option<Status> {
    let value: Value = serde_json::from_str(line).ok()?;
    let fields = &value["fields"];
    let text = |name: &str| fields[name].as_str().map(str::to_owned);
    (fields["message"] == "status").then_some(())?;
    Some(Status {
        task: text("task")?,
        state: text("state")?,
        update: text("update"),
    })
}

/// A line of a task's log on an agent's disk, if it is a status.
fn parse_written(line: &str) -> Option<Status> {
    let value: Value = serde_json::from_str(line).ok()?;
    let update = &value["update"];
    let text = |name: &str| update[name].as_str().map(str::to_owned);
    Some(Status {
        task: text("task_id")?,
        state: format!("TASK_{}", text("state")?),
        update: text("update_id"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_scheduler_was_told() {
        let line = r#"{"level":"DEBUG","fields":{"message":"status","task":"t","state":"TASK_RUNNING","update":"u","text":""}}"#;
        let status = parse_told(line).expect("a status");
        assert_eq!(
            (status.task.as_str(), status.update.as_deref()),
            ("t", Some("u"))
        );
        assert_eq!(parse_told(r#"{"fields":{"message":"subscribed"}}"#), None);
        assert_eq!(parse_told("scheduler ended with 1"), None);
    }

    #[test]
    fn reads_what_an_agent_wrote() {
        let line = r#"{"update":{"task_id":"t","state":"FAILED","update_id":"u"}}"#;
        let status = parse_written(line).expect("a status");
        assert!(status.is_terminal());
        assert_eq!(parse_written(r#"{"acknowledged":"u"}"#), None);
    }

    #[test]
    fn machines_are_named_by_their_numbers() {
        let names = [MASTER, Machine::agent(1), Machine::agent(2)].map(Machine::name);
        assert_eq!(names, ["master", "agent-1", "agent-2"]);
    }
}
