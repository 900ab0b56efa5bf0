//! Jobs and runs as JSON.
//!
//! Pure: from a snapshot of the state.

use mezzo_api::model::{Exit, RoleName};
use serde_json::{Value, json};

use crate::core::state::{Condition, State};
use crate::jobs::graph;
use crate::jobs::state::{Attempt, Cause, JobState, Launch, Outcome, Phase, Run};
use crate::time::Timestamp;
use crate::why;

/// A job with what Chronos told of it, and when it runs next.
pub(super) fn job(state: &JobState) -> Value {
    let mut value = chronos_job(state);
    value["next"] = state.next.map_or(Value::Null, time);
    value["disabledBecause"] = json!(state.disabled_because);
    if state.job.parents().is_some() {
        value["succeededParents"] = json!(state.succeeded_parents);
    }
    value["status"] = json!(graph::status(state));
    value["state"] = json!(graph::activity(state));
    value
}

/// The fields of Chronos' own answer.
pub(super) fn chronos_job(state: &JobState) -> Value {
    let tally = &state.tally;
    // Chronos writes nothing as an empty text.
    let when = |at: Option<u64>| at.map_or_else(|| json!(""), time);
    let mut value = state.job.to_json();
    value["successCount"] = json!(tally.successes);
    value["errorCount"] = json!(tally.failures);
    value["lastSuccess"] = when(tally.last_success);
    value["lastError"] = when(tally.last_failure);
    value["errorsSinceLastSuccess"] = json!(tally.failures_in_a_row);
    value
}

/// Of one job, newest first; `default` is the role of jobs that name none.
pub(super) fn runs(state: &State, job: &JobState, default: &RoleName) -> Value {
    let role = job.job.role_or(default);
    let runs = job.runs.values().rev();
    runs.map(|one| run(state, role, one)).collect()
}

fn run(state: &State, role: &RoleName, run: &Run) -> Value {
    let mut value = json!({
        "run": run.number,
        "cause": match run.cause {
            Cause::Slot => "schedule",
            Cause::Parents => "parents",
            Cause::Request => "request",
        },
        "due": time(run.due),
        "arguments": run.arguments,
        "attempt": run.attempt,
        "state": name(run),
        "attempts": run.attempts.iter().map(attempt).collect::<Vec<Value>>(),
    });
    match &run.phase {
        Phase::Waiting { since } => {
            value["since"] = time(*since);
            value["waitsBecause"] = json!(why::why_run_waits(state, role, &run.waits_because));
        }
        Phase::Delayed { until } => value["until"] = time(*until),
        Phase::Active(launch) => value["task"] = task(launch),
        Phase::Over { outcome, at } => {
            value["endedAt"] = time(*at);
            match outcome {
                Outcome::Skipped { why } => value["why"] = json!(why),
                Outcome::Missed { until } => value["until"] = time(*until),
                Outcome::Succeeded | Outcome::Failed | Outcome::Killed | Outcome::Replaced => {}
            }
        }
    }
    value
}

fn name(run: &Run) -> &'static str {
    match &run.phase {
        Phase::Waiting { .. } => "waiting",
        Phase::Delayed { .. } => "delayed",
        Phase::Active(launch) => match (launch.condition, launch.verdict) {
            (Condition::Unreachable { .. }, _) => "unreachable",
            (_, Some(_)) | (Condition::Killing, None) => "killing",
            (Condition::Provisioned | Condition::Staging | Condition::Starting, None) => "starting",
            (Condition::Running, None) => "running",
        },
        Phase::Over { outcome, .. } => outcome.name(),
    }
}

fn task(launch: &Launch) -> Value {
    json!({
        "id": launch.task_id.as_str(),
        "agentId": launch.agent_id.as_str(),
        "host": launch.hostname,
        "launchedAt": time(launch.launched_at),
        "startedAt": launch.started_at.map(time),
        "message": launch.message,
    })
}

fn attempt(attempt: &Attempt) -> Value {
    let (code, signal) = match attempt.exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    json!({
        "attempt": attempt.attempt,
        "taskId": attempt.task_id.as_str(),
        "agentId": attempt.agent_id.as_str(),
        "host": attempt.hostname,
        "launchedAt": time(attempt.launched_at),
        "startedAt": attempt.started_at.map(time),
        "endedAt": time(attempt.ended_at),
        "state": attempt.state.name(),
        "exitCode": code,
        "signal": signal,
        "reason": attempt.reason,
        "message": attempt.message,
    })
}

fn time(millis: u64) -> Value {
    json!(Timestamp::from_millis(millis))
}
