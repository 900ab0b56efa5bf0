//! Links that are cut, in one direction or both, and links that lose and delay.

use std::time::Duration;

use anyhow::{Result, ensure};
use mezzo_integration::vm::Weather;
use mezzo_integration::vm::cluster::{Cluster, PATIENCE};
use serde_json::json;

use super::{AGENT_TIMEOUT, PING_TIMEOUT, Scenario, app, deployed, moved, n_same, on, pick};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a partition: each app does as its unreachableStrategy says",
            sampled: true,
            run: partition,
        },
        Scenario {
            name: "an agent that hears but is not heard",
            sampled: false,
            run: one_way,
        },
        Scenario {
            name: "links that lose a tenth and delay the rest",
            sampled: false,
            run: bad_weather,
        },
    ]
}

/// One app replaces at once (the default), another waits.
fn partition(cluster: &mut Cluster) -> Result<String> {
    let hasty = deployed(cluster, &app("hasty", 4))?;
    let mut patient = app("patient", 2);
    patient["unreachableStrategy"] =
        json!({ "inactiveAfterSeconds": 3600, "expungeAfterSeconds": 7200 });
    let before = deployed(cluster, &patient)?;
    let (lonely, other) = pick(&hasty);
    let n_alone = on(&before, lonely);
    cluster.isolate(lonely);
    let took = moved(cluster, "hasty", 4, other)?;
    cluster.until(
        "the patient app's tasks to be told unreachable",
        PATIENCE,
        |cluster| {
            let states = cluster.rest("GET", "/v2/apps/patient/tasks", "")?.ok()?;
            let unreachable = states.text.matches("TASK_UNREACHABLE").count();
            ensure!(
                unreachable == n_alone,
                "{n_alone} of them are alone, {unreachable} are told to be unreachable: {}",
                states.text
            );
            Ok(())
        },
    )?;
    cluster.heal();
    cluster.wait_agents(2)?;
    cluster.wait_running("hasty", 4, PATIENCE)?;
    let after = cluster.wait_running("patient", 2, PATIENCE)?;
    ensure!(
        n_same(&before, &after) == 2,
        "the patient app's tasks were {before:?} and are {after:?}"
    );
    cluster.remove("hasty")?;
    cluster.remove("patient")?;
    Ok(format!(
        "{n_alone} of 2 alone; the others replaced after {:.1} s, never more than asked after the return",
        took.as_secs_f64()
    ))
}

fn one_way(cluster: &mut Cluster) -> Result<String> {
    let (unheard, other) = pick(&deployed(cluster, &app("mute", 4))?);
    cluster.mute(unheard);
    let took = moved(cluster, "mute", 4, other)?;
    cluster.heal();
    cluster.wait_agents(2)?;
    cluster.wait_running("mute", 4, PATIENCE)?;
    cluster.remove("mute")?;
    Ok(format!("replaced after {:.1} s", took.as_secs_f64()))
}

fn bad_weather(cluster: &mut Cluster) -> Result<String> {
    let rain = Weather {
        cut: false,
        loss: 0.1,
        delay: Duration::from_millis(30),
    };
    for one in 1..=3 {
        for other in 1..=3 {
            cluster.network().set(one, other, rain);
        }
    }
    let in_rain = 2 * PATIENCE + AGENT_TIMEOUT + PING_TIMEOUT;
    cluster.deploy(&app("rain", 2))?;
    cluster.wait_running("rain", 2, in_rain)?;
    cluster.allow("rain", 6);
    cluster.update("rain", &json!({ "instances": 6 }))?;
    cluster.wait_running("rain", 6, in_rain)?;
    cluster.heal();
    cluster.wait_agents(2)?;
    cluster.wait_running("rain", 6, PATIENCE)?;
    cluster.remove("rain")?;
    Ok("deployed and scaled".to_owned())
}
