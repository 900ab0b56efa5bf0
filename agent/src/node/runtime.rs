//! [`Runtime`] on the `mezzo-runtime` crate: translation, no decisions.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use mezzo_api::model::{CgroupMode, LinuxCapability, NetworkMode, Usage};
use mezzo_runtime as rt;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Mutex, mpsc, oneshot},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Attachment, Container, ContainerExit, ContainerId, ContainerSpec, ContainerState, ExecControl,
    ExecSession, ExecSpec, ExitRecord, HolderSpec, LimitError, Limits, MountSource, NetworkRequest,
    Reader, Runtime, RuntimeError, StartError, Started, Stream, Writer,
};

mod limits;

/// Who holds what the container's group shares.
const GROUP_LABEL: &str = "mezzo.group";
const STOP_SIGNAL_LABEL: &str = "mezzo.stop_signal";
const SIGTERM: i32 = 15;

/// The real runtime, and what all containers have in common.
#[derive(Clone)]
pub struct Containers {
    runtime: rt::Runtime,
    /// How much output of each is kept.
    log: rt::LogLimits,
    /// Whether they have user numbers of their own, where they can.
    own_users: bool,
}

impl std::fmt::Debug for Containers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Containers").finish_non_exhaustive()
    }
}

impl Containers {
    /// Opens it.
    pub async fn open(config: rt::RuntimeConfig) -> Result<Self, RuntimeError> {
        rt::Runtime::open(config)
            .await
            .map(|runtime| Self {
                runtime,
                log: rt::LogLimits::default(),
                own_users: false,
            })
            .map_err(|error| RuntimeError::Other(chain(&error)))
    }

    /// With other bounds for the logs of containers that are started from now on.
    #[must_use]
    pub fn with_logs(self, max_bytes: u64, files: u32, max_age_secs: Option<u64>) -> Self {
        let log = rt::LogLimits {
            max_bytes,
            files,
            max_age_secs,
        };
        Self { log, ..self }
    }

    /// With user numbers of their own for containers that are started from now on, where this machine can, or not.
    #[must_use]
    pub fn with_own_users(self, wanted: bool) -> Self {
        let own_users = wanted
            && match self.runtime.user_namespaces() {
                Ok(()) => true,
                Err(reason) => {
                    tracing::warn!(reason, "containers have the machine's own user numbers");
                    false
                }
            };
        Self { own_users, ..self }
    }

    fn users(&self, spec: &ContainerSpec) -> rt::UserNamespace {
        // Whose a member's are its holder decides.
        if self.own_users
            && spec.group.is_none()
            && !spec.privileged
            && !spec.host_users
            && spec.devices.is_empty()
        {
            rt::UserNamespace::Own
        } else {
            rt::UserNamespace::Host
        }
    }

    /// Of a container itself, or of the group that it is in.
    fn addresses(&self, id: &rt::ContainerId) -> Vec<IpAddr> {
        let attachment = self.runtime.attachment(id);
        attachment.map_or_else(Vec::new, |attachment| attachment.addresses)
    }
}

/// Where this machine enforces limits.
#[must_use]
pub fn cgroup_mode() -> CgroupMode {
    match rt::inspect_host().cgroup_mode {
        Some(rt::CgroupMode::V1) => CgroupMode::V1,
        Some(rt::CgroupMode::Hybrid) => CgroupMode::Hybrid,
        Some(rt::CgroupMode::V2) => CgroupMode::V2,
        None => CgroupMode::Unknown,
    }
}

/// Whether containers can be kept to some of the processors.
#[must_use]
pub(crate) fn has_cpuset() -> bool {
    let controllers = rt::inspect_host().controllers;
    controllers.iter().any(|name| name == "cpuset")
}

/// The capabilities of a container that asks for nothing.
pub(crate) fn default_capabilities() -> Vec<LinuxCapability> {
    let names = rt::default_capabilities();
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[async_trait]
impl Runtime for Containers {
    async fn prepare_network(
        &self,
        id: &ContainerId,
        request: NetworkRequest,
    ) -> Result<Attachment, StartError> {
        let prepared = self
            .runtime
            .prepare_network(&to_id(id), to_request(request))
            .await;
        prepared
            .map(|attachment| Attachment {
                addresses: attachment.addresses,
                dns: attachment.dns,
            })
            .map_err(|error| StartError::Failed(chain(&error)))
    }

    async fn release_network(&self, id: &ContainerId) {
        self.runtime.release_network(&to_id(id)).await;
    }

    async fn connect(&self, id: &ContainerId, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.runtime.tcp_socket(&to_id(id), to.ip()).await?;
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    }

    async fn start(&self, id: &ContainerId, spec: ContainerSpec) -> Result<Started, StartError> {
        let users = self.users(&spec);
        let holder = spec.group.as_ref().map(to_id);
        let mut spec = to_spec(spec)?;
        spec.log = self.log;
        spec.user_namespace = users;
        match self.runtime.start(&to_id(id), spec).await {
            Ok(started) => Ok(Started {
                pid: u32::try_from(started.pid).unwrap_or(0),
                cgroup: started.cgroup,
                started_at_ms: started.started_at_ms,
                addresses: self.addresses(&holder.unwrap_or_else(|| to_id(id))),
            }),
            // The operator's doing, not the task's: it may well run elsewhere.
            Err(rt::StartError::BadSpec { problem, .. })
                if ["devices[", "capabilities_"]
                    .iter()
                    .any(|field| problem.field.starts_with(field)) =>
            {
                Err(StartError::Failed(limits::in_words_of_the_api(&problem)))
            }
            Err(rt::StartError::BadSpec { problem, .. }) => {
                Err(StartError::Invalid(limits::in_words_of_the_api(&problem)))
            }
            Err(error @ rt::StartError::AlreadyExists { .. }) => {
                Err(StartError::Invalid(chain(&error)))
            }
            Err(error) => Err(StartError::Failed(chain(&error))),
        }
    }

    async fn hold(&self, id: &ContainerId, spec: HolderSpec) -> Result<(), StartError> {
        let limits = limits::to_limits(&spec.limits);
        let mut holder = rt::ContainerSpec::holder(limits, to_network(spec.network), &spec.volumes);
        if self.own_users && !spec.host_users {
            holder.user_namespace = rt::UserNamespace::Own;
        }
        match self.runtime.start(&to_id(id), holder).await {
            Ok(_) => Ok(()),
            Err(error) => Err(StartError::Failed(chain(&error))),
        }
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        let containers = self
            .runtime
            .list()
            .await
            .map_err(|error| RuntimeError::Other(chain(&error)))?;
        let with_addresses = |status: rt::ContainerStatus| {
            let holder = status.labels.get(GROUP_LABEL);
            let holder = holder.and_then(|holder| holder.parse().ok());
            let addresses = self.addresses(&holder.unwrap_or_else(|| status.id.clone()));
            from_status(status, addresses)
        };
        Ok(containers.into_iter().filter_map(with_addresses).collect())
    }

    async fn wait(&self, id: &ContainerId) -> Result<ExitRecord, RuntimeError> {
        self.runtime
            .wait(&to_id(id))
            .await
            .map(from_record)
            .map_err(|error| from_error(id, &error))
    }

    async fn terminate(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let status = self
            .runtime
            .status(&to_id(id))
            .await
            .map_err(|error| from_error(id, &error))?;
        let signal = status
            .and_then(|status| status.labels.get(STOP_SIGNAL_LABEL)?.parse().ok())
            .unwrap_or(SIGTERM);
        // The agent's own clock decides when the grace is over; `stop` is used because it knows that a first process
        // without a handler never sees the signal, and ends it at once.
        let id_below = to_id(id);
        let asked = self
            .runtime
            .stop(&id_below, Duration::from_secs(3600), signal);
        match tokio::time::timeout(Duration::from_secs(10), asked).await {
            Ok(Ok(_)) | Err(_) => Ok(()),
            Ok(Err(error)) => Err(from_error(id, &error)),
        }
    }

    async fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let killed = self.runtime.stop(&to_id(id), Duration::ZERO, 9).await;
        killed.map(|_| ()).map_err(|error| from_error(id, &error))
    }

    async fn limit(&self, id: &ContainerId, to: Limits) -> Result<(), LimitError> {
        self.runtime
            .update(&to_id(id), limits::to_limits(&to))
            .await
            .map_err(|error| match &error {
                rt::UpdateError::NotFound { .. } | rt::UpdateError::NotRunning { .. } => {
                    LimitError::NotRunning
                }
                rt::UpdateError::BadLimits { problem, .. } => {
                    LimitError::Refused(limits::in_words_of_the_api(problem))
                }
                rt::UpdateError::MemoryInUse {
                    wanted_bytes,
                    used_bytes,
                    ..
                } => LimitError::Refused(format!(
                    "memory_limit_mb: {} MiB are in use and cannot be taken back, more than the {} MiB asked for; nothing is killed for a change of limits",
                    used_bytes.div_ceil(1 << 20),
                    wanted_bytes >> 20
                )),
                rt::UpdateError::Cgroup { .. } | rt::UpdateError::Record { .. } => {
                    LimitError::Failed(chain(&error))
                }
            })
    }

    async fn usage(&self, id: &ContainerId) -> Result<Usage, RuntimeError> {
        self.runtime
            .usage(&to_id(id))
            .await
            .map(from_usage)
            .map_err(|error| from_error(id, &error))
    }

    fn sample(&self, ids: &[ContainerId]) -> (Vec<(ContainerId, Usage)>, Duration) {
        let below: Vec<_> = ids.iter().map(to_id).collect();
        let (samples, took) = self.runtime.usage_of(&below);
        let samples = samples
            .into_iter()
            .filter_map(|(id, usage)| Some((id.as_str().parse().ok()?, from_usage(usage))));
        (samples.collect(), took)
    }

    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        let user = match spec.user.as_str() {
            "" => None,
            user => Some(
                user.parse()
                    .map_err(|error| RuntimeError::Invalid(format!("user: {}", chain(&error))))?,
            ),
        };
        let spec = rt::ExecSpec {
            args: spec.args,
            env: spec.env,
            cwd: Some(spec.cwd).filter(|cwd| !cwd.is_empty()),
            user,
            terminal: spec.terminal,
        };
        let mut session = match self.runtime.exec(&to_id(id), spec).await {
            Ok(session) => session,
            Err(rt::ExecError::NotFound { .. }) => return Err(RuntimeError::NotFound(id.clone())),
            Err(rt::ExecError::BadSpec { problem, .. }) => {
                let message = limits::in_words_of_exec(&problem);
                return Err(RuntimeError::Invalid(message));
            }
            Err(error) => return Err(RuntimeError::Other(chain(&error))),
        };
        Ok(ExecSession {
            stdin: session.stdin.take().map(|stdin| Box::new(stdin) as Writer),
            stdout: Some(Box::new(session.stdout.clone()) as Reader),
            stderr: session
                .stderr
                .take()
                .map(|stderr| Box::new(stderr) as Reader),
            control: Arc::new(Session::new(session)),
        })
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.runtime
            .remove(&to_id(id))
            .await
            .map_err(|error| from_error(id, &error))
    }

    async fn purge(&self) -> Result<(), RuntimeError> {
        self.runtime
            .purge()
            .await
            .map_err(|error| RuntimeError::Other(chain(&error)))
    }

    fn terminal(&self, id: &ContainerId) -> Result<Option<rt::TerminalInput>, RuntimeError> {
        self.runtime
            .terminal_input(&to_id(id))
            .map_err(|error| from_error(id, &error))
    }

    fn log_path(&self, id: &ContainerId, stream: Stream) -> PathBuf {
        let stream = match stream {
            Stream::Stdout => rt::Stream::Stdout,
            Stream::Stderr => rt::Stream::Stderr,
        };
        self.runtime.log_path(&to_id(id), stream)
    }

    fn root_dir(&self, id: &ContainerId) -> Result<(OwnedFd, u32), RuntimeError> {
        let (runtime, id_below) = (&self.runtime, to_id(id));
        runtime
            .root_dir(&id_below)
            .and_then(|root| Ok((root, runtime.root_user(&id_below)?)))
            .map_err(|error| from_error(id, &error))
    }

    async fn launcher_pid(&self) -> Option<u32> {
        self.runtime.launcher_pid().await
    }
}

/// A task owns the session, because waiting for the end and resizing both need it. Dropping this ends the task, the
/// session and the program.
struct Session {
    sizes: mpsc::Sender<(u16, u16)>,
    exit: Mutex<Option<oneshot::Receiver<Result<i32, RuntimeError>>>>,
    _task: AbortOnDropHandle<()>,
}

impl Session {
    fn new(mut session: rt::ExecSession) -> Self {
        let (sizes, mut wanted) = mpsc::channel::<(u16, u16)>(16);
        let (told, exit) = oneshot::channel();
        let task = tokio::spawn(async move {
            let ended = loop {
                tokio::select! {
                    ended = session.wait() => break ended,
                    Some((columns, rows)) = wanted.recv() => {
                        if let Err(error) = session.resize(columns, rows) {
                            tracing::debug!(%error, "cannot resize a session's terminal");
                        }
                    }
                }
            };
            let _ = told.send(
                ended
                    .map(rt::ExecExit::code)
                    .map_err(|error| RuntimeError::Other(chain(&error))),
            );
        });
        Self {
            sizes,
            exit: Mutex::new(Some(exit)),
            _task: AbortOnDropHandle::new(task),
        }
    }
}

#[async_trait]
impl ExecControl for Session {
    fn resize(&self, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        // When sizes pile up, the oldest ones are as good as lost; the next one comes with the next movement.
        let _ = self.sizes.try_send((columns, rows));
        Ok(())
    }

    async fn wait(&self) -> Result<i32, RuntimeError> {
        let exit = self.exit.lock().await.take();
        match exit {
            Some(exit) => exit
                .await
                .map_err(|_| RuntimeError::Other("the session was given up".into()))?,
            None => Err(RuntimeError::Other(
                "the session's end was asked for twice".into(),
            )),
        }
    }
}

fn to_id(id: &ContainerId) -> rt::ContainerId {
    id.as_str()
        .parse()
        .expect("both crates take the same container ids")
}

fn to_spec(spec: ContainerSpec) -> Result<rt::ContainerSpec, StartError> {
    let invalid = |error: &dyn std::error::Error| StartError::Invalid(chain(error));
    let user: rt::UserSpec = spec
        .user
        .parse()
        .map_err(|error: rt::UserError| invalid(&error))?;
    let stop_signal = match spec.stop_signal.as_deref() {
        None | Some("") => SIGTERM,
        Some(text) => parse_signal(text).ok_or_else(|| {
            StartError::Invalid(format!("the image's stop signal {text:?} is no signal"))
        })?,
    };
    let mut labels = spec.labels;
    labels.insert(STOP_SIGNAL_LABEL.to_owned(), stop_signal.to_string());
    let rootfs = rt::Rootfs::Overlay {
        lowers: spec.rootfs.lowers,
        upper: spec.rootfs.upper,
        work: spec.rootfs.work,
    };
    let mut to = rt::ContainerSpec::new(rootfs, spec.args);
    to.readonly_rootfs = spec.readonly_rootfs;
    to.env = spec.env;
    to.cwd = spec.cwd;
    to.user = user;
    to.hostname = spec.hostname;
    to.limits = limits::to_limits(&spec.limits);
    to.rlimits = spec.rlimits.iter().map(limits::to_rlimit).collect();
    to.mounts = spec
        .mounts
        .into_iter()
        .map(|mount| match mount.source {
            MountSource::Bind(source) => rt::MountSpec::Bind {
                source,
                target: mount.target.into(),
                readonly: mount.read_only,
            },
            MountSource::Shared(volume) => rt::MountSpec::Shared {
                volume,
                target: mount.target.into(),
                readonly: mount.read_only,
            },
            MountSource::Tmpfs(size_bytes) => rt::MountSpec::Tmpfs {
                target: mount.target.into(),
                size_bytes,
                mode: 0o1777,
            },
        })
        .collect();
    to.handed_over = spec.handed_over;
    to.secrets = spec.secrets;
    to.devices = spec
        .devices
        .into_iter()
        .map(|device| rt::DeviceSpec {
            source: device.source,
            target: device.target,
        })
        .collect();
    to.network = to_network(spec.network);
    if let Some(holder) = &spec.group {
        let of = to_id(holder);
        labels.insert(GROUP_LABEL.to_owned(), of.to_string());
        to.group = Some(rt::GroupPart::Member { of });
    }
    to.privileged = spec.privileged;
    let own = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    to.capabilities_add = own(spec.capabilities.added());
    to.capabilities_drop = own(spec.capabilities.drop.names());
    to.terminal = spec.terminal;
    to.seccomp = spec.seccomp;
    to.apparmor = spec.apparmor;
    to.labels = labels;
    to.stop_signal = stop_signal;
    Ok(to)
}

fn to_network(mode: NetworkMode) -> rt::Network {
    match mode {
        NetworkMode::Host => rt::Network::Host,
        NetworkMode::None => rt::Network::None,
        NetworkMode::Bridge | NetworkMode::Container => rt::Network::Prepared,
    }
}

fn to_request(request: NetworkRequest) -> rt::NetworkRequest {
    let mut ports = Vec::new();
    for mapping in &request.ports {
        let Some(host_port) = mapping.host_port else {
            continue;
        };
        for (wanted, protocol) in [
            (mapping.protocol.has_tcp(), rt::PortProtocol::Tcp),
            (mapping.protocol.has_udp(), rt::PortProtocol::Udp),
        ] {
            if wanted {
                ports.push(rt::PortMap {
                    protocol,
                    host_port,
                    container_port: mapping.container_port,
                });
            }
        }
    }
    match request.name {
        None => rt::NetworkRequest::Bridge { ports },
        Some(network) => rt::NetworkRequest::Cni {
            network,
            ports,
            labels: request.labels,
        },
    }
}

/// "SIGQUIT", "QUIT" or "3".
fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") {
        name
    } else {
        format!("SIG{name}")
    };
    name.parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

fn from_status(status: rt::ContainerStatus, addresses: Vec<IpAddr>) -> Option<Container> {
    let state = match status.state {
        rt::ContainerState::Starting => ContainerState::Starting,
        rt::ContainerState::Running {
            pid,
            started_at_ms,
            cgroup,
        } => ContainerState::Running(Started {
            pid: u32::try_from(pid).unwrap_or(0),
            cgroup,
            started_at_ms,
            addresses,
        }),
        rt::ContainerState::Exited(record) => {
            ContainerState::Exited(Box::new(from_record(*record)))
        }
    };
    Some(Container {
        id: status.id.as_str().parse().ok()?,
        state,
        keeper_pid: status.keeper_pid.and_then(|pid| u32::try_from(pid).ok()),
        labels: status.labels,
    })
}

fn from_record(record: rt::ExitRecord) -> ExitRecord {
    ExitRecord {
        exit: match record.exit {
            rt::Exit::Code(code) => ContainerExit::Code(code),
            rt::Exit::Signal(signal) => ContainerExit::Signal(signal),
            rt::Exit::KeeperLost => ContainerExit::KeeperLost,
            rt::Exit::LostAtReboot => ContainerExit::LostAtReboot,
            rt::Exit::StartFailed(message) => ContainerExit::StartFailed(message),
            rt::Exit::StartInterrupted => ContainerExit::StartInterrupted,
        },
        oom_killed: record.oom_killed,
        memory_limit_bytes: record.memory_limit_bytes,
        started_at_ms: (record.started_at_ms > 0).then_some(record.started_at_ms),
        finished_at_ms: record.finished_at_ms,
        usage: from_usage(record.usage),
    }
}

fn from_usage(usage: rt::Usage) -> Usage {
    let some = |pressure: Option<rt::Pressure>| Some(pressure?.some_us);
    let full = |pressure: Option<rt::Pressure>| pressure?.full_us;
    let traffic = usage.traffic;
    Usage {
        memory_working_set_bytes: usage.memory_working_set_bytes(),
        sampled_at_ms: usage.sampled_at_ms,
        cpu_total_us: Some(usage.cpu_total_us),
        cpu_user_us: usage.cpu_user_us,
        cpu_system_us: usage.cpu_system_us,
        memory_bytes: usage.memory_bytes,
        memory_peak_bytes: usage.memory_peak_bytes,
        memory_anon_bytes: usage.memory_anon_bytes,
        memory_file_bytes: usage.memory_file_bytes,
        pids: usage.pids,
        oom_kills: usage.oom_kills,
        throttled_us: usage.throttled_us,
        io_read_bytes: usage.io_read_bytes,
        io_write_bytes: usage.io_write_bytes,
        cpu_start_us: usage.cpu_start_us,
        cpu_periods: usage.cpu_periods,
        cpu_throttled_periods: usage.cpu_throttled_periods,
        memory_high_events: usage.memory_high_events,
        memory_max_events: usage.memory_max_events,
        cpu_pressure_some_us: some(usage.cpu_pressure),
        cpu_pressure_full_us: full(usage.cpu_pressure),
        memory_pressure_some_us: some(usage.memory_pressure),
        memory_pressure_full_us: full(usage.memory_pressure),
        io_pressure_some_us: some(usage.io_pressure),
        io_pressure_full_us: full(usage.io_pressure),
        network_rx_bytes: traffic.map(|traffic| traffic.rx_bytes),
        network_rx_packets: traffic.map(|traffic| traffic.rx_packets),
        network_rx_errors: traffic.map(|traffic| traffic.rx_errors),
        network_rx_dropped: traffic.map(|traffic| traffic.rx_dropped),
        network_tx_bytes: traffic.map(|traffic| traffic.tx_bytes),
        network_tx_packets: traffic.map(|traffic| traffic.tx_packets),
        network_tx_errors: traffic.map(|traffic| traffic.tx_errors),
        network_tx_dropped: traffic.map(|traffic| traffic.tx_dropped),
        memory_kernel_bytes: usage.memory_kernel_bytes,
        memory_sock_bytes: usage.memory_sock_bytes,
        memory_inactive_file_bytes: usage.memory_inactive_file_bytes,
        memory_oom_events: usage.memory_oom_events,
        io_read_ops: usage.io_read_ops,
        io_write_ops: usage.io_write_ops,
        // Not the kernel's: the agent adds it.
        disk_bytes: None,
    }
}

fn from_error(id: &ContainerId, error: &rt::Error) -> RuntimeError {
    match error {
        rt::Error::NotFound { .. } => RuntimeError::NotFound(id.clone()),
        rt::Error::NotRunning { .. }
        | rt::Error::StillRunning { .. }
        | rt::Error::BadSignal { .. }
        | rt::Error::WillNotDie { .. }
        | rt::Error::Io { .. } => RuntimeError::Other(chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_names_or_numbers() {
        for (text, number) in [("SIGQUIT", 3), ("quit", 3), ("15", 15), ("SIGUSR1", 10)] {
            assert_eq!(parse_signal(text), Some(number), "{text}");
        }
        for bad in ["", "SIGNONE", "0", "65", "-9"] {
            assert_eq!(parse_signal(bad), None, "{bad}");
        }
    }
}
