//! What people ask of jobs: new ones, changes, removals, runs, kills.
//!
//! Pure. A command is checked as a whole against the state of the moment and then takes effect as a whole.

use std::sync::Arc;

use serde_json::Value;

use super::core::{JobCore, MAX_UNDER_WAY, disable};
use super::graph;
use super::name::JobName;
use super::parse::{Kind, parse_job};
use super::spec::{Concurrency, Job, Trigger};
use super::state::{Cause, JobState, Verdict};
use crate::app::role::with_default;
use crate::app::{Report, Unknown};
use crate::core::Call;
use crate::core::record::Key;

/// Ten times the largest installation of Chronos that was told of.
const MAX_JOBS: usize = 10_000;
/// Added to a command line by who asks for a run.
const MAX_ARGUMENTS: usize = 10_000;

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum JobCommand {
    /// A job as it shall be.
    Put {
        /// Which; `None`: the body says it.
        name: Option<JobName>,
        /// The job.
        body: Value,
        /// What it must be started by.
        kind: Kind,
        /// Only if there is none of that name.
        create_only: bool,
    },
    /// The job goes, with its runs and their tasks.
    Remove(JobName),
    /// One run more, now.
    Run {
        /// Of which job.
        name: JobName,
        /// Added to its command.
        arguments: Option<String>,
    },
    /// Runs under way end.
    Kill {
        /// Of which job.
        name: JobName,
        /// Which; `None`: all.
        run: Option<u64>,
    },
    /// Slots and parents start it, or do not.
    Enable {
        /// Which job.
        name: JobName,
        /// Do they?
        enabled: bool,
    },
    /// It counts as one that succeeded.
    Succeed(JobName),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum JobReply {
    /// The job is there.
    Put {
        /// Its name.
        name: JobName,
        /// It was not before.
        created: bool,
        /// Fields that had no effect.
        unknown: Vec<Unknown>,
    },
    /// A run has begun.
    Run(u64),
    /// So many runs were told to end.
    Killed(usize),
    /// It is done.
    Done,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JobRefusal {
    /// There is no such job.
    #[error("job '{0}' does not exist")]
    NoJob(JobName),
    /// There is one already.
    #[error("job '{0}' exists already")]
    Exists(JobName),
    /// No such run is under way.
    #[error("job '{0}' has no run {1} under way")]
    NoRun(JobName, u64),
    /// The body is not a job.
    #[error("Object is not valid")]
    Invalid(Report),
    /// Others wait for it.
    #[error(
        "job '{job}' is a parent of {children}: remove these, or give them other parents, first"
    )]
    HasChildren {
        /// Which.
        job: JobName,
        /// Whose parent it is.
        children: String,
    },
    /// It may not run beside itself.
    #[error(
        "job '{job}' has run {run} under way and does not allow two (concurrencyPolicy is \"forbid\"): wait, or kill it"
    )]
    Busy {
        /// Which.
        job: JobName,
        /// The run.
        run: u64,
    },
    /// Too much at once.
    #[error("there are {0} {1}, which is the limit")]
    TooMany(usize, &'static str),
}

impl JobCore {
    /// Does it, or says why not.
    pub(crate) fn command(
        &mut self,
        command: JobCommand,
        now: u64,
    ) -> Result<JobReply, JobRefusal> {
        match command {
            JobCommand::Put {
                name,
                body,
                kind,
                create_only,
            } => self.put(name.as_ref(), &body, kind, create_only, now),
            JobCommand::Remove(name) => self.remove(&name),
            JobCommand::Run { name, arguments } => self.run_now(&name, arguments, now),
            JobCommand::Kill { name, run } => self.kill(&name, run, now),
            JobCommand::Enable { name, enabled } => {
                let mut job = (*self.job(&name)?.job).clone();
                job.disabled = !enabled;
                self.apply(job, now);
                Ok(JobReply::Done)
            }
            JobCommand::Succeed(name) => {
                self.job(&name)?;
                self.succeeded(&name, now);
                Ok(JobReply::Done)
            }
        }
    }

    fn job(&self, name: &JobName) -> Result<&Arc<JobState>, JobRefusal> {
        self.all
            .get(name)
            .ok_or_else(|| JobRefusal::NoJob(name.clone()))
    }

    fn put(
        &mut self,
        name: Option<&JobName>,
        body: &Value,
        kind: Kind,
        create_only: bool,
        now: u64,
    ) -> Result<JobReply, JobRefusal> {
        let body = with_default(body, &self.default_role);
        let (job, mut report) = parse_job(&body, name, kind, now);
        let Some(job) = job else {
            return Err(JobRefusal::Invalid(report));
        };
        let created = !self.all.contains_key(&job.name);
        if create_only && !created {
            return Err(JobRefusal::Exists(job.name));
        }
        if created && self.all.len() >= MAX_JOBS {
            return Err(JobRefusal::TooMany(self.all.len(), "jobs"));
        }
        self.check_parents(&job, &mut report);
        if !report.errors.is_empty() {
            return Err(JobRefusal::Invalid(report));
        }
        let name = job.name.clone();
        self.apply(job, now);
        self.graph_changed();
        Ok(JobReply::Put {
            name,
            created,
            unknown: report.unknown,
        })
    }

    fn check_parents(&self, job: &Job, report: &mut Report) {
        let Some(parents) = job.parents() else { return };
        for (i, parent) in parents.iter().enumerate() {
            if !self.all.contains_key(parent) {
                report.value_problem(
                    format!("/parents({i})"),
                    format!("there is no job {parent}"),
                );
            }
        }
        if let Some(way) = graph::cycle(&self.all, &job.name, parents) {
            let way: Vec<&str> = way.iter().map(JobName::as_str).collect();
            let way = way.join(" before ");
            report.value_problem(
                "/parents",
                format!("would make jobs wait for themselves: {way}"),
            );
        }
    }

    /// The job is this from now on.
    fn apply(&mut self, job: Job, now: u64) {
        let name = job.name.clone();
        if !self.all.contains_key(&name) {
            let state = JobState::new(Arc::new(job.clone()));
            Arc::make_mut(&mut self.all).insert(name.clone(), Arc::new(state));
            self.roles_changed = true;
        }
        let before = &self.all[&name].job;
        let other_offers = (&before.role, before.accepts) != (&job.role, job.accepts);
        self.roles_changed |= other_offers;
        let Some(state) = self.job_mut(&name) else {
            return;
        };
        if other_offers {
            // What was said was about those before.
            for run in state.runs.values_mut() {
                if !run.waits_because.is_empty() {
                    Arc::make_mut(run).waits_because.clear();
                }
            }
        }
        let was_off = state.job.disabled;
        let same_times = state.next.is_some() && state.job.trigger == job.trigger;
        if job.disabled {
            let why = if was_off && !state.disabled_because.is_empty() {
                state.disabled_because.clone()
            } else {
                "on request".to_owned()
            };
            state.job = Arc::new(job);
            disable(state, &why);
            return;
        }
        state.disabled_because.clear();
        if was_off {
            state.tally.failures_in_a_row = 0;
        }
        match &job.trigger {
            Trigger::Times(_) if same_times && !was_off => {}
            Trigger::Times(schedule) => {
                let first = if was_off {
                    schedule.next_after(now.saturating_sub(1))
                } else {
                    schedule.first(now, job.catch_up_ms())
                };
                state.next = match (first, state.last_slot) {
                    (Some(first), Some(last)) if first <= last => schedule.next_after(last),
                    (first, _) => first,
                };
            }
            Trigger::Parents(_) | Trigger::Request => state.next = None,
        }
        let parents = job.parents().cloned().unwrap_or_default();
        state
            .succeeded_parents
            .retain(|parent| parents.contains(parent));
        let no_slot = state.next.is_none() && job.schedule().is_some();
        state.job = Arc::new(job);
        if no_slot {
            disable(state, "its schedule has no slot left");
        }
    }

    fn remove(&mut self, name: &JobName) -> Result<JobReply, JobRefusal> {
        let state = Arc::clone(self.job(name)?);
        let children = self.has_children(name);
        if !children.is_empty() {
            let children: Vec<&str> = children.iter().take(10).map(JobName::as_str).collect();
            return Err(JobRefusal::HasChildren {
                job: name.clone(),
                children: children.join(", "),
            });
        }
        for run in state.runs.values() {
            self.dirty.insert(Key::JobRun(name.clone(), run.number));
            // Should this be lost, the task is killed as one that nobody knows when next it is heard of.
            if let Some(launch) = run.launch() {
                self.tasks.remove(&launch.task_id);
                self.kill_sent.remove(&launch.task_id);
                self.calls.push(Call::Kill {
                    task: launch.task_id.clone(),
                    agent: Some(launch.agent_id.clone()),
                });
            }
        }
        Arc::make_mut(&mut self.all).remove(name);
        self.roles_changed = true;
        self.dirty.insert(Key::Job(name.clone()));
        self.changed = true;
        self.touch(name);
        self.graph_changed();
        Ok(JobReply::Done)
    }

    fn run_now(
        &mut self,
        name: &JobName,
        arguments: Option<String>,
        now: u64,
    ) -> Result<JobReply, JobRefusal> {
        let state = self.job(name)?;
        let arguments = arguments.filter(|text| !text.trim().is_empty());
        if let Some(text) = &arguments
            && (text.len() > MAX_ARGUMENTS || text.contains('\0'))
        {
            let mut report = Report::default();
            let problem = format!("must be at most {MAX_ARGUMENTS} bytes, without NUL");
            report.value_problem("/arguments", problem);
            return Err(JobRefusal::Invalid(report));
        }
        if state.job.concurrency == Concurrency::Forbid
            && let Some(run) = state.under_way().next()
        {
            return Err(JobRefusal::Busy {
                job: name.clone(),
                run: run.number,
            });
        }
        if state.under_way().count() >= MAX_UNDER_WAY {
            return Err(JobRefusal::TooMany(MAX_UNDER_WAY, "runs of it under way"));
        }
        Ok(JobReply::Run(self.begin(
            name,
            Cause::Request,
            now,
            arguments,
            now,
        )))
    }

    fn kill(&mut self, name: &JobName, run: Option<u64>, now: u64) -> Result<JobReply, JobRefusal> {
        let state = self.job(name)?;
        let numbers = state.under_way().map(|run| run.number);
        let numbers: Vec<u64> = numbers
            .filter(|number| run.is_none_or(|run| run == *number))
            .collect();
        if let Some(run) = run.filter(|_| numbers.is_empty()) {
            return Err(JobRefusal::NoRun(name.clone(), run));
        }
        for number in &numbers {
            self.end_early(name, *number, Verdict::Requested, now);
        }
        Ok(JobReply::Killed(numbers.len()))
    }
}
