//! `cargo xtask fuzz`: the fuzz targets of the images crate (images/src/fuzz) with time and a seed of their own.
//!
//! The targets are tests, so that they reach private parsers and `cargo test` runs a sample of each; here they are
//! built with optimisation and with overflow checks, run as many at once as there are processors, and told in a table.
//! What a failure leaves is a file below target/fuzz-results.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use mezzo_integration::{interrupt, paths, process};

use crate::cargo::{self, TestProgram};
use crate::steps::seconds;
use crate::table;

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only these targets, such as `tar` or `manifest`
    targets: Vec<String>,
    /// How long each of them runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// The same run again
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Tests of this prefix are targets.
const PREFIX: &str = "fuzz::target_";
/// Beyond its time, for seeds and past failures; the targets end themselves when one execution hangs.
const GRACE: Duration = Duration::from_secs(300);

/// Runs the command.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let program = cargo::build_unit_tests("mezzo-images", "fuzz")?;
    let known = targets(&process::output(
        Command::new(&program.path).args([PREFIX, "--list"]),
    )?);
    if let Some(name) = args.targets.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no target `{name}`; there are {}",
            known.join(", ")
        );
    }
    let chosen = if args.targets.is_empty() {
        known
    } else {
        args.targets.clone()
    };
    let out = paths::target()?.join("fuzz-results");
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    // Layers are unpacked thousands of times: in memory, where there is such a place.
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() {
        memory.to_path_buf()
    } else {
        std::env::temp_dir()
    };
    let scratch = base.join(format!("mezzo-fuzz-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    let told = all(&program, args, &chosen, &out, &scratch);
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    let told = told?;
    let rows: Vec<Vec<String>> = told
        .iter()
        .map(|run| {
            let mark = if run.passed { "✔" } else { "✘" };
            vec![mark.to_owned(), run.target.clone(), run.words.clone()]
        })
        .collect();
    print!(
        "\n{}",
        table::render(&["", "target", "what came of it"], &rows, &[])
    );
    if interrupt::take() {
        bail!("interrupted");
    }
    let failed = told.iter().filter(|run| !run.passed).count();
    if failed > 0 {
        bail!(
            "{failed} of {} targets failed; logs and inputs are in {}",
            told.len(),
            out.display()
        );
    }
    Ok(())
}

/// The targets in what `--list` says.
fn targets(list: &str) -> Vec<String> {
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    tests
        .filter_map(|name| name.strip_prefix(PREFIX))
        .map(str::to_owned)
        .collect()
}

/// How one target ended.
struct Run {
    target: String,
    passed: bool,
    words: String,
}

fn all(
    program: &TestProgram,
    args: &FuzzArgs,
    chosen: &[String],
    out: &Path,
    scratch: &Path,
) -> Result<Vec<Run>> {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let mut waiting = chosen.iter();
    let mut running: Vec<(String, Instant, process::Managed)> = Vec::new();
    let mut told = Vec::new();
    loop {
        while running.len() < at_once
            && let Some(target) = waiting.next()
        {
            let mut command = Command::new(&program.path);
            command
                .args([&format!("{PREFIX}{target}"), "--exact", "--nocapture"])
                .current_dir(&program.dir)
                .env("CARGO_MANIFEST_DIR", &program.dir)
                .env("MEZZO_FUZZ_SECONDS", args.seconds.to_string())
                .env("MEZZO_FUZZ_OUT", out)
                .env("TMPDIR", scratch);
            if let Some(seed) = args.seed {
                command.env("MEZZO_FUZZ_SEED", seed.to_string());
            }
            println!("  {target}: {}", seconds(Duration::from_secs(args.seconds)));
            let log = out.join(format!("{target}.log"));
            // Of an earlier run.
            let _ = fs::remove_file(&log);
            let process = process::Managed::spawn(target, &mut command, &log)?;
            running.push((target.clone(), Instant::now(), process));
        }
        if running.is_empty() {
            return Ok(told);
        }
        let mut at = 0;
        while at < running.len() {
            let (target, since, process) = &mut running[at];
            let late = since.elapsed() > Duration::from_secs(args.seconds) + GRACE;
            let ended = process.ended()?;
            if ended.is_none() && !late && !interrupt::requested() {
                at += 1;
                continue;
            }
            let log = fs::read_to_string(process.log()).unwrap_or_default();
            let words = if late {
                "it does not end".to_owned()
            } else {
                outcome(&log, target)
            };
            let passed = ended.is_some_and(|status| status.success());
            println!("  {target}: {words}");
            told.push(Run {
                target: target.clone(),
                passed,
                words,
            });
            // Dropped, and so ended if it has not.
            running.swap_remove(at);
        }
        if interrupt::requested() {
            return Ok(told);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The last count that a target told, or what it failed with.
fn outcome(log: &str, target: &str) -> String {
    let failed = log
        .lines()
        .find(|line| line.contains(" fails with seed ") || line.contains("; the input is "));
    let counted = format!("fuzz {target}: ");
    let count = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(&counted));
    failed.or(count).unwrap_or("it told nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_targets_among_the_tests() {
        let list = "fuzz::target_tar: test\nfuzz::target_manifest: test\nfuzz::driver::other: test\n\n2 tests, 0 benchmarks\n";
        assert_eq!(targets(list), ["tar", "manifest"]);
    }

    #[test]
    fn tells_the_last_count_or_the_failure() {
        let counts = "running 1 test\nfuzz tar: 1 executions in 1 s\nfuzz tar: 2 executions in 2 s\ntest ... ok\n";
        assert_eq!(outcome(counts, "tar"), "2 executions in 2 s");
        let failure = format!("{counts}tar fails with seed 7: a panic\n");
        assert_eq!(outcome(&failure, "tar"), "tar fails with seed 7: a panic");
        assert_eq!(outcome("", "tar"), "it told nothing");
    }
}
