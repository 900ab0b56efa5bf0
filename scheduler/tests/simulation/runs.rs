//! Whole runs, one for each seed: a storm, and an update that is judged by what runs in the world.

use std::collections::BTreeSet;

use mezzo_api::model::{RoleName, TaskState};
use mezzo_scheduler::app::AppId;
use mezzo_scheduler::core::command::Command;
use serde_json::json;

use super::commands::{body, random_command, resident_command};
use super::planted;
use super::rules::{Planted, limits};
use super::sim::{Faults, Sim};
use super::world;

pub(crate) fn seeds(default: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("MEZZO_SIM_SEEDS") else {
        return 0..default;
    };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Tells the seed of what fails.
pub(crate) struct Told(pub(crate) u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was seed {}", self.0);
        }
    }
}

/// Everything goes wrong that can, then nothing does any more.
pub(crate) fn storm(seed: u64, planted: Option<Planted>) {
    storm_in(seed, planted);
}

/// The same; gives the roles in which something was launched.
pub(crate) fn storm_in(seed: u64, planted: Option<Planted>) -> BTreeSet<RoleName> {
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
    sim.roles_met
}

/// An update while scheduler and line break, but no task and no machine does: judged by what runs in the world.
pub(crate) fn roll(seed: u64, planted: Option<Planted>) {
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
