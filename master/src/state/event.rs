//! What happens to the core: the fronts and the clock speak to it in these, and in nothing else.

use std::{sync::Arc, time::Duration};

use crate::{allocator::Quota, state::tasks::KnownTask, store::WindowRecord};
use mezzo_api::model::{
    AgentId, AgentInfo, FrameworkId, FrameworkInfo, NodeUsage, OfferId, OperationId,
    OperationStatus, PersistentVolume, Pool, PoolChange, Pools, Resources, RoleName, StreamId,
    Task, TaskId, TaskInfo, TaskStatus, TaskUsage, UpdateId, WindowName,
};

/// One connection of an agent or a framework; never used twice by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// An agent opened its stream and said who it is. Answered by one [`super::Effect::Reply`].
    AgentAttached {
        /// Its connection.
        conn: ConnId,
        /// What it said.
        registration: Registration,
    },
    /// The agent answered on that stream for the first time: it knows its id.
    AgentHeard {
        /// On which connection.
        conn: ConnId,
    },
    /// That stream is over.
    AgentDetached {
        /// Of whom.
        conn: ConnId,
    },
    /// An agent tells of a task.
    AgentStatus {
        /// Who says so.
        conn: ConnId,
        /// What.
        status: Box<TaskStatus>,
    },
    /// An agent tells what is used.
    AgentUsage {
        /// Who says so.
        conn: ConnId,
        /// Of the machine.
        node: Option<NodeUsage>,
        /// Of its tasks.
        tasks: Vec<TaskUsage>,
    },
    /// An agent tells what became of a change of its reservations and volumes, and what there is now.
    AgentPools {
        /// Who says so.
        conn: ConnId,
        /// What became of it.
        status: OperationStatus,
        /// What is reserved.
        reserved: Vec<Pool>,
        /// Beside that.
        volumes: Vec<PersistentVolume>,
    },
    /// An agent tells how much revocable tasks may take there, all together.
    AgentSlack {
        /// Who says so.
        conn: ConnId,
        /// `cpus` and `mem` only.
        total: Resources,
    },
    /// A framework opened its stream.
    Subscribe {
        /// Its connection.
        conn: ConnId,
        /// Who it is.
        info: FrameworkInfo,
        /// Roles for which it wants no offers yet.
        suppressed: Vec<RoleName>,
    },
    /// That stream is over.
    FrameworkDetached {
        /// Of whom.
        conn: ConnId,
    },
    /// A framework asks for something. Answered by one [`super::Effect::Reply`].
    Call {
        /// Who.
        caller: Caller,
        /// What.
        call: Call,
    },
    /// An operator asks for something. Answered by one [`super::Effect::Reply`].
    Operate(Operation),
    /// Time passed.
    Tick,
    /// Offer what is free.
    Allocate(Pass),
}

/// What an agent says when it attaches.
#[derive(Debug, Clone)]
pub struct Registration {
    /// `None` on the first registration ever.
    pub agent_id: Option<AgentId>,
    /// The machine.
    pub info: AgentInfo,
    /// Of the running kernel.
    pub boot_id: String,
    /// All that it holds.
    pub tasks: Vec<HeldTask>,
    /// What became of changes that nobody has acknowledged.
    pub operations: Vec<OperationStatus>,
}

/// A task on an agent that attaches. Far smaller than a [`Task`]: a new leader is given those of the whole cluster at once.
#[derive(Debug, Clone)]
pub struct HeldTask {
    /// As it will be kept, if it was not known: made where it is read, so that the core need not move it.
    pub task: Arc<KnownTask>,
    /// What it takes.
    pub pools: Pools,
}

impl From<Task> for HeldTask {
    fn from(task: Task) -> Self {
        let pools = task.info.pools();
        Self {
            pools: pools.unwrap_or_else(|_| task.info.resources.clone().into()),
            task: Arc::new(task.into()),
        }
    }
}

/// Who calls, on which subscription.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub framework_id: FrameworkId,
    /// From `Subscribed`.
    pub stream_id: StreamId,
}

/// A status that the framework has made durable.
#[derive(Debug, Clone)]
pub struct Acknowledgement {
    /// Who keeps it.
    pub agent_id: AgentId,
    /// Of which task.
    pub task_id: TaskId,
    /// Which.
    pub update_id: UpdateId,
}

/// Offers of one agent, and what is to be done with them.
#[derive(Debug, Clone)]
pub struct Accept {
    /// Which.
    pub offers: Vec<OfferId>,
    /// In order.
    pub launches: Vec<Launch>,
    /// How long what is left is not offered again.
    pub refuse: Duration,
}

/// A task to launch, or why its description is refused; or a change of reservations and volumes.
#[derive(Debug, Clone)]
pub enum Launch {
    /// Checked.
    Valid(Box<TaskInfo>),
    /// Gets a TASK_ERROR.
    Invalid {
        /// Which.
        task_id: TaskId,
        /// Every problem.
        message: String,
    },
    /// The tasks of a group in their order, checked, each with its membership: all or none.
    Group(Vec<TaskInfo>),
    /// Of what the offers hold at this point.
    Change {
        /// `None`: nobody is to be told what became of it.
        id: Option<OperationId>,
        /// What.
        change: Box<PoolChange>,
    },
    /// Each gets a TASK_ERROR.
    InvalidGroup {
        /// Which.
        task_ids: Vec<TaskId>,
        /// Every problem.
        message: String,
    },
}

impl Launch {
    /// The tasks that it is about.
    #[must_use]
    pub fn into_ids(self) -> Vec<TaskId> {
        match self {
            Self::Valid(info) => vec![info.task_id],
            Self::Invalid { task_id, .. } => vec![task_id],
            Self::Group(infos) => infos.into_iter().map(|info| info.task_id).collect(),
            Self::Change { .. } => Vec::new(),
            Self::InvalidGroup { task_ids, .. } => task_ids,
        }
    }
}

/// What a framework may ask for.
#[derive(Debug, Clone)]
pub enum Call {
    /// Use offers, each time of one agent, one after the other.
    Accept(Vec<Accept>),
    /// Give offers back.
    Decline {
        /// Which.
        offers: Vec<OfferId>,
        /// How long they are not offered again.
        refuse: Duration,
    },
    /// Clear filters and suppression; empty: of all roles.
    Revive(Vec<RoleName>),
    /// No more offers; empty: for all roles.
    Suppress(Vec<RoleName>),
    /// End a task.
    Kill {
        /// Which.
        task_id: TaskId,
        /// Where, for when the master has no record.
        agent_id: Option<AgentId>,
        /// Between SIGTERM and SIGKILL.
        grace: Option<Duration>,
    },
    /// Ends the repetition of statuses.
    Acknowledge(Vec<Acknowledgement>),
    /// Tell the state of these tasks; empty: of all that have not ended.
    Reconcile(Vec<(TaskId, Option<AgentId>)>),
    /// Ends the repetition of what became of a change.
    AcknowledgeOperation {
        /// Who keeps it.
        agent_id: AgentId,
        /// Of which.
        operation_id: OperationId,
    },
    /// Tell how these changes stand; empty: all that are under way or not acknowledged.
    ReconcileOperations(Vec<(OperationId, Option<AgentId>)>),
    /// Best effort.
    SendMessage {
        /// Where.
        agent_id: AgentId,
        /// To whom.
        task_id: TaskId,
        /// What.
        data: Vec<u8>,
    },
    /// New roles, time-out, labels, ...
    UpdateFramework {
        /// The new description.
        info: Box<FrameworkInfo>,
        /// The roles for which it wants no offers.
        suppressed: Vec<RoleName>,
    },
    /// Whether it moves its tasks away in time.
    AnswerInverseOffers {
        /// Which.
        ids: Vec<OfferId>,
        /// It does.
        accept: bool,
    },
    /// Kill everything and forget the framework.
    Teardown,
}

/// What an operator may ask for.
#[derive(Debug, Clone)]
pub enum Operation {
    /// By role, in thousandths, at least 1.
    UpdateWeights(Vec<(RoleName, u64)>),
    /// All of them or none; an empty one removes the role's.
    UpdateQuotas {
        /// By role.
        quotas: Vec<(RoleName, Quota)>,
        /// Also where the cluster is too small for it, or more is held already.
        force: bool,
    },
    /// Whatever framework it belongs to.
    KillTask {
        /// Whose.
        framework_id: FrameworkId,
        /// Which.
        task_id: TaskId,
        /// Between SIGTERM and SIGKILL.
        grace: Option<Duration>,
    },
    /// As if it asked itself.
    TeardownFramework(FrameworkId),
    /// Forget an agent that is not connected.
    RemoveAgent(AgentId),
    /// Offer nothing of an agent and end its tasks.
    DrainAgent {
        /// Which.
        agent_id: AgentId,
        /// From now on; then the last task is killed.
        deadline: Option<Duration>,
        /// Remove it after that.
        mark_gone: bool,
    },
    /// Offer nothing of an agent, and leave its tasks alone.
    DeactivateAgent(AgentId),
    /// It is in service again.
    ActivateAgent(AgentId),
    /// Plan work on machines, in place of the window of that name.
    ScheduleWindow(Box<WindowRecord>),
    /// No more of it; what it drained is in service again.
    CancelWindow(WindowName),
    /// Change an agent's reservations or volumes. What becomes of it is in [`super::Snapshot::operations`].
    ChangePools {
        /// Whose.
        agent_id: AgentId,
        /// New.
        id: OperationId,
        /// What.
        change: Box<PoolChange>,
    },
}

/// Over which agents a pass goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Those where something changed since the last pass.
    Changed,
    /// All: filters may have ended.
    All,
}
