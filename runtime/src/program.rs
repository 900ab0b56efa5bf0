//! Makes this process the program that a specification describes, once it is where that program is to be (namespaces,
//! cgroup, root): the only file that calls libcontainer. Its init does it as for a program that joins a container:
//! session, standard streams, user, groups and capabilities; then the executor comes. All that is about
//! places is made by [`crate::inside`], or there already.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcgroups::common::CgroupConfig;
use libcontainer::notify_socket::NotifyListener;
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::process::{channel, init};
use libcontainer::syscall::syscall::{SyscallType, create_syscall};
use libcontainer::workload::Executor;
use nix::errno::Errno;
use oci_spec::runtime::Spec;

use crate::error::StartFailure;
use crate::spec::validate::{BadSpec, not_a_working_dir};
use crate::sys;

/// A program and where it reads and writes.
pub(crate) struct Program {
    pub(crate) spec: Spec,
    /// Standard input, output and errors.
    pub(crate) streams: [OwnedFd; 3],
    pub(crate) word: WordToGo,
    pub(crate) executor: Box<dyn Executor>,
}

impl Program {
    /// Comes back only when it failed.
    pub(crate) fn become_it(self) -> StartFailure {
        if let Some(process) = self.spec.process()
            && let Err(problem) = enter_working_dir(process.cwd())
        {
            return StartFailure::BadSpec(problem);
        }
        match self.init() {
            Err(error) => classify(error.as_ref()),
            Ok(()) => StartFailure::internal("the program was not executed"),
        }
    }

    fn init(self) -> Result<(), Box<dyn std::error::Error>> {
        let [stdin, stdout, stderr] = self.streams.map(|stream| Some(stream.into_raw_fd()));
        let mut spec = self.spec;
        // All of them have been entered.
        if let Some(linux) = spec.linux_mut() {
            linux.set_namespaces(None);
        }
        let args = ContainerArgs {
            container_type: ContainerType::TenantContainer { exec_notify_fd: -1 },
            syscall: SyscallType::default(),
            spec: Rc::new(spec),
            rootfs: PathBuf::from("/"),
            console_socket: None,
            notify_listener: self.word.0,
            preserve_fds: 0,
            container: None,
            user_ns_config: None,
            // For parts of the builder that are not used.
            cgroup_config: CgroupConfig {
                cgroup_path: PathBuf::new(),
                systemd_cgroup: false,
                container_name: String::new(),
            },
            detached: true,
            executor: self.executor,
            no_pivot: false,
            stdin,
            stdout,
            stderr,
            as_sibling: true,
            pid_file: None,
        };
        let (mut to_main, _from_init) = channel::main_channel()?;
        let (_to_init, mut from_main) = channel::init_channel()?;
        Ok(init::container_init_process(
            &args,
            &mut to_main,
            &mut from_main,
        )?)
    }
}

/// Who the program runs as, as the container numbers users.
pub(crate) fn uid(spec: &Spec) -> u32 {
    let process = spec.process().as_ref();
    process.map_or(0, |process| process.user().uid())
}

/// libcontainer's word to go: given already, because our own words come earlier.
pub(crate) struct WordToGo(NotifyListener);

impl WordToGo {
    /// By a socket in this directory, which is there to be thrown away.
    pub(crate) fn give(dir: &Path) -> Result<Self, StartFailure> {
        let path = dir.join("start");
        let listener = NotifyListener::new(&path).map_err(StartFailure::internal)?;
        // A socket's path is at most 107 bytes long, a state directory's may be longer: by the bare name.
        let connected = std::env::set_current_dir(dir)
            .and_then(|()| UnixStream::connect("start"))
            .and_then(|_| std::env::set_current_dir("/"));
        connected.map_err(StartFailure::internal)?;
        Ok(Self(listener))
    }
}

/// What the program's process takes from the one that forks it, set there.
pub(crate) fn prepare(spec: &Spec) -> Result<(), StartFailure> {
    // The executed program's score, not its supervisor's, which protects itself from the OOM killer.
    let score = spec
        .process()
        .as_ref()
        .and_then(|process| process.oom_score_adj());
    std::fs::write("/proc/self/oom_score_adj", score.unwrap_or(0).to_string())
        .map_err(StartFailure::internal)?;
    // Nobody may look into a process that is half in the container.
    nix::sys::prctl::set_dumpable(false).map_err(StartFailure::internal)?;
    // Ours must not reach the container, and libcontainer clears them only when it is given others.
    nix::unistd::setgroups(&[]).map_err(StartFailure::internal)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let limits = spec
        .process()
        .as_ref()
        .and_then(|process| process.rlimits().as_ref());
    let syscall = create_syscall();
    limits
        .into_iter()
        .flatten()
        .try_for_each(|limit| syscall.set_rlimit(limit))
        .map_err(StartFailure::internal)
}

/// Of the root that entered a user namespace nothing is left but its numbers, which mean nobody in there: root of the
/// namespace.
pub(crate) fn be_root_of_own_users() -> Result<(), StartFailure> {
    nix::unistd::setresgid(0.into(), 0.into(), 0.into())
        .and_then(|()| nix::unistd::setresuid(0.into(), 0.into(), 0.into()))
        .map_err(|error| StartFailure::internal(format!("user number 0: {error}")))
}

/// Tells why, and ends this process.
pub(crate) fn give_up(status: std::os::fd::RawFd, failure: &StartFailure) -> ! {
    if let Ok(bytes) = serde_json::to_vec(failure) {
        sys::write_raw(status, &bytes);
    }
    sys::exit_now(1)
}

/// What libcontainer will do a moment later, done before it for the sake of a clear word: its own errors do not tell what
/// failed. A directory that only the program's user may enter is left to it.
fn enter_working_dir(cwd: &Path) -> Result<(), BadSpec> {
    let name = cwd.to_string_lossy();
    match nix::unistd::chdir(cwd) {
        Ok(()) => {}
        Err(Errno::EPERM | Errno::EACCES) => return Ok(()),
        Err(error) => {
            let why = format!("cannot be entered: {}", error.desc());
            return Err(not_a_working_dir(&name, &why));
        }
    }
    // By a link to a descriptor it may be a directory that the container's root does not reach (CVE-2024-21626).
    match nix::unistd::getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(_) | Err(_) => Err(not_a_working_dir(&name, "leads out of the container")),
    }
}

/// libcontainer's errors, by the words in them: its types do not tell what failed.
fn classify(error: &dyn std::error::Error) -> StartFailure {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = cause.source();
    }
    StartFailure::Internal { reason }
}
