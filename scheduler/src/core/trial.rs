//! Updates by choice: trials with their promotion, and the deadline after which a deployment is taken back.
//!
//! Pure. The course of each app is in its deployment, and so durable; [`crate::deployment::course`] has the rules.

use std::sync::Arc;

use super::command::{Refusal, Reply};
use super::order::{GroupWish, Order, Target};
use super::record::Key;
use super::state::Rollback;
use super::{Core, Ids};
use crate::app::AppId;
use crate::deployment::course::{Course, Stage};
use crate::deployment::{Deployment, DeploymentId};
use crate::time::Timestamp;

impl Core {
    /// The apps of the step that has just begun set out on their courses.
    pub(super) fn begin_courses(&mut self, id: DeploymentId, now: u64) {
        let Some(deployment) = self.state.deployments.get(&id) else {
            return;
        };
        if deployment.is_rollback {
            return;
        }
        let begun: Vec<(AppId, Course)> = deployment
            .current_actions()
            .iter()
            .filter_map(|action| {
                // One that is new has nothing to go back to.
                deployment.original.get(&action.app)?.as_ref()?;
                let spec = &self.state.apps.get(&action.app)?.current.app;
                let course = Course::begin(action.kind, &spec.upgrade, spec.instances, now)?;
                Some((action.app.clone(), course))
            })
            .collect();
        if !begun.is_empty() {
            self.change_deployment(id, |deployment| deployment.courses.extend(begun));
        }
    }

    fn change_deployment(&mut self, id: DeploymentId, change: impl FnOnce(&mut Deployment)) {
        if let Some(deployment) = self.state.deployments.get_mut(&id) {
            change(Arc::make_mut(deployment));
            self.dirty.insert(Key::Deployment(id));
            self.changed = true;
        }
    }

    /// After a look at an app: notes how far it has come, and when its time is over. `false`: look again.
    pub(super) fn follow(
        &mut self,
        id: &AppId,
        course: Course,
        is_healthy: bool,
        waiting_for: &str,
        now: u64,
    ) -> bool {
        let (Some(app), Some(lock)) = (self.state.apps.get(id), self.state.locks.get(id)) else {
            return true;
        };
        let (strategy, deployment) = (app.active().app.upgrade, lock.deployment);
        let next = course.next(&strategy, is_healthy, now);
        if next != course {
            tracing::info!(app = %id, %deployment, stage = ?next.stage, "trial");
            self.change_deployment(deployment, |plan| {
                plan.courses.insert(id.clone(), next);
            });
            self.touched.insert(id.clone());
            return false;
        }
        let done = course.stage == Stage::Going && waiting_for.is_empty();
        if !done && course.deadline(&strategy).is_some_and(|at| now >= at) {
            let reason = format!("{id}: {waiting_for}");
            self.overdue.entry(deployment).or_insert(reason);
        }
        true
    }

    /// Takes back the deployments whose time is over.
    pub(super) fn roll_back_overdue(&mut self, now: u64, ids: &mut dyn Ids) {
        for (id, reason) in std::mem::take(&mut self.overdue) {
            let Some(deployment) = self.state.deployments.get(&id).cloned() else {
                continue;
            };
            tracing::warn!(deployment = %id, reason, "not done in time: taken back");
            self.tell_broken_off(id, "not done in time");
            if let Err(refusal) = self.take_deployment_back(&deployment, now, ids) {
                // Its apps keep what they are meant to be, and say what they wait for.
                tracing::error!(deployment = %id, problem = %refusal, "cannot be taken back");
            }
            let rollback = Rollback {
                version: deployment.version,
                timestamp: Timestamp::from_millis(now),
                reason,
            };
            for (app, before) in &deployment.original {
                if before.is_none() {
                    continue;
                }
                if let Some(state) = self.app_mut(app) {
                    state.last_rollback = Some(rollback.clone());
                    self.dirty.insert(Key::App(app.clone()));
                }
            }
        }
    }

    /// Ends a deployment and begins the one that brings everything back to what it was.
    pub(super) fn take_deployment_back(
        &mut self,
        deployment: &Deployment,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        let groups = deployment
            .groups
            .iter()
            .map(|(group, before)| {
                let wish = before.as_ref().map(|before| GroupWish {
                    dependencies: before.dependencies.clone(),
                    // Whoever said so meanwhile did not mean the deployment.
                    enforce_role: self.enforces_role(group),
                });
                (group.clone(), wish)
            })
            .collect();
        self.drop_deployment(deployment.id);
        let targets = deployment
            .original
            .iter()
            .map(|(app, before)| Target {
                id: app.clone(),
                to: before.as_ref().map(|before| before.app.clone()),
                anew: false,
                resumed: true,
            })
            .collect();
        let order = Order {
            groups,
            is_rollback: true,
            ..Order::of(targets, true)
        };
        self.deploy(order, now, ids)
    }

    /// The trials of a deployment are over: what is left follows at once.
    pub(super) fn promote(&mut self, id: DeploymentId, now: u64) -> Result<Reply, Refusal> {
        let Some(deployment) = self.state.deployments.get(&id) else {
            return Err(Refusal::NoDeployment(id));
        };
        let on_trial: Vec<AppId> = deployment
            .courses
            .iter()
            .filter(|(_, course)| course.stage != Stage::Going)
            .map(|(app, _)| app.clone())
            .collect();
        if on_trial.is_empty() {
            return Err(Refusal::NoTrial(id));
        }
        self.change_deployment(id, |deployment| {
            for app in &on_trial {
                if let Some(course) = deployment.courses.get_mut(app) {
                    *course = course.promoted(now);
                }
            }
        });
        self.touched.extend(on_trial);
        Ok(Reply::Done)
    }
}
