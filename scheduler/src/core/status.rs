//! What a task's status changes.
//!
//! Pure. Terminal states end the instance (its record goes, a replacement follows from the reconciler), with back-off
//! where the task itself is to blame. Every status with an update id is acknowledged, after the turn's writes.

use std::sync::Arc;

use mezzo_api::model::{AgentId, Reason, TaskId, TaskState, TaskStatus};

use super::members::instance_of;
use super::record::Key;
use super::state::{Condition, Instance, TaskFailure};
use super::{Call, Core};
use crate::app::AppId;
use crate::app::spec::UnreachableStrategy;
use crate::time::Timestamp;

impl Core {
    /// Takes note of a status.
    pub fn status(&mut self, status: &TaskStatus, now: u64) {
        self.state.counters.statuses += 1;
        if self.unconfirmed.remove(&status.task_id) {
            // What waited for a word of it may go on.
            self.touched
                .extend(self.tasks.get(&status.task_id).cloned());
        }
        if let (Some(update), Some(agent)) = (&status.update_id, &status.agent_id) {
            self.calls.push(Call::Acknowledge {
                task: status.task_id.clone(),
                agent: agent.clone(),
                update: update.clone(),
            });
        }
        if self.jobs.status(status, now) {
            return;
        }
        let owner = self.tasks.get(&status.task_id).cloned();
        match owner {
            Some(app) if self.has_instance(&app, &status.task_id) => {
                self.instance_status(&app, status, now)
            }
            Some(app) => match instance_of(&status.task_id) {
                Some(instance) if self.has_instance(&app, &instance) => {
                    self.member_status(&app, &instance, status, now);
                }
                Some(_) | None => self.stray_status(status),
            },
            None => self.stray_status(status),
        }
    }

    fn has_instance(&self, app: &AppId, task: &TaskId) -> bool {
        self.state
            .apps
            .get(app)
            .is_some_and(|app| app.instances.contains_key(task))
    }

    /// A task of a removed app, or one that nobody knows: neither is wanted.
    fn stray_status(&mut self, status: &TaskStatus) {
        match status.state {
            TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Gone
            | TaskState::Unknown => {
                self.orphan_status(status);
                self.tell_unknown_end(status);
            }
            TaskState::Staging | TaskState::Starting | TaskState::Running => {
                self.calls.push(Call::Kill {
                    task: status.task_id.clone(),
                    agent: status.agent_id.clone(),
                })
            }
            TaskState::Killing | TaskState::Unreachable => {}
        }
    }

    pub(super) fn instance_status(&mut self, app: &AppId, status: &TaskStatus, now: u64) {
        match status.state {
            TaskState::Staging => self.moved(app, status, Condition::Staging, now),
            TaskState::Starting => self.moved(app, status, Condition::Starting, now),
            TaskState::Running => self.moved(app, status, Condition::Running, now),
            TaskState::Killing => self.moved(app, status, Condition::Killing, now),
            TaskState::Unreachable => {
                self.moved(app, status, Condition::Unreachable { since: now }, now)
            }
            TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Gone
            | TaskState::Unknown => self.ended(app, status, now),
        }
    }

    fn moved(&mut self, app_id: &AppId, status: &TaskStatus, to: Condition, now: u64) {
        let Some(app) = self.state.apps.get(app_id) else {
            return;
        };
        let Some(before) = app.instances.get(&status.task_id) else {
            return;
        };
        let strategy = app.active().app.when_unreachable();
        let after = next(before, status, to, strategy, now);
        if after == **before {
            return;
        }
        let holding = before.holding;
        let started =
            before.condition != Condition::Running && after.condition == Condition::Running;
        let before = Arc::clone(before);
        let after = Arc::new(after);
        self.tell_moved(&before, &after, status);
        self.put_instance(app_id, after);
        let Some(app) = self.app_mut(app_id) else {
            return;
        };
        if started && app.backoff != app.backoff.after_start() {
            app.backoff = app.backoff.after_start();
            self.dirty.insert(Key::App(app_id.clone()));
        }
        if matches!(to, Condition::Starting | Condition::Running)
            && let Some(holding) = holding
        {
            self.keep(app_id, holding);
        }
    }

    fn ended(&mut self, app_id: &AppId, status: &TaskStatus, now: u64) {
        let Some(instance) = self.take_instance(app_id, &status.task_id) else {
            return;
        };
        let Some(app) = self.app_mut(app_id) else {
            return;
        };
        let asked_for = instance.sentence.is_some();
        let strategy = app.active().app.backoff;
        let current = instance.config == app.active().config;
        let failing = asked_for && instance.was_failing(now);
        let (backoff, blamed) = match status.state {
            TaskState::Failed | TaskState::Finished | TaskState::Error | TaskState::Killed
                if failing || (!asked_for && status.state != TaskState::Killed) =>
            {
                (
                    app.backoff.after_failure(strategy, instance.staged_at, now),
                    true,
                )
            }
            TaskState::Dropped if !asked_for => (
                app.backoff.after_drop(strategy, instance.staged_at, now),
                false,
            ),
            TaskState::Failed
            | TaskState::Finished
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Killed
            | TaskState::Gone
            | TaskState::Unknown
            | TaskState::Staging
            | TaskState::Starting
            | TaskState::Running
            | TaskState::Killing
            | TaskState::Unreachable => (app.backoff, false),
        };
        if current {
            app.backoff = backoff;
        }
        if !asked_for && !matches!(status.state, TaskState::Finished | TaskState::Killed) {
            app.last_failure = Some(failure(&instance, status, now));
        } else if failing {
            app.last_failure = Some(TaskFailure {
                message: "ended because it failed its health check".to_owned(),
                ..failure(&instance, status, now)
            });
        }
        self.state.counters.failed += u64::from(blamed);
        self.tell_ended(&instance, status, failing);
        self.dirty.insert(Key::App(app_id.clone()));
    }
}

/// The instance after a status that does not end it.
fn next(
    before: &Instance,
    status: &TaskStatus,
    to: Condition,
    strategy: UnreachableStrategy,
    now: u64,
) -> Instance {
    let mut after = before.clone();
    let is_launching = |condition| {
        matches!(
            condition,
            Condition::Provisioned | Condition::Staging | Condition::Starting
        )
    };
    match to {
        // An answer that is older than what is known says nothing.
        Condition::Provisioned | Condition::Staging | Condition::Starting
            if matches!(before.condition, Condition::Running | Condition::Killing)
                || (before.condition == Condition::Starting && to != Condition::Starting) =>
        {
            return after;
        }
        Condition::Unreachable { .. }
            if matches!(before.condition, Condition::Unreachable { .. }) =>
        {
            return after;
        }
        Condition::Provisioned
        | Condition::Staging
        | Condition::Starting
        | Condition::Running
        | Condition::Killing
        | Condition::Unreachable { .. } => {}
    }
    if let (Condition::Unreachable { since }, UnreachableStrategy::After { expunge_ms, .. }) =
        (before.condition, strategy)
    {
        after.late |= now >= since.saturating_add(expunge_ms);
    }
    let reconciled = status.reason == Some(Reason::Reconciliation);
    if is_launching(to)
        && (to != before.condition || (status.message != before.message && !reconciled))
    {
        after.progress_at = now;
    }
    after.condition = to;
    if let Some(container) = &status.container {
        after.addresses.clone_from(&container.ip_addresses);
    }
    if to == Condition::Running {
        after.started_at.get_or_insert(if status.timestamp_ms == 0 {
            now
        } else {
            status.timestamp_ms
        });
        after.hear_health(status, now);
        if let Some(readiness) = &status.readiness
            && !before.readiness.as_ref().is_some_and(|known| known.ready)
        {
            after.readiness = Some(readiness.clone());
        }
        // As of health, no answer takes it back.
        if let Some(result) = &status.check_result {
            after.check_result = Some(result.clone());
        }
    }
    if !reconciled {
        after.message = cut(&status.message);
    }
    after
}

fn failure(instance: &Instance, status: &TaskStatus, now: u64) -> TaskFailure {
    let agent_id: AgentId = status
        .agent_id
        .clone()
        .unwrap_or_else(|| instance.agent_id.clone());
    let reason = status.reason.map_or("", Reason::name);
    TaskFailure {
        task_id: instance.task_id.clone(),
        state: status.state,
        message: if status.message.is_empty() {
            reason.to_owned()
        } else {
            cut(&status.message)
        },
        host: instance.hostname.clone(),
        agent_id,
        version: instance.version,
        timestamp: Timestamp::from_millis(now),
    }
}

/// Messages come from outside and are kept: not more than a screenful.
pub(super) fn cut(message: &str) -> String {
    message.chars().take(2000).collect()
}
