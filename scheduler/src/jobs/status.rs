//! What a status of a job's task changes.
//!
//! Pure. An end is an end of the attempt: a retry follows after its delay, or the run is over. A launch that never came
//! to run anything is made again without counting.

use mezzo_api::model::{Reason, TaskState, TaskStatus};

use super::core::{JobCore, is_launching, push_attempt};
use super::name::JobName;
use super::state::{Attempt, Launch, Outcome, Phase, Verdict};
use crate::core::state::Condition;

/// Launches in a row that may be lost before the next one waits.
const FREE_DROPS: u32 = 3;
/// The longest wait after launches that were lost.
const MAX_DROP_DELAY_MS: u64 = 60_000;
/// Messages come from outside and are kept: not more than a screenful.
const MAX_MESSAGE: usize = 2000;

impl JobCore {
    /// Takes note of a status. Whether it is of one of the jobs' tasks.
    pub(crate) fn status(&mut self, status: &TaskStatus, now: u64) -> bool {
        let Some((name, number)) = self.tasks.get(&status.task_id).cloned() else {
            return false;
        };
        let launch = self.run(&name, number).and_then(|run| run.launch());
        let Some(launch) = launch
            .filter(|launch| launch.task_id == status.task_id)
            .cloned()
        else {
            return false;
        };
        match status.state {
            TaskState::Staging => {
                self.moved(&name, number, launch, Condition::Staging, status, now)
            }
            TaskState::Starting => {
                self.moved(&name, number, launch, Condition::Starting, status, now)
            }
            TaskState::Running => {
                self.moved(&name, number, launch, Condition::Running, status, now)
            }
            TaskState::Killing => {
                self.moved(&name, number, launch, Condition::Killing, status, now)
            }
            TaskState::Unreachable => {
                let since = if let Condition::Unreachable { since } = launch.condition {
                    since
                } else {
                    now
                };
                self.moved(
                    &name,
                    number,
                    launch,
                    Condition::Unreachable { since },
                    status,
                    now,
                );
            }
            TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Gone
            | TaskState::Unknown => self.ended(&name, number, &launch, status, now),
        }
        true
    }

    fn moved(
        &mut self,
        name: &JobName,
        number: u64,
        before: Launch,
        to: Condition,
        status: &TaskStatus,
        now: u64,
    ) {
        // An answer that is older than what is known says nothing.
        let stale = is_launching(to)
            && (matches!(before.condition, Condition::Running | Condition::Killing)
                || (before.condition == Condition::Starting && to != Condition::Starting));
        if stale {
            return;
        }
        let reconciled = status.reason == Some(Reason::Reconciliation);
        let mut after = before.clone();
        if is_launching(to)
            && (to != before.condition || (status.message != before.message && !reconciled))
        {
            after.progress_at = now;
        }
        after.condition = to;
        if to == Condition::Running {
            let at = if status.timestamp_ms == 0 {
                now
            } else {
                status.timestamp_ms
            };
            after.started_at.get_or_insert(at);
        }
        if !reconciled {
            after.message = cut(&status.message);
        }
        if after == before {
            return;
        }
        // One that returns is told again that it must go.
        if matches!(before.condition, Condition::Unreachable { .. }) {
            self.kill_sent.remove(&status.task_id);
        }
        let given_up = after.verdict == Some(Verdict::Requested)
            && matches!(after.condition, Condition::Unreachable { .. });
        if let Some(run) = self.run_mut(name, number) {
            run.phase = Phase::Active(after);
        }
        if given_up {
            self.end_early(name, number, Verdict::Requested, now);
        }
    }

    fn ended(
        &mut self,
        name: &JobName,
        number: u64,
        launch: &Launch,
        status: &TaskStatus,
        now: u64,
    ) {
        self.tasks.remove(&status.task_id);
        self.kill_sent.remove(&status.task_id);
        let Some(retries) = self.all.get(name).map(|state| state.job.retries) else {
            return;
        };
        let Some(run) = self.run_mut(name, number) else {
            return;
        };
        push_attempt(run, attempt(run.attempt, launch, status, now));
        // Unknown and gone: the master never had it, or lost it on the way to the agent.
        let never_ran = status.state == TaskState::Dropped
            || (matches!(status.state, TaskState::Unknown | TaskState::Gone)
                && matches!(
                    launch.condition,
                    Condition::Provisioned | Condition::Staging
                ));
        match (status.state, launch.verdict) {
            (TaskState::Finished, _) => self.end_run(name, number, Outcome::Succeeded, now),
            (_, Some(Verdict::Requested)) => self.end_run(name, number, Outcome::Killed, now),
            (_, Some(Verdict::Replaced)) => self.end_run(name, number, Outcome::Replaced, now),
            (_, None) if never_ran => {
                run.drops += 1;
                run.phase = match run.drops.checked_sub(FREE_DROPS + 1) {
                    None => Phase::Waiting { since: now },
                    Some(n) => {
                        let delay = 1000u64
                            .checked_shl(n)
                            .unwrap_or(u64::MAX)
                            .min(MAX_DROP_DELAY_MS);
                        Phase::Delayed {
                            until: now.saturating_add(delay),
                        }
                    }
                };
            }
            (_, None | Some(Verdict::Overdue)) if run.attempt < retries.count => {
                run.attempt += 1;
                run.drops = 0;
                run.phase = Phase::Delayed {
                    until: now.saturating_add(retries.delay_before(run.attempt)),
                };
            }
            (_, None | Some(Verdict::Overdue)) => self.end_run(name, number, Outcome::Failed, now),
        }
    }
}

fn attempt(number: u32, launch: &Launch, status: &TaskStatus, now: u64) -> Attempt {
    let from_agent = status.update_id.is_some() && status.timestamp_ms != 0;
    Attempt {
        attempt: number,
        task_id: launch.task_id.clone(),
        agent_id: launch.agent_id.clone(),
        hostname: launch.hostname.clone(),
        launched_at: launch.launched_at,
        started_at: launch.started_at,
        ended_at: if from_agent { status.timestamp_ms } else { now },
        state: status.state,
        exit: status.exit.as_ref().and_then(|exit| exit.exit),
        reason: status.reason.map_or("", Reason::name).to_owned(),
        message: cut(&status.message),
    }
}

fn cut(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}
