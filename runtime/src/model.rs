//! What a caller says about a container and what it is told: specifications, limits, states, exit records, usage.
//! Plain data, pure, with the same form in memory and on disk; old records stay readable because new fields
//! have defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::apparmor::AppArmor;
use crate::cpuset::CpuSet;
use crate::id::ContainerId;
use crate::network::NetworkConfig;
use crate::seccomp::SeccompProfile;
use crate::secrets::Secrets;
use crate::user::UserSpec;
use crate::users::{UserNamespace, UserRanges};

/// Everything needed to run one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Where the root file system comes from.
    pub rootfs: Rootfs,
    /// Mount the root file system read-only.
    #[serde(default)]
    pub readonly_rootfs: bool,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The whole environment of the program, in order.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// The working directory inside the container.
    pub cwd: String,
    /// Who the program runs as.
    #[serde(default)]
    pub user: UserSpec,
    /// The host name inside; the container's id (cut to 63 bytes) when absent.
    #[serde(default)]
    pub hostname: Option<String>,
    /// What the container may use.
    #[serde(default)]
    pub limits: Limits,
    /// Files and directories of the host, and memory file systems, that appear inside.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Directories of the host of which all content becomes the user's, by its numbers inside, before the program begins.
    /// They themselves stay as they are. Nobody else may write to them meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handed_over: Vec<PathBuf>,
    /// Devices of the host, beside the standard few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceSpec>,
    /// Which network the container sees; of a member of a group, the same as its holder's.
    #[serde(default)]
    pub network: Network,
    /// What it is told in confidence. Never on record.
    #[serde(skip)]
    pub secrets: Secrets,
    /// Its part in a group, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupPart>,
    /// Whose user numbers it has. A start's business alone: what came of it is in the record beside this.
    #[serde(skip)]
    pub user_namespace: UserNamespace,
    /// All capabilities, no seccomp filter, no masked paths, no device filter: the operator's switch.
    #[serde(default)]
    pub privileged: bool,
    /// The calls that its programs may make, instead of the default ones; not for a privileged container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompProfile>,
    /// The AppArmor profile that its programs are under, which must be loaded, or `unconfined`; by default the runtime's.
    /// A privileged container has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor: Option<String>,
    /// Capabilities on top of the default set, such as `CAP_NET_RAW` or `NET_RAW`.
    #[serde(default)]
    pub capabilities_add: Vec<String>,
    /// Capabilities to take from the default set; `ALL` takes every one.
    #[serde(default)]
    pub capabilities_drop: Vec<String>,
    /// Resource limits of the process; a hard limit above ours is lowered to it if we may not raise it.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Give the program a terminal: its standard streams, its controlling terminal and `/dev/console`. All that it writes
    /// there is its standard output.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminal: bool,
    /// How much output is kept.
    #[serde(default)]
    pub log: LogLimits,
    /// The caller's own notes, given back by `list` and never looked at.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to stop (default `SIGTERM`).
    #[serde(default = "default_stop_signal")]
    pub stop_signal: i32,
}

fn default_stop_signal() -> i32 {
    libc::SIGTERM
}

impl ContainerSpec {
    /// A container that runs `args` as root of its own with the safe defaults and no limits.
    #[must_use]
    pub fn new(rootfs: Rootfs, args: Vec<String>) -> Self {
        Self {
            rootfs,
            readonly_rootfs: false,
            args,
            env: vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())],
            cwd: "/".to_owned(),
            user: UserSpec::default(),
            hostname: None,
            limits: Limits::default(),
            mounts: Vec::new(),
            handed_over: Vec::new(),
            devices: Vec::new(),
            network: Network::default(),
            secrets: Secrets::default(),
            group: None,
            user_namespace: UserNamespace::default(),
            privileged: false,
            seccomp: None,
            apparmor: None,
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            rlimits: Vec::new(),
            terminal: false,
            log: LogLimits::default(),
            labels: BTreeMap::new(),
            stop_signal: default_stop_signal(),
        }
    }

    /// A container that holds what the members of a group share. `volumes` are memory file systems, by name and size in
    /// bytes, that members mount with [`MountSpec::Shared`].
    #[must_use]
    pub fn holder(limits: Limits, network: Network, volumes: &[(String, u64)]) -> Self {
        let volume = |(name, size_bytes): &(String, u64)| MountSpec::Tmpfs {
            target: PathBuf::from(SHARED_VOLUMES).join(name),
            size_bytes: *size_bytes,
            mode: 0o1777,
        };
        Self {
            limits,
            network,
            mounts: volumes.iter().map(volume).collect(),
            capabilities_drop: vec!["ALL".to_owned()],
            group: Some(GroupPart::Holder),
            ..Self::new(Rootfs::Empty, vec!["holder".to_owned()])
        }
    }
}

/// A container's part in a group: containers that share a network, System V and POSIX IPC, `/dev/shm`, user numbers and
/// a control group above their own. Processes, mounts and the host name are each one's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GroupPart {
    /// It holds what the others share, from before the first of them to after the last, and runs nothing: made by
    /// [`ContainerSpec::holder`]. Its limits are those of the whole group.
    Holder,
    /// It shares what the container `of` holds, which must run when this one is started.
    Member {
        /// The holder.
        of: ContainerId,
    },
}

/// Where a holder's memory file systems are, of which members get theirs ([`MountSpec::Shared`]).
pub(crate) const SHARED_VOLUMES: &str = "/volumes";

/// Where programs are looked for when the environment has no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a container's root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rootfs {
    /// An overlay mount, made where only the container sees it.
    Overlay {
        /// Read-only layers, the topmost first.
        lowers: Vec<PathBuf>,
        /// The writable layer, the caller's to make and remove.
        upper: PathBuf,
        /// Overlayfs' scratch directory on the same file system as `upper`.
        work: PathBuf,
    },
    /// A directory as it is.
    Dir(PathBuf),
    /// Nothing but what is mounted in it.
    Empty,
}

/// What a container may use. `None` means no limit.
///
/// What came after the first version is left out of a record when it is not used, so that an older program, which
/// refuses fields that it does not know, still reads the records of a newer one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// CPU asked for, in thousandths of a core: the weight against others when the node is busy; 0 is the least.
    pub cpu_millis_weight: u64,
    /// Hard CPU limit in thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// Hard memory limit.
    pub memory_bytes: Option<u64>,
    /// Swap on top of the memory limit; none unless given.
    pub memory_swap: Option<u64>,
    /// Most processes and threads at once.
    pub pids: Option<u64>,
    /// Bytes of memory above which the container is slowed down and its memory taken back, but nothing killed.
    /// Only cgroup v2 can: refused elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<u64>,
    /// Bytes of memory that the kernel takes back only when nothing else is left on the node, as far as the cgroups above
    /// have such protection, too: those that we make get the sum of what is below them. Only cgroup v2 can:
    /// refused elsewhere (the soft limit of v1 is another thing: a target, not a protection).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_low: Option<u64>,
    /// Share of a busy block device against other containers, 1 to 10000; the kernel's own default is 100. It works
    /// where the operator has chosen a policy for the device that knows weights (`io.cost.qos`, or the scheduler
    /// BFQ). Only on cgroup v2: refused elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,
    /// Most that may be read from and written to block devices. Only on cgroup v2: refused elsewhere, because
    /// version 1 does not charge what goes through the page cache to whom it belongs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_max: Vec<IoLimit>,
    /// The only processors that the container runs on; all that its parent may use unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset: Option<CpuSet>,
    /// Most huge pages, one entry per size. Refused where there is no `hugetlb` controller, or no such size.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub huge_pages: Vec<HugePageLimit>,
    /// The container makes way for all others: it has the least weight, on kernels that know it (5.15) is idle beside
    /// them, and the kernel out of memory kills in it first. For its whole life: what runs does not change its score.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub yields: bool,
}

impl Limits {
    /// Of its processes: a container that yields is killed before anybody who has not asked for the worst.
    pub(crate) fn oom_score_adj(&self) -> i32 {
        if self.yields { 900 } else { 0 }
    }
}

/// Most huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HugePageLimit {
    /// Size of one page in bytes.
    pub page_bytes: u64,
    /// All of them together, in bytes; whole pages.
    pub bytes: u64,
}

/// Most that may be read from and written to one block device; `None` means no limit, and at least one is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoLimit {
    /// Which device.
    pub device: IoDevice,
    /// Bytes read per second.
    #[serde(default)]
    pub read_bytes_per_sec: Option<u64>,
    /// Bytes written per second.
    #[serde(default)]
    pub write_bytes_per_sec: Option<u64>,
    /// Read operations per second.
    #[serde(default)]
    pub reads_per_sec: Option<u64>,
    /// Write operations per second.
    #[serde(default)]
    pub writes_per_sec: Option<u64>,
}

/// A block device of the host. A partition stands for its whole disk, the only thing that the kernel limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum IoDevice {
    /// By its numbers, such as 8 and 0.
    Number {
        /// The driver's.
        major: u32,
        /// The device's.
        minor: u32,
    },
    /// By an absolute path of the host: the device itself, such as `/dev/sda`, or any file or directory on a file
    /// system on that device, such as `/var/lib`. It is looked up when the limit is set, and what it meant then
    /// holds until the next `update`.
    Path(PathBuf),
}

/// One entry of a container's mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSpec {
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host; must exist.
        source: PathBuf,
        /// Absolute path inside; made if missing.
        target: PathBuf,
        /// Whether writes are refused.
        readonly: bool,
    },
    /// An empty memory file system.
    Tmpfs {
        /// Absolute path inside; made if missing.
        target: PathBuf,
        /// Most bytes it may hold (they count against the memory limit).
        size_bytes: u64,
        /// Mode of its root, such as 0o1777.
        mode: u32,
    },
    /// A memory file system that the holder of the container's group has, the same for all members.
    Shared {
        /// Its name.
        volume: String,
        /// Absolute path inside; made if missing.
        target: PathBuf,
        /// Whether writes are refused.
        readonly: bool,
    },
}

/// A device of the host that a container is given: a node in its `/dev`, with the host's permissions, and let through
/// by its device filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Absolute path on the host; looked up at the start.
    pub source: PathBuf,
    /// Path inside, below `/dev`.
    pub target: PathBuf,
}

/// Which network a container sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// Its own, with nothing but loopback.
    None,
    /// The one that `prepare_network` made for it.
    Prepared,
}

/// A limit of `setrlimit(2)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// Which, as in `RLIMIT_NOFILE`.
    pub kind: String,
    /// The limit in force.
    pub soft: u64,
    /// The highest that the process may set itself.
    pub hard: u64,
}

/// How much of a container's output is kept, for each of stdout and stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLimits {
    /// Size at which a file is put aside as `.1`.
    pub max_bytes: u64,
    /// Files kept per stream, the current one included.
    pub files: u32,
    /// Age at which a file is put aside, counted from its first byte and looked at when more is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_secs: Option<u64>,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 20,
            files: 2,
            max_age_secs: None,
        }
    }
}

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name of its file.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What `start` gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The container's first process, as the host numbers it.
    pub pid: i32,
    /// When the program was executed, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// The process that watches over the container.
    pub keeper_pid: i32,
    /// The container's cgroup, from the root of each hierarchy.
    pub cgroup: String,
}

/// A container as `list` and `status` tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Its id.
    pub id: ContainerId,
    /// What it is doing.
    pub state: ContainerState,
    /// The process that watches over it, while there is one.
    pub keeper_pid: Option<i32>,
    /// The caller's notes from the specification.
    pub labels: BTreeMap<String, String>,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// `start` has not returned yet.
    Starting,
    /// The program runs.
    Running {
        /// Its process id on the host.
        pid: i32,
        /// When it was executed, in milliseconds since 1970.
        started_at_ms: u64,
        /// Its cgroup, from the root of each hierarchy.
        cgroup: String,
    },
    /// It has ended, one way or another.
    Exited(Box<ExitRecord>),
}

/// How a container ended: on disk before anyone is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Which container.
    pub id: ContainerId,
    /// The way it ended.
    pub exit: Exit,
    /// Whether the kernel killed something in it for want of memory.
    pub oom_killed: bool,
    /// The memory limit it ran under, at its end.
    pub memory_limit_bytes: Option<u64>,
    /// When the program was executed, in milliseconds since 1970; 0 if it never was.
    pub started_at_ms: u64,
    /// When its end was seen, in milliseconds since 1970.
    pub finished_at_ms: u64,
    /// The last sample, taken after the end and before the cgroup went.
    pub usage: Usage,
}

/// The way a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Its keeper died; the container was killed with it.
    KeeperLost,
    /// The node went down and came up again without it.
    LostAtReboot,
    /// It never ran, for this reason.
    StartFailed(String),
    /// It never ran: the runtime's process ended in the middle of its start.
    StartInterrupted,
}

/// What a container has used. What the kernel does not tell is `None`, never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// When the sample was taken, in milliseconds since 1970.
    pub sampled_at_ms: u64,
    /// CPU time: all that the kernel has charged to the container, so that the sum over all containers is what their
    /// parent cgroup was charged.
    pub cpu_total_us: u64,
    /// The part of `cpu_total_us` that making the container took: what had been charged when its first process was
    /// ready to execute the program. (Namespaces, mounts and the switch of the root are work of processes that are
    /// in the container's cgroup already.)
    pub cpu_start_us: Option<u64>,
    /// The part of `cpu_start_us` that the first process itself used. It becomes the program without being forked
    /// again, so that the program's own `getrusage` counts this part too.
    pub cpu_start_own_us: Option<u64>,
    /// CPU time in user mode.
    pub cpu_user_us: Option<u64>,
    /// CPU time in the kernel.
    pub cpu_system_us: Option<u64>,
    /// Memory charged now, page cache included.
    pub memory_bytes: Option<u64>,
    /// The most memory ever charged.
    pub memory_peak_bytes: Option<u64>,
    /// Anonymous memory.
    pub memory_anon_bytes: Option<u64>,
    /// Page cache, memory file systems included.
    pub memory_file_bytes: Option<u64>,
    /// Page cache not used lately, which the kernel takes back first.
    pub memory_inactive_file_bytes: Option<u64>,
    /// Kernel memory.
    pub memory_kernel_bytes: Option<u64>,
    /// Network buffers.
    pub memory_sock_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Time spent waiting because the CPU limit was used up.
    pub throttled_us: Option<u64>,
    /// Periods of the CPU limit in which something wanted to run.
    pub cpu_periods: Option<u64>,
    /// Periods of those in which the limit was used up.
    pub cpu_throttled_periods: Option<u64>,
    /// Times that `memory_high` was passed and memory taken back for it.
    pub memory_high_events: Option<u64>,
    /// Times that the memory limit was about to be passed and memory taken back for it.
    pub memory_max_events: Option<u64>,
    /// Times that nothing more could be taken back and the limit was met: an allocation failed or a process was
    /// killed.
    pub memory_oom_events: Option<u64>,
    /// Time in which work waited for a processor.
    pub cpu_pressure: Option<Pressure>,
    /// Time in which work waited for memory.
    pub memory_pressure: Option<Pressure>,
    /// Time in which work waited for block devices.
    pub io_pressure: Option<Pressure>,
    /// Bytes read from block devices.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub io_write_bytes: Option<u64>,
    /// Read operations of block devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read_ops: Option<u64>,
    /// Write operations of block devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_write_ops: Option<u64>,
    /// What its own network has carried; `None` on the host's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// What the interfaces of a container's own network have carried since they were made, loopback left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets that came damaged.
    pub rx_errors: u64,
    /// Packets that came and could not be taken.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent for an error.
    pub tx_errors: u64,
    /// Packets that were thrown away before they were sent.
    pub tx_dropped: u64,
}

/// How long work has waited for something, since the container's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// Microseconds in which at least one of the container's threads waited.
    pub some_us: u64,
    /// Microseconds in which all that had something to do waited.
    pub full_us: Option<u64>,
}

impl Usage {
    /// CPU time of the program and what it started, from `execve` on: all that was charged less the start.
    #[must_use]
    pub fn cpu_program_us(&self) -> u64 {
        self.cpu_total_us
            .saturating_sub(self.cpu_start_us.unwrap_or(0))
    }

    /// Memory that cannot simply be taken back: what is charged less the page cache not used lately.
    #[must_use]
    pub fn memory_working_set_bytes(&self) -> Option<u64> {
        let charged = self.memory_bytes?;
        Some(charged.saturating_sub(self.memory_inactive_file_bytes.unwrap_or(0)))
    }
}

/// A program to run inside a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Variables on top of the container's own environment.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory; the container's own when absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User; the container's own when absent.
    #[serde(default)]
    pub user: Option<UserSpec>,
    /// A terminal of this many columns and rows instead of three pipes.
    #[serde(default)]
    pub terminal: Option<(u16, u16)>,
}

/// How an executed program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecExit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExecExit {
    /// As a shell tells it: the code, or 128 plus the signal.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Which program becomes the launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LauncherProgram {
    /// The running one, which must call `launcher_main_if_requested` first thing in `main`.
    CurrentExe,
    /// Another that does so.
    Path(PathBuf),
}

/// How to open a [`crate::Runtime`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Where records and logs are; one runtime at a time may use it.
    pub state_dir: PathBuf,
    /// Absolute cgroup path, below the root of each hierarchy, that belongs to this instance alone.
    pub cgroup_parent: String,
    /// Which program becomes the launcher.
    pub launcher: LauncherProgram,
    /// Most starts at once; the others wait.
    pub max_parallel_starts: usize,
    /// Longest time a start may take before it is given up and cleaned up.
    pub start_timeout: Duration,
    /// The user numbers of the host that containers with a user namespace of their own get.
    pub user_ranges: UserRanges,
    /// How containers are connected.
    pub network: NetworkConfig,
    /// Under which AppArmor profile containers are that do not say.
    pub apparmor: AppArmor,
}

impl RuntimeConfig {
    /// A configuration with the defaults: this program as launcher, four starts at once, one minute each.
    #[must_use]
    pub fn new(state_dir: PathBuf, cgroup_parent: String) -> Self {
        Self {
            state_dir,
            cgroup_parent,
            launcher: LauncherProgram::CurrentExe,
            max_parallel_starts: 4,
            start_timeout: Duration::from_secs(60),
            user_ranges: UserRanges::default(),
            network: NetworkConfig::default(),
            apparmor: AppArmor::default(),
        }
    }
}
