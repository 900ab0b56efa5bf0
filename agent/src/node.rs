//! The seams between the agent and what it stands on: containers and images.
//!
//! The agent's logic knows only these two traits and the plain types here. [`runtime`] and [`images`] fill them with
//! the crates below; `fake` (feature `testing`) fills them in memory for tests.

#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod images;
pub(crate) mod profiles;
pub mod runtime;
pub(crate) mod secrets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use mezzo_api::model::{
    Capabilities, HugePages, IoLimit, NetworkMode, PortMapping, Rlimit, SecretSource, Usage,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
};

/// Name of one container: derived by the agent, safe as a file name, new for every launch.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(Arc<str>);

/// A string that cannot be the name of a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "container id {0:?} is not valid: 1 to 128 of a-z A-Z 0-9 . _ - are, beginning with a letter or digit"
)]
pub struct InvalidContainerId(String);

impl ContainerId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for a launch of the task with this id: its harmless characters, so that people recognise it, and 64
    /// random bits, so that no two launches share one.
    #[must_use]
    pub fn derive(task_id: &str, random: u64) -> Self {
        let readable: String = task_id
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            .skip_while(|c| !c.is_ascii_alphanumeric())
            .take(48)
            .collect();
        let readable = if readable.is_empty() {
            "task".to_owned()
        } else {
            readable
        };
        Self(format!("{readable}-{random:016x}").into())
    }
}

impl FromStr for ContainerId {
    type Err = InvalidContainerId;

    fn from_str(text: &str) -> Result<Self, InvalidContainerId> {
        let ok = text.len() <= 128
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(InvalidContainerId(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidContainerId;

    fn try_from(text: String) -> Result<Self, InvalidContainerId> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContainerId({})", self.0)
    }
}

/// Why the runtime could not do something with a container.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such container.
    #[error("no container {0}")]
    NotFound(ContainerId),
    /// What was asked for is wrong and stays wrong; names the field.
    #[error("{0}")]
    Invalid(String),
    /// Everything else, with the whole chain of causes.
    #[error("{0}")]
    Other(String),
}

/// Why a container did not start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartError {
    /// What was asked for is wrong and stays wrong: a user that the image does not know, a bad mount.
    #[error("{0}")]
    Invalid(String),
    /// It might work next time or elsewhere.
    #[error("{0}")]
    Failed(String),
}

/// Why limits were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// There is no such container, or it has ended.
    #[error("it is not running")]
    NotRunning,
    /// They cannot be used here, or less memory is asked for than is in use. Nothing is changed.
    #[error("{0}")]
    Refused(String),
    /// It might work next time; what holds now is not sure.
    #[error("{0}")]
    Failed(String),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerExit {
    /// Its first process ended with this code.
    Code(i32),
    /// Its first process was ended by this signal.
    Signal(i32),
    /// Its supervisor was lost, and the container killed with it.
    KeeperLost,
    /// The machine was booted anew under it.
    LostAtReboot,
    /// Its process never ran, for this reason.
    StartFailed(String),
    /// Its process never ran: the agent ended in the middle of the start.
    StartInterrupted,
}

/// The end of a container, as its supervisor wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRecord {
    /// How.
    pub exit: ContainerExit,
    /// The kernel killed something in it for want of memory, at any time.
    pub oom_killed: bool,
    /// Its own memory limit at its end.
    pub memory_limit_bytes: Option<u64>,
    /// Unix milliseconds; `None` when its process never ran.
    pub started_at_ms: Option<u64>,
    /// Unix milliseconds.
    pub finished_at_ms: u64,
    /// The last sample.
    pub usage: Usage,
}

/// A container's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// In the machine's pid namespace.
    pub pid: u32,
    /// As the runtime names it.
    pub cgroup: String,
    /// Unix milliseconds.
    pub started_at_ms: u64,
    /// Its own addresses, where it has a network of its own.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// A place in a network, wanted before the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRequest {
    /// The name of a CNI network of this machine; `None`: the machine's bridge.
    pub name: Option<String>,
    /// For the plug-ins.
    pub labels: BTreeMap<String, String>,
    /// Which ports of the machine lead to it.
    pub ports: Vec<PortMapping>,
}

/// What it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Its own addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Name servers that its network told.
    pub dns: Vec<IpAddr>,
}

/// What the runtime knows of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// It is being made.
    Starting,
    /// Its process runs.
    Running(Started),
    /// It has ended.
    Exited(Box<ExitRecord>),
}

/// One container of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Which.
    pub id: ContainerId,
    /// Where it stands.
    pub state: ContainerState,
    /// Its supervisor, where there is one.
    pub keeper_pid: Option<u32>,
    /// What the agent noted when it started it.
    pub labels: BTreeMap<String, String>,
}

pub use mezzo_runtime::Secrets;

/// The label that says which image runs.
pub const IMAGE_DIGEST_LABEL: &str = "mezzo.image_digest";

/// A root file system: read-only layers, top-most first, and where changes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Top-most first.
    pub lowers: Vec<PathBuf>,
    /// Takes the changes.
    pub upper: PathBuf,
    /// overlayfs' own.
    pub work: PathBuf,
}

/// What is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A path of the machine, already checked.
    Bind(PathBuf),
    /// Memory, of that many bytes.
    Tmpfs(u64),
    /// Memory that the container's group has, by its name.
    Shared(String),
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// From where.
    pub source: MountSource,
    /// Absolute, inside the container.
    pub target: String,
    /// No writing.
    pub read_only: bool,
}

/// A device of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// On the machine.
    pub source: PathBuf,
    /// Inside the container, below `/dev`.
    pub target: PathBuf,
}

/// What a container may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Share of the processors, in thousandths.
    pub cpu_millis: u64,
    /// Hard limit, in thousandths of a processor.
    pub cpu_limit_millis: Option<u64>,
    /// Hard limit.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Swap on top of the memory limit.
    pub swap_bytes: Option<u64>,
    /// Above this, memory is taken back and nothing killed.
    pub memory_high_bytes: Option<u64>,
    /// Taken back last.
    pub memory_low_bytes: Option<u64>,
    /// 1 to 10000.
    pub io_weight: Option<u64>,
    /// One entry per device.
    pub io_max: Vec<IoLimit>,
    /// The only processors; all unless given.
    pub cpus: Option<BTreeSet<u32>>,
    /// One entry per size.
    pub huge_pages: Vec<HugePages>,
    /// It makes way for all others; for its whole life.
    pub yields: bool,
}

/// What the runtime is asked to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Root file system.
    pub rootfs: Snapshot,
    /// No writing to it.
    pub readonly_rootfs: bool,
    /// Program and its arguments; never empty.
    pub args: Vec<String>,
    /// Later entries win.
    pub env: Vec<(String, String)>,
    /// Absolute.
    pub cwd: String,
    /// "uid", "uid:gid" or names of the image; empty is root.
    pub user: String,
    /// Limits.
    pub limits: Limits,
    /// Of the first process and what it starts.
    pub rlimits: Vec<Rlimit>,
    /// Mounted in order.
    pub mounts: Vec<Mount>,
    /// Folders of the machine of which all content becomes the user's before the program begins.
    pub handed_over: Vec<PathBuf>,
    /// Told in confidence: on no disk, in no record.
    pub secrets: Secrets,
    /// Beside the standard few.
    pub devices: Vec<Device>,
    /// Which network it sees.
    pub network: NetworkMode,
    /// Who holds what it shares with the others of its group.
    pub group: Option<ContainerId>,
    /// `None`: the runtime's choice.
    pub hostname: Option<String>,
    /// All capabilities and devices.
    pub privileged: bool,
    /// How its capabilities differ from the default ones.
    pub capabilities: Capabilities,
    /// The machine's own user numbers.
    pub host_users: bool,
    /// Its first program has a terminal.
    pub terminal: bool,
    /// The calls that it may make, instead of the default ones.
    pub seccomp: Option<mezzo_runtime::SeccompProfile>,
    /// Its AppArmor profile, instead of the agent's.
    pub apparmor: Option<String>,
    /// Sent first when it is to end; the image's choice.
    pub stop_signal: Option<String>,
    /// The agent's own, never the image's.
    pub labels: BTreeMap<String, String>,
}

/// What the members of a group share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderSpec {
    /// Of all of them together.
    pub limits: Limits,
    /// Which network they see.
    pub network: NetworkMode,
    /// Memory file systems: name and size in bytes.
    pub volumes: Vec<(String, u64)>,
    /// The machine's own user numbers.
    pub host_users: bool,
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What to run beside a container's first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Added to the container's.
    pub env: Vec<(String, String)>,
    /// Empty: the container's.
    pub cwd: String,
    /// Empty: the container's.
    pub user: String,
    /// With a terminal of (columns, rows).
    pub terminal: Option<(u16, u16)>,
}

/// A reader of a session.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// A writer of a session.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A running session. Dropping it ends the process.
pub struct ExecSession {
    /// Closed by dropping it.
    pub stdin: Option<Writer>,
    /// With a terminal: all there is.
    pub stdout: Option<Reader>,
    /// Without a terminal.
    pub stderr: Option<Reader>,
    /// The rest.
    pub control: Arc<dyn ExecControl>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").finish_non_exhaustive()
    }
}

/// What one does to a running session.
#[async_trait]
pub trait ExecControl: Send + Sync {
    /// The window's new size.
    fn resize(&self, columns: u16, rows: u16) -> Result<(), RuntimeError>;
    /// Its exit code; 128 + n for a signal. To be asked once.
    async fn wait(&self) -> Result<i32, RuntimeError>;
}

/// What runs containers.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Gives a container that is about to be started its place in a network. A failed start and its
    /// end take it back.
    async fn prepare_network(
        &self,
        id: &ContainerId,
        request: NetworkRequest,
    ) -> Result<Attachment, StartError>;
    /// Takes it back without a start; fine when there is none.
    async fn release_network(&self, id: &ContainerId);
    /// Connects to an address as a process in the container would.
    async fn connect(&self, id: &ContainerId, to: SocketAddr) -> io::Result<TcpStream>;
    /// Makes the container and starts its process.
    async fn start(&self, id: &ContainerId, spec: ContainerSpec) -> Result<Started, StartError>;
    /// Makes a container that holds what the members of a group share, and runs nothing.
    async fn hold(&self, id: &ContainerId, spec: HolderSpec) -> Result<(), StartError>;
    /// Every container there is, also ended ones not yet removed.
    async fn list(&self) -> Result<Vec<Container>, RuntimeError>;
    /// Resolves when the container has ended.
    async fn wait(&self, id: &ContainerId) -> Result<ExitRecord, RuntimeError>;
    /// Asks the first process to end, with the stop signal of its specification.
    async fn terminate(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Ends everything in the container's cgroup, now.
    async fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Changes the limits of a running container: all or none of them.
    async fn limit(&self, id: &ContainerId, limits: Limits) -> Result<(), LimitError>;
    /// A fresh sample.
    async fn usage(&self, id: &ContainerId) -> Result<Usage, RuntimeError>;
    /// Fresh samples of many, and the processor time that they took; those that do not run are left out. Blocks: for a
    /// thread of one's own.
    fn sample(&self, ids: &[ContainerId]) -> (Vec<(ContainerId, Usage)>, Duration);
    /// Runs something in the container.
    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession, RuntimeError>;
    /// To type on the terminal of a container's program; `None` if it has none.
    fn terminal(
        &self,
        id: &ContainerId,
    ) -> Result<Option<mezzo_runtime::TerminalInput>, RuntimeError>;
    /// Forgets an ended container, its record and its logs; fine when it is gone already.
    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Ends and removes everything, the launcher too.
    async fn purge(&self) -> Result<(), RuntimeError>;
    /// Where a log is; the part before it has `.1` added.
    fn log_path(&self, id: &ContainerId, stream: Stream) -> PathBuf;
    /// The root directory of a running container, as its first process sees it, and the container's root as the
    /// machine numbers users.
    fn root_dir(&self, id: &ContainerId) -> Result<(OwnedFd, u32), RuntimeError>;
    /// The launcher's process, where there is one.
    async fn launcher_pid(&self) -> Option<u32>;
}

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes here.
    pub done: u64,
    /// Bytes in all; 0 when not yet known.
    pub total: u64,
    /// What it waits for just now, if that is worth a word: "12 s for registry r.example (rate limit)".
    pub waiting: Option<String>,
}

/// What the agent needs of an image's configuration. Labels are left out: nothing of an image steers the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// What runs.
    pub entrypoint: Vec<String>,
    /// Its arguments, or what runs without an entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Where.
    pub working_dir: Option<String>,
    /// As whom.
    pub user: Option<String>,
    /// Sent first when it is to end.
    pub stop_signal: Option<String>,
}

/// An image made ready for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedImage {
    /// "sha256:..." of the manifest.
    pub digest: String,
    /// Its configuration.
    pub config: ImageConfig,
    /// The container's own root file system.
    pub snapshot: Snapshot,
}

/// Why an image is not here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The reference is no reference.
    #[error("{0}")]
    InvalidReference(String),
    /// It could not be pulled, or no root file system be made of it.
    #[error("{0}")]
    Unavailable(String),
}

/// When images go because the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// Nothing goes below this use of the disk.
    pub high_percent: u8,
    /// Then images go until no more than this is used.
    pub low_percent: u8,
    /// Images that were used within this time stay.
    pub min_age: Duration,
}

/// What went, and why not more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Names of images.
    pub removed: Vec<String>,
    /// On the disk.
    pub freed_bytes: u64,
    /// Of the disk, before.
    pub used_percent_before: u8,
    /// Of the disk, after.
    pub used_percent_after: u8,
    /// Still used above the low mark.
    pub short_bytes: u64,
    /// Images that stay because something runs on them.
    pub in_use: usize,
    /// Images that stay because they were used just now.
    pub young: usize,
}

/// What images take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImagesUsage {
    /// How many names there are.
    pub images: u64,
    /// On the disk, shared layers once.
    pub disk_bytes: u64,
}

/// What holds images.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// Pulls what is missing and makes a root file system for the container. With a pull secret the registry is asked
    /// whether its holder may have the image, also when that is here. Progress is only sent while pulling.
    async fn prepare(
        &self,
        reference: &str,
        force_pull: bool,
        pull_secret: Option<&SecretSource>,
        id: &ContainerId,
        progress: watch::Sender<PullProgress>,
    ) -> Result<PreparedImage, ImageError>;
    /// The folder with everything that a container changes in its root file system, also when it is not there.
    fn changes_dir(&self, key: &str) -> PathBuf;
    /// Removes a container's root file system; fine when it is gone already.
    async fn remove_snapshot(&self, key: &str) -> Result<(), ImageError>;
    /// Keys of all root file systems.
    async fn list_snapshots(&self) -> Result<Vec<String>, ImageError>;
    /// Removes unused images if the disk is used above the high mark; `None` if it is not.
    async fn collect_garbage(&self, policy: GcPolicy) -> Result<Option<Collected>, ImageError>;
    /// What all images take.
    async fn usage(&self) -> Result<ImagesUsage, ImageError>;
}

/// How long a container start may take before it counts as failed.
pub const START_DEADLINE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_are_safe_whatever_the_task_id() {
        for task in [
            "../../etc",
            "..",
            "ünïcode",
            "a b",
            "",
            "-x",
            &"x".repeat(255),
            "app.1",
        ] {
            let id = ContainerId::derive(task, 7);
            assert!(id.as_str().parse::<ContainerId>().is_ok(), "{id}");
            assert!(!id.as_str().contains('/'));
        }
        assert_eq!(
            ContainerId::derive("app.1", 255).as_str(),
            "app.1-00000000000000ff"
        );
        assert!("../x".parse::<ContainerId>().is_err());
    }
}
