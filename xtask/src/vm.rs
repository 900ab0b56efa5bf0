//! `cargo xtask vm`: mezzo's own programs in small virtual machines whose controllers are all on cgroup v2, alone or as
//! a cluster.
//!
//! The first-class path of the design can so be tried on machines (CI's among them) that have only v1 or hybrid
//! cgroups. Everything is built here and copied in; guests have no compiler, and no network but each other.

mod debian;
mod faults;
mod limits;
mod node;
mod smoke;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use mezzo_integration::leftovers::{self, Scope, Snapshot};
use mezzo_integration::vm::cluster::Programs;
use mezzo_integration::vm::{Accel, Bench, DataDisk, Exit, Guest, GuestSpec, Run};
use mezzo_integration::{images, interrupt, paths, process, registry};

use debian::DebianArgs;
use faults::Choice;

use crate::cargo::{self, TestProgram};
use crate::runner::{self, Counts};
use crate::setup::{self, Need};
use crate::steps::{Steps, seconds};
use crate::{Profile, dist, suite};

/// One test program, on a machine that runs guests at full speed.
const TEST_LIMIT: Duration = Duration::from_secs(180);

/// What was ended may take a moment to be gone.
const LEAVE_LIMIT: Duration = Duration::from_secs(15);

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
        /// As a root without CAP_SYS_RESOURCE, which CI machines often have
        #[arg(long)]
        no_sys_resource: bool,
    },
    /// Run the agent's tests on containers, on a disk with project quotas
    Node {
        /// Only tests whose names contain this
        filter: Option<String>,
        /// Processors of the guest
        #[arg(long, default_value_t = 2)]
        cpus: u32,
        /// The disk has XFS instead of ext4
        #[arg(long)]
        xfs: bool,
    },
    /// A three-machine cluster: deploy, pull an agent's power, see its tasks elsewhere
    Smoke,
    /// Power cuts, partitions, full disks, clocks that jump: what a cluster must survive, judged by its history
    Faults {
        /// Only those whose names contain this
        filter: Option<String>,
        /// Only those that CI runs
        #[arg(long, conflicts_with = "filter")]
        sampled: bool,
    },
    /// Read back from the kernel what an app asks for
    Limits,
    /// Boot one with Debian and systemd; with a package, install, upgrade and remove it under running tasks
    Debian(DebianArgs),
    /// Run the tests on real containers: a registry and a whole cluster in the guest
    E2e {
        /// Only tests whose names contain this
        filter: Option<String>,
        /// Processors of the guest
        #[arg(long, default_value_t = 2)]
        cpus: u32,
    },
}

/// Before a command that is to go without it.
const DROP_SYS_RESOURCE: [&str; 2] = ["/usr/bin/setpriv", "--bounding-set=-sys_resource"];

/// Runs the command.
pub(crate) fn run(args: &VmArgs) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("look for what is missing", || {
        let mut needs = vec![Need::Build, Need::Vm];
        if let What::Debian(args) = &args.what {
            needs.extend(args.needs());
        }
        setup::ensure(&needs)
    })?;
    let before = Snapshot::take();
    let bench = prepare(&mut steps)?;
    let done = match &args.what {
        What::Boot => boot(&bench, &mut steps),
        What::Runtime {
            filter,
            cpus,
            no_sys_resource,
        } => {
            let prefix: &[&str] = if *no_sys_resource {
                &DROP_SYS_RESOURCE
            } else {
                &[]
            };
            runtime(&bench, &mut steps, filter.as_deref(), *cpus, prefix).and_then(all_passed)
        }
        What::Node { filter, cpus, xfs } => {
            let data = match xfs {
                true => DataDisk::XfsProjects,
                false => DataDisk::Ext4Projects,
            };
            node::run(&bench, &mut steps, filter.as_deref(), *cpus, data).and_then(all_passed)
        }
        What::Smoke => smoke::run(&bench, &mut steps),
        What::Faults { filter, sampled } => {
            let choice = match filter {
                Some(part) => Choice::Named(part),
                None if *sampled => Choice::Sampled,
                None => Choice::All,
            };
            faults::run(&bench, &mut steps, choice).and_then(all_passed)
        }
        What::Debian(args) => debian::run(&bench, &mut steps, args),
        What::Limits => limits::run(&bench, &mut steps),
        What::E2e { filter, cpus } => {
            e2e(&bench, &mut steps, filter.as_deref(), *cpus).and_then(all_passed)
        }
    };
    let state = paths::target()?.join("vm");
    let clean = steps.run("leave the machine as it was", || {
        let others = leftovers::check(&before, &Scope::any_mezzo(&state), LEAVE_LIMIT)?;
        Ok(suite::told(&before, &others))
    });
    steps.print();
    done.and(clean)
}

fn all_passed(counts: Counts) -> Result<()> {
    let Counts { passed, failed, .. } = counts;
    if failed > 0 {
        bail!("{failed} of {} failed", passed + failed);
    }
    Ok(())
}

/// What `cargo xtask test --vm` adds; `all` brings what CI leaves out. What fails keeps nothing else from running.
pub(crate) fn suite(steps: &mut Steps, all: bool, counts: &mut Counts) {
    let Ok(bench) = prepare(steps) else {
        return;
    };
    let choice = if all { Choice::All } else { Choice::Sampled };
    type Part<'a> = &'a dyn Fn(&mut Steps) -> Result<Counts>;
    let parts: [(&str, Part<'_>); 7] = [
        ("smoke", &|steps| smoke::run(&bench, steps).map(|()| ONE)),
        ("faults", &|steps| faults::run(&bench, steps, choice)),
        ("limits", &|steps| limits::run(&bench, steps).map(|()| ONE)),
        ("runtime", &|steps| runtime(&bench, steps, None, 2, &[])),
        ("node", &|steps| {
            let (only, data) = (node::ONLY_IN_GUESTS, DataDisk::Ext4Projects);
            node::run(&bench, steps, Some(only), 2, data)
        }),
        ("quotas of XFS", &|steps| {
            let (only, data) = (node::OF_QUOTAS, DataDisk::XfsProjects);
            node::run(&bench, steps, Some(only), 2, data)
        }),
        ("package", &|steps| {
            installation(&bench, steps).map(|()| ONE)
        }),
    ];
    for (name, part) in parts {
        if interrupt::requested() {
            return;
        }
        match part(steps) {
            Ok(found) => counts.add(found),
            Err(error) => {
                println!("in virtual machines: {name}: {error:#}");
                counts.failed += 1;
            }
        }
    }
}

/// The package on Debian with systemd.
fn installation(bench: &Bench, steps: &mut Steps) -> Result<()> {
    let deb = dist::deb(steps, Profile::Dev)?;
    let args = DebianArgs {
        deb: Some(deb),
        upgrade: None,
    };
    debian::run(bench, steps, &args)
}

/// A part that is one test.
const ONE: Counts = Counts {
    passed: 1,
    failed: 0,
    skipped: 0,
};

fn prepare(steps: &mut Steps) -> Result<Bench> {
    steps.run("build the guest's agent", || {
        cargo::build_program("mezzo-guest")?;
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
    let mut guest = guest.context("the guest was not booted")?;
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

fn runtime(
    bench: &Bench,
    steps: &mut Steps,
    filter: Option<&str>,
    cpus: u32,
    prefix: &[&str],
) -> Result<Counts> {
    let mut tests = Vec::new();
    steps.run("build the runtime and its tests", || {
        tests = cargo::build_tests()?;
        tests.retain(|test| test.package == "mezzo-runtime");
        Ok(format!("{} test programs", tests.len()))
    })?;
    let scratch = Scratch::create()?;
    let mut spec = guest_of_tests("runtime", &tests, cpus)?;
    add_same(&mut spec, "mezzo-launcher")?;
    add_probe(&mut spec, &scratch, "runtime/tests/common/probe.c")?;
    let parser = bench.program("apparmor", "sbin/apparmor_parser")?;
    spec.with_program(&parser, "/usr/sbin/apparmor_parser")?;
    let words: Vec<&str> = filter.into_iter().collect();
    run_tests(bench, steps, spec, &tests, (prefix, &words))
}

fn e2e(bench: &Bench, steps: &mut Steps, filter: Option<&str>, cpus: u32) -> Result<Counts> {
    let mut tests = Vec::new();
    let mut sleep = PathBuf::new();
    steps.run("build mezzo and the tests on real containers", || {
        setup::ensure(&[Need::Cluster])?;
        tests = cargo::build_tests()?;
        tests.retain(|test| test.package == "mezzo-integration" && test.kind == "test");
        sleep = images::build_sleep()?;
        Ok(format!("{} test programs", tests.len()))
    })?;
    let scratch = Scratch::create()?;
    let mut spec = guest_of_tests("e2e", &tests, cpus)?;
    for name in ["mezzo", "example-rust-framework"] {
        add_same(&mut spec, name)?;
    }
    spec.with_program(&registry::find_binary()?, "/usr/local/bin/docker-registry")?;
    spec.with_same(&sleep);
    spec.with_same(&paths::workspace().join("examples/apps"));
    // What tests ask cargo for has been built here.
    scratch.script(&mut spec, "cargo", "exit 0\n")?;
    let host = sleep
        .ancestors()
        .nth(2)
        .and_then(Path::file_name)
        .context("the target's name")?;
    scratch.script(
        &mut spec,
        "rustc",
        &format!("echo host: {}\n", host.to_string_lossy()),
    )?;
    let mut words = vec!["--test-threads", "1", "--nocapture"];
    words.extend(filter);
    run_tests(bench, steps, spec, &tests, (&[], &words))
}

/// What a cluster of guests needs, without what only a debugger reads: every guest holds it in memory.
fn programs(steps: &mut Steps) -> Result<Programs> {
    let mut programs = None;
    steps.run("build mezzo and the sleep program", || {
        setup::ensure(&[Need::Cluster])?;
        cargo::build_program("mezzo")?;
        let mezzo = paths::target()?.join("vm/mezzo");
        let mut strip = Command::new("strip");
        process::output(strip.arg("-o").arg(&mezzo).arg(paths::program("mezzo")?))?;
        programs = Some(Programs {
            mezzo,
            registry: registry::find_binary()?,
            sleep: images::build_sleep()?,
        });
        Ok(String::new())
    })?;
    programs.context("nothing was built")
}

/// The programs at their own paths, for tests know each other's.
fn guest_of_tests(name: &str, tests: &[TestProgram], cpus: u32) -> Result<GuestSpec> {
    let mut spec = GuestSpec::new(name);
    spec.memory_mb = 1536;
    spec.cpus = cpus;
    // Not in memory: overlays and stores want a disk, as they have it on a real node.
    spec.disk_mb = Some(4096);
    // Tests ask them for what busybox's own cannot do (whose shell would take its own first).
    for name in [
        "setpriv", "mount", "umount", "unshare", "nsenter", "ip", "sh",
    ] {
        if let Some(path) = paths::on_path(name) {
            spec.with_program(&path, &format!("/usr/bin/{name}"))?;
        }
    }
    for test in tests {
        spec.with_program(&test.path, &test.path.to_string_lossy())?;
        // Their snapshots, and the folder that they start in.
        spec.with_same(&test.dir.join("src"));
    }
    Ok(spec)
}

/// What tests put into their containers, and a compiler that makes nothing else.
fn add_probe(spec: &mut GuestSpec, scratch: &Scratch, source: &str) -> Result<()> {
    let probe = scratch.0.join("probe");
    let mut compile = Command::new("cc");
    compile.args(["-static", "-O1", "-o"]).arg(&probe);
    process::output(compile.arg(paths::workspace().join(source)))?;
    spec.with(&probe, "/usr/local/lib/probe");
    scratch.script(
        spec,
        "cc",
        "while [ \"$1\" != -o ]; do shift; done\nexec cp /usr/local/lib/probe \"$2\"\n",
    )
}

/// A program of the workspace and what it needs.
fn add_program(spec: &mut GuestSpec, name: &str, guest: &str) -> Result<()> {
    spec.with_program(&paths::program(name)?, guest)?;
    // Clients of registries load the system's certificates before they know whether they need them.
    spec.with_same(Path::new("/etc/ssl/certs/ca-certificates.crt"));
    Ok(())
}

/// The same, where tests look for it.
fn add_same(spec: &mut GuestSpec, name: &str) -> Result<()> {
    let path = paths::program(name)?;
    add_program(spec, name, &path.to_string_lossy())
}

/// Boots the guest, runs every test program in it, and looks whether they left something behind.
fn run_tests(
    bench: &Bench,
    steps: &mut Steps,
    spec: GuestSpec,
    tests: &[TestProgram],
    around: (&[&str], &[&str]),
) -> Result<Counts> {
    let mut guest = None;
    steps.run("boot a guest with them", || {
        unified(guest.insert(Guest::boot(bench, spec)?))
    })?;
    let mut guest = guest.context("the guest was not booted")?;
    guest.sh("mkdir -p /data/tmp /data/e2e")?;
    let mut sum = Counts::default();
    for test in tests {
        if interrupt::requested() {
            bail!("interrupted");
        }
        let name = format!("in the guest: {} {}", test.kind, test.target);
        let _in_the_table = steps.run(&name, || {
            let counts = run_test(&guest, test, around)?;
            sum.add(counts);
            let told = format!("{} passed, {} failed", counts.passed, counts.failed);
            if counts.failed > 0 {
                bail!("{told}")
            } else {
                Ok(told)
            }
        });
    }
    let clean = steps.run("nothing is left in the guest", || {
        let left = guest
            .sh("find /sys/fs/cgroup -mindepth 1 -type d; grep overlay /proc/mounts || true")?;
        if left.trim().is_empty() {
            Ok("no cgroup, no overlay".to_owned())
        } else {
            bail!("left behind: {}", left.trim().replace('\n', ", "))
        }
    });
    if sum.failed > 0 || clean.is_err() {
        guest.keep_console();
    }
    clean?;
    guest.power_off()?;
    Ok(sum)
}

/// `around` is what stands before and after the program on its command line.
fn run_test(guest: &Guest, test: &TestProgram, around: (&[&str], &[&str])) -> Result<Counts> {
    let program = test.path.to_string_lossy();
    let dir = test.dir.to_string_lossy();
    let run = Run::new(&[around.0, &[&*program], around.1].concat())
        .cwd(&dir)
        .env("CARGO_MANIFEST_DIR", &dir)
        .env("TMPDIR", "/data/tmp")
        .env("MEZZO_E2E_DIR", "/data/e2e")
        .env("INSTA_UPDATE", "no")
        .env("RUST_BACKTRACE", "1");
    let ended = guest
        .start(&run)?
        .follow(TEST_LIMIT, |text| print!("{text}"))?;
    for line in ended.stderr.lines() {
        println!("  {line}");
    }
    let mut counts = Counts::default();
    for line in ended.stdout.lines() {
        counts.add(runner::closing_line(line).unwrap_or_default());
    }
    if counts.failed == 0 && ended.exit != Exit::Code(0) {
        bail!("{program} ended with {}", ended.exit);
    }
    Ok(counts)
}

/// A folder for what goes into a guest and nowhere else, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    /// A script in place of a program that the guest does not have.
    fn script(&self, spec: &mut GuestSpec, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}"))
            .with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", path.display()))?;
        spec.with(&path, &format!("/usr/local/bin/{name}"));
        Ok(())
    }

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
