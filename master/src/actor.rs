//! The one owner of the core: takes events from a bounded queue, turns the core, carries out its effects in order.
//!
//! ```text
//! fronts ──Input──► queue ──► Core::handle ──► effects: store first, then messages ──► outboxes of peers
//! clock  ──ticks──►                       └──► snapshot (watch) ──► reads, metrics
//! ```
//!
//! Events that wait together are handled together: one durable write for all of them, one pass of the allocator after
//! all of them. A peer whose outbox is full is cut off; that comes back to the core as an event like any other.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mezzo_api::model::{AgentId, FrameworkId, OfferId, OperationId, OperationStatus, StreamId};
use mezzo_etcd::Fence;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;
use uuid::Uuid;

use crate::{
    config::Config,
    grpc::{
        AgentLine, FrameworkLine,
        outbox::{Outbox, SendFailure},
    },
    metrics::Metrics,
    state::{ConnId, Core, Effect, Ending, Event, Pass, Refusal, Snapshot, Source},
    store::{Change, Store, StoreError},
};

/// Events that may wait.
const QUEUE: usize = 8192;
/// Events handled before effects are carried out.
const BATCH: usize = 512;
/// While events keep coming, passes over what changed are this far apart.
const PASS_SPACING: Duration = Duration::from_millis(10);
/// Between snapshots while things change.
const PUBLISH_SPACING: Duration = Duration::from_millis(25);
/// Between looks at time-outs.
const TICK: Duration = Duration::from_millis(200);
/// A call that the core has not answered by then fails.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// An event, who waits for the answer, and the peer that it brings.
#[derive(Debug)]
pub(crate) struct Input {
    event: Event,
    answer: Option<Answer>,
    peer: Option<Peer>,
}

type Answer = oneshot::Sender<Result<(), Refusal>>;

/// A new connection.
#[derive(Debug)]
pub(crate) enum Peer {
    /// Of an agent.
    Agent(ConnId, Outbox<AgentLine>),
    /// Of a framework.
    Framework(ConnId, Outbox<FrameworkLine>),
}

/// What every front needs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) master_id: Arc<str>,
    pub(crate) started_at_ms: u64,
    /// Tasks of connections; `run` waits for them.
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    /// Higher than those of all leaders before.
    pub(crate) term: u64,
    /// While it is open this master leads; nothing leaves it after that.
    pub(crate) fence: Fence,
    inputs: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    conns: Arc<AtomicU64>,
    clock: Clock,
}

impl Context {
    pub(crate) fn next_conn(&self) -> ConnId {
        ConnId(self.conns.fetch_add(1, Ordering::Relaxed))
    }

    /// The newest published state.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Waits for what becomes of a change that an operator asked for, within the deadline of any answer.
    pub(crate) async fn settled(&self, id: &OperationId) -> Result<OperationStatus, Status> {
        let mut snapshots = self.snapshots.clone();
        let found = snapshots.wait_for(|snapshot| {
            let status = snapshot.operations.get(id);
            status.is_some_and(|status| status.state.is_terminal())
        });
        match timeout(ANSWER_DEADLINE, found).await {
            Ok(Ok(snapshot)) => snapshot.operations.get(id).cloned().ok_or_else(|| {
                Status::internal("what became of the change was forgotten while it was read")
            }),
            Ok(Err(_)) => Err(Ending::ShuttingDown.into()),
            Err(_) => Err(Status::deadline_exceeded(
                "the agent has not answered; look with ListVolumes and GetAgent whether it made the change",
            )),
        }
    }

    /// The master's time, Unix milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Events waiting for the actor.
    pub(crate) fn queue_depth(&self) -> usize {
        self.inputs.max_capacity() - self.inputs.capacity()
    }

    /// Tells; waits while the queue is full. When the master stops, nobody needs to know any more.
    pub(crate) async fn send(&self, event: Event) {
        drop(
            self.inputs
                .send(Input {
                    event,
                    answer: None,
                    peer: None,
                })
                .await,
        );
    }

    /// Hands over a connection; the answer comes later.
    pub(crate) async fn attach(
        &self,
        event: Event,
        peer: Peer,
    ) -> Result<oneshot::Receiver<Result<(), Refusal>>, Status> {
        let (sender, receiver) = oneshot::channel();
        let input = Input {
            event,
            answer: Some(sender),
            peer: Some(peer),
        };
        self.inputs
            .send(input)
            .await
            .map_err(|_| Status::from(Ending::ShuttingDown))?;
        Ok(receiver)
    }

    /// Waits for an answer.
    pub(crate) async fn answer(
        &self,
        receiver: oneshot::Receiver<Result<(), Refusal>>,
    ) -> Result<(), Status> {
        match timeout(ANSWER_DEADLINE, receiver).await {
            Ok(Ok(_)) if !self.fence.is_open() => Err(Ending::Deposed.into()),
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) => Err(Ending::ShuttingDown.into()),
            Err(_) => Err(Status::deadline_exceeded(
                "the master did not answer; it is overloaded or its disk hangs",
            )),
        }
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(&self, event: Event) -> Result<(), Status> {
        let (sender, receiver) = oneshot::channel();
        let input = Input {
            event,
            answer: Some(sender),
            peer: None,
        };
        match timeout(ANSWER_DEADLINE, self.inputs.send(input)).await {
            Ok(Ok(())) => self.answer(receiver).await,
            Ok(Err(_)) => Err(Ending::ShuttingDown.into()),
            Err(_) => Err(Status::resource_exhausted(
                "the master's queue is full; try again later",
            )),
        }
    }
}

/// The owner task.
pub(crate) struct Actor {
    core: Core,
    store: Arc<dyn Store>,
    clock: Clock,
    source: Chance,
    inputs: mpsc::Receiver<Input>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    agents: HashMap<ConnId, Outbox<AgentLine>>,
    frameworks: HashMap<ConnId, Outbox<FrameworkLine>>,
    /// Connections that turned out to be over while effects were carried out.
    broken: VecDeque<Event>,
    fence: Fence,
    metrics: Arc<Metrics>,
    allocation_interval: Duration,
    last_pass: Instant,
    last_publish: Instant,
    freshness: Freshness,
}

/// Whether the published snapshot is that of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Current,
    Stale,
}

/// Makes the actor and what the fronts need to reach it.
pub(crate) async fn start(
    config: Arc<Config>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    fence: Fence,
    shutdown: CancellationToken,
) -> Result<(Actor, Context), StoreError> {
    let clock = Clock::start();
    let term = store.begin_term().await?;
    let saved = store.load().await?;
    tracing::info!(
        agents = saved.agents.len(),
        frameworks = saved.frameworks.len(),
        "state loaded; agents and frameworks are expected back"
    );
    let mut core = Core::restore((&*config).into(), saved, clock.now_ms());
    let (sender, inputs) = mpsc::channel(QUEUE);
    let (snapshots, receiver) = watch::channel(Arc::new(core.snapshot(clock.now_ms())));
    let context = Context {
        master_id: Uuid::now_v7().to_string().into(),
        started_at_ms: clock.now_ms(),
        tasks: TaskTracker::new(),
        shutdown,
        term,
        fence: fence.clone(),
        inputs: sender,
        snapshots: receiver,
        conns: Arc::new(AtomicU64::new(1)),
        clock,
        config: Arc::clone(&config),
    };
    let now = Instant::now();
    let actor = Actor {
        core,
        store,
        clock,
        source: Chance,
        inputs,
        snapshots,
        agents: HashMap::new(),
        frameworks: HashMap::new(),
        broken: VecDeque::new(),
        fence,
        metrics,
        allocation_interval: config.allocation_interval,
        last_pass: now,
        last_publish: now,
        freshness: Freshness::Current,
    };
    Ok((actor, context))
}

impl Actor {
    /// Until shutdown, or until the store fails.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), StoreError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut passes = interval(self.allocation_interval);
        passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let publish_at = self.last_publish + PUBLISH_SPACING;
            let mut turn = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                due = ticks.tick() => {
                    self.metrics.loop_lag.observe(due.elapsed().as_secs_f64());
                    self.handle(Event::Tick)
                }
                _ = passes.tick() => self.pass(Pass::All),
                input = self.inputs.recv() => match input {
                    Some(input) => self.take_batch(input),
                    None => break,
                },
                () = sleep_until(publish_at), if self.freshness == Freshness::Stale => Turn::default(),
            };
            if self.core.wants_pass()
                && (self.inputs.is_empty() || self.last_pass.elapsed() >= PASS_SPACING)
            {
                let pass = self.pass(Pass::Changed);
                turn.effects.extend(pass.effects);
            }
            self.carry_out(turn).await?;
            while !self.broken.is_empty() {
                let mut turn = Turn::default();
                while let Some(event) = self.broken.pop_front() {
                    turn.effects.extend(self.handle(event).effects);
                }
                self.carry_out(turn).await?;
            }
            if self.freshness == Freshness::Stale && self.last_publish.elapsed() >= PUBLISH_SPACING
            {
                self.publish();
            }
        }
        self.close_all();
        Ok(())
    }

    /// Every stream is told why it ends.
    fn close_all(&self) {
        let ending = if self.fence.is_open() {
            Ending::ShuttingDown
        } else {
            Ending::Deposed
        };
        for outbox in self.agents.values() {
            outbox.close(ending.clone().into());
        }
        for outbox in self.frameworks.values() {
            outbox.close(ending.clone().into());
        }
    }

    fn take_batch(&mut self, first: Input) -> Turn {
        let mut turn = Turn::default();
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(Input {
                event,
                answer,
                peer,
            }) = next.or_else(|| self.inputs.try_recv().ok())
            else {
                break;
            };
            next = None;
            match peer {
                Some(Peer::Agent(conn, outbox)) => {
                    self.agents.insert(conn, outbox);
                }
                Some(Peer::Framework(conn, outbox)) => {
                    self.frameworks.insert(conn, outbox);
                }
                None => {}
            }
            match &event {
                Event::Operate(_) => turn.publish = Publish::BeforeAnswers,
                Event::AgentDetached { conn } => {
                    self.agents.remove(conn);
                }
                Event::FrameworkDetached { conn } => {
                    self.frameworks.remove(conn);
                }
                Event::AgentAttached { .. }
                | Event::AgentHeard { .. }
                | Event::AgentStatus { .. }
                | Event::AgentUsage { .. }
                | Event::AgentPools { .. }
                | Event::AgentSlack { .. }
                | Event::Subscribe { .. }
                | Event::Call { .. }
                | Event::Tick
                | Event::Allocate(_) => {}
            }
            turn.effects.extend(self.handle(event).effects);
            turn.answers.extend(answer);
        }
        turn
    }

    fn handle(&mut self, event: Event) -> Turn {
        self.freshness = Freshness::Stale;
        let effects = self
            .core
            .handle(event, self.clock.now_ms(), &mut self.source);
        Turn {
            effects,
            ..Turn::default()
        }
    }

    fn pass(&mut self, pass: Pass) -> Turn {
        let started = Instant::now();
        let turn = self.handle(Event::Allocate(pass));
        self.last_pass = Instant::now();
        self.metrics
            .allocation
            .observe(started.elapsed().as_secs_f64());
        turn
    }

    async fn carry_out(&mut self, turn: Turn) -> Result<(), StoreError> {
        let Turn {
            effects,
            answers,
            publish,
        } = turn;
        let changes: Vec<Change> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Store(change) => Some(change.clone()),
                Effect::ToAgent(..)
                | Effect::CloseAgent(..)
                | Effect::ToFramework(..)
                | Effect::CloseFramework(..)
                | Effect::Reply(_) => None,
            })
            .collect();
        if !changes.is_empty() {
            let started = Instant::now();
            self.store.apply(changes).await?;
            self.metrics.store.observe(started.elapsed().as_secs_f64());
        }
        if publish == Publish::BeforeAnswers {
            self.publish();
        }
        let mut answers = answers.into_iter();
        for effect in effects {
            match effect {
                Effect::Store(_) => {}
                Effect::ToAgent(conn, message) => self.send_agent(conn, AgentLine::Core(message)),
                Effect::CloseAgent(conn, ending) => {
                    if let Some(outbox) = self.agents.remove(&conn) {
                        tracing::info!(conn = conn.0, %ending, "closing an agent's stream");
                        outbox.close(ending.into());
                    }
                }
                Effect::ToFramework(conn, event) => {
                    self.send_framework(conn, FrameworkLine::Core(event))
                }
                Effect::CloseFramework(conn, ending) => {
                    if let Some(outbox) = self.frameworks.remove(&conn) {
                        tracing::info!(conn = conn.0, %ending, "closing a framework's stream");
                        outbox.close(ending.into());
                    }
                }
                Effect::Reply(result) => {
                    if let Some(answer) = answers.next() {
                        // The caller may have gone.
                        drop(answer.send(result));
                    }
                }
            }
        }
        Ok(())
    }

    fn send_agent(&mut self, conn: ConnId, line: AgentLine) {
        let Some(outbox) = self.agents.get(&conn) else {
            return;
        };
        if let Err(failure) = outbox.send(line) {
            outbox.close(Ending::TooSlow.into());
            self.note_cut_off("agent", conn, failure);
            self.agents.remove(&conn);
            self.broken.push_back(Event::AgentDetached { conn });
        }
    }

    fn send_framework(&mut self, conn: ConnId, line: FrameworkLine) {
        let Some(outbox) = self.frameworks.get(&conn) else {
            return;
        };
        if let Err(failure) = outbox.send(line) {
            outbox.close(Ending::TooSlow.into());
            self.note_cut_off("framework", conn, failure);
            self.frameworks.remove(&conn);
            self.broken.push_back(Event::FrameworkDetached { conn });
        }
    }

    fn note_cut_off(&self, kind: &str, conn: ConnId, failure: SendFailure) {
        match failure {
            SendFailure::Full => {
                tracing::warn!(kind, conn = conn.0, "peer does not read; cutting it off");
                self.metrics.cut_off.inc();
            }
            SendFailure::Gone => {}
        }
    }

    fn publish(&mut self) {
        let snapshot = self.core.snapshot(self.clock.now_ms());
        self.snapshots.send_replace(Arc::new(snapshot));
        self.last_publish = Instant::now();
        self.freshness = Freshness::Current;
    }
}

/// What some events led to.
#[derive(Debug, Default)]
struct Turn {
    effects: Vec<Effect>,
    /// One per [`Effect::Reply`], in order: whoever sends an event that is answered waits for it.
    answers: Vec<Answer>,
    publish: Publish,
}

/// When readers see it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Publish {
    /// In a moment.
    #[default]
    Soon,
    /// An operator who wrote sees what they wrote.
    BeforeAnswers,
}

/// Unix milliseconds that never go back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    unix_ms: u64,
    since: Instant,
}

impl Clock {
    fn start() -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            unix_ms: crate::config::to_millis(unix),
            since: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.unix_ms
            .saturating_add(crate::config::to_millis(self.since.elapsed()))
    }
}

/// Real ids and real chance.
#[derive(Debug)]
struct Chance;

fn new_id<T: std::str::FromStr<Err: std::fmt::Debug>>() -> T {
    Uuid::now_v7()
        .to_string()
        .parse()
        .expect("the text of a UUID is a valid id")
}

impl Source for Chance {
    fn agent_id(&mut self) -> AgentId {
        new_id()
    }

    fn framework_id(&mut self) -> FrameworkId {
        new_id()
    }

    fn offer_id(&mut self) -> OfferId {
        new_id()
    }

    fn stream_id(&mut self) -> StreamId {
        new_id()
    }

    fn operation_id(&mut self) -> OperationId {
        new_id()
    }

    fn random(&mut self) -> u64 {
        rand::random()
    }
}
