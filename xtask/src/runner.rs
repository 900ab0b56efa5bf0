//! Runs test executables and counts: what libtest prints is passed on or kept, and its closing line is read.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};
use mezzo_integration::process;

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
pub(crate) fn run(command: &mut Command, show: Show) -> Result<Counts> {
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
    if !status.success() && counts.failed == 0 {
        println!("  `{line}` ended with {}", process::tell(status));
        counts.failed = 1;
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
    Ok(counts)
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
        let counts = run(&mut sh(script), Show::Failures).expect("runs");
        assert_eq!(
            counts,
            Counts {
                passed: 3,
                failed: 0,
                skipped: 1
            }
        );
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let counts = run(&mut sh("kill -9 $$"), Show::Failures).expect("runs");
        assert_eq!(counts.failed, 1);
    }
}
