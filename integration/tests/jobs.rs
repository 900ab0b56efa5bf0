//! Jobs on a real container: exit code and log are found, and a scheduler that is killed between runs nothing twice.

mod common;

use anyhow::{Context, Result, ensure};
use common::{Stage, check_contains, on_stage};
use mezzo_integration::cluster::{PATIENCE, Server};
use mezzo_integration::{process, wait};
use serde_json::{Value, json};

/// The only run that a job ever had, once it is in that state.
fn run_is(stage: &Stage, name: &str, state: &str) -> Result<Value> {
    wait::until(&format!("{name}: {state}"), PATIENCE, || {
        // The scheduler may just have been killed.
        let runs = stage.ask(&["job", "history", name])?;
        let only = runs.as_array().filter(|runs| runs.len() == 1);
        let found = only.and_then(|runs| runs.iter().find(|run| run["state"] == state));
        found.cloned().with_context(|| format!("its runs: {runs}"))
    })
}

#[test]
fn a_job_runs_once_and_tells_its_exit_code_and_log_also_over_a_killed_scheduler() {
    on_stage("jobs", |stage| {
        let job = json!({
            "name": "once", "schedule": "R1//PT1H", "shell": false, "retries": 0, "cpus": 0.1, "mem": 32, "disk": 0,
            "arguments": ["15", "--exit-code", "7"],
            "container": {"image": stage.registry.reference("sleep:1")},
        });
        let file = stage.dir.join("once.json");
        std::fs::write(&file, job.to_string()).context("write the job's file")?;
        process::output(
            &mut stage
                .cluster
                .mezzo(&["job", "add", &file.display().to_string()]),
        )?;
        let running = run_is(stage, "once", "running")?;
        let task = running["task"]["id"]
            .as_str()
            .context("no task")?
            .to_owned();
        stage.cluster.kill_server(Server::Scheduler)?;
        let ended = run_is(stage, "once", "failed")?;
        let attempts = ended["attempts"]
            .as_array()
            .cloned()
            .context("no attempts")?;
        ensure!(attempts.len() == 1, "tried more than once: {attempts:?}");
        ensure!(
            attempts[0]["taskId"] == task.as_str(),
            "another task ran: {ended}"
        );
        ensure!(attempts[0]["exitCode"] == 7, "{ended}");
        let log = process::output(&mut stage.cluster.mezzo(&["job", "log", "once"]))?;
        check_contains(&log, "sleep 1 starts")?;
        ensure!(log.matches("starts").count() == 1, "it ran twice: {log}");
        let job = stage.ask(&["job", "show", "once"])?;
        ensure!(job["disabled"] == true, "its only slot is over: {job}");
        process::output(&mut stage.cluster.mezzo(&["job", "remove", "once"]))?;
        Ok(())
    });
}
