//! Commands about groups: made, changed, scaled, rolled back and removed as a whole, as one deployment.
//!
//! Pure. What an update does not name stays; apps, pods and groups that it lists replace all that lie directly in the group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::command::{Refusal, Reply};
use super::order::{GroupWish, Order, Target};
use super::record::Key;
use super::{Core, Ids};
use crate::app::spec::PPM;
use crate::app::{App, AppId, Report};
use crate::group::{Group, GroupId, GroupState, GroupVersion, Update};
use crate::time::Timestamp;

/// Apps kept in all versions of one group together: older versions go first.
const MAX_REMEMBERED: usize = 20_000;

/// What a command about a group wants.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupCommand {
    /// Which; `None`: the body says it.
    pub id: Option<GroupId>,
    /// What.
    pub change: GroupChange,
    /// Over deployments under way.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// The change of a group.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupChange {
    /// It is made; refused if it is there.
    Create(Value),
    /// It is made or changed.
    Update(Value),
    /// Whether new apps in it must have its name as their role; nothing else changes, and nothing is deployed.
    EnforceRole(bool),
    /// It goes with everything in it.
    Delete,
}

impl Core {
    pub(super) fn group(
        &mut self,
        command: GroupCommand,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        let GroupCommand {
            id,
            change,
            force,
            dry_run,
        } = command;
        let mut order = match change {
            GroupChange::Create(body) => self.update_group(&body, id.as_ref(), true)?,
            GroupChange::Update(body) => self.update_group(&body, id.as_ref(), false)?,
            GroupChange::EnforceRole(enforce) => {
                return self.set_enforcement(&id.unwrap_or_else(GroupId::root), enforce);
            }
            GroupChange::Delete => {
                let id = id.unwrap_or_else(GroupId::root);
                if !self.state.group_exists(&id) {
                    return Err(Refusal::NoGroup(id));
                }
                let mut order = Order::default();
                self.remove_within(&id, &mut order);
                order
            }
        };
        order.force = force;
        order.dry_run = dry_run;
        self.deploy(order, now, ids)
    }

    fn update_group(
        &self,
        body: &Value,
        id: Option<&GroupId>,
        create: bool,
    ) -> Result<Order, Refusal> {
        let roles = |app: &AppId, told| self.default_role(app, told);
        let (update, report) = Update::read(body, id, &roles);
        let Some(update) = update else {
            return Err(Refusal::Invalid(report));
        };
        let exists = self.state.group_exists(&update.id);
        if create && exists {
            return Err(Refusal::GroupExists(update.id));
        }
        let mut order = Order {
            unknown: report.unknown,
            ..Order::default()
        };
        if (update.version.is_some() || update.scale_by.is_some()) && !exists {
            return Err(Refusal::NoGroup(update.id));
        }
        if let Some(version) = update.version {
            self.restore(&update.id, version, &mut order)?;
        } else if let Some(by) = update.scale_by {
            for (_, app) in self.state.apps_within(&update.id) {
                let mut app = app.current.app.clone();
                let scaled = (u64::from(app.instances) * by).div_ceil(PPM);
                app.instances = u32::try_from(scaled).unwrap_or(u32::MAX);
                if app.is_single_instance() && app.instances > 1 {
                    let mut report = Report::default();
                    let problem =
                        format!("{}: Single instance app may only have one instance", app.id);
                    report.value_problem("/scaleBy", problem);
                    return Err(Refusal::Invalid(report));
                }
                order.targets.push(Target::app(app));
            }
        } else {
            self.lay_over(&update, &mut order);
        }
        order.about = Some(update.id);
        Ok(order)
    }

    /// The group as `update` says, what it does not name as it is.
    fn lay_over(&self, update: &Update, order: &mut Order) {
        let id = &update.id;
        for (are_pods, list) in [(false, &update.apps), (true, &update.pods)] {
            let Some(list) = list else { continue };
            let listed: BTreeSet<&AppId> = list.iter().map(|app| &app.id).collect();
            let direct = self.state.apps_within(id).filter(|(app, state)| {
                let here = app.parent() == id.as_str() && state.is_pod() == are_pods;
                here && !listed.contains(app)
            });
            let gone = direct.map(|(app, _)| Target::gone(app.clone()));
            order.targets.extend(gone);
            order.targets.extend(list.iter().cloned().map(Target::app));
        }
        if let Some(groups) = &update.groups {
            let listed: BTreeSet<&GroupId> = groups.iter().map(|group| &group.id).collect();
            for child in self.state.groups_in(id) {
                if !listed.contains(&child) {
                    self.remove_within(&child, order);
                }
            }
            for group in groups {
                self.lay_over(group, order);
            }
        }
        let before = self.state.groups.get(id);
        let dependencies = update.dependencies.clone().unwrap_or_else(|| {
            before.map_or_else(BTreeSet::new, |group| group.current.dependencies.clone())
        });
        let wish = GroupWish {
            dependencies,
            enforce_role: id.is_top_level()
                && update
                    .enforce_role
                    .unwrap_or_else(|| self.enforces_role(id)),
        };
        order.groups.insert(id.clone(), Some(wish));
    }

    fn remove_within(&self, id: &GroupId, order: &mut Order) {
        let apps = self.state.apps_within(id);
        order
            .targets
            .extend(apps.map(|(app, _)| Target::gone(app.clone())));
        let records = self.state.groups.keys().filter(|group| group.is_within(id));
        order
            .groups
            .extend(records.map(|group| (group.clone(), None)));
    }

    /// Everything below as it was.
    fn restore(&self, id: &GroupId, version: Timestamp, order: &mut Order) -> Result<(), Refusal> {
        let found = self
            .state
            .groups
            .get(id)
            .and_then(|group| group.versions.get(&version));
        let Some(found) = found else {
            return Err(Refusal::NoGroupVersion(id.clone(), version));
        };
        self.remove_within(id, order);
        let then: BTreeSet<&AppId> = found.apps.iter().map(|app| &app.id).collect();
        order.targets.retain(|target| !then.contains(&target.id));
        order
            .targets
            .extend(found.apps.iter().cloned().map(Target::app));
        let groups = found.groups.iter();
        order.groups.extend(groups.map(|(group, on)| {
            let wish = GroupWish {
                dependencies: on.clone(),
                enforce_role: group.is_top_level() && self.enforces_role(group),
            };
            (group.clone(), Some(wish))
        }));
        Ok(())
    }

    /// Makes the groups so; gives back what they were.
    pub(super) fn set_groups(
        &mut self,
        groups: &BTreeMap<GroupId, Option<GroupWish>>,
        version: Timestamp,
    ) -> BTreeMap<GroupId, Option<Group>> {
        let mut before = BTreeMap::new();
        for (id, wanted) in groups {
            let known = self.state.groups.get(id).map(|group| group.current.clone());
            before.insert(id.clone(), known);
            match wanted {
                Some(wish) => {
                    let current = Group {
                        version,
                        dependencies: wish.dependencies.clone(),
                        enforce_role: wish.enforce_role,
                    };
                    self.set_group(id, current);
                }
                None => self.forget_group(id),
            }
        }
        before
    }

    fn set_enforcement(&mut self, id: &GroupId, enforce: bool) -> Result<Reply, Refusal> {
        if !self.state.group_exists(id) {
            return Err(Refusal::NoGroup(id.clone()));
        }
        if enforce && !id.is_top_level() {
            let mut report = Report::default();
            let problem = format!(
                "enforceRole can only be set for top-level groups, and {id} is not top-level"
            );
            report.value_problem("/enforceRole", problem);
            return Err(Refusal::Invalid(report));
        }
        let known = self.state.groups.get(id).map(|known| known.current.clone());
        if known.as_ref().is_some_and(|known| known.enforce_role) == enforce {
            return Ok(Reply::Done);
        }
        let latest = || {
            let apps = self.state.apps_within(id);
            apps.map(|(_, app)| app.current.version).max()
        };
        let current = known.unwrap_or_else(|| Group {
            version: latest().unwrap_or_default(),
            dependencies: BTreeSet::new(),
            enforce_role: false,
        });
        let current = Group {
            enforce_role: enforce,
            ..current
        };
        self.set_group(id, current);
        Ok(Reply::Done)
    }

    fn set_group(&mut self, id: &GroupId, current: Group) {
        let known = self.state.groups.get(id);
        let versions = known.map_or_else(BTreeMap::new, |known| known.versions.clone());
        let group = GroupState { current, versions };
        self.state.groups.insert(id.clone(), Arc::new(group));
        self.dirty.insert(Key::Group(id.clone()));
        self.changed = true;
    }

    fn forget_group(&mut self, id: &GroupId) {
        if let Some(group) = self.state.groups.remove(id) {
            let versions = group.versions.keys();
            self.dirty
                .extend(versions.map(|version| Key::GroupVersion(id.clone(), *version)));
            self.dirty.insert(Key::Group(id.clone()));
            self.changed = true;
        }
    }

    /// The first time that a group is changed as a whole, what it was is remembered as well: there is a way back.
    pub(super) fn remember_before(&mut self, id: &GroupId) {
        let has_history = |group: &Arc<GroupState>| !group.versions.is_empty();
        let apps = self.state.apps_within(id);
        let latest = apps.map(|(_, app)| app.current.version).max();
        if let Some(latest) = latest
            && !self.state.groups.get(id).is_some_and(has_history)
        {
            let current = Group {
                version: latest,
                dependencies: BTreeSet::new(),
                enforce_role: false,
            };
            if !self.state.groups.contains_key(id) {
                self.set_group(id, current);
            }
            self.remember(id, latest);
        }
    }

    /// An entry in the history of the group, if it is still there.
    pub(super) fn remember(&mut self, id: &GroupId, version: Timestamp) {
        let apps: Vec<App> = self
            .state
            .apps_within(id)
            .map(|(_, app)| app.current.app.clone())
            .collect();
        let groups = self.state.groups.iter();
        let groups = groups
            .filter(|(group, _)| group.is_within(id))
            .map(|(group, state)| (group.clone(), state.current.dependencies.clone()))
            .collect();
        let max_versions = self.settings.max_versions.max(1);
        let Some(state) = self.state.groups.get_mut(id) else {
            return;
        };
        let state = Arc::make_mut(state);
        let entry = GroupVersion {
            version,
            apps,
            groups,
        };
        state.versions.insert(version, Arc::new(entry));
        self.dirty.insert(Key::GroupVersion(id.clone(), version));
        let remembered = |versions: &BTreeMap<Timestamp, Arc<GroupVersion>>| -> usize {
            versions.values().map(|version| version.apps.len()).sum()
        };
        while state.versions.len() > max_versions
            || (state.versions.len() > 2 && remembered(&state.versions) > MAX_REMEMBERED)
        {
            let Some((oldest, _)) = state.versions.pop_first() else {
                break;
            };
            self.dirty.insert(Key::GroupVersion(id.clone(), oldest));
        }
        self.changed = true;
    }
}
