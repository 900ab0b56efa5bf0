//! Apps and pods whose instances keep a volume each.

use mezzo_api::model::TaskState;
use mezzo_scheduler::app::AppId;
use mezzo_scheduler::core::command::Command;
use mezzo_scheduler::reconcile::resident_bounds;
use serde_json::json;

use super::commands::{resident, resident_pod};
use super::runs::seeds;
use super::sim::{Faults, Sim};
use super::world;

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
        // Of pods as of apps.
        let create = match sim.rng.one_in(2) {
            true => Command::Create { body, force: true },
            false => Command::CreatePod {
                body: resident_pod(n),
                force: true,
            },
        };
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
