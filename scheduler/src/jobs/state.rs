//! What is known of jobs: their runs, under way and over, and what decides the next one.
//!
//! Pure data, durable but for what says so (see `record`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mezzo_api::model::{AgentId, Exit, TaskId, TaskState};
use serde::{Deserialize, Serialize};

use super::name::JobName;
use super::spec::Job;
use crate::core::state::Condition;

/// All jobs.
pub type Jobs = BTreeMap<JobName, Arc<JobState>>;

/// One job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobState {
    /// What it is meant to be.
    pub job: Arc<Job>,
    /// The first slot that is not decided on; Unix milliseconds, as all times here.
    pub next: Option<u64>,
    /// The last slot that was: a new schedule never goes back before it.
    pub last_slot: Option<u64>,
    /// The parents that succeeded since its last run.
    pub succeeded_parents: BTreeSet<JobName>,
    /// The number of its next run.
    pub next_run: u64,
    /// How its runs ended.
    pub tally: Tally,
    /// Why it is disabled, if it is.
    pub disabled_because: String,
    /// Those under way, and the latest of those that are over.
    pub runs: BTreeMap<u64, Arc<Run>>,
}

impl JobState {
    /// A job that never ran.
    #[must_use]
    pub fn new(job: Arc<Job>) -> Self {
        Self {
            job,
            next: None,
            last_slot: None,
            succeeded_parents: BTreeSet::new(),
            next_run: 1,
            tally: Tally::default(),
            disabled_because: String::new(),
            runs: BTreeMap::new(),
        }
    }

    /// The runs that are not over.
    pub fn under_way(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.values().filter(|run| !run.is_over())
    }
}

/// How many runs ended how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// In all.
    pub successes: u64,
    /// After all attempts.
    pub failures: u64,
    /// When.
    pub last_success: Option<u64>,
    /// When.
    pub last_failure: Option<u64>,
    /// Since the last success.
    pub failures_in_a_row: u32,
}

/// Why a run is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// A slot of the schedule.
    Slot,
    /// All parents succeeded.
    Parents,
    /// Somebody asked.
    Request,
}

/// One run: a slot, or what stands for it, with all its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Grows by one per job.
    pub number: u64,
    /// Why it is there.
    pub cause: Cause,
    /// The slot, or when it was asked for.
    pub due: u64,
    /// Added to the command by who asked.
    pub arguments: Option<String>,
    /// The attempt that is made or waited for; the first is 0.
    pub attempt: u32,
    /// Launches in a row that never came to run, through no fault of the job's.
    pub drops: u32,
    /// Where it stands.
    pub phase: Phase,
    /// Those that ended, oldest first; only the latest of many.
    pub attempts: Vec<Attempt>,
    /// Memory only: why the latest offers were not enough.
    #[serde(skip)]
    pub waits_because: String,
}

impl Run {
    /// Whether nothing of it can happen any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over { .. })
    }

    /// Its task, if there is one.
    #[must_use]
    pub fn launch(&self) -> Option<&Launch> {
        match &self.phase {
            Phase::Active(launch) => Some(launch),
            Phase::Waiting { .. } | Phase::Delayed { .. } | Phase::Over { .. } => None,
        }
    }
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// For an offer.
    Waiting {
        /// Since when.
        since: u64,
    },
    /// For the time of its next attempt.
    Delayed {
        /// Until when.
        until: u64,
    },
    /// It has a task.
    Active(Launch),
    /// For good.
    Over {
        /// How it ended.
        outcome: Outcome,
        /// When.
        at: u64,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// An attempt did.
    Succeeded,
    /// All attempts did.
    Failed,
    /// On request.
    Killed,
    /// A newer run took its place.
    Replaced,
    /// It was not begun.
    Skipped {
        /// For people.
        why: String,
    },
    /// Slots that passed too long ago, when nobody was there to take them.
    Missed {
        /// The last of them; the first is when the run was due.
        until: u64,
    },
}

impl Outcome {
    /// As it is written.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Replaced => "replaced",
            Self::Skipped { .. } => "skipped",
            Self::Missed { .. } => "missed",
        }
    }
}

/// Why a task is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Somebody asked.
    Requested,
    /// A newer run waits for its place.
    Replaced,
    /// It did not come to run in time.
    Overdue,
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Launch {
    /// Used once.
    pub task_id: TaskId,
    /// Where.
    pub agent_id: AgentId,
    /// As people know the machine.
    pub hostname: String,
    /// When.
    pub launched_at: u64,
    /// When it first ran.
    pub started_at: Option<u64>,
    /// Where it stands.
    pub condition: Condition,
    /// It is to end.
    pub verdict: Option<Verdict>,
    /// When something last was heard of its way to running.
    pub progress_at: u64,
    /// The agent's latest words.
    pub message: String,
}

/// A task that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Its number; those that never came to run have that of the next.
    pub attempt: u32,
    /// Used once.
    pub task_id: TaskId,
    /// Where.
    pub agent_id: AgentId,
    /// As people know the machine.
    pub hostname: String,
    /// When.
    pub launched_at: u64,
    /// When it first ran, if it did.
    pub started_at: Option<u64>,
    /// When.
    pub ended_at: u64,
    /// How.
    pub state: TaskState,
    /// Of its process.
    pub exit: Option<Exit>,
    /// Mesos' word for why.
    pub reason: String,
    /// For people.
    pub message: String,
}
