//! Brings every touched app nearer to what is wanted of it, and deployments to their next step.
//!
//! Pure. Runs until nothing is touched any more; each round either changes something durable or ends.

use std::sync::Arc;

use mezzo_api::model::TaskId;

use super::books::Books;
use super::record::Key;
use super::state::{Instance, Queue, Sentence};
use super::{Call, Core, millis};
use crate::app::{AppId, AppVersion};
use crate::deployment::course::Stage;
use crate::deployment::step::{Progress, wanted};
use crate::deployment::{ActionKind, DeploymentId, Lock};
use crate::reconcile::{self, Wanted};

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
            self.books.remove(id);
            self.waiting.remove(id);
            return;
        };
        let app = Arc::clone(app);
        let version = Arc::clone(app.active());
        let spec = &version.app;
        let course = self.state.course_of(id);
        let stage = course.map(|course| course.stage);
        let wanted = if self.state.is_pending(id) {
            // An update that another deployment took the place of may have old and new ones beside each other: which of
            // them go, and when, is for this one's step to say.
            Wanted::AtLeast(spec.instances)
        } else {
            wanted(self.state.action_on(id), stage, spec)
        };
        let books = self.books.entry(id.clone());
        let books = books.or_insert_with(|| Books::of(&app, now));
        books.look(&app, now);
        let (connected, unconfirmed) = (self.state.connected, &self.unconfirmed);
        // Nothing ends by an old word of its health. And where what takes its place takes what it keeps, there is nothing to
        // be had beside it.
        let is_known = |id: &TaskId| {
            let instance = app.instances.get(id);
            let unheard = |one: &Instance| one.live_tasks().any(|task| unconfirmed.contains(task));
            connected && instance.is_some_and(|one| !unheard(one))
        };
        let mut roster = books.roster(version.config, is_known, spec.residency.is_some());
        roster.gap_is_of_sick = app
            .gap_until(self.subscribed_at)
            .is_some_and(|until| now < until);
        let mut changes = reconcile::changes(&roster, wanted, spec.kill_selection);
        let overdue = books.overdue(now, millis(self.settings.launch_timeout));
        if !changes.kill.is_empty() || !overdue.is_empty() {
            let kills = std::mem::take(&mut changes.kill);
            // With a hold on it a change would copy the list of all its instances.
            drop(app);
            self.sentence(id, kills, Sentence::NotWanted, now);
            self.sentence(id, overdue, Sentence::Overdue, now);
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
        self.send_kills(id, now);
        let at = self.next_look(id, now);
        self.wake(id, at);
    }

    /// From here on these are to end. Durable before the master hears of it, so that a restart goes on killing.
    pub(super) fn sentence(&mut self, id: &AppId, tasks: Vec<TaskId>, why: Sentence, now: u64) {
        if tasks.is_empty() {
            return;
        }
        for task in tasks {
            let instances = self.state.apps.get(id).map(|app| &app.instances);
            let instance = instances.and_then(|instances| instances.get(&task));
            if let Some(instance) = instance.filter(|instance| instance.sentence.is_none()) {
                let mut sentenced = (**instance).clone();
                sentenced.sentence = Some(why);
                let is_sick = sentenced.failing_at().is_some_and(|at| now >= at);
                self.put_instance(id, Arc::new(sentenced));
                self.state.counters.killed += 1;
                if is_sick && let Some(app) = self.app_mut(id) {
                    app.ended_sick_at = Some(now);
                    self.dirty.insert(Key::App(id.clone()));
                }
            }
        }
    }

    fn send_kills(&mut self, id: &AppId, now: u64) {
        let (Some(app), Some(books)) = (self.state.apps.get(id), self.books.get_mut(id)) else {
            return;
        };
        if !self.state.connected {
            return;
        }
        for id in books.kills_due(now, millis(self.settings.kill_retry)) {
            books.tell(&id, now);
            let Some(instance) = app.instances.get(&id) else {
                continue;
            };
            let kills = instance.live_tasks().map(|task| Call::Kill {
                task: task.clone(),
                agent: Some(instance.agent_id.clone()),
            });
            self.calls.extend(kills);
        }
    }

    /// When something changes about the app by time alone.
    fn next_look(&self, id: &AppId, now: u64) -> Option<u64> {
        let app = self.state.apps.get(id)?;
        let course = self.state.course_of(id);
        let course = course.and_then(|course| course.next_look(&app.active().app.upgrade));
        let delayed = app.queue.is_some() && app.backoff.left_ms(now) > 0;
        let backoff = delayed.then(|| app.backoff.until());
        let instances = self.books.get(id).and_then(|books| {
            let limit = millis(self.settings.launch_timeout);
            books.next_look(limit, millis(self.settings.kill_retry))
        });
        let gap = app.gap_until(self.subscribed_at);
        let gap = gap.filter(|until| *until > now);
        [course, backoff, gap, instances]
            .into_iter()
            .flatten()
            .min()
    }

    fn advance(&mut self, id: DeploymentId, now: u64) {
        let Some(deployment) = self.state.deployments.get(&id) else {
            return;
        };
        let apps = &self.state.apps;
        let is_done = |app: &AppId| apps.get(app).is_none_or(|app| app.reached);
        if deployment.is_busy(is_done) {
            return;
        }
        let mut deployment = (**deployment).clone();
        let done = deployment.current_actions().to_vec();
        let progress = deployment.advance(is_done);
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
        self.books.remove(id);
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
