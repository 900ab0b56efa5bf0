//! `cargo xtask bench launch`: what a container costs in time, processor and memory, beside crun, runc, podman and
//! containerd, and beside the floor, which is `unshare` with the same namespaces.
//!
//! The driver (`runtime/examples/bench_launch.rs`) calls the runtime as an agent does; nothing above it takes part, but in
//! the cases `app` and `idle`. All that is measured is in one cgroup, whose CPU time stands beside every wall time: on
//! a busy machine it is the figure to trust. Everything is in `target/bench/launch`, and gone at the end.

mod app;
mod bundle;
mod driver;
mod group;
mod idle;
mod many;
mod one;
mod peers;
mod view;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use mezzo_integration::{interrupt, paths, process};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use self::driver::Driver;
use self::group::Group;
use self::peers::{Peer, Place};
use super::report::{self, Row};
use crate::BenchArgs;
use crate::setup::{self, Need};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// A container of `true`: create, start, wait, delete
    Life,
    /// Until the container's first instruction has read the clock
    Start,
    /// 100 and 1,000 sleepers as fast as possible, then all killed and removed
    Many,
    /// Memory of all that grows with them
    Memory,
    /// A cluster at rest: the servers' processor time while 1,000 containers sleep
    Idle,
    /// An app scaled by 20, from the request to the last one running
    App,
}

const ALL: [Case; 6] = [
    Case::Life,
    Case::Start,
    Case::Many,
    Case::Memory,
    Case::Idle,
    Case::App,
];

/// One thing measured: what it took, and the CPU time of everything that took part.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall_ms: f64,
    cpu_ms: Option<f64>,
}

/// What the measuring thread works with.
struct Bench {
    driver: Driver,
    peers: Vec<Peer>,
    group: Group,
    quick: bool,
    rounds: u32,
}

/// Runs the command.
pub(super) fn run(args: &BenchArgs) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "containers need root: run this with sudo"
    );
    println!("{}", setup::ensure(&[Need::Build])?);
    let cases = if args.cases.is_empty() {
        &ALL[..]
    } else {
        &args.cases
    };
    let scratch = Scratch::make(paths::target()?.join("bench/launch"))?;
    let dir = &scratch.0;
    if args.ours {
        return alone(args, cases, &driver::build()?, dir, &compile(dir)?);
    }
    let mut rows = Vec::new();
    let containers = [Case::Life, Case::Start, Case::Many, Case::Memory];
    if cases.iter().any(|case| containers.contains(case)) {
        let (driver, program) = (driver::build()?, compile(dir)?);
        rows.extend(beside_peers(args, cases, &driver, dir, &program)?);
    }
    if cases.contains(&Case::Idle) {
        rows.extend(idle::run(&dir.join("idle"), args.quick)?);
    }
    if cases.contains(&Case::App) {
        rows.push(app::run(&dir.join("app"), rounds(args, 15, 3))?);
    }
    report::write("launch", &rows)
}

/// The folder of everything; gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make(dir: PathBuf) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

fn rounds(args: &BenchArgs, whole: u32, quick: u32) -> u32 {
    args.rounds
        .unwrap_or(if args.quick { quick } else { whole })
}

/// The program of all containers, without any need of a file of this machine.
fn compile(dir: &Path) -> Result<PathBuf> {
    let program = dir.join("program");
    let source = paths::workspace().join("xtask/src/bench/launch/program.c");
    let mut command = Command::new("cc");
    command.args(["-Os", "-static", "-s", "-o"]);
    process::output(command.arg(&program).arg(source)).context("compile the program")?;
    Ok(program)
}

/// Our own side without any peer, in the foreground, maybe below a profiler.
fn alone(
    args: &BenchArgs,
    cases: &[Case],
    driver: &Path,
    dir: &Path,
    program: &Path,
) -> Result<()> {
    let [case] = cases else {
        bail!("--ours wants one case: --case life, start or many");
    };
    let name = match case {
        Case::Life => "life",
        Case::Start => "start",
        Case::Many | Case::Memory => "many",
        Case::App | Case::Idle => bail!("--ours is for the cases life, start and many"),
    };
    let group = Group::reserve()?;
    let default = if name == "many" { 5 } else { 200 };
    let mut words: Vec<String> = Vec::new();
    words.extend(
        args.under
            .iter()
            .flat_map(|line| line.split(' '))
            .map(str::to_owned),
    );
    words.push(driver.display().to_string());
    words.extend(driver::words(
        &dir.join("ours"),
        program,
        &group.path("ours"),
    ));
    words.extend(["--case", name, "--rounds"].map(str::to_owned));
    words.push(args.rounds.unwrap_or(default).to_string());
    println!("  {}", words.join(" "));
    let mut command = Command::new(&words[0]);
    // Ctrl-C reaches only us.
    command.args(&words[1..]).process_group(0);
    let mut child = Foreground(
        command
            .spawn()
            .with_context(|| format!("start {}", words[0]))?,
    );
    let status = loop {
        if let Some(status) = child.0.try_wait().context("wait for the driver")? {
            break status;
        }
        if interrupt::take() {
            child.end()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    ensure!(
        status.success(),
        "the driver ended with {}",
        process::tell(status)
    );
    Ok(())
}

/// The driver, maybe below a profiler, in a process group of its own. Told to end when it is dropped.
struct Foreground(Child);

impl Foreground {
    /// The whole group: a profiler ends with what it watches.
    fn end(&self) -> Result<()> {
        let group = Pid::from_raw(i32::try_from(self.0.id())?);
        killpg(group, Signal::SIGTERM).context("end the driver")
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _gone = self.end();
            let _reaped = self.0.wait();
        }
    }
}

/// Everything that runs containers without a cluster.
fn beside_peers(
    args: &BenchArgs,
    cases: &[Case],
    driver: &Path,
    dir: &Path,
    program: &Path,
) -> Result<Vec<Row>> {
    let group = Group::enter()?;
    let driver = Driver::start(driver, &dir.join("ours"), program, &group.path("ours"))?;
    let place = Place::make(dir, Path::new(view::SHORT), program, &group)?;
    nix::sys::prctl::set_child_subreaper(true).context("become a subreaper")?;
    let mut bench = Bench {
        driver,
        peers: Vec::new(),
        group,
        quick: args.quick,
        rounds: rounds(args, 100, 6),
    };
    // The view belongs to a thread and what it starts; ours was started before, and sees this machine as it is.
    let measured = std::thread::scope(|scope| {
        let measuring = scope.spawn(|| -> Result<Vec<Row>> {
            view::enter(dir)?;
            let (peers, missing) = peers::all(&place)?;
            for name in missing {
                println!("without {name}: it is not installed");
            }
            bench.peers = peers;
            let measured = bench.measure(cases);
            // Daemons end where they were started.
            bench.peers.clear();
            measured
        });
        measuring
            .join()
            .unwrap_or_else(|_| bail!("the measuring thread panicked"))
    });
    interrupt::take();
    let stopped = bench.driver.stop();
    drop(bench.group);
    nix::sys::prctl::set_child_subreaper(false).context("be no subreaper any more")?;
    reap_zombies();
    let rows = measured?;
    stopped?;
    Ok(rows)
}

impl Bench {
    fn measure(&mut self, cases: &[Case]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        if cases.contains(&Case::Life) {
            rows.extend(one::measure(self, &one::LIFE)?);
        }
        if cases.contains(&Case::Start) {
            rows.extend(one::measure(self, &one::START)?);
        }
        let wanted = |case| cases.contains(&case);
        if wanted(Case::Many) || wanted(Case::Memory) {
            let found = many::measure(self)?;
            rows.extend(
                wanted(Case::Many)
                    .then_some(found.rates)
                    .into_iter()
                    .flatten(),
            );
            rows.extend(
                wanted(Case::Memory)
                    .then_some(found.memory)
                    .into_iter()
                    .flatten(),
            );
        }
        Ok(rows)
    }

    /// Takes the CPU time of `act`, which tells its wall time itself.
    fn sample(group: &Group, act: impl FnOnce() -> Result<f64>) -> Result<Sample> {
        ensure!(!interrupt::requested(), "interrupted");
        let before = group.cpu();
        let wall_ms = act()?;
        let cpu = before
            .zip(group.cpu())
            .map(|(before, after)| after - before);
        Ok(Sample {
            wall_ms,
            cpu_ms: cpu.as_ref().map(report::millis),
        })
    }
}

/// Takes note of the ends of what was left to this process: containers and helpers of the peers. Not of the others:
/// who started them waits for them.
fn reap_zombies() {
    let own = std::process::id();
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            let is_helper = ["program", "conmon", "crun", "runc"].contains(&comm.trim_end())
                || comm.starts_with("containerd-shim");
            if let (true, Ok(pid)) = (is_helper && child != own.to_string(), child.parse()) {
                let _status = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            }
        }
    }
}
