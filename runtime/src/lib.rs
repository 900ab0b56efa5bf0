//! Containers: started, watched over, measured, stopped, and nothing else. This crate knows no task, no
//! framework and no master; it knows container ids, root file systems that somebody else prepared, and limits.
//!
//! ```text
//! Runtime (async, in the agent) ──socket──► launcher (one thread) ──fork──► keeper (one per container)
//!    recovery, usage, stop, exec            exec'd from a sealed copy        owns pipes and logs, waits for the
//!                                           of our own program; holds        end, writes the exit record;
//!                                           nothing that must last           its short-lived child calls libcontainer
//! ```
//!
//! A program that uses [`Runtime`] calls [`launcher_main_if_requested`] first thing in `main`.

mod apparmor;
mod beneath;
mod cgroup;
mod container;
pub mod copy;
mod cpuset;
pub mod disk;
mod error;
mod exec_helper;
mod executor;
mod group;
mod hand_over;
mod host;
mod id;
mod inside;
mod keeper;
mod launcher;
mod layout;
mod link;
mod log_times;
mod logs;
mod model;
mod mount;
mod network;
mod process;
mod program;
mod protocol;
mod purge;
mod recovery;
mod runtime;
mod seccomp;
mod secrets;
mod session;
mod spec;
mod stage;
mod stats_file;
mod supervise;
mod sys;
mod terminal;
mod traffic;
mod user;
mod users;

pub use apparmor::{AppArmor, DEFAULT as DEFAULT_APPARMOR_PROFILE};
pub use cgroup::CgroupMode;
pub use cpuset::{CpuSet, InvalidCpuSet};
pub use error::{Error, ExecError, OpenError, StartError, UpdateError};
pub use host::{Check, CheckState, HostReport, inspect_host};
pub use id::{ContainerId, InvalidContainerId};
pub use launcher::launcher_main_if_requested;
pub use log_times::log_offset_since;
pub use model::{
    ContainerSpec, ContainerState, ContainerStatus, DEFAULT_PATH, DeviceSpec, ExecExit, ExecSpec,
    Exit, ExitRecord, GroupPart, HugePageLimit, IoDevice, IoLimit, LauncherProgram, Limits,
    LogLimits, MountSpec, Network, Pressure, Rlimit, Rootfs, RuntimeConfig, Started, Stream,
    Traffic, Usage,
};
pub use mount::mount_read_only;
pub use network::{
    Attachment, CniConfig, ConfError, InvalidSubnet, Ipv4Subnet, Ipv6Subnet, NetworkConfig,
    NetworkError, NetworkRequest, PlugInError, PortMap, PortProtocol,
};
pub use purge::{PurgeError, purge_dir};
pub use runtime::Runtime;
pub use seccomp::{BadProfile, SeccompProfile};
pub use secrets::{SecretBytes, SecretFile, Secrets};
pub use session::{ExecSession, ExecStream};
pub use spec::security::default_set as default_capabilities;
pub use spec::validate::BadSpec;
pub use terminal::input::TerminalInput;
pub use user::{UserError, UserSpec};
pub use users::{UserNamespace, UserRanges};
