//! The mind of jobs: commands, statuses, offers and the time in; durable writes and calls to the master out.
//!
//! Pure. A part of [`crate::core::Core`], which feeds it and makes its writes durable before its calls are performed.
//! Each slot becomes a run, or is recorded as skipped or missed, in the same write that moves the job on to its next
//! slot: so no slot is taken twice and none is forgotten, wherever the scheduler dies. A run's task id is durable
//! before the launch, and an attempt follows another only when the task before it is known to have ended.
//!
//! ```text
//!            slot due / parents done / asked for                       an offer
//!   (Run) ──────────────────────────────────────► Waiting ──────────────────────► Active ──► Over
//!                                                    ▲                              │ failed, retries left
//!                                                    └──────────── Delayed ◄────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mezzo_api::model::{AgentId, RoleName, TaskId};

use super::graph;
use super::name::JobName;
use super::spec::Concurrency;
use super::state::{Cause, JobState, Jobs, Outcome, Phase, Run, Verdict};
use crate::core::Call;
use crate::core::record::Key;
use crate::core::state::Condition;

/// Slots of one job decided on in one turn; the rest follow in the next.
const MAX_SLOTS_PER_TURN: usize = 100;
/// Runs of one job under way at once.
pub(super) const MAX_UNDER_WAY: usize = 100;
/// Runs of one job that are over and still known.
const MAX_HISTORY: usize = 100;
/// Attempts told of each run.
const MAX_ATTEMPTS: usize = 20;

/// Times that may be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timing {
    /// A task that does not come to run is killed after this long without a sign of progress.
    pub(crate) launch_timeout_ms: u64,
    /// A kill is repeated after this long.
    pub(crate) kill_retry_ms: u64,
}

/// All jobs and what is pending.
#[derive(Debug)]
pub(crate) struct JobCore {
    timing: Timing,
    /// Of jobs that name none.
    pub(super) default_role: RoleName,
    pub(super) all: Arc<Jobs>,
    /// Which run a task belongs to.
    pub(super) tasks: HashMap<TaskId, (JobName, u64)>,
    /// Derived from `all`.
    children: BTreeMap<JobName, BTreeSet<JobName>>,
    touched: BTreeSet<JobName>,
    wakes: BTreeSet<(u64, JobName)>,
    wake_of: HashMap<JobName, u64>,
    pub(super) kill_sent: HashMap<TaskId, u64>,
    /// Runs that may be launched now.
    pub(super) waiting: BTreeSet<(JobName, u64)>,
    pub(super) dirty: BTreeSet<Key>,
    pub(super) calls: Vec<Call>,
    pub(super) changed: bool,
    /// A role may have come or gone.
    pub(super) roles_changed: bool,
}

impl JobCore {
    /// Goes on from durable state.
    pub(crate) fn new(all: Arc<Jobs>, timing: Timing, default_role: RoleName) -> Self {
        let mut tasks = HashMap::new();
        for (name, state) in all.iter() {
            for run in state.under_way() {
                if let Some(launch) = run.launch() {
                    tasks.insert(launch.task_id.clone(), (name.clone(), run.number));
                }
            }
        }
        Self {
            timing,
            default_role,
            tasks,
            children: graph::children(&all),
            touched: all.keys().cloned().collect(),
            wakes: BTreeSet::new(),
            wake_of: HashMap::new(),
            kill_sent: HashMap::new(),
            waiting: BTreeSet::new(),
            dirty: BTreeSet::new(),
            calls: Vec::new(),
            changed: false,
            roles_changed: false,
            all,
        }
    }

    /// What readers may see.
    pub(crate) fn all(&self) -> &Arc<Jobs> {
        &self.all
    }

    /// The master took the subscription, or it ended: every kill is repeated.
    pub(crate) fn line_changed(&mut self) {
        self.kill_sent.clear();
        self.calls.clear();
        self.touched.extend(self.all.keys().cloned());
    }

    /// All tasks and where they are.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = (&TaskId, &AgentId)> {
        self.all
            .values()
            .flat_map(|state| state.under_way())
            .filter_map(|run| run.launch())
            .map(|launch| (&launch.task_id, &launch.agent_id))
    }

    /// Does everything that follows from what came in and from the time that passed.
    pub(crate) fn settle(&mut self, now: u64, connected: bool) {
        while let Some((at, name)) = self.wakes.first().cloned() {
            if at > now {
                break;
            }
            self.wakes.remove(&(at, name.clone()));
            self.wake_of.remove(&name);
            self.touched.insert(name);
        }
        while let Some(name) = self.touched.pop_first() {
            self.settle_job(&name, now, connected);
        }
    }

    /// When something changes by time alone.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Whether anything differs from the turn before.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The roles in which runs may start.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &RoleName> {
        let jobs = self.all.values();
        jobs.map(|state| state.job.role_or(&self.default_role))
    }

    /// Whether these may differ from the turn before.
    pub(crate) fn take_roles_changed(&mut self) -> bool {
        std::mem::take(&mut self.roles_changed)
    }

    /// Records to be written.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.dirty)
    }

    /// What to ask of the master.
    pub(crate) fn take_calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.calls)
    }

    fn settle_job(&mut self, name: &JobName, now: u64, connected: bool) {
        if !self.all.contains_key(name) {
            self.wake(name, None);
            self.waiting.retain(|(job, _)| job != name);
            return;
        }
        self.take_slots(name, now);
        self.begin_after_parents(name, now);
        self.end_delays(name, now);
        self.judge_overdue(name, now);
        self.forget_oldest(name);
        self.note_waiting(name);
        if connected {
            self.send_kills(name, now);
        }
        let at = self.next_look(name, now);
        self.wake(name, at);
    }

    /// Every slot that has come is decided on: begun, skipped or missed.
    fn take_slots(&mut self, name: &JobName, now: u64) {
        let Some(state) = self.all.get(name) else {
            return;
        };
        let Some(first) = state.next.filter(|next| *next <= now) else {
            return;
        };
        let job = Arc::clone(&state.job);
        let Some(schedule) = job.schedule() else {
            return;
        };
        let mut due = Some(first);
        let oldest = now.saturating_sub(job.catch_up_ms());
        if first < oldest {
            due = schedule.next_after(oldest.saturating_sub(1));
            // The last one missed is not looked for: that could take a year of slots.
            let until = due
                .unwrap_or(oldest)
                .min(oldest)
                .saturating_sub(1)
                .max(first);
            self.record(name, Cause::Slot, first, Outcome::Missed { until }, now);
        }
        for _ in 0..MAX_SLOTS_PER_TURN {
            let Some(slot) = due.filter(|slot| *slot <= now) else {
                break;
            };
            due = schedule.next_after(slot);
            let another = due.is_some_and(|next| next <= now);
            if another && job.concurrency != Concurrency::Allow {
                let why = "a later slot was due as well".to_owned();
                self.record(name, Cause::Slot, slot, Outcome::Skipped { why }, now);
            } else {
                self.begin(name, Cause::Slot, slot, None, now);
            }
            if let Some(state) = self.job_mut(name) {
                state.last_slot = Some(slot);
            }
        }
        let Some(state) = self.job_mut(name) else {
            return;
        };
        state.next = due;
        if due.is_none() && !state.job.disabled {
            disable(state, "its schedule has no slot left");
        }
    }

    fn begin_after_parents(&mut self, name: &JobName, now: u64) {
        let Some(state) = self.all.get(name) else {
            return;
        };
        let Some(parents) = state.job.parents() else {
            return;
        };
        let all_done = parents
            .iter()
            .all(|parent| state.succeeded_parents.contains(parent));
        // One that may not run beside itself keeps what its parents did until its run is over.
        let busy =
            state.job.concurrency == Concurrency::Forbid && state.under_way().next().is_some();
        if state.job.disabled || !all_done || busy {
            return;
        }
        if let Some(state) = self.job_mut(name) {
            state.succeeded_parents.clear();
        }
        self.begin(name, Cause::Parents, now, None, now);
    }

    /// A new run: waiting, or skipped when the job's concurrency says so. Its number.
    pub(super) fn begin(
        &mut self,
        name: &JobName,
        cause: Cause,
        due: u64,
        arguments: Option<String>,
        now: u64,
    ) -> u64 {
        let Some(state) = self.all.get(name) else {
            return 0;
        };
        let under_way: Vec<u64> = state.under_way().map(|run| run.number).collect();
        let why = match (state.job.concurrency, under_way.as_slice()) {
            (Concurrency::Forbid, [first, ..]) => Some(format!("run {first} was still under way")),
            (_, many) if many.len() >= MAX_UNDER_WAY => Some(format!(
                "{} runs were under way, which is the limit",
                many.len()
            )),
            (Concurrency::Allow | Concurrency::Replace | Concurrency::Forbid, _) => None,
        };
        if let Some(why) = why {
            return self.record(name, cause, due, Outcome::Skipped { why }, now);
        }
        if state.job.concurrency == Concurrency::Replace {
            for number in under_way {
                self.end_early(name, number, Verdict::Replaced, now);
            }
        }
        self.add_run(name, cause, due, arguments, Phase::Waiting { since: now })
    }

    /// Notes what became of a slot that was not begun. Its number.
    fn record(
        &mut self,
        name: &JobName,
        cause: Cause,
        due: u64,
        outcome: Outcome,
        now: u64,
    ) -> u64 {
        self.add_run(name, cause, due, None, Phase::Over { outcome, at: now })
    }

    fn add_run(
        &mut self,
        name: &JobName,
        cause: Cause,
        due: u64,
        arguments: Option<String>,
        phase: Phase,
    ) -> u64 {
        let Some(state) = self.job_mut(name) else {
            return 0;
        };
        let number = state.next_run;
        state.next_run += 1;
        let run = Run {
            number,
            cause,
            due,
            arguments,
            attempt: 0,
            drops: 0,
            phase,
            attempts: Vec::new(),
            waits_because: String::new(),
        };
        state.runs.insert(number, Arc::new(run));
        self.dirty.insert(Key::JobRun(name.clone(), number));
        number
    }

    /// No more of this run: over at once if it has no task (or one that cannot be reached, for who asks), else killed.
    pub(super) fn end_early(&mut self, name: &JobName, number: u64, verdict: Verdict, now: u64) {
        let Some(run) = self.run(name, number) else {
            return;
        };
        let asked = verdict == Verdict::Requested;
        let at_once = match &run.phase {
            Phase::Waiting { .. } | Phase::Delayed { .. } => true,
            Phase::Active(launch) => {
                asked && matches!(launch.condition, Condition::Unreachable { .. })
            }
            Phase::Over { .. } => return,
        };
        if at_once {
            if let Some(launch) = run.launch().cloned() {
                // Killed as one that nobody knows when its machine returns.
                self.tasks.remove(&launch.task_id);
                self.kill_sent.remove(&launch.task_id);
            }
            let outcome = if asked {
                Outcome::Killed
            } else {
                Outcome::Replaced
            };
            self.end_run(name, number, outcome, now);
            return;
        }
        let Some(run) = self.run_mut(name, number) else {
            return;
        };
        if let Phase::Active(launch) = &mut run.phase
            && launch
                .verdict
                .is_none_or(|before| asked && before != Verdict::Requested)
        {
            launch.verdict = Some(verdict);
        }
    }

    /// The run is over; what follows for the job and its children.
    pub(super) fn end_run(&mut self, name: &JobName, number: u64, outcome: Outcome, now: u64) {
        let Some(run) = self.run_mut(name, number) else {
            return;
        };
        run.phase = Phase::Over {
            outcome: outcome.clone(),
            at: now,
        };
        let Some(state) = self.job_mut(name) else {
            return;
        };
        match outcome {
            Outcome::Succeeded => self.succeeded(name, now),
            Outcome::Failed => {
                state.tally.failures += 1;
                state.tally.failures_in_a_row += 1;
                state.tally.last_failure = Some(now);
                let (in_a_row, limit) = (
                    state.tally.failures_in_a_row,
                    state.job.disable_after_failures,
                );
                if limit > 0 && in_a_row >= limit && !state.job.disabled {
                    disable(state, &format!("{in_a_row} runs in a row failed"));
                }
                if state.job.soft_error {
                    self.tell_children(name);
                }
            }
            Outcome::Killed
            | Outcome::Replaced
            | Outcome::Skipped { .. }
            | Outcome::Missed { .. } => {}
        }
    }

    /// The job counts as one that has just succeeded.
    pub(super) fn succeeded(&mut self, name: &JobName, now: u64) {
        let Some(state) = self.job_mut(name) else {
            return;
        };
        state.tally.successes += 1;
        state.tally.failures_in_a_row = 0;
        state.tally.last_success = Some(now);
        self.tell_children(name);
    }

    fn tell_children(&mut self, name: &JobName) {
        for child in self.children.get(name).cloned().unwrap_or_default() {
            if let Some(state) = self.job_mut(&child)
                && !state.job.disabled
            {
                state.succeeded_parents.insert(name.clone());
            }
        }
    }

    fn end_delays(&mut self, name: &JobName, now: u64) {
        let over = |phase: &Phase| matches!(phase, Phase::Delayed { until } if *until <= now);
        for number in self.numbers(name, |run| over(&run.phase)) {
            if let Some(run) = self.run_mut(name, number) {
                run.phase = Phase::Waiting { since: now };
            }
        }
    }

    fn judge_overdue(&mut self, name: &JobName, now: u64) {
        let limit = self.timing.launch_timeout_ms;
        let late = |run: &Run| {
            run.launch().is_some_and(|launch| {
                launch.verdict.is_none()
                    && is_launching(launch.condition)
                    && now >= launch.progress_at.saturating_add(limit)
            })
        };
        for number in self.numbers(name, late) {
            self.end_early(name, number, Verdict::Overdue, now);
        }
    }

    /// Keeps the history bounded.
    fn forget_oldest(&mut self, name: &JobName) {
        let over = self.numbers(name, Run::is_over);
        let excess = over.len().saturating_sub(MAX_HISTORY);
        for number in over.into_iter().take(excess) {
            if let Some(state) = self.job_mut(name) {
                state.runs.remove(&number);
            }
            self.dirty.insert(Key::JobRun(name.clone(), number));
        }
    }

    /// Which runs may be launched: all that wait, but never one beside another unless the job allows it.
    fn note_waiting(&mut self, name: &JobName) {
        let Some(state) = self.all.get(name) else {
            return;
        };
        let alone = state.job.concurrency != Concurrency::Allow;
        let has_task = state.under_way().any(|run| run.launch().is_some());
        let mut may: Vec<u64> = state
            .under_way()
            .filter(|run| matches!(run.phase, Phase::Waiting { .. }))
            .map(|run| run.number)
            .collect();
        if alone {
            may.truncate(usize::from(!has_task));
        }
        self.waiting.retain(|(job, _)| job != name);
        self.waiting
            .extend(may.into_iter().map(|number| (name.clone(), number)));
    }

    fn send_kills(&mut self, name: &JobName, now: u64) {
        let Some(state) = self.all.get(name) else {
            return;
        };
        for launch in state.under_way().filter_map(|run| run.launch()) {
            let condemned = launch.verdict.is_some()
                && !matches!(launch.condition, Condition::Unreachable { .. });
            let sent = self.kill_sent.get(&launch.task_id);
            let due = sent.is_none_or(|sent| now >= sent.saturating_add(self.timing.kill_retry_ms));
            if condemned && due {
                self.kill_sent.insert(launch.task_id.clone(), now);
                self.calls.push(Call::Kill {
                    task: launch.task_id.clone(),
                    agent: Some(launch.agent_id.clone()),
                });
            }
        }
    }

    fn next_look(&self, name: &JobName, now: u64) -> Option<u64> {
        let state = self.all.get(name)?;
        // More slots than one turn takes: again at once.
        let slot = state.next.map(|next| next.max(now));
        let runs = state.under_way().filter_map(|run| match &run.phase {
            Phase::Delayed { until } => Some(*until),
            Phase::Active(launch) => match (launch.verdict, launch.condition) {
                (_, Condition::Unreachable { .. }) => None,
                (Some(_), _) => self
                    .kill_sent
                    .get(&launch.task_id)
                    .map(|sent| sent.saturating_add(self.timing.kill_retry_ms)),
                (None, condition) if is_launching(condition) => Some(
                    launch
                        .progress_at
                        .saturating_add(self.timing.launch_timeout_ms),
                ),
                (None, _) => None,
            },
            Phase::Waiting { .. } | Phase::Over { .. } => None,
        });
        runs.chain(slot).min()
    }

    fn wake(&mut self, name: &JobName, at: Option<u64>) {
        if let Some(before) = self.wake_of.remove(name) {
            self.wakes.remove(&(before, name.clone()));
        }
        if let Some(at) = at {
            self.wake_of.insert(name.clone(), at);
            self.wakes.insert((at, name.clone()));
        }
    }

    fn numbers(&self, name: &JobName, of: impl Fn(&Run) -> bool) -> Vec<u64> {
        let runs = self
            .all
            .get(name)
            .into_iter()
            .flat_map(|state| state.runs.values());
        runs.filter(|run| of(run)).map(|run| run.number).collect()
    }

    pub(super) fn run(&self, name: &JobName, number: u64) -> Option<&Arc<Run>> {
        self.all.get(name)?.runs.get(&number)
    }

    /// For changing a job; its record is written in this turn, and it is looked at again.
    pub(super) fn job_mut(&mut self, name: &JobName) -> Option<&mut JobState> {
        if !self.all.contains_key(name) {
            return None;
        }
        self.touched.insert(name.clone());
        self.dirty.insert(Key::Job(name.clone()));
        self.changed = true;
        Arc::make_mut(&mut self.all)
            .get_mut(name)
            .map(Arc::make_mut)
    }

    /// For changing a run; only its own record is written.
    pub(super) fn run_mut(&mut self, name: &JobName, number: u64) -> Option<&mut Run> {
        let state = Arc::make_mut(&mut self.all).get_mut(name)?;
        let run = Arc::make_mut(state).runs.get_mut(&number)?;
        self.touched.insert(name.clone());
        self.dirty.insert(Key::JobRun(name.clone(), number));
        self.changed = true;
        Some(Arc::make_mut(run))
    }

    /// After a job came, changed or went.
    pub(super) fn graph_changed(&mut self) {
        self.children = graph::children(&self.all);
    }

    pub(super) fn has_children(&self, name: &JobName) -> Vec<JobName> {
        self.children
            .get(name)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    pub(super) fn touch(&mut self, name: &JobName) {
        self.touched.insert(name.clone());
    }
}

/// No more slots and no starts by parents, for a reason.
pub(super) fn disable(state: &mut JobState, why: &str) {
    let mut job = (*state.job).clone();
    job.disabled = true;
    state.job = Arc::new(job);
    state.next = None;
    state.succeeded_parents.clear();
    why.clone_into(&mut state.disabled_because);
}

pub(super) fn is_launching(condition: Condition) -> bool {
    matches!(
        condition,
        Condition::Provisioned | Condition::Staging | Condition::Starting
    )
}

/// Adds an attempt that ended and forgets the oldest of many.
pub(super) fn push_attempt(run: &mut Run, attempt: super::state::Attempt) {
    run.attempts.push(attempt);
    let excess = run.attempts.len().saturating_sub(MAX_ATTEMPTS);
    run.attempts.drain(..excess);
}
