//! What is counted about an app's instances, kept up to date change by change: a turn costs what changed, not what is there.
//!
//! Pure. Memory only, and made anew from the instances whenever that is simpler: after a restart, or when an app's rules for
//! them change. [`Books::file`] is told of every change of an instance, [`Books::look`] of the time: so nobody goes
//! through all instances of an app in a turn. A debug build counts those of small apps anew after each look and compares.
//!
//! ```text
//! instance ──file──► class (shelves, by age) · time of its next class · deadline of its launch · kill to be told · machine · place
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mezzo_api::model::{AgentId, TaskId};

use super::state::{AppState, Condition, Instance};
use crate::app::constraint::Constraint;
use crate::app::spec::UnreachableStrategy;
use crate::place::Tally;
use crate::reconcile::{Aged, Class, Phase, Roster, Shelf};
use crate::time::Timestamp;

/// What an app says about how its instances are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    unreachable: UnreachableStrategy,
    /// For places: those of the configuration with these constraints.
    config: Timestamp,
    constraints: Vec<Constraint>,
}

impl Rules {
    fn of(app: &AppState) -> Self {
        let active = app.active();
        Self {
            unreachable: active.app.when_unreachable(),
            config: active.config,
            constraints: active.app.constraints.clone(),
        }
    }

    fn are_those_of(&self, app: &AppState) -> bool {
        let active = app.active();
        self.config == active.config
            && self.unreachable == active.app.when_unreachable()
            && self.constraints == active.app.constraints
    }
}

/// A class, with the configuration itself instead of whether it is the wanted one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    late: bool,
    config: Timestamp,
    phase: Phase,
    group: Option<Arc<str>>,
}

/// Whether a task that is to end was told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nothing to tell: it may stay, or its machine is away.
    No,
    /// Not yet, or nobody knows.
    Due,
    /// Then.
    At(u64),
}

/// Under what an instance is filed.
#[derive(Debug, Clone)]
struct Filed {
    kind: Kind,
    staged_at: u64,
    /// When it is of another kind by time alone.
    next_at: Option<u64>,
    /// Of one that is to come to run: when its latest progress was.
    progress_at: Option<u64>,
    told: Told,
    agent: AgentId,
    /// As far as it counts for constraints.
    place: Option<BTreeMap<String, String>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Books {
    rules: Rules,
    /// The time up to which all kinds are true.
    as_of: u64,
    filed: HashMap<TaskId, Filed>,
    shelves: BTreeMap<Kind, BTreeSet<Aged>>,
    next: BTreeSet<(u64, TaskId)>,
    launching: BTreeSet<(u64, TaskId)>,
    due: BTreeSet<TaskId>,
    told: BTreeSet<(u64, TaskId)>,
    by_agent: HashMap<AgentId, u32>,
    tally: Tally,
}

impl Books {
    /// All instances of an app.
    pub(super) fn of(app: &AppState, now: u64) -> Self {
        let rules = Rules::of(app);
        let mut books = Self {
            as_of: now,
            filed: HashMap::new(),
            shelves: BTreeMap::new(),
            next: BTreeSet::new(),
            launching: BTreeSet::new(),
            due: BTreeSet::new(),
            told: BTreeSet::new(),
            by_agent: HashMap::new(),
            tally: Tally::new(&rules.constraints, []),
            rules,
        };
        for instance in app.instances.values() {
            books.file(instance);
        }
        books
    }

    /// An instance is new, or has changed.
    pub(super) fn file(&mut self, instance: &Instance) {
        let before = self.unfile(&instance.task_id);
        let filed = self.entry(instance, before.map_or(Told::No, |before| before.told));
        let id = &instance.task_id;
        let shelf = self.shelves.entry(filed.kind.clone()).or_default();
        shelf.insert((filed.staged_at, id.clone()));
        if let Some(at) = filed.next_at {
            self.next.insert((at, id.clone()));
        }
        if let Some(at) = filed.progress_at {
            self.launching.insert((at, id.clone()));
        }
        match filed.told {
            Told::No => {}
            Told::Due => {
                self.due.insert(id.clone());
            }
            Told::At(at) => {
                self.told.insert((at, id.clone()));
            }
        }
        *self.by_agent.entry(filed.agent.clone()).or_default() += 1;
        if let Some(place) = &filed.place {
            self.tally.add(&self.rules.constraints, place);
        }
        self.filed.insert(id.clone(), filed);
    }

    fn entry(&self, instance: &Instance, told_before: Told) -> Filed {
        let phase = instance.phase(self.rules.unreachable, self.as_of);
        let constraints = &self.rules.constraints;
        let away = matches!(instance.condition, Condition::Unreachable { .. });
        let counts = instance.sentence.is_none() && instance.config == self.rules.config;
        Filed {
            kind: Kind {
                late: instance.late,
                config: instance.config,
                phase,
                group: instance.group(constraints).map(Arc::from),
            },
            staged_at: instance.staged_at,
            next_at: instance.next_phase_at(self.rules.unreachable, self.as_of),
            progress_at: (phase == Phase::Launching).then_some(instance.progress_at),
            told: match told_before {
                _ if !instance.is_to_end() || away => Told::No,
                Told::No => Told::Due,
                told @ (Told::Due | Told::At(_)) => told,
            },
            agent: instance.agent_id.clone(),
            place: (counts && !constraints.is_empty()).then(|| instance.place.clone()),
        }
    }

    /// An instance is no more.
    pub(super) fn forget(&mut self, id: &TaskId) {
        self.unfile(id);
    }

    fn unfile(&mut self, id: &TaskId) -> Option<Filed> {
        let filed = self.filed.remove(id)?;
        if let Some(shelf) = self.shelves.get_mut(&filed.kind) {
            shelf.remove(&(filed.staged_at, id.clone()));
            if shelf.is_empty() {
                self.shelves.remove(&filed.kind);
            }
        }
        if let Some(at) = filed.next_at {
            self.next.remove(&(at, id.clone()));
        }
        if let Some(at) = filed.progress_at {
            self.launching.remove(&(at, id.clone()));
        }
        match filed.told {
            Told::No => {}
            Told::Due => {
                self.due.remove(id);
            }
            Told::At(at) => {
                self.told.remove(&(at, id.clone()));
            }
        }
        if let Some(count) = self.by_agent.get_mut(&filed.agent) {
            *count -= 1;
            if *count == 0 {
                self.by_agent.remove(&filed.agent);
            }
        }
        if let Some(place) = &filed.place {
            self.tally.remove(&self.rules.constraints, place);
        }
        Some(filed)
    }

    /// Time has come to `now`, and the app may have other rules than before.
    pub(super) fn look(&mut self, app: &AppState, now: u64) {
        if !self.rules.are_those_of(app) {
            let told = std::mem::take(&mut self.told);
            *self = Self::of(app, self.as_of.max(now));
            for (at, id) in told {
                self.tell(&id, at);
            }
        }
        self.as_of = self.as_of.max(now);
        while let Some((at, id)) = self.next.first().cloned() {
            if at > self.as_of {
                break;
            }
            match app.instances.get(&id) {
                Some(instance) => self.file(instance),
                None => self.forget(&id),
            }
        }
        // A recount of everything takes as long as there is something.
        debug_assert!(app.instances.len() > 200 || self.agree_with(&Self::of(app, self.as_of)));
    }

    /// Whether both count the same; which kills were told is in these alone.
    fn agree_with(&self, recount: &Self) -> bool {
        let told = self.told.iter().map(|(_, id)| id);
        let to_end: BTreeSet<&TaskId> = told.chain(&self.due).collect();
        self.shelves == recount.shelves
            && self.next == recount.next
            && self.launching == recount.launching
            && self.by_agent == recount.by_agent
            && self.tally == recount.tally
            && self.filed.len() == recount.filed.len()
            && to_end == recount.due.iter().collect()
    }

    /// All members, `active` being the configuration that is wanted. What `is_known` does not hold of ends by no old word of
    /// its health; where `makes_room`, a failing one is ended without a replacement beside it.
    pub(super) fn roster(
        &self,
        active: Timestamp,
        is_known: impl Fn(&TaskId) -> bool,
        makes_room: bool,
    ) -> Roster<'_> {
        let mut roster = Roster::default();
        for (kind, members) in &self.shelves {
            let with = |phase, members| Shelf {
                class: Class {
                    late: kind.late,
                    current: kind.config == active,
                    phase,
                },
                group: kind.group.clone(),
                members,
            };
            if !matches!(kind.phase, Phase::Failing | Phase::FailingLong) {
                roster.add(with(kind.phase, Cow::Borrowed(members)));
                continue;
            }
            let (known, unknown) = members.iter().cloned().partition(|(_, id)| is_known(id));
            let long = kind.phase == Phase::FailingLong || makes_room;
            let phase = if long {
                Phase::FailingLong
            } else {
                Phase::Failing
            };
            roster.add(with(phase, Cow::Owned(known)));
            roster.add(with(Phase::Failing, Cow::Owned(unknown)));
        }
        roster
    }

    /// Those that should have come to run by now, after `limit` without progress.
    pub(super) fn overdue(&self, now: u64, limit: u64) -> Vec<TaskId> {
        let late = |(at, _): &&(u64, TaskId)| now >= at.saturating_add(limit);
        let overdue = self.launching.iter().take_while(late);
        overdue.map(|(_, id)| id.clone()).collect()
    }

    /// Those that are to be told (again) to end.
    pub(super) fn kills_due(&self, now: u64, retry: u64) -> Vec<TaskId> {
        let is_due = |(at, _): &&(u64, TaskId)| now >= at.saturating_add(retry);
        let again = self.told.iter().take_while(is_due).map(|(_, id)| id);
        self.due.iter().chain(again).cloned().collect()
    }

    /// One was told to end.
    pub(super) fn tell(&mut self, id: &TaskId, now: u64) {
        let Some(filed) = self.filed.get_mut(id) else {
            return;
        };
        match filed.told {
            Told::No => return,
            Told::Due => {
                self.due.remove(id);
            }
            Told::At(at) => {
                self.told.remove(&(at, id.clone()));
            }
        }
        filed.told = Told::At(now);
        self.told.insert((now, id.clone()));
    }

    /// Nobody knows any more what was told.
    pub(super) fn untell(&mut self) {
        for (_, id) in std::mem::take(&mut self.told) {
            if let Some(filed) = self.filed.get_mut(&id) {
                filed.told = Told::Due;
            }
            self.due.insert(id);
        }
    }

    /// When something changes about the instances by time alone: the next class, the end of a launch's time (`limit`), a kill
    /// that is told again (`retry`).
    pub(super) fn next_look(&self, limit: u64, retry: u64) -> Option<u64> {
        let next = self.next.first().map(|(at, _)| *at);
        let launch = self
            .launching
            .first()
            .map(|(at, _)| at.saturating_add(limit));
        let kill = self.told.first().map(|(at, _)| at.saturating_add(retry));
        [next, launch, kill].into_iter().flatten().min()
    }

    /// How many instances a machine has.
    pub(super) fn on(&self, agent: &AgentId) -> u32 {
        self.by_agent.get(agent).copied().unwrap_or(0)
    }

    /// See [`AppState::tally`].
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::state::Sentence;
    use super::*;
    use crate::app::{App, AppVersion, parse_app};

    fn version(i: u64, field: &str, inactive_secs: u64) -> Arc<AppVersion> {
        let body = json!({
            "id": "/a", "container": {"docker": {"image": "image"}},
            "constraints": [[field, "GROUP_BY"], ["zone", "MAX_PER", "4"]],
            "unreachableStrategy": {"inactiveAfterSeconds": inactive_secs, "expungeAfterSeconds": 3600},
        });
        let app: App = parse_app(&body, None).0.expect("valid");
        Arc::new(AppVersion {
            version: Timestamp::from_millis(i),
            config: Timestamp::from_millis(i),
            last_scaling_at: Timestamp::from_millis(i),
            last_config_change_at: Timestamp::from_millis(i),
            app,
            written: Default::default(),
        })
    }

    fn instance(i: u64, config: u64, staged_at: u64) -> Instance {
        let id = format!("t{i}");
        Instance {
            task_id: id.parse().expect("valid"),
            app: "/a".parse().expect("valid"),
            version: Timestamp::from_millis(config),
            config: Timestamp::from_millis(config),
            role: Default::default(),
            agent_id: format!("agent-{}", i % 3).parse().expect("valid"),
            hostname: format!("host-{}", i % 3),
            place: BTreeMap::from([
                ("hostname".to_owned(), format!("host-{}", i % 3)),
                ("zone".to_owned(), format!("zone-{}", i % 2)),
            ]),
            ports: Vec::new(),
            holding: None,
            addresses: Vec::new(),
            checked: true,
            staged_at,
            started_at: None,
            condition: Condition::Provisioned,
            healthy: None,
            patience_ms: Some(30_000),
            unhealthy_since: None,
            checks: Vec::new(),
            awaits_readiness: false,
            readiness: None,
            check_result: None,
            sentence: None,
            late: false,
            progress_at: staged_at,
            message: String::new(),
            members: Vec::new(),
        }
    }

    /// What happens to an app.
    #[derive(Debug, Clone)]
    enum Step {
        Launch,
        Move(usize, Condition, Option<bool>),
        Sentence(usize),
        End(usize),
        Update(u64),
        Tell,
        Disconnect,
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let which = 0..20_usize;
        let condition = prop_oneof![
            Just(Condition::Starting),
            Just(Condition::Running),
            Just(Condition::Killing),
            Just(Condition::Unreachable { since: 0 }),
        ];
        prop_oneof![
            3 => Just(Step::Launch),
            6 => (which.clone(), condition, any::<Option<bool>>()).prop_map(|(i, to, healthy)| Step::Move(i, to, healthy)),
            1 => which.clone().prop_map(Step::Sentence),
            1 => which.prop_map(Step::End),
            1 => (0..4_u64).prop_map(Step::Update),
            1 => Just(Step::Tell),
            1 => Just(Step::Disconnect),
            4 => (0..50_000_u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn the_books_say_what_a_recount_says(steps in proptest::collection::vec(step(), 0..80)) {
            let mut app = AppState::new(version(0, "hostname", 20));
            let mut now = 1000;
            let mut books = Books::of(&app, now);
            for (i, step) in (0_u64..).zip(steps) {
                let nth = |at: usize| app.instances.values().nth(at).map(|one| (**one).clone());
                let changed = match step {
                    Step::Launch => Some(instance(i, app.active().config.millis(), now)),
                    Step::Move(at, to, healthy) => nth(at).map(|mut one| {
                        one.condition = to;
                        if let Condition::Unreachable { since } = &mut one.condition {
                            *since = now;
                        }
                        one.healthy = healthy;
                        one.unhealthy_since = (healthy == Some(false)).then_some(now);
                        one.progress_at = now;
                        one
                    }),
                    Step::Sentence(at) => nth(at).map(|mut one| {
                        one.sentence = Some(Sentence::NotWanted);
                        one
                    }),
                    Step::End(at) => {
                        if let Some(one) = nth(at) {
                            app.instances.remove(&one.task_id);
                            books.forget(&one.task_id);
                        }
                        None
                    }
                    Step::Update(which) => {
                        let field = if which < 2 { "hostname" } else { "zone" };
                        app.current = version(i, field, 10 + which);
                        None
                    }
                    Step::Tell => {
                        for id in books.kills_due(now, 1000) {
                            books.tell(&id, now);
                        }
                        prop_assert!(books.kills_due(now, 1000).is_empty());
                        None
                    }
                    Step::Disconnect => {
                        books.untell();
                        None
                    }
                    Step::Pass(ms) => {
                        now += ms;
                        None
                    }
                };
                if let Some(one) = changed {
                    app.instances.insert(one.task_id.clone(), Arc::new(one.clone()));
                    books.file(&one);
                }
                books.look(&app, now);
                prop_assert!(books.agree_with(&Books::of(&app, now)));
                let members = Roster::of(&app.members(now));
                let roster = books.roster(app.active().config, |_| true, false);
                for member in app.members(now) {
                    let class = member.class();
                    prop_assert_eq!(roster.count(|of| *of == class), members.count(|of| *of == class));
                }
                prop_assert_eq!(roster.count(|_| true), members.count(|_| true));
                prop_assert_eq!(books.tally(), &app.tally());
                let agents = app.instances.values().filter(|one| one.agent_id.as_str() == "agent-1");
                prop_assert_eq!(books.on(&"agent-1".parse().expect("valid")) as usize, agents.count());
            }
        }
    }
}
