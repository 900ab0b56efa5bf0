//! What people ask for: new apps, changes, restarts, removals, kills, roll backs.
//!
//! Pure. A command is checked as a whole against the state of the moment and then takes effect as a whole, as one
//! deployment, or is refused with everything that speaks against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mezzo_api::model::TaskId;
use serde_json::Value;

use super::groups::GroupCommand;
use super::order::{Order, Target};
use super::record::Key;
use super::state::{AppState, Instance, Sentence};
use super::{Core, Ids, tell};
use crate::app::role::without_old_default;
use crate::app::{App, AppId, Report, Unknown, merge, parse_app, parse_pod};
use crate::backoff::Backoff;
use crate::deployment::{DeploymentId, Step};
use crate::group::GroupId;
use crate::jobs::command::{JobCommand, JobRefusal, JobReply};
use crate::time::Timestamp;

/// A change of one app by a JSON body.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Which; `None`: the body says it.
    pub app: Option<AppId>,
    /// The new fields.
    pub body: Value,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// A new app.
    Create {
        /// The app.
        body: Value,
        /// Over a deployment that has its id locked.
        force: bool,
    },
    /// A new pod.
    CreatePod {
        /// The pod.
        body: Value,
        /// Over a deployment that has its id locked.
        force: bool,
    },
    /// A pod as it is to be from now on, as a whole.
    UpdatePod {
        /// Which.
        pod: AppId,
        /// The pod.
        body: Value,
        /// Over deployments under way.
        force: bool,
        /// Only say what would be done.
        dry_run: bool,
    },
    /// New fields for apps.
    Update {
        /// Which and what.
        updates: Vec<Update>,
        /// Fields that are not given stay; otherwise they get their defaults.
        partial: bool,
        /// Apps that are not there are created.
        create: bool,
        /// Over deployments under way.
        force: bool,
        /// Only say what would be done.
        dry_run: bool,
    },
    /// Every instance is replaced.
    Restart {
        /// Of which app.
        app: AppId,
        /// Over deployments under way.
        force: bool,
    },
    /// A group is made, changed or removed.
    Group(GroupCommand),
    /// The app goes.
    Delete {
        /// Which.
        app: AppId,
        /// Over deployments under way.
        force: bool,
    },
    /// These tasks end; replacements start.
    KillTasks {
        /// Which.
        tasks: Vec<TaskId>,
        /// One that is gone by now is passed over; else it refuses the whole.
        pass_over: bool,
        /// No replacements: their apps shrink.
        scale: bool,
        /// What becomes of what they keep.
        wipe: Wipe,
        /// Over deployments under way.
        force: bool,
    },
    /// Break off a deployment.
    CancelDeployment {
        /// Which.
        id: DeploymentId,
        /// Leave things as they are instead of rolling back.
        force: bool,
    },
    /// The trials of a deployment are over: go on.
    Promote {
        /// Which.
        id: DeploymentId,
    },
    /// Launch at once.
    ResetDelay {
        /// Of which app.
        app: AppId,
    },
    /// Something about jobs.
    Job(JobCommand),
}

/// What becomes of what tasks keep on their machines when they are told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wipe {
    /// It stays for the next instance.
    Nothing,
    /// It is given back, and what was written is lost.
    Theirs,
    /// So is what of this app no instance has now.
    AllOf(AppId),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// A deployment is under way (or was not needed).
    Deployed {
        /// Its name.
        id: DeploymentId,
        /// The version it brings.
        version: Timestamp,
        /// Fields that had no effect.
        unknown: Vec<Unknown>,
    },
    /// This would be done, step by step.
    Planned {
        /// In order.
        steps: Vec<Step>,
        /// Those of its apps that are pods.
        pods: BTreeSet<AppId>,
        /// Fields that have no effect.
        unknown: Vec<Unknown>,
    },
    /// These were told to end.
    Killed(Vec<Arc<Instance>>),
    /// It is done.
    Done,
    /// About jobs.
    Job(JobReply),
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// POST of an app that is there.
    #[error("An app with id [{0}] already exists.")]
    Exists(AppId),
    /// There is no such app.
    #[error("App '{0}' does not exist")]
    NoApp(AppId),
    /// POST of a pod that is there.
    #[error("Pod \"{0}\" already exists")]
    PodExists(AppId),
    /// There is no such pod.
    #[error("Pod '{0}' does not exist")]
    NoPod(AppId),
    /// The app never had that version.
    #[error("App '{0}' does not have the version {1}")]
    NoVersion(AppId, Timestamp),
    /// There is no such group.
    #[error("Group '{0}' does not exist")]
    NoGroup(GroupId),
    /// POST of a group that is there.
    #[error("Group {0} is already created. Use PUT to change this group.")]
    GroupExists(GroupId),
    /// The group never had that version, or it is forgotten.
    #[error("Group '{0}' does not have the version {1}")]
    NoGroupVersion(GroupId, Timestamp),
    /// There is no such deployment.
    #[error("DeploymentPlan {0} does not exist")]
    NoDeployment(DeploymentId),
    /// It has no trial under way.
    #[error("no app of the deployment {0} is on trial: there is nothing to promote")]
    NoTrial(DeploymentId),
    /// There is no such task.
    #[error("Task '{0}' does not exist")]
    NoTask(TaskId),
    /// Somebody else is at it.
    #[error(
        "App is locked by one or more deployments. Override with the option '?force=true'. View details at '/v2/deployments/<DEPLOYMENT_ID>'."
    )]
    Locked(Vec<DeploymentId>),
    /// The body is not an app.
    #[error("Object is not valid")]
    Invalid(Report),
    /// No machine could take even one instance.
    #[error("{app}: {problem}. To deploy it all the same, before such a node comes: force=true")]
    Impossible {
        /// Which app.
        app: AppId,
        /// The arithmetic.
        problem: String,
    },
    /// Too much at once.
    #[error(
        "there are {0} deployments under way, which is the limit: wait for some to finish, or cancel them"
    )]
    TooManyDeployments(usize),
    /// The disk did not take it; the driver's word, the core never says so.
    #[error("nothing was changed: {0}")]
    NotWritten(String),
    /// Another scheduler leads by now, or may. It may have been done.
    #[error("another scheduler leads by now; look whether it was done, and ask again")]
    Deposed,
    /// About jobs.
    #[error(transparent)]
    Job(#[from] JobRefusal),
}

impl Core {
    /// Does what is asked, or says why not.
    ///
    /// # Errors
    ///
    /// When the command is wrong or comes at the wrong time; then nothing has changed.
    pub fn command(
        &mut self,
        command: Command,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        let about = tell::about(&command);
        let result = self.carry_out(command, now, ids);
        self.tell_outcome(about, &result);
        result
    }

    fn carry_out(
        &mut self,
        command: Command,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        match command {
            Command::Create { body, force } => {
                let body = self.with_role(&body, None);
                self.create(parse_app(&body, None), force, now, ids)
            }
            Command::CreatePod { body, force } => {
                let body = self.with_role(&body, None);
                self.create(parse_pod(&body, None), force, now, ids)
            }
            Command::UpdatePod {
                pod,
                body,
                force,
                dry_run,
            } => self.update_pod(&pod, &body, (force, dry_run), now, ids),
            Command::Update {
                updates,
                partial,
                create,
                force,
                dry_run,
            } => {
                let order = self.update(&updates, partial, create)?;
                let order = Order {
                    force,
                    dry_run,
                    ..order
                };
                self.deploy(order, now, ids)
            }
            Command::Group(command) => self.group(command, now, ids),
            Command::Restart { app, force } => {
                let current = self.visible(&app)?;
                let target = Target {
                    anew: true,
                    ..Target::app(current.current.app.clone())
                };
                self.deploy(Order::of(vec![target], force), now, ids)
            }
            Command::Delete { app, force } => {
                self.visible(&app)?;
                let target = Target::gone(app);
                self.deploy(Order::of(vec![target], force), now, ids)
            }
            Command::KillTasks {
                tasks,
                pass_over,
                scale,
                wipe,
                force,
            } => {
                let order = Order {
                    force,
                    ..Order::default()
                };
                self.kill_tasks((&tasks, pass_over), scale, &wipe, order, now, ids)
            }
            Command::CancelDeployment { id, force } => self.cancel(id, force, now, ids),
            Command::Promote { id } => self.promote(id, now),
            Command::ResetDelay { app } => {
                self.visible(&app)?;
                if let Some(state) = self.app_mut(&app) {
                    state.backoff = Backoff::default();
                }
                self.dirty.insert(Key::App(app));
                Ok(Reply::Done)
            }
            Command::Job(command) => {
                // What waits may ask for something else now.
                for known in self.interests.values_mut() {
                    known.wants.jobs.clear();
                }
                Ok(Reply::Job(self.jobs.command(command, now)?))
            }
        }
    }

    fn visible(&self, id: &AppId) -> Result<&Arc<AppState>, Refusal> {
        self.state
            .visible_app(id)
            .ok_or_else(|| Refusal::NoApp(id.clone()))
    }

    /// An app or a pod, as it was read.
    fn create(
        &mut self,
        (app, report): (Option<App>, Report),
        force: bool,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        let Some(app) = app else {
            return Err(Refusal::Invalid(report));
        };
        if let Some(known) = self.state.visible_app(&app.id) {
            return Err(if known.is_pod() {
                Refusal::PodExists(app.id)
            } else {
                Refusal::Exists(app.id)
            });
        }
        let order = Order {
            unknown: report.unknown,
            ..Order::of(vec![Target::app(app)], force)
        };
        self.deploy(order, now, ids)
    }

    fn update(&self, updates: &[Update], partial: bool, create: bool) -> Result<Order, Refusal> {
        let mut targets = Vec::new();
        let mut all = Report::default();
        let mut seen = BTreeSet::new();
        for (index, update) in updates.iter().enumerate() {
            let (app, mut report) = self.updated(update, partial, create)?;
            if let Some(app) = &app
                && !seen.insert(app.id.clone())
            {
                report.value_problem("/id", format!("{} is in the list twice", app.id));
            }
            if updates.len() > 1 {
                let prefix = format!("({index})");
                for problem in &mut report.errors {
                    problem.path.insert_str(0, &prefix);
                }
                for unknown in &mut report.unknown {
                    unknown.path.insert_str(0, &prefix);
                }
            }
            all.errors.append(&mut report.errors);
            all.unknown.append(&mut report.unknown);
            targets.extend(app.map(Target::app));
        }
        if !all.errors.is_empty() {
            return Err(Refusal::Invalid(all));
        }
        Ok(Order {
            targets,
            unknown: all.unknown,
            ..Order::default()
        })
    }

    /// The app that an update makes, with what is wrong about it.
    fn updated(
        &self,
        update: &Update,
        partial: bool,
        create: bool,
    ) -> Result<(Option<App>, Report), Refusal> {
        let id = match &update.app {
            Some(id) => id.clone(),
            None => match update
                .body
                .get("id")
                .and_then(Value::as_str)
                .map(str::parse::<AppId>)
            {
                Some(Ok(id)) => id,
                // Says what is wrong with the id, or that there is none.
                Some(Err(_)) | None => return Ok(parse_app(&update.body, None)),
            },
        };
        let Some(current) = self.state.visible_app(&id) else {
            if !create {
                return Err(Refusal::NoApp(id));
            }
            return Ok(parse_app(
                &self.with_role(&update.body, Some(&id)),
                Some(&id),
            ));
        };
        if current.is_pod() {
            let mut report = Report::default();
            report.value_problem("/id", format!("{id} is a pod: change it by /v2/pods{id}"));
            return Ok((None, report));
        }
        if let Some(version) = only_version(&update.body) {
            let found = version
                .parse::<Timestamp>()
                .ok()
                .and_then(|version| current.versions.get(&version).ok_or(version).ok());
            return match (found, version.parse()) {
                (Some(found), _) => Ok((Some(found.app.clone()), Report::default())),
                (None, Ok(version)) => Err(Refusal::NoVersion(id, version)),
                (None, Err(error)) => {
                    let mut report = Report::default();
                    report.value_problem("/version", error.to_string());
                    Ok((None, report))
                }
            };
        }
        if !partial {
            return Ok(parse_app(
                &self.with_role(&update.body, Some(&id)),
                Some(&id),
            ));
        }
        let before = &current.current.app;
        let base = without_old_default(before.to_json(), before.accepts, &update.body);
        let merged = merge(&base, &update.body);
        Ok(parse_app(&merged, Some(&id)))
    }

    fn kill_tasks(
        &mut self,
        (tasks, pass_over): (&[TaskId], bool),
        scale: bool,
        wipe: &Wipe,
        order: Order,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        let mut by_app: BTreeMap<AppId, Vec<Arc<Instance>>> = BTreeMap::new();
        for task in tasks {
            let app = self.tasks.get(task);
            let instance = match app.and_then(|app| self.state.apps.get(app)?.instances.get(task)) {
                Some(instance) => instance,
                None if pass_over => continue,
                None => return Err(Refusal::NoTask(task.clone())),
            };
            by_app
                .entry(instance.app.clone())
                .or_default()
                .push(Arc::clone(instance));
        }
        let reply = if scale {
            let mut targets = Vec::new();
            for (id, killed) in &by_app {
                let mut app = self.visible(id)?.current.app.clone();
                let counted = killed
                    .iter()
                    .filter(|instance| instance.sentence.is_none())
                    .count();
                app.instances = app
                    .instances
                    .saturating_sub(u32::try_from(counted).unwrap_or(u32::MAX));
                targets.push(Target::app(app));
            }
            Some(self.deploy(Order { targets, ..order }, now, ids)?)
        } else {
            None
        };
        for (id, killed) in &by_app {
            let tasks = killed
                .iter()
                .map(|instance| instance.task_id.clone())
                .collect();
            self.sentence(id, tasks, Sentence::Requested, now);
            if *wipe != Wipe::Nothing {
                let kept = killed.iter().filter_map(|instance| instance.holding);
                self.wipe(id, kept.collect());
            }
        }
        if let Wipe::AllOf(id) = wipe
            && let Some(app) = self.state.apps.get(id)
        {
            let detached = app.free_holdings();
            self.wipe(id, detached.iter().map(|one| one.id).collect());
        }
        Ok(reply.unwrap_or_else(|| Reply::Killed(by_app.into_values().flatten().collect())))
    }

    fn cancel(
        &mut self,
        id: DeploymentId,
        force: bool,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        let Some(deployment) = self.state.deployments.get(&id).cloned() else {
            return Err(Refusal::NoDeployment(id));
        };
        self.tell_broken_off(id, "cancelled");
        if force {
            self.drop_deployment(id);
            return Ok(Reply::Done);
        }
        self.take_deployment_back(&deployment, now, ids)
    }
}

/// The version in a body that says nothing else: a roll back.
fn only_version(body: &Value) -> Option<&str> {
    let fields = body.as_object()?;
    let others = fields.keys().any(|name| name != "version" && name != "id");
    fields
        .get("version")
        .and_then(Value::as_str)
        .filter(|_| !others)
}
