//! Runs one program in a running container: a process forked from the launcher that joins the container through
//! libcontainer's tenant builder, waits for the program and tells how it ended. If the runtime hangs up, the
//! program is killed: nobody is left who could read its output or send it anything.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use libcontainer::config::YoukiConfig;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use oci_spec::runtime::{
    LinuxNamespace, LinuxNamespaceType, Process, RootBuilder, Spec, UserBuilder,
};

use crate::beneath::Root;
use crate::container::{classify, hard_limit, read_failure};
use crate::error::StartFailure;
use crate::executor::ContainerExecutor;
use crate::model::ExecExit;
use crate::protocol::{self, ExecReply, ExecRequest};
use crate::spec::validate::BadSpec;
use crate::spec::{self, Context, HostFacts};
use crate::sys;
use crate::user::MAX_FILE_BYTES;

/// Everything a helper is given by the launcher.
pub(crate) struct HelperInput {
    pub(crate) request: ExecRequest,
    pub(crate) host: HostFacts,
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
    let files = ExecFiles::new(&request);
    let started = start(&request, host, seccomp, stdio, &files);
    files.remove();
    let (child, terminal, _lifeline) = match started {
        Ok(started) => started,
        Err(failure) => {
            let _ = protocol::send(reply.as_fd(), &ExecReply::Failed(failure), &[]);
            return 1;
        }
    };
    let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    if protocol::send(reply.as_fd(), &ExecReply::Started { pid: child }, &fds).is_err() {
        let _ = nix::sys::signal::kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
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

/// libcontainer's files of one execution: a container's state as its builder would have left it, in a directory that
/// goes when the program has been started.
struct ExecFiles {
    dir: std::path::PathBuf,
}

impl ExecFiles {
    fn new(request: &ExecRequest) -> Self {
        Self {
            dir: request.dir.execution(std::process::id()),
        }
    }

    fn process(&self) -> std::path::PathBuf {
        self.dir.join("process.json")
    }

    fn console(&self) -> std::path::PathBuf {
        self.dir.join("console.sock")
    }

    fn write(&self, request: &ExecRequest, spec: &Spec) -> Result<(), StartFailure> {
        let failed = |error: &dyn std::fmt::Display| {
            StartFailure::internal(format!("writing the files of an execution: {error}"))
        };
        let state = self.dir.join(request.id.as_str());
        fs::create_dir_all(&state).map_err(|error| failed(&error))?;
        // The root is long mounted, where only the container sees it; libcontainer wants the name of something.
        let mut bundle = spec.clone();
        if let Some(linux) = bundle.linux_mut() {
            let mut namespaces = linux.namespaces().clone().unwrap_or_default();
            if has(&namespaces, LinuxNamespaceType::User) {
                namespaces.retain(|one| !ENTERED.contains(&one.typ()));
            }
            linux.set_namespaces(Some(namespaces));
        }
        let root = RootBuilder::default().path(&self.dir).build();
        bundle.set_root(Some(root.map_err(|error| failed(&error))?));
        bundle
            .save(self.dir.join("config.json"))
            .map_err(|error| failed(&error))?;
        let status = libcontainer::container::ContainerStatus::Running;
        let pid = Some(request.process.pid);
        Container::new(request.id.as_str(), status, pid, &self.dir, &state)
            .and_then(|container| container.save())
            .map_err(|error| failed(&error))?;
        YoukiConfig::from_spec(spec, request.id.as_str())
            .and_then(|config| config.save(&state))
            .map_err(|error| failed(&error))?;
        let bytes = serde_json::to_vec(&process(request, spec)?).map_err(StartFailure::internal)?;
        fs::write(self.process(), bytes).map_err(|error| failed(&error))
    }

    fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What this process enters by itself. libcontainer knows no user namespace here: without this, the program would be
/// executed by the host's root. And who is in one can no longer enter a network that the host has made.
const ENTERED: [LinuxNamespaceType; 2] = [LinuxNamespaceType::Network, LinuxNamespaceType::User];

fn enter_users(first_process: i32, spec: &Spec) -> Result<(), StartFailure> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().clone());
    let namespaces = namespaces.unwrap_or_default();
    if !has(&namespaces, LinuxNamespaceType::User) {
        return Ok(());
    }
    for (kind, name, flag) in [
        (LinuxNamespaceType::Network, "net", CloneFlags::CLONE_NEWNET),
        (LinuxNamespaceType::User, "user", CloneFlags::CLONE_NEWUSER),
    ] {
        if has(&namespaces, kind) {
            let path = format!("/proc/{first_process}/ns/{name}");
            let file = fs::File::open(&path).map_err(|_| StartFailure::NotRunning)?;
            setns(file, flag)
                .map_err(|error| StartFailure::internal(format!("entering {path}: {error}")))?;
        }
    }
    Ok(())
}

fn has(namespaces: &[LinuxNamespace], kind: LinuxNamespaceType) -> bool {
    namespaces.iter().any(|one| one.typ() == kind)
}

type Started = (i32, Option<OwnedFd>, std::io::PipeWriter);

fn start(
    request: &ExecRequest,
    host: HostFacts,
    seccomp: Option<Rc<Vec<u8>>>,
    stdio: Vec<OwnedFd>,
    files: &ExecFiles,
) -> Result<Started, StartFailure> {
    let io = |what: &'static str| {
        move |error: std::io::Error| StartFailure::internal(format!("{what}: {error}"))
    };
    // While this descriptor shows the process alive, its number in libcontainer's records is the right one.
    let init = request.process.open().ok_or(StartFailure::NotRunning)?;
    let spec = specification(request, host).ok_or(StartFailure::NotRunning)?;
    files.write(request, &spec)?;
    nix::unistd::setgroups(&[]).map_err(StartFailure::internal)?;
    enter_users(request.process.pid, &spec)?;

    let (lifeline_reader, lifeline_writer) = std::io::pipe().map_err(io("making a pipe"))?;
    let (failure_reader, failure_writer) = std::io::pipe().map_err(io("making a pipe"))?;
    let executor = ContainerExecutor {
        failure: failure_writer.as_raw_fd(),
        lifeline: lifeline_reader.as_raw_fd(),
        seccomp,
        holds: false,
    };
    let mut builder = ContainerBuilder::new(request.id.to_string(), SyscallType::default())
        .with_root_path(&files.dir)
        .map_err(|error| classify(&error))?
        .with_executor(LifelineExecutor {
            inner: executor,
            writer: lifeline_writer.as_raw_fd(),
            terminal: request.spec.terminal,
        });
    let terminal = request.spec.terminal.is_some();
    let listener = if terminal {
        builder = builder.with_console_socket(Some(files.console()));
        Some(listen(&files.console())?)
    } else {
        let mut stdio = stdio.into_iter();
        if let (Some(stdin), Some(stdout), Some(stderr)) =
            (stdio.next(), stdio.next(), stdio.next())
        {
            builder = builder
                .with_stdin(stdin)
                .with_stdout(stdout)
                .with_stderr(stderr);
        }
        None
    };
    let built = builder
        .as_tenant()
        .with_process(Some(files.process()))
        .with_detach(true)
        .build();
    drop(failure_writer);
    let child = match built {
        Ok(pid) => pid.as_raw(),
        Err(error) => {
            let gone = sys::wait_readable(init.as_fd(), Some(Duration::ZERO)).unwrap_or(true);
            let failure = read_failure(&failure_reader).unwrap_or_else(|| classify(&error));
            return Err(if gone {
                StartFailure::NotRunning
            } else {
                failure
            });
        }
    };
    let master = listener
        .map(|listener| receive_terminal(&listener))
        .transpose()?;
    drop(lifeline_reader);
    Ok((child, master, lifeline_writer))
}

/// The container's OCI specification as far as a program in it needs it; a program before this one may have started the
/// container, and kept it.
fn specification(request: &ExecRequest, host: HostFacts) -> Option<Spec> {
    let running = request.dir.read_keeper().ok()??.running?;
    let Some(user) = running.user else {
        let mut earlier = request.dir.earlier_specs().into_iter();
        return earlier.find_map(|path| Spec::load(path).ok());
    };
    let record = request.dir.read_spec().ok()??;
    let context = Context {
        id: request.id.as_str(),
        // Mounts and devices are made.
        rootfs: Path::new("/"),
        devices: &[],
        staged: None,
        shared: None,
        cgroup: &record.cgroup,
        user: &user,
        host,
        own_users: record.user_range.is_some(),
    };
    spec::build(&record.spec, &context, &hard_limit).ok()
}

/// The process to run: the container's own, with what the request changes. Capabilities, limits and
/// `no_new_privileges` stay the container's.
fn process(request: &ExecRequest, spec: &Spec) -> Result<Process, StartFailure> {
    let mut process = spec
        .process()
        .clone()
        .ok_or_else(|| StartFailure::internal("the container's specification has no process"))?;
    let wanted = &request.spec;
    process
        .set_args(Some(wanted.args.clone()))
        .set_terminal(Some(wanted.terminal.is_some()));
    if let Some(cwd) = &wanted.cwd {
        process.set_cwd(cwd.into());
    }
    let mut env: Vec<String> = process.env().clone().unwrap_or_default();
    let mut replace = |name: &str, value: &str| {
        env.retain(|entry| entry.split_once('=').is_none_or(|(known, _)| known != name));
        env.push(format!("{name}={value}"));
    };
    if wanted.terminal.is_some() {
        replace("TERM", "xterm");
    }
    if let Some(user) = &wanted.user {
        let root = std::path::PathBuf::from(format!("/proc/{}/root", request.process.pid));
        let root = Root::open(&root).map_err(StartFailure::internal)?;
        let passwd = root.read("etc/passwd", MAX_FILE_BYTES);
        let group = root.read("etc/group", MAX_FILE_BYTES);
        let user = user.resolve(&passwd, &group).map_err(|error| {
            StartFailure::BadSpec(BadSpec {
                field: "user".to_owned(),
                problem: error.to_string(),
            })
        })?;
        let mut builder = UserBuilder::default().uid(user.uid).gid(user.gid);
        if !user.additional_gids.is_empty() {
            builder = builder.additional_gids(user.additional_gids);
        }
        process.set_user(builder.build().map_err(StartFailure::internal)?);
        replace("HOME", &user.home);
    }
    for (name, value) in &wanted.env {
        replace(name, value);
    }
    process.set_env(Some(env));
    Ok(process)
}

fn listen(path: &std::path::Path) -> Result<UnixListener, StartFailure> {
    let failed = |error: std::io::Error| {
        StartFailure::internal(format!("listening for the terminal: {error}"))
    };
    // A socket's path is at most 107 bytes long, a state directory's may be longer: bind by the bare name.
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(StartFailure::internal("the socket has no name"));
    };
    std::env::set_current_dir(dir).map_err(failed)?;
    let listener = UnixListener::bind(name).map_err(failed);
    std::env::set_current_dir("/").map_err(failed)?;
    listener
}

/// The master side of the terminal, which libcontainer's process has sent before the program was executed.
fn receive_terminal(listener: &UnixListener) -> Result<OwnedFd, StartFailure> {
    let failed =
        |error: std::io::Error| StartFailure::internal(format!("receiving the terminal: {error}"));
    if !sys::wait_readable(listener.as_fd(), Some(Duration::from_secs(10))).map_err(failed)? {
        return Err(StartFailure::internal("no terminal came"));
    }
    let (stream, _) = listener.accept().map_err(failed)?;
    let message = sys::receive_message(stream.as_fd(), 4096).map_err(failed)?;
    message
        .and_then(|(_, fds)| fds.into_iter().next())
        .ok_or_else(|| StartFailure::internal("no terminal came"))
}

/// The helper itself calls the builder, so the lifeline's other end is inherited by the program's process and
/// must be closed there first.
#[derive(Clone)]
struct LifelineExecutor {
    inner: ContainerExecutor,
    writer: std::os::fd::RawFd,
    /// Columns and rows, set right before the program is executed: it must not find a terminal without a size.
    terminal: Option<(u16, u16)>,
}

impl libcontainer::workload::Executor for LifelineExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), libcontainer::workload::ExecutorValidationError> {
        sys::close_raw(self.writer);
        self.inner.validate(spec)
    }

    fn setup_envs(
        &self,
        envs: std::collections::HashMap<String, String>,
    ) -> Result<(), libcontainer::workload::ExecutorSetEnvsError> {
        self.inner.setup_envs(envs)
    }

    fn exec(&self, spec: &Spec) -> Result<(), libcontainer::workload::ExecutorError> {
        if let Some((columns, rows)) = self.terminal {
            // A program without the right size is better than none.
            let _ = sys::set_terminal_size(std::io::stdin().as_fd(), columns, rows);
        }
        self.inner.exec(spec)
    }
}
