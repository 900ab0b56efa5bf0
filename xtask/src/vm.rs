//! `cargo xtask vm`: mezzo's own programs in a small virtual machine whose controllers are all on cgroup v2.
//!
//! The first-class path of the design can so be tried on machines (CI's among them) that have only v1 or hybrid
//! cgroups. Everything is built here and copied in; the guest has no compiler and no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use mezzo_integration::vm::{Accel, Bench, Guest, GuestSpec, Run};
use mezzo_integration::{interrupt, paths, process};

use crate::cargo::{self, TestProgram};
use crate::runner::{self, Counts};
use crate::setup::{self, Need};
use crate::steps::{Steps, seconds};

/// One test program, on a machine that runs guests at full speed.
const TEST_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Boot a guest and tell what it is
    Boot,
    /// Run the tests of the runtime crate
    Runtime {
        /// Only tests whose names contain this
        filter: Option<String>,
        /// Processors of the guest
        #[arg(long, default_value_t = 2)]
        cpus: u32,
    },
}

/// Runs the command.
pub(crate) fn run(args: &VmArgs) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("look for what is missing", || {
        setup::ensure(&[Need::Build, Need::Vm])
    })?;
    let bench = prepare(&mut steps)?;
    let done = match &args.what {
        What::Boot => boot(&bench, &mut steps),
        What::Runtime { filter, cpus } => runtime(&bench, &mut steps, filter.as_deref(), *cpus),
    };
    steps.print();
    done
}

fn prepare(steps: &mut Steps) -> Result<Bench> {
    steps.run("build the guest's agent", || {
        cargo::run(&[
            "build",
            "--quiet",
            "-p",
            "mezzo-integration",
            "--bin",
            "mezzo-guest",
        ])?;
        Ok(String::new())
    })?;
    let mut bench = None;
    steps.run("prepare the bench", || {
        let ready = bench.insert(Bench::prepare(&paths::program("mezzo-guest")?)?);
        let speed = ready.speed();
        let accel = match speed.accel {
            Accel::Kvm => "KVM",
            Accel::Emulation => "software emulation",
        };
        Ok(format!(
            "kernel {}, {accel}, boots in {}, processes start {:.1} times slower",
            ready.kernel_release(),
            seconds(speed.boot),
            speed.slowness
        ))
    })?;
    bench.context("the bench was not made")
}

fn boot(bench: &Bench, steps: &mut Steps) -> Result<()> {
    let mut spec = GuestSpec::new("boot");
    spec.disk_mb = Some(64);
    let mut guest = None;
    steps.run("boot a guest", || {
        let guest = guest.insert(Guest::boot(bench, spec)?);
        Ok(format!("Linux {}", guest.kernel()))
    })?;
    let guest = guest.context("the guest was not booted")?;
    steps.run("look around", || {
        println!(
            "{}",
            guest.sh("uname -a; mount; free; cat /proc/loadavg; df -h")?
        );
        unified(&guest)
    })?;
    steps.run("power off", || guest.power_off().map(|()| String::new()))
}

/// All controllers on v2, and pressure is told.
fn unified(guest: &Guest) -> Result<String> {
    let controllers = guest.read("/sys/fs/cgroup/cgroup.controllers")?;
    for wanted in ["cpuset", "cpu", "io", "memory", "pids"] {
        if !controllers.split_whitespace().any(|one| one == wanted) {
            bail!("the guest's cgroup v2 lacks {wanted}; it has {controllers}");
        }
    }
    guest.read("/proc/pressure/cpu")?;
    Ok(format!("cgroup v2 with {}", controllers.trim()))
}

fn runtime(bench: &Bench, steps: &mut Steps, filter: Option<&str>, cpus: u32) -> Result<()> {
    let mut tests = Vec::new();
    steps.run("build the runtime and its tests", || {
        tests = cargo::build_tests_of(&["-p", "mezzo-runtime"])?;
        Ok(format!("{} test programs", tests.len()))
    })?;
    let mut guest = None;
    steps.run("boot a guest with them", || {
        let scratch = Scratch::create()?;
        let spec = runtime_spec(&tests, &scratch.0, cpus)?;
        let guest = guest.insert(Guest::boot(bench, spec)?);
        unified(guest)
    })?;
    let mut guest = guest.context("the guest was not booted")?;
    let mut sum = Counts::default();
    for test in &tests {
        if interrupt::requested() {
            bail!("interrupted");
        }
        let name = format!("in the guest: {} {}", test.kind, test.target);
        let _in_the_table = steps.run(&name, || {
            let counts = run_test(&guest, test, filter)?;
            sum.add(counts);
            let told = format!("{} passed, {} failed", counts.passed, counts.failed);
            if counts.failed > 0 {
                bail!("{told}")
            } else {
                Ok(told)
            }
        });
    }
    let _in_the_table = steps.run("the guest is as it was", || {
        let left = guest
            .sh("find /sys/fs/cgroup -mindepth 1 -type d; grep overlay /proc/mounts || true")?;
        if left.trim().is_empty() {
            Ok("no cgroup, no overlay".to_owned())
        } else {
            bail!("left behind: {}", left.trim().replace('\n', ", "))
        }
    });
    if steps.failed() > 0 {
        guest.keep_console();
        bail!("{} of {} tests failed", sum.failed, sum.failed + sum.passed);
    }
    guest.power_off()
}

/// The programs at their own paths (tests know each other's), and a `cc` that hands out what was compiled here.
fn runtime_spec(tests: &[TestProgram], scratch: &Path, cpus: u32) -> Result<GuestSpec> {
    let mut spec = GuestSpec::new("runtime");
    spec.memory_mb = 1024;
    spec.cpus = cpus;
    spec.disk_mb = Some(1024);
    for test in tests {
        spec.with_program(&test.path, &test.path.to_string_lossy())?;
        // Their snapshots.
        spec.with_same(&test.dir.join("src"));
    }
    let launcher = paths::program("mezzo-launcher")?;
    spec.with_program(&launcher, &launcher.to_string_lossy())?;
    let source = paths::workspace().join("runtime/tests/common/probe.c");
    let probe = scratch.join("probe");
    let mut compile = Command::new("cc");
    process::output(
        compile
            .args(["-static", "-O1", "-o"])
            .arg(&probe)
            .arg(&source),
    )?;
    spec.with(&probe, "/usr/local/lib/probe");
    let cc = scratch.join("cc");
    let script =
        "#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\nexec cp /usr/local/lib/probe \"$2\"\n";
    fs::write(&cc, script).with_context(|| format!("write {}", cc.display()))?;
    spec.with(&cc, "/usr/local/bin/cc");
    for file in &mut spec.files {
        if file.guest.starts_with("/usr/local/") {
            file.mode = Some(0o755);
        }
    }
    Ok(spec)
}

fn run_test(guest: &Guest, test: &TestProgram, filter: Option<&str>) -> Result<Counts> {
    let program = test.path.to_string_lossy();
    let mut args: Vec<&str> = vec![&program];
    args.extend(filter);
    let run = Run::new(&args)
        .cwd(&test.dir.to_string_lossy())
        .within(TEST_LIMIT);
    // Not in memory: overlays want a disk, as they have it on a real node.
    guest.sh("mkdir -p /data/tmp")?;
    let run = run
        .env("TMPDIR", "/data/tmp")
        .env("INSTA_UPDATE", "no")
        .env("CARGO_MANIFEST_DIR", &test.dir.to_string_lossy());
    let start = Instant::now();
    let ended = guest.run(&run)?;
    let mut counts = Counts::default();
    for line in ended.stdout.lines().chain(ended.stderr.lines()) {
        if let Some(closing) = runner::closing_line(line) {
            counts.add(closing);
        }
    }
    println!(
        "{}{}  ({})",
        ended.stdout,
        ended.stderr,
        seconds(start.elapsed())
    );
    if counts == Counts::default() {
        bail!("{program} ended with {} and told nothing", ended.exit);
    }
    Ok(counts)
}

/// A folder for what is compiled here, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> Result<Self> {
        let dir = paths::target()?.join(format!("vm/scratch-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}
