//! `cargo xtask test`: all checks in the order of cheapness, then a look whether the machine is as it was.
//!
//! Every part runs even if one before it failed: one run tells everything. The last line is the count of tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mezzo_integration::leftovers::{self, Difference, Scope, Snapshot};
use mezzo_integration::{images, interrupt, paths};

use crate::cargo::{self, TestProgram};
use crate::runner::{self, Counts, Show};
use crate::setup::{self, Need};
use crate::steps::{Steps, seconds};
use crate::{Part, TestArgs, alerts, vagrant, vm};

/// Tests of this crate's `tests/` need a cluster; everything else is a unit test.
const E2E_PACKAGE: &str = "mezzo-integration";

/// How many changes by other programs are listed.
const OTHERS_TOLD: usize = 12;

/// Runs the command.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let start = Instant::now();
    let plan = Plan::new(args);
    let mut steps = Steps::default();
    if !args.quick || plan.e2e {
        steps.run("look for what is missing", || setup::ensure(&plan.needs()))?;
        // The tests that compare with other tools say themselves that they are skipped.
        if plan.unit
            && !plan.quick
            && let Err(error) = setup::ensure(&[Need::Compare])
        {
            println!("  {error:#}");
        }
    }
    let before = Snapshot::take();
    let scratch = Scratch::create()?;
    let mut counts = Counts::default();
    checks(&plan, &mut steps);
    if plan.vagrant && !interrupt::requested() {
        let _in_the_table = steps.run("files for vagrant", vagrant::check);
    }
    if plan.alerts && !interrupt::requested() {
        let _in_the_table = steps.run("alerts for Prometheus", alerts::check);
    }
    if plan.unit || plan.e2e {
        tests(&plan, &mut steps, &scratch, &mut counts);
    }
    if plan.vm && !interrupt::requested() {
        vm::suite(&mut steps, plan.all, &mut counts);
    }
    let interrupted = interrupt::take();
    let _in_the_table = steps.run("leave the machine as it was", || clean_up(&before, scratch));
    steps.print();
    println!("whole run: {}", seconds(start.elapsed()));
    // A step that failed without a test is a failure too: a red run never ends with "0 failed".
    let failed = counts.failed.max(steps.failed());
    println!("{}", closing_line(Counts { failed, ..counts }));
    if interrupted {
        bail!("interrupted");
    }
    if failed > 0 {
        bail!("{} of {} steps failed", steps.failed(), steps.len());
    }
    Ok(())
}

/// What was asked for.
struct Plan {
    lint: bool,
    vagrant: bool,
    alerts: bool,
    unit: bool,
    e2e: bool,
    quick: bool,
    all: bool,
    vm: bool,
    filter: Option<String>,
}

impl Plan {
    fn new(args: &TestArgs) -> Self {
        let part = |part: Part| args.part.is_none_or(|only| only == part);
        Self {
            lint: part(Part::Lint),
            vagrant: part(Part::Vagrant) && !(args.quick && args.part.is_none()),
            alerts: part(Part::Alerts) && !(args.quick && args.part.is_none()),
            unit: part(Part::Unit),
            e2e: part(Part::E2e) && !(args.quick && args.part.is_none()),
            quick: args.quick,
            all: args.all,
            vm: args.vm,
            filter: args.filter.clone(),
        }
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = vec![Need::Build];
        if self.lint && !self.quick {
            needs.push(Need::Deny);
        }
        if self.vm {
            needs.extend([Need::Vm, Need::Debian, Need::Package, Need::Cluster]);
        }
        if self.e2e {
            needs.extend([Need::Cluster, Need::Python]);
        }
        needs
    }
}

fn checks(plan: &Plan, steps: &mut Steps) {
    let mut check = |name: &str, run: &dyn Fn() -> Result<()>| {
        if !interrupt::requested() {
            let _in_the_table = steps.run(name, || run().map(|()| String::new()));
        }
    };
    if !plan.lint {
        return;
    }
    check("formatting", &|| cargo::run(&["fmt", "--all", "--check"]));
    check("clippy", &|| {
        cargo::run(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    });
    if plan.quick {
        return;
    }
    check("licences, bans, sources", &|| {
        let mut deny = Command::new(setup::deny_program()?);
        // Advisories would need a database that build machines cannot reach.
        deny.args([
            "--log-level",
            "error",
            "check",
            "bans",
            "licenses",
            "sources",
        ]);
        cargo::shown(deny.current_dir(paths::workspace()))
    });
    check("documentation", &|| {
        let mut doc = images::cargo();
        doc.args(["doc", "--quiet", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings");
        cargo::shown(&mut doc)
    });
}

fn tests(plan: &Plan, steps: &mut Steps, scratch: &Scratch, counts: &mut Counts) {
    let mut programs = Vec::new();
    let built = steps.run("build", || {
        programs = cargo::build_tests()?;
        Ok(format!("{} test programs", programs.len()))
    });
    if built.is_err() {
        return;
    }
    let before = counts.passed + counts.failed;
    let (e2e, unit): (Vec<_>, Vec<_>) = programs
        .into_iter()
        .partition(|program| program.package == E2E_PACKAGE && program.kind == "test");
    if plan.unit {
        for (package, programs) in by_package(unit) {
            let _in_the_table = steps.run(&format!("unit tests of {package}"), || {
                run_programs(&programs, Show::Failures, plan, scratch, counts)
            });
        }
    }
    if plan.unit && !interrupt::requested() {
        let _in_the_table = steps.run("examples in the documentation", || examples(plan, counts));
    }
    if plan.e2e && !interrupt::requested() {
        if let Err(error) = images::build_sleep() {
            let _in_the_table = steps.run("build the sleep program", || Err(error));
            return;
        }
        for program in e2e {
            let name = format!("on real containers: {}", program.target);
            let _in_the_table = steps.run(&name, || {
                run_programs(&[program], Show::All, plan, scratch, counts)
            });
        }
    }
    if let Some(filter) = &plan.filter
        && counts.passed + counts.failed == before
        && !interrupt::requested()
    {
        let _in_the_table = steps.run("look for the tests", || {
            bail!("no test and no test program has {filter:?} in its name")
        });
    }
}

/// What doc comments show: compiled and run, as whoever reads them would.
fn examples(plan: &Plan, counts: &mut Counts) -> Result<String> {
    let mut command = images::cargo();
    command.args(["test", "--quiet", "--workspace", "--doc"]);
    command.args(plan.filter.iter().flat_map(|filter| ["--", filter]));
    let ran = runner::run(&mut command, Show::Failures)?;
    counts.add(ran.counts);
    verdict(ran.counts, &ran.failures)
}

fn by_package(programs: Vec<TestProgram>) -> BTreeMap<String, Vec<TestProgram>> {
    let mut found: BTreeMap<String, Vec<TestProgram>> = BTreeMap::new();
    for program in programs {
        found
            .entry(program.package.clone())
            .or_default()
            .push(program);
    }
    found
}

/// What `--all` asks of the tests that are sampled otherwise. Whoever sets one of them has it as it is.
const LONG_RUNS: [(&str, &str); 8] = [
    ("MEZZO_CHAOS_SECS", "600"),
    ("MEZZO_CRASH_ROUNDS", "100"),
    ("MEZZO_E2E_ALL", "1"),
    ("MEZZO_HA_ROUNDS", "50"),
    ("MEZZO_MEASURE_TASKS", "1000"),
    ("MEZZO_SEEDS", "10000"),
    ("MEZZO_STORM_TASKS", "1000"),
    ("MEZZO_USAGE_SECS", "600"),
];

fn run_programs(
    programs: &[TestProgram],
    show: Show,
    plan: &Plan,
    scratch: &Scratch,
    counts: &mut Counts,
) -> Result<String> {
    let mut sum = Counts::default();
    let mut failures = Vec::new();
    for program in programs {
        if interrupt::requested() {
            bail!("interrupted");
        }
        let mut command = Command::new(&program.path);
        command
            .current_dir(&program.dir)
            .env("CARGO_MANIFEST_DIR", &program.dir);
        command
            .env("TMPDIR", &scratch.tmp)
            .env("MEZZO_E2E_DIR", &scratch.e2e)
            .env(leftovers::MARKER, "test");
        command.env("INSTA_UPDATE", "no").env("RUST_BACKTRACE", "1");
        if show == Show::All {
            // One cluster and one machine: what one test kills must not be what another counts.
            command
                .args(["--test-threads", "1", "--nocapture"])
                .env("MEZZO_PYTHON", setup::python_program()?);
        }
        for (name, value) in LONG_RUNS.iter().filter(|_| plan.all) {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        // Who names a whole program wants all that is in it.
        let filter = plan.filter.as_ref();
        command.args(filter.filter(|filter| !program.target.contains(filter.as_str())));
        let ran = runner::run(&mut command, show)?;
        sum.add(ran.counts);
        failures.extend(ran.failures);
    }
    counts.add(sum);
    verdict(sum, &failures)
}

fn verdict(sum: Counts, failures: &[String]) -> Result<String> {
    if sum.failed > 0 {
        bail!("{}\n{}", closing_line(sum), failures.join("\n"));
    }
    Ok(closing_line(sum))
}

/// Where tests may write: emptied by them, looked at and removed by us.
struct Scratch {
    /// `TMPDIR`. Short, for sockets may have 108 bytes of path.
    tmp: PathBuf,
    /// State of clusters; the logs of failed ones stay here.
    e2e: PathBuf,
}

impl Scratch {
    fn create() -> Result<Self> {
        let tmp = std::env::temp_dir().join(format!("mezzo-test-{}", std::process::id()));
        let e2e = paths::target()?.join("e2e");
        for dir in [&tmp, &e2e] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        Ok(Self { tmp, e2e })
    }
}

fn clean_up(before: &Snapshot, scratch: Scratch) -> Result<String> {
    let left: Vec<String> = names(&scratch.tmp);
    fs::remove_dir_all(&scratch.tmp)
        .with_context(|| format!("remove {}", scratch.tmp.display()))?;
    let others = leftovers::check(
        before,
        &Scope::any_mezzo(&scratch.e2e),
        Duration::from_secs(60),
    )?;
    if !left.is_empty() {
        bail!("tests left files behind in TMPDIR: {}", left.join(", "));
    }
    Ok(told(before, &others))
}

/// "the same processes, 18 mounts, …"; what others did meanwhile is listed above it.
pub(crate) fn told(before: &Snapshot, others: &[Difference]) -> String {
    let counts = before.counts();
    for other in others.iter().take(OTHERS_TOLD) {
        println!("  not ours: {}: {}", other.kind, other.what);
    }
    let others = others.len();
    let noise = if others == 0 {
        String::new()
    } else {
        format!("; {others} changes by other programs")
    };
    format!(
        "the same processes, {} mounts, {} cgroups, {} links and files{noise}",
        counts.mounts, counts.cgroups, counts.links
    )
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn closing_line(counts: Counts) -> String {
    let Counts {
        passed,
        failed,
        skipped,
    } = counts;
    let skipped = if skipped == 0 {
        String::new()
    } else {
        format!(", {skipped} skipped")
    };
    format!("{passed} passed, {failed} failed{skipped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(part: Option<Part>, quick: bool) -> (bool, bool, bool) {
        let plan = Plan::new(&TestArgs {
            part,
            filter: None,
            quick,
            all: false,
            vm: false,
        });
        (plan.lint, plan.unit, plan.e2e)
    }

    #[test]
    fn runs_everything_or_the_part_asked_for() {
        assert_eq!(plan(None, false), (true, true, true));
        assert_eq!(plan(None, true), (true, true, false));
        assert_eq!(plan(Some(Part::Unit), false), (false, true, false));
        assert_eq!(plan(Some(Part::E2e), true), (false, false, true));
    }

    #[test]
    fn the_last_line_is_what_ci_reads() {
        assert_eq!(
            closing_line(Counts {
                passed: 12,
                failed: 0,
                skipped: 0
            }),
            "12 passed, 0 failed"
        );
        assert_eq!(
            closing_line(Counts {
                passed: 12,
                failed: 1,
                skipped: 2
            }),
            "12 passed, 1 failed, 2 skipped"
        );
    }
}
