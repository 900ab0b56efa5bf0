//! What the master is asked for: in which roles there are to be offers at all, and in each of them offers exactly while
//! something waits for them.
//!
//! Pure. A role is there as long as something of an app or a job may start in it, or something is kept for it; the
//! scheduler's own two always are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mezzo_api::model::RoleName;

use super::record::Key;
use super::state::{AppState, RoleWord};
use super::{Call, Core, Demand};
use crate::app::{App, AppId};
use crate::jobs::JobName;
use crate::resident::HoldingId;

/// Between two questions for what the machines have, while something waits.
const SURVEY_INTERVAL_MS: u64 = 10_000;
/// The same while nothing does.
const SURVEY_IDLE_MS: u64 = 60_000;
/// So long something waits before the first of them.
const SURVEY_AFTER_MS: u64 = 1000;

/// What waits for offers of one role.
#[derive(Debug, Default)]
pub(super) struct Wants {
    apps: Demand,
    /// Runs of jobs.
    pub(super) jobs: BTreeSet<(JobName, u64)>,
    /// What is to be given back.
    releases: BTreeSet<HoldingId>,
}

impl Wants {
    /// Something that a machine with more room would help.
    fn waits(&self) -> bool {
        !self.apps.is_empty() || !self.jobs.is_empty()
    }

    fn is_nothing(&self) -> bool {
        !self.waits() && self.releases.is_empty()
    }

    /// The same number of another configuration may fit where the former did not.
    fn has_grown_since(&self, before: &Self) -> bool {
        let grew = self.apps.iter().any(|(app, (count, config))| {
            let former = before.apps.get(app);
            former.is_none_or(|(former, of)| count > former || config != of)
        });
        grew || !self.jobs.is_subset(&before.jobs) || !self.releases.is_subset(&before.releases)
    }
}

/// One role, as the master was last asked.
#[derive(Debug)]
pub(super) struct Interest {
    /// After the turn before.
    pub(super) wants: Wants,
    pub(super) suppressed: bool,
}

impl Default for Interest {
    fn default() -> Self {
        Self {
            wants: Wants::default(),
            suppressed: true,
        }
    }
}

impl Core {
    /// The roles to subscribe to.
    #[must_use]
    pub fn roles(&self) -> &BTreeSet<RoleName> {
        &self.roles
    }

    /// Those in which a new subscription should begin without offers.
    #[must_use]
    pub fn suppressed_roles(&self) -> BTreeSet<RoleName> {
        let default = &self.settings.default_role;
        let begins = |role: &&RoleName| *role == default && !self.is_suppressed();
        let roles = self.roles.iter().filter(|role| !begins(role));
        roles.cloned().collect()
    }

    /// The same of the default role.
    #[must_use]
    pub fn is_suppressed(&self) -> bool {
        let known = self.interests.get(&self.settings.default_role);
        known.is_none_or(|known| known.suppressed)
    }

    /// Whatever was waiting asks again.
    pub(super) fn forget_demand(&mut self) {
        self.interests.clear();
        let default = Interest {
            suppressed: false,
            ..Interest::default()
        };
        self.interests
            .insert(self.settings.default_role.clone(), default);
    }

    /// The roles that the subscription began with; they may have changed meanwhile.
    pub fn subscribed_in(&mut self, roles: &BTreeSet<RoleName>) {
        if *roles != self.roles {
            self.ask_for_roles();
        }
    }

    /// The master's word on which roles the scheduler may have.
    pub fn roles_refused(&mut self, refused: &BTreeMap<RoleName, String>) {
        let mut words = (*self.state.roles).clone();
        for word in words.values_mut() {
            word.refused = None;
        }
        for (role, problem) in refused {
            words.entry(role.clone()).or_default().refused = Some(problem.clone());
        }
        self.set_words(words);
    }

    /// The master's reasons why there are the offers that there are, by role.
    pub fn roles_explained(&mut self, reasons: BTreeMap<RoleName, Vec<String>>) {
        let mut words = (*self.state.roles).clone();
        for word in words.values_mut() {
            word.reasons.clear();
        }
        for (role, reasons) in reasons {
            words.entry(role).or_default().reasons = reasons;
        }
        self.set_words(words);
    }

    fn set_words(&mut self, mut words: BTreeMap<RoleName, RoleWord>) {
        words.retain(|_, word| *word != RoleWord::default());
        if *self.state.roles != words {
            self.state.roles = Arc::new(words);
            self.changed = true;
        }
    }

    /// Tells the master when roles come and go.
    pub(super) fn tell_roles(&mut self) {
        let may_differ = self.dirty.iter().any(|key| match key {
            Key::Version(..) | Key::Holding(..) | Key::Deployment(_) => true,
            Key::App(id) => !self.state.apps.contains_key(id),
            Key::Framework
            | Key::MasterTerm
            | Key::Instance(_)
            | Key::Group(_)
            | Key::GroupVersion(..)
            | Key::Job(_)
            | Key::JobRun(..) => false,
        });
        // Both, so that the word of the jobs is taken.
        if !self.jobs.take_roles_changed() && !may_differ {
            return;
        }
        let needed = self.needed_roles();
        if needed != self.roles {
            self.roles = needed;
            self.ask_for_roles();
        }
    }

    pub(super) fn ask_for_roles(&mut self) {
        let roles = &self.roles;
        self.interests.retain(|role, _| roles.contains(role));
        if !self.state.connected {
            return;
        }
        let wanted = |role: &&RoleName| {
            let known = self.interests.get(*role);
            known.is_some_and(|known| !known.suppressed)
        };
        let suppressed = roles.iter().filter(|role| !wanted(role)).cloned();
        self.calls.push(Call::Roles {
            suppressed: suppressed.collect(),
            roles: self.roles.clone(),
        });
    }

    /// Those that something may start in, or is kept for.
    pub(super) fn needed_roles(&self) -> BTreeSet<RoleName> {
        let own = [&self.settings.default_role, &self.settings.resident_role];
        let mut roles: BTreeSet<RoleName> = own.into_iter().cloned().collect();
        let mut add = |role: &RoleName| {
            if !roles.contains(role) {
                roles.insert(role.clone());
            }
        };
        for app in self.state.apps.values() {
            add(self.launch_role(&app.active().app));
            add(self.launch_role(&app.current.app));
            for holding in app.holdings.values() {
                add(holding.stack.role());
            }
        }
        for holding in self.state.releasing.values() {
            add(holding.stack.role());
        }
        self.jobs.roles().for_each(add);
        roles
    }

    /// The role of the offers on which new instances of the app start, and for which what they keep is reserved: its own,
    /// unless that is everybody's and they keep something.
    pub(super) fn launch_role<'a>(&'a self, app: &'a App) -> &'a RoleName {
        match app.residency {
            Some(_) if app.role == RoleName::any() => &self.settings.resident_role,
            Some(_) | None => &app.role,
        }
    }

    /// The same, and those in which instances of it kept something.
    pub(super) fn offer_roles<'a>(&'a self, app: &'a AppState) -> BTreeSet<&'a RoleName> {
        let kept = app.holdings.values().map(|one| one.stack.role());
        kept.chain([self.launch_role(&app.active().app)]).collect()
    }

    /// Revives as soon as more is wanted than before, suppresses when nothing is; role by role.
    pub(super) fn ask_for_offers(&mut self, now: u64) {
        let mut wants = self.wants(now);
        let waits = wants.values().any(Wants::waits);
        let waited = self.interests.values().any(|one| one.wants.waits());
        if !waited && waits {
            self.survey_at = self.survey_at.min(now.saturating_add(SURVEY_AFTER_MS));
        }
        for role in wants.keys() {
            if !self.interests.contains_key(role) {
                self.interests.insert(role.clone(), Interest::default());
            }
        }
        for (role, interest) in &mut self.interests {
            let wants = wants.remove(role).unwrap_or_default();
            let nothing = wants.is_nothing();
            if self.state.connected {
                let grew = wants.has_grown_since(&interest.wants);
                if grew || (interest.suppressed && !nothing) {
                    self.calls.push(Call::Revive(role.clone()));
                } else if nothing && !interest.suppressed {
                    self.calls.push(Call::Suppress(role.clone()));
                }
            }
            *interest = Interest {
                suppressed: nothing,
                wants,
            };
        }
        if self.state.connected && now >= self.survey_at {
            let busy = waits || !self.state.releasing.is_empty();
            self.survey_at = now.saturating_add(if busy {
                SURVEY_INTERVAL_MS
            } else {
                SURVEY_IDLE_MS
            });
            self.calls.push(Call::Survey);
        }
    }

    fn wants(&self, now: u64) -> BTreeMap<RoleName, Wants> {
        let mut wants: BTreeMap<RoleName, Wants> = BTreeMap::new();
        let mut of = |role: &RoleName, put: &mut dyn FnMut(&mut Wants)| match wants.get_mut(role) {
            Some(known) => put(known),
            None => put(wants.entry(role.clone()).or_default()),
        };
        for (id, app, count) in self.hungry(now) {
            let wanted = (count, app.active().config);
            for role in self.offer_roles(&app) {
                of(role, &mut |wants| {
                    wants.apps.insert(id.clone(), wanted);
                });
            }
        }
        for (role, run) in self.jobs.demand() {
            of(role, &mut |wants| {
                wants.jobs.insert(run.clone());
            });
        }
        for holding in self.to_give_back() {
            of(holding.stack.role(), &mut |wants| {
                wants.releases.insert(holding.id);
            });
        }
        wants
    }

    /// The apps with instances that wait and may be launched now, longest waiting first.
    pub(super) fn hungry(&self, now: u64) -> Vec<(AppId, Arc<AppState>, u32)> {
        let mut hungry: Vec<(u64, &AppId, &Arc<AppState>, u32)> = self
            .waiting
            .iter()
            .filter_map(|id| {
                let app = self.state.apps.get(id)?;
                let queue = app.queue.as_ref()?;
                let ready = app.backoff.left_ms(now) == 0;
                ready.then_some((queue.since, id, app, queue.count))
            })
            .collect();
        hungry.sort_by_key(|(since, ..)| *since);
        let hungry = hungry.into_iter();
        hungry
            .map(|(_, id, app, count)| (id.clone(), Arc::clone(app), count))
            .collect()
    }
}
