//! What the core wants done. The actor does it, in this order, and decides nothing.

use std::{sync::Arc, time::Duration};

use mezzo_api::model::{
    AgentId, AgentInfo, ChangeProblem, FrameworkId, Offer, OfferId, OperationId, OperationStatus,
    PoolOperation, Pools, RoleName, StreamId, TaskId, TaskStatus, Unavailability, UpdateId,
    WindowName,
};
use thiserror::Error;

use super::{ConnId, InverseOffer, KnownTask, Notice, WindowProblem};
use crate::{
    allocator::{InvalidPattern, quota::QuotaProblem},
    store::Change,
};

/// To be carried out.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Make it durable before any later effect is seen by anybody.
    Store(Change),
    /// Send to an agent.
    ToAgent(ConnId, ToAgent),
    /// End an agent's stream.
    CloseAgent(ConnId, Ending),
    /// Send to a framework.
    ToFramework(ConnId, ToFramework),
    /// End a framework's stream.
    CloseFramework(ConnId, Ending),
    /// Answer the one who asked.
    Reply(Result<(), Refusal>),
    /// Tell operators who watch.
    Note(Notice),
}

/// A message to an agent.
#[derive(Debug, Clone)]
pub enum ToAgent {
    /// The first.
    Registered(AgentId),
    /// The agent must stop.
    Refused(String),
    /// Run a task.
    Launch(Arc<KnownTask>),
    /// Run the tasks of a group, in their order.
    LaunchGroup(Vec<Arc<KnownTask>>),
    /// End a task.
    Kill {
        /// Whose.
        framework_id: FrameworkId,
        /// Which.
        task_id: TaskId,
        /// Between SIGTERM and SIGKILL.
        grace: Option<Duration>,
    },
    /// A status need not be repeated.
    Acknowledge {
        /// Whose.
        framework_id: FrameworkId,
        /// Of which task.
        task_id: TaskId,
        /// Which.
        update_id: UpdateId,
    },
    /// Change reservations or volumes.
    Operation(Box<PoolOperation>),
    /// What became of it need not be repeated.
    AcknowledgeOperation {
        /// `None`: an operator's.
        framework_id: Option<FrameworkId>,
        /// Which.
        operation_id: OperationId,
    },
    /// Best effort.
    TaskMessage {
        /// Whose.
        framework_id: FrameworkId,
        /// To whom.
        task_id: TaskId,
        /// What.
        data: Vec<u8>,
    },
    /// Kill every task of that framework and forget it.
    ShutdownFramework(FrameworkId),
    /// Out of service: kill every task, launch none.
    Drain {
        /// Grace periods are not longer.
        max_grace: Option<Duration>,
    },
    /// In service again.
    Activate,
}

/// An event for a framework.
#[derive(Debug, Clone)]
pub enum ToFramework {
    /// The first.
    Subscribed {
        /// Its id from now on.
        framework_id: FrameworkId,
        /// To be sent with every call.
        stream_id: StreamId,
    },
    /// Free resources.
    Offers(Vec<MadeOffer>),
    /// No longer there.
    Rescind(OfferId),
    /// A task's state.
    Update(Box<TaskStatus>),
    /// What became of a change of reservations and volumes.
    Operation(Box<OperationStatus>),
    /// An agent cannot be reached or was removed.
    AgentLost(AgentId),
    /// Asked to run its tasks elsewhere.
    InverseOffers(Vec<InverseOffer>),
    /// Not asked any more.
    RescindInverseOffer(OfferId),
}

/// Free resources of one agent for one framework, made of what the books have. A pass makes ten thousand of them while
/// everybody waits: whoever sends one makes the [`Offer`] of it, with all its texts.
#[derive(Debug, Clone)]
pub struct MadeOffer {
    /// To accept or decline it.
    pub offer_id: OfferId,
    /// To whom.
    pub framework_id: FrameworkId,
    /// Whose resources.
    pub agent_id: AgentId,
    /// For which role.
    pub role: RoleName,
    /// What.
    pub resources: Pools,
    /// The agent.
    pub info: Arc<AgentInfo>,
    /// Only for revocable tasks.
    pub revocable: bool,
    /// Work is planned on the machine.
    pub unavailability: Option<Box<Unavailability>>,
}

impl From<MadeOffer> for Offer {
    fn from(made: MadeOffer) -> Self {
        Self {
            offer_id: made.offer_id,
            framework_id: made.framework_id,
            agent_id: made.agent_id,
            hostname: made.info.hostname.clone(),
            role: made.role,
            resources: made.resources.plain(),
            reserved: made.resources.pool_list(),
            volumes: made.resources.volumes().cloned().collect(),
            attributes: made.info.attributes.clone(),
            region: made.info.region.clone(),
            zone: made.info.zone.clone(),
            address: made.info.address.clone(),
            revocable: made.revocable,
            unavailability: made.unavailability,
        }
    }
}

/// Why the master ends a stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Ending {
    /// A newer stream of the same id is there.
    #[error("a newer stream of the same id took over")]
    Superseded,
    /// It did not read.
    #[error("events were not read fast enough; subscribe again and reconcile")]
    TooSlow,
    /// Refused for good.
    #[error("the master refused the registration")]
    Refused,
    /// Torn down, or its failover time-out passed.
    #[error("the framework was removed; its id cannot be used again")]
    Removed,
    /// The master stops.
    #[error("the master is shutting down; connect again")]
    ShuttingDown,
    /// Another leads.
    #[error("this master leads no longer; connect to the one that does")]
    Deposed,
}

/// Why the core does not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Never seen or forgotten.
    #[error("framework {0} is not known to this master; subscribe first")]
    UnknownFramework(FrameworkId),
    /// The call is from an older stream.
    #[error(
        "stream {stream_id} of framework {framework_id} is not its current subscription; subscribe again"
    )]
    StaleStream {
        /// Whose.
        framework_id: FrameworkId,
        /// The one given.
        stream_id: StreamId,
    },
    /// Its id cannot be used again.
    #[error("framework {0} was removed and its id cannot be used again; subscribe without an id")]
    RemovedFramework(FrameworkId),
    /// Changed what must not change.
    #[error("framework {framework_id}: `{field}` cannot be changed")]
    Immutable {
        /// Whose.
        framework_id: FrameworkId,
        /// Which.
        field: &'static str,
    },
    /// A call names a role that the framework does not have.
    #[error("framework {framework_id} is not subscribed to role {role}")]
    NotInRole {
        /// Who.
        framework_id: FrameworkId,
        /// Which.
        role: RoleName,
    },
    /// No such task.
    #[error("task {task_id} of framework {framework_id} is not known to this master")]
    UnknownTask {
        /// Whose.
        framework_id: FrameworkId,
        /// Which.
        task_id: TaskId,
    },
    /// No such agent.
    #[error("agent {0} is not known to this master")]
    UnknownAgent(AgentId),
    /// An offer filter cannot be used.
    #[error(transparent)]
    InvalidPattern(#[from] InvalidPattern),
    /// Quotas that do not fit; never empty.
    #[error("the quotas cannot be set: {}", told(.0))]
    Quotas(Vec<QuotaProblem>),
    /// No such window.
    #[error("there is no maintenance window {0}")]
    UnknownWindow(WindowName),
    /// It cannot be.
    #[error("maintenance window {0}: {1}")]
    Window(WindowName, WindowProblem),
    /// Nothing can be changed there now.
    #[error("agent {0} is not connected; its reservations and volumes cannot be changed now")]
    AgentAway(AgentId),
    /// It does not fit what the agent has.
    #[error("agent {agent_id}: cannot {change}: {problem}")]
    Change {
        /// Where.
        agent_id: AgentId,
        /// What was asked for.
        change: String,
        /// Why not.
        problem: ChangeProblem,
    },
    /// Tasks or volumes hold it.
    #[error("agent {agent_id}: cannot {change}: {holders}")]
    InUse {
        /// Where.
        agent_id: AgentId,
        /// What was asked for.
        change: String,
        /// Who holds what.
        holders: String,
    },
    /// Only agents that are away can be removed.
    #[error("agent {0} is connected; stop it before it is removed")]
    AgentConnected(AgentId),
}

/// One sentence; says whether the operator may insist.
fn told(problems: &[QuotaProblem]) -> String {
    let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let hint = if problems.iter().all(QuotaProblem::may_be_forced) {
        "; ask with force to have it nevertheless"
    } else {
        ""
    };
    list.join("; ") + hint
}
