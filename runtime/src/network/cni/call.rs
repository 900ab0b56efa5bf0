//! One call of one plug-in: environment, standard input, answer, deadline. What it writes is bounded, and a plug-in that
//! does not end is killed with everything that it started.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::id::ContainerId;
use crate::sys;

/// Longest time that one call may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a plug-in that is being written is waited for.
const BEING_WRITTEN: Duration = Duration::from_secs(5);
/// Most bytes that are read of what a plug-in writes.
const MAX_OUTPUT: u64 = 1 << 20;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Check,
    Delete,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Delete => "DEL",
        }
    }
}

/// A plug-in did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("CNI plug-in {plug_in} failed at {command}: {problem}")]
pub struct PlugInError {
    plug_in: String,
    command: &'static str,
    problem: String,
}

/// For whom plug-ins are called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) bin_dir: &'a Path,
    pub(super) container: &'a ContainerId,
    /// `None` once it is gone: plug-ins then take back what they keep elsewhere.
    pub(super) namespace: Option<&'a Path>,
    pub(super) interface: &'a str,
}

impl Call<'_> {
    /// Calls it; the answer is `null` where none is due.
    pub(super) fn run(
        &self,
        command: Command,
        plug_in: &Map<String, Value>,
        input: &Value,
    ) -> Result<Value, PlugInError> {
        self.run_within(TIMEOUT, command, plug_in, input)
    }

    fn run_within(
        &self,
        timeout: Duration,
        command: Command,
        plug_in: &Map<String, Value>,
        input: &Value,
    ) -> Result<Value, PlugInError> {
        // Checked when the configuration was read: a plain name.
        let name = plug_in.get("type").and_then(Value::as_str).unwrap_or("");
        let failed = |problem: String| PlugInError {
            plug_in: name.to_owned(),
            command: command.name(),
            problem,
        };
        let program = self.bin_dir.join(name);
        let mut call = std::process::Command::new(&program);
        call.env("CNI_COMMAND", command.name())
            .env("CNI_CONTAINERID", self.container.as_str())
            .env("CNI_NETNS", self.namespace.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", self.interface)
            .env("CNI_PATH", self.bin_dir)
            .env_remove("CNI_ARGS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // One that went on after us would set up what the next agent is taking down.
        sys::end_with_this_thread(&mut call);
        let child = once_written(|| call.spawn()).map_err(|error| {
            failed(format!(
                "{} cannot be executed (network.cni_bin_dir): {error}",
                program.display()
            ))
        })?;
        let text = input.to_string();
        let (status, stdout, stderr) = communicate(child, text.as_bytes(), timeout)
            .map_err(|error| failed(error.to_string()))?;
        if !status.success() {
            return Err(failed(problem_of(status, &stdout, &stderr)));
        }
        match command {
            Command::Add => serde_json::from_slice(&stdout)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| failed("its answer is no JSON object".to_owned())),
            Command::Check | Command::Delete => Ok(Value::Null),
        }
    }
}

/// Starts a program that may have been put there just now. The kernel refuses one that anybody has open for writing: who
/// writes it, or a process that was forked meanwhile and has not yet executed its own program. Both pass.
fn once_written(mut start: impl FnMut() -> io::Result<Child>) -> io::Result<Child> {
    let deadline = Instant::now() + BEING_WRITTEN;
    loop {
        match start() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            started => return started,
        }
    }
}

/// What went wrong, in the plug-in's own words where it has some. Pure.
fn problem_of(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(stdout).ok();
    let word = |name: &str| {
        let text = said.as_ref().and_then(|said| said[name].as_str());
        text.filter(|text| !text.is_empty())
    };
    match (word("msg"), word("details")) {
        (Some(message), Some(details)) => format!("{message}: {details}"),
        (Some(message), None) => message.to_owned(),
        (None, _) => {
            let text = String::from_utf8_lossy(stderr);
            let last = text.trim().lines().next_back().unwrap_or("").to_owned();
            format!("{status}{}{last}", if last.is_empty() { "" } else { ": " })
        }
    }
}

/// Gives a child its input and takes what it writes, until it ends or the time is over.
fn communicate(
    mut child: Child,
    input: &[u8],
    timeout: Duration,
) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let kill = || {
        // Its group: what it started holds the pipes open.
        let _ = nix::sys::signal::killpg(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // One that does not read its input says why by its exit.
                let _ = stdin.write_all(input);
            }
        });
        let read = |pipe: Option<Box<dyn Read + Send>>| {
            scope.spawn(move || {
                let mut bytes = Vec::new();
                if let Some(mut pipe) = pipe {
                    let _ = (&mut pipe).take(MAX_OUTPUT).read_to_end(&mut bytes);
                    // The rest goes nowhere, but it goes.
                    let _ = io::copy(&mut pipe, &mut io::sink());
                }
                bytes
            })
        };
        let out = read(stdout.map(|pipe| Box::new(pipe) as _));
        let err = read(stderr.map(|pipe| Box::new(pipe) as _));
        // A child of ours that we have not waited for: the number is its own.
        let in_time =
            sys::pidfd_open(pid).and_then(|pidfd| sys::wait_readable(pidfd.as_fd(), Some(timeout)));
        // Also when it ended well: whatever it left running must not hold the pipes.
        kill();
        let status = child.wait()?;
        let (out, err) = (
            out.join().unwrap_or_default(),
            err.join().unwrap_or_default(),
        );
        if !in_time? {
            let text = format!("no end within {} s, killed", timeout.as_secs_f32());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok((status, out, err))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    /// What a plug-in with that script answers.
    fn answer(command: Command, script: &str, timeout: Duration) -> Result<Value, String> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("test");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let container = "web-1".parse().unwrap();
        let call = Call {
            bin_dir: dir.path(),
            container: &container,
            namespace: Some(Path::new("/proc/1/ns/net")),
            interface: "eth0",
        };
        let plug_in = json!({"type": "test"});
        let input = json!({"name": "dc", "big": "x".repeat(100_000)});
        call.run_within(timeout, command, plug_in.as_object().unwrap(), &input)
            .map_err(|error| error.to_string())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_plug_in_is_told_what_and_for_whom() {
        let script = r#"cat > /dev/null; echo "{\"a\":\"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME\"}""#;
        assert_eq!(
            answer(Command::Add, script, LONG).unwrap(),
            json!({"a": "ADD web-1 /proc/1/ns/net eth0"})
        );
        assert_eq!(
            answer(Command::Delete, "cat > /dev/null", LONG),
            Ok(Value::Null)
        );
        // One that does not read its input is fine too.
        assert_eq!(answer(Command::Check, "exit 0", LONG), Ok(Value::Null));
    }

    #[test]
    fn failures_are_told_in_the_plug_ins_own_words() {
        let said = r#"echo '{"code":11,"msg":"no address","details":"pool full"}'; exit 1"#;
        assert_eq!(
            answer(Command::Add, said, LONG).unwrap_err(),
            "CNI plug-in test failed at ADD: no address: pool full"
        );
        let error =
            answer(Command::Delete, "echo one >&2; echo two >&2; exit 3", LONG).unwrap_err();
        assert!(
            error.contains("at DEL") && error.ends_with(": two"),
            "{error}"
        );
        let error = answer(Command::Add, "echo nonsense", LONG).unwrap_err();
        assert!(error.contains("no JSON object"), "{error}");
    }

    /// Until a process is gone or a zombie: a signal that was sent has not always arrived.
    fn ends(pid: &str) {
        let stat = format!("/proc/{}/stat", pid.trim());
        let deadline = Instant::now() + LONG;
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < deadline, "{pid} runs on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_that_does_not_end_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", mark.display());
        // Longer each time, until it came so far within the time.
        let pid = (1..).find_map(|seconds| {
            let time = Duration::from_secs(seconds);
            let error = answer(Command::Add, &script, time).unwrap_err();
            assert!(error.contains("killed"), "{error}");
            fs::read_to_string(&mark).ok().filter(|pid| !pid.is_empty())
        });
        ends(&pid.unwrap());
        // One that leaves something behind that holds the pipes does not hold us.
        let script = r#"sleep 1000 & echo '{"ips":[]}'"#;
        assert_eq!(answer(Command::Add, script, LONG), Ok(json!({"ips": []})));
        // More than anybody reads.
        let flood = "head -c 3000000 /dev/zero; exit 1";
        assert!(answer(Command::Add, flood, LONG).is_err());
    }

    #[test]
    fn one_that_is_being_written_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        // By its own name: it may be one of many programs in one file.
        let program = dir.path().join("true");
        fs::copy("/bin/true", &program).unwrap();
        let mut writer = Some(fs::File::options().append(true).open(&program).unwrap());
        let mut refused = Vec::new();
        let started = once_written(|| {
            let started = std::process::Command::new(&program).spawn();
            // From the first refusal on nobody writes any more.
            writer.take();
            refused.extend(started.as_ref().err().map(io::Error::kind));
            started
        });
        assert!(started.unwrap().wait().unwrap().success());
        assert_eq!(refused[0], io::ErrorKind::ExecutableFileBusy);
    }
}
