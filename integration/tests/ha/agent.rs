//! Three masters on a real etcd, a true agent with containers, and the program of `docs/framework-tutorial.md`: the leader
//! is killed, the next one frozen. Neither agent nor framework is started again, no container ends or begins, the
//! framework reconciles with each new leader, and the agent does what the last of them says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mezzo_integration::containers;
use mezzo_integration::etcd::Etcd;
use mezzo_integration::leftovers::{self, Scope, Snapshot};
use mezzo_integration::process::{self, Managed};
use mezzo_integration::registry::Registry;
use mezzo_integration::{images, paths, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{ALONE, FAULT, Master, PATIENCE, leader};

const TASKS: usize = 3;

/// A Python with grpcio, as `cargo xtask test` brings it.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("MEZZO_PYTHON").map(PathBuf::from);
    let brought = || Some(paths::target().ok()?.join("tools/python/bin/python"));
    named.or_else(brought).filter(|path| path.is_file())
}

/// All blocks of Python of the tutorial, in their order, with the stubs that it says to make.
fn write_program(python: &Path, dir: &Path) -> Result<PathBuf> {
    let root = paths::workspace();
    let document = fs::read_to_string(root.join("docs/framework-tutorial.md"))?;
    let blocks = document.split("```python\n").skip(1);
    let program: String = blocks
        .filter_map(|block| block.split("```").next())
        .collect();
    let file = dir.join("keeper.py");
    fs::write(&file, program)?;
    let stubs = dir.join("stubs");
    fs::create_dir_all(&stubs)?;
    let mut command = Command::new(python);
    command.args(["-m", "grpc_tools.protoc", "-Iapi/proto"]);
    for kind in ["python_out", "grpc_python_out"] {
        command.arg(format!("--{kind}={}", stubs.display()));
    }
    for proto in fs::read_dir(root.join("api/proto/mezzo/v1"))? {
        command.arg(proto?.path().strip_prefix(&root)?);
    }
    process::output(command.current_dir(&root))?;
    Ok(file)
}

/// What a program has printed: how often it said something so far.
fn said(keeper: &mut Managed, what: &str) -> Result<usize> {
    keeper.check_running()?;
    Ok(fs::read_to_string(keeper.log())?.matches(what).count())
}

struct Stage {
    dir: PathBuf,
    _etcd: Etcd,
    masters: Vec<Master>,
    registry: Registry,
    agent: Option<Managed>,
}

impl Stage {
    fn start(dir: &Path) -> Result<Self> {
        let etcd = Etcd::start(&dir.join("etcd"))?;
        let registry = Registry::start(&dir.join("registry"))?;
        images::pack_and_push(
            &paths::program("mezzo")?,
            &images::build_sleep()?,
            &registry,
            "1",
        )?;
        let mut masters = Vec::new();
        for _ in 0..3 {
            masters.push(Master::start(dir, etcd.address())?);
        }
        leader(&masters, None)?;
        let mut stage = Self {
            dir: dir.to_owned(),
            _etcd: etcd,
            masters,
            registry,
            agent: None,
        };
        let mut command = Command::new(paths::program("mezzo")?);
        command.args([
            "agent",
            "--listen",
            "127.0.0.1:0",
            "--master",
            &stage.list(),
        ]);
        command.args(["--insecure-registry", stage.registry.address()]);
        command.args(["--resources", "cpus:4;mem:2048;disk:1000"]);
        command.arg("--kill-tasks-on-shutdown");
        command
            .arg("--state-dir")
            .arg(stage.cluster().join("agent"));
        command.env(leftovers::MARKER, stage.cluster());
        let log = dir.join("agent.log");
        stage.agent = Some(Managed::spawn("the agent", &mut command, &log)?);
        Ok(stage)
    }

    /// Named so for [`leftovers`].
    fn cluster(&self) -> PathBuf {
        self.dir.join("cluster")
    }

    fn list(&self) -> String {
        let addresses = self.masters.iter().map(|one| one.address.as_str());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// What the kernel knows of containers: their first processes.
    fn containers(&self) -> BTreeSet<(i32, u64)> {
        containers::first_processes(&leftovers::cluster_cgroup(&self.cluster()))
    }

    /// A verb, asked of that master.
    fn ask(&self, master: usize, words: &[&str]) -> Result<Value> {
        let mut command = Command::new(paths::program("mezzo")?);
        command.args(["--master", &self.masters[master].address, "-o", "json"]);
        let text = process::output(command.args(words))?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} printed no JSON"))
    }

    /// The agent is with that leader, and all of its tasks are.
    fn follows(&self, leader: usize) -> Result<()> {
        wait::until("the agent to be with the leader", PATIENCE, || {
            let nodes = self.ask(leader, &["node", "list"])?;
            let nodes = nodes.as_array().context("no list")?;
            ensure!(nodes.len() == 1, "{nodes:?}");
            let (state, tasks) = (&nodes[0]["state"], &nodes[0]["tasks"]);
            ensure!(
                state == "connected" && *tasks == TASKS,
                "{state}, {tasks} tasks"
            );
            Ok(())
        })
    }

    fn play(&mut self, keeper: &mut Managed) -> Result<()> {
        let all = format!("{TASKS} running");
        wait::until("the tasks to run", PATIENCE, || {
            ensure!(said(keeper, &all)? > 0, "{}", keeper.log_tail(3));
            Ok(())
        })?;
        let begun = self.containers();
        ensure!(begun.len() == TASKS, "{begun:?}");
        for blow in [Signal::SIGKILL, Signal::SIGSTOP] {
            let hit = leader(&self.masters, None)?;
            let (lost, asked) = (
                said(keeper, "no subscription")?,
                said(keeper, "reconciled")?,
            );
            self.masters[hit].signal(blow)?;
            let next = leader(&self.masters, Some(hit))?;
            self.follows(next)?;
            wait::until("the framework to reconcile", PATIENCE, || {
                let now = (
                    said(keeper, "no subscription")?,
                    said(keeper, "reconciled")?,
                );
                ensure!(now.0 > lost && now.1 > asked, "{}", keeper.log_tail(3));
                Ok(())
            })?;
            if blow == Signal::SIGSTOP {
                // What it has to say comes too late for everybody.
                std::thread::sleep(FAULT);
                self.masters[hit].signal(Signal::SIGCONT)?;
            } else if let Some(mut dead) = self.masters[hit].process.take() {
                dead.wait(PATIENCE)?;
                self.masters[hit].run(&self.dir)?;
            }
            let now = self.containers();
            ensure!(
                now == begun,
                "{begun:?} ran before {blow}, {now:?} after it"
            );
        }
        // The agent hears the last leader, and the framework hears the agent.
        let leads = leader(&self.masters, None)?;
        self.follows(leads)?;
        let tasks = self.ask(leads, &["task", "list"])?;
        let ended = tasks[0]["id"].as_str();
        let ended = ended.with_context(|| format!("no task in {tasks}"))?;
        self.ask(leads, &["task", "kill", ended])?;
        wait::until("the framework to hear the end", PATIENCE, || {
            let line = format!("TASK_KILLED {ended}");
            ensure!(said(keeper, &line)? > 0, "{}", keeper.log_tail(3));
            Ok(())
        })?;
        wait::until("the container to be gone", PATIENCE, || {
            let now = self.containers();
            let others = now.is_subset(&begun) && now.len() == TASKS - 1;
            ensure!(others, "{now:?} of {begun:?}");
            Ok(())
        })
    }
}

fn act(dir: &Path, python: &Path) -> Result<()> {
    let mut stage = Stage::start(dir)?;
    let mut command = Command::new(python);
    command.arg(write_program(python, dir)?);
    command.args(["--count", &TASKS.to_string(), "--master", &stage.list()]);
    command.args(["--image", &stage.registry.reference("sleep:1")]);
    command
        .env("PYTHONPATH", dir.join("stubs"))
        .current_dir(dir);
    command.env("PYTHONUNBUFFERED", "1");
    command.env(leftovers::MARKER, "framework");
    let log = dir.join("keeper.log");
    let mut keeper = Managed::spawn("the framework", &mut command, &log)?;
    let played = stage.play(&mut keeper);
    if played.is_err() {
        let agent = stage.agent.as_ref();
        let agent = agent.map_or_else(String::new, |agent| agent.log_tail(20));
        eprintln!("keeper:\n{}\nagent:\n{agent}", keeper.log_tail(20));
    }
    // It has no end of its own.
    keeper.signal(Signal::SIGKILL)?;
    keeper.wait(PATIENCE)?;
    // The agent's tasks go with it.
    let stopped = match stage.agent.as_mut() {
        Some(agent) => agent.stop(process::GRACE).map(drop),
        None => bail!("there is no agent"),
    };
    drop(stage);
    played.and(stopped)
}

#[test]
fn a_true_agent_and_the_tutorials_framework_follow_the_leader() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(python) = python().filter(|_| nix::unistd::geteuid().is_root()) else {
        eprintln!("skipped: needs root, and a Python with grpcio, which `cargo xtask test` brings");
        return Ok(());
    };
    let before = Snapshot::take();
    let dir = tempfile::tempdir()?;
    let cluster = dir.path().join("cluster");
    fs::create_dir_all(&cluster)?;
    let scope = Scope::of_clusters(dir.path(), std::slice::from_ref(&cluster));
    let acted = act(dir.path(), &python);
    if acted.is_err() {
        leftovers::sweep(&cluster);
    }
    let left = leftovers::check(&before, &scope, Duration::from_secs(60));
    acted?;
    left.map(drop)
}
