//! Simulated agents and a framework on whichever master leads: it launches, kills and asks how its tasks are, again and
//! again. Three witnesses tell what came of it: the framework (which statuses it was told, in order), the agents (which
//! tasks they began, told by whom, and which states each task came into), and etcd (when each term began).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mezzo_fleet::{Fleet, Happened, Record};
use mezzo_framework::model::{AgentId, TaskId, TaskState, TaskStatus};
use mezzo_framework::{Calls, Event, Framework, Room, Task};
use mezzo_integration::history::{Checked, History, Look, Seen, Status};

const AGENTS: usize = 20;
/// Tasks at once.
const TASKS: usize = 40;
/// With one offer.
const AT_ONCE: usize = 4;
const TICK: Duration = Duration::from_millis(50);
/// How long a task may be silent before its fate is asked for.
const SILENCE: Duration = Duration::from_secs(4);
const DRAIN: Duration = Duration::from_secs(120);
/// What a leader sent right before its time was over may still be under way, and be read late on a busy machine. One that
/// thaws does so later than that.
const UNDER_WAY_MS: u64 = 3500;

pub(crate) struct Tasks {
    pub(crate) n_ran: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Played>>,
}

/// What the framework and the agents tell.
#[derive(Debug, Default)]
pub(crate) struct Played {
    told: Vec<Status>,
    records: Vec<Record>,
    tasks: BTreeMap<TaskId, Known>,
    pub(crate) n_subscriptions: usize,
}

/// What the framework knows of a task.
#[derive(Debug)]
struct Known {
    agent: AgentId,
    /// When something of it was last heard, or asked.
    heard: Instant,
    /// When it is to be killed; never, if it ends by itself.
    kill_at: Option<Instant>,
    ended: bool,
    /// The launch never reached the agent.
    dropped: bool,
}

impl Tasks {
    pub(crate) fn start(masters: Vec<String>, seed: u64) -> Self {
        let (n_ran, over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, stop) = (Arc::clone(&n_ran), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .context("an event loop")?;
            runtime.block_on(play(masters, seed, &count, &stop))
        });
        Self {
            n_ran,
            over,
            thread,
        }
    }

    /// Ends what runs, and waits until everything has ended and was acknowledged.
    pub(crate) fn finish(self) -> Result<Played> {
        self.over.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        joined.map_err(|_| anyhow::anyhow!("the framework panicked"))?
    }
}

async fn play(
    masters: Vec<String>,
    seed: u64,
    count: &AtomicU64,
    over: &AtomicBool,
) -> Result<Played> {
    let fleet = Fleet::spawn(mezzo_fleet::Config {
        masters: masters.clone(),
        agents: AGENTS,
        tell_starting: true,
        start_delay: Duration::from_millis(20),
        run_for: Some((Duration::from_millis(200), Duration::from_secs(8))),
        failures_per_mille: 100,
        repeat_after: Duration::from_secs(1),
        keep_records: true,
        seed,
        ..mezzo_fleet::Config::default()
    })?;
    let framework = Framework::builder("ha")
        .masters(masters)
        .failover_timeout(Duration::from_secs(600))
        .call_timeout(Duration::from_secs(4))
        .spawn()?;
    let mut player = Player {
        calls: framework.calls(),
        played: Played::default(),
        dice: seed | 1,
        n_launched: 0,
    };
    player.run(framework, &fleet, (count, over)).await?;
    let counts = fleet.counts();
    ensure!(counts.overcommitted == 0, "given twice: {counts:?}");
    player.played.records = fleet.records();
    fleet.stop().await;
    Ok(player.played)
}

struct Player {
    calls: Calls,
    played: Played,
    dice: u64,
    n_launched: usize,
}

impl Player {
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    async fn run(
        &mut self,
        mut framework: Framework,
        fleet: &Fleet,
        (count, over): (&AtomicU64, &AtomicBool),
    ) -> Result<()> {
        let mut finishing_since = None;
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = framework.next() => {
                    let event = event.context("the subscription ended")??;
                    self.handle(event, finishing_since.is_some(), count).await;
                }
                _ = clock.tick() => {
                    if over.load(Ordering::Relaxed) && finishing_since.is_none() {
                        finishing_since = Some(Instant::now());
                        for task in self.played.tasks.values_mut() {
                            task.kill_at = Some(Instant::now());
                        }
                    }
                    self.tick().await;
                    let Some(since) = finishing_since else { continue };
                    let open = || self.played.tasks.iter().filter(|(_, task)| !task.ended);
                    // Also what it takes for ended is acknowledged when an agent tells it again.
                    if open().next().is_none() && fleet.counts().tasks == 0 {
                        framework.close().await;
                        return Ok(());
                    }
                    if since.elapsed() > DRAIN {
                        bail!(
                            "these never ended: {:?}; the agents: {:?}",
                            open().collect::<Vec<_>>(),
                            fleet.counts()
                        );
                    }
                }
            }
        }
    }

    /// A call that fails is one that perhaps was done: the framework asks later how its tasks are.
    async fn handle(&mut self, event: Event, finishing: bool, count: &AtomicU64) {
        match event {
            Event::Subscribed { .. } => {
                self.played.n_subscriptions += 1;
                self.ask(|_| true).await;
            }
            Event::Offers(offers) => {
                for offer in offers {
                    let live = self.played.tasks.values().filter(|task| !task.ended);
                    let room = if finishing {
                        0
                    } else {
                        TASKS.saturating_sub(live.count())
                    };
                    let mut left = Room::of(&offer);
                    let mut infos = Vec::new();
                    for _ in 0..room.min(AT_ONCE) {
                        let task = Task::new(format!("ha-{}", self.n_launched))
                            .image("i")
                            .cpus("0.5")
                            .mem(32);
                        let Ok(info) = left.place(&task) else { break };
                        self.n_launched += 1;
                        let killed = self.roll(2) == 0;
                        let after = Duration::from_millis(self.roll(4000));
                        let known = Known {
                            agent: offer.agent_id.clone(),
                            heard: Instant::now(),
                            kill_at: killed.then(|| Instant::now() + after),
                            ended: false,
                            dropped: false,
                        };
                        self.played.tasks.insert(info.task_id.clone(), known);
                        infos.push(info);
                    }
                    let refuse = Duration::from_millis(200);
                    let _ = match infos.is_empty() {
                        true => self.calls.decline([&offer], refuse).await,
                        false => self.calls.launch(&offer, infos, Duration::ZERO).await,
                    };
                }
            }
            Event::Update(status) => self.updated(&status, count).await,
            Event::Disconnected { .. }
            | Event::Rescinded(_)
            | Event::AgentLost(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::Operation(_) => {}
        }
    }

    async fn updated(&mut self, status: &TaskStatus, count: &AtomicU64) {
        let Some(task) = self.played.tasks.get_mut(&status.task_id) else {
            return;
        };
        task.heard = Instant::now();
        task.ended |= status.state.is_terminal();
        if status.state == TaskState::Running {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let of_master = status.update_id.is_none();
        // A question was under way when the master dropped the launch; it keeps no record of what never reached an agent.
        if of_master && task.dropped && status.state == TaskState::Gone {
            return;
        }
        task.dropped |= of_master && status.state == TaskState::Dropped;
        self.played.told.push(Status {
            task: status.task_id.to_string(),
            state: status.state.to_string(),
            update: status.update_id.as_ref().map(ToString::to_string),
        });
        if !of_master {
            let _ = self.calls.acknowledge(status).await;
        }
    }

    /// Kills whose time has come, and asks about the silent.
    async fn tick(&mut self) {
        let now = Instant::now();
        let mut doomed = Vec::new();
        for (id, task) in &mut self.played.tasks {
            if !task.ended && task.kill_at.is_some_and(|at| at <= now) {
                task.kill_at = Some(now + SILENCE);
                doomed.push((id.clone(), task.agent.clone()));
            }
        }
        for (task, agent) in doomed {
            let _ = self.calls.kill(&task, Some(&agent), None).await;
        }
        self.ask(|task| task.heard.elapsed() > SILENCE).await;
    }

    async fn ask(&mut self, which: impl Fn(&Known) -> bool) {
        let mut open = Vec::new();
        for (id, task) in &mut self.played.tasks {
            if !task.ended && which(task) {
                task.heard = Instant::now();
                open.push((id.clone(), Some(task.agent.clone())));
            }
        }
        if !open.is_empty() {
            let _ = self.calls.reconcile(open).await;
        }
    }
}

impl Played {
    /// The rules of every history of tasks, and that none was launched by a leader whose time was over. `terms`: each with
    /// when it began.
    pub(crate) fn check(&self, terms: &[(u64, u64)]) -> Result<Checked> {
        let (mut begun, mut written) = (Vec::new(), BTreeMap::<String, Vec<Status>>::new());
        for (number, record) in self.records.iter().enumerate() {
            match &record.what {
                Happened::Launched { task_id, term } => {
                    let later = terms.iter().find(|(other, _)| other > term);
                    if let Some((other, since)) = later {
                        ensure!(
                            record.at_ms <= since + UNDER_WAY_MS,
                            "{task_id} was launched by the leader of term {term}, {} ms after term {other} began",
                            record.at_ms - since
                        );
                    }
                    begun.push(Seen {
                        task: task_id.clone(),
                        app: "ha".to_owned(),
                        machine: record.agent.to_string(),
                        boot: 0,
                        // Each launch is a process of its own.
                        pid: i32::try_from(number)?,
                        started: record.at_ms,
                    });
                }
                Happened::Status {
                    task_id,
                    state,
                    update_id,
                } => written.entry(task_id.clone()).or_default().push(Status {
                    task: task_id.clone(),
                    state: state.as_str_name().to_owned(),
                    update: Some(update_id.clone()),
                }),
            }
        }
        let history = History {
            looks: vec![
                Look {
                    seen: begun,
                    ..Look::default()
                },
                // All have ended.
                Look::default(),
            ],
            told: self.told.clone(),
            written,
            ..History::default()
        };
        Ok(history.check()?)
    }
}
