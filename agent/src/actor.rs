//! The owner task: holds the core, takes every event in, performs every effect. Nothing else changes a task.
//!
//! Effects that take time run as tasks in one `JoinSet` and come back as events. Writes of one container happen in
//! their order, those of different containers side by side. Reads are answered here too: they only copy.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use mezzo_api::{
    model::{AgentId, NodeUsage, Resources, Task, TaskUsage, Usage},
    proto::{self, agent_message::Message},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    health,
    launch::{Launcher, Order},
    node::{ContainerExit, ContainerId, ExitRecord, Images, Runtime, RuntimeError},
    recovery::checkpoint::LogRecord,
    store::{Store, Write},
    task::{
        Context, Now, TaskKey,
        core::Core,
        event::{Effect, Event},
    },
};

/// Longest wait for pending writes when the agent stops.
const FLUSH: Duration = Duration::from_secs(5);
/// Longest wait for tasks to end when they go with the agent, beyond their grace periods.
const KILL_ALL: Duration = Duration::from_secs(15);
const STEP_DEADLINE: Duration = Duration::from_secs(30);
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// What others ask of the owner.
#[derive(Debug)]
pub(crate) enum Command {
    /// Something happened.
    Event(Event),
    /// A new stream to the master is being opened; gives what to register with. Events sent before belong to the
    /// stream before, and are handled before.
    Attach(
        mpsc::Sender<proto::AgentMessage>,
        oneshot::Sender<Vec<Task>>,
    ),
    /// The stream is closed.
    Detach,
    /// A round of samples.
    Usage(NodeUsage, Vec<(ContainerId, Usage)>),
    /// The whole view.
    View(oneshot::Sender<View>),
    /// Which containers run.
    Alive(oneshot::Sender<Vec<Target>>),
    /// One task, by id alone.
    Find(String, oneshot::Sender<Option<Found>>),
    /// One running task's container.
    Locate(TaskKey, oneshot::Sender<Option<ContainerId>>),
}

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
    pub(crate) n_unacknowledged: usize,
    pub(crate) counters: Counters,
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

/// Monotonic time that begins at the Unix time of the start, so that ages of recovered things carry over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            start_ms: unix_ms(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now {
            unix_ms: unix_ms(),
            mono_ms: self.start_ms.saturating_add(elapsed),
        }
    }

    fn at(&self, mono_ms: u64) -> Instant {
        self.start + Duration::from_millis(mono_ms.saturating_sub(self.start_ms).min(86_400_000))
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// One thing to do on disk, in order.
enum DiskOp {
    Write(Write),
    Remove,
}

/// Comes back from the task set.
enum Done {
    Event(Event),
    Disk(ContainerId, Vec<Event>, u64),
    Nothing,
}

/// The owner.
pub(crate) struct Actor {
    core: Core,
    clock: Clock,
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    store: Store,
    launcher: Arc<Launcher>,
    outbound: Option<mpsc::Sender<proto::AgentMessage>>,
    node_usage: Option<NodeUsage>,
    counters: Counters,
    jobs: JoinSet<Done>,
    feedback: mpsc::Sender<Event>,
    feedback_in: mpsc::Receiver<Event>,
    disk: HashMap<ContainerId, VecDeque<DiskOp>>,
    disk_busy: HashSet<ContainerId>,
    launches: HashMap<ContainerId, CancellationToken>,
    health: HashMap<ContainerId, CancellationToken>,
}

/// What happens to tasks when the agent stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnShutdown {
    /// They run on.
    Leave,
    /// They end.
    Kill,
}

impl Actor {
    pub(crate) fn new(core: Core, clock: Clock, launcher: Launcher) -> Self {
        let (feedback, feedback_in) = mpsc::channel(1024);
        Self {
            core,
            clock,
            runtime: Arc::clone(&launcher.runtime),
            images: Arc::clone(&launcher.images),
            store: launcher.store.clone(),
            launcher: Arc::new(launcher),
            outbound: None,
            node_usage: None,
            counters: Counters::default(),
            jobs: JoinSet::new(),
            feedback,
            feedback_in,
            disk: HashMap::new(),
            disk_busy: HashSet::new(),
            launches: HashMap::new(),
            health: HashMap::new(),
        }
    }

    /// Runs until told to stop.
    pub(crate) async fn run(
        mut self,
        recovered: Vec<Effect>,
        mut commands: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
        on_shutdown: OnShutdown,
    ) {
        self.perform(recovered);
        self.handle(Event::Tick);
        while !shutdown.is_cancelled() {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = self.turn(&mut commands) => {}
            }
        }
        match on_shutdown {
            OnShutdown::Kill => self.kill_all(&mut commands).await,
            OnShutdown::Leave => {}
        }
        self.flush(&mut commands).await;
    }

    /// Waits for one thing to happen and handles it. Safe to drop while it waits.
    async fn turn(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let deadline = self.core.next_deadline().map(|at| self.clock.at(at));
        tokio::select! {
            Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => match done {
                Ok(Done::Event(event)) => self.handle(event),
                Ok(Done::Disk(container, events, failures)) => {
                    self.counters.write_failures += failures;
                    self.disk_busy.remove(&container);
                    for event in events {
                        self.handle(event);
                    }
                    self.write_next(&container);
                }
                Ok(Done::Nothing) => {}
                Err(error) => tracing::error!(%error, "a job of the agent broke"),
            },
            Some(event) = self.feedback_in.recv() => self.handle(event),
            Some(command) = commands.recv() => self.command(command),
            () = sleep_until(deadline) => self.handle(Event::Tick),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Event(event) => self.handle(event),
            Command::Attach(outbound, reply) => {
                self.handle(Event::Disconnected);
                let _ = reply.send(self.core.snapshot());
                self.outbound = Some(outbound);
            }
            Command::Detach => {
                self.outbound = None;
                self.handle(Event::Disconnected);
            }
            Command::Usage(node, samples) => self.usage(node, samples),
            Command::View(reply) => {
                let _ = reply.send(View {
                    agent_id: self.core.agent_id().cloned(),
                    connected: self.core.connected(),
                    total: self.core.ledger().total().clone(),
                    available: self.core.ledger().free(),
                    tasks: self
                        .core
                        .entries()
                        .map(crate::task::entry::Entry::task)
                        .collect(),
                    usage: self.node_usage.clone(),
                    n_unacknowledged: self.core.n_unacknowledged(),
                    counters: self.counters,
                });
            }
            Command::Alive(reply) => {
                let alive = self.core.entries().filter(|entry| entry.is_alive());
                let _ = reply.send(
                    alive
                        .map(|e| Target {
                            key: e.key.clone(),
                            container: e.container.clone(),
                        })
                        .collect(),
                );
            }
            Command::Find(task, reply) => {
                let _ = reply.send(self.core.find(&task).map(|entry| Found {
                    container: entry.container.clone(),
                    alive: entry.is_alive(),
                    ended: entry.ended_at().is_some(),
                }));
            }
            Command::Locate(key, reply) => {
                let entry = self.core.get(&key).filter(|entry| entry.is_alive());
                let _ = reply.send(entry.map(|entry| entry.container.clone()));
            }
        }
    }

    fn usage(&mut self, node: NodeUsage, samples: Vec<(ContainerId, Usage)>) {
        let keys: HashMap<_, _> = self
            .core
            .entries()
            .filter(|e| e.is_alive())
            .map(|e| (&e.container, &e.key))
            .collect();
        let tasks = samples
            .iter()
            .filter_map(|(container, usage)| {
                let key = keys.get(container)?;
                let usage = TaskUsage {
                    framework_id: key.framework.clone(),
                    task_id: key.task.clone(),
                    usage: usage.clone(),
                };
                Some(usage.into())
            })
            .collect();
        self.node_usage = Some(node.clone());
        if self.core.connected() {
            let report = proto::agent_message::UsageReport {
                node: Some(node.into()),
                tasks,
            };
            self.send(Message::Usage(report));
        }
        self.handle(Event::Usage(samples));
    }

    fn handle(&mut self, event: Event) {
        let mut random = rand::random::<u128>;
        let mut ctx = Context {
            now: self.clock.now(),
            random: &mut random,
        };
        if matches!(event, Event::LaunchFailed(..)) {
            self.counters.launch_failures += 1;
        }
        match &event {
            Event::Launched { container, .. } | Event::LaunchFailed(container, _) => {
                self.launches.remove(container);
            }
            _ => {}
        }
        let effects = self.core.handle(event, &mut ctx);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.perform_one(effect);
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::Create(checkpoint) => {
                let container = checkpoint.container.clone();
                self.write(container, DiskOp::Write(Write::Create(checkpoint)));
            }
            Effect::Append(container, status) => {
                self.write(
                    container,
                    DiskOp::Write(Write::Append(LogRecord::Update(status))),
                );
            }
            Effect::AppendAcknowledged(container, update) => {
                self.write(
                    container,
                    DiskOp::Write(Write::Append(LogRecord::Acknowledged(update))),
                );
            }
            Effect::AppendForgotten(container) => {
                self.write(
                    container,
                    DiskOp::Write(Write::Append(LogRecord::Forgotten)),
                );
            }
            Effect::Send(status) => {
                tracing::debug!(
                    task = %status.task_id, state = %status.state, update = ?status.update_id, "status"
                );
                self.counters.statuses_sent += 1;
                self.send(Message::Status((*status).into()));
            }
            Effect::Launch {
                container,
                framework,
                info,
            } => {
                self.counters.launches += 1;
                tracing::info!(task = %info.task_id, %framework, %container, image = info.container.image, "launching");
                let cancelled = CancellationToken::new();
                self.launches.insert(container.clone(), cancelled.clone());
                let (launcher, feedback) = (Arc::clone(&self.launcher), self.feedback.clone());
                let order = Order {
                    container,
                    framework,
                    info,
                    cancelled,
                };
                self.jobs
                    .spawn(async move { Done::Event(launcher.launch(order, feedback).await) });
            }
            Effect::CancelLaunch(container) => {
                if let Some(token) = self.launches.get(&container) {
                    token.cancel();
                }
            }
            Effect::Watch(container) => {
                let runtime = Arc::clone(&self.runtime);
                self.jobs
                    .spawn(async move { Done::Event(watch(runtime, container).await) });
            }
            Effect::Terminate(container) => {
                let runtime = Arc::clone(&self.runtime);
                self.jobs.spawn(async move {
                    let asked =
                        tokio::time::timeout(STEP_DEADLINE, runtime.terminate(&container)).await;
                    log_step("ask to end", &container, asked);
                    Done::Nothing
                });
            }
            Effect::Kill(container) => {
                let runtime = Arc::clone(&self.runtime);
                self.jobs.spawn(async move {
                    let killed =
                        tokio::time::timeout(STEP_DEADLINE, runtime.kill(&container)).await;
                    log_step("kill", &container, killed);
                    Done::Nothing
                });
            }
            Effect::StartHealth(container, check) => {
                let token = CancellationToken::new();
                self.health.insert(container.clone(), token.clone());
                let (runtime, feedback) = (Arc::clone(&self.runtime), self.feedback.clone());
                self.jobs.spawn(async move {
                    let checks = health::run(&runtime, &container, &check, &feedback);
                    tokio::select! { () = token.cancelled() => {} () = checks => {} }
                    Done::Nothing
                });
            }
            Effect::StopHealth(container) => {
                if let Some(token) = self.health.remove(&container) {
                    token.cancel();
                }
            }
            Effect::DropSnapshot(container) => {
                let images = Arc::clone(&self.images);
                self.jobs.spawn(async move {
                    if let Err(error) = images.remove_snapshot(container.as_str()).await {
                        tracing::warn!(%container, %error, "cannot remove a root file system");
                    }
                    Done::Nothing
                });
            }
            Effect::Collect(container) => self.write(container, DiskOp::Remove),
        }
    }

    fn send(&self, message: Message) {
        // A full or closed stream loses the message; statuses are repeated, usage is sampled anew.
        if let Some(outbound) = &self.outbound
            && let Err(error) = outbound.try_send(proto::AgentMessage {
                message: Some(message),
            })
        {
            tracing::debug!(%error, "message to the master not sent");
        }
    }

    fn write(&mut self, container: ContainerId, op: DiskOp) {
        self.disk
            .entry(container.clone())
            .or_default()
            .push_back(op);
        self.write_next(&container);
    }

    /// Starts writing what waits for a container, unless that is going on.
    fn write_next(&mut self, container: &ContainerId) {
        if self.disk_busy.contains(container) {
            return;
        }
        let Some(ops) = self.disk.remove(container) else {
            return;
        };
        self.disk_busy.insert(container.clone());
        let (store, runtime, images) = (
            self.store.clone(),
            Arc::clone(&self.runtime),
            Arc::clone(&self.images),
        );
        let container = container.clone();
        self.jobs.spawn(async move {
            let (mut events, mut failures) = (Vec::new(), 0);
            for op in ops {
                match op {
                    DiskOp::Write(write) => {
                        let (event, failed) = write_durably(&store, &container, write).await;
                        events.extend(event);
                        failures += failed;
                    }
                    DiskOp::Remove => collect(&store, &runtime, &images, &container).await,
                }
            }
            Done::Disk(container, events, failures)
        });
    }

    /// Ends every task and removes what is left, within a bound.
    async fn kill_all(&mut self, commands: &mut mpsc::Receiver<Command>) {
        self.handle(Event::KillAll);
        let grace = self
            .core
            .entries()
            .filter(|entry| entry.ended_at().is_none())
            .filter_map(|entry| entry.info.kill_grace)
            .max()
            .unwrap_or_default();
        let deadline = Instant::now() + grace + KILL_ALL;
        while self.core.entries().any(|entry| entry.ended_at().is_none()) {
            if tokio::time::timeout_at(deadline, self.turn(commands))
                .await
                .is_err()
            {
                tracing::error!(
                    "not every task ended in time: the rest is killed with the runtime"
                );
                break;
            }
        }
        for token in self.health.values() {
            token.cancel();
        }
    }

    /// Finishes what is being written.
    async fn flush(&mut self, commands: &mut mpsc::Receiver<Command>) {
        self.outbound = None;
        let deadline = Instant::now() + FLUSH;
        while !self.disk_busy.is_empty() {
            if tokio::time::timeout_at(deadline, self.turn(commands))
                .await
                .is_err()
            {
                tracing::error!("not everything could be written in time");
                break;
            }
        }
        self.jobs.shutdown().await;
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for a container's end, whatever happens on the way.
async fn watch(runtime: Arc<dyn Runtime>, container: ContainerId) -> Event {
    loop {
        match runtime.wait(&container).await {
            Ok(record) => return Event::Exited(container, Box::new(record)),
            Err(RuntimeError::NotFound(_)) => {
                let record = ExitRecord {
                    exit: ContainerExit::KeeperLost,
                    oom_killed: false,
                    memory_limit_bytes: None,
                    started_at_ms: None,
                    finished_at_ms: unix_ms(),
                    usage: Usage {
                        sampled_at_ms: unix_ms(),
                        ..Usage::default()
                    },
                };
                return Event::Exited(container, Box::new(record));
            }
            Err(error @ RuntimeError::Other(_)) => {
                tracing::warn!(%container, %error, "cannot wait for a container; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn log_step(
    step: &str,
    container: &ContainerId,
    result: Result<Result<(), RuntimeError>, tokio::time::error::Elapsed>,
) {
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::info!(%container, %error, step, "step failed; the container may have ended")
        }
        Err(_) => tracing::warn!(%container, step, "step took too long"),
    }
}

/// Writes until it is on disk; only a checkpoint may fail, because nothing has been promised yet.
async fn write_durably(
    store: &Store,
    container: &ContainerId,
    write: Write,
) -> (Option<Event>, u64) {
    let mut failures = 0;
    loop {
        let attempt = {
            let (store, container, write) = (store.clone(), container.clone(), write.clone());
            tokio::task::spawn_blocking(move || store.write(&container, &write)).await
        };
        let error = match attempt {
            Ok(Ok(())) => {
                let event = match write {
                    Write::Create(_) => Some(Event::Created(container.clone())),
                    Write::Append(LogRecord::Update(status)) => status
                        .update_id
                        .map(|id| Event::Written(container.clone(), id)),
                    Write::Append(LogRecord::Acknowledged(_) | LogRecord::Forgotten) => None,
                };
                return (event, failures);
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        failures += 1;
        if matches!(write, Write::Create(_)) {
            tracing::error!(%container, error, "cannot write a task's checkpoint: the task is dropped");
            return (
                Some(Event::CreateFailed(container.clone(), error)),
                failures,
            );
        }
        if !store.folder(container).exists() {
            // Its checkpoint was never written, or it is collected: nothing can be promised for it.
            return (None, failures);
        }
        if failures == 1 {
            tracing::error!(%container, error, "cannot write a task's log; trying until it works");
        }
        tokio::time::sleep(WRITE_RETRY).await;
    }
}

async fn collect(
    store: &Store,
    runtime: &Arc<dyn Runtime>,
    images: &Arc<dyn Images>,
    container: &ContainerId,
) {
    if let Err(error) = runtime.remove(container).await {
        tracing::warn!(%container, %error, "cannot remove an ended container");
    }
    if let Err(error) = images.remove_snapshot(container.as_str()).await {
        tracing::warn!(%container, %error, "cannot remove a root file system");
    }
    let (store, id) = (store.clone(), container.clone());
    match tokio::task::spawn_blocking(move || store.remove(&id)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%container, %error, "cannot remove a task's folder"),
        Err(error) => tracing::warn!(%container, %error, "removing a task's folder broke"),
    }
}
