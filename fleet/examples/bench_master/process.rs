//! A part of this program as a process of its own, so that its processor time and memory can be told apart.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Clock ticks per second in `/proc/PID/stat`: the same on every Linux that Rust knows.
const TICKS: f64 = 100.0;

/// A part of this program as a process. Killed when it is dropped.
pub(super) struct Process {
    pub(super) child: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub(super) fn start(words: &[String]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("part")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {words:?}"))?;
        let words = child.stdin.take().context("its standard input")?;
        let answers = child.stdout.take().context("its standard output")?;
        Ok(Self {
            child,
            words,
            answers: BufReader::new(answers),
        })
    }

    /// Its next line.
    pub(super) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "a part of the benchmark ended");
        Ok(line.trim().to_owned())
    }

    /// What it answers to that word.
    pub(super) fn ask(&mut self, word: &str) -> Result<Value> {
        writeln!(self.words, "{word}")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// Seconds of processor time so far.
    pub(super) fn cpu(&self) -> Result<f64> {
        cpu_of(&self.child.id().to_string())
    }

    /// KiB: its own pages, and its share of those that it has with others.
    pub(super) fn pss(&self) -> Result<f64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.with_context(|| format!("{path} has no Pss"))?.parse()?)
    }
}

/// Of a process, user and system, all its threads.
pub(super) fn cpu_of(pid: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // Behind the name, which may hold anything.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

pub(super) fn start_master(listen: SocketAddr, dir: &Path) -> Result<(Process, SocketAddr)> {
    let dir = dir.display().to_string();
    let mut master = Process::start(&["serve".to_owned(), listen.to_string(), dir])?;
    let address = master.line()?.parse().context("the master's address")?;
    Ok((master, address))
}
