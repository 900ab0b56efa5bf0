//! The owner task: holds the core, takes every event in, performs every effect. Nothing else changes a task.
//!
//! Effects that take time run as tasks in one `JoinSet` and come back as events. Writes of one container happen in
//! their order, those of different containers side by side. Reads are answered here too: they only copy.

mod command;
mod disk;
mod lend;
mod limits;
mod steps;
mod stop;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use mezzo_api::{
    model::{NodeUsage, TaskUsage},
    proto::{self, agent_message::Message},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) use command::{
    Asker, Command, Counters, Found, Handle, Inventory, Stopped, Target, View, channel,
};
pub(crate) use lend::{Lender, LenderView};

use disk::{DiskOp, collect, write_durably};
use limits::Latest;
use steps::{log_step, watch};

use crate::{
    health,
    image_gc::ImageStats,
    launch::{Launcher, Order},
    node::{Attachment, ContainerId, Images, LimitError, Limits, Runtime},
    recovery::checkpoint::LogRecord,
    stats::{Stats, book::About, histogram::Histogram},
    store::{Store, Write},
    task::{
        Context, Now,
        core::Core,
        event::{Effect, Event},
    },
    usage::{NodePressure, Round},
};

const STEP_DEADLINE: Duration = Duration::from_secs(30);

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

/// Comes back from the task set.
enum Done {
    Event(Event),
    Disk(ContainerId, Vec<Event>, u64),
    Limited(ContainerId, Limits, Result<(), LimitError>),
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
    node_pressure: NodePressure,
    stats: Stats,
    image_stats: ImageStats,
    counters: Counters,
    jobs: JoinSet<Done>,
    feedback: mpsc::Sender<Event>,
    feedback_in: mpsc::Receiver<Event>,
    disk: HashMap<ContainerId, VecDeque<DiskOp>>,
    disk_busy: HashSet<ContainerId>,
    launches: HashMap<ContainerId, (CancellationToken, Instant)>,
    /// Members of groups that wait for their turn.
    gates: HashMap<ContainerId, oneshot::Sender<Attachment>>,
    launch_seconds: Histogram,
    health: HashMap<ContainerId, CancellationToken>,
    limits: Latest,
    /// What is reserved is on its way to the disk.
    writing_book: bool,
    /// Of a machine that lends what its tasks do not use.
    lender: Option<Lender>,
    /// Who waits for a change of limits, by its container.
    askers: HashMap<ContainerId, Asker>,
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
    pub(crate) fn new(core: Core, clock: Clock, launcher: Launcher, stats: Stats) -> Self {
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
            node_pressure: NodePressure::default(),
            stats,
            image_stats: ImageStats::default(),
            counters: Counters::default(),
            jobs: JoinSet::new(),
            feedback,
            feedback_in,
            disk: HashMap::new(),
            disk_busy: HashSet::new(),
            launches: HashMap::new(),
            gates: HashMap::new(),
            launch_seconds: Histogram::default(),
            health: HashMap::new(),
            limits: Latest::default(),
            writing_book: false,
            lender: None,
            askers: HashMap::new(),
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
                Ok(Done::Limited(container, limits, result)) => {
                    self.limited(container, limits, result);
                }
                Ok(Done::Nothing) => {}
                Err(error) => tracing::error!(%error, "a job of the agent broke"),
            },
            Some(event) = self.feedback_in.recv() => self.handle(event),
            // A launch that follows a change of volumes needs it done.
            Some(command) = commands.recv(), if !self.writing_book => self.command(command),
            () = sleep_until(deadline) => self.handle(Event::Tick),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Event(event) => {
                let registered = matches!(event, Event::Registered(_));
                self.handle(event);
                // Told at once: an operator's first look should not find the machine unmeasured.
                if registered && let Some(node) = self.node_usage.clone() {
                    self.send(Message::Usage(proto::agent_message::UsageReport {
                        node: Some(node.into()),
                        tasks: Vec::new(),
                    }));
                }
                if registered {
                    self.tell_slack_anew();
                }
            }
            Command::Attach(outbound, reply) => {
                self.handle(Event::Disconnected);
                let book = self.core.book();
                let _ = reply.send(Inventory {
                    tasks: self.core.snapshot(),
                    reserved: book.pools().pool_list(),
                    volumes: book.pools().volumes().cloned().collect(),
                    operations: book.saved().operations.clone(),
                });
                self.outbound = Some(outbound);
            }
            Command::Detach => {
                self.outbound = None;
                self.handle(Event::Disconnected);
            }
            Command::Usage(round) => self.usage(*round),
            Command::Images(stats) => self.image_stats = stats,
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
                    pressure: self.node_pressure,
                    images: self.image_stats,
                    n_unacknowledged: self.core.n_unacknowledged(),
                    counters: self.counters,
                    launch_seconds: self.launch_seconds,
                    lender: self.lender_view(),
                });
            }
            Command::NodeUsage(reply) => {
                let _ = reply.send(self.node_usage.clone());
            }
            Command::Alive(reply) => {
                let alive = self.core.entries().filter(|entry| entry.is_alive());
                let _ = reply.send(
                    alive
                        .map(|e| Target {
                            key: e.key.clone(),
                            container: e.container.clone(),
                            volumes: self.core.written_volumes(e),
                        })
                        .collect(),
                );
            }
            Command::Holders(reply) => {
                let holders = self.core.held_groups().map(|group| group.holder);
                let _ = reply.send(holders.collect());
            }
            Command::Find(task, reply) => {
                let _ = reply.send(self.core.find(&task).map(|entry| Found {
                    container: entry.container.clone(),
                    alive: entry.is_alive(),
                    ended: entry.ended_at().is_some(),
                }));
            }
            Command::Change {
                framework,
                task,
                change,
                reply,
            } => self.change_limits(framework.as_ref(), &task, &change, reply),
            Command::Locate(key, reply) => {
                let entry = self.core.get(&key).filter(|entry| entry.is_alive());
                let _ = reply.send(entry.map(|entry| entry.container.clone()));
            }
        }
    }

    fn usage(&mut self, mut round: Round) {
        let samples = std::mem::take(&mut round.samples);
        let mut samples = samples;
        for (container, usage) in &mut samples {
            usage.disk_bytes = self
                .core
                .by_container(container)
                .and_then(|entry| entry.disk_bytes);
        }
        let alive: HashMap<_, _> = self
            .core
            .entries()
            .filter(|entry| entry.is_alive())
            .map(|entry| (&entry.container, entry))
            .collect();
        self.stats.with(|book| {
            book.retain(|container| alive.contains_key(container));
            for (container, usage) in &samples {
                // What ended meanwhile has told its last sample already.
                if let Some(entry) = alive.get(container) {
                    let about = || About::new(&entry.key, &entry.info);
                    book.sample(container, about, usage, round.taken_ms(usage));
                }
            }
            let groups: Vec<_> = self.core.held_groups().collect();
            book.retain_groups(|holder| groups.iter().any(|group| group.holder == *holder));
            for group in groups {
                let sample = samples.iter().find(|(id, _)| *id == group.holder);
                if let Some((_, usage)) = sample {
                    book.group_sample(group, usage, round.taken_ms(usage));
                }
            }
        });
        self.node_usage = Some(round.node.clone());
        self.node_pressure = round.pressure;
        if self.core.connected() {
            let tasks = samples.iter().filter_map(|(container, usage)| {
                let key = &alive.get(container)?.key;
                let usage = TaskUsage {
                    framework_id: key.framework.clone(),
                    task_id: key.task.clone(),
                    usage: usage.clone(),
                };
                Some(usage.into())
            });
            let report = proto::agent_message::UsageReport {
                node: Some(round.node.clone().into()),
                tasks: tasks.collect(),
            };
            self.send(Message::Usage(report));
        }
        self.handle(Event::Usage(samples));
        self.lend(&round);
        self.stats.round_done();
    }

    /// Takes the last sample of a task into the book, while it is still known as running.
    fn book_the_end(&self, event: &Event) {
        if let Event::Exited(container, record) = event
            && let Some(entry) = self.core.by_container(container)
            && entry.is_alive()
        {
            let about = || About::new(&entry.key, &entry.info);
            self.stats
                .with(|book| book.end(container, about, &record.usage));
        }
    }

    fn handle(&mut self, event: Event) {
        let mut random = rand::random::<u128>;
        let mut ctx = Context {
            now: self.clock.now(),
            random: &mut random,
        };
        if let Event::LaunchFailed(container, _) = &event {
            self.counters.launch_failures += 1;
            self.launches.remove(container);
            self.gates.remove(container);
        }
        if let Event::Launched { container, .. } = &event
            && let Some((_, begun)) = self.launches.remove(container)
        {
            self.launch_seconds.add(begun.elapsed());
        }
        if matches!(event, Event::BookWritten(_)) {
            self.writing_book = false;
        }
        self.book_the_end(&event);
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
            Effect::Rewrite(checkpoint) => {
                let container = checkpoint.container.clone();
                self.write(container, DiskOp::Write(Write::Rewrite(checkpoint)));
            }
            Effect::Limit(container, limits) => self.limit(container, *limits),
            Effect::Answer(container, answer) => {
                if let Some(reply) = self.askers.remove(&container) {
                    let _ = reply.send(answer);
                }
            }
            Effect::WriteBook { saved, make } => {
                self.writing_book = true;
                let store = self.store.clone();
                self.jobs.spawn(async move {
                    let write = move || store.write_book(&saved, make.as_deref());
                    let written = tokio::task::spawn_blocking(write).await;
                    let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
                    Done::Event(Event::BookWritten(
                        written.map_err(|error| error.to_string()),
                    ))
                });
            }
            Effect::Purge(folder) => {
                let (store, limits) = (self.store.clone(), Arc::clone(&self.launcher.disk));
                self.jobs.spawn(async move {
                    let name = folder.clone();
                    let purged = tokio::task::spawn_blocking(move || {
                        limits.forget_volume(&name);
                        store.purge_volume(&name)
                    });
                    match purged.await {
                        Ok(Ok(())) => return Done::Event(Event::Purged(folder)),
                        Ok(Err(error)) => tracing::warn!(folder, %error, "cannot remove a destroyed volume; the next start tries again"),
                        Err(error) => tracing::warn!(folder, %error, "removing a destroyed volume broke"),
                    }
                    Done::Nothing
                });
            }
            Effect::SendPools(status) => {
                let pools = self.core.book().pools();
                self.send(Message::Pools(Box::new(proto::agent_message::PoolReport {
                    reserved: pools.pool_list().into_iter().map(Into::into).collect(),
                    volumes: pools.volumes().cloned().map(Into::into).collect(),
                    status: Some((*status).into()),
                })));
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
                self.send(Message::Status(Box::new((*status).into())));
            }
            Effect::Launch {
                container,
                framework,
                info,
                limits,
                grant,
                volumes,
                holder,
            } => {
                self.counters.launches += 1;
                tracing::info!(task = %info.task_id, %framework, %container, image = info.container.image, "launching");
                let cancelled = CancellationToken::new();
                self.launches
                    .insert(container.clone(), (cancelled.clone(), Instant::now()));
                let (launcher, feedback) = (Arc::clone(&self.launcher), self.feedback.clone());
                let group = holder.map(|holder| {
                    let (gate, admitted) = oneshot::channel();
                    self.gates.insert(container.clone(), gate);
                    (holder, admitted)
                });
                let order = Order {
                    group,
                    container,
                    framework,
                    info,
                    limits,
                    grant,
                    volumes,
                    cancelled,
                };
                self.jobs
                    .spawn(async move { Done::Event(launcher.launch(order, feedback).await) });
            }
            Effect::Hold(holding) => {
                tracing::info!(group = %holding.group.id, holder = %holding.holder, "starting a group");
                let launcher = Arc::clone(&self.launcher);
                self.jobs
                    .spawn(async move { Done::Event(launcher.hold(*holding).await) });
            }
            Effect::Admit(container, attachment) => {
                if let Some(gate) = self.gates.remove(&container) {
                    // Its wait for the others is not the launch's own time.
                    if let Some((_, begun)) = self.launches.get_mut(&container) {
                        *begun = Instant::now();
                    }
                    // Given up meanwhile; then its failure is on its way.
                    let _ = gate.send(attachment);
                }
            }
            Effect::LetGo(holder) => {
                let launcher = Arc::clone(&self.launcher);
                self.jobs
                    .spawn(async move { Done::Event(launcher.let_go(holder).await) });
            }
            Effect::CancelLaunch(container) => {
                if let Some((token, _)) = self.launches.get(&container) {
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
            Effect::StartHealth(container, number, check) => {
                let token = self.health.entry(container.clone()).or_default().clone();
                let (runtime, feedback) = (Arc::clone(&self.runtime), self.feedback.clone());
                self.jobs.spawn(async move {
                    let checks = health::run(&runtime, &container, number, &check, &feedback);
                    tokio::select! { () = token.cancelled() => {} () = checks => {} }
                    Done::Nothing
                });
            }
            Effect::StartReadiness(container, check) => {
                let token = self.health.entry(container.clone()).or_default().clone();
                let (runtime, feedback) = (Arc::clone(&self.runtime), self.feedback.clone());
                self.jobs.spawn(async move {
                    let checks = health::readiness::run(&runtime, &container, &check, &feedback);
                    tokio::select! { () = token.cancelled() => {} () = checks => {} }
                    Done::Nothing
                });
            }
            Effect::StartCheck(container, check) => {
                let token = self.health.entry(container.clone()).or_default().clone();
                let (runtime, feedback) = (Arc::clone(&self.runtime), self.feedback.clone());
                self.jobs.spawn(async move {
                    let checks = health::check::run(&runtime, &container, &check, &feedback);
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
        let (store, runtime, images, limits) = (
            self.store.clone(),
            Arc::clone(&self.runtime),
            Arc::clone(&self.images),
            Arc::clone(&self.launcher.disk),
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
                    DiskOp::Remove => {
                        collect(&store, &runtime, &images, &limits, &container).await;
                    }
                }
            }
            Done::Disk(container, events, failures)
        });
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
