//! The launcher: a process with one thread that forks keepers and exec helpers on request. It is executed from a
//! sealed copy of our own program (so that no container can write to the real one through `/proc/self/exe`,
//! CVE-2019-5736), remembers nothing but compiled seccomp programs, and ends when its socket does. Its children
//! go on.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use crate::cgroup::Hierarchies;
use crate::container;
use crate::error::StartFailure;
use crate::exec_helper::{self, HelperInput};
use crate::keeper::{self, KeeperInput};
use crate::protocol::{self, ExecReply, HostContext, Ready, Request, StartReply};
use crate::seccomp::Filter;
use crate::spec::security;
use crate::spec::validate::BadSpec;
use crate::sys::{self, Forked};

/// How a program knows that it was executed as a launcher.
pub(crate) const ARGV0: &str = "mezzo-launcher";
pub(crate) const MARK: &str = "--socket-on-stdin";

/// Becomes the launcher if this process was executed as one; the result is the exit code for `main`. Must be
/// called first thing in `main`, before any thread is started.
#[must_use]
pub fn launcher_main_if_requested() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    if args.next()? != OsStr::new(ARGV0) || args.next()? != OsStr::new(MARK) {
        return None;
    }
    let keepers_cgroup = args.next()?.into_string().ok()?;
    Some(match run(&keepers_cgroup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mezzo-launcher: {error}");
            ExitCode::FAILURE
        }
    })
}

fn run(keepers_cgroup: &str) -> io::Result<()> {
    let socket = sys::take_stdin()?;
    // A session of its own: a terminal's Ctrl-C is for the agent, not for what runs on without it.
    nix::unistd::setsid()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    std::env::set_current_dir("/")?;
    let hierarchies = Hierarchies::detect()?;
    // Keepers are forked into it: stopping the agent's service does not stop them, and no container's limit
    // throttles them.
    hierarchies.join(keepers_cgroup)?;
    // Lowering the score needs a capability that not every root has.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    // A page that is touched is to be a page, in a thousand keepers; programs get the machine's own setting back.
    let _ = nix::sys::prctl::set_thp_disable(true);
    // Nobody waits for keepers: the kernel reaps them.
    sys::ignore_signal(libc::SIGCHLD);
    for signal in [libc::SIGPIPE, libc::SIGINT, libc::SIGHUP] {
        sys::ignore_signal(signal);
    }
    protocol::send(socket.as_fd(), &Ready {}, &[])?;
    let mut launcher = Launcher {
        host: HostContext {
            facts: container::host_facts(&hierarchies),
            hierarchies,
        },
        programs: HashMap::new(),
        spare: Spare::default(),
    };
    // The first container need not wait for the compiler.
    let filter = Filter {
        capabilities: security::default_set(),
        profile: None,
    };
    let _ = launcher.program(Some(&filter));
    while let Some((request, fds)) = protocol::receive::<Request>(socket.as_fd())? {
        match launcher.handle(request, fds) {
            Flow::Continue => launcher.spare.refill(socket.as_fd())?,
            Flow::Become(child) => {
                drop(socket);
                // With it in each keeper it would never go.
                drop(launcher.spare);
                child.run();
            }
        }
    }
    Ok(())
}

struct Launcher {
    host: HostContext,
    programs: HashMap<Filter, Rc<Vec<u8>>>,
    spare: Spare,
}

/// A network namespace for the next container that wants one with loopback alone: making one is half a millisecond, which
/// nobody waits for when it is made between two requests.
#[derive(Default)]
struct Spare {
    namespace: Option<OwnedFd>,
    /// Somebody has wanted one.
    wanted: bool,
}

impl Spare {
    fn take(&mut self) -> Option<OwnedFd> {
        self.wanted = true;
        self.namespace.take()
    }

    /// Makes one if that keeps no request waiting. After an error this process is in the wrong namespace and must end.
    fn refill(&mut self, requests: BorrowedFd<'_>) -> io::Result<()> {
        let busy = sys::wait_readable(requests, Some(Duration::ZERO))?;
        if !self.wanted || self.namespace.is_some() || busy {
            return Ok(());
        }
        let home = File::open("/proc/self/ns/net")?;
        let made = sys::new_network_namespace().and_then(|()| File::open("/proc/self/ns/net"));
        nix::sched::setns(home, nix::sched::CloneFlags::CLONE_NEWNET)?;
        self.namespace = made.ok().map(OwnedFd::from);
        Ok(())
    }
}

/// What the process goes on as.
enum Flow {
    Continue,
    Become(Child),
}

enum Child {
    Keeper(Box<KeeperInput>),
    Helper(Box<HelperInput>),
}

impl Child {
    /// A forked child's life; it never comes back to the launcher's loop.
    fn run(self) -> ! {
        let name = match &self {
            Self::Keeper(_) => c"mezzo-keeper",
            Self::Helper(_) => c"mezzo-exec",
        };
        let _ = nix::sys::prctl::set_name(name);
        let _ = nix::unistd::setsid();
        sys::default_signal(libc::SIGCHLD);
        if matches!(self, Self::Keeper(_)) {
            // Who ends a whole cgroup (systemd does, when the machine shuts down) sends it to all in it: the
            // container is to take it, and the keeper to write down how it ended.
            sys::ignore_signal(libc::SIGTERM);
        }
        if let Ok(null) = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
        {
            for stream in 0..3 {
                let _ = sys::replace_stdio(null.as_fd(), stream);
            }
        }
        let code = match self {
            Self::Keeper(input) => keeper::run(*input),
            Self::Helper(input) => exec_helper::run(*input),
        };
        sys::exit_now(code)
    }
}

impl Launcher {
    fn handle(&mut self, request: Request, fds: Vec<OwnedFd>) -> Flow {
        let mut fds = fds.into_iter();
        let Some(reply) = fds.next() else {
            return Flow::Continue;
        };
        match request {
            Request::Start(request) => {
                let seccomp = match self.program(request.seccomp.as_ref()) {
                    Ok(program) => program,
                    Err(failure) => {
                        let _ = protocol::send(reply.as_fd(), &StartReply::Failed(failure), &[]);
                        return Flow::Continue;
                    }
                };
                let Some(lock) = fds.next() else {
                    return Flow::Continue;
                };
                let secrets = if request.secrets { fds.next() } else { None };
                let network = match fds.next() {
                    None if request.alone => self.spare.take(),
                    prepared => prepared,
                };
                match sys::fork_single_threaded() {
                    Ok(Forked::Parent(_)) => Flow::Continue,
                    Ok(Forked::Child) => {
                        let host = self.host.clone();
                        Flow::Become(Child::Keeper(Box::new(KeeperInput {
                            request,
                            host,
                            seccomp,
                            reply,
                            lock,
                            secrets,
                            network,
                        })))
                    }
                    Err(error) => {
                        let failure = StartFailure::internal(format!("forking a keeper: {error}"));
                        let _ = protocol::send(reply.as_fd(), &StartReply::Failed(failure), &[]);
                        Flow::Continue
                    }
                }
            }
            Request::Exec(request) => {
                let seccomp = match self.program(request.seccomp.as_ref()) {
                    Ok(program) => program,
                    Err(failure) => {
                        let _ = protocol::send(reply.as_fd(), &ExecReply::Failed(failure), &[]);
                        return Flow::Continue;
                    }
                };
                let stdio: Vec<OwnedFd> = fds.collect();
                match sys::fork_single_threaded() {
                    Ok(Forked::Parent(_)) => Flow::Continue,
                    Ok(Forked::Child) => Flow::Become(Child::Helper(Box::new(HelperInput {
                        request,
                        host: self.host.clone(),
                        seccomp,
                        reply,
                        stdio,
                    }))),
                    Err(error) => {
                        let failure = StartFailure::internal(format!("forking a helper: {error}"));
                        let _ = protocol::send(reply.as_fd(), &ExecReply::Failed(failure), &[]);
                        Flow::Continue
                    }
                }
            }
        }
    }

    /// The compiled program of a filter, compiled at most once.
    fn program(&mut self, filter: Option<&Filter>) -> Result<Option<Rc<Vec<u8>>>, StartFailure> {
        let Some(filter) = filter else {
            return Ok(None);
        };
        if let Some(program) = self.programs.get(filter) {
            return Ok(Some(Rc::clone(program)));
        }
        let program = Rc::new(filter.compile().map_err(|error| {
            StartFailure::BadSpec(BadSpec {
                field: "seccomp".to_owned(),
                problem: error.to_string(),
            })
        })?);
        // The compiler leaves a megabyte of holes, which every keeper would go through once and so have for itself.
        sys::tidy_heap();
        // Filters are made by people, one per kind of container; the bound is for mischief.
        if self.programs.len() >= 64 {
            self.programs.clear();
        }
        self.programs.insert(filter.clone(), Rc::clone(&program));
        Ok(Some(program))
    }
}
