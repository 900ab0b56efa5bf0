//! Runs one program in a running container: a process forked from the launcher that waits for the program and tells how
//! it ended. If the runtime hangs up, the program is killed: nobody is left who could read its output or send it anything.
//!
//! ```text
//! helper ─► joiner    forked into the container's cgroup; enters its namespaces, all at once; forks ─► ends
//!   │         └─────► the program, the helper's own child: `program` ─► seccomp filter, execve
//!   └─ waits: the pid, then a failure or the pipe's end (executed), then its end
//! ```

mod join;
mod specification;

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::error::StartFailure;
use crate::link;
use crate::model::ExecExit;
use crate::protocol::{self, ExecReply, ExecRequest, HostContext};
use crate::sys::{self, Forked};
use crate::terminal::Terminal;
use join::{Joining, Streams};

/// How long a program may take to be executed.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of one answer.
const MAX_WORDS: usize = 64 * 1024;

/// Everything a helper is given by the launcher.
pub(crate) struct HelperInput {
    pub(crate) request: ExecRequest,
    pub(crate) host: HostContext,
    pub(crate) seccomp: Option<Rc<Vec<u8>>>,
    pub(crate) reply: OwnedFd,
    /// Stdin, stdout, stderr; empty for a terminal.
    pub(crate) stdio: Vec<OwnedFd>,
}

/// A helper's life. The return value is its exit code.
pub(crate) fn run(input: HelperInput) -> i32 {
    let HelperInput {
        request,
        host,
        seccomp,
        reply,
        stdio,
    } = input;
    let (child, terminal, _lifeline) = match start(&request, &host, seccomp, stdio) {
        Ok(started) => started,
        Err(failure) => {
            let _ = protocol::send(reply.as_fd(), &ExecReply::Failed(failure), &[]);
            return 1;
        }
    };
    let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    if protocol::send(reply.as_fd(), &ExecReply::Started { pid: child }, &fds).is_err() {
        let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    }
    drop(fds);
    drop(terminal);
    let exit = wait(child, &reply);
    let _ = protocol::send(reply.as_fd(), &ExecReply::Exited(exit), &[]);
    0
}

/// Waits for the program, and kills it if the other side hangs up first.
fn wait(child: i32, reply: &OwnedFd) -> ExecExit {
    if let Ok(pidfd) = sys::pidfd_open(child) {
        let mut watch_reply = true;
        loop {
            let mut items = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            if watch_reply {
                items.push(PollFd::new(reply.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut items, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => break,
                Ok(_) => {}
            }
            let ready = |item: &PollFd<'_>| item.revents().is_some_and(|events| !events.is_empty());
            if ready(&items[0]) {
                break;
            }
            if items.get(1).is_some_and(ready) {
                let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                watch_reply = false;
            }
        }
    }
    match waitpid(Pid::from_raw(child), None) {
        Ok(WaitStatus::Exited(_, code)) => ExecExit::Code(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => ExecExit::Signal(signal as i32),
        Ok(_) | Err(_) => ExecExit::Signal(libc::SIGKILL),
    }
}

/// The program's pid, the other side of its terminal if it has one, and what ends it when it closes.
type Started = (i32, Option<OwnedFd>, PipeWriter);

fn start(
    request: &ExecRequest,
    host: &HostContext,
    seccomp: Option<Rc<Vec<u8>>>,
    stdio: Vec<OwnedFd>,
) -> Result<Started, StartFailure> {
    let internal = |error: std::io::Error| StartFailure::internal(error);
    // While this descriptor shows the process alive, its number is the right one.
    let init = request.process.open().ok_or(StartFailure::NotRunning)?;
    let (record, spec) = specification::of(request, host.facts)?;
    let (lifeline, lifeline_writer) = std::io::pipe().map_err(internal)?;
    let (failure, failure_writer) = std::io::pipe().map_err(internal)?;
    let (answer, answer_writer) = std::io::pipe().map_err(internal)?;
    let (console, streams) = match <[OwnedFd; 3]>::try_from(stdio) {
        Ok(streams) => (None, Streams::Given(streams)),
        Err(_) => {
            let (ours, theirs) = link::packet_socket_pair().map_err(internal)?;
            (Some(ours), Streams::Terminal(theirs))
        }
    };
    let theirs = (OwnedFd::from(failure_writer), OwnedFd::from(lifeline));
    let joining = Joining {
        helper: std::process::id(),
        request,
        hierarchies: &host.hierarchies,
        init: init.as_fd(),
        record: &record,
        spec,
        streams,
        seccomp,
        failure: &theirs.0,
        lifeline: &theirs.1,
        answer: answer_writer.as_raw_fd(),
    };
    let joiner = match join::fork(&host.hierarchies, &record.cgroup)? {
        Forked::Child => {
            // Only the helper may hold them: their closing is how its death shows.
            drop((lifeline_writer, answer, failure, console));
            let joined = joining.join();
            let code = i32::from(joined.is_err());
            if let Ok(bytes) = serde_json::to_vec(&joined) {
                let _ = (&answer_writer).write_all(&bytes);
            }
            sys::exit_now(code)
        }
        Forked::Parent(joiner) => joiner,
    };
    drop(joining);
    drop((theirs, answer_writer));
    let deadline = Instant::now() + START_TIMEOUT;
    let child = joined(answer, joiner, deadline);
    let executed = child.and_then(|child| executed(failure, child, deadline));
    let terminal = executed.and_then(|child| {
        let terminal = console.map(|console| Terminal::receive(console.as_fd()));
        let failed =
            |error: std::io::Error| StartFailure::internal(format!("the terminal: {error}"));
        let terminal = terminal.transpose().map_err(failed);
        or_end(child, terminal).map(|terminal| (child, terminal.map(|terminal| terminal.master)))
    });
    match terminal {
        Ok((child, terminal)) => Ok((child, terminal, lifeline_writer)),
        // Its end is the reason for whatever else went wrong.
        Err(_) if sys::wait_readable(init.as_fd(), Some(Duration::ZERO)).unwrap_or(true) => {
            Err(StartFailure::NotRunning)
        }
        Err(failure) => Err(failure),
    }
}

/// What the joiner answers: the program's pid.
fn joined(answer: PipeReader, joiner: i32, deadline: Instant) -> Result<i32, StartFailure> {
    let answer = read_all(answer, deadline);
    let answer = or_end(joiner, answer)?;
    let _ = waitpid(Pid::from_raw(joiner), None);
    serde_json::from_slice(&answer).unwrap_or_else(|_| {
        Err(StartFailure::internal(
            "the process that joins the container died without a word",
        ))
    })
}

/// Waits until the program has been executed.
fn executed(failure: PipeReader, child: i32, deadline: Instant) -> Result<i32, StartFailure> {
    let words = or_end(child, read_all(failure, deadline))?;
    if words.is_empty() {
        return Ok(child);
    }
    or_end(child, Err(StartFailure::first_in(&words)))
}

/// Ends a child of ours that something went wrong with.
fn or_end<T>(child: i32, result: Result<T, StartFailure>) -> Result<T, StartFailure> {
    if result.is_err() {
        let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        let _ = waitpid(Pid::from_raw(child), None);
    }
    result
}

/// Everything up to the pipe's end.
fn read_all(mut pipe: PipeReader, deadline: Instant) -> Result<Vec<u8>, StartFailure> {
    let mut bytes = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let readable = sys::wait_readable(pipe.as_fd(), Some(left));
        if !readable.map_err(StartFailure::internal)? {
            let seconds = START_TIMEOUT.as_secs();
            return Err(StartFailure::TimedOut { seconds });
        }
        let mut chunk = [0_u8; 4096];
        match pipe.read(&mut chunk).map_err(StartFailure::internal)? {
            0 => return Ok(bytes),
            length if bytes.len() + length <= MAX_WORDS => {
                bytes.extend_from_slice(&chunk[..length])
            }
            _ => return Ok(bytes),
        }
    }
}
