//! The scenes of the demo, in the order in which they are told. Each acts as a person would, on the command line, and
//! checks the outcome where mezzo has no say: in `/proc` and in the kernel's cgroup files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mezzo_integration::cluster::{Cluster, PATIENCE, Server};
use mezzo_integration::containers::{self, Running};
use mezzo_integration::registry::Registry;
use mezzo_integration::{kernel, paths, process, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::crun::Crun;
use crate::steps::{Steps, seconds};

const APP: &str = "sleep";
const MANY: usize = 20;

/// Plays all of them; `keep` leaves the app for the audience.
pub(crate) fn play(
    steps: &mut Steps,
    cluster: &Cluster,
    registry: &Registry,
    sleep: &Path,
    dir: &Path,
    keep: bool,
) -> Result<()> {
    let scenes = Scenes {
        cluster,
        registry,
        dir,
    };
    steps.run("deploy", || scenes.deploy())?;
    let mut ours = Duration::ZERO;
    steps.run("scale from 1 to 20", || {
        let (took, note) = scenes.scale()?;
        ours = took;
        Ok(note)
    })?;
    let start = Instant::now();
    // A peer that is missing or fails is told in the table and is no failure of ours.
    let note = match Crun::prepare(dir, sleep).and_then(|crun| crun.start(MANY as u32)) {
        Ok(theirs) => format!(
            "crun {} for 20 in a shell loop, without seccomp and images; ours {} for 19 more",
            seconds(theirs),
            seconds(ours)
        ),
        Err(error) => format!("no comparison: {error:#}"),
    };
    steps.add("the same with crun", start.elapsed(), &Ok(note));
    steps.run("usage, read from the kernel", || scenes.usage())?;
    steps.run("a container is killed from outside", || {
        scenes.killed_container()
    })?;
    steps.run("the agent is killed with -9", || scenes.killed_agent())?;
    steps.run("an app over its memory limit", || scenes.out_of_memory())?;
    steps.run("update to sleep:2", || scenes.rolling_update())?;
    if !keep {
        steps.run("remove", || scenes.remove())?;
    }
    Ok(())
}

struct Scenes<'a> {
    cluster: &'a Cluster,
    registry: &'a Registry,
    dir: &'a Path,
}

impl Scenes<'_> {
    fn deploy(&self) -> Result<String> {
        let file = self.app_file("sleep.json")?;
        self.tell(&["app", "add", &file.display().to_string(), "--wait"])?;
        let running = self.cluster.wait_running(APP, 1)?;
        Ok(format!("process {} runs", running[0].pid))
    }

    /// The time is from the request to the twentieth task that the API tells to run.
    fn scale(&self) -> Result<(Duration, String)> {
        let rest = self.cluster.rest();
        println!(
            "  $ curl -X PUT -d '{{\"instances\": {MANY}}}' http://{}/v2/apps/{APP}",
            self.cluster.scheduler()
        );
        let start = Instant::now();
        self.cluster.update(APP, &json!({ "instances": MANY }))?;
        wait::until("20 running tasks", PATIENCE, || {
            let running =
                rest.get(&format!("/v2/apps/{APP}"))?.ok()?.json["app"]["tasksRunning"].as_u64();
            if running == Some(MANY as u64) {
                Ok(())
            } else {
                bail!("{running:?} run")
            }
        })?;
        let took = start.elapsed();
        self.cluster.wait_running(APP, MANY)?;
        self.tell(&["status"])?;
        Ok((
            took,
            format!(
                "{} from the request to the twentieth TASK_RUNNING",
                seconds(took)
            ),
        ))
    }

    /// Each figure of mezzo's must lie between two readings of the kernel's own, one before it and one after.
    fn usage(&self) -> Result<String> {
        self.tell(&["task", "list", "--app", APP])?;
        let running = self.cluster.containers(APP);
        let (mut cpu, mut memory) = (0, 0);
        for one in &running {
            let group = containers::cgroup_of(one.pid)?;
            let before = (kernel::cpu_us(&group)?, kernel::memory_bytes(&group)?);
            let told = self.ask(&["task", "show", &one.task_id])?;
            let after = (kernel::cpu_us(&group)?, kernel::memory_bytes(&group)?);
            let usage = &told["usage"];
            let figure = |name: &str| {
                usage[name]
                    .as_u64()
                    .with_context(|| format!("no {name} for {}", one.task_id))
            };
            let (our_cpu, our_memory) = (figure("cpu_total_us")?, figure("memory_bytes")?);
            check_between("cpu us", before.0, our_cpu, after.0)?;
            check_between("bytes of memory", before.1, our_memory, after.1)?;
            cpu += our_cpu;
            memory += our_memory;
        }
        Ok(format!(
            "{} tasks agree with the kernel's files: {} ms of cpu, {} kB of memory together",
            running.len(),
            cpu / 1000,
            memory / 1000
        ))
    }

    fn killed_container(&self) -> Result<String> {
        let victim = self
            .cluster
            .containers(APP)
            .into_iter()
            .next()
            .context("nothing runs")?;
        println!("  $ kill -9 {}", victim.pid);
        kill(Pid::from_raw(victim.pid), Signal::SIGKILL).context("kill a container's process")?;
        let start = Instant::now();
        let running = self.twenty_without(&victim)?;
        let new = running
            .iter()
            .map(|one| one.started)
            .max()
            .unwrap_or_default();
        let replacement = running
            .iter()
            .find(|one| one.started == new)
            .context("no replacement")?;
        Ok(format!(
            "process {} replaces {} after {}",
            replacement.pid,
            victim.pid,
            seconds(start.elapsed())
        ))
    }

    fn twenty_without(&self, victim: &Running) -> Result<Vec<Running>> {
        wait::until("a replacement", PATIENCE, || {
            let running = self.cluster.wait_running(APP, MANY)?;
            if running.contains(victim) {
                bail!("the old one is still there")
            } else {
                Ok(running)
            }
        })
    }

    fn killed_agent(&self) -> Result<String> {
        let before = identities(&self.cluster.containers(APP));
        let pid = self.cluster.kill_server(Server::Agent)?;
        println!("  $ kill -9 {pid}");
        let start = Instant::now();
        let new = wait::until("a new agent that knows its tasks", PATIENCE, || {
            let new = self.cluster.server_pid(Server::Agent)?;
            let nodes = self.ask(&["node", "list"])?;
            let connected = nodes[0]["state"] == "connected" && nodes[0]["tasks"] == MANY;
            if new != pid && connected {
                Ok(new)
            } else {
                bail!("the node is {}", nodes[0]["state"])
            }
        })?;
        let took = start.elapsed();
        let after = identities(&self.cluster.wait_running(APP, MANY)?);
        if before != after {
            bail!(
                "{} of {} processes are not the same",
                before.difference(&after).count(),
                before.len()
            );
        }
        Ok(format!(
            "agent {new} is back after {} with the same {MANY} processes",
            seconds(took)
        ))
    }

    fn out_of_memory(&self) -> Result<String> {
        let file = self.app_file("oom.json")?;
        self.tell(&["app", "add", &file.display().to_string()])?;
        let task = wait::until("an out-of-memory kill", PATIENCE, || {
            let tasks = self.ask(&["task", "list", "--app", "oom", "--all"])?;
            let killed = tasks
                .as_array()
                .and_then(|all| all.iter().find(|task| task["exit"]["oom_killed"] == true));
            killed
                .cloned()
                .with_context(|| format!("no task was killed: {tasks}"))
        })?;
        let limit = task["exit"]["memory_limit_bytes"]
            .as_u64()
            .context("no limit is told")?;
        let peak = task["usage"]["memory_peak_bytes"]
            .as_u64()
            .context("no peak is told")?;
        if limit != 32 << 20 || peak > limit || peak < limit / 2 {
            bail!("limit {limit} and peak {peak} do not fit an app of 32 MiB");
        }
        self.tell(&["app", "show", "oom"])?;
        self.tell(&["app", "remove", "oom", "--wait"])?;
        Ok(format!(
            "OOM-killed: limit {} MiB, peak {:.1} MiB",
            limit >> 20,
            peak as f64 / f64::from(1 << 20)
        ))
    }

    /// The default strategy is a minimum health capacity of 1: never fewer than 20 may run.
    fn rolling_update(&self) -> Result<String> {
        let image = self.registry.reference("sleep:2");
        let words = ["app", "update", APP, "--image", &image, "--wait"];
        let mut command = self.cluster.mezzo(&words);
        println!("  $ {}", process::command_line(&command));
        let mut update =
            process::Managed::spawn("the update", &mut command, &self.dir.join("update.log"))?;
        let (mut fewest, mut most) = (usize::MAX, 0);
        wait::until("the update to end", PATIENCE * 2, || {
            let running = self.cluster.containers(APP);
            containers::check_none_twice(&running)?;
            fewest = fewest.min(running.len());
            most = most.max(running.len());
            if running.len() == MANY && running.iter().all(|one| one.version == "2") {
                return Ok(());
            }
            let old = running.iter().filter(|one| one.version == "1").count();
            bail!("{} run, {old} of them the old version", running.len())
        })?;
        let status = update.wait(PATIENCE)?;
        if !status.success() {
            bail!(
                "mezzo app update ended with {}:\n{}",
                process::tell(status),
                update.log_tail(10)
            );
        }
        if fewest < MANY {
            bail!("only {fewest} ran at one time, fewer than the minimum health capacity allows");
        }
        self.cluster.wait_running(APP, MANY)?;
        Ok(format!("never fewer than {fewest} ran, at most {most}"))
    }

    fn remove(&self) -> Result<String> {
        self.tell(&["app", "remove", APP, "--wait"])?;
        wait::until("no container", PATIENCE, || {
            let left = self.cluster.containers(APP).len();
            if left == 0 {
                Ok(())
            } else {
                bail!("{left} run")
            }
        })?;
        Ok("no container runs".to_owned())
    }

    /// An app file of `examples/apps`, with our registry's address in it.
    fn app_file(&self, name: &str) -> Result<PathBuf> {
        let source = paths::workspace().join("examples/apps").join(name);
        let text =
            fs::read_to_string(&source).with_context(|| format!("read {}", source.display()))?;
        let file = self.dir.join(name);
        let text = text.replace("127.0.0.1:5000", self.registry.address());
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }

    /// Runs a verb of mezzo and shows it with what it prints.
    fn tell(&self, words: &[&str]) -> Result<()> {
        let mut command = self.cluster.mezzo(words);
        println!("  $ {}", process::command_line(&command));
        for line in process::output(&mut command)?.lines() {
            println!("  {line}");
        }
        Ok(())
    }

    /// Runs a verb of mezzo for its JSON.
    fn ask(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.cluster.mezzo(&[words, &["-o", "json"]].concat());
        let text = process::output(&mut command)?;
        serde_json::from_str(&text)
            .with_context(|| format!("`{}` printed no JSON", process::command_line(&command)))
    }
}

fn identities(running: &[Running]) -> BTreeSet<(i32, u64)> {
    running.iter().map(|one| (one.pid, one.started)).collect()
}

/// Memory may fall between two readings, so both orders will do.
fn check_between(what: &str, one: u64, ours: u64, other: u64) -> Result<()> {
    if (one.min(other)..=one.max(other)).contains(&ours) {
        return Ok(());
    }
    bail!("mezzo tells {ours} {what}, the kernel {one} before and {other} after")
}
