//! A live cluster: `mezzo dev` on a state folder of its own and on free ports of loopback, with clients for it.
//!
//! Deploying, scaling and looking go through REST, as any Marathon client would; what really runs is read from the
//! kernel by [`crate::containers`]. The three servers are children of `mezzo dev` and can be killed one by one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::containers::{self, Running};
use crate::http::Rest;
use crate::{leftovers, ports, process, wait};

/// For everything that needs a pull, a start, a few offers: generous, because a busy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// `mezzo dev` stops three servers in turn, and the agent its tasks, of which there may be a thousand.
const STOP_GRACE: Duration = Duration::from_secs(720);

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program.
    pub mezzo: PathBuf,
    /// State, logs; made if missing.
    pub dir: PathBuf,
    /// host:port of the registry, asked over plain HTTP.
    pub registry: String,
    /// What the agent offers; `None` is what the machine has.
    pub resources: Option<String>,
}

/// A cluster that ends, with all that it runs, on drop.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    master: String,
    agent: String,
    scheduler: String,
    ports: [u16; 3],
    dev: Option<process::Managed>,
}

/// The three servers under `mezzo dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// `mezzo master`
    Master,
    /// `mezzo agent`
    Agent,
    /// `mezzo scheduler`
    Scheduler,
}

impl Server {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Master, Self::Agent, Self::Scheduler];

    /// Its verb.
    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Agent => "agent",
            Self::Scheduler => "scheduler",
        }
    }
}

impl Cluster {
    /// Starts one and waits until its node can take tasks.
    pub fn start(options: Options) -> Result<Self> {
        fs::create_dir_all(&options.dir)
            .with_context(|| format!("create {}", options.dir.display()))?;
        let ports = [ports::free()?, ports::free()?, ports::free()?];
        let [master, agent, scheduler] = ports.map(|port| format!("127.0.0.1:{port}"));
        let mut cluster = Self {
            options,
            master,
            agent,
            scheduler,
            ports,
            dev: None,
        };
        cluster.run()?;
        Ok(cluster)
    }

    /// Starts `mezzo dev`, or starts it again on the same state and ports.
    pub fn run(&mut self) -> Result<()> {
        let mut command = self.dev_command();
        let log = self.options.dir.join("dev.log");
        self.dev = Some(process::Managed::spawn("mezzo dev", &mut command, &log)?);
        self.wait_ready()
    }

    /// The command that [`Cluster::run`] starts.
    pub fn dev_command(&self) -> Command {
        let Options {
            mezzo,
            dir,
            registry,
            resources,
        } = &self.options;
        let mut command = Command::new(mezzo);
        command.arg("dev").arg("--state-dir").arg(dir);
        for (server, port) in Server::ALL.iter().zip(self.ports) {
            command
                .arg(format!("--{}-port", server.name()))
                .arg(port.to_string());
        }
        command.args(["--insecure-registry", registry]);
        command.args(
            resources
                .iter()
                .flat_map(|resources| ["--resources", resources]),
        );
        command.env(leftovers::MARKER, dir);
        command
    }

    /// The program that runs.
    pub fn program(&self) -> &Path {
        &self.options.mezzo
    }

    /// host:port of the master.
    pub fn master(&self) -> &str {
        &self.master
    }

    /// host:port of the agent.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// host:port of the scheduler.
    pub fn scheduler(&self) -> &str {
        &self.scheduler
    }

    /// Where its state and logs are.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// The scheduler's REST API.
    pub fn rest(&self) -> Rest {
        Rest::new(&self.scheduler)
    }

    /// A client verb of `mezzo`, pointed at this cluster.
    pub fn mezzo<S: AsRef<str>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&self.options.mezzo);
        command.args(words.iter().map(AsRef::as_ref));
        command
            .env("MEZZO_MASTER", &self.master)
            .env("MEZZO_SCHEDULER", format!("http://{}", self.scheduler));
        command
    }

    /// Waits until all three answer and a node is connected.
    pub fn wait_ready(&mut self) -> Result<()> {
        let rest = self.rest();
        let master = Rest::new(&self.master);
        wait::until("the cluster to come up", PATIENCE, || {
            self.check_running()?;
            rest.get("/ping")?.ok()?;
            master.get("/healthz")?.ok()?;
            let nodes = process::output(&mut self.mezzo(&["node", "list", "-o", "json"]))?;
            if nodes.contains("\"connected\"") {
                Ok(())
            } else {
                bail!("no node is connected: {nodes}")
            }
        })
        .with_context(|| self.logs())
    }

    /// An error if `mezzo dev` has ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        match &mut self.dev {
            Some(dev) => dev.check_running(),
            None => bail!("mezzo dev is not running"),
        }
    }

    /// The process id of one server, from the `dev.json` of its state folder; an error while it is away.
    pub fn server_pid(&self, server: Server) -> Result<i32> {
        let file = self.options.dir.join("dev.json");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let facts: Value =
            serde_json::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
        let pid = facts[server.name()]["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.with_context(|| format!("{} names no {}", file.display(), server.name()))?;
        let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if cmdline.split('\0').nth(1) != Some(server.name()) {
            bail!("mezzo dev has no {} process now", server.name());
        }
        Ok(pid)
    }

    /// `kill -9` of one server, which `mezzo dev` starts again. Returns the process id that died.
    pub fn kill_server(&self, server: Server) -> Result<i32> {
        let pid = wait::until("a server to kill", PATIENCE, || self.server_pid(server))?;
        kill(Pid::from_raw(pid), Signal::SIGKILL)
            .with_context(|| format!("kill the {}", server.name()))?;
        Ok(pid)
    }

    /// `kill -9` of `mezzo dev` itself.
    pub fn kill_dev(&mut self) -> Result<()> {
        let mut dev = self.dev.take().context("mezzo dev is not running")?;
        dev.signal(Signal::SIGKILL)?;
        dev.wait(PATIENCE).map(drop)
    }

    /// Ends it in order; all that it ran is gone afterwards.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut dev) = self.dev.take() else {
            return Ok(());
        };
        let status = dev.stop(STOP_GRACE)?;
        if !status.success() {
            bail!(
                "mezzo dev ended with {}:\n{}",
                process::tell(status),
                dev.log_tail(15)
            );
        }
        Ok(())
    }

    /// POST /v2/apps.
    pub fn deploy(&self, app: &Value) -> Result<Value> {
        Ok(self.rest().post("/v2/apps", app.to_string())?.ok()?.json)
    }

    /// PUT /v2/apps/{id}: merges fields.
    pub fn update(&self, id: &str, fields: &Value) -> Result<Value> {
        Ok(self
            .rest()
            .put(&format!("/v2/apps/{id}"), fields.to_string())?
            .ok()?
            .json)
    }

    /// GET /v2/apps/{id}, the `app` of the answer.
    pub fn app(&self, id: &str) -> Result<Value> {
        Ok(self.rest().get(&format!("/v2/apps/{id}"))?.ok()?.json["app"].take())
    }

    /// DELETE /v2/apps/{id}, then waits until it is gone and nothing of it runs.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.rest().delete(&format!("/v2/apps/{id}"))?.ok()?;
        wait::until("the app to be gone", PATIENCE, || {
            let status = self.rest().get(&format!("/v2/apps/{id}"))?.status;
            let left = self.containers(id).len();
            // Nobody sees it any more, and yet the end of its tasks may still have to be acknowledged.
            let deployments = self.rest().get("/v2/deployments")?.ok()?.json;
            let id = format!("/{}", id.trim_start_matches('/'));
            let of_it = |deployment: &&Value| {
                let apps = deployment["affectedApps"].as_array();
                apps.is_some_and(|apps| apps.iter().any(|app| *app == *id))
            };
            let busy = deployments
                .as_array()
                .into_iter()
                .flatten()
                .filter(of_it)
                .count();
            if status == 404 && left == 0 && busy == 0 {
                Ok(())
            } else {
                bail!("GET answers {status}, {left} containers run, {busy} deployments go on")
            }
        })
    }

    /// What of an app really runs.
    pub fn containers(&self, id: &str) -> Vec<Running> {
        let id = format!("/{}", id.trim_start_matches('/'));
        let mut all = containers::running(&leftovers::cluster_cgroup(&self.options.dir));
        all.retain(|one| one.app_id == id);
        all
    }

    /// Waits until the API and the kernel agree that exactly `count` tasks of the app run and nothing is under way.
    pub fn wait_running(&self, id: &str, count: usize) -> Result<Vec<Running>> {
        let what = format!("{count} running tasks of {id}");
        wait::until(&what, PATIENCE, || {
            let app = self.app(id)?;
            let running = self.containers(id);
            containers::check_none_twice(&running)?;
            let told = app["tasksRunning"].as_u64();
            let under_way = app["deployments"].as_array().map_or(0, Vec::len);
            if told == Some(count as u64) && running.len() == count && under_way == 0 {
                return Ok(running);
            }
            bail!(
                "the API tells {told:?} running and {under_way} deployments, {} containers run; last failure: {}",
                running.len(),
                app["lastTaskFailure"]["message"]
            )
        })
    }

    /// The ends of all logs, for failures.
    pub fn logs(&self) -> String {
        let mut told = String::from("the logs end with:");
        for file in log_files(&self.options.dir) {
            told.push_str(&format!(
                "\n  {}:\n{}",
                file.display(),
                process::tail(&file, 8)
            ));
        }
        told
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let adopted = self.dev.is_none();
        if let Err(error) = self.stop() {
            eprintln!("stopping the cluster: {error:#}");
        } else if !adopted {
            return;
        }
        leftovers::sweep(&self.options.dir);
    }
}

/// The app of the demo: `instances` of `sleep:VERSION`.
pub fn sleep_app(id: &str, image: &str, instances: u32) -> Value {
    json!({
        "id": id,
        "cpus": 0.05,
        "mem": 16,
        "instances": instances,
        "container": { "type": "MESOS", "docker": { "image": image } },
    })
}

/// dev.log and log/*.log.
fn log_files(dir: &Path) -> Vec<PathBuf> {
    let below = fs::read_dir(dir.join("log"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut found: Vec<PathBuf> = below.filter(|path| path.is_file()).collect();
    found.sort();
    found.insert(0, dir.join("dev.log"));
    found
}
