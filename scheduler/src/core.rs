//! The scheduler's mind: commands, statuses and offers in; durable writes and calls to the master out.
//!
//! Pure: no clock, no I/O, no randomness but what is handed in. One owner (the `driver`, or the simulator in the
//! tests) feeds it, then calls [`Core::turn`], makes the writes durable, and only then performs the calls: a task is
//! on disk before the master hears of it, a status before it is acknowledged.
//!
//! ```text
//! command / status / offers ──► state ──► settle (reconcile every touched app, advance deployments)
//!                                            └──► match offers ──► writes, then calls
//! ```

mod books;
pub mod command;
pub mod groups;
pub mod health;
mod interest;
mod jobs;
mod launch;
pub mod members;
mod order;
mod pods;
pub mod record;
mod residents;
mod roles;
mod settle;
pub mod state;
mod status;
mod tell;
mod trial;
mod versions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mezzo_api::model::{
    AgentId, FrameworkId, Offer, OfferId, PoolChange, RoleName, TaskId, TaskInfo, UpdateId,
};
use uuid::Uuid;

use crate::app::AppId;
use crate::deployment::DeploymentId;
use crate::events::{Event, EventKind};
use crate::jobs::core::{JobCore, Timing};
use crate::time::Timestamp;
use books::Books;
use interest::Interest;
use record::{Key, Write};
use state::{AppState, Instance, Machine, State};

/// The first and the longest pause before a task of which the master said nothing is asked after again.
const ASK_AGAIN_MS: (u64, u64) = (500, 30_000);

/// Where names that must be unique come from.
pub trait Ids {
    /// One that was never given before.
    fn unique(&mut self) -> Uuid;
}

/// Times and sizes that may be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A task that does not come to run is killed after this long without a sign of progress.
    pub launch_timeout: Duration,
    /// A kill is repeated after this long.
    pub kill_retry: Duration,
    /// All tasks are asked after this often.
    pub reconcile_interval: Duration,
    /// An offer that is of no use is not wanted again for this long.
    pub refuse: Duration,
    /// More at once are refused.
    pub max_deployments: usize,
    /// Versions kept per app.
    pub max_versions: usize,
    /// For which what instances keep is reserved, where their app has the role `*`.
    pub resident_role: RoleName,
    /// Of apps and jobs that name none.
    pub default_role: RoleName,
    /// Top-level groups that come to be have their name as the role of all that is in them.
    pub new_groups_enforce_role: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            launch_timeout: Duration::from_secs(300),
            kill_retry: Duration::from_secs(30),
            reconcile_interval: Duration::from_secs(600),
            refuse: Duration::from_secs(120),
            max_deployments: 10_000,
            max_versions: 50,
            resident_role: default_resident_role(),
            default_role: RoleName::any(),
            new_groups_enforce_role: false,
        }
    }
}

/// `apps`: nothing can be reserved for everybody.
pub(crate) fn default_resident_role() -> RoleName {
    "apps".parse().expect("a role is a path of words")
}

/// Something to ask of the master.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// Make these changes, and launch these tasks, on that offer.
    Accept {
        /// The offer.
        offer: OfferId,
        /// First: of reservations and volumes, in order.
        changes: Vec<PoolChange>,
        /// Then: what to launch.
        tasks: Vec<TaskInfo>,
        /// For the rest.
        refuse: Duration,
    },
    /// Not these.
    Decline {
        /// The offers.
        offers: Vec<OfferId>,
        /// For so long.
        refuse: Duration,
    },
    /// End a task.
    Kill {
        /// Which.
        task: TaskId,
        /// Where it is.
        agent: Option<AgentId>,
    },
    /// The status is durable here.
    Acknowledge {
        /// Which task's.
        task: TaskId,
        /// Whose.
        agent: AgentId,
        /// Which.
        update: UpdateId,
    },
    /// How are these? Empty: all.
    Reconcile {
        /// Tasks and where they are.
        tasks: Vec<(TaskId, AgentId)>,
    },
    /// Offers of this role, please.
    Revive(RoleName),
    /// None of it for now.
    Suppress(RoleName),
    /// There are to be offers of these roles and of no others.
    Roles {
        /// All of them.
        roles: BTreeSet<RoleName>,
        /// Those of which there are to be none for now.
        suppressed: BTreeSet<RoleName>,
    },
    /// What do the machines have in all, and why are there the offers that there are?
    Survey,
}

/// What a turn leads to.
#[derive(Debug, Default)]
pub struct Effects {
    /// First: to be made durable together.
    pub writes: Vec<Write>,
    /// Then: in this order.
    pub calls: Vec<Call>,
    /// And told to whoever listens, once they are durable.
    pub events: Vec<Event>,
    /// The state differs from that of the turn before.
    pub changed: bool,
    /// When to take the next turn if nothing happens.
    pub wake_at: Option<u64>,
}

/// How many instances of an app wait, and of which configuration.
type Demand = BTreeMap<AppId, (u32, Timestamp)>;

/// State and what is pending.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    state: State,
    /// Which app a task belongs to.
    tasks: HashMap<TaskId, AppId>,
    touched: BTreeSet<AppId>,
    /// Apps with instances to be launched.
    waiting: BTreeSet<AppId>,
    dirty: BTreeSet<Key>,
    /// Deployments whose time is over, and what they waited for; taken back in the same turn.
    overdue: BTreeMap<DeploymentId, String>,
    changed: bool,
    calls: Vec<Call>,
    events: Vec<EventKind>,
    offers: Vec<Offer>,
    wakes: BTreeSet<(u64, AppId)>,
    wake_of: HashMap<AppId, u64>,
    /// What is counted about the instances of each app, made at the first look at it.
    books: HashMap<AppId, Books>,
    jobs: JobCore,
    /// What the master was asked for, by role.
    interests: BTreeMap<RoleName, Interest>,
    /// In which it is asked for something at all.
    roles: BTreeSet<RoleName>,
    reconcile_at: u64,
    /// When the line to the master came to be, the latest time.
    subscribed_at: u64,
    /// Tasks of which nothing was heard since the subscription began: the master says nothing of those whose agent it
    /// still expects back, so they are asked after again.
    unconfirmed: BTreeSet<TaskId>,
    /// How many there were at the latest look.
    unconfirmed_before: usize,
    ask_again_at: u64,
    ask_again_pause: u64,
    survey_at: u64,
    last_version: Timestamp,
    service_ports: HashMap<u16, u32>,
    last_service_port: u16,
    salt: u64,
}

impl Core {
    /// Goes on from durable state.
    #[must_use]
    pub fn new(state: State, settings: Settings) -> Self {
        let timing = Timing {
            launch_timeout_ms: millis(settings.launch_timeout),
            kill_retry_ms: millis(settings.kill_retry),
        };
        let jobs = Arc::clone(&state.jobs);
        let mut core = Self {
            jobs: JobCore::new(jobs, timing, settings.default_role.clone()),
            settings,
            tasks: HashMap::new(),
            touched: state.apps.keys().cloned().collect(),
            waiting: BTreeSet::new(),
            dirty: BTreeSet::new(),
            overdue: BTreeMap::new(),
            changed: true,
            calls: Vec::new(),
            events: Vec::new(),
            offers: Vec::new(),
            wakes: BTreeSet::new(),
            wake_of: HashMap::new(),
            books: HashMap::new(),
            interests: BTreeMap::new(),
            roles: BTreeSet::new(),
            reconcile_at: 0,
            subscribed_at: 0,
            unconfirmed: BTreeSet::new(),
            unconfirmed_before: 0,
            ask_again_at: 0,
            ask_again_pause: ASK_AGAIN_MS.0,
            survey_at: 0,
            last_version: Timestamp::default(),
            service_ports: HashMap::new(),
            last_service_port: 0,
            salt: 0,
            state,
        };
        for (id, app) in &core.state.apps {
            for task in app.instances.values().flat_map(|one| one.names()) {
                core.tasks.insert(task.clone(), id.clone());
            }
            for version in app.versions.keys() {
                core.last_version = core.last_version.max(*version);
            }
            for port in &app.current.app.ports {
                *core.service_ports.entry(port.port).or_default() += 1;
            }
        }
        for deployment in core.state.deployments.values() {
            core.last_version = core.last_version.max(deployment.version);
        }
        core.roles = core.needed_roles();
        core
    }

    /// What readers may see.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The master took the subscription.
    pub fn subscribed(&mut self, framework: &FrameworkId, now: u64) {
        self.tell_subscribed(framework);
        if self.state.framework_id.as_ref() != Some(framework) {
            self.state.framework_id = Some(framework.clone());
            self.dirty.insert(Key::Framework);
        }
        self.state.connected = true;
        self.subscribed_at = now;
        self.survey_at = now;
        self.changed = true;
        self.offers.clear();
        self.books.values_mut().for_each(Books::untell);
        // Whatever was waiting asks again, and every sentence is repeated.
        self.forget_demand();
        self.jobs.line_changed();
        self.touched.extend(self.state.apps.keys().cloned());
        self.reconcile(now);
        self.calls.push(Call::Reconcile { tasks: Vec::new() });
        self.unconfirmed = self.all_tasks().into_iter().map(|(task, _)| task).collect();
        self.unconfirmed_before = self.unconfirmed.len();
        self.ask_again_pause = ASK_AGAIN_MS.0;
        self.ask_again_at = now.saturating_add(self.ask_again_pause);
    }

    /// The term of the master that took the subscription. It is durable before anything is done that the master says: a
    /// scheduler that begins anew must not take the word of one that leads no more (that no task runs, say).
    pub fn followed(&mut self, term: u64) {
        if term > self.state.master_term {
            self.state.master_term = term;
            self.dirty.insert(Key::MasterTerm);
        }
    }

    /// The stream broke.
    pub fn disconnected(&mut self) {
        if self.state.connected {
            self.tell(EventKind::SchedulerDisconnected);
        }
        self.state.connected = false;
        self.changed = true;
        self.offers.clear();
        self.calls.clear();
        self.books.values_mut().for_each(Books::untell);
        self.jobs.line_changed();
    }

    /// The master never heard of the framework id that is kept here, or has forgotten it: begin as a new one.
    pub fn forget_framework(&mut self) {
        self.state.framework_id = None;
        self.dirty.insert(Key::Framework);
        self.changed = true;
    }

    /// Resources to be had.
    pub fn offered(&mut self, offers: Vec<Offer>) {
        self.state.counters.offers += offers.len() as u64;
        self.offers.extend(offers);
    }

    /// An offer is void.
    pub fn rescinded(&mut self, offer: &OfferId) {
        self.offers.retain(|held| held.offer_id != *offer);
    }

    /// All machines and what they have.
    pub fn surveyed(&mut self, machines: BTreeMap<AgentId, Machine>) {
        if *self.state.machines != machines {
            self.state.machines = Arc::new(machines);
            self.changed = true;
        }
        self.forget_released();
    }

    /// Does everything that follows from what came in and from the time that passed.
    pub fn turn(&mut self, now: u64, ids: &mut dyn Ids) -> Effects {
        while let Some((at, app)) = self.wakes.first().cloned() {
            if at > now {
                break;
            }
            self.wakes.remove(&(at, app.clone()));
            self.wake_of.remove(&app);
            self.touched.insert(app);
        }
        self.settle(now);
        self.roll_back_overdue(now, ids);
        self.settle(now);
        self.settle_jobs(now);
        self.use_offers(now, ids);
        self.settle(now);
        self.settle_jobs(now);
        self.tell_roles();
        self.ask_for_offers(now);
        if self.state.connected && now >= self.reconcile_at {
            self.reconcile(now);
        }
        self.ask_again(now);
        let dirty = std::mem::take(&mut self.dirty);
        let writes: Vec<Write> = dirty
            .into_iter()
            .map(|key| {
                let value = match &key {
                    Key::Instance(id) => {
                        record::encode_instance(&self.state, self.tasks.get(id), id)
                    }
                    Key::Framework
                    | Key::MasterTerm
                    | Key::App(_)
                    | Key::Version(..)
                    | Key::Holding(..)
                    | Key::Deployment(_)
                    | Key::Group(_)
                    | Key::GroupVersion(..)
                    | Key::Job(_)
                    | Key::JobRun(..) => record::encode(&self.state, &key),
                };
                Write { key, value }
            })
            .collect();
        let calls = std::mem::take(&mut self.calls);
        let events = self.take_events(now);
        let changed = std::mem::take(&mut self.changed) || !writes.is_empty();
        let wakes = self.wakes.first().map(|(at, _)| *at).into_iter();
        let mut wake_at = wakes.chain(self.jobs.wake_at()).min();
        if self.state.connected {
            wake_at = Some(wake_at.map_or(self.reconcile_at, |at| at.min(self.reconcile_at)));
            if !self.unconfirmed.is_empty() {
                wake_at = wake_at.map(|at| at.min(self.ask_again_at));
            }
            wake_at = wake_at.map(|at| at.min(self.survey_at.max(now + 1)));
        }
        Effects {
            writes,
            calls,
            events,
            changed,
            wake_at,
        }
    }

    fn reconcile(&mut self, now: u64) {
        self.reconcile_at = now.saturating_add(millis(self.settings.reconcile_interval));
        if self.state.roles.values().any(|word| word.refused.is_some()) {
            self.ask_for_roles();
        }
        let tasks = self.all_tasks();
        self.ask_after(&tasks);
    }

    fn ask_after(&mut self, tasks: &[(TaskId, AgentId)]) {
        /// So many per call stay well below gRPC's limit of a message.
        const PER_CALL: usize = 1000;
        for chunk in tasks.chunks(PER_CALL) {
            self.calls.push(Call::Reconcile {
                tasks: chunk.to_vec(),
            });
        }
    }

    /// Asks once more after tasks that the master said nothing of, with growing pauses.
    fn ask_again(&mut self, now: u64) {
        if !self.state.connected || self.unconfirmed.is_empty() || now < self.ask_again_at {
            return;
        }
        let mut tasks = self.all_tasks();
        tasks.retain(|(task, _)| self.unconfirmed.contains(task));
        if tasks.is_empty() {
            self.unconfirmed.clear();
            return;
        }
        let n = self.unconfirmed.len();
        if n < self.unconfirmed_before {
            // The answers still come.
            self.unconfirmed_before = n;
            self.ask_again_at = now.saturating_add(self.ask_again_pause);
            return;
        }
        self.ask_after(&tasks);
        self.ask_again_pause = (self.ask_again_pause * 2).min(ASK_AGAIN_MS.1);
        self.ask_again_at = now.saturating_add(self.ask_again_pause);
    }

    /// Of apps, of apps that are gone, and of jobs.
    fn all_tasks(&self) -> Vec<(TaskId, AgentId)> {
        let apps = self.state.apps.values();
        apps.flat_map(|app| app.instances.values())
            .chain(self.state.orphans.values())
            .flat_map(|instance| instance.live_tasks().map(|task| (task, &instance.agent_id)))
            .chain(self.jobs.tasks())
            .map(|(task, agent)| (task.clone(), agent.clone()))
            .collect()
    }

    /// For changing an app; it will be settled in this turn.
    fn app_mut(&mut self, id: &AppId) -> Option<&mut AppState> {
        let app = self.state.apps.get_mut(id)?;
        self.touched.insert(id.clone());
        self.changed = true;
        Some(Arc::make_mut(app))
    }

    /// An instance of an app is new, or has changed: the one way to do that.
    fn put_instance(&mut self, id: &AppId, instance: Arc<Instance>) {
        if let Some(books) = self.books.get_mut(id) {
            books.file(&instance);
        }
        self.dirty.insert(Key::Instance(instance.task_id.clone()));
        if let Some(app) = self.app_mut(id) {
            app.instances.insert(instance.task_id.clone(), instance);
        }
    }

    /// An instance is no more: the one way to say that.
    fn take_instance(&mut self, id: &AppId, task: &TaskId) -> Option<Arc<Instance>> {
        if let Some(books) = self.books.get_mut(id) {
            books.forget(task);
        }
        self.dirty.insert(Key::Instance(task.clone()));
        let instance = self.app_mut(id)?.instances.remove(task)?;
        for name in instance.names() {
            self.tasks.remove(name);
        }
        Some(instance)
    }

    fn wake(&mut self, app: &AppId, at: Option<u64>) {
        if let Some(before) = self.wake_of.remove(app) {
            self.wakes.remove(&(before, app.clone()));
        }
        if let Some(at) = at {
            self.wake_of.insert(app.clone(), at);
            self.wakes.insert((at, app.clone()));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
