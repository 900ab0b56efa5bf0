//! Limits of running tasks: told to the runtime, changed, written down, answered. Pure.

use mezzo_api::model::{FrameworkId, LimitChange, TaskInfo};

use super::Core;
use crate::{
    node::{ContainerId, LimitError, Limits},
    recovery::checkpoint::Checkpoint,
    task::{
        TaskKey,
        change::{Changing, Refused, changed},
        entry::{Entry, Phase},
        event::Effect,
        limits,
    },
};

impl Core {
    /// Begins to change a task's limits; the answer comes with [`Effect::Answer`], unless it is refused here and now.
    pub(crate) fn change_limits(
        &mut self,
        framework: Option<&FrameworkId>,
        task: &str,
        change: &LimitChange,
    ) -> Result<(ContainerId, Vec<Effect>), Refused> {
        let found = match framework {
            None => self.find(task),
            Some(framework) => task.parse().ok().and_then(|task| {
                let framework = framework.clone();
                self.get(&TaskKey { framework, task })
            }),
        };
        let entry = found.ok_or(Refused::NotFound)?;
        match entry.phase {
            Phase::Creating(_) | Phase::Launching { .. } => {
                return Err(Refused::NotRunning("is not running yet"));
            }
            Phase::Running { .. } => {}
            Phase::Killing { .. } => return Err(Refused::NotRunning("is being killed")),
            Phase::Ended { .. } => return Err(Refused::ended()),
        }
        let holder = entry.holder.clone();
        if entry.changing.is_some() || holder.as_ref().is_some_and(|of| self.changes_group(of)) {
            return Err(Refused::Busy);
        }
        let after = changed(&entry.info, change)?;
        if let Some(outcome) = limits::refuse(&after, self.settings.cgroup_mode) {
            return Err(Refused::Invalid(outcome.message));
        }
        let id = entry.container.clone();
        if let Some(entry) = self.entry(&id) {
            entry.changing = Some(Changing::Applying(Box::new(after)));
        }
        let mut effects = Vec::new();
        match holder {
            None => self.tell_limits(&id, &mut effects),
            Some(holder) => self.widen_group(&holder, &id, &mut effects),
        }
        Ok((id, effects))
    }

    /// Tells the runtime what a container may use, as things stand.
    pub(crate) fn tell_limits(&mut self, id: &ContainerId, effects: &mut Vec<Effect>) {
        let Some(limits) = self.wanted_limits(id) else {
            return;
        };
        if let Some(entry) = self.entry(id) {
            entry.told_limits = Some(limits.clone());
            effects.push(Effect::Limit(id.clone(), Box::new(limits)));
        }
    }

    /// Tells the runtime the limits of all running tasks that have others than it was told: after somebody got or gave
    /// back processors of their own.
    pub(crate) fn tell_all_limits(&mut self, effects: &mut Vec<Effect>) {
        let running: Vec<_> = self
            .tasks
            .values()
            .filter(|entry| entry.is_alive())
            .map(|entry| entry.container.clone())
            .collect();
        for id in running {
            self.tell_new_limits(&id, effects);
        }
    }

    /// The same for one of them.
    pub(super) fn tell_new_limits(&mut self, id: &ContainerId, effects: &mut Vec<Effect>) {
        let wanted = self.wanted_limits(id);
        if self
            .entry(id)
            .is_some_and(|entry| entry.told_limits != wanted)
        {
            self.tell_limits(id, effects);
        }
    }

    /// What a container may use, as things stand.
    pub(super) fn wanted_limits(&self, id: &ContainerId) -> Option<Limits> {
        let entry = self.tasks.get(self.by_container.get(id)?)?;
        let limits = limits::limits(
            wanted_info(entry),
            self.grants.processors(&entry.grant),
            self.settings.default_pids,
        );
        Some(if entry.info.revocable {
            limits::held_back(limits, id, &self.lent.throttle)
        } else {
            limits
        })
    }

    pub(super) fn limited(
        &mut self,
        id: &ContainerId,
        told: &Limits,
        result: Result<(), LimitError>,
        effects: &mut Vec<Effect>,
    ) {
        if self.groups.contains_key(id) {
            self.group_limited(id, told, result, effects);
            return;
        }
        // Others are on their way already: those decide.
        if self.wanted_limits(id).is_none_or(|wanted| wanted != *told) {
            return;
        }
        let boot_id = self.settings.boot_id.clone();
        let Some(entry) = self.entry(id) else { return };
        let after = match entry.changing.take() {
            Some(Changing::Applying(after)) => after,
            other @ (Some(Changing::Recording(_)) | None) => {
                entry.changing = other;
                if let Err(error) = result
                    && entry.is_alive()
                    && error != LimitError::NotRunning
                {
                    tracing::warn!(task = %entry.key, container = %id, %error, "runs under other limits than those on record");
                }
                return;
            }
        };
        match result {
            Ok(()) => {
                let before = std::mem::replace(&mut entry.info, *after);
                entry.changing = Some(Changing::Recording(Box::new(before)));
                effects.push(Effect::Rewrite(Box::new(checkpoint(entry, boot_id))));
            }
            Err(error) => {
                let unsure = matches!(error, LimitError::Failed(_));
                effects.push(Effect::Answer(id.clone(), Err(refusal(error))));
                if unsure {
                    self.tell_limits(id, effects);
                }
                self.settle_group(id, effects);
            }
        }
    }

    pub(super) fn rewritten(
        &mut self,
        written: &Checkpoint,
        result: Result<(), String>,
        effects: &mut Vec<Effect>,
    ) {
        let (id, boot_id) = (&written.container, self.settings.boot_id.clone());
        let Some(entry) = self.entry(id) else { return };
        // One that was taken back, written late.
        if written.info != entry.info {
            return;
        }
        let before = match entry.changing.take() {
            Some(Changing::Recording(before)) => before,
            other @ (Some(Changing::Applying(_)) | None) => {
                entry.changing = other;
                return;
            }
        };
        match result {
            Ok(()) => {
                tracing::info!(task = %entry.key, container = %id, "limits changed");
                effects.push(Effect::Answer(id.clone(), Ok(Box::new(entry.task()))));
                self.settle_group(id, effects);
            }
            Err(error) => {
                entry.info = *before;
                // What was not synced may be there after a crash; once the disk works again it is not.
                effects.push(Effect::Rewrite(Box::new(checkpoint(entry, boot_id))));
                let message = format!("the task's checkpoint cannot be written: {error}");
                effects.push(Effect::Answer(id.clone(), Err(Refused::Failed(message))));
                self.tell_limits(id, effects);
                self.settle_group(id, effects);
            }
        }
    }
}

/// Why nothing changed, for whoever asked.
pub(super) fn refusal(error: LimitError) -> Refused {
    match error {
        LimitError::NotRunning => Refused::ended(),
        LimitError::Refused(message) => Refused::Invalid(message),
        LimitError::Failed(message) => Refused::Failed(message),
    }
}

/// The task as it is, or is becoming.
fn wanted_info(entry: &Entry) -> &TaskInfo {
    match &entry.changing {
        Some(Changing::Applying(after)) => after,
        Some(Changing::Recording(_)) | None => &entry.info,
    }
}

/// The checkpoint of a task of this boot.
fn checkpoint(entry: &Entry, boot_id: String) -> Checkpoint {
    Checkpoint {
        container: entry.container.clone(),
        framework: entry.key.framework.clone(),
        role: entry.role.clone(),
        boot_id,
        created_at_ms: entry.created_at_ms,
        info: entry.info.clone(),
        grant: entry.grant.clone(),
        holder: entry.holder.clone(),
    }
}
