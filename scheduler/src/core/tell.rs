//! What the core tells of what it does: events, in the order in which things happened.
//!
//! Pure. They are gathered during a turn and get its time at its end, with the writes that make them true.

use std::sync::Arc;

use mezzo_api::model::{FrameworkId, Reason, TaskState, TaskStatus};
use serde_json::Value;

use super::Core;
use super::command::{Command, Refusal, Reply};
use super::groups::GroupChange;
use super::state::{AppState, Instance};
use crate::app::{AppId, AppVersion};
use crate::deployment::DeploymentId;
use crate::events::{Event, EventKind, Origin, condition};
use crate::group::GroupId;

/// The group that a command changes, or that its app lies in; `None` if it deploys nothing.
pub(super) fn about(command: &Command) -> Option<GroupId> {
    let of_body = |body: &Value| -> Option<GroupId> {
        let id = body.get("id")?.as_str()?;
        Some(GroupId::of(&id.parse::<AppId>().ok()?))
    };
    match command {
        Command::Create { body, .. } | Command::CreatePod { body, .. } => of_body(body),
        Command::UpdatePod { dry_run: true, .. } => None,
        Command::UpdatePod { pod, .. } => Some(GroupId::of(pod)),
        Command::Update { dry_run: true, .. } => None,
        Command::Update { updates, .. } => match updates.as_slice() {
            [one] => one
                .app
                .as_ref()
                .map(GroupId::of)
                .or_else(|| of_body(&one.body)),
            [] | [_, _, ..] => Some(GroupId::root()),
        },
        Command::Restart { app, .. } | Command::Delete { app, .. } => Some(GroupId::of(app)),
        Command::Group(command) if command.dry_run => None,
        Command::Group(command) => command.id.clone().or_else(|| match &command.change {
            GroupChange::Create(body) | GroupChange::Update(body) => {
                body.get("id")?.as_str()?.parse().ok()
            }
            GroupChange::Delete | GroupChange::EnforceRole(_) => Some(GroupId::root()),
        }),
        Command::CancelDeployment { .. } | Command::KillTasks { .. } => Some(GroupId::root()),
        Command::Promote { .. } | Command::ResetDelay { .. } | Command::Job(_) => None,
    }
}

/// Marathon's word for an end.
fn end(state: TaskState) -> &'static str {
    match state {
        TaskState::Finished => "Finished",
        TaskState::Failed => "Failed",
        TaskState::Killed => "Killed",
        TaskState::Error => "Error",
        TaskState::Dropped => "Dropped",
        TaskState::Gone => "Gone",
        TaskState::Unknown
        | TaskState::Staging
        | TaskState::Starting
        | TaskState::Running
        | TaskState::Killing
        | TaskState::Unreachable => "Unknown",
    }
}

impl Core {
    pub(super) fn tell(&mut self, kind: EventKind) {
        self.events.push(kind);
    }

    pub(super) fn take_events(&mut self, now: u64) -> Vec<Event> {
        std::mem::take(&mut self.events)
            .into_iter()
            .map(|kind| Event { at: now, kind })
            .collect()
    }

    /// A request about apps was taken: to be called with the reply, before the turn.
    pub fn tell_request(&mut self, origin: &Origin, reply: &Reply) {
        let Reply::Deployed { id, .. } = reply else {
            return;
        };
        let Some(deployment) = self.state.deployments.get(id).cloned() else {
            return;
        };
        for (app, before) in &deployment.original {
            let Some(state) = self.state.apps.get(app) else {
                continue;
            };
            let origin = origin.clone();
            if !state.is_pod() {
                let app = Arc::clone(&state.current);
                self.tell(EventKind::ApiPost { origin, app });
            } else if self.state.is_stopping(app) {
                self.tell(EventKind::PodDeleted { origin });
            } else if before.is_none() {
                self.tell(EventKind::PodCreated { origin });
            } else {
                self.tell(EventKind::PodUpdated { origin });
            }
        }
    }

    pub(super) fn tell_outcome(&mut self, about: Option<GroupId>, result: &Result<Reply, Refusal>) {
        let Some(group) = about else { return };
        match result {
            Ok(Reply::Deployed { version, .. }) => {
                let version = *version;
                self.tell(EventKind::GroupChangeSuccess { group, version });
            }
            Err(
                refusal @ (Refusal::Locked(_)
                | Refusal::TooManyDeployments(_)
                | Refusal::Impossible { .. }),
            ) => {
                let reason = refusal.to_string();
                self.tell(EventKind::GroupChangeFailed { group, reason });
            }
            Ok(Reply::Planned { .. } | Reply::Killed(_) | Reply::Done | Reply::Job(_)) | Err(_) => {
            }
        }
    }

    pub(super) fn tell_subscribed(&mut self, framework: &FrameworkId) {
        let is_known = self.state.framework_id.as_ref() == Some(framework);
        self.tell(if is_known {
            EventKind::SchedulerReregistered
        } else {
            EventKind::SchedulerRegistered(framework.clone())
        });
    }

    pub(super) fn tell_launched(&mut self, instance: Arc<Instance>) {
        let condition = condition(&instance);
        self.tell(EventKind::InstanceChanged {
            instance,
            condition,
        });
    }

    /// A status that did not end the instance changed it.
    pub(super) fn tell_moved(
        &mut self,
        before: &Instance,
        after: &Arc<Instance>,
        status: &TaskStatus,
    ) {
        let stands_elsewhere = condition(before) != condition(after);
        let is_said = stands_elsewhere || before.message != after.message;
        // Of a pod's instance each container's task tells its own.
        let is_task = after.members.is_empty();
        if is_task && (is_said || before.addresses != after.addresses) {
            self.tell(EventKind::StatusUpdate {
                task: after.task_id.clone(),
                instance: Arc::clone(after),
                state: status.state,
                message: after.message.clone(),
            });
        }
        if stands_elsewhere {
            self.tell_launched(Arc::clone(after));
        }
        self.tell_health(before, after);
    }

    fn tell_health(&mut self, before: &Instance, after: &Arc<Instance>) {
        if before.healthy != after.healthy {
            self.tell(EventKind::InstanceHealthChanged {
                instance: Arc::clone(after),
            });
        } else if before.checks == after.checks {
            return;
        }
        let version = self
            .state
            .apps
            .get(&after.app)
            .and_then(|app| app.versions.get(&after.version))
            .cloned();
        for (number, (was, word)) in before.words().zip(after.words()).enumerate() {
            let Some(alive) = word.filter(|_| was != word) else {
                continue;
            };
            if let Some(app) = version.as_ref().filter(|_| !alive) {
                self.tell(EventKind::FailedHealthCheck {
                    instance: Arc::clone(after),
                    app: Arc::clone(app),
                    number,
                });
            }
            self.tell(EventKind::HealthStatusChanged {
                instance: Arc::clone(after),
                alive,
            });
        }
    }

    /// `failing`: it was told to end because it failed its health check.
    pub(super) fn tell_ended(
        &mut self,
        instance: &Arc<Instance>,
        status: &TaskStatus,
        failing: bool,
    ) {
        if instance.members.is_empty() {
            self.tell(EventKind::StatusUpdate {
                task: instance.task_id.clone(),
                instance: Arc::clone(instance),
                state: status.state,
                message: status.message.chars().take(2000).collect(),
            });
        }
        if failing || status.reason == Some(Reason::HealthCheckStatusUpdated) {
            let reason: String = status.message.chars().take(2000).collect();
            self.tell(EventKind::UnhealthyTaskKill {
                instance: Arc::clone(instance),
                reason: reason.clone(),
            });
            self.tell(EventKind::UnhealthyInstanceKill {
                instance: Arc::clone(instance),
                reason,
            });
        }
        self.tell(EventKind::InstanceChanged {
            instance: Arc::clone(instance),
            condition: end(status.state),
        });
    }

    pub(super) fn tell_unknown_end(&mut self, status: &TaskStatus) {
        self.tell(EventKind::UnknownInstanceTerminated {
            task: status.task_id.clone(),
            condition: end(status.state),
        });
    }

    /// An app has another version, or its first.
    pub(super) fn tell_checks(&mut self, before: Option<Arc<AppVersion>>, to: &Arc<AppVersion>) {
        if before
            .as_ref()
            .is_some_and(|before| before.config == to.config)
        {
            return;
        }
        if let Some(before) = before {
            self.tell_checks_gone(&before);
        }
        for number in 0..to.app.health_checks.len() {
            self.tell(EventKind::AddHealthCheck {
                app: Arc::clone(to),
                number,
            });
        }
    }

    fn tell_checks_gone(&mut self, version: &AppVersion) {
        for _ in &version.app.health_checks {
            let app = version.app.id.clone();
            self.tell(EventKind::RemoveHealthCheck { app });
        }
    }

    pub(super) fn tell_removed(&mut self, app: &AppState) {
        self.tell_checks_gone(&app.current);
        let app = app.current.app.id.clone();
        self.tell(EventKind::AppTerminated { app });
    }

    pub(super) fn tell_step_begun(&mut self, id: DeploymentId) {
        if let Some(plan) = self.state.deployments.get(&id).cloned() {
            self.tell(EventKind::DeploymentInfo(plan));
        }
    }

    pub(super) fn tell_step_done(&mut self, id: DeploymentId) {
        if let Some(plan) = self.state.deployments.get(&id).cloned() {
            self.tell(EventKind::DeploymentStepSuccess(plan));
        }
    }

    pub(super) fn tell_success(&mut self, id: DeploymentId) {
        if let Some(plan) = self.state.deployments.get(&id).cloned() {
            self.tell(EventKind::DeploymentSuccess(plan));
        }
    }

    pub(super) fn tell_broken_off(&mut self, id: DeploymentId, reason: &'static str) {
        if let Some(plan) = self.state.deployments.get(&id).cloned() {
            self.tell(EventKind::DeploymentStepFailure(Arc::clone(&plan)));
            self.tell(EventKind::DeploymentFailed { plan, reason });
        }
    }
}
