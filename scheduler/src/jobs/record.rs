//! The durable form of jobs: one record per job, one per run, so that a turn writes only what it changed.
//!
//! Pure. In tables of their own, so that a scheduler from before there were jobs still reads its own. Unknown fields
//! are ignored, missing new ones must have a serde default.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::name::JobName;
use super::spec::Job;
use super::state::{JobState, Jobs, Run, Tally};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobRecord {
    job: Job,
    next: Option<u64>,
    last_slot: Option<u64>,
    succeeded_parents: BTreeSet<JobName>,
    next_run: u64,
    tally: Tally,
    disabled_because: String,
}

/// The bytes of a job's record.
#[must_use]
pub(crate) fn encode_job(state: &JobState) -> Vec<u8> {
    to_json(&JobRecord {
        job: (*state.job).clone(),
        next: state.next,
        last_slot: state.last_slot,
        succeeded_parents: state.succeeded_parents.clone(),
        next_run: state.next_run,
        tally: state.tally.clone(),
        disabled_because: state.disabled_because.clone(),
    })
}

/// The bytes of a run's record.
#[must_use]
pub(crate) fn encode_run(run: &Run) -> Vec<u8> {
    to_json(run)
}

/// Reads a job's record, without its runs.
pub(crate) fn decode_job(bytes: &[u8]) -> Result<JobState, String> {
    let record: JobRecord = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(JobState {
        next: record.next,
        last_slot: record.last_slot,
        succeeded_parents: record.succeeded_parents,
        next_run: record.next_run,
        tally: record.tally,
        disabled_because: record.disabled_because,
        ..JobState::new(Arc::new(record.job))
    })
}

/// Reads a run's record.
pub(crate) fn decode_run(bytes: &[u8]) -> Result<Run, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Gives the jobs their runs. A run without a job is of one that was removed.
pub(crate) fn assemble(mut jobs: BTreeMap<JobName, JobState>, runs: Vec<(JobName, Run)>) -> Jobs {
    for (name, run) in runs {
        if let Some(job) = jobs.get_mut(&name) {
            job.runs.insert(run.number, Arc::new(run));
        }
    }
    jobs.into_iter()
        .map(|(name, job)| (name, Arc::new(job)))
        .collect()
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have string keys and no failing serializers")
}
