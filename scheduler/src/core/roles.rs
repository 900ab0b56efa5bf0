//! Roles of apps: which one an app gets without a word, and which it may have.
//!
//! Pure. As in Marathon 1.11 an app has the scheduler's default role or the name of its top-level group; where that
//! enforces its role, only the latter. What an app has already it may keep. Which of them the master is told of, and what is
//! asked for in each, is in `interest`.

use std::collections::BTreeSet;

use mezzo_api::model::RoleName;
use serde_json::Value;

use super::Core;
use super::command::Refusal;
use super::order::{GroupWish, Order};
use crate::app::role::{of_group, with_default};
use crate::app::{App, AppId, Report};
use crate::group::GroupId;

/// Marathon's words.
const ALONE: &str = "enforceRole cannot be modified in a request that adds, removes or modifies services; please make these changes in separate requests.";

impl Core {
    /// The role of an app that names none; `told`: what a request says of its top-level group.
    pub(super) fn default_role(&self, app: &AppId, told: Option<bool>) -> RoleName {
        let enforces = |group| told.unwrap_or_else(|| self.enforces_role(group));
        match (GroupId::top_of(app), of_group(app)) {
            (Some(group), Some(role)) if enforces(&group) => role,
            (Some(_) | None, Some(_) | None) => self.settings.default_role.clone(),
        }
    }

    /// The same, put into a body.
    pub(super) fn with_role(&self, body: &Value, id: Option<&AppId>) -> Value {
        let named = || body.get("id")?.as_str()?.parse().ok();
        let role = match id.cloned().or_else(named) {
            Some(id) => self.default_role(&id, None),
            None => self.settings.default_role.clone(),
        };
        with_default(body, &role)
    }

    /// Whether apps of the top-level group have its role; of one that is not there, whether they will.
    pub(super) fn enforces_role(&self, group: &GroupId) -> bool {
        match self.state.groups.get(group) {
            Some(known) => known.current.enforce_role,
            None => self.settings.new_groups_enforce_role && !self.has_apps(group),
        }
    }

    /// Whether anything lies below it, without going through all apps.
    fn has_apps(&self, group: &GroupId) -> bool {
        let below = group.as_str().parse::<AppId>();
        below.is_ok_and(|below| self.state.apps_below(&below).next().is_some())
    }

    /// Top-level groups that come to be with their first app enforce their role if the scheduler was told so.
    pub(super) fn enforce_in_new_groups(&self, order: &mut Order) {
        if !self.settings.new_groups_enforce_role {
            return;
        }
        let new = order.targets.iter().filter(|target| target.to.is_some());
        let groups: BTreeSet<GroupId> = new
            .filter_map(|target| GroupId::top_of(&target.id))
            .filter(|group| !self.state.groups.contains_key(group) && self.enforces_role(group))
            .collect();
        for group in groups {
            let wish = GroupWish {
                enforce_role: true,
                ..GroupWish::default()
            };
            order.groups.entry(group).or_insert(Some(wish));
        }
    }

    /// No app has a role that it may not have, and what a group enforces does not change together with its apps.
    pub(super) fn refuse_roles(&self, order: &Order) -> Result<(), Refusal> {
        if order.is_rollback {
            return Ok(());
        }
        let mut report = Report::default();
        let many = order.targets.len() > 1;
        for app in order.targets.iter().filter_map(|target| target.to.as_ref()) {
            let before = self.state.apps.get(&app.id);
            let before = before.map(|before| &before.current.app.role);
            if before == Some(&app.role) {
                continue;
            }
            let mut valid = self.valid_roles(app, order);
            if valid.contains(&app.role) {
                continue;
            }
            valid.extend(before.cloned());
            let valid: Vec<&str> = valid.iter().map(RoleName::as_str).collect();
            let of = if many {
                format!("{}: ", app.id)
            } else {
                String::new()
            };
            let problem = format!(
                "{of}got {}, expected one of: [{}]",
                app.role,
                valid.join(", ")
            );
            report.value_problem("/role", problem);
        }
        let differs = |(id, wish): (&GroupId, &Option<GroupWish>)| {
            let known = self.state.groups.get(id).map(|group| &group.current);
            let exists = known.is_some() || self.state.group_exists(id);
            let was = known.is_some_and(|group| group.enforce_role);
            exists && wish.as_ref().is_some_and(|wish| wish.enforce_role != was)
        };
        let changes = order.targets.iter().any(|target| {
            let known = self.state.apps.get(&target.id);
            known.map(|known| &known.current.app) != target.to.as_ref()
        });
        if changes && order.groups.iter().any(differs) {
            report.value_problem("/enforceRole", ALONE);
        }
        if report.errors.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Invalid(report))
        }
    }

    fn valid_roles(&self, app: &App, order: &Order) -> BTreeSet<RoleName> {
        let default = self.settings.default_role.clone();
        let (Some(group), Some(role)) = (GroupId::top_of(&app.id), of_group(&app.id)) else {
            return [default].into();
        };
        let told = order.groups.get(&group).and_then(Option::as_ref);
        let enforces = match told {
            Some(wish) => wish.enforce_role,
            None => self.enforces_role(&group),
        };
        if enforces {
            [role].into()
        } else {
            [default, role].into()
        }
    }
}
