//! Tasks: what a framework asks for, what becomes of it.
//!
//! States and reasons are those of Mesos that have a meaning without executors.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    AgentId, Capabilities, Check, CheckResult, FetchUri, FrameworkId, HealthCheck, NetworkMode,
    PersistentVolume, Pool, Pools, PortMapping, ProfileName, ReadinessCheck, ReadinessStatus,
    Resources, RoleName, Scalar, SecretSource, TaskGroup, TaskId, TaskLimits, Undivided, UpdateId,
    Usage, VolumeId, health::one_or_several,
};

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Without `=` or NUL.
    pub name: String,
    /// Without NUL.
    pub value: String,
}

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeSource {
    /// A path of the machine; the agent's allow-list decides. A relative one is of the task's sandbox.
    HostPath(String),
    /// Memory-backed, of that many bytes.
    Tmpfs(u64),
    /// A file in memory with one of the agent's secrets.
    Secret(SecretSource),
    /// One of the volumes of the task's group, by its name.
    Group(String),
    /// A persistent volume of the offer.
    Persistent(VolumeId),
}

impl VolumeSource {
    /// The path in the task's sandbox, where it is one.
    #[must_use]
    pub fn in_sandbox(&self) -> Option<&str> {
        match self {
            Self::HostPath(path) if !path.starts_with('/') => Some(path),
            Self::HostPath(_)
            | Self::Tmpfs(_)
            | Self::Secret(_)
            | Self::Group(_)
            | Self::Persistent(_) => None,
        }
    }
}

/// Whether a path can be one in a sandbox: 1 to 64 names with single slashes between them, none of them `.` or `..`.
#[must_use]
pub fn is_path_in_sandbox(path: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
    path.split('/').count() <= 64
        && path.split('/').all(is_name)
        && !path.chars().any(char::is_control)
}

/// A variable with one of the agent's secrets in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEnv {
    /// Without `=` or NUL.
    pub name: String,
    /// Which.
    pub secret: SecretSource,
}

/// Something mounted into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Absolute, inside the container.
    pub container_path: String,
    /// No writing.
    pub read_only: bool,
    /// From where.
    pub source: VolumeSource,
}

/// What runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInfo {
    /// Docker-style reference. Checked by the agent's image store, not here.
    pub image: String,
    /// Ask the registry although the image is here.
    pub force_pull: bool,
    /// Replaces the image's entrypoint (and its default arguments) when not empty.
    pub command: Vec<String>,
    /// Replaces the image's default arguments when not empty.
    pub args: Vec<String>,
    /// Added to the image's.
    pub env: Vec<EnvVar>,
    /// `None`: the image's.
    pub user: Option<String>,
    /// `None`: the image's, else `/`.
    pub working_dir: Option<String>,
    /// No writing outside volumes and the sandbox.
    pub read_only_rootfs: bool,
    /// Needs the operator's switch on the agent.
    pub privileged: bool,
    /// Host by default.
    pub network: NetworkMode,
    /// Mounted in order.
    pub volumes: Vec<Volume>,
    /// Where the credentials for the registry come from; `None`: the agent's own.
    #[serde(default)]
    pub pull_secret: Option<SecretSource>,
    /// The machine's own user numbers. Needs the operator's switch on the agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_users: bool,
    /// One of the agent's operator, instead of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<ProfileName>,
    /// One that the agent's operator lets tasks ask for, instead of the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// How its capabilities differ from the default ones; what may be added is for the agent's operator to say.
    #[serde(default, skip_serializing_if = "Capabilities::is_default")]
    pub capabilities: Capabilities,
    /// Its first program has a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Which of its ports are reachable; for networks of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Which of the agent's networks, for [`NetworkMode::Container`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_name: Option<String>,
    /// Given to that network's plug-ins.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub network_labels: BTreeMap<String, String>,
    /// They win over `env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_env: Vec<SecretEnv>,
    /// Put into the sandbox before it starts, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetch: Vec<FetchUri>,
}

/// What a framework wants to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Used once.
    pub task_id: TaskId,
    /// For people.
    pub name: String,
    /// The agent of the offer.
    pub agent_id: AgentId,
    /// Taken from the offer.
    pub resources: Resources,
    /// A hard limit on processor time.
    pub cpu_limit: Option<Scalar>,
    /// The hard memory limit when it is above `mem`.
    pub memory_limit_mb: Option<u64>,
    /// Processes and threads.
    pub pids_limit: Option<u64>,
    /// What runs.
    pub container: ContainerInfo,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Option<Duration>,
    /// Whether it works: each is asked by itself.
    #[serde(
        default,
        alias = "health_check",
        deserialize_with = "one_or_several",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub health_checks: Vec<HealthCheck>,
    /// Failed and killed after this long.
    pub max_completion: Option<Duration>,
    /// Opaque to mezzo.
    pub labels: BTreeMap<String, String>,
    /// Opaque to mezzo.
    pub data: Vec<u8>,
    /// Beyond the resources.
    #[serde(default, skip_serializing_if = "TaskLimits::is_default")]
    pub limits: TaskLimits,
    /// Its membership in a group, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Box<TaskGroup>>,
    /// Whether it can take its share of the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_check: Option<Box<ReadinessCheck>>,
    /// What is asked as long as it runs, and only told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Box<Check>>,
    /// Which part of `resources` is from reservations; the rest is from what is open to all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<Pool>,
    /// The volumes that it mounts, beside `resources`; filled in by the master.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub persistent: Vec<PersistentVolume>,
    /// It runs on what others do not use, until they need it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revocable: bool,
}

impl TaskInfo {
    /// What it takes, by whose that is: its resources, the volumes that it writes, and those that are shared. Others that
    /// it only reads can be read by more tasks meanwhile and are not taken.
    ///
    /// # Errors
    ///
    /// When more is said to be reserved than it takes.
    pub fn pools(&self) -> Result<Pools, Undivided> {
        let taken = Pools::divided(&self.resources, &self.reserved, &[])?;
        let held = self
            .persistent
            .iter()
            .filter(|volume| volume.shared || self.holds(&volume.id));
        Ok(held.fold(taken, |taken, volume| taken.with_volume(volume.clone())))
    }

    /// Whether it may write to that volume.
    #[must_use]
    pub fn writes(&self, id: &VolumeId) -> bool {
        let mut mounts = self.container.volumes.iter();
        mounts.any(|mount| !mount.read_only && mount.source == VolumeSource::Persistent(id.clone()))
    }

    /// Whether that volume counts with it: it writes to it, and no other member of its group holds it.
    #[must_use]
    pub fn holds(&self, id: &VolumeId) -> bool {
        let shares = self.group.iter().flat_map(|group| &group.shares);
        self.writes(id) && !shares.into_iter().any(|shared| shared == id)
    }
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskState {
    /// Accepted by the master.
    Staging,
    /// At the agent: image, container.
    Starting,
    /// The process runs.
    Running,
    /// Asked to end.
    Killing,
    /// Exit code 0.
    Finished,
    /// Any other end of its own, or it could not start.
    Failed,
    /// Ended because somebody asked.
    Killed,
    /// Invalid or not allowed.
    Error,
    /// Never started.
    Dropped,
    /// Its agent is away.
    Unreachable,
    /// Lost with or by its agent.
    Gone,
    /// No record.
    Unknown,
}

impl TaskState {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Staging,
        Self::Starting,
        Self::Running,
        Self::Killing,
        Self::Finished,
        Self::Failed,
        Self::Killed,
        Self::Error,
        Self::Dropped,
        Self::Unreachable,
        Self::Gone,
        Self::Unknown,
    ];

    /// Nothing follows.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Finished
            | Self::Failed
            | Self::Killed
            | Self::Error
            | Self::Dropped
            | Self::Gone => true,
            Self::Staging
            | Self::Starting
            | Self::Running
            | Self::Killing
            | Self::Unreachable
            | Self::Unknown => false,
        }
    }

    /// As Mesos writes it, `TASK_RUNNING`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Staging => "TASK_STAGING",
            Self::Starting => "TASK_STARTING",
            Self::Running => "TASK_RUNNING",
            Self::Killing => "TASK_KILLING",
            Self::Finished => "TASK_FINISHED",
            Self::Failed => "TASK_FAILED",
            Self::Killed => "TASK_KILLED",
            Self::Error => "TASK_ERROR",
            Self::Dropped => "TASK_DROPPED",
            Self::Unreachable => "TASK_UNREACHABLE",
            Self::Gone => "TASK_GONE",
            Self::Unknown => "TASK_UNKNOWN",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StatusSource {
    /// Not kept, not repeated, not to be acknowledged.
    Master,
    /// Kept and repeated until acknowledged.
    Agent,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The image could not be had.
    ImagePullFailed,
    /// The container could not be made or its process not started.
    ContainerLaunchFailed,
    /// Killed by the kernel for its memory limit.
    ContainerLimitationMemory,
    /// The process ended by itself.
    CommandExited,
    /// Killed before it ran.
    TaskKilledDuringLaunch,
    /// The description is wrong.
    TaskInvalid,
    /// The description asks for what is not allowed.
    TaskUnauthorized,
    /// The offer is gone.
    InvalidOffers,
    /// The agent is away.
    AgentDisconnected,
    /// The agent was removed.
    AgentRemoved,
    /// The agent was restarted before the task ran.
    AgentRestarted,
    /// The agent is back.
    AgentReregistered,
    /// The framework is gone.
    FrameworkRemoved,
    /// An answer to a question.
    Reconciliation,
    /// It took too long.
    MaxCompletionTimeReached,
    /// Its health changed.
    HealthCheckStatusUpdated,
    /// Supervisor or machine went away under it.
    ContainerLost,
    /// The agent does not have what the task takes.
    ResourcesUnavailable,
    /// The framework or an operator asked.
    KillRequested,
    /// The readiness check or the check has a new result.
    TaskCheckStatusUpdated,
    /// The operator takes the agent out of service.
    AgentDraining,
    /// It was revocable, and ordinary tasks need what it used.
    ContainerPreempted,
    /// Writable layer, sandbox and logs took more than the task's disk.
    ContainerLimitationDisk,
    /// Its group cannot be launched.
    TaskGroupInvalid,
    /// Another task of its group ended or could not be started.
    TaskGroupMemberEnded,
    /// A file for its sandbox could not be had.
    FetchFailed,
}

impl Reason {
    /// As Mesos writes it, `REASON_COMMAND_EXITED`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ImagePullFailed => "REASON_IMAGE_PULL_FAILED",
            Self::ContainerLaunchFailed => "REASON_CONTAINER_LAUNCH_FAILED",
            Self::ContainerLimitationMemory => "REASON_CONTAINER_LIMITATION_MEMORY",
            Self::CommandExited => "REASON_COMMAND_EXITED",
            Self::TaskKilledDuringLaunch => "REASON_TASK_KILLED_DURING_LAUNCH",
            Self::TaskInvalid => "REASON_TASK_INVALID",
            Self::TaskUnauthorized => "REASON_TASK_UNAUTHORIZED",
            Self::InvalidOffers => "REASON_INVALID_OFFERS",
            Self::AgentDisconnected => "REASON_AGENT_DISCONNECTED",
            Self::AgentRemoved => "REASON_AGENT_REMOVED",
            Self::AgentRestarted => "REASON_AGENT_RESTARTED",
            Self::AgentReregistered => "REASON_AGENT_REREGISTERED",
            Self::FrameworkRemoved => "REASON_FRAMEWORK_REMOVED",
            Self::Reconciliation => "REASON_RECONCILIATION",
            Self::MaxCompletionTimeReached => "REASON_MAX_COMPLETION_TIME_REACHED",
            Self::HealthCheckStatusUpdated => "REASON_HEALTH_CHECK_STATUS_UPDATED",
            Self::ContainerLost => "REASON_CONTAINER_LOST",
            Self::ResourcesUnavailable => "REASON_RESOURCES_UNAVAILABLE",
            Self::KillRequested => "REASON_KILL_REQUESTED",
            Self::TaskCheckStatusUpdated => "REASON_TASK_CHECK_STATUS_UPDATED",
            Self::AgentDraining => "REASON_AGENT_DRAINING",
            Self::ContainerPreempted => "REASON_CONTAINER_PREEMPTED",
            Self::ContainerLimitationDisk => "REASON_CONTAINER_LIMITATION_DISK",
            Self::TaskGroupInvalid => "REASON_TASK_GROUP_INVALID",
            Self::TaskGroupMemberEnded => "REASON_TASK_GROUP_MEMBER_ENDED",
            Self::FetchFailed => "REASON_FETCH_FAILED",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How the container's first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitInfo {
    /// `None` when the supervisor was lost before it could tell.
    pub exit: Option<Exit>,
    /// The kernel killed it for its memory limit.
    pub oom_killed: bool,
    /// The limit that held.
    pub memory_limit_bytes: Option<u64>,
}

/// Where the task runs on its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// The runtime's name for it.
    pub container_id: String,
    /// Of its first process, in the machine's pid namespace.
    pub pid: u32,
    /// As the runtime names it.
    pub cgroup_path: String,
    /// Of the manifest that runs.
    pub image_digest: String,
    /// Its own addresses, IPv4 first; empty in the machine's network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<IpAddr>,
}

/// One report on a task. A master keeps one for each, by the hundred thousand: what is large is apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Which task.
    pub task_id: TaskId,
    /// Whose.
    pub framework_id: FrameworkId,
    /// Where; `None` when no agent had it.
    pub agent_id: Option<AgentId>,
    /// Where it stands.
    pub state: TaskState,
    /// Why.
    pub reason: Option<Reason>,
    /// Who says so.
    pub source: StatusSource,
    /// For people.
    pub message: String,
    /// Unix milliseconds.
    pub timestamp_ms: u64,
    /// To acknowledge; `None` on the master's own.
    pub update_id: Option<UpdateId>,
    /// What its health checks say together ([`health_of_all`](super::health_of_all)); `None` without any, too.
    pub healthy: Option<bool>,
    /// What each of them says, in their order; `None` before its first result. Empty without any, and from those who
    /// know only the sum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health_results: Vec<Option<bool>>,
    /// Once there is a container.
    pub container: Option<Box<ContainerStatus>>,
    /// Once it has ended.
    pub exit: Option<Box<ExitInfo>>,
    /// The last sample; final in a terminal state.
    pub usage: Option<Box<Usage>>,
    /// `None` without a readiness check, or before its first result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Box<ReadinessStatus>>,
    /// `None` without a check, or before its first result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_result: Option<Box<CheckResult>>,
}

/// A task as the master or an agent knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What was asked for.
    pub info: TaskInfo,
    /// By whom.
    pub framework_id: FrameworkId,
    /// The role of the offer.
    pub role: RoleName,
    /// The latest.
    pub status: TaskStatus,
    /// When it reached `TASK_RUNNING`, Unix milliseconds.
    pub started_at_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_small_where_there_is_little_to_tell() {
        // 408 with all of it in place, of which most was empty.
        let bytes = size_of::<TaskStatus>();
        assert!(bytes <= 192, "{bytes}");
    }

    #[test]
    fn only_plain_names_lead_into_a_sandbox() {
        for good in ["data", "a/b.c/..d", "with space"] {
            assert!(is_path_in_sandbox(good), "{good}");
        }
        let (long, deep) = ("x".repeat(256), ["a"; 65].join("/"));
        for bad in [
            "", "/a", "a/", "a//b", ".", "./a", "..", "a/../b", "a\0b", "a\nb", &long, &deep,
        ] {
            assert!(!is_path_in_sandbox(bad), "{bad}");
        }
        let source = |path: &str| VolumeSource::HostPath(path.into());
        assert_eq!(source("a/b").in_sandbox(), Some("a/b"));
        assert_eq!(source("/a").in_sandbox(), None);
    }
}
