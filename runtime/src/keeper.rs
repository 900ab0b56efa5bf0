//! The keeper: one small process per container, forked (not exec'd) from the launcher so that it shares its
//! pages. It owns the container's output and log files (`streams`), waits for the end, and puts the exit record on disk
//! before it removes the cgroup. It outlives the agent; if it dies, the kernel kills the container.
//!
//! ```text
//! forked ─► creator ─► first process ready ─► limits, record ─► go ─► Started ─► poll: output, the container's end
//!              │              │                                                      ─► last usage, exit record,
//!              │              │                                                         cgroup removed, durable ─► gone
//!              └──────────────┴► failed: everything killed and removed, exit record "start failed" ─► Failed ─► gone
//! ```

mod streams;

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cgroup::usage::{self, UsageReader};
use crate::cgroup::{Hierarchies, settings};
use crate::container::{self, Created, Creation, Gate, READY};
use crate::error::StartFailure;
use crate::group::cgroup_above;
use crate::layout::{
    ContainerDir, KeeperRecord, RECORD_VERSION, RunningRecord, StartCost, sign_lock,
};
use crate::link;
use crate::logs::BoundedLog;
use crate::model::{Exit, ExitRecord, Stream, Usage};
use crate::process::{self, ProcessRef};
use crate::protocol::{self, GroupRequest, HostContext, StartReply, StartRequest};
use crate::sys::{self, Forked};
use crate::terminal::Terminal;
use crate::terminal::input::InputReader;
use crate::traffic::TrafficReader;
use streams::Streams;

/// How long the container's output may take to end after its last process has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long killed processes may take to be gone, and a cgroup to become empty.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a keeper waits before it tries again to write the record of the end: at first, and at most.
const RECORD_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// More than enough for two system calls and the words of their errors.
const SETTLING_STACK: usize = 64 << 10;

/// Everything a keeper is given by the launcher.
pub(crate) struct KeeperInput {
    pub(crate) request: StartRequest,
    pub(crate) host: HostContext,
    pub(crate) seccomp: Option<Rc<Vec<u8>>>,
    pub(crate) reply: OwnedFd,
    /// Held for as long as this process lives; the lock on it says that it does.
    pub(crate) lock: OwnedFd,
    /// The container's secrets, if it has any.
    pub(crate) secrets: Option<OwnedFd>,
    /// The container's network namespace, if one was prepared.
    pub(crate) network: Option<OwnedFd>,
}

/// A keeper's life. The return value is its exit code.
pub(crate) fn run(input: KeeperInput) -> i32 {
    let KeeperInput {
        request,
        host,
        seccomp,
        reply,
        lock,
        secrets,
        network,
    } = input;
    let hierarchies = &host.hierarchies;
    let started = prepare(&request).and_then(|(mut streams, ends)| {
        let parts = (lock.as_fd(), seccomp, network, secrets);
        let running = start(&request, &host, parts, ends, &mut streams)?;
        Ok((running, streams))
    });
    let code = match started {
        Ok((running, streams)) => {
            let message = StartReply::Started {
                keeper: me(),
                process: running.1.process,
                started_at_ms: running.1.started_at_ms,
                start_cost: running.1.start_cost,
                user: running.1.user.clone(),
            };
            // An agent that is gone finds the container by its records.
            let _ = protocol::send(reply.as_fd(), &message, &[]);
            drop(reply);
            watch(&request, hierarchies, running, streams)
        }
        Err(failure) => {
            clean_up_failed_start(&request, hierarchies, &failure);
            let _ = protocol::send(reply.as_fd(), &StartReply::Failed(failure), &[]);
            1
        }
    };
    drop(lock);
    code
}

/// The ends that are not the keeper's, and the ends by which it leads the start.
struct Ends {
    output: container::Output,
    gate: Gate,
    status: PipeReader,
    go: PipeWriter,
    /// Where a terminal arrives, if there is to be one.
    terminal: Option<OwnedFd>,
}

fn prepare(request: &StartRequest) -> Result<(Streams, Ends), StartFailure> {
    let failed = |what: &'static str| {
        move |error: std::io::Error| StartFailure::internal(format!("{what}: {error}"))
    };
    let pipe = || std::io::pipe().map_err(failed("making a pipe"));
    let log = |stream| BoundedLog::open(request.dir.log(stream), request.log);
    let mut streams = Streams::new(log(Stream::Stdout), log(Stream::Stderr));
    let (output, terminal) = if request.terminal {
        let (ours, theirs) = link::packet_socket_pair().map_err(failed("making a socket"))?;
        (container::Output::Terminal(theirs), Some(ours))
    } else {
        let ((stdout_reader, stdout), (stderr_reader, stderr)) = (pipe()?, pipe()?);
        streams
            .attach_pipes(stdout_reader, stderr_reader)
            .map_err(StartFailure::internal)?;
        let (stdout, stderr) = (stdout.into(), stderr.into());
        (container::Output::Pipes { stdout, stderr }, None)
    };
    let ((status, to_status), (from_go, go)) = (pipe()?, pipe()?);
    let gate = Gate {
        status: to_status.into(),
        go: from_go.into(),
    };
    let ends = Ends {
        output,
        gate,
        status,
        go,
        terminal,
    };
    Ok((streams, ends))
}

/// A running container: its pidfd, its record, the lifeline that must stay open, and what tells of its own network.
type Running = (OwnedFd, RunningRecord, PipeWriter, Option<TrafficReader>);

/// The lock, the compiled filter, the network namespace and the secrets.
type Parts<'a> = (
    BorrowedFd<'a>,
    Option<Rc<Vec<u8>>>,
    Option<OwnedFd>,
    Option<OwnedFd>,
);

fn start(
    request: &StartRequest,
    host: &HostContext,
    (lock, seccomp, network, secrets): Parts<'_>,
    ends: Ends,
    streams: &mut Streams,
) -> Result<Running, StartFailure> {
    let io = |what: &'static str| {
        move |error: std::io::Error| StartFailure::internal(format!("{what}: {error}"))
    };
    let deadline = Instant::now() + Duration::from_millis(request.timeout_ms);
    let keeper = me();
    let record = |running| KeeperRecord {
        version: RECORD_VERSION,
        keeper,
        running,
    };
    sign_lock(lock, &record(None)).map_err(io("recording the keeper"))?;
    let (answer, answer_writer) = std::io::pipe().map_err(io("making a pipe"))?;
    let Ends {
        output,
        gate,
        status,
        mut go,
        terminal,
    } = ends;
    let creator = match fork_creator(&host.hierarchies, request)? {
        Forked::Child => {
            // Only the keeper may hold these: their closing is how its death shows.
            drop((go, status, answer, terminal));
            let creation = Creation {
                host,
                seccomp,
                network,
                secrets,
                output,
                gate,
                answer: answer_writer.as_raw_fd(),
            };
            container::create(request, creation)
        }
        Forked::Parent(creator) => creator,
    };
    drop((output, gate, answer_writer));
    // The namespace too: with the container's last process it is to go.
    drop((network, secrets));
    let timed_out = || StartFailure::TimedOut {
        seconds: request.timeout_ms / 1000,
    };
    let answer = read_all(answer, deadline, streams)?.ok_or_else(timed_out)?;
    let created: Result<Created, StartFailure> =
        serde_json::from_slice(&answer).unwrap_or_else(|_| {
            Err(StartFailure::internal(
                "the process that creates the container died without a word",
            ))
        });
    let created = created?;
    let pid = match created.pid {
        None => creator,
        Some(pid) => {
            let _ = waitpid(Pid::from_raw(creator), None);
            pid
        }
    };
    // While it makes itself ready: all that has to be there when it is. A child of ours that we have not waited for: the
    // number cannot have been used again.
    let pidfd = sys::pidfd_open(pid).map_err(io("opening the container's process"))?;
    let process = ProcessRef::of(pid).map_err(io("looking up the container's process"))?;
    let refused = |error: settings::ChangeError| StartFailure::Cgroup {
        reason: error.to_string(),
    };
    let limits = settings::open(&created.limits).map_err(refused)?;
    // However short it runs, its network is counted to the end.
    let traffic = match request.group {
        // What the group's network carries is the holder's to count: nobody can tell the members apart.
        Some(GroupRequest { holder: Some(_) }) => None,
        Some(GroupRequest { holder: None }) | None => TrafficReader::open(pid),
    };

    match first_word(&status, deadline, streams)?.ok_or_else(timed_out)? {
        Word::Ready => {}
        Word::Failed(failure) => return Err(failure),
    }
    if let Some(socket) = terminal {
        let terminal = Terminal::receive(socket.as_fd()).map_err(io("the terminal"))?;
        let input = InputReader::make(&request.dir.input()).map_err(io("the terminal's input"))?;
        streams
            .attach_terminal(terminal, input)
            .map_err(io("the terminal"))?;
    }
    limits.set().map_err(refused)?;
    let running = RunningRecord {
        process,
        started_at_ms: process::now_ms(),
        // Everything is made, the processes that made it are gone, and the one that is left waits for our word: the
        // figure stands still.
        start_cost: usage::start_cost(&host.hierarchies, &request.cgroup, pid),
        user: Some(created.user),
    };
    // On disk before the program's first instruction: whoever comes later knows that it may have run.
    sign_lock(lock, &record(Some(running.clone())))
        .map_err(io("recording the container's process"))?;
    // If it is gone, its silence is the answer.
    let _ = go.write_all(b"g");
    let last_words = read_all(status, deadline, streams)?.ok_or_else(timed_out)?;
    if last_words.is_empty() {
        Ok((pidfd, running, go, traffic))
    } else {
        Err(StartFailure::first_in(&last_words))
    }
}

/// Makes the container's cgroup and forks into it.
fn fork_creator(hierarchies: &Hierarchies, request: &StartRequest) -> Result<Forked, StartFailure> {
    let failed = |error: std::io::Error| StartFailure::Cgroup {
        reason: error.to_string(),
    };
    let cgroup = &request.cgroup;
    if let Some(GroupRequest { holder: None }) = request.group {
        let group = cgroup_above(cgroup);
        hierarchies.create_for_group(group).map_err(failed)?;
    }
    hierarchies.create_for_container(cgroup).map_err(failed)?;
    let unified = hierarchies.open_unified(cgroup).map_err(failed)?;
    let namespaces = match request.is_made_by_itself() {
        true => libc::CLONE_NEWPID,
        false => 0,
    };
    sys::fork_into(unified.as_ref().map(AsFd::as_fd), namespaces).map_err(|error| match unified {
        Some(_) => failed(error),
        None => StartFailure::internal(format!("forking: {error}")),
    })
}

/// What the container's first process says of itself first.
enum Word {
    Ready,
    Failed(StartFailure),
}

/// `None` when the time is over.
fn first_word(
    mut status: &PipeReader,
    deadline: Instant,
    streams: &mut Streams,
) -> Result<Option<Word>, StartFailure> {
    if !streams.wait_for(status.as_fd(), deadline) {
        return Ok(None);
    }
    let mut word = [0_u8; 4096];
    let length = status.read(&mut word).map_err(StartFailure::internal)?;
    if word[..length] == [READY] {
        return Ok(Some(Word::Ready));
    }
    if length == 0 {
        let silent = "the container's first process died without a word";
        return Ok(Some(Word::Failed(StartFailure::internal(silent))));
    }
    // Longer than one read where a long name is in it.
    let words = read_on(status, word[..length].to_vec(), deadline, streams)?;
    Ok(words.map(|words| Word::Failed(StartFailure::first_in(&words))))
}

/// Most bytes of one answer.
const MAX_WORDS: usize = 64 * 1024;

/// Everything up to the pipe's end, while output already flows; `None` when the time is over.
fn read_all(
    pipe: PipeReader,
    deadline: Instant,
    streams: &mut Streams,
) -> Result<Option<Vec<u8>>, StartFailure> {
    read_on(&pipe, Vec::new(), deadline, streams)
}

/// The same, after these bytes.
fn read_on(
    mut pipe: &PipeReader,
    mut bytes: Vec<u8>,
    deadline: Instant,
    streams: &mut Streams,
) -> Result<Option<Vec<u8>>, StartFailure> {
    while streams.wait_for(pipe.as_fd(), deadline) {
        let mut chunk = [0_u8; 4096];
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(Some(bytes)),
            Ok(length) if bytes.len() + length <= MAX_WORDS => {
                bytes.extend_from_slice(&chunk[..length]);
            }
            Ok(_) => return Ok(Some(bytes)),
            Err(error) => return Err(StartFailure::internal(error)),
        }
    }
    Ok(None)
}

/// This process's children, dead ones included.
fn children() -> Vec<i32> {
    let path = format!("/proc/self/task/{}/children", nix::unistd::gettid());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Waits for the end and closes the books.
fn watch(
    request: &StartRequest,
    hierarchies: &Hierarchies,
    running: Running,
    mut streams: Streams,
) -> i32 {
    let (pidfd, record, lifeline, traffic) = running;
    while !streams.poll(pidfd.as_fd(), None) {}
    let finished_at_ms = process::now_ms();
    let exit = match waitpid(Pid::from_raw(record.process.pid), None) {
        Ok(WaitStatus::Exited(_, code)) => Exit::Code(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
        Ok(_) | Err(_) => Exit::Signal(libc::SIGKILL),
    };
    // The first process of a pid namespace takes all others with it, so the output ends now, if nobody passed
    // its streams elsewhere.
    streams.drain(Instant::now() + DRAIN_TIMEOUT);
    hierarchies.kill(&request.cgroup, KILL_TIMEOUT);
    let usage = last_usage(hierarchies, &request.cgroup, record.start_cost, traffic);
    let exit_record = ExitRecord {
        id: request.id.clone(),
        exit,
        oom_killed: usage.oom_kills.is_some_and(|kills| kills > 0),
        memory_limit_bytes: memory_limit(&request.dir),
        started_at_ms: record.started_at_ms,
        finished_at_ms,
        usage,
    };
    let written = record_and_release(request, hierarchies, &exit_record);
    drop(lifeline);
    i32::from(!written)
}

/// Puts the record on disk, then removes the cgroup while the disk makes it durable. However long one of the two takes,
/// it does not hold up the other.
fn record_and_release(
    request: &StartRequest,
    hierarchies: &Hierarchies,
    record: &ExitRecord,
) -> bool {
    let unsettled = insist(|| request.dir.put_exit(record));
    let settled = std::thread::scope(|scope| {
        // The only thread beside the first one that a keeper ever has: it forks no more.
        let settling = unsettled.as_ref().map(|unsettled| {
            std::thread::Builder::new()
                .stack_size(SETTLING_STACK)
                .spawn_scoped(scope, || unsettled.settle())
        });
        release(request, hierarchies);
        match settling {
            None => false,
            Some(Ok(settling)) => settling.join().is_ok_and(|settled| settled.is_ok()),
            // No thread to be had: one after the other, then.
            Some(Err(_)) => false,
        }
    });
    settled || insist(|| request.dir.write_exit(record)).is_some()
}

/// A full disk may take it later, however much later; without a record the container would be reported as lost. `None`
/// where there is no place for it any more.
fn insist<T>(attempt: impl Fn() -> std::io::Result<T>) -> Option<T> {
    let (mut pause, longest) = RECORD_PAUSES;
    loop {
        match attempt() {
            Ok(done) => return Some(done),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(longest);
    }
}

/// A sample of a cgroup that is about to be removed. Closes what holds the container's network.
pub(crate) fn last_usage(
    hierarchies: &Hierarchies,
    cgroup: &str,
    start_cost: Option<StartCost>,
    traffic: Option<TrafficReader>,
) -> Usage {
    UsageReader::open(hierarchies, cgroup, start_cost, traffic)
        .read(process::now_ms(), &mut Vec::new())
}

/// The memory limit at a container's end, from its record: it may have been changed since the start.
pub(crate) fn memory_limit(dir: &ContainerDir) -> Option<u64> {
    dir.read_limits()?.memory_bytes
}

/// Removes what a container leaves behind beside its records and logs. Also called for containers whose keeper
/// is gone.
pub(crate) fn release(request: &StartRequest, hierarchies: &Hierarchies) {
    if let Err(error) = hierarchies.remove(&request.cgroup, KILL_TIMEOUT) {
        tracing::warn!(container = %request.id, %error, "cgroup not removed");
    }
    if request.group.is_some() {
        // The last one out.
        hierarchies.remove_group_if_empty(cgroup_above(&request.cgroup));
    }
}

fn clean_up_failed_start(
    request: &StartRequest,
    hierarchies: &Hierarchies,
    failure: &StartFailure,
) {
    hierarchies.kill(&request.cgroup, KILL_TIMEOUT);
    kill_children();
    let record = ExitRecord {
        id: request.id.clone(),
        exit: Exit::StartFailed(failure.to_string()),
        oom_killed: false,
        memory_limit_bytes: memory_limit(&request.dir),
        started_at_ms: 0,
        finished_at_ms: process::now_ms(),
        usage: Usage::default(),
    };
    let _ = request.dir.write_exit(&record);
    release(request, hierarchies);
}

/// Kills and reaps every child, whichever cgroup it had reached.
fn kill_children() {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        for pid in children() {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(_) => return,
            Ok(WaitStatus::StillAlive) if Instant::now() >= deadline => return,
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
            Ok(_) => {}
        }
    }
}

fn me() -> ProcessRef {
    let pid = nix::unistd::getpid().as_raw();
    ProcessRef::of(pid).unwrap_or(ProcessRef {
        pid,
        start_ticks: 0,
    })
}
