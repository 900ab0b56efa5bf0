//! The checked types of the API: pure data, valid by construction or checked in [`crate::convert`].
//!
//! Quantities are exact (thousandths in integers), times are Unix milliseconds, durations are [`std::time::Duration`].
//! An `Option` that is `None` means unknown or not given, never zero.

mod agent;
mod bounds;
mod capabilities;
mod check;
mod fetch;
mod framework;
mod group;
mod health;
mod ids;
mod limits;
mod network;
mod offer;
mod operation;
mod pools;
mod readiness;
mod reservations;
mod resources;
mod task;
mod usage;

pub use agent::{AgentInfo, Attribute, AttributeValue, CgroupMode};
pub use bounds::{Excess, MOST_POOLS, MOST_VOLUMES};
pub use capabilities::{
    Capabilities, Dropped, InvalidCapability, LINUX_CAPABILITIES, LinuxCapability,
    MOST_CAPABILITIES,
};
pub use check::{Check, CheckAction, CheckResult};
pub use fetch::{ArchiveKind, FetchSource, FetchUri, MOST_FETCHED};
pub use framework::{
    AttributeConstraint, Capability, FrameworkInfo, OfferFilter, Predicate, Selector,
};
pub use group::{GroupPolicy, SharedVolume, TaskGroup};
pub use health::{CheckKind, HealthCheck, MOST_HEALTH_CHECKS, health_of_all};
pub use ids::{
    AgentId, FrameworkId, GroupId, InvalidId, OfferId, OperationId, ProfileName, RoleName,
    SecretSource, StreamId, TaskId, UpdateId, VolumeId, WindowName,
};
pub use limits::{
    Change, CpuPinning, HugePages, InvalidIoDevice, IoDevice, IoLimit, LimitChange, RLIMIT_NAMES,
    Rlimit, TaskLimits,
};
pub use network::{NetworkMode, PortMapping, PortProtocol};
pub use offer::{Filters, Offer, Unavailability};
pub use operation::{OperationState, OperationStatus, PoolOperation};
pub use pools::{ChangeProblem, Conversion, PoolChange, Pools, Undivided};
pub use readiness::{ReadinessCheck, ReadinessProtocol, ReadinessResponse, ReadinessStatus};
pub use reservations::{
    BadStack, PersistentVolume, Pool, Reservation, ReservationKind, Stack, VolumeKey,
};
pub use resources::{InvalidResources, Overflow, Ranges, Resources, Scalar, Set, Value};
pub use task::{
    ContainerInfo, ContainerStatus, EnvVar, Exit, ExitInfo, Reason, SecretEnv, StatusSource, Task,
    TaskInfo, TaskState, TaskStatus, Volume, VolumeSource, is_path_in_sandbox,
};
pub use usage::{NodeUsage, TaskUsage, Usage};
