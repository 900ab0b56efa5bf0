//! Our side: the program `runtime/examples/bench_launch.rs`, which holds a runtime and answers one line for each
//! command. Dropping it ends it, and with it all that it runs.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mezzo_integration::{interrupt, leftovers, paths, process, wait};
use serde_json::Value;

use crate::cargo;

/// How long it may take to end all that it runs.
const GRACE: Duration = Duration::from_secs(120);

/// A running driver.
#[derive(Debug)]
pub(super) struct Driver {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

/// Builds it, optimised, and returns its path.
pub(super) fn build() -> Result<PathBuf> {
    cargo::run(&[
        "build",
        "--release",
        "--package",
        "mezzo-runtime",
        "--example",
        "bench_launch",
    ])?;
    Ok(paths::target()?.join("release/examples/bench_launch"))
}

/// Its command line, without a case.
pub(super) fn words(dir: &Path, program: &Path, cgroup: &str) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    [
        "--dir".to_owned(),
        text(dir),
        "--program".to_owned(),
        text(program),
        "--cgroup".to_owned(),
        cgroup.to_owned(),
    ]
    .to_vec()
}

impl Driver {
    /// Starts one that keeps its state in `dir`.
    pub(super) fn start(driver: &Path, dir: &Path, program: &Path, cgroup: &str) -> Result<Self> {
        let log = dir.with_extension("log");
        let errors = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut child = Command::new(driver)
            .args(words(dir, program, cgroup))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            // Ctrl-C reaches only us.
            .process_group(0)
            .env(leftovers::MARKER, dir)
            .spawn()
            .with_context(|| format!("start {}", driver.display()))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("the driver has no output")?;
        let mut driver = Self {
            child,
            input,
            output: BufReader::new(output),
            log,
        };
        driver.answer()?;
        Ok(driver)
    }

    /// One command, and the answer to it.
    pub(super) fn ask(&mut self, command: &str) -> Result<Value> {
        let input = self.input.as_mut().context("the driver has ended")?;
        writeln!(input, "{command}").with_context(|| format!("ask the driver for {command}"))?;
        self.answer().with_context(|| format!("ask for {command}"))
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .context("read the driver's answer")?;
        if line.is_empty() {
            bail!("the driver ended:\n{}", process::tail(&self.log, 10));
        }
        serde_json::from_str(&line).with_context(|| format!("the driver answered {line}"))
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) -> Result<()> {
        let status = self.end()?;
        ensure!(
            status.success(),
            "the driver ended with {}:\n{}",
            process::tell(status),
            process::tail(&self.log, 10)
        );
        Ok(())
    }

    fn end(&mut self) -> Result<ExitStatus> {
        // The end of its input is the sign.
        self.input = None;
        wait::until("the driver to end", GRACE, || {
            let ended = self.child.try_wait().context("wait for the driver")?;
            ended.context("it still runs")
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The signal that began this must not end the waiting.
        interrupt::take();
        if self.end().is_err() {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// A number in an answer.
pub(super) fn number(answer: &Value, name: &str) -> Result<f64> {
    let value = answer[name].as_f64();
    value.with_context(|| format!("the driver tells no {name}: {answer}"))
}
