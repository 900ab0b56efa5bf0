//! What people ask for, drawn from the seed: apps, pods, residents, groups, and changes of them.

use mezzo_api::model::TaskId;
use mezzo_scheduler::app::AppId;
use mezzo_scheduler::core::command::{Command, Update, Wipe};
use mezzo_scheduler::core::groups::{GroupChange, GroupCommand};
use serde_json::{Value, json};

use super::sim::Sim;
use super::world::Rng;

pub(crate) fn body(rng: &mut Rng, id: &str) -> Value {
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
    let mut body = json!({
        "id": id,
        "cpus": 0.5,
        "mem": 64,
        "instances": rng.below(6),
        "container": {"docker": {"image": format!("image:{}", rng.below(3))}},
        "upgradeStrategy": upgrade,
        "unreachableStrategy": unreachable,
    });
    // In the group /b.
    if !matches!(id, "/a" | "/d" | "/p") {
        put_role(rng, &mut body);
    }
    body
}

fn put_role(rng: &mut Rng, body: &mut Value) {
    match rng.below(4) {
        0 => body["role"] = "*".into(),
        1 | 2 => {
            body["role"] = "b".into();
            body["acceptedResourceRoles"] = match rng.below(4) {
                0 => json!(["*"]),
                1 => json!(["b"]),
                2 => json!(["b", "*"]),
                _ => Value::Null,
            };
        }
        _ => {}
    }
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

/// One whose containers all write to what an instance keeps.
pub(crate) fn resident_pod(instances: u64) -> Value {
    let container = |name: &str| {
        json!({
            "name": name,
            "image": {"id": "image:0"},
            "resources": {"cpus": 0.25, "mem": 32},
            "volumeMounts": [{"name": "data", "mountPath": "data"}],
        })
    };
    json!({
        "id": "/r",
        "volumes": [{"name": "data", "persistent": {"size": 100}}],
        "containers": [container("one"), container("two")],
        "scaling": {"kind": "fixed", "instances": instances},
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

pub(crate) fn random_command(sim: &mut Sim) -> Command {
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
                pass_over: false,
                scale: sim.rng.one_in(2),
                wipe: Wipe::Nothing,
                force,
            }
        }
    }
}

/// An app whose instances keep a volume each.
pub(crate) fn resident(rng: &mut Rng) -> Value {
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

pub(crate) fn resident_command(sim: &mut Sim) -> Command {
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
            pass_over: sim.rng.one_in(2),
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
    let change = match sim.rng.below(5) {
        4 => GroupChange::EnforceRole(sim.rng.one_in(2)),
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
