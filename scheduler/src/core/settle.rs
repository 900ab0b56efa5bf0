//! Brings every touched app nearer to what is wanted of it, and deployments to their next step.
//!
//! Pure. Runs until nothing is touched any more; each round either changes something durable or ends.

use std::sync::Arc;

use mezzo_api::model::TaskId;

use super::record::Key;
use super::state::{AppState, Condition, Queue, REPLACE_BESIDE_MS, Sentence};
use super::{Call, Core, millis};
use crate::app::spec::UnreachableStrategy;
use crate::app::{AppId, AppVersion};
use crate::deployment::course::Stage;
use crate::deployment::step::{Progress, wanted};
use crate::deployment::{ActionKind, DeploymentId, Lock};
use crate::reconcile::{self, Phase};

impl Core {
    pub(super) fn settle(&mut self, now: u64) {
        let mut deployments: std::collections::BTreeSet<DeploymentId> = Default::default();
        loop {
            while let Some(app) = self.touched.pop_first() {
                self.settle_app(&app, now);
                deployments.extend(self.state.locks.get(&app).map(|lock| lock.deployment));
            }
            let Some(id) = deployments.pop_first() else {
                break;
            };
            self.advance(id, now);
        }
    }

    fn settle_app(&mut self, id: &AppId, now: u64) {
        self.settle_holdings(id);
        let Some(app) = self.state.apps.get(id) else {
            self.wake(id, None);
            self.waiting.remove(id);
            return;
        };
        let app = Arc::clone(app);
        let version = Arc::clone(app.active());
        let spec = &version.app;
        let course = self.state.course_of(id);
        let stage = course.map(|course| course.stage);
        let wanted = wanted(self.state.action_on(id), stage, spec);
        let mut members = app.members(now);
        for member in &mut members {
            // Nothing ends by an old word of its health.
            let instance = app.instances.get(&member.id);
            let is_known = self.state.connected
                && instance.is_some_and(|one| {
                    !one.live_tasks().any(|task| self.unconfirmed.contains(task))
                });
            if member.phase == Phase::FailingLong && !is_known {
                member.phase = Phase::Failing;
            }
            // What takes its place takes what it keeps: there is nothing to be had beside it.
            if member.phase == Phase::Failing && is_known && spec.residency.is_some() {
                member.phase = Phase::FailingLong;
            }
        }
        let mut changes = reconcile::changes(&members, wanted, spec.kill_selection);
        let overdue = self.overdue(&app, now);
        if !changes.kill.is_empty() || !overdue.is_empty() {
            let kills = std::mem::take(&mut changes.kill);
            // With a hold on it a change would copy the list of all its instances.
            drop(app);
            self.sentence(id, kills, Sentence::NotWanted);
            self.sentence(id, overdue, Sentence::Overdue);
            // Those are members of another sort now: look again.
            self.touched.insert(id.clone());
            return;
        }
        if let Some(course) = course {
            let on_trial = course.stage != Stage::Going;
            let is_healthy = changes.reached;
            if !self.follow(
                id,
                course,
                on_trial && is_healthy,
                &changes.waiting_for,
                now,
            ) {
                return;
            }
            if on_trial {
                changes.reached = false;
                changes.waiting_for = course
                    .waiting_for(&spec.upgrade)
                    .unwrap_or(changes.waiting_for);
            }
        }
        let mut queue = app.queue.clone();
        match (changes.launch, &mut queue) {
            (0, queue) => *queue = None,
            (count, Some(queue)) => queue.count = count,
            (count, empty @ None) => {
                *empty = Some(Queue {
                    count,
                    since: now,
                    offers_seen: 0,
                    rejected: Default::default(),
                    refusals: Vec::new(),
                });
            }
        }
        if queue.is_some() {
            self.waiting.insert(id.clone());
        } else {
            self.waiting.remove(id);
        }
        let is_news = queue != app.queue
            || changes.waiting_for != app.waiting_for
            || changes.reached != app.reached;
        drop(app);
        if is_news {
            self.changed = true;
            if let Some(app) = self.state.apps.get_mut(id) {
                let app = Arc::make_mut(app);
                app.queue = queue;
                app.waiting_for = changes.waiting_for;
                app.reached = changes.reached;
            }
        }
        let Some(app) = self.state.apps.get(id).cloned() else {
            return;
        };
        self.send_kills(&app, now);
        let at = self.next_look(&app, now);
        self.wake(id, at);
    }

    fn overdue(&self, app: &AppState, now: u64) -> Vec<TaskId> {
        let limit = millis(self.settings.launch_timeout);
        app.instances
            .values()
            .filter(|instance| {
                instance.sentence.is_none()
                    && matches!(
                        instance.condition,
                        Condition::Provisioned | Condition::Staging | Condition::Starting
                    )
                    && now >= instance.progress_at.saturating_add(limit)
            })
            .map(|instance| instance.task_id.clone())
            .collect()
    }

    /// From here on these are to end. Durable before the master hears of it, so that a restart goes on killing.
    pub(super) fn sentence(&mut self, id: &AppId, tasks: Vec<TaskId>, why: Sentence) {
        if tasks.is_empty() {
            return;
        }
        let Some(app) = self.app_mut(id) else { return };
        let mut sentenced = Vec::new();
        for task in tasks {
            if let Some(instance) = app.instances.get_mut(&task)
                && instance.sentence.is_none()
            {
                Arc::make_mut(instance).sentence = Some(why);
                sentenced.push(task);
            }
        }
        self.state.counters.killed += sentenced.len() as u64;
        self.dirty.extend(sentenced.into_iter().map(Key::Instance));
    }

    fn send_kills(&mut self, app: &AppState, now: u64) {
        if !self.state.connected {
            return;
        }
        let retry = millis(self.settings.kill_retry);
        for instance in app.instances.values() {
            let is_to_end = instance.sentence.is_some() || instance.is_doomed();
            if !is_to_end || matches!(instance.condition, Condition::Unreachable { .. }) {
                continue;
            }
            let due = self
                .kill_sent
                .get(&instance.task_id)
                .is_none_or(|sent| now >= sent.saturating_add(retry));
            if due {
                self.kill_sent.insert(instance.task_id.clone(), now);
                let kills = instance.live_tasks().map(|task| Call::Kill {
                    task: task.clone(),
                    agent: Some(instance.agent_id.clone()),
                });
                self.calls.extend(kills);
            }
        }
    }

    /// When something changes about the app by time alone.
    fn next_look(&self, app: &AppState, now: u64) -> Option<u64> {
        let mut at: Option<u64> = None;
        let mut look = |then: u64| at = Some(at.map_or(then, |at| at.min(then)));
        let strategy = &app.active().app.upgrade;
        if let Some(course) = self.state.course_of(&app.current.app.id)
            && let Some(then) = course.next_look(strategy)
        {
            look(then);
        }
        if app.queue.is_some() && app.backoff.left_ms(now) > 0 {
            look(app.backoff.until());
        }
        for instance in app.instances.values() {
            match (instance.condition, instance.sentence) {
                (Condition::Unreachable { since }, None) => {
                    if let UnreachableStrategy::After { inactive_ms, .. } =
                        app.active().app.when_unreachable()
                    {
                        let then = since.saturating_add(inactive_ms);
                        if then > now {
                            look(then);
                        }
                    }
                }
                (Condition::Unreachable { .. }, Some(_)) => {}
                (_, Some(_)) => {
                    if let Some(sent) = self.kill_sent.get(&instance.task_id) {
                        look(sent.saturating_add(millis(self.settings.kill_retry)));
                    }
                }
                (Condition::Provisioned | Condition::Staging | Condition::Starting, None) => {
                    look(
                        instance
                            .progress_at
                            .saturating_add(millis(self.settings.launch_timeout)),
                    );
                }
                (Condition::Running, None) => {
                    let failing = instance.failing_at();
                    let later = failing.map(|at| at.saturating_add(REPLACE_BESIDE_MS));
                    let next = failing.into_iter().chain(later).find(|then| *then > now);
                    if let Some(then) = next {
                        look(then);
                    }
                }
                (Condition::Killing, None) if instance.is_doomed() => {
                    if let Some(sent) = self.kill_sent.get(&instance.task_id) {
                        look(sent.saturating_add(millis(self.settings.kill_retry)));
                    }
                }
                (Condition::Killing, None) => {}
            }
        }
        at
    }

    fn advance(&mut self, id: DeploymentId, now: u64) {
        let Some(deployment) = self.state.deployments.get(&id) else {
            return;
        };
        let mut deployment = (**deployment).clone();
        let done = deployment.current_actions().to_vec();
        let apps = &self.state.apps;
        let progress = deployment.advance(|app| apps.get(app).is_none_or(|app| app.reached));
        if progress == Progress::Busy {
            return;
        }
        self.tell_step_done(id);
        for action in &done {
            if action.kind == ActionKind::StopApplication {
                self.remove_app(&action.app);
            }
            self.touched.insert(action.app.clone());
        }
        if let Some(step) = deployment.steps.get(deployment.current) {
            self.touched
                .extend(step.actions.iter().map(|action| action.app.clone()));
        }
        self.changed = true;
        self.dirty.insert(Key::Deployment(id));
        if progress == Progress::Finished {
            tracing::info!(deployment = %id, "deployment finished");
            self.tell_success(id);
            self.drop_deployment(id);
        } else {
            let begun: Vec<AppId> = deployment
                .current_actions()
                .iter()
                .map(|action| action.app.clone())
                .collect();
            self.state.deployments.insert(id, Arc::new(deployment));
            self.begin_courses(id, now);
            self.tell_step_begun(id);
            for app in begun {
                self.state.hold(&app);
                // What it was is no word on what it is to be.
                if let Some(app) = self.state.apps.get_mut(&app) {
                    Arc::make_mut(app).reached = false;
                }
            }
        }
    }

    pub(super) fn drop_deployment(&mut self, id: DeploymentId) {
        if let Some(deployment) = self.state.deployments.get(&id).cloned() {
            for (app, before) in &deployment.original {
                let is_mine = |lock: &Lock| lock.deployment == id;
                if !self.state.locks.get(app).is_some_and(is_mine) {
                    continue;
                }
                if self.state.is_pending(app) && !self.state.is_stopping(app) {
                    self.take_back(app, before.as_ref());
                }
                self.state.locks.remove(app);
                self.state.hold(app);
                self.touched.insert(app.clone());
            }
            self.state.deployments.remove(&id);
        }
        self.changed = true;
        self.dirty.insert(Key::Deployment(id));
    }

    /// Its step never came: it is again what it was.
    fn take_back(&mut self, id: &AppId, before: Option<&AppVersion>) {
        match before {
            None => self.remove_app(id),
            Some(before) => self.set_current(id.clone(), Arc::new(before.clone())),
        }
    }

    /// The app is gone; what is left of it is on machines that cannot be reached. What its instances kept is given back.
    fn remove_app(&mut self, id: &AppId) {
        if let Some(app) = self.state.apps.get(id) {
            self.release(id, app.holdings.keys().copied().collect());
        }
        let Some(app) = self.state.apps.remove(id) else {
            return;
        };
        self.count_service_ports(&app.current.app.ports, false);
        self.tell_removed(&app);
        for (task, instance) in &app.instances {
            for name in instance.names() {
                self.tasks.remove(name);
            }
            self.state
                .orphans
                .insert(task.clone(), Arc::clone(instance));
        }
        self.dirty.insert(Key::App(id.clone()));
        self.dirty.extend(
            app.versions
                .keys()
                .map(|version| Key::Version(id.clone(), *version)),
        );
        self.changed = true;
    }
}
