//! Runs test executables and counts: what libtest prints is passed on or kept, and its closing line is read.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};
use mezzo_integration::process;

/// Of one program: as many lines tell what failed.
const TOLD: usize = 40;
/// As many follow a panic or an error.
const FOLLOWING: usize = 5;

/// A run of one program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) counts: Counts,
    /// What failed, and its first words: for the end of a long run, where nobody has to look for it.
    pub(crate) failures: Vec<String>,
}

/// What ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Tests that said why they could not run here.
    pub(crate) skipped: usize,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// How much of a program's output is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Every line as it comes.
    All,
    /// Everything, but only if a test failed; else the lines that tell what was skipped.
    Failures,
}

/// Runs one test executable. A program that dies without its closing line counts as one failure.
pub(crate) fn run(command: &mut Command, show: Show) -> Result<Run> {
    let line = process::command_line(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run `{line}`"))?;
    let stdout = child.stdout.take().context("its output")?;
    let stderr = child.stderr.take().context("its errors")?;
    // Both at once: a pipe that nobody reads stops the program when it is full.
    let (out, err) = thread::scope(|scope| {
        let err = scope.spawn(|| follow(stderr, show));
        (follow(stdout, show), err.join().unwrap_or_default())
    });
    let status = child.wait().with_context(|| format!("wait for `{line}`"))?;
    let mut counts = out.iter().filter_map(|line| closing_line(line)).fold(
        Counts::default(),
        |mut sum, counts| {
            sum.add(counts);
            sum
        },
    );
    counts.skipped += out
        .iter()
        .chain(&err)
        .filter(|line| line.starts_with("skipped: "))
        .count();
    let mut failures = Vec::new();
    if !status.success() && counts.failed == 0 {
        failures.push(format!("`{line}` ended with {}", process::tell(status)));
        println!("  {}", failures[0]);
        counts.failed = 1;
    }
    if counts.failed > 0 {
        failures.extend(tell_failures(&out));
        failures.extend(tell_failures(&err));
    }
    if show == Show::Failures {
        let failed = counts.failed > 0;
        for line in out
            .iter()
            .chain(&err)
            .filter(|line| failed || line.starts_with("skipped: "))
        {
            println!("  {line}");
        }
    }
    Ok(Run { counts, failures })
}

/// The names of tests that failed, and the beginnings of panics and errors.
fn tell_failures(lines: &[String]) -> Vec<String> {
    let mut told = Vec::new();
    let mut following = 0;
    for line in lines {
        let begins = line.contains("panicked at ") || line.starts_with("Error: ");
        let names = line.starts_with("test ") && line.ends_with(" FAILED");
        if begins {
            following = FOLLOWING;
        } else if line.starts_with("stack backtrace:") || line.is_empty() {
            following = 0;
        }
        if (begins || names || following > 0 || line.starts_with("left behind: "))
            && told.len() < TOLD
        {
            told.push(line.clone());
        }
        following = following.saturating_sub(usize::from(!begins));
    }
    told
}

fn follow(stream: impl Read, show: Show) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(stream)
        .split(b'\n')
        .map_while(|line| line.ok())
    {
        let line = String::from_utf8_lossy(&line).into_owned();
        if show == Show::All {
            println!("  {line}");
        }
        lines.push(line);
    }
    lines
}

/// "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; …"
pub(crate) fn closing_line(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let part = rest
            .split([';', '.'])
            .map(str::trim)
            .find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn reads_the_closing_line() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.08s";
        assert_eq!(
            closing_line(line),
            Some(Counts {
                passed: 12,
                failed: 2,
                skipped: 1
            })
        );
        assert_eq!(closing_line("running 3 tests"), None);
    }

    #[test]
    fn counts_what_ran_and_what_was_skipped() {
        let script = "echo 'skipped: needs root' >&2; echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured'";
        let ran = run(&mut sh(script), Show::Failures).expect("runs");
        let counts = Counts {
            passed: 3,
            failed: 0,
            skipped: 1,
        };
        let failures = Vec::new();
        assert_eq!(ran, Run { counts, failures });
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let ran = run(&mut sh("kill -9 $$"), Show::Failures).expect("runs");
        assert_eq!(ran.counts.failed, 1);
        assert_eq!(ran.failures.len(), 1);
    }

    #[test]
    fn what_failed_is_told_in_short() {
        let lines = "test one ... ok\ntest two ... FAILED\n\nthread 'two' (7) panicked at src/x.rs:1:2:\n\
            assertion `left == right` failed\n  left: 1\n right: 2\nstack backtrace:\n   0: much";
        let lines: Vec<_> = lines.lines().map(str::to_owned).collect();
        let told = tell_failures(&lines);
        assert_eq!(told, [&lines[1..2], &lines[3..7]].concat());
    }
}
