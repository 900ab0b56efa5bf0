//! The keeper: one small process per container, forked (not exec'd) from the launcher so that it shares its
//! pages. It owns the container's output pipes and log files, waits for the end, and writes the exit record
//! before it removes the cgroup. It outlives the agent; if it dies, the kernel kills the container.
//!
//! ```text
//! forked ─► child calls libcontainer ─► Started ─► poll: output, the container's end ─► last usage, exit record,
//!                │                                                                      cgroup removed ─► gone
//!                └► failed: everything killed and removed, exit record "start failed" ─► Failed ─► gone
//! ```

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::cgroup::Hierarchies;
use crate::cgroup::usage::UsageReader;
use crate::container::{self, Creation};
use crate::error::StartFailure;
use crate::layout::{ContainerDir, RunningRecord, StartCost};
use crate::logs::BoundedLog;
use crate::model::{Exit, ExitRecord, Stream, Usage};
use crate::process::{self, ProcessRef};
use crate::protocol::{self, HostContext, StartReply, StartRequest};
use crate::sys::{self, Forked};

/// How often dead children are looked for while a container is being created.
const REAP_INTERVAL: Duration = Duration::from_millis(10);
/// How long the container's output may take to end after its last process has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long killed processes may take to be gone, and a cgroup to become empty.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// Everything a keeper is given by the launcher.
pub(crate) struct KeeperInput {
    pub(crate) request: StartRequest,
    pub(crate) host: HostContext,
    pub(crate) seccomp: Option<Rc<Vec<u8>>>,
    pub(crate) reply: OwnedFd,
    /// Held for as long as this process lives; the lock on it says that it does.
    pub(crate) lock: OwnedFd,
    /// The container's network namespace, if one was prepared.
    pub(crate) network: Option<OwnedFd>,
}

/// One output pipe and the files behind it.
struct Output {
    pipe: Option<PipeReader>,
    log: BoundedLog,
}

/// A keeper's life. The return value is its exit code.
pub(crate) fn run(input: KeeperInput) -> i32 {
    let KeeperInput {
        request,
        host,
        seccomp,
        reply,
        lock,
        network,
    } = input;
    let hierarchies = host.hierarchies;
    let started = prepare(&request).and_then(|(outputs, ends)| {
        let mut outputs = outputs;
        let running = start(
            &request,
            &hierarchies,
            (seccomp, network),
            ends,
            &mut outputs,
        )?;
        Ok((running, outputs))
    });
    let code = match started {
        Ok((running, outputs)) => {
            let message = StartReply::Started {
                keeper: me(),
                process: running.1.process,
                started_at_ms: running.1.started_at_ms,
                start_cost: running.1.start_cost,
            };
            // An agent that is gone finds the container by its records.
            let _ = protocol::send(reply.as_fd(), &message, &[]);
            drop(reply);
            watch(&request, &hierarchies, running, outputs)
        }
        Err(failure) => {
            clean_up_failed_start(&request, &hierarchies, &failure);
            let _ = protocol::send(reply.as_fd(), &StartReply::Failed(failure), &[]);
            1
        }
    };
    drop(lock);
    code
}

/// The write ends, for the container.
struct Ends {
    stdout: PipeWriter,
    stderr: PipeWriter,
    lifeline_reader: PipeReader,
    lifeline_writer: PipeWriter,
}

fn prepare(request: &StartRequest) -> Result<([Output; 2], Ends), StartFailure> {
    let failed = |what: &'static str| {
        move |error: std::io::Error| StartFailure::internal(format!("{what}: {error}"))
    };
    let (stdout_reader, stdout) = std::io::pipe().map_err(failed("making a pipe"))?;
    let (stderr_reader, stderr) = std::io::pipe().map_err(failed("making a pipe"))?;
    let (lifeline_reader, lifeline_writer) = std::io::pipe().map_err(failed("making a pipe"))?;
    let output = |pipe: PipeReader, stream| -> Result<Output, StartFailure> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(StartFailure::internal)?;
        let log = BoundedLog::open(request.dir.log(stream), request.log)
            .map_err(failed("opening a log file"))?;
        Ok(Output {
            pipe: Some(pipe),
            log,
        })
    };
    let outputs = [
        output(stdout_reader, Stream::Stdout)?,
        output(stderr_reader, Stream::Stderr)?,
    ];
    Ok((
        outputs,
        Ends {
            stdout,
            stderr,
            lifeline_reader,
            lifeline_writer,
        },
    ))
}

/// A running container: its pidfd, its record, and the lifeline that must stay open.
type Running = (OwnedFd, RunningRecord, PipeWriter);

fn start(
    request: &StartRequest,
    hierarchies: &Hierarchies,
    (seccomp, network): (Option<Rc<Vec<u8>>>, Option<OwnedFd>),
    ends: Ends,
    outputs: &mut [Output; 2],
) -> Result<Running, StartFailure> {
    let io = |what: &'static str| {
        move |error: std::io::Error| StartFailure::internal(format!("{what}: {error}"))
    };
    let (result_reader, result_writer) = std::io::pipe().map_err(io("making a pipe"))?;
    let (go_reader, go_writer) = std::io::pipe().map_err(io("making a pipe"))?;
    let keeper = me();
    let Ends {
        stdout,
        stderr,
        lifeline_reader,
        lifeline_writer,
    } = ends;
    match sys::fork_single_threaded().map_err(io("forking"))? {
        Forked::Child => {
            // Only the keeper may hold these: their closing is how its death shows.
            drop((lifeline_writer, result_reader, go_writer));
            let mut result_writer = result_writer;
            let result = result_writer
                .try_clone()
                .map_err(StartFailure::internal)
                .and_then(|created| {
                    let creation = Creation {
                        keeper,
                        hierarchies: hierarchies.clone(),
                        seccomp,
                        network,
                        stdin: File::open("/dev/null")
                            .map_err(StartFailure::internal)?
                            .into(),
                        stdout: stdout.into(),
                        stderr: stderr.into(),
                        lifeline: lifeline_reader.into(),
                        created: Box::new(move |pid| tell_created(created, go_reader, pid)),
                    };
                    create_in_child(request, creation)
                });
            let code = i32::from(result.is_err());
            if let Ok(bytes) = serde_json::to_vec(&result) {
                let _ = result_writer.write_all(&bytes);
            }
            sys::exit_now(code)
        }
        Forked::Parent(creator) => {
            // The namespace too: with the container's last process it is to go.
            drop((stdout, stderr, lifeline_reader, result_writer, go_reader));
            drop(network);
            let deadline = Instant::now() + Duration::from_millis(request.timeout_ms);
            let result = await_creation(result_reader, go_writer, creator, deadline, outputs)
                .ok_or(StartFailure::TimedOut {
                    seconds: request.timeout_ms / 1000,
                })?;
            let running = result?;
            let _ = waitpid(Pid::from_raw(creator), None);
            // A child of ours that we have not waited for: the number cannot have been used again.
            let pidfd = sys::pidfd_open(running.process.pid)
                .map_err(io("opening the container's process"))?;
            Ok((pidfd, running, lifeline_writer))
        }
    }
}

fn create_in_child(
    request: &StartRequest,
    creation: Creation,
) -> Result<RunningRecord, StartFailure> {
    let _ = nix::sys::prctl::set_name(c"mezzo-creator");
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    if nix::unistd::getppid().as_raw() != creation.keeper.pid {
        return Err(StartFailure::internal("the keeper is gone"));
    }
    container::create(request, creation)
}

/// In the creating child: says that the container's process is there and waits for the keeper's "go".
fn tell_created(mut keeper: PipeWriter, mut go: PipeReader, pid: i32) -> std::io::Result<()> {
    keeper.write_all(format!("created {pid}\n").as_bytes())?;
    go.read_exact(&mut [0])
}

/// Reaps every child but these two: libcontainer leaves an intermediate process, which ends by itself, and until
/// it is reaped it counts as one of the container's processes.
fn reap_others(creator: i32, process: i32, deadline: Instant) {
    for pid in children() {
        if pid == creator || pid == process {
            continue;
        }
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        while matches!(
            waitid(Id::Pid(Pid::from_raw(pid)), flags),
            Ok(WaitStatus::StillAlive)
        ) {
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Reaps every dead child but this one.
fn reap_dead_but(creator: i32) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    for pid in children().into_iter().filter(|pid| *pid != creator) {
        let _ = waitid(Id::Pid(Pid::from_raw(pid)), flags);
    }
}

/// This process's children, dead ones included.
fn children() -> Vec<i32> {
    let path = format!("/proc/self/task/{}/children", nix::unistd::gettid());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Waits for the creating child's answer while output already flows; `None` when the time is over.
fn await_creation(
    mut result: PipeReader,
    mut go: PipeWriter,
    creator: i32,
    deadline: Instant,
    outputs: &mut [Output; 2],
) -> Option<Result<RunningRecord, StartFailure>> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut created = false;
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        let step = if created {
            left
        } else {
            left.min(REAP_INTERVAL)
        };
        let ready = poll_once(result.as_fd(), outputs, Some(step));
        if !ready && !created {
            // A start that fails leaves dead children, and libcontainer waits for their cgroup to become empty.
            reap_dead_but(creator);
        }
        if ready {
            let mut chunk = [0_u8; 4096];
            match result.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => {
                    bytes.extend_from_slice(&chunk[..length]);
                    if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = bytes.drain(..=end).collect();
                        let pid = std::str::from_utf8(&line)
                            .ok()
                            .and_then(|line| line.strip_prefix("created "));
                        if let Some(pid) = pid.and_then(|pid| pid.trim().parse().ok()) {
                            created = true;
                            reap_others(creator, pid, deadline);
                            // If the child is gone, its silence is the answer.
                            let _ = go.write_all(b"g");
                        }
                    }
                }
                Err(error) => return Some(Err(StartFailure::internal(error))),
            }
            if bytes.len() > 1 << 20 {
                break;
            }
        }
    }
    Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        Err(StartFailure::internal(
            "the process that creates the container died without a word",
        ))
    }))
}

/// Polls `fd` and the outputs once, moves output that is there, and tells whether `fd` is ready.
fn poll_once(
    fd: std::os::fd::BorrowedFd<'_>,
    outputs: &mut [Output; 2],
    timeout: Option<Duration>,
) -> bool {
    let ready: [bool; 3] = {
        let mut items = vec![PollFd::new(fd, PollFlags::POLLIN)];
        for pipe in outputs.iter().filter_map(|output| output.pipe.as_ref()) {
            items.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        let timeout = timeout.map_or(PollTimeout::NONE, |time| {
            let millis = i32::try_from(time.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        if poll(&mut items, timeout).is_err() {
            return false;
        }
        let mut answers = items
            .iter()
            .map(|item| item.revents().is_some_and(|events| !events.is_empty()));
        let first = answers.next().unwrap_or(false);
        let mut ready = [first, false, false];
        for (index, output) in outputs.iter().enumerate() {
            if output.pipe.is_some() {
                ready[index + 1] = answers.next().unwrap_or(false);
            }
        }
        ready
    };
    for (index, output) in outputs.iter_mut().enumerate() {
        if ready[index + 1] {
            move_output(output);
        }
    }
    ready[0]
}

/// Moves what one pipe holds into its log, a bounded amount at a time so that no stream starves the other.
fn move_output(output: &mut Output) {
    let Some(pipe) = output.pipe.as_mut() else {
        return;
    };
    let mut chunk = [0_u8; 16 * 1024];
    for _ in 0..8 {
        match pipe.read(&mut chunk) {
            Ok(0) => {
                output.pipe = None;
                return;
            }
            Ok(length) => output.log.write(&chunk[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(_) => {
                output.pipe = None;
                return;
            }
        }
    }
}

/// Waits for the end and closes the books.
fn watch(
    request: &StartRequest,
    hierarchies: &Hierarchies,
    running: Running,
    mut outputs: [Output; 2],
) -> i32 {
    let (pidfd, record, lifeline) = running;
    while !poll_once(pidfd.as_fd(), &mut outputs, None) {}
    let finished_at_ms = process::now_ms();
    let exit = match waitpid(Pid::from_raw(record.process.pid), None) {
        Ok(WaitStatus::Exited(_, code)) => Exit::Code(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
        Ok(_) | Err(_) => Exit::Signal(libc::SIGKILL),
    };
    // The first process of a pid namespace takes all others with it, so the pipes end now, if nobody passed
    // them elsewhere.
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while outputs.iter().any(|output| output.pipe.is_some()) {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            break;
        };
        drain_once(&mut outputs, left);
    }
    hierarchies.kill(&request.cgroup, KILL_TIMEOUT);
    let usage = last_usage(hierarchies, &request.cgroup, record.start_cost);
    let exit_record = ExitRecord {
        id: request.id.clone(),
        exit,
        oom_killed: usage.oom_kills.is_some_and(|kills| kills > 0),
        memory_limit_bytes: memory_limit(&request.dir),
        started_at_ms: record.started_at_ms,
        finished_at_ms,
        usage,
    };
    // A full disk may take it later; without a record the container would be reported as lost.
    let written = (0..50).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(200));
        }
        request.dir.write_exit(&exit_record).is_ok()
    });
    release(request, hierarchies);
    drop(lifeline);
    i32::from(!written)
}

fn drain_once(outputs: &mut [Output; 2], timeout: Duration) {
    let pipes: Vec<_> = outputs
        .iter()
        .filter_map(|output| output.pipe.as_ref())
        .collect();
    let mut items: Vec<_> = pipes
        .iter()
        .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
        .collect();
    let millis = i32::try_from(timeout.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
    let _ = poll(
        &mut items,
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX),
    );
    drop(items);
    outputs.iter_mut().for_each(move_output);
}

/// A sample of a cgroup that is about to be removed.
pub(crate) fn last_usage(
    hierarchies: &Hierarchies,
    cgroup: &str,
    start_cost: Option<StartCost>,
) -> Usage {
    UsageReader::open(hierarchies, cgroup, start_cost).read(process::now_ms())
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
    for dir in [request.dir.oci_state(), request.dir.bundle()] {
        let _ = std::fs::remove_dir_all(dir);
    }
    let _ = std::fs::remove_dir(request.dir.rootfs());
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
