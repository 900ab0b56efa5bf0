//! One running guest: QEMU as a child, its serial console in a file, and a line to `mezzo-guest` inside.
//!
//! Everything ends with the [`Guest`]: QEMU, its folder, its disks. If that happens in a panic, or was asked for with
//! [`Guest::keep_console`], the serial console stays below `target/vm/logs`, and one line tells the likely cause.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::bench::Bench;
use super::emulator::{self, EMULATOR};
use super::line::{Answer, End, Line};
use super::protocol::{self, CHUNK, Kind};
use super::spec::{Ended, GuestSpec, Run};
use crate::interrupt;
use crate::process::{self, Managed};

/// At full speed; stretched.
const FILE_LIMIT: Duration = Duration::from_secs(20);
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);

/// A command that runs on while the test does other things.
#[derive(Debug)]
pub struct Job<'guest> {
    guest: &'guest Guest,
    request: u32,
    line: String,
}

impl Job<'_> {
    /// Waits for its end.
    pub fn wait(self, within: Duration) -> Result<Ended> {
        self.follow(within, |_| {})
    }

    /// Waits for its end; `heard` gets what it writes to stdout as it comes, in whole lines.
    pub fn follow(self, within: Duration, mut heard: impl FnMut(&str)) -> Result<Ended> {
        let line = &self.guest.line;
        let mut told = 0;
        let limit = self.guest.limit(within);
        let ended = line.wait(self.request, &self.line, limit, |answer| {
            let new = &answer.stdout[told..];
            let whole = match answer.end {
                Some(_) => new.len(),
                None => new
                    .iter()
                    .rposition(|&byte| byte == b'\n')
                    .map_or(0, |at| at + 1),
            };
            if whole > 0 {
                heard(&String::from_utf8_lossy(&new[..whole]));
                told += whole;
            }
            answer.end.clone()
        });
        let end = ended.inspect_err(|_| {
            let _best_effort = self.signal(nix::libc::SIGKILL);
        })?;
        let answer = line.forget(self.request).unwrap_or_default();
        self.ended(answer, end)
    }

    fn ended(self, answer: Answer, end: End) -> Result<Ended> {
        let guest = self.guest;
        let exit = match end {
            End::Exited(exit) => exit,
            End::Failed(told) => bail!("{} in the guest: {told}", self.line),
            End::Complete => bail!("{} in the guest: answered like a file", self.line),
            End::Gone => bail!("{}: {}", self.line, guest.why_gone()),
        };
        let mut stdout = String::from_utf8_lossy(&answer.stdout).into_owned();
        if answer.cut {
            stdout.push_str("\n(more than is kept)\n");
        }
        Ok(Ended {
            line: self.line,
            exit,
            stdout,
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })
    }

    /// Sends a signal to it and its children.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let number = u8::try_from(signal).context("the number of a signal")?;
        self.guest.line.tell(self.request, Kind::Signal, &[number])
    }

    /// What it wrote to stdout and stderr so far.
    pub fn output(&self) -> Result<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let line = &self.guest.line;
        line.wait(self.request, &self.line, Duration::ZERO, |answer| {
            Some((text(&answer.stdout), text(&answer.stderr)))
        })
    }
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    name: String,
    dir: PathBuf,
    logs: PathBuf,
    kernel: String,
    speed: super::Speed,
    keep_console: bool,
    // Dropped in this order: a guest whose line is dead powers itself off.
    line: Line,
    emulator: Managed,
}

impl Guest {
    /// Starts QEMU and waits until the guest answers.
    pub fn boot(bench: &Bench, spec: GuestSpec) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{}-{number}-{}", std::process::id(), spec.name);
        let dir = bench.dir.join("run").join(unique);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let started = emulator::start(bench, &spec, &dir);
        let (line, emulator) = started.inspect_err(|_| {
            let _left_for_the_next_run = fs::remove_dir_all(&dir);
        })?;
        let mut guest = Self {
            name: spec.name,
            dir,
            logs: bench.dir.join("logs"),
            kernel: String::new(),
            speed: bench.speed,
            keep_console: false,
            line,
            emulator,
        };
        // The probe knows the deadline, later guests what the probe took; others may use the machine by now.
        let limit = (bench.speed.boot * 5).clamp(Duration::from_secs(12), Duration::from_secs(180));
        guest.kernel = guest.wait_for_hello(limit).inspect_err(|_| {
            guest.keep_console = true;
        })?;
        Ok(guest)
    }

    fn wait_for_hello(&mut self, limit: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            let heard = self.line.hello().with_context(|| self.why_gone());
            if let Some(kernel) = heard? {
                return Ok(kernel);
            }
            if interrupt::requested() {
                bail!("interrupted while {} boots", self.name);
            }
            self.emulator.check_running()?;
            if start.elapsed() > limit {
                let secs = limit.as_secs();
                bail!("{} is not up after {secs} s: {}", self.name, self.cause());
            }
        }
    }

    /// The release of its kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// A time limit, stretched by how slow guests are here.
    pub fn limit(&self, limit: Duration) -> Duration {
        self.speed.stretch(limit)
    }

    /// Starts a command.
    pub fn start(&self, run: &Run) -> Result<Job<'_>> {
        Ok(Job {
            guest: self,
            request: self.line.ask(Kind::Run, &run.order.encode())?,
            line: run.line(),
        })
    }

    /// Runs a command to its end.
    pub fn run(&self, run: &Run) -> Result<Ended> {
        self.start(run)?.wait(run.within)
    }

    /// Runs a script of the shell, and returns its stdout; fails as the script does.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run(&Run::new(&["/bin/sh", "-ec", script]))?.ok()
    }

    /// The text of a file.
    pub fn read(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.get(path)?).into_owned())
    }

    /// The content of a file.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let request = self.line.ask(Kind::Get, path.as_bytes())?;
        let what = format!("read {path} of {}", self.name);
        let limit = self.limit(FILE_LIMIT);
        let (answer, end) = self.line.finish(request, &what, limit)?;
        self.complete(&what, &end)?;
        if answer.cut {
            bail!("{what}: it is larger than a test may ask for");
        }
        Ok(answer.stdout)
    }

    /// Makes a file; the parents are made as needed.
    pub fn put(&self, path: &str, mode: u32, mut content: impl Read) -> Result<()> {
        let what = format!("write {path} of {}", self.name);
        let request = self
            .line
            .ask(Kind::Put, &protocol::encode_put(path, mode))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let n_read = content.read(&mut chunk).with_context(|| what.clone())?;
            if n_read == 0 {
                break;
            }
            self.line.tell(request, Kind::Data, &chunk[..n_read])?;
        }
        self.line.tell(request, Kind::End, &[])?;
        let limit = self.limit(FILE_LIMIT);
        let (_, end) = self.line.finish(request, &what, limit)?;
        self.complete(&what, &end)
    }

    /// Copies a file of this machine to it.
    pub fn copy_in(&self, host: &Path, guest: &str, mode: u32) -> Result<()> {
        let file = File::open(host).with_context(|| format!("open {}", host.display()))?;
        self.put(guest, mode, file)
    }

    /// Copies a file of it to this machine.
    pub fn copy_out(&self, guest: &str, host: &Path) -> Result<()> {
        fs::write(host, self.get(guest)?).with_context(|| format!("write {}", host.display()))
    }

    /// Shuts it down in order.
    pub fn power_off(mut self) -> Result<()> {
        // The line dies under it, so there is no answer to wait for.
        let run = Run::new(&["/bin/sh", "-c", "sync; exec poweroff -f"]);
        let _job = self.start(&run)?;
        let limit = self.limit(POWER_OFF_LIMIT);
        let status = self.emulator.wait(limit)?;
        if !status.success() {
            bail!("{EMULATOR} ended with {}", process::tell(status));
        }
        Ok(())
    }

    /// Pulls the power.
    pub fn power_cut(mut self) -> Result<()> {
        self.emulator.signal(nix::sys::signal::Signal::SIGKILL)?;
        self.emulator.wait(POWER_OFF_LIMIT).map(drop)
    }

    /// Keeps the serial console at the end although nothing has panicked.
    pub fn keep_console(&mut self) {
        self.keep_console = true;
    }

    /// What the guest's kernel and its scripts wrote so far.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.dir.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn complete(&self, what: &str, end: &End) -> Result<()> {
        match end {
            End::Complete => Ok(()),
            End::Failed(told) => bail!("{what}: {told}"),
            End::Exited(exit) => bail!("{what}: answered like a command, with {exit}"),
            End::Gone => bail!("{what}: {}", self.why_gone()),
        }
    }

    fn why_gone(&self) -> String {
        format!("{} is gone: {}", self.name, self.cause())
    }

    fn cause(&self) -> String {
        let emulator = || cause(&self.emulator.log_tail(5));
        let told = cause(&self.console()).or_else(emulator);
        told.unwrap_or_else(|| "its serial console is silent".to_owned())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let failed = thread::panicking() || self.keep_console;
        if failed {
            let kept = self.logs.join(format!("{}.console.log", self.name));
            let copied = fs::create_dir_all(&self.logs)
                .and_then(|()| fs::copy(self.dir.join("console.log"), &kept));
            if copied.is_ok() {
                eprintln!(
                    "{}: {}; all of it: {}",
                    self.name,
                    self.cause(),
                    kept.display()
                );
            }
        }
        if !self.line.is_dead() {
            // Nothing in it is worth an orderly end.
            let _ended_already = self.emulator.signal(nix::sys::signal::Signal::SIGKILL);
            let _reported_by_its_drop = self.emulator.wait(POWER_OFF_LIMIT);
        }
        let _left_for_the_next_run = fs::remove_dir_all(&self.dir);
    }
}

/// The line of a serial console that tells most.
fn cause(console: &str) -> Option<String> {
    const SIGNS: [&str; 6] = [
        "Kernel panic",
        "BUG:",
        "Out of memory:",
        "Initramfs unpacking failed",
        "mezzo-guest ended",
        "init: ",
    ];
    let lines = || {
        console
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    let telling = SIGNS
        .iter()
        .find_map(|sign| lines().find(|line| line.contains(sign)));
    telling.or_else(|| lines().next_back()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_line_that_tells_most() {
        let console = "[1] Linux version 6\n[2] init: no module x\n[3] Kernel panic - not syncing\n\n[4] end\n";
        assert_eq!(
            cause(console).as_deref(),
            Some("[3] Kernel panic - not syncing")
        );
        assert_eq!(cause("one\ntwo\n\n").as_deref(), Some("two"));
        assert_eq!(cause("\n"), None);
    }
}
