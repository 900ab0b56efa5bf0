//! The joiner: a short-lived process that goes where the program is to be, and forks it there as the helper's own child.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;

use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::Spec;

use crate::beneath::Root;
use crate::cgroup::Hierarchies;
use crate::error::StartFailure;
use crate::executor::ContainerExecutor;
use crate::layout::{SpecRecord, create_private_dir};
use crate::program::{self, Program, WordToGo};
use crate::protocol::ExecRequest;
use crate::sys::{self, Forked};
use crate::terminal::{Terminal, USUAL_SIZE};

/// Where the program reads and writes.
pub(super) enum Streams {
    /// Standard input, output and errors.
    Given([OwnedFd; 3]),
    /// A terminal, to be made in the container and sent through this socket.
    Terminal(OwnedFd),
}

/// Forks a process into the container's cgroup: there before it is anything else, it need not be moved.
pub(super) fn fork(hierarchies: &Hierarchies, cgroup: &str) -> Result<Forked, StartFailure> {
    let unified = hierarchies
        .open_unified(cgroup)
        .map_err(|_| StartFailure::NotRunning)?;
    sys::fork_into(unified.as_ref().map(AsFd::as_fd), 0).map_err(|error| {
        StartFailure::internal(format!("forking into the container's cgroup: {error}"))
    })
}

/// Everything that a joiner needs.
pub(super) struct Joining<'a> {
    /// The pid of who forked it.
    pub(super) helper: u32,
    pub(super) request: &'a ExecRequest,
    pub(super) hierarchies: &'a Hierarchies,
    /// The container's first process.
    pub(super) init: BorrowedFd<'a>,
    pub(super) record: &'a SpecRecord,
    pub(super) spec: Spec,
    pub(super) streams: Streams,
    pub(super) seccomp: Option<Rc<Vec<u8>>>,
    /// A pipe for a [`StartFailure`] of the program's process; it closes without a word when the program was executed.
    pub(super) failure: &'a OwnedFd,
    /// A pipe whose other end only the helper holds.
    pub(super) lifeline: &'a OwnedFd,
    /// Where the joiner's answer goes: its end says that the joiner is gone, so nobody else may hold it.
    pub(super) answer: RawFd,
}

impl Joining<'_> {
    /// Gives the program's pid.
    pub(super) fn join(self) -> Result<i32, StartFailure> {
        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
        if std::os::unix::process::parent_id() != self.helper {
            return Err(StartFailure::internal("the helper is gone"));
        }
        self.hierarchies
            .enter_v1(&self.record.cgroup)
            .map_err(|error| StartFailure::Cgroup {
                reason: error.to_string(),
            })?;
        let word = self.word()?;
        program::prepare(&self.spec)?;
        // All at once, by the rights that the host's root has over each of them; what belongs to nobody in the
        // container (its network) could not be entered from within its users.
        setns(self.init, self.namespaces()).map_err(|error| {
            if error == nix::errno::Errno::ESRCH {
                StartFailure::NotRunning
            } else {
                StartFailure::internal(format!("entering the container: {error}"))
            }
        })?;
        match sys::fork_sibling(0).map_err(StartFailure::internal)? {
            Forked::Parent(pid) => Ok(pid),
            Forked::Child => self.program(word),
        }
    }

    fn word(&self) -> Result<WordToGo, StartFailure> {
        let dir = self.request.dir.execution(self.helper);
        create_private_dir(&dir).map_err(StartFailure::internal)?;
        let word = WordToGo::give(&dir);
        let _ = std::fs::remove_dir_all(&dir);
        word
    }

    fn namespaces(&self) -> CloneFlags {
        let mut flags = CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWNET;
        if self.record.user_range.is_some() {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        flags
    }

    fn program(self, word: WordToGo) -> ! {
        sys::close_raw(self.answer);
        let status = self.failure.as_raw_fd();
        if self.record.user_range.is_some()
            && let Err(failure) = program::be_root_of_own_users()
        {
            program::give_up(status, &failure);
        }
        let size = self.request.spec.terminal;
        let streams = match streams(self.streams, &self.spec, size.unwrap_or(USUAL_SIZE)) {
            Ok(streams) => streams,
            Err(failure) => program::give_up(status, &failure),
        };
        let executor = ContainerExecutor {
            failure: status,
            lifeline: self.lifeline.as_raw_fd(),
            seccomp: self.seccomp,
            holds: false,
            terminal: size.is_some(),
        };
        let program = Program {
            spec: self.spec,
            streams,
            word,
            executor: Box::new(executor),
        };
        program::give_up(status, &program.become_it())
    }
}

/// In the container, whose own terminals its programs have.
fn streams(wanted: Streams, spec: &Spec, size: (u16, u16)) -> Result<[OwnedFd; 3], StartFailure> {
    let socket = match wanted {
        Streams::Given(streams) => return Ok(streams),
        Streams::Terminal(socket) => socket,
    };
    let open = || {
        let root = Root::open(Path::new("/"))?;
        let terminal = Terminal::open(&root, program::uid(spec), size)?;
        terminal.send(socket.as_fd())?;
        terminal.into_streams()
    };
    open().map_err(|error| StartFailure::internal(format!("making a terminal: {error}")))
}
