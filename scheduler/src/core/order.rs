//! From a command that has been understood to a deployment under way: locks, checks, order, and then all at once.
//!
//! Pure. Everything that can speak against an order is looked at before anything changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mezzo_api::model::RoleName;

use super::command::{Refusal, Reply};
use super::record::Key;
use super::{Core, Ids};
use crate::app::{App, AppId, Report, Unknown};
use crate::deployment::graph::{Edges, levels};
use crate::deployment::plan::{Change, plan};
use crate::deployment::{Deployment, DeploymentId};
use crate::group::GroupId;
use crate::time::Timestamp;
use crate::why;

/// What an app is to become. `to` without a value: it goes.
pub(super) struct Target {
    pub(super) id: AppId,
    pub(super) to: Option<App>,
    /// A new configuration although nothing differs.
    pub(super) anew: bool,
    /// The way there starts from a plan that was broken off.
    pub(super) resumed: bool,
}

impl Target {
    pub(super) fn app(app: App) -> Self {
        Self {
            id: app.id.clone(),
            to: Some(app),
            anew: false,
            resumed: false,
        }
    }

    pub(super) fn gone(id: AppId) -> Self {
        Self {
            id,
            to: None,
            anew: false,
            resumed: false,
        }
    }
}

/// What a group is to be.
#[derive(Debug, Clone, Default)]
pub(super) struct GroupWish {
    /// On what it depends.
    pub(super) dependencies: BTreeSet<AppId>,
    /// Of a top-level group: new apps in it have its role.
    pub(super) enforce_role: bool,
}

/// Everything that one deployment is to bring.
#[derive(Default)]
pub(super) struct Order {
    pub(super) targets: Vec<Target>,
    /// Groups as they are to be from now on; `None`: the group goes.
    pub(super) groups: BTreeMap<GroupId, Option<GroupWish>>,
    /// The group that the command is about: its history gets an entry.
    pub(super) about: Option<GroupId>,
    /// Over deployments under way.
    pub(super) force: bool,
    /// Only say what would be done.
    pub(super) dry_run: bool,
    /// It takes a deployment back.
    pub(super) is_rollback: bool,
    /// For the answer.
    pub(super) unknown: Vec<Unknown>,
}

impl Order {
    pub(super) fn of(targets: Vec<Target>, force: bool) -> Self {
        Self {
            targets,
            force,
            ..Self::default()
        }
    }
}

impl Core {
    /// Makes the targets the current versions of their apps and begins the deployment that takes them there.
    pub(super) fn deploy(
        &mut self,
        mut order: Order,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        let locking: BTreeSet<DeploymentId> = order
            .targets
            .iter()
            .filter_map(|target| Some(self.state.locks.get(&target.id)?.deployment))
            .collect();
        if !locking.is_empty() && !order.force {
            return Err(Refusal::Locked(locking.into_iter().collect()));
        }
        let under_way = self.state.deployments.len() - locking.len();
        if under_way >= self.settings.max_deployments {
            return Err(Refusal::TooManyDeployments(under_way));
        }
        self.refuse_conflicts(&order)?;
        self.refuse_resident_changes(&order)?;
        self.refuse_roles(&order)?;
        self.enforce_in_new_groups(&mut order);
        if !order.force {
            self.refuse_impossible(&order.targets)?;
        }
        let levels = self.levels(&order)?;
        let version = Timestamp::from_millis(now.max(self.last_version.millis() + 1));
        if order.dry_run {
            let port = self.last_service_port;
            let changes = self.changes(&order, !locking.is_empty(), version);
            self.last_service_port = port;
            let plan = plan(DeploymentId(uuid::Uuid::nil()), version, &changes, &levels);
            return Ok(Reply::Planned {
                steps: plan.steps,
                pods: plan.pods,
                unknown: order.unknown,
            });
        }
        for id in &locking {
            tracing::info!(deployment = %id, "deployment broken off by force");
            self.tell_broken_off(*id, "another deployment took its place by force");
            self.drop_deployment(*id);
        }
        self.last_version = version;
        let changes = self.changes(&order, !locking.is_empty(), version);
        let id = DeploymentId(ids.unique());
        let mut plan = plan(id, version, &changes, &levels);
        plan.is_rollback = order.is_rollback;
        if let Some(about) = &order.about {
            self.remember_before(about);
        }
        for change in changes {
            if let Some(to) = change.to {
                self.set_current(change.app, to);
            }
        }
        plan.groups = self.set_groups(&order.groups, version);
        self.begin(plan, now);
        if let Some(about) = &order.about {
            self.remember(about, version);
        }
        Ok(Reply::Deployed {
            id,
            version,
            unknown: order.unknown,
        })
    }

    fn changes(&mut self, order: &Order, resumed: bool, version: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        for target in &order.targets {
            let known = self.state.apps.get(&target.id);
            let from = known.map(|app| Arc::clone(&app.current));
            let to = target
                .to
                .clone()
                .map(|app| self.next_version(app, target.anew, version));
            let config = to.as_ref().or(from.as_ref()).map(|version| version.config);
            let known = self.state.apps.get(&target.id);
            let mixed = known.is_some_and(|app| {
                let mut instances = app.instances.values();
                instances.any(|instance| Some(instance.config) != config)
            });
            changes.push(Change {
                resumed: target.resumed || resumed,
                app: target.id.clone(),
                from,
                to,
                mixed,
            });
        }
        changes
    }

    fn begin(&mut self, plan: Deployment, now: u64) {
        let id = plan.id;
        tracing::info!(deployment = %id, version = %plan.version, apps = plan.original.len(), "deployment begun");
        let is_empty = plan.steps.is_empty();
        let apps: Vec<AppId> = plan.apps().cloned().collect();
        self.state.locks.extend(plan.locks());
        self.state.deployments.insert(id, Arc::new(plan));
        for app in apps {
            self.state.hold(&app);
            // What it was is no word on what it is to be.
            if let Some(state) = self.state.apps.get_mut(&app) {
                let state = Arc::make_mut(state);
                state.reached = false;
                if state.last_rollback.take().is_some() {
                    self.dirty.insert(Key::App(app.clone()));
                }
            }
            self.touched.insert(app);
        }
        self.state.counters.deployments += 1;
        self.changed = true;
        if is_empty {
            self.drop_deployment(id);
        } else {
            self.dirty.insert(Key::Deployment(id));
            self.begin_courses(id, now);
            self.tell_step_begun(id);
        }
    }

    /// What no machine of the cluster could ever run is refused at once, as far as the cluster is known. Only what is
    /// new is looked at: machines that went away are no reason to refuse to scale or restart.
    fn refuse_impossible(&self, targets: &[Target]) -> Result<(), Refusal> {
        for app in targets.iter().filter_map(|target| target.to.as_ref()) {
            let known = self.state.apps.get(&app.id);
            let is_new = known.is_none_or(|known| !known.current.app.same_config(app));
            if is_new
                && app.instances > 0
                && self.state.connected
                && let Some(problem) = why::impossible(&self.state, app)
            {
                return Err(Refusal::Impossible {
                    app: app.id.clone(),
                    problem,
                });
            }
        }
        Ok(())
    }

    /// Instances run on with what they keep: what that is made of cannot change, as in Marathon.
    fn refuse_resident_changes(&self, order: &Order) -> Result<(), Refusal> {
        let mut report = Report::default();
        for to in order.targets.iter().filter_map(|target| target.to.as_ref()) {
            let Some(known) = self.state.apps.get(&to.id) else {
                continue;
            };
            let from = &known.current.app;
            for (path, problem) in from.resident_changes(to) {
                report.value_problem(path, problem);
            }
            if from.residency.is_some() && from.role != to.role && !order.force {
                report.value_problem("/role", role_change_warning(&from.role, &to.role));
            }
        }
        if report.errors.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Invalid(report))
        }
    }

    /// No path names both an app and a group, or an app and a pod.
    fn refuse_conflicts(&self, order: &Order) -> Result<(), Refusal> {
        let targets = by_id(&order.targets);
        let is_app = |path: &str| match targets.get(path) {
            Some(target) => target.is_some(),
            None => self.state.apps.contains_key(path),
        };
        let is_group = |id: &AppId| {
            let below = format!("{id}/");
            let stays = |app: &str| targets.get(app).is_none_or(Option::is_some);
            let mut to_come = targets.iter().filter(|(_, to)| to.is_some());
            let has_apps = self.state.apps_below(id).any(|app| stays(app.as_str()))
                || to_come.any(|(app, _)| app.starts_with(&below));
            let record = GroupId::from_app(id);
            let made = order
                .groups
                .get(&record)
                .map_or_else(|| self.state.groups.contains_key(&record), Option::is_some);
            has_apps || made
        };
        let mut report = Report::default();
        for to in order.targets.iter().filter_map(|target| target.to.as_ref()) {
            let known = self.state.apps.get(&to.id);
            let goes = known.is_none_or(|known| known.is_pod() == to.pod.is_some());
            if !goes {
                let (is, wanted) = if to.pod.is_some() {
                    ("an app", "a pod")
                } else {
                    ("a pod", "an app")
                };
                let problem = format!("{} is {is}: remove it before it can be {wanted}", to.id);
                report.value_problem("/id", problem);
            }
        }
        let mut conflict = |path: &str| {
            report.value_problem(
                "/id",
                format!("{path}: Groups and Applications may not have the same identifier."),
            );
        };
        let new = order
            .targets
            .iter()
            .filter(|target| target.to.is_some() && !self.state.apps.contains_key(&target.id));
        for target in new {
            for group in GroupId::of(&target.id).upwards() {
                if is_app(group.as_str()) {
                    conflict(group.as_str());
                }
            }
            if is_group(&target.id) {
                conflict(target.id.as_str());
            }
        }
        for (group, _) in order.groups.iter().filter(|(_, deps)| deps.is_some()) {
            if is_app(group.as_str()) {
                conflict(group.as_str());
            }
        }
        if report.errors.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Invalid(report))
        }
    }

    /// How many steps must come before each target. Only what can be reached from the order is looked at, so that one app
    /// among thousands costs little.
    fn levels(&self, order: &Order) -> Result<BTreeMap<AppId, usize>, Refusal> {
        let targets = by_id(&order.targets);
        let mut edges = Edges::new();
        let mut todo: Vec<AppId> = order
            .targets
            .iter()
            .map(|target| target.id.clone())
            .collect();
        for group in order.groups.keys() {
            todo.extend(self.state.apps_within(group).map(|(id, _)| id.clone()));
        }
        let roots: BTreeSet<AppId> = todo.iter().cloned().collect();
        while let Some(id) = todo.pop() {
            if edges.contains_key(&id) {
                continue;
            }
            let on = self.depends_on(&id, order, &targets);
            todo.extend(on.iter().cloned());
            edges.insert(id, on);
        }
        // Groups that change without their apps may close a circle, too.
        let mut levels = levels(&roots, &edges).map_err(circle)?;
        if roots.len() > targets.len() {
            let changed = order.targets.iter().map(|target| target.id.clone());
            levels =
                crate::deployment::graph::levels(&changed.collect(), &edges).map_err(circle)?;
        }
        Ok(levels)
    }

    /// The apps that `id` depends on, by itself or by the groups that it lies in, once the order is done.
    fn depends_on(
        &self,
        id: &AppId,
        order: &Order,
        targets: &BTreeMap<&str, Option<&App>>,
    ) -> BTreeSet<AppId> {
        let known = self.state.apps.get(id).map(|app| &app.current.app);
        let app = targets.get(id.as_str()).copied().flatten().or(known);
        let mut named: BTreeSet<&AppId> = app.iter().flat_map(|app| &app.dependencies).collect();
        for group in GroupId::of(id).upwards() {
            match order.groups.get(&group) {
                Some(Some(wish)) => named.extend(&wish.dependencies),
                // One that goes is taken apart in the order in which it was put together.
                Some(None) | None => {
                    let record = self.state.groups.get(&group);
                    named.extend(
                        record
                            .iter()
                            .flat_map(|record| &record.current.dependencies),
                    );
                }
            }
        }
        let mut on = BTreeSet::new();
        for path in named {
            let below = format!("{path}/");
            let within = |app: &str| app == path.as_str() || app.starts_with(&below);
            on.extend(
                targets
                    .keys()
                    .filter(|app| within(app))
                    .filter_map(|app| app.parse().ok()),
            );
            on.extend(
                self.state
                    .apps
                    .get_key_value(path)
                    .map(|(app, _)| app.clone()),
            );
            on.extend(self.state.apps_below(path).cloned());
        }
        // An app in a group that its own group depends on does not wait for itself.
        on.remove(id);
        on
    }
}

/// Marathon's words.
fn role_change_warning(from: &RoleName, to: &RoleName) -> String {
    format!(
        "It is not possible to change the role for existing reservations. If you proceed with this change, all existing \
         instances will continue to run under the previous role, {from}. Only new instances will be allocated with the \
         new role, {to}. In order to continue, retry your request with ?force=true"
    )
}

fn by_id(targets: &[Target]) -> BTreeMap<&str, Option<&App>> {
    targets
        .iter()
        .map(|target| (target.id.as_str(), target.to.as_ref()))
        .collect()
}

fn circle(cycle: crate::deployment::graph::Cycle) -> Refusal {
    let mut report = Report::default();
    report.value_problem("/dependencies", cycle.to_string());
    Refusal::Invalid(report)
}
