//! The sorts of events, under Marathon's names.
//!
//! Pure. Events share what they speak of with the state (`Arc`), so that telling one costs no copy of an app; they are
//! written as JSON only where somebody listens.

use std::net::IpAddr;
use std::sync::Arc;

use mezzo_api::model::{FrameworkId, TaskId, TaskState};

use crate::app::{AppId, AppVersion};
use crate::core::state::Instance;
use crate::deployment::Deployment;
use crate::group::GroupId;
use crate::time::Timestamp;

/// Every event type of Marathon that mezzo tells, and mezzo's own [`GAP`].
///
/// Not among them, because there is nothing here that they could tell of: `subscribe_event` and `unsubscribe_event`
/// (HTTP callbacks, which Marathon itself gave up in 1.5) and `framework_message_event`.
pub const EVENT_TYPES: &[&str] = &[
    "api_post_event",
    "pod_created_event",
    "pod_updated_event",
    "pod_deleted_event",
    "status_update_event",
    "instance_changed_event",
    "instance_health_changed_event",
    "unknown_instance_terminated_event",
    "app_terminated_event",
    "add_health_check_event",
    "remove_health_check_event",
    "failed_health_check_event",
    "health_status_changed_event",
    "unhealthy_task_kill_event",
    "unhealthy_instance_kill_event",
    "group_change_success",
    "group_change_failed",
    "deployment_info",
    "deployment_step_success",
    "deployment_step_failure",
    "deployment_success",
    "deployment_failed",
    "scheduler_registered_event",
    "scheduler_reregistered_event",
    "scheduler_disconnected_event",
    "event_stream_attached",
    "event_stream_detached",
    GAP,
];

/// Told to one reader alone: events between its last one and the next are lost to it.
pub const GAP: &str = "event_stream_gap";

/// Who asked for a change, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whose connection it came over; of a request that a follower handed on, the follower's client.
    pub client: IpAddr,
    /// The path of the request.
    pub uri: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, Unix milliseconds.
    pub at: u64,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// A request changed an app.
    ApiPost {
        /// Whose.
        origin: Origin,
        /// The app as it is to be.
        app: Arc<AppVersion>,
    },
    /// A request made a pod.
    PodCreated {
        /// Whose.
        origin: Origin,
    },
    /// A request changed a pod.
    PodUpdated {
        /// Whose.
        origin: Origin,
    },
    /// A request removed a pod.
    PodDeleted {
        /// Whose.
        origin: Origin,
    },
    /// An agent or the master said something new of a task.
    StatusUpdate {
        /// Which: the instance, or one of a pod's containers.
        task: TaskId,
        /// The instance after it.
        instance: Arc<Instance>,
        /// What was said.
        state: TaskState,
        /// In its words.
        message: String,
    },
    /// An instance stands elsewhere than before.
    InstanceChanged {
        /// The instance, as it is now or was last.
        instance: Arc<Instance>,
        /// Marathon's word for where it stands.
        condition: &'static str,
    },
    /// What an instance's health checks say together is another thing than before.
    InstanceHealthChanged {
        /// The instance after it.
        instance: Arc<Instance>,
    },
    /// A task ended of which nothing was known, or whose app is gone.
    UnknownInstanceTerminated {
        /// Which.
        task: TaskId,
        /// Marathon's word for its end.
        condition: &'static str,
    },
    /// The last of an app is gone.
    AppTerminated {
        /// Which.
        app: AppId,
    },
    /// From now on an app has this health check.
    AddHealthCheck {
        /// The app with it.
        app: Arc<AppVersion>,
        /// Which of its checks.
        number: usize,
    },
    /// A health check of an app is no more.
    RemoveHealthCheck {
        /// Whose.
        app: AppId,
    },
    /// An instance did not pass a health check.
    FailedHealthCheck {
        /// Which.
        instance: Arc<Instance>,
        /// The app with the check.
        app: Arc<AppVersion>,
        /// Which of its checks.
        number: usize,
    },
    /// One of an instance's health checks says another thing than before.
    HealthStatusChanged {
        /// Which.
        instance: Arc<Instance>,
        /// What.
        alive: bool,
    },
    /// An instance was ended for its health, told by the name that Marathon had before 1.4.
    UnhealthyTaskKill {
        /// Which.
        instance: Arc<Instance>,
        /// The agent's words.
        reason: String,
    },
    /// The same by the later name.
    UnhealthyInstanceKill {
        /// Which.
        instance: Arc<Instance>,
        /// The agent's words.
        reason: String,
    },
    /// A change was taken.
    GroupChangeSuccess {
        /// The group that it was about, or that its app lies in.
        group: GroupId,
        /// What it brings.
        version: Timestamp,
    },
    /// A change was refused.
    GroupChangeFailed {
        /// The group that it was about, or that its app lies in.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// A step of a deployment begins.
    DeploymentInfo(Arc<Deployment>),
    /// The step under way is done.
    DeploymentStepSuccess(Arc<Deployment>),
    /// The step under way was broken off.
    DeploymentStepFailure(Arc<Deployment>),
    /// All steps are done.
    DeploymentSuccess(Arc<Deployment>),
    /// It was broken off.
    DeploymentFailed {
        /// Which.
        plan: Arc<Deployment>,
        /// By what.
        reason: &'static str,
    },
    /// The master took the scheduler as a new framework.
    SchedulerRegistered(FrameworkId),
    /// The line to the master is there again.
    SchedulerReregistered,
    /// The line to the master broke.
    SchedulerDisconnected,
    /// A reader of events came.
    StreamAttached(IpAddr),
    /// A reader of events went, or was cut off.
    StreamDetached(IpAddr),
}

impl EventKind {
    /// Marathon's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ApiPost { .. } => "api_post_event",
            Self::PodCreated { .. } => "pod_created_event",
            Self::PodUpdated { .. } => "pod_updated_event",
            Self::PodDeleted { .. } => "pod_deleted_event",
            Self::StatusUpdate { .. } => "status_update_event",
            Self::InstanceChanged { .. } => "instance_changed_event",
            Self::InstanceHealthChanged { .. } => "instance_health_changed_event",
            Self::UnknownInstanceTerminated { .. } => "unknown_instance_terminated_event",
            Self::AppTerminated { .. } => "app_terminated_event",
            Self::AddHealthCheck { .. } => "add_health_check_event",
            Self::RemoveHealthCheck { .. } => "remove_health_check_event",
            Self::FailedHealthCheck { .. } => "failed_health_check_event",
            Self::HealthStatusChanged { .. } => "health_status_changed_event",
            Self::UnhealthyTaskKill { .. } => "unhealthy_task_kill_event",
            Self::UnhealthyInstanceKill { .. } => "unhealthy_instance_kill_event",
            Self::GroupChangeSuccess { .. } => "group_change_success",
            Self::GroupChangeFailed { .. } => "group_change_failed",
            Self::DeploymentInfo(_) => "deployment_info",
            Self::DeploymentStepSuccess(_) => "deployment_step_success",
            Self::DeploymentStepFailure(_) => "deployment_step_failure",
            Self::DeploymentSuccess(_) => "deployment_success",
            Self::DeploymentFailed { .. } => "deployment_failed",
            Self::SchedulerRegistered(_) => "scheduler_registered_event",
            Self::SchedulerReregistered => "scheduler_reregistered_event",
            Self::SchedulerDisconnected => "scheduler_disconnected_event",
            Self::StreamAttached(_) => "event_stream_attached",
            Self::StreamDetached(_) => "event_stream_detached",
        }
    }
}
