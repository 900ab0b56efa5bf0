//! The owner's door: what others may say and ask, and the handle they hold.

use mezzo_api::{
    model::{
        AgentId, FrameworkId, LimitChange, NodeUsage, OperationStatus, PersistentVolume, Pool,
        Resources, Task,
    },
    proto,
};
use tokio::sync::{mpsc, oneshot};

use super::LenderView;
use crate::{
    image_gc::ImageStats,
    node::ContainerId,
    stats::histogram::Histogram,
    task::{TaskKey, change::Refused, event::Event},
    usage::{NodePressure, Round},
};

/// What others ask of the owner.
#[derive(Debug)]
pub(crate) enum Command {
    /// Something happened.
    Event(Event),
    /// A new stream to the master is being opened; gives what to register with. Events sent before belong to the
    /// stream before, and are handled before.
    Attach(
        mpsc::Sender<proto::AgentMessage>,
        oneshot::Sender<Inventory>,
    ),
    /// The stream is closed.
    Detach,
    /// A round of samples.
    Usage(Box<Round>),
    /// What images take, and what went.
    Images(ImageStats),
    /// The whole view.
    View(oneshot::Sender<View>),
    /// The machine's last sample.
    NodeUsage(oneshot::Sender<Option<NodeUsage>>),
    /// Which containers run.
    Alive(oneshot::Sender<Vec<Target>>),
    /// One task, by id alone.
    Find(String, oneshot::Sender<Option<Found>>),
    /// Other limits for a running task.
    Change {
        /// `None`: whosever task has that id.
        framework: Option<FrameworkId>,
        /// Which.
        task: String,
        /// What of them changes.
        change: Box<LimitChange>,
        /// Answered when they hold and are on disk.
        reply: Asker,
    },
    /// One running task's container.
    Locate(TaskKey, oneshot::Sender<Option<ContainerId>>),
}

/// What an agent registers with.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// All that it holds.
    pub(crate) tasks: Vec<Task>,
    /// What is reserved.
    pub(crate) reserved: Vec<Pool>,
    /// Beside that.
    pub(crate) volumes: Vec<PersistentVolume>,
    /// Ends of changes that nobody has acknowledged.
    pub(crate) operations: Vec<OperationStatus>,
}

/// Waits to hear how a change of limits went.
pub(crate) type Asker = oneshot::Sender<Result<Box<Task>, Refused>>;

/// A running task.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) key: TaskKey,
    pub(crate) container: ContainerId,
}

/// A task that somebody asked for.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) container: ContainerId,
    pub(crate) alive: bool,
    pub(crate) ended: bool,
}

/// What the machine looks like from here.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) agent_id: Option<AgentId>,
    pub(crate) connected: bool,
    pub(crate) total: Resources,
    pub(crate) available: Resources,
    pub(crate) tasks: Vec<Task>,
    pub(crate) usage: Option<NodeUsage>,
    pub(crate) pressure: NodePressure,
    pub(crate) images: ImageStats,
    pub(crate) n_unacknowledged: usize,
    pub(crate) counters: Counters,
    pub(crate) launch_seconds: Histogram,
    /// Absent where nothing is lent.
    pub(crate) lender: Option<LenderView>,
}

/// Since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) launches: u64,
    pub(crate) launch_failures: u64,
    pub(crate) statuses_sent: u64,
    pub(crate) write_failures: u64,
}

/// The way to the owner. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Handle(mpsc::Sender<Command>);

/// The owner has ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the agent is stopping")]
pub(crate) struct Stopped;

impl Handle {
    pub(crate) async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.0.send(command).await.map_err(|_| Stopped)
    }

    pub(crate) async fn event(&self, event: Event) -> Result<(), Stopped> {
        self.send(Command::Event(event)).await
    }

    /// Sends a question and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(question(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }
}

/// The way to the owner and its end of it.
pub(crate) fn channel() -> (Handle, mpsc::Receiver<Command>) {
    let (sender, receiver) = mpsc::channel(1024);
    (Handle(sender), receiver)
}
