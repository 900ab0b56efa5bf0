//! A child process that ends with its owner: started in a process group of its own (so that Ctrl-C reaches only us,
//! and we end it in order), its output in a file, stopped by `stop` or on drop.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long a server may take to end after SIGTERM, on a busy machine.
pub const GRACE: Duration = Duration::from_secs(60);

/// A running child and its log.
#[derive(Debug)]
pub struct Managed {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Managed {
    /// Starts `command`; stdout and stderr are appended to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        if let Some(dir) = log.parent() {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let open = || {
            let file = File::options().create(true).append(true).open(log);
            file.with_context(|| format!("open the log {}", log.display()))
        };
        command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("start {name} ({command:?})"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        // Process ids of Linux are below 2^22.
        self.child.id() as i32
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error with the end of its log if it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .with_context(|| format!("look at {}", self.name))?
        {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended with {}; its log says:\n{}",
                self.name,
                tell(status),
                self.log_tail(15)
            ),
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait();
        status.with_context(|| format!("look at {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .with_context(|| format!("wait for {}", self.name))?
            {
                return Ok(status);
            }
            if start.elapsed() >= within {
                bail!("{} did not end within {} s", self.name, within.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()), signal)
            .with_context(|| format!("send {signal} to {}", self.name))
    }

    /// SIGTERM, a wait, and SIGKILL for its group if that was not enough (which is an error).
    pub fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self
            .child
            .try_wait()
            .with_context(|| format!("look at {}", self.name))?
        {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.wait(grace).inspect_err(|_| {
            let _gone = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
            let _reaped = self.child.wait();
        })
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        if let Err(error) = self.stop(GRACE) {
            eprintln!("stopping {}: {error:#}", self.name);
        }
    }
}

/// The last lines of a file, for error messages.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// "exit status 3" or "signal 9".
pub fn tell(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Runs a program to its end and returns its stdout; an error holds the command line and what it wrote to stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run `{line}`"))?;
    let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        let stderr = String::from_utf8_lossy(&done.stderr);
        let told = if stderr.trim().is_empty() {
            stdout.trim()
        } else {
            stderr.trim()
        };
        bail!("`{line}` failed with {}: {told}", tell(done.status));
    }
    Ok(stdout)
}

/// The command as a person would type it.
pub fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    let mut words = vec![name];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
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
    fn a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().expect("folder");
        let child = Managed::spawn(
            "sleeper",
            Command::new("sleep").arg("1000"),
            &dir.path().join("log"),
        )
        .expect("start");
        let pid = Pid::from_raw(child.pid());
        drop(child);
        assert!(kill(pid, None).is_err());
    }

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let dir = tempfile::tempdir().expect("folder");
        let mut child = Managed::spawn(
            "server",
            &mut sh("echo port in use >&2; exit 3"),
            &dir.path().join("log"),
        )
        .expect("start");
        child.wait(GRACE).expect("ends");
        let told = child.check_running().expect_err("has ended").to_string();
        assert_eq!(
            told,
            "server ended with exit status 3; its log says:\n    port in use"
        );
    }

    #[test]
    fn what_ignores_sigterm_is_killed_and_reported() {
        let dir = tempfile::tempdir().expect("folder");
        let log = dir.path().join("log");
        let mut child = Managed::spawn(
            "mule",
            &mut sh("trap '' TERM; echo ready; while :; do sleep 1; done"),
            &log,
        )
        .expect("start");
        crate::wait::until("the trap", GRACE, || {
            if tail(&log, 1).contains("ready") {
                Ok(())
            } else {
                bail!("not ready")
            }
        })
        .expect("ready");
        assert!(child.stop(Duration::from_millis(50)).is_err());
        assert!(child.check_running().is_err());
    }

    #[test]
    fn a_failed_command_tells_its_line_and_its_words() {
        let told = output(&mut sh("echo no luck >&2; exit 4"))
            .expect_err("fails")
            .to_string();
        assert!(told.contains("exit status 4: no luck"), "{told}");
    }
}
