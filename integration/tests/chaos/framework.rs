//! The framework of the chaos test: keeps a number of containers going by launching and killing, acknowledges what it is
//! told, asks about what it hears nothing of, and writes everything down. At the end it kills what is left and waits
//! until everything that was launched has ended.
//!
//! It is also the witness of the agent's disk. An agent may forget a task once the end of it is acknowledged: so what it
//! wrote about a task is read right before that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mezzo_api::proto::event::{Event as What, Heartbeat, Offers, Subscribed};
use mezzo_api::proto::framework_service_client::FrameworkServiceClient;
use mezzo_api::proto::operation::{Launch, Operation as Kind};
use mezzo_api::proto::{
    AcceptRequest, AcknowledgeRequest, Caller, ContainerInfo, DeclineRequest, EnvVar, Event,
    Filters, FrameworkInfo, KillRequest, NetworkMode, Offer, Operation, ReconcileRequest, Resource,
    Scalar, SubscribeRequest, TaskInfo, TaskStatus, TeardownRequest, reconcile_request, resource,
};
use mezzo_integration::history::Status;
use serde_json::Value;
use tonic::transport::Channel;

use crate::Dice;

/// For everything that was launched to end, after the load: a machine may be an emulated one.
const DRAIN: Duration = Duration::from_secs(600);

/// Thousandths of a processor, and MiB of memory, of each task.
const CPU_MILLIS: i64 = 10;
const MEMORY_MB: i64 = 16;

/// Most launches with one offer.
const AT_ONCE: usize = 25;

/// How long a task may be silent before its fate is asked for.
const SILENCE: Duration = Duration::from_secs(5);

/// What the test tells the framework, and the other way round.
#[derive(Debug)]
pub(crate) struct Orders {
    containers: usize,
    finish: AtomicBool,
    failed: AtomicBool,
    n_ran: AtomicUsize,
}

impl Orders {
    pub(crate) fn new(containers: usize) -> Self {
        Self {
            containers,
            finish: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            n_ran: AtomicUsize::new(0),
        }
    }

    /// No more launches; end what runs.
    pub(crate) fn finish(&self) {
        self.finish.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Tasks that were told to run, so far.
    pub(crate) fn n_ran(&self) -> usize {
        self.n_ran.load(Ordering::Relaxed)
    }

    fn is_finishing(&self) -> bool {
        self.finish.load(Ordering::Relaxed)
    }
}

/// Where it plays.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) master: String,
    pub(crate) image: String,
    /// The agent's folders of tasks.
    pub(crate) agent_tasks: PathBuf,
    pub(crate) dice: Dice,
}

/// What is known of a task.
#[derive(Debug, Clone)]
struct Task {
    agent: String,
    /// When something of it was last heard, or asked.
    heard: Instant,
    /// When it is to be killed; never, if it ends by itself.
    kill_at: Option<Instant>,
    ran: bool,
    ended: bool,
    /// The launch never reached the agent.
    dropped_by_master: bool,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub(crate) struct Played {
    tasks: BTreeMap<String, Task>,
    pub(crate) told: Vec<Status>,
    pub(crate) written: BTreeMap<String, Vec<Status>>,
    /// A line for each event.
    pub(crate) journal: Vec<String>,
    n_streams: usize,
    n_late_answers: usize,
}

impl Played {
    pub(crate) fn n_ran(&self) -> usize {
        self.tasks.values().filter(|task| task.ran).count()
    }

    pub(crate) fn tell(&self) -> String {
        let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
        for status in self.told.iter().filter(|status| status.is_terminal()) {
            *ends.entry(&status.state).or_default() += 1;
        }
        format!(
            "{} launched, {} ran, {} streams, {} answers about what was dropped, ends told (with repetitions): {ends:?}",
            self.tasks.len(),
            self.n_ran(),
            self.n_streams,
            self.n_late_answers
        )
    }

    /// Every launched task has an end, and exactly one: in which state, and by which update.
    pub(crate) fn everything_ended_once(&self) -> Result<()> {
        let mut ends: BTreeMap<&str, BTreeMap<&str, Option<&str>>> = BTreeMap::new();
        for status in self.told.iter().filter(|status| status.is_terminal()) {
            let of_task = ends.entry(&status.task).or_default();
            let known = of_task.entry(&status.state).or_default();
            let update = status.update.as_deref();
            ensure!(
                known.is_none() || update.is_none() || *known == update,
                "{} ended twice as {}: {known:?} and {update:?}",
                status.task,
                status.state
            );
            *known = known.or(update);
        }
        for task in self.tasks.keys() {
            let n_ends = ends.get(task.as_str()).map_or(0, BTreeMap::len);
            ensure!(
                n_ends == 1,
                "{task} has {n_ends} ends: {:?}",
                ends.get(task.as_str())
            );
        }
        Ok(())
    }
}

/// Plays until it is told to finish, then until everything has ended.
pub(crate) fn play(setting: Setting, orders: Arc<Orders>) -> Result<Played> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("an event loop")?;
    let played = runtime.block_on(run(setting, &orders));
    orders.failed.store(played.is_err(), Ordering::Relaxed);
    played
}

async fn run(setting: Setting, orders: &Orders) -> Result<Played> {
    let endpoint = format!("http://{}", setting.master);
    let channel = Channel::from_shared(endpoint).context("the master's address")?;
    let client = FrameworkServiceClient::new(channel.connect_lazy());
    let mut framework = Framework {
        client,
        setting,
        caller: Caller::default(),
        began: Instant::now(),
        finishing_since: None,
        n_launched: 0,
        played: Played::default(),
    };
    loop {
        match framework.follow_stream(orders).await {
            Ok(()) => return Ok(framework.played),
            Err(status) if is_refusal(status.code()) => {
                bail!("the master refused: {}", status.message())
            }
            Err(status) => {
                framework.note(format!("stream broke: {}", status.message()));
                framework.check_patience()?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn is_refusal(code: tonic::Code) -> bool {
    matches!(
        code,
        tonic::Code::InvalidArgument | tonic::Code::NotFound | tonic::Code::PermissionDenied
    )
}

struct Framework {
    client: FrameworkServiceClient<Channel>,
    setting: Setting,
    caller: Caller,
    began: Instant,
    finishing_since: Option<Instant>,
    n_launched: usize,
    played: Played,
}

impl Framework {
    fn note(&mut self, line: String) {
        let at = self.began.elapsed().as_secs_f64();
        self.played.journal.push(format!("{at:9.3} {line}"));
    }

    fn caller(&self) -> Option<Caller> {
        Some(self.caller.clone())
    }

    fn check_patience(&self) -> Result<()> {
        if self
            .finishing_since
            .is_some_and(|since| since.elapsed() > DRAIN)
        {
            let left = self.played.tasks.iter().filter(|(_, task)| !task.ended);
            let left: Vec<&String> = left.map(|(id, _)| id).collect();
            bail!("{} tasks did not end: {left:?}", left.len());
        }
        Ok(())
    }

    /// Until everything has ended (`Ok`) or the stream breaks (`Err`).
    async fn follow_stream(&mut self, orders: &Orders) -> Result<(), tonic::Status> {
        let request = SubscribeRequest {
            framework: Some(FrameworkInfo {
                framework_id: self.caller.framework_id.clone(),
                name: "chaos".to_owned(),
                failover_timeout_ms: 600_000,
                ..FrameworkInfo::default()
            }),
            suppressed_roles: Vec::new(),
        };
        let mut events = self.client.subscribe(request).await?.into_inner();
        self.played.n_streams += 1;
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.message() => {
                    let Some(Event { event: Some(what) }) = event? else {
                        return Err(tonic::Status::unavailable("the master closed the stream"));
                    };
                    self.handle(what, orders).await?;
                }
                _ = clock.tick(), if !self.caller.stream_id.is_empty() => {
                    self.tick(orders).await?;
                    if self.finishing_since.is_some()
                        && self.played.tasks.values().all(|task| task.ended)
                    {
                        let caller = self.caller();
                        self.client.teardown(TeardownRequest { caller }).await?;
                        return Ok(());
                    }
                    self.check_patience()
                        .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
                }
            }
        }
    }

    async fn handle(&mut self, what: What, orders: &Orders) -> Result<(), tonic::Status> {
        match what {
            What::Subscribed(Subscribed {
                framework_id,
                stream_id,
                ..
            }) => {
                self.note(format!("subscribed as {framework_id}"));
                self.caller = Caller {
                    framework_id,
                    stream_id,
                };
                self.ask_about(|_| true).await
            }
            What::Offers(Offers { offers }) => {
                for offer in offers {
                    self.use_offer(offer, orders).await?;
                }
                Ok(())
            }
            What::Update(status) => self.updated(status).await,
            What::Rescind(_)
            | What::AgentLost(_)
            | What::Operation(_)
            | What::InverseOffers(_)
            | What::RescindInverseOffer(_)
            | What::Heartbeat(Heartbeat {}) => Ok(()),
        }
    }

    async fn use_offer(&mut self, offer: Offer, orders: &Orders) -> Result<(), tonic::Status> {
        let live = self.played.tasks.values().filter(|task| !task.ended);
        let room = if orders.is_finishing() {
            0
        } else {
            orders.containers.saturating_sub(live.count())
        };
        let fits = |name: &str, each: i64| scalar_in(&offer, name) / each;
        let fits = fits("cpus", CPU_MILLIS).min(fits("mem", MEMORY_MB * 1000));
        let count = room.min(AT_ONCE).min(fits.max(0) as usize);
        let filters = Some(Filters {
            refuse_ms: Some(if count == 0 { 100 } else { 0 }),
        });
        let (caller, offer_ids) = (self.caller(), vec![offer.offer_id.clone()]);
        if count == 0 {
            let request = DeclineRequest {
                caller,
                offer_ids,
                filters,
            };
            self.client.decline(request).await?;
            return Ok(());
        }
        let tasks: Vec<TaskInfo> = (0..count)
            .map(|_| self.next_task(&offer.agent_id))
            .collect();
        let operation = Operation {
            operation: Some(Kind::Launch(Launch { tasks })),
            ..Operation::default()
        };
        let request = AcceptRequest {
            caller,
            offer_ids,
            operations: vec![operation],
            filters,
        };
        self.client.accept(request).await?;
        Ok(())
    }

    /// Half of the tasks end by themselves, half are killed; both after up to four seconds. Noted before the launch.
    fn next_task(&mut self, agent: &str) -> TaskInfo {
        self.n_launched += 1;
        let task_id = format!("chaos-{}", self.n_launched);
        let dice = &mut self.setting.dice;
        let length = Duration::from_millis(dice.roll(4000));
        let by_itself = dice.roll(2) == 0;
        let code = dice.roll(3);
        let network = match dice.roll(3) {
            0 => NetworkMode::Bridge,
            _ => NetworkMode::Host,
        };
        let task = Task {
            agent: agent.to_owned(),
            heard: Instant::now(),
            kill_at: (!by_itself).then(|| Instant::now() + length),
            ran: false,
            ended: false,
            dropped_by_master: false,
        };
        self.played.tasks.insert(task_id.clone(), task);
        self.note(format!("launch {task_id}"));
        let args = if by_itself {
            vec![
                format!("{:.3}", length.as_secs_f64()),
                "--exit-code".to_owned(),
                code.to_string(),
            ]
        } else {
            Vec::new()
        };
        TaskInfo {
            name: "chaos".to_owned(),
            agent_id: agent.to_owned(),
            resources: vec![scalar("cpus", CPU_MILLIS), scalar("mem", MEMORY_MB * 1000)],
            container: Some(ContainerInfo {
                image: self.setting.image.clone(),
                args,
                env: vec![EnvVar {
                    // How the watch knows whose process it sees.
                    name: "MESOS_TASK_ID".to_owned(),
                    value: task_id.clone(),
                }],
                network: network.into(),
                ..ContainerInfo::default()
            }),
            task_id,
            ..TaskInfo::default()
        }
    }

    async fn updated(&mut self, status: TaskStatus) -> Result<(), tonic::Status> {
        let state = status.state().as_str_name().to_owned();
        let update = (!status.update_id.is_empty()).then(|| status.update_id.clone());
        self.note(format!(
            "told {} {state} {} {}",
            status.task_id,
            update.as_deref().unwrap_or("-"),
            status.message
        ));
        let heard = Status {
            task: status.task_id.clone(),
            state,
            update,
        };
        let task = self.played.tasks.get_mut(&heard.task);
        if let Some(task) = task {
            task.heard = Instant::now();
            task.ran |= heard.state == "TASK_RUNNING";
            task.ended |= heard.is_terminal();
            let of_master = |state: &str| heard.update.is_none() && heard.state == state;
            // A kill or a question of ours was under way when the master dropped the launch. It keeps no record of what
            // never reached an agent, and answers in the words for what an agent does not have. No second end.
            if of_master("TASK_GONE") && task.dropped_by_master {
                self.played.n_late_answers += 1;
                return Ok(());
            }
            task.dropped_by_master |= of_master("TASK_DROPPED");
        }
        let is_terminal = heard.is_terminal();
        let acknowledge = heard.update.is_some();
        self.played.told.push(heard);
        if !acknowledge {
            return Ok(());
        }
        if is_terminal {
            let id = status
                .container
                .as_ref()
                .map(|one| one.container_id.as_str());
            self.read_disk(&status.task_id, id.unwrap_or_default())
                .map_err(|error| tonic::Status::invalid_argument(format!("{error:#}")))?;
        }
        let request = AcknowledgeRequest {
            caller: self.caller(),
            agent_id: status.agent_id,
            task_id: status.task_id,
            update_id: status.update_id,
            ..AcknowledgeRequest::default()
        };
        self.client.acknowledge(request).await?;
        Ok(())
    }

    /// What the agent has written about a task. It cannot be gone: its end is not acknowledged yet. (If this is a
    /// repetition, what was read the first time stays.)
    fn read_disk(&mut self, task: &str, container: &str) -> Result<()> {
        let folder = self.setting.agent_tasks.join(container);
        let found = if container.is_empty() {
            None
        } else {
            read_log(&folder.join("log.jsonl"), task)
        };
        let found = match found {
            Some(found) => Some(found),
            // What never came to a container tells none.
            None => fs::read_dir(&self.setting.agent_tasks)
                .context("list the agent's tasks")?
                .flatten()
                .find_map(|entry| read_log(&entry.path().join("log.jsonl"), task)),
        };
        if let Some(found) = found {
            let known = self.played.written.entry(task.to_owned()).or_default();
            if found.len() > known.len() {
                *known = found;
            }
        }
        Ok(())
    }

    /// Kills whose time has come, and asks about the silent.
    async fn tick(&mut self, orders: &Orders) -> Result<(), tonic::Status> {
        let finishing = orders.is_finishing();
        if finishing && self.finishing_since.is_none() {
            self.finishing_since = Some(Instant::now());
            self.note("finishing".to_owned());
        }
        let now = Instant::now();
        let mut doomed = Vec::new();
        for (id, task) in self.played.tasks.iter_mut().filter(|(_, task)| !task.ended) {
            if task.kill_at.is_some_and(|at| at <= now) || (finishing && task.kill_at.is_none()) {
                // A kill may meet an agent that is just being killed itself: once more if nothing comes of it.
                task.kill_at = Some(now + SILENCE);
                doomed.push((id.clone(), task.agent.clone()));
            }
        }
        for (task_id, agent_id) in doomed {
            self.note(format!("kill {task_id}"));
            let request = KillRequest {
                caller: self.caller(),
                task_id,
                agent_id,
                grace_ms: Some(500),
            };
            self.client.kill(request).await?;
        }
        orders.n_ran.store(self.played.n_ran(), Ordering::Relaxed);
        self.ask_about(|task| now.duration_since(task.heard) > SILENCE)
            .await
    }

    /// Explicit reconciliation of those that have not ended.
    async fn ask_about(&mut self, which: impl Fn(&Task) -> bool) -> Result<(), tonic::Status> {
        let mut tasks = Vec::new();
        for (id, task) in &mut self.played.tasks {
            if !task.ended && which(task) {
                task.heard = Instant::now();
                tasks.push(reconcile_request::TaskKey {
                    task_id: id.clone(),
                    agent_id: task.agent.clone(),
                });
            }
        }
        if tasks.is_empty() {
            return Ok(());
        }
        self.note(format!("ask about {} tasks", tasks.len()));
        let request = ReconcileRequest {
            caller: self.caller(),
            tasks,
        };
        self.client.reconcile(request).await?;
        Ok(())
    }
}

/// The statuses of a task's log; none if it is another task's.
fn read_log(file: &Path, task: &str) -> Option<Vec<Status>> {
    let text = fs::read_to_string(file).ok()?;
    let found = text.lines().filter_map(|line| {
        let value: Value = serde_json::from_str(line).ok()?;
        let update = &value["update"];
        let word = |name: &str| update[name].as_str().map(str::to_owned);
        Some(Status {
            task: word("task_id")?,
            state: format!("TASK_{}", word("state")?),
            update: word("update_id"),
        })
    });
    let found: Vec<Status> = found.collect();
    found
        .first()
        .is_some_and(|one| one.task == task)
        .then_some(found)
}

fn scalar(name: &str, millis: i64) -> Resource {
    Resource {
        name: name.to_owned(),
        value: Some(resource::Value::Scalar(Scalar { millis })),
    }
}

fn scalar_in(offer: &Offer, name: &str) -> i64 {
    let of = |one: &Resource| match one.value {
        Some(resource::Value::Scalar(Scalar { millis })) if one.name == name => Some(millis),
        _ => None,
    };
    offer.resources.iter().find_map(of).unwrap_or(0)
}
