//! The scheduler's core against a simulated cluster: statuses late, tasks failing, agents lost, the line broken, the
//! scheduler killed between any two steps and started again from what was durable. Hundreds of seeds in seconds.
//!
//! Invariants: no task id is used twice (the world checks each launch); what is durable is always the whole state; in
//! the end exactly the wanted instances run and every deployment is over; no update leaves its bounds by a decision of the
//! scheduler, and one without failures not at all, in the world itself; a deployment under way says what it waits for; a
//! trial ends by its time or by a word, never by a restart. `planted` shows that each of them bites.
//! `MEZZO_SIM_SEEDS=FROM..TO` runs other seeds.

mod planted;
mod rules;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{AgentId, PoolChange, TaskId, TaskState};
use mezzo_scheduler::app::AppId;
use mezzo_scheduler::core::command::{Command, Refusal, Update, Wipe};
use mezzo_scheduler::core::groups::{GroupChange, GroupCommand};
use mezzo_scheduler::core::record::{Key, decode};
use mezzo_scheduler::core::state::{AppState, State};
use mezzo_scheduler::core::{Call, Core, Ids, Settings};
use mezzo_scheduler::deployment::course;
use mezzo_scheduler::reconcile::resident_bounds;
use mezzo_scheduler::resident::Stage;
use rules::{Planted, Trials, limits};
use serde_json::{Value, json};
use uuid::Uuid;
use world::{Message, Rng, World, framework};

struct Counter(u128);

impl Ids for Counter {
    fn unique(&mut self) -> Uuid {
        self.0 += 1;
        Uuid::from_u128(self.0)
    }
}

/// What may go wrong.
#[derive(Clone, Copy)]
struct Faults {
    crashes: bool,
    breaks: bool,
    failures: bool,
    lost_agents: bool,
}

struct Sim {
    rng: Rng,
    now: u64,
    core: Core,
    disk: BTreeMap<Key, Vec<u8>>,
    world: World,
    ids: Counter,
    faults: Faults,
    wake_at: Option<u64>,
    crashes: u32,
    trials: Trials,
    planted: Option<Planted>,
    is_quiet: bool,
}

impl Sim {
    fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = Rng(seed);
        let n_agents = 2 + rng.below(3);
        let mut sim = Self {
            rng,
            now: 1_000_000,
            core: Core::new(State::default(), Settings::default()),
            disk: BTreeMap::new(),
            world: World::new(n_agents),
            ids: Counter(u128::from(seed) << 64),
            faults,
            wake_at: None,
            crashes: 0,
            trials: Trials::default(),
            planted: None,
            is_quiet: false,
        };
        sim.turn();
        sim
    }

    /// `kill -9`: memory is gone, the disk is not.
    fn crash(&mut self) {
        self.crashes += 1;
        self.world.disconnect();
        let mut state = decode(self.disk.clone()).expect("what was committed can be read");
        if self.planted == Some(Planted::TrialForgotten) {
            for deployment in state.deployments.values_mut() {
                for course in std::sync::Arc::make_mut(deployment).courses.values_mut() {
                    *course = course.promoted(self.now);
                }
            }
        }
        self.core = Core::new(state, Settings::default());
        self.wake_at = Some(self.now);
    }

    fn maybe_crash(&mut self, one_in: u64) -> bool {
        let crash = self.faults.crashes && self.rng.one_in(one_in);
        if crash {
            self.crash();
        }
        crash
    }

    fn turn(&mut self) {
        let before = self.core.state().clone();
        let effects = self.core.turn(self.now, &mut self.ids);
        let mut after = self.core.state().clone();
        if self.planted == Some(Planted::Silent) {
            for app in after.apps.values_mut() {
                std::sync::Arc::make_mut(app).waiting_for.clear();
            }
        }
        self.trials.check(&before, &after, self.now, self.is_quiet);
        if self.maybe_crash(100) {
            return;
        }
        for write in effects.writes {
            let is_instance = matches!(write.key, Key::Instance(_));
            if is_instance && self.planted == Some(Planted::Unwritten) {
                continue;
            }
            match write.value {
                Some(value) => self.disk.insert(write.key, value),
                None => self.disk.remove(&write.key),
            };
        }
        if self.rng.one_in(50) {
            self.check_disk();
        }
        self.wake_at = effects.wake_at;
        for call in effects.calls {
            if self.maybe_crash(200) {
                return;
            }
            if !self.world.connected {
                break;
            }
            let prompt = self.rng.one_in(2);
            if self.planted == Some(Planted::Twice) && matches!(call, Call::Accept { .. }) {
                self.world.perform(call.clone(), self.now, prompt);
            }
            if self.planted == Some(Planted::Unkilled) && matches!(call, Call::Kill { .. }) {
                continue;
            }
            self.check_destroyed(&call);
            self.world.refuse_changes = self.faults.failures && self.rng.one_in(10);
            self.world.perform(call, self.now, prompt);
        }
    }

    /// Nothing is destroyed that an app still wants, in memory or on disk.
    fn check_destroyed(&self, call: &Call) {
        let Call::Accept { changes, .. } = call else {
            return;
        };
        let destroys = changes.iter().filter_map(|change| match change {
            PoolChange::Destroy(key) => Some(key),
            PoolChange::Reserve { .. } | PoolChange::Unreserve { .. } | PoolChange::Create(_) => {
                None
            }
        });
        for key in destroys {
            let durable = decode(self.disk.clone()).expect("what was committed can be read");
            for state in [self.core.state(), &durable] {
                let mut holdings = state.apps.values().flat_map(|app| app.holdings.values());
                let wanted = holdings.any(|one| {
                    let mut volumes = one.volumes.iter();
                    one.stage == Stage::Kept && volumes.any(|held| held.volume.id == key.id)
                });
                assert!(!wanted, "{key} is destroyed although it is wanted");
            }
        }
    }

    fn check_disk(&self) {
        let durable = decode(self.disk.clone()).expect("what was committed can be read");
        let state = self.core.state();
        assert_eq!(durable.framework_id, state.framework_id);
        assert_eq!(durable.deployments, state.deployments);
        assert_eq!(durable.locks, state.locks);
        assert_eq!(durable.orphans, state.orphans);
        assert_eq!(
            durable.apps.keys().collect::<Vec<_>>(),
            state.apps.keys().collect::<Vec<_>>()
        );
        for (id, app) in &state.apps {
            let durable = &durable.apps[id];
            assert_eq!(durable.current, app.current);
            assert_eq!(durable.versions, app.versions);
            assert_eq!(durable.instances, app.instances);
            for (id, holding) in &app.holdings {
                assert_eq!(durable.holdings[id], *holding);
            }
            assert_eq!(durable.backoff, app.backoff);
            assert_eq!(durable.last_failure, app.last_failure);
        }
    }

    fn connect(&mut self) {
        if !self.world.connected {
            self.core.disconnected();
            self.world.connect(self.core.is_suppressed());
            self.core.subscribed(&framework(), self.now);
            self.turn();
        }
    }

    fn deliver(&mut self) -> bool {
        let Some(message) = self.world.to_core.pop_front() else {
            return false;
        };
        match message {
            Message::Offers(offers) => self.core.offered(offers),
            Message::Rescind(offer) => self.core.rescinded(&offer),
            Message::Status(status) => self.core.status(&status, self.now),
            Message::Machines(machines) => self.core.surveyed(machines),
        }
        // Sometimes several in one turn.
        if !self.rng.one_in(3) {
            self.turn();
        }
        true
    }

    fn command(&mut self, command: Command) -> Result<(), Refusal> {
        let result = self
            .core
            .command(command, self.now, &mut self.ids)
            .map(drop);
        self.turn();
        result
    }

    fn task(&mut self) -> Option<TaskId> {
        let live: Vec<TaskId> = self
            .world
            .tasks
            .iter()
            .filter(|(_, t)| t.lives())
            .map(|(id, _)| id.clone())
            .collect();
        let at = self.rng.below(live.len() as u64) as usize;
        live.get(at).cloned()
    }

    /// An agent does something with one of its tasks.
    fn progress(&mut self, may_fail: bool) {
        let Some(id) = self.task() else { return };
        let state = self.world.tasks[&id].state;
        let fails = may_fail && self.rng.one_in(6);
        let next = match state {
            TaskState::Killing => TaskState::Killed,
            _ if fails => {
                let ends = [
                    TaskState::Failed,
                    TaskState::Finished,
                    TaskState::Killed,
                    TaskState::Gone,
                    TaskState::Error,
                ];
                ends[self.rng.below(ends.len() as u64) as usize]
            }
            TaskState::Staging => TaskState::Starting,
            TaskState::Starting
            | TaskState::Running
            | TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Unreachable
            | TaskState::Gone
            | TaskState::Unknown => TaskState::Running,
        };
        self.world.move_task(&id, next);
    }

    /// A running task ends by a call that the core never made.
    fn kill_one(&mut self) {
        let tasks = self.world.tasks.iter();
        let running = tasks.filter(|(_, task)| task.state == TaskState::Running);
        let all: Vec<TaskId> = running.map(|(id, _)| id.clone()).collect();
        for id in all {
            self.world.move_task(&id, TaskState::Killing);
        }
    }

    fn agent(&mut self) -> AgentId {
        let at = self.rng.below(self.world.agents.len() as u64) as usize;
        self.world
            .agents
            .keys()
            .nth(at)
            .cloned()
            .expect("there are agents")
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..=7 => {
                self.deliver();
            }
            8..=11 => self.progress(self.faults.failures),
            12 | 13 => {
                self.world.make_offers(self.now);
            }
            14 | 15 => {
                self.now += self.rng.below(3000);
                self.turn();
            }
            16 => {
                if self.faults.breaks && self.rng.one_in(4) {
                    if self.faults.lost_agents && self.rng.one_in(2) {
                        self.world.restart_master();
                    } else {
                        self.world.disconnect();
                    }
                    self.core.disconnected();
                    self.turn();
                } else {
                    self.connect();
                }
            }
            17 => {
                let id = self.agent();
                if self.faults.lost_agents && self.rng.one_in(4) {
                    self.world.lose_agent(&id);
                } else {
                    self.world.return_agent(&id);
                }
            }
            18 => {
                if let Some(id) = self.task() {
                    self.world.repeat(&id);
                }
                if self.rng.one_in(8) {
                    self.promote();
                }
            }
            _ => {
                self.maybe_crash(10);
                self.connect();
            }
        }
    }

    /// Somebody looks at what is on trial, and likes it.
    fn promote(&mut self) {
        let state = self.core.state();
        let on_trial: Vec<_> = state
            .deployments
            .values()
            .filter(|plan| {
                plan.courses
                    .values()
                    .any(|one| one.stage == course::Stage::Holding)
            })
            .map(|plan| plan.id)
            .collect();
        for id in on_trial {
            self.trials.promoted.insert(id);
            self.command(Command::Promote { id })
                .expect("it is on trial");
        }
    }

    /// Nothing goes wrong any more: until everything is as wanted and stays so.
    fn quiet(&mut self, seed: u64) {
        self.faults = Faults {
            crashes: false,
            breaks: false,
            failures: false,
            lost_agents: false,
        };
        self.is_quiet = true;
        let end = self.now + 3 * 3600 * 1000;
        let mut calm_since = None;
        while self.now < end {
            self.connect();
            for id in self.world.agents.keys().cloned().collect::<Vec<_>>() {
                self.world.return_agent(&id);
            }
            while self.deliver() {}
            self.turn();
            self.promote();
            let tasks: Vec<TaskId> = self.world.tasks.keys().cloned().collect();
            for id in tasks {
                let next = match self.world.tasks[&id].state {
                    TaskState::Staging => Some(TaskState::Starting),
                    TaskState::Starting => Some(TaskState::Running),
                    TaskState::Killing => Some(TaskState::Killed),
                    TaskState::Running
                    | TaskState::Finished
                    | TaskState::Failed
                    | TaskState::Killed
                    | TaskState::Error
                    | TaskState::Dropped
                    | TaskState::Unreachable
                    | TaskState::Gone
                    | TaskState::Unknown => None,
                };
                if let Some(next) = next {
                    self.world.move_task(&id, next);
                }
                self.world.repeat(&id);
            }
            self.world.make_offers(self.now);
            let busy = !self.world.to_core.is_empty();
            let wanted = self.is_as_wanted();
            match (!wanted, calm_since) {
                (true, _) => calm_since = None,
                (false, None) => calm_since = Some(self.now),
                (false, Some(since)) if self.now > since + 20 * 60 * 1000 => {
                    self.is_quiet = false;
                    return;
                }
                (false, Some(_)) => {}
            }
            if !busy {
                let next = self.wake_at.unwrap_or(self.now + 1000);
                self.now = next.clamp(self.now + 1, self.now + 30_000);
            }
        }
        panic!(
            "seed {seed} never comes to rest after {} crashes: {:#?}",
            self.crashes,
            self.core.state()
        );
    }

    fn is_as_wanted(&self) -> bool {
        let state = self.core.state();
        let mut running: BTreeMap<AppId, BTreeSet<TaskId>> = BTreeMap::new();
        for (id, task) in &self.world.tasks {
            // Of a pod's instance each container is a task.
            let of = |app: &AppState| {
                let mut all = app.instances.values();
                let one = all.find(|one| one.names().any(|name| name == id))?;
                Some(one.task_id.clone())
            };
            let found = state.apps.values().find_map(|app| Some((app, of(app)?)));
            let Some((app, instance)) = found else {
                return false;
            };
            if task.state != TaskState::Running {
                return false;
            }
            running
                .entry(app.current.app.id.clone())
                .or_default()
                .insert(instance);
        }
        let lives = |id: &TaskId| self.world.tasks.contains_key(id);
        let mut instances = state.apps.values().flat_map(|app| app.instances.values());
        if !instances.all(|one| one.live_tasks().all(lives)) {
            return false;
        }
        let kept: BTreeSet<_> = state
            .apps
            .values()
            .flat_map(|app| app.holdings.values())
            .map(|one| (one.agent_id.clone(), one.id))
            .collect();
        let there: BTreeSet<_> = self
            .world
            .agents
            .keys()
            .flat_map(|agent| {
                let held = self.world.held_on(agent).into_iter();
                held.map(|id| (agent.clone(), id))
            })
            .collect();
        state.deployments.is_empty()
            && state.releasing.is_empty()
            && kept == there
            && state.orphans.is_empty()
            && state.apps.iter().all(|(id, app)| {
                let n = running.get(id).map_or(0, BTreeSet::len);
                n == app.current.app.instances as usize
                    && app.instances.len() == n
                    && app.queue.is_none()
            })
    }
}

fn body(rng: &mut Rng, id: &str) -> Value {
    let unreachable = match rng.below(3) {
        0 => json!("disabled"),
        1 => json!({"inactiveAfterSeconds": 5, "expungeAfterSeconds": 20}),
        _ => json!({"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0}),
    };
    let mut upgrade = json!({
        "minimumHealthCapacity": rng.below(5) as f64 / 4.0,
        "maximumOverCapacity": rng.below(3) as f64 / 2.0,
    });
    let mut trial = json!({});
    if rng.one_in(2) {
        trial["holdSeconds"] = rng.below(20).into();
    }
    match rng.below(4) {
        0 => {
            trial["instances"] = (1 + rng.below(3)).into();
            upgrade["canary"] = trial;
        }
        1 => upgrade["blueGreen"] = trial,
        _ => {}
    }
    if rng.one_in(3) {
        upgrade["rollbackAfterSeconds"] = (1 + rng.below(120)).into();
    }
    json!({
        "id": id,
        "cpus": 0.5,
        "mem": 64,
        "instances": rng.below(6),
        "container": {"docker": {"image": format!("image:{}", rng.below(3))}},
        "upgradeStrategy": upgrade,
        "unreachableStrategy": unreachable,
    })
}

/// A pod of two containers.
fn pod_body(rng: &mut Rng) -> Value {
    let of_app = body(rng, "/p");
    let image = format!("image:{}", rng.below(3));
    let container = |name: &str, cpus: f64| {
        json!({
            "name": name,
            "image": {"id": image},
            "resources": {"cpus": cpus, "mem": 32},
            "endpoints": [{"name": name, "hostPort": 0}],
        })
    };
    json!({
        "id": "/p",
        "containers": [container("one", 0.25), container("two", 0.5)],
        "scaling": {"kind": "fixed", "instances": rng.below(4)},
        "scheduling": {
            "upgrade": of_app["upgradeStrategy"],
            "unreachableStrategy": of_app["unreachableStrategy"],
        },
    })
}

fn pod_command(sim: &mut Sim, force: bool) -> Command {
    let pod: AppId = "/p".parse().expect("valid");
    let is_there = sim.core.state().pod(&pod).is_some();
    match sim.rng.below(8) {
        0 if is_there => Command::Delete { app: pod, force },
        _ if is_there => Command::UpdatePod {
            pod,
            body: pod_body(&mut sim.rng),
            force,
            dry_run: false,
        },
        _ => Command::CreatePod {
            body: pod_body(&mut sim.rng),
            force,
        },
    }
}

fn random_command(sim: &mut Sim) -> Command {
    let id = ["/a", "/b/c", "/d"][sim.rng.below(3) as usize];
    let app: AppId = id.parse().expect("valid");
    let force = sim.rng.one_in(2);
    match sim.rng.below(15) {
        12.. => pod_command(sim, force),
        10 | 11 => group_command(sim, force),
        0 | 1 => Command::Create {
            body: body(&mut sim.rng, id),
            force,
        },
        2..=4 => Command::Update {
            updates: vec![Update {
                app: Some(app),
                body: body(&mut sim.rng, id),
            }],
            partial: true,
            create: true,
            force,
            dry_run: false,
        },
        5 | 6 => Command::Update {
            updates: vec![Update {
                app: Some(app),
                body: json!({"instances": sim.rng.below(7)}),
            }],
            partial: true,
            create: false,
            force,
            dry_run: false,
        },
        7 => match sim.rng.below(3) {
            0 => Command::Restart { app, force },
            1 => Command::ResetDelay { app },
            _ => Command::Delete { app, force },
        },
        8 => {
            let state = sim.core.state();
            let deployment = state.deployments.keys().next().copied();
            match deployment {
                Some(id) => Command::CancelDeployment { id, force },
                None => Command::Restart { app, force },
            }
        }
        _ => {
            let state = sim.core.state();
            let task = state
                .apps
                .get(&app)
                .and_then(|app| app.instances.keys().next().cloned());
            Command::KillTasks {
                tasks: task.into_iter().collect(),
                scale: sim.rng.one_in(2),
                wipe: Wipe::Nothing,
                force,
            }
        }
    }
}

/// An app whose instances keep a volume each.
fn resident(rng: &mut Rng) -> Value {
    let lost = ["WAIT_FOREVER", "RELAUNCH_AFTER_TIMEOUT"][rng.below(2) as usize];
    json!({
        "id": "/r",
        "cpus": 0.5,
        "mem": 64,
        "instances": rng.below(5),
        "container": {
            "docker": {"image": format!("image:{}", rng.below(3))},
            "volumes": [
                {"containerPath": "/data", "mode": "RW", "persistent": {"size": 50}},
                {"containerPath": "log", "mode": "RW", "persistent": {"size": 10}},
            ],
        },
        "upgradeStrategy": {"minimumHealthCapacity": rng.below(5) as f64 / 4.0, "maximumOverCapacity": 0},
        "residency": {"taskLostBehavior": lost, "relaunchEscalationTimeoutSeconds": 5},
    })
}

fn resident_command(sim: &mut Sim) -> Command {
    let app: AppId = "/r".parse().expect("valid");
    let force = sim.rng.one_in(2);
    let state = sim.core.state();
    let tasks: Vec<TaskId> = state
        .apps
        .get(&app)
        .map(|known| known.instances.keys().cloned().collect())
        .unwrap_or_default();
    match sim.rng.below(8) {
        0..=3 => Command::Update {
            updates: vec![Update {
                app: Some(app),
                body: resident(&mut sim.rng),
            }],
            partial: true,
            create: true,
            force,
            dry_run: false,
        },
        4 => Command::Restart { app, force },
        5 => Command::Delete { app, force },
        kill => Command::KillTasks {
            tasks: match kill {
                6 => tasks,
                _ => tasks.into_iter().take(1).collect(),
            },
            scale: sim.rng.one_in(2),
            wipe: match sim.rng.below(3) {
                0 => Wipe::Nothing,
                1 => Wipe::Theirs,
                _ => Wipe::AllOf(app),
            },
            force,
        },
    }
}

/// `/b` with what depends on what: once so, once the other way round, scaled, or gone.
fn group_command(sim: &mut Sim, force: bool) -> Command {
    let change = match sim.rng.below(4) {
        0 => GroupChange::Delete,
        1 => GroupChange::Update(json!({"scaleBy": sim.rng.below(4) as f64 / 2.0})),
        which => {
            let mut apps = vec![body(&mut sim.rng, "c"), body(&mut sim.rng, "e")];
            apps[usize::from(which == 2)]["dependencies"] =
                json!([if which == 2 { "../c" } else { "../e" }]);
            GroupChange::Update(json!({"apps": apps, "dependencies": ["/a"]}))
        }
    };
    Command::Group(GroupCommand {
        id: Some("/b".parse().expect("valid")),
        change,
        force,
        dry_run: sim.rng.one_in(8),
    })
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("MEZZO_SIM_SEEDS") else {
        return 0..default;
    };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Tells the seed of what fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was seed {}", self.0);
        }
    }
}

/// Everything goes wrong that can, then nothing does any more.
fn storm(seed: u64, planted: Option<Planted>) {
    let _told = Told(seed);
    let mut sim = Sim::new(
        seed,
        Faults {
            crashes: true,
            breaks: true,
            failures: true,
            lost_agents: true,
        },
    );
    sim.planted = planted;
    sim.connect();
    for step in 0..600 {
        if step % 40 == 0 {
            let command = match sim.rng.one_in(3) {
                true => resident_command(&mut sim),
                false => random_command(&mut sim),
            };
            // Refusals are part of the game.
            let _ = sim.command(command);
        }
        sim.step();
    }
    sim.quiet(seed);
    sim.check_disk();
}

/// An update while scheduler and line break, but no task and no machine does: judged by what runs in the world.
fn roll(seed: u64, planted: Option<Planted>) {
    let _told = Told(seed);
    let faults = Faults {
        crashes: true,
        breaks: true,
        failures: false,
        lost_agents: false,
    };
    let mut sim = Sim::new(seed, faults);
    sim.connect();
    let mut first = body(&mut sim.rng, "/a");
    let n = 1 + sim.rng.below(6);
    first["instances"] = json!(n);
    let app: AppId = "/a".parse().expect("valid");
    let create = Command::Create {
        body: first,
        force: false,
    };
    // A crash may take the command with it, as it takes an HTTP request.
    while !sim.core.state().apps.contains_key(&app) {
        let _ = sim.command(create.clone());
    }
    sim.quiet(seed);
    sim.faults = faults;
    sim.planted = planted;
    let before = sim.core.state().apps[&app].current.config;
    while sim.core.state().apps[&app].current.config == before {
        let _ = sim.command(Command::Restart {
            app: app.clone(),
            force: true,
        });
    }
    let strategy = sim.core.state().apps[&app].current.app.upgrade;
    let n = u32::try_from(n).expect("small");
    let limits = limits(strategy, n, n);
    for step in 0..3000 {
        sim.step();
        if planted == Some(Planted::OneTooFew) && step == 20 {
            sim.kill_one();
        }
        if planted == Some(Planted::OneTooMany) && step == 20 {
            planted::add_twins(&mut sim.world, limits.max_capacity + 1);
        }
        let count = |holds: &dyn Fn(&world::Task) -> bool| {
            let tasks = sim.world.tasks.values();
            u32::try_from(tasks.filter(|task| holds(task)).count()).expect("small")
        };
        let live = count(&|task| task.lives());
        let running = count(&|task| task.state == TaskState::Running);
        assert!(
            live <= limits.max_capacity,
            "seed {seed} step {step}: above the maximum: {live} exist, {limits:?}"
        );
        assert!(
            running >= limits.min_healthy,
            "seed {seed} step {step}: below the minimum: {running} run, {limits:?}"
        );
        if sim.core.state().deployments.is_empty() {
            break;
        }
    }
    sim.quiet(seed);
}

#[test]
fn whatever_happens_in_the_end_exactly_what_is_wanted_runs() {
    for seed in seeds(200) {
        storm(seed, None);
    }
}

#[test]
fn a_rolling_update_without_failures_never_leaves_its_bounds() {
    for seed in seeds(200) {
        roll(seed, None);
    }
}

#[test]
fn what_residents_keep_outlives_everything_but_their_app() {
    for seed in seeds(150) {
        let faults = Faults {
            crashes: true,
            breaks: true,
            failures: true,
            lost_agents: true,
        };
        let mut sim = Sim::new(seed, faults);
        sim.connect();
        let app: AppId = "/r".parse().expect("valid");
        let mut body = resident(&mut sim.rng);
        let n = 1 + sim.rng.below(3);
        body["instances"] = json!(n);
        body["residency"] = json!({"taskLostBehavior": "WAIT_FOREVER"});
        let create = Command::Create { body, force: true };
        while !sim.core.state().apps.contains_key(&app) {
            let _ = sim.command(create.clone());
        }
        sim.quiet(seed);
        let kept: Vec<_> = sim.core.state().apps[&app]
            .holdings
            .keys()
            .copied()
            .collect();
        assert_eq!(kept.len() as u64, n, "seed {seed}");
        sim.faults = faults;
        for step in 0..400 {
            if step % 50 == 0 {
                let _ = sim.command(Command::Restart {
                    app: app.clone(),
                    force: true,
                });
            }
            sim.step();
        }
        sim.quiet(seed);
        let state = sim.core.state();
        let after: Vec<_> = state.apps[&app].holdings.keys().copied().collect();
        assert_eq!(
            kept, after,
            "seed {seed}: nothing is lost, nothing is made beside it"
        );
        while sim.core.state().visible_app(&app).is_some() {
            let _ = sim.command(Command::Delete {
                app: app.clone(),
                force: true,
            });
        }
        sim.quiet(seed);
        let agents = sim.world.agents.keys();
        let left: usize = agents.map(|agent| sim.world.held_on(agent).len()).sum();
        assert_eq!(left, 0, "seed {seed}");
    }
}

#[test]
fn an_update_of_residents_never_has_more_than_asked_for() {
    for seed in seeds(100) {
        let faults = Faults {
            crashes: true,
            breaks: true,
            failures: false,
            lost_agents: false,
        };
        let mut sim = Sim::new(seed, faults);
        sim.connect();
        let app: AppId = "/r".parse().expect("valid");
        let mut body = resident(&mut sim.rng);
        let n = 1 + u32::try_from(sim.rng.below(4)).expect("small");
        body["instances"] = json!(n);
        let create = Command::Create { body, force: true };
        while !sim.core.state().apps.contains_key(&app) {
            let _ = sim.command(create.clone());
        }
        sim.quiet(seed);
        sim.faults = faults;
        let before = sim.core.state().apps[&app].current.config;
        while sim.core.state().apps[&app].current.config == before {
            let _ = sim.command(Command::Restart {
                app: app.clone(),
                force: true,
            });
        }
        let strategy = sim.core.state().apps[&app].current.app.upgrade;
        let limits = resident_bounds(n, strategy, n);
        for step in 0..3000 {
            sim.step();
            let count = |holds: fn(&world::Task) -> bool| {
                sim.world.tasks.values().filter(|task| holds(task)).count() as u32
            };
            let (live, running) = (
                count(world::Task::lives),
                count(|task| task.state == TaskState::Running),
            );
            assert!(live <= n, "seed {seed} step {step}: {live} exist");
            assert!(
                running >= limits.min_healthy,
                "seed {seed} step {step}: {running} run, {limits:?}"
            );
            if sim.core.state().deployments.is_empty() {
                break;
            }
        }
        sim.quiet(seed);
    }
}
