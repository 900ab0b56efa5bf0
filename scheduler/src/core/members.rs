//! How an instance of a pod stands by how its containers stand: each is a task of its own with statuses of its own, and
//! everything else in the core knows only the instance.
//!
//! ```text
//! status of a task ──► its member ──► one status for the whole instance ──► as if the instance were a task
//! ```
//!
//! Pure, and by level: the instance's status follows from how all members stand, not from which came last.

use std::sync::Arc;

use mezzo_api::model::{CheckResult, Exit, Reason, TaskId, TaskState, TaskStatus, health_of_all};
use serde::{Deserialize, Serialize};

use super::Core;
use super::record::Key;
use super::state::Instance;
use super::status::cut;
use crate::app::pod::Pod;
use crate::app::{App, AppId};
use crate::events::EventKind;
use crate::events::json::instance_id;
use crate::task::pod::task_id;

/// One container of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its task, used once.
    pub task_id: TaskId,
    /// The container's name in the pod.
    pub name: String,
    /// The latest that is known.
    pub state: TaskState,
    /// Since when, Unix milliseconds.
    pub since: u64,
    /// Has a health check.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checked: bool,
    /// Its latest word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// What its check found last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_result: Option<Box<CheckResult>>,
    /// So long it may go on to fail it; `None`: for ever, or the agent ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<u64>,
    /// The agent's latest words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How it ended, where it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// The members of a new instance of `app`.
pub(super) fn members(app: &App, pod: &Pod, instance: &TaskId, now: u64) -> Vec<Member> {
    pod.containers
        .iter()
        .map(|container| Member {
            task_id: task_id(instance, &container.name),
            name: container.name.clone(),
            state: TaskState::Staging,
            since: now,
            checked: !container.spec.health_checks.is_empty(),
            healthy: None,
            check_result: None,
            patience_ms: container.whole(app, pod).most_patience_ms(),
            message: String::new(),
            exit_code: None,
        })
        .collect()
}

impl Instance {
    /// The tasks that may still run: the instance itself, or of a pod those of its containers that have not ended.
    pub fn live_tasks(&self) -> impl Iterator<Item = &TaskId> {
        let own = self.members.is_empty().then_some(&self.task_id);
        let members = self.members.iter();
        let live = members.filter(|member| !has_ended(member.state));
        own.into_iter().chain(live.map(|member| &member.task_id))
    }

    /// A container of it has ended and not well, so all of it is to end. The agent sees to that by itself; it is asked all the
    /// same, because nobody else ends what is left of an instance of which a container was lost.
    #[must_use]
    pub fn is_doomed(&self) -> bool {
        let mut ended = self.members.iter().map(|member| member.state);
        ended.any(|state| has_ended(state) && state != TaskState::Finished)
    }

    /// It is to be told to end.
    #[must_use]
    pub fn is_to_end(&self) -> bool {
        self.sentence.is_some() || self.is_doomed()
    }

    /// Every name by which statuses may speak of it.
    pub fn names(&self) -> impl Iterator<Item = &TaskId> {
        let members = self.members.iter().map(|member| &member.task_id);
        std::iter::once(&self.task_id).chain(members)
    }
}

/// The instance that a task of a pod's container belongs to.
pub(super) fn instance_of(task: &TaskId) -> Option<TaskId> {
    instance_id(task.as_str()).parse().ok()
}

fn has_ended(state: TaskState) -> bool {
    match state {
        TaskState::Finished
        | TaskState::Failed
        | TaskState::Killed
        | TaskState::Error
        | TaskState::Dropped
        | TaskState::Gone
        | TaskState::Unknown => true,
        TaskState::Staging
        | TaskState::Starting
        | TaskState::Running
        | TaskState::Killing
        | TaskState::Unreachable => false,
    }
}

/// How far on the way to running, and how much to blame for an end.
fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Staging | TaskState::Finished => 0,
        TaskState::Starting | TaskState::Killed => 1,
        TaskState::Running | TaskState::Unknown => 2,
        TaskState::Dropped => 3,
        TaskState::Gone => 4,
        TaskState::Killing | TaskState::Unreachable | TaskState::Failed => 5,
        TaskState::Error => 6,
    }
}

/// The member after a status; `None` if it says nothing new.
fn after(before: &Member, status: &TaskStatus, now: u64) -> Option<Member> {
    // What has ended stays so, and an answer that is older than what is known says nothing.
    let is_launching = matches!(status.state, TaskState::Staging | TaskState::Starting);
    let ran = matches!(before.state, TaskState::Running | TaskState::Killing);
    let goes_back = before.state == TaskState::Starting && status.state == TaskState::Staging;
    if has_ended(before.state) || (is_launching && ran) || goes_back {
        return None;
    }
    let mut member = before.clone();
    if member.state != status.state {
        member.state = status.state;
        member.since = now;
    }
    // Some answers leave the health out; none ever takes it back.
    member.healthy = status.healthy.or(before.healthy);
    if let Some(result) = &status.check_result {
        member.check_result = Some(result.clone());
    }
    if status.reason != Some(Reason::Reconciliation) {
        member.message = cut(&status.message);
    }
    let exit = status.exit.as_ref().and_then(|exit| exit.exit);
    if let Some(Exit::Code(code)) = exit {
        member.exit_code = Some(code);
    }
    (member != *before).then_some(member)
}

/// How the instance stands by its members, and the member that says so.
fn together(members: &[Member]) -> Option<(TaskState, &Member)> {
    let live = || members.iter().filter(|member| !has_ended(member.state));
    let ended = || members.iter().filter(|member| has_ended(member.state));
    let Some(slowest) = live().min_by_key(|member| rank(member.state)) else {
        // The first of those that are most to blame: the others were ended because of it.
        let most = ended().map(|member| rank(member.state)).max()?;
        let first = ended().find(|member| rank(member.state) == most)?;
        return Some((first.state, first));
    };
    if let Some(away) = live().find(|member| member.state == TaskState::Unreachable) {
        return Some((TaskState::Unreachable, away));
    }
    // One that ended well leaves the others to run on; any other end is the end of all.
    if let Some(cause) = ended().find(|member| member.state != TaskState::Finished) {
        return Some((TaskState::Killing, cause));
    }
    if let Some(going) = live().find(|member| member.state == TaskState::Killing) {
        return Some((TaskState::Killing, going));
    }
    Some((slowest.state, slowest))
}

/// Healthy when all say so that are asked and run on, unhealthy when one says so.
fn health(members: &[Member]) -> Option<bool> {
    let asked = members
        .iter()
        .filter(|member| member.checked && member.state != TaskState::Finished);
    health_of_all(asked.map(|member| member.healthy))
}

impl Core {
    /// A status of a task that is a container of a pod's instance.
    pub(super) fn member_status(
        &mut self,
        app_id: &AppId,
        instance: &TaskId,
        status: &TaskStatus,
        now: u64,
    ) {
        let known = self.state.apps.get(app_id);
        let Some(before) = known.and_then(|app| app.instances.get(instance)).cloned() else {
            return;
        };
        let mut changed = (*before).clone();
        let Some(member) = changed
            .members
            .iter_mut()
            .find(|member| member.task_id == status.task_id)
        else {
            return;
        };
        let Some(next) = after(member, status, now) else {
            return;
        };
        let is_said = next.state != member.state || next.message != member.message;
        *member = next;
        let failing = changed
            .members
            .iter()
            .filter(|one| one.healthy == Some(false));
        changed.patience_ms = failing.filter_map(|one| one.patience_ms).min();
        let Some((state, of)) = together(&changed.members) else {
            return;
        };
        let whole = TaskStatus {
            task_id: instance.clone(),
            state,
            message: match of.message.as_str() {
                "" => String::new(),
                words => format!("{}: {words}", of.name),
            },
            healthy: health(&changed.members),
            // Of this container alone, which shows it.
            check_result: None,
            ..status.clone()
        };
        let changed = Arc::new(changed);
        // It may have written, however the others stand.
        if matches!(status.state, TaskState::Starting | TaskState::Running)
            && let Some(holding) = changed.holding
        {
            self.keep(app_id, holding);
        }
        if is_said {
            self.tell(EventKind::StatusUpdate {
                task: status.task_id.clone(),
                instance: Arc::clone(&changed),
                state: status.state,
                message: cut(&status.message),
            });
        }
        self.put_instance(app_id, changed);
        self.instance_status(app_id, &whole, now);
    }

    /// The same of an instance whose pod is gone; says whether the last of it has ended.
    pub(super) fn orphan_status(&mut self, status: &TaskStatus) {
        let named = |id: &TaskId| self.state.orphans.contains_key(id);
        let id = Some(status.task_id.clone())
            .filter(named)
            .or_else(|| instance_of(&status.task_id).filter(named));
        let Some(id) = id else { return };
        let Some(orphan) = self.state.orphans.get_mut(&id) else {
            return;
        };
        let orphan = Arc::make_mut(orphan);
        for member in &mut orphan.members {
            if member.task_id == status.task_id {
                member.state = status.state;
            }
        }
        if orphan.members.is_empty() || orphan.live_tasks().next().is_none() {
            self.state.orphans.remove(&id);
        }
        self.dirty.insert(Key::Instance(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(states: &[TaskState]) -> Vec<Member> {
        let numbered = states.iter().enumerate();
        numbered
            .map(|(i, state)| Member {
                task_id: format!("t{i}").parse().expect("valid"),
                name: format!("c{i}"),
                state: *state,
                since: 0,
                checked: false,
                healthy: None,
                check_result: None,
                patience_ms: None,
                message: String::new(),
                exit_code: None,
            })
            .collect()
    }

    #[test]
    fn an_instance_stands_as_the_slowest_of_its_containers_and_ends_as_the_one_to_blame() {
        use TaskState::{
            Dropped, Failed, Finished, Killed, Killing, Running, Staging, Starting, Unreachable,
        };
        for (states, want, of) in [
            (&[Staging, Staging][..], Staging, "c0"),
            (&[Running, Starting], Starting, "c1"),
            (&[Running, Running], Running, "c0"),
            (&[Finished, Running], Running, "c1"),
            (&[Finished, Starting, Running], Starting, "c1"),
            (&[Failed, Running], Killing, "c0"),
            (&[Killed, Running], Killing, "c0"),
            (&[Running, Killing], Killing, "c1"),
            (&[Running, Unreachable], Unreachable, "c1"),
            (&[Killed, Failed, Killed], Failed, "c1"),
            (&[Finished, Finished], Finished, "c0"),
            (&[Finished, Killed], Killed, "c1"),
            (&[Dropped, Killed], Dropped, "c0"),
        ] {
            let members = members(states);
            let (state, member) = together(&members).expect("some");
            assert_eq!((state, member.name.as_str()), (want, of), "{states:?}");
        }
    }

    #[test]
    fn all_that_are_asked_must_be_healthy_and_one_that_is_done_is_not_asked() {
        for (words, want) in [
            (&[Some(true), Some(true)][..], Some(true)),
            (&[Some(true), None], None),
            (&[Some(false), None], Some(false)),
        ] {
            let mut members = members(&[TaskState::Running; 2]);
            for (member, word) in members.iter_mut().zip(words) {
                member.checked = true;
                member.healthy = *word;
            }
            assert_eq!(health(&members), want, "{words:?}");
            members[1].state = TaskState::Finished;
            assert_eq!(health(&members), words[0]);
        }
    }
}
