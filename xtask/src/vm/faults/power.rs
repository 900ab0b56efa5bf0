//! Power cords, and machines that stand still.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mezzo_integration::vm::cluster::{Cluster, MASTER, Machine, PATIENCE};
use serde_json::json;

use super::{Scenario, app, deployed, moved, n_same, pick};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "an agent loses power: its tasks run elsewhere in time",
            sampled: true,
            run: agent_loses_power,
        },
        Scenario {
            name: "the master loses power: tasks run on, and it finds them again",
            sampled: true,
            run: master_loses_power,
        },
        Scenario {
            name: "everything loses power at once, and comes back",
            sampled: true,
            run: all_lose_power,
        },
        Scenario {
            name: "power goes while tasks end: every end that was told is kept",
            sampled: true,
            run: power_goes_while_tasks_end,
        },
        Scenario {
            name: "a machine that stood still comes back and does no harm",
            sampled: false,
            run: agent_stands_still,
        },
        Scenario {
            name: "clocks jump by an hour",
            sampled: false,
            run: clocks_jump,
        },
    ]
}

const FIRST: Machine = Machine::agent(1);
const SECOND: Machine = Machine::agent(2);

fn agent_loses_power(cluster: &mut Cluster) -> Result<String> {
    let (dark, other) = pick(&deployed(cluster, &app("cord", 4))?);
    cluster.pull_power(dark)?;
    let took = moved(cluster, "cord", 4, other)?;
    cluster.power_on(dark)?;
    cluster.wait_agents(2)?;
    cluster.wait_running("cord", 4, PATIENCE)?;
    cluster.remove("cord")?;
    Ok(format!("elsewhere after {:.1} s", took.as_secs_f64()))
}

fn master_loses_power(cluster: &mut Cluster) -> Result<String> {
    let before = deployed(cluster, &app("orphans", 4))?;
    cluster.pull_power(MASTER)?;
    let away = cluster.limit(std::time::Duration::from_secs(1));
    cluster.always("tasks outlive the master", away, |cluster| {
        let now = cluster.running("orphans");
        ensure!(n_same(&before, &now) == 4, "these run: {now:?}");
        Ok(())
    })?;
    cluster.power_on(MASTER)?;
    cluster.wait_agents(2)?;
    let after = cluster.wait_running("orphans", 4, PATIENCE)?;
    ensure!(
        n_same(&before, &after) == 4,
        "before {before:?}, after {after:?}"
    );
    cluster.allow("orphans", 5);
    cluster.update("orphans", &json!({ "instances": 5 }))?;
    cluster.wait_running("orphans", 5, PATIENCE)?;
    cluster.remove("orphans")?;
    Ok("the same 4 processes, and a fifth".to_owned())
}

fn all_lose_power(cluster: &mut Cluster) -> Result<String> {
    deployed(cluster, &app("blackout", 4))?;
    for machine in [FIRST, MASTER, SECOND] {
        cluster.pull_power(machine)?;
    }
    for machine in [MASTER, FIRST, SECOND] {
        cluster.power_on(machine)?;
    }
    cluster.wait_agents(2)?;
    cluster.wait_running("blackout", 4, 2 * PATIENCE)?;
    cluster.remove("blackout")?;
    Ok("4 new tasks run".to_owned())
}

/// Tasks end one after the other on a machine whose disk is slow; at the moment when the scheduler has been told of one
/// end more, the power goes. What it was told must be on that disk, or the task gets another end when the machine is
/// back.
fn power_goes_while_tasks_end(cluster: &mut Cluster) -> Result<String> {
    const ROUNDS: usize = 3;
    let mut n_told = 0;
    for round in 1..=ROUNDS {
        let id = format!("brief-{round}");
        let mut brief = app(&id, 12);
        brief["args"] = json!(["10", "--exit-code", "3"]);
        brief["backoffSeconds"] = json!(3600);
        cluster.deploy(&brief)?;
        let what = format!("tasks of {id} on one machine");
        let (victim, tasks) = cluster.until(&what, 2 * PATIENCE, |cluster| {
            let running = cluster.running(&id);
            let there = |machine: Machine| -> BTreeSet<String> {
                let there = running.iter().filter(|one| one.machine == machine.name());
                there.map(|one| one.task.clone()).collect()
            };
            let found = [FIRST, SECOND].map(|machine| (machine, there(machine)));
            let found = found.into_iter().find(|(_, tasks)| tasks.len() >= 4);
            found.with_context(|| format!("these run: {running:?}"))
        })?;
        cluster.guest(victim).slow_disk(10)?;
        let n_ended = |cluster: &Cluster| cluster.ended().intersection(&tasks).count();
        let what = format!("end number {round} there");
        cluster.pull_power_when(victim, &what, 2 * PATIENCE, |cluster| {
            n_ended(cluster) >= round
        })?;
        n_told += n_ended(cluster);
        cluster.power_on(victim)?;
        cluster.wait_agents(2)?;
        cluster.remove(&id)?;
    }
    Ok(format!("{ROUNDS} cords pulled, {n_told} ends told before"))
}

/// Its clock stands still too, so nothing in it knows that the rest of the world has gone on.
fn agent_stands_still(cluster: &mut Cluster) -> Result<String> {
    let before = deployed(cluster, &app("statue", 4))?;
    let (still, other) = pick(&before);
    cluster.freeze(still)?;
    let took = moved(cluster, "statue", 4, other)?;
    cluster.thaw(still)?;
    cluster.wait_agents(2)?;
    let after = cluster.wait_running("statue", 4, PATIENCE)?;
    let kept = n_same(&before, &after);
    cluster.remove("statue")?;
    Ok(format!(
        "replaced after {:.1} s, {kept} of the old ones stay in the end",
        took.as_secs_f64()
    ))
}

fn clocks_jump(cluster: &mut Cluster) -> Result<String> {
    let before = deployed(cluster, &app("time", 4))?;
    for (machine, jump) in [
        (FIRST, 3600),
        (MASTER, 3600),
        (SECOND, -3600),
        (MASTER, -7200),
        (FIRST, -3600),
        (MASTER, 3600),
        (SECOND, 3600),
    ] {
        let set = format!("date -s @$(($(date +%s) + {jump})) >/dev/null");
        cluster.guest(machine).sh(&set)?;
        let watched = cluster.limit(std::time::Duration::from_secs(1));
        cluster.always("the time of day is nothing to tasks", watched, |cluster| {
            let now = cluster.running("time");
            ensure!(n_same(&before, &now) == 4, "these run: {now:?}");
            Ok(())
        })?;
    }
    cluster.allow("time", 6);
    cluster.update("time", &json!({ "instances": 6 }))?;
    let after = cluster.wait_running("time", 6, PATIENCE)?;
    ensure!(n_same(&before, &after) == 4, "{after:?}");
    cluster.remove("time")?;
    Ok("7 jumps, the same 4 processes".to_owned())
}
