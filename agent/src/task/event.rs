//! What can happen to the agent's tasks, and what is to be done about it. Pure data.

use std::time::Duration;

use mezzo_api::model::{
    AgentId, Check, CheckResult, FrameworkId, HealthCheck, OperationId, OperationStatus,
    PoolOperation, ReadinessCheck, ReadinessStatus, Resources, RoleName, Task, TaskInfo,
    TaskStatus, UpdateId, Usage, VolumeId,
};

use super::{TaskKey, change::Refused, disk::DiskUse, group::Holding, status::Outcome};
use crate::{
    node::{Attachment, ContainerId, ExitRecord, LimitError, Limits, Started},
    recovery::checkpoint::Checkpoint,
    resources::{book::Saved, grant::Grant},
    slack::qos::{Scarce, Throttle},
};

/// Something happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The master wants a task to run.
    Launch {
        /// Whose.
        framework: FrameworkId,
        /// The role of the offer.
        role: RoleName,
        /// What.
        info: Box<TaskInfo>,
    },
    /// The master wants the tasks of a group to run, all or none.
    LaunchGroup {
        /// Whose.
        framework: FrameworkId,
        /// The role of the offer.
        role: RoleName,
        /// In their order; each names the group.
        infos: Vec<TaskInfo>,
    },
    /// The master wants a task to end.
    Kill {
        /// Which.
        key: TaskKey,
        /// Instead of the task's own.
        grace: Option<Duration>,
    },
    /// A framework has a status.
    Acknowledge {
        /// Which task.
        key: TaskKey,
        /// Which status.
        update: UpdateId,
    },
    /// A framework is gone for good.
    ShutdownFramework(FrameworkId),
    /// The master took the registration. Ends a drain: if it goes on, the master says so next.
    Registered(AgentId),
    /// The operator takes the machine out of service: all tasks end, none begins.
    Drain {
        /// Grace periods are not longer.
        max_grace: Option<Duration>,
    },
    /// It is in service again.
    Activate,
    /// The master wants reservations or volumes changed.
    Operate(Box<PoolOperation>),
    /// Whoever asked knows what became of a change.
    AcknowledgeOperation {
        /// `None`: an operator.
        framework: Option<FrameworkId>,
        /// Which.
        operation: OperationId,
    },
    /// Reservations and volumes are on disk as they were to be, or not.
    BookWritten(Result<(), String>),
    /// The content of a destroyed volume is gone.
    Purged(String),
    /// No stream to the master.
    Disconnected,
    /// The agent ends and takes its tasks along.
    KillAll,

    /// The checkpoint of a task is on disk.
    Created(ContainerId),
    /// It could not be written.
    CreateFailed(ContainerId, String),
    /// A status is on disk.
    Written(ContainerId, UpdateId),

    /// The image of a group's member is here.
    Ready(ContainerId),
    /// What a group shares is there, or cannot be had.
    Held(ContainerId, Result<Attachment, Outcome>),
    /// Nothing is left of what a group shared.
    LetGo(ContainerId),
    /// A launch takes its time.
    Progress(ContainerId, String),
    /// The process runs.
    Launched {
        /// Which container.
        container: ContainerId,
        /// Its process.
        started: Started,
        /// What it runs.
        image_digest: String,
    },
    /// No process runs, nor will one.
    LaunchFailed(ContainerId, LaunchFailure),
    /// The container has ended.
    Exited(ContainerId, Box<ExitRecord>),
    /// Fresh samples.
    Usage(Vec<(ContainerId, Usage)>),
    /// What containers take on the disk.
    Disk(Vec<(ContainerId, DiskUse)>),
    /// Revocable tasks may take so much, all together.
    Lend(Resources),
    /// They are held back so far from now on.
    HoldBack(Throttle),
    /// One of them must go.
    Preempt {
        /// Which.
        container: ContainerId,
        /// For what.
        scarce: Scarce,
        /// Why, with the numbers.
        message: String,
    },
    /// The runtime was told a container's limits.
    Limited {
        /// Which container.
        container: ContainerId,
        /// Which limits.
        limits: Box<Limits>,
        /// Whether they hold.
        result: Result<(), LimitError>,
    },
    /// A changed checkpoint is on disk, or not.
    Rewritten(Box<Checkpoint>, Result<(), String>),
    /// One of a task's health checks, by its place among them, has a result.
    Health(ContainerId, usize, Verdict),
    /// A readiness check has a new result.
    Readiness(ContainerId, Box<ReadinessStatus>),
    /// A check has a new result.
    Check(ContainerId, CheckResult),
    /// Nothing but the time.
    Tick,
}

/// Why nothing runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LaunchFailure {
    /// Given up because it was asked for.
    Cancelled,
    /// For any other reason.
    Failed(Outcome),
}

/// What a health check of a task says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The last check passed.
    Healthy,
    /// The last check failed, and not in the grace period.
    Unhealthy,
    /// Too many failed in a row; with the last failure.
    Kill(String),
}

/// Something is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Write the checkpoint; answered by `Created` or `CreateFailed`. Before anything else is done for the container.
    Create(Box<Checkpoint>),
    /// Add a status to the task's log; answered by `Written`.
    Append(ContainerId, Box<TaskStatus>),
    /// Note an acknowledgement in the task's log.
    AppendAcknowledged(ContainerId, UpdateId),
    /// Note in the task's log that nobody asks for its statuses any more.
    AppendForgotten(ContainerId),
    /// Write the checkpoint in place of the one before; answered by `Rewritten`.
    Rewrite(Box<Checkpoint>),
    /// Make the container's limits these, also when others are still on their way; answered by `Limited`.
    Limit(ContainerId, Box<Limits>),
    /// Tell who asked for a change of limits how it went.
    Answer(ContainerId, Result<Box<Task>, Refused>),
    /// Write down what is reserved, and make the folder of a new volume first; answered by `BookWritten`.
    WriteBook {
        /// What must survive.
        saved: Box<Saved>,
        /// Of a new volume.
        make: Option<String>,
    },
    /// Remove the content of a destroyed volume; answered by `Purged`.
    Purge(String),
    /// Tell the master what became of a change, and what is reserved now.
    SendPools(Box<OperationStatus>),
    /// Send a status to the master, if there is one.
    Send(Box<TaskStatus>),
    /// Make and start the container; answered by `Launched` or `LaunchFailed`.
    Launch {
        /// The new container.
        container: ContainerId,
        /// Whose.
        framework: FrameworkId,
        /// What.
        info: Box<TaskInfo>,
        /// What it may use.
        limits: Box<Limits>,
        /// What was picked for it.
        grant: Grant,
        /// The folders of the persistent volumes that it mounts.
        volumes: Vec<(VolumeId, String)>,
        /// Of a member of a group: the holder. Then it waits for `Admit` when its image is here.
        holder: Option<ContainerId>,
    },
    /// Make what a group shares; answered by `Held`.
    Hold(Box<Holding>),
    /// Let a member of a group start, in this network.
    Admit(ContainerId, Attachment),
    /// Take back what a group shared; answered by `LetGo`.
    LetGo(ContainerId),
    /// Give a launch up; still answered by `Launched` or `LaunchFailed`.
    CancelLaunch(ContainerId),
    /// Wait for the end; answered by `Exited`.
    Watch(ContainerId),
    /// Ask the process to end.
    Terminate(ContainerId),
    /// End everything in the container.
    Kill(ContainerId),
    /// Ask one of the task's health checks, which has that place among them, until `StopHealth`; answered by `Health`.
    StartHealth(ContainerId, usize, Box<HealthCheck>),
    /// Ask until the task is ready, or until `StopHealth`; answered by `Readiness`.
    StartReadiness(ContainerId, Box<ReadinessCheck>),
    /// Ask and tell, until `StopHealth`; answered by `Check`.
    StartCheck(ContainerId, Box<Check>),
    /// No more checks of any kind.
    StopHealth(ContainerId),
    /// The container's root file system is not needed any more.
    DropSnapshot(ContainerId),
    /// Remove all that is left of an ended task: container record, logs, root file system, folder.
    Collect(ContainerId),
}
