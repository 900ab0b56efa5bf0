//! An app whose instances fail their health checks, one, some or all of them, and recover: while scheduler and line break,
//! but no task ends by itself and no machine is lost. Judged by what runs in the world.

use std::sync::Arc;

use mezzo_api::model::{Reason, TaskId, TaskState};
use mezzo_scheduler::app::AppId;
use mezzo_scheduler::core::Call;
use mezzo_scheduler::core::command::Command;
use mezzo_scheduler::core::state::{AppState, Sentence, State};
use mezzo_scheduler::reconcile::{Phase, at_a_time};
use serde_json::{Value, json};

use super::rules::Planted;
use super::runs::Told;
use super::sim::{Faults, Sim};
use super::world::World;

impl World {
    /// One of the health checks of a task that runs passes, or fails.
    pub(crate) fn check(&mut self, id: &TaskId, number: usize, healthy: bool) {
        let tasks = self.tasks.get_mut(id);
        let running = tasks.filter(|task| task.state == TaskState::Running);
        let word = running.and_then(|task| task.health.get_mut(number));
        let Some(word) = word.filter(|word| **word != Some(healthy)) else {
            return;
        };
        *word = Some(healthy);
        self.agent_says(id, Some(Reason::HealthCheckStatusUpdated));
    }

    /// The readiness check of a task that runs passes, or fails.
    pub(crate) fn probe(&mut self, id: &TaskId, ready: bool) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let is_checked = task.info.readiness_check.is_some() && task.state == TaskState::Running;
        if is_checked && task.ready != Some(ready) {
            task.ready = Some(ready);
            self.agent_says(id, None);
        }
    }
}

/// One, or two of which each has a patience of its own.
fn health_checks(sim: &mut Sim) -> Value {
    let n = 1 + sim.rng.below(2);
    let checks = (0..n).map(|_| {
        json!({
            "protocol": "TCP", "portIndex": 0, "gracePeriodSeconds": 1,
            "intervalSeconds": 1 + sim.rng.below(5), "timeoutSeconds": 1, "maxConsecutiveFailures": 1 + sim.rng.below(3),
        })
    });
    checks.collect()
}

/// With checks; of a size that leaves room for replacements, or hardly any.
fn checked(sim: &mut Sim, id: &str, n: u64) -> Value {
    let machines = sim.world.agents.len() as u64;
    let tight = sim.rng.one_in(2);
    // All of them have 8 processors.
    let cpus = if tight {
        8.0 / n.div_ceil(machines) as f64
    } else {
        0.5
    };
    let mut app = json!({
        "id": id,
        "cpus": (cpus * 1000.0).floor() / 1000.0,
        "mem": 16,
        "instances": n,
        "container": {"docker": {"image": "image:1"}},
        "portDefinitions": [{"port": 0, "name": "up"}],
        "healthChecks": health_checks(sim),
        "upgradeStrategy": {
            // More than half, and on full machines an update would wait for ever.
            "minimumHealthCapacity": sim.rng.below(3) as f64 / 4.0,
            "maximumOverCapacity": sim.rng.below(3) as f64 / 2.0,
        },
        "unreachableStrategy": "disabled",
    });
    if sim.rng.one_in(2) {
        app["readinessChecks"] = json!([{"name": "up", "portName": "up"}]);
    }
    app
}

fn failing(app: &AppState, now: u64) -> Vec<TaskId> {
    let members = app.members(now).into_iter();
    let failing = members.filter(|one| matches!(one.phase, Phase::Failing | Phase::FailingLong));
    failing.map(|one| one.id).collect()
}

/// The bug [`Planted::Rash`].
pub(crate) fn kill_all(world: &mut World, state: &State, now: u64) {
    for task in state.apps.values().flat_map(|app| failing(app, now)) {
        let agent = None;
        world.perform(Call::Kill { task, agent }, now, true);
    }
}

/// The bug [`Planted::Unreplaced`].
pub(crate) fn end_one(state: &mut State, now: u64) {
    for app in state.apps.values_mut() {
        if let Some(id) = failing(app, now).first()
            && let Some(one) = Arc::make_mut(app).instances.get_mut(id)
        {
            Arc::make_mut(one).sentence = Some(Sentence::NotWanted);
        }
    }
}

/// Checks of one running task come to a result.
fn checks(sim: &mut Sim, sick_in_ten: u64) {
    let tasks = sim.world.tasks.iter();
    let running = tasks.filter(|(_, task)| task.state == TaskState::Running);
    let running: Vec<TaskId> = running.map(|(id, _)| id.clone()).collect();
    let at = sim.rng.below(running.len() as u64) as usize;
    if let Some(id) = running.get(at) {
        for number in 0..sim.world.tasks[id].health.len() {
            let healthy = sim.rng.below(10) >= sick_in_ten;
            sim.world.check(id, number, healthy);
        }
        let ready = sim.rng.one_in(2);
        sim.world.probe(id, ready);
    }
}

pub(crate) fn sick(seed: u64, planted: Option<Planted>) {
    let _told = Told(seed);
    let faults = Faults {
        crashes: true,
        breaks: true,
        failures: false,
        lost_agents: false,
    };
    let mut sim = Sim::new(seed, faults);
    sim.connect();
    let app: AppId = "/a".parse().expect("valid");
    let n = 1 + sim.rng.below(10);
    let create = Command::Create {
        body: checked(&mut sim, "/a", n),
        force: false,
    };
    // A crash may take the command with it, as it takes an HTTP request.
    while !sim.core.state().apps.contains_key(&app) {
        let _ = sim.command(create.clone());
    }
    sim.quiet(seed);
    sim.faults = faults;
    sim.planted = planted;
    let n = u32::try_from(n).expect("small");
    let mut sick_in_ten = 0;
    for step in 0..1000 {
        if step % 100 == 0 {
            sick_in_ten = [0, 3, 10, 10][sim.rng.below(4) as usize];
        }
        sim.step();
        checks(&mut sim, sick_in_ten);
        if step % 10 == 0 {
            sim.now += sim.rng.below(10_000);
        }
        let tasks = sim.world.tasks.values();
        let running = tasks.filter(|task| task.state == TaskState::Running);
        let running = u32::try_from(running.count()).expect("small");
        assert!(
            running + at_a_time(n) >= n,
            "seed {seed} step {step}: more than its share ends for bad health: {running} of {n} run"
        );
    }
    if sim.rng.one_in(2) {
        let _ = sim.command(Command::Restart { app, force: true });
        for _ in 0..200 {
            sim.step();
            checks(&mut sim, sick_in_ten);
        }
    }
    sim.quiet(seed);
    sim.check_disk();
}

#[test]
fn what_is_sick_is_replaced_before_it_ends_and_a_set_share_at_a_time() {
    for seed in super::seeds(60) {
        sick(seed, None);
    }
}
