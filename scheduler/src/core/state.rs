//! What the scheduler knows: apps with their history and instances, deployments, tasks left over from removed apps.
//!
//! Pure data. Everything behind an `Arc` so that publishing a snapshot after each turn costs little. Fields marked
//! "memory only" are made anew after a restart; the rest is durable, one record per key (see [`super::record`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use mezzo_api::model::{
    AgentId, Attribute, CheckResult, FrameworkId, Offer, ReadinessStatus, Resources, RoleName,
    TaskId, TaskState,
};
use mezzo_api::table::Table;
use serde::{Deserialize, Serialize};

use super::health::Check;
use super::members::Member as Container;
use crate::app::constraint::{Constraint, Operator};
use crate::app::spec::UnreachableStrategy;
use crate::app::{AppId, AppVersion};
use crate::backoff::Backoff;
use crate::deployment::course::Course;
use crate::deployment::{ActionKind, Deployment, DeploymentId, Lock};
use crate::group::{GroupId, GroupState};
use crate::jobs::state::Jobs;
use crate::place::{Lack, Site, Tally};
use crate::reconcile::{Member, Phase};
use crate::resident::{Holding, HoldingId, Stage};
use crate::time::Timestamp;

/// Everything, as published to readers.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Given by the master at the first subscription.
    pub framework_id: Option<FrameworkId>,
    /// The highest of a master that was followed; one of a lower term leads no more.
    pub master_term: u64,
    /// By path.
    pub apps: BTreeMap<AppId, Arc<AppState>>,
    /// Under way.
    pub deployments: BTreeMap<DeploymentId, Arc<Deployment>>,
    /// Which deployment has an app locked, and for what. Derived from `deployments`.
    pub locks: BTreeMap<AppId, Lock>,
    /// Groups that somebody made; others are there as long as they have apps.
    pub groups: BTreeMap<GroupId, Arc<GroupState>>,
    /// Tasks of apps that are gone, on machines that cannot be reached: killed if they come back.
    pub orphans: BTreeMap<TaskId, Arc<Instance>>,
    /// What instances kept that nobody wants any more, until it is given back.
    pub releasing: BTreeMap<HoldingId, Arc<Holding>>,
    /// What runs at set times and ends.
    pub jobs: Arc<Jobs>,
    /// Memory only: whether the master can be asked.
    pub connected: bool,
    /// Memory only: machines and all they have, as far as the master has told.
    pub machines: Arc<BTreeMap<AgentId, Machine>>,
    /// Memory only: what the master says of the roles; none of those that it says nothing of.
    pub roles: Arc<BTreeMap<RoleName, RoleWord>>,
    /// Memory only.
    pub counters: Counters,
}

/// What the master says of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleWord {
    /// Why the scheduler may not have it.
    pub refused: Option<String>,
    /// Why there are the offers that there are, the weightiest first.
    pub reasons: Vec<String>,
}

impl State {
    /// What a deployment is doing to `app` now.
    #[must_use]
    pub fn action_on(&self, app: &AppId) -> Option<ActionKind> {
        let lock = self.locks.get(app)?;
        let (kind, step) = lock.action?;
        (self.deployments.get(&lock.deployment)?.current == step).then_some(kind)
    }

    /// The app's way through the step under way, where it chose a trial or a deadline.
    #[must_use]
    pub fn course_of(&self, app: &AppId) -> Option<Course> {
        self.action_on(app)?;
        let lock = self.locks.get(app)?;
        let deployment = self.deployments.get(&lock.deployment)?;
        deployment.courses.get(app).copied()
    }

    /// Whether a deployment will do something to `app` in a later step.
    #[must_use]
    pub fn is_pending(&self, app: &AppId) -> bool {
        let found = self.locks.get(app).and_then(|lock| {
            let (_, step) = lock.action?;
            Some(self.deployments.get(&lock.deployment)?.current < step)
        });
        found == Some(true)
    }

    /// Notes what `app` goes by until its step has come.
    pub(super) fn hold(&mut self, id: &AppId) {
        let before = |lock: &Lock| self.deployments.get(&lock.deployment)?.original.get(id);
        let held = self
            .locks
            .get(id)
            .filter(|_| self.is_pending(id))
            .and_then(before)
            .cloned();
        let Some(app) = self.apps.get_mut(id) else {
            return;
        };
        let held = held.map(|before| {
            Arc::new(before.unwrap_or_else(|| {
                let mut nothing = (*app.current).clone();
                nothing.app.instances = 0;
                nothing
            }))
        });
        if app.held != held {
            Arc::make_mut(app).held = held;
        }
    }

    /// The apps that lie in the group or in groups below it, those that are on their way out left aside.
    pub fn apps_within(&self, group: &GroupId) -> impl Iterator<Item = (&AppId, &Arc<AppState>)> {
        let group = group.clone();
        self.visible_apps()
            .filter(move |(id, _)| id.is_within(group.as_str()))
    }

    /// The apps whose paths begin with that of `id`, itself left aside.
    pub fn apps_below(&self, id: &AppId) -> impl Iterator<Item = &AppId> {
        let below = format!("{id}/");
        let from = (Bound::Excluded(below.as_str()), Bound::Unbounded);
        let apps = self.apps.range::<str, _>(from).map(|(app, _)| app);
        apps.take_while(move |app| app.as_str().starts_with(&below))
    }

    /// Whether somebody made the group, or something lies in it; the root is always there.
    #[must_use]
    pub fn group_exists(&self, id: &GroupId) -> bool {
        *id == GroupId::root()
            || self.groups.keys().any(|group| group.is_within(id))
            || self
                .apps_within(id)
                .any(|(app, _)| app.as_str() != id.as_str())
    }

    /// The groups that lie directly in `id`.
    #[must_use]
    pub fn groups_in(&self, id: &GroupId) -> BTreeSet<GroupId> {
        let of_apps = self.apps_within(id).map(|(app, _)| GroupId::of(app));
        of_apps
            .chain(
                self.groups
                    .keys()
                    .filter(|group| group.is_within(id))
                    .cloned(),
            )
            .filter_map(|group| group.upwards().find(|up| up.parent().as_ref() == Some(id)))
            .collect()
    }

    /// The apps and pods that exist for people: one that is being removed is gone for them.
    pub fn visible_apps(&self) -> impl Iterator<Item = (&AppId, &Arc<AppState>)> {
        self.apps.iter().filter(|(id, _)| !self.is_stopping(id))
    }

    /// An app or a pod that exists for people.
    #[must_use]
    pub fn visible_app(&self, id: &AppId) -> Option<&Arc<AppState>> {
        self.apps.get(id).filter(|_| !self.is_stopping(id))
    }

    /// An app, not a pod, that exists for people.
    #[must_use]
    pub fn app(&self, id: &AppId) -> Option<&Arc<AppState>> {
        self.visible_app(id).filter(|app| !app.is_pod())
    }

    /// A pod that exists for people.
    #[must_use]
    pub fn pod(&self, id: &AppId) -> Option<&Arc<AppState>> {
        self.visible_app(id).filter(|app| app.is_pod())
    }

    /// Whether the app is on its way out.
    #[must_use]
    pub fn is_stopping(&self, id: &AppId) -> bool {
        let action = self.locks.get(id).and_then(|lock| lock.action);
        action.is_some_and(|(kind, _)| kind == ActionKind::StopApplication)
    }
}

/// What happened since the start, for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Tasks sent to the master.
    pub launched: u64,
    /// Tasks asked to end, first requests only.
    pub killed: u64,
    /// Tasks that ended with TASK_FAILED, TASK_ERROR or TASK_FINISHED without being asked.
    pub failed: u64,
    /// Offers received.
    pub offers: u64,
    /// Offers of which something was used.
    pub offers_used: u64,
    /// Statuses received.
    pub statuses: u64,
    /// Deployments begun.
    pub deployments: u64,
}

/// A machine of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// As people know it.
    pub hostname: String,
    /// All it has, in use or not.
    pub total: Resources,
    /// For constraints.
    pub attributes: Vec<Attribute>,
    /// What instances keep there; `None` where the master does not know.
    pub held: Option<BTreeSet<HoldingId>>,
    /// Empty where there is none.
    pub region: String,
    /// Empty where there is none.
    pub zone: String,
}

impl<'a> From<&'a Machine> for Site<'a> {
    fn from(machine: &'a Machine) -> Self {
        Self {
            hostname: &machine.hostname,
            region: &machine.region,
            zone: &machine.zone,
            attributes: &machine.attributes,
        }
    }
}

/// One app.
#[derive(Debug, Clone)]
pub struct AppState {
    /// What it is meant to be.
    pub current: Arc<AppVersion>,
    /// Its history, the current one included.
    pub versions: BTreeMap<Timestamp, Arc<AppVersion>>,
    /// What runs of it.
    pub instances: Table<TaskId, Arc<Instance>>,
    /// What its instances keep on machines, one each at a time.
    pub holdings: BTreeMap<HoldingId, Arc<Holding>>,
    /// After failures.
    pub backoff: Backoff,
    /// The latest, for people.
    pub last_failure: Option<TaskFailure>,
    /// The latest update that was taken back because its time was over, until the next one begins.
    pub last_rollback: Option<Rollback>,
    /// When an instance last was told to end while it failed its health check for good, Unix milliseconds.
    pub ended_sick_at: Option<u64>,
    /// Memory only: what waits to be launched.
    pub queue: Option<Queue>,
    /// Memory only: what keeps it from what is wanted; empty when nothing does.
    pub waiting_for: String,
    /// Memory only: it is as wanted.
    pub reached: bool,
    /// Memory only: what it goes by as long as the step of a deployment that changes it has not come.
    pub held: Option<Arc<AppVersion>>,
}

impl AppState {
    /// An app without instances.
    #[must_use]
    pub fn new(current: Arc<AppVersion>) -> Self {
        Self {
            versions: BTreeMap::from([(current.version, Arc::clone(&current))]),
            current,
            instances: Table::default(),
            holdings: BTreeMap::new(),
            backoff: Backoff::default(),
            last_failure: None,
            last_rollback: None,
            ended_sick_at: None,
            queue: None,
            waiting_for: String::new(),
            reached: false,
            held: None,
        }
    }

    /// Whether its instances are several containers each.
    #[must_use]
    pub fn is_pod(&self) -> bool {
        self.current.app.pod.is_some()
    }

    /// What its instances are meant to be now.
    #[must_use]
    pub fn active(&self) -> &Arc<AppVersion> {
        self.held.as_ref().unwrap_or(&self.current)
    }

    /// How the instances of the current configuration lie, as far as its constraints ask. As in Marathon those of
    /// another one do not count, so that an update with UNIQUE can start the new before it ends the old.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let counted = self
            .instances
            .values()
            .filter(|one| one.config == self.active().config && one.sentence.is_none());
        Tally::new(
            &self.active().app.constraints,
            counted.map(|one| &one.place),
        )
    }

    /// The holdings that instances have, whatever becomes of these.
    #[must_use]
    pub fn used_holdings(&self) -> BTreeSet<HoldingId> {
        let instances = self.instances.values();
        instances.filter_map(|instance| instance.holding).collect()
    }

    /// Those that a new instance can start on, the last used first: an older one was replaced while its machine was away.
    #[must_use]
    pub fn free_holdings(&self) -> Vec<Arc<Holding>> {
        if self.holdings.is_empty() {
            return Vec::new();
        }
        let used = self.used_holdings();
        let mut free: Vec<Arc<Holding>> = self
            .holdings
            .values()
            .filter(|one| one.stage == Stage::Kept && !used.contains(&one.id))
            .cloned()
            .collect();
        free.sort_by_key(|one| (std::cmp::Reverse(one.used_at), one.id));
        free
    }

    /// How many new holdings it may make: as many as it has instances, those left aside that are given up.
    #[must_use]
    pub fn may_make(&self, now: u64) -> u32 {
        let spec = &self.active().app;
        let strategy = spec.when_unreachable();
        let given_up: BTreeSet<HoldingId> = self
            .instances
            .values()
            .filter(|one| match one.phase(strategy, now) {
                Phase::Inactive => true,
                Phase::Abandoned => strategy != UnreachableStrategy::Disabled,
                Phase::Launching
                | Phase::Unhealthy
                | Phase::Failing
                | Phase::FailingLong
                | Phase::Healthy
                | Phase::Unreachable
                | Phase::Leaving => false,
            })
            .filter_map(|one| one.holding)
            .collect();
        let counted = self
            .holdings
            .values()
            .filter(|one| one.stage != Stage::Wiped && !given_up.contains(&one.id))
            .count();
        spec.instances
            .saturating_sub(u32::try_from(counted).unwrap_or(u32::MAX))
    }

    /// From when on a gap is none that an end for bad health left. Its time runs while there is a master to ask for what fills
    /// it, which there is again since `subscribed_at`.
    #[must_use]
    pub fn gap_until(&self, subscribed_at: u64) -> Option<u64> {
        Some(
            self.ended_sick_at?
                .max(subscribed_at)
                .saturating_add(GAP_MS),
        )
    }

    /// Whether instances of it may have a readiness check; those of versions that are not kept any more left aside. Whoever
    /// shows what they say need not go through all of them where there are none.
    #[must_use]
    pub fn asks_readiness(&self) -> bool {
        let mut versions = self.versions.values();
        versions.any(|version| version.app.readiness_check.is_some())
    }

    /// Its instances as the reconciler sees them.
    #[must_use]
    pub fn members(&self, now: u64) -> Vec<Member> {
        let active = self.active();
        self.instances
            .values()
            .map(|instance| Member {
                id: instance.task_id.clone(),
                group: instance.group(&active.app.constraints),
                current: instance.config == active.config,
                phase: instance.phase(active.app.when_unreachable(), now),
                staged_at: instance.staged_at,
                late: instance.late,
            })
            .collect()
    }
}

/// Instances that wait to be launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// How many.
    pub count: u32,
    /// Since when any.
    pub since: u64,
    /// Offers looked at since then.
    pub offers_seen: u64,
    /// How many of them were refused, by Marathon's reasons.
    pub rejected: BTreeMap<&'static str, u64>,
    /// The latest offer of each machine that was not enough, newest last.
    pub refusals: Vec<Refusal>,
}

/// An offer that was not enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// When.
    pub at: u64,
    /// What was offered, and where.
    pub offer: Offer,
    /// Why it was not enough.
    pub lacks: Vec<Lack>,
}

impl Refusal {
    /// Whether it was refused for this of Marathon's reasons, among others.
    #[must_use]
    pub fn has(&self, reason: &str) -> bool {
        self.lacks
            .iter()
            .any(|lack| lack.marathon_reason() == reason)
    }
}

/// The end of a task that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailure {
    /// Which task.
    pub task_id: TaskId,
    /// How it ended.
    pub state: TaskState,
    /// The agent's words.
    pub message: String,
    /// Where.
    pub host: String,
    /// On which agent.
    pub agent_id: AgentId,
    /// Of which version of the app.
    pub version: Timestamp,
    /// When.
    pub timestamp: Timestamp,
}

/// An update that did not get there in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The version that was given up.
    pub version: Timestamp,
    /// When.
    pub timestamp: Timestamp,
    /// What it waited for, for people.
    pub reason: String,
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Condition {
    /// Chosen a place for; the master may or may not know.
    Provisioned,
    /// The master has it.
    Staging,
    /// The agent has it.
    Starting,
    /// It runs.
    Running,
    /// It was told to end.
    Killing,
    /// Its machine is away.
    Unreachable {
        /// Unix milliseconds.
        since: u64,
    },
}

/// Why an instance is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sentence {
    /// There are more than wanted, or its version is replaced, or its app is removed.
    NotWanted,
    /// Somebody asked for just this one.
    Requested,
    /// It did not come to run in time.
    Overdue,
}

/// A failing instance waits so long for a replacement beside it; then it is ended to make room for one.
pub const REPLACE_BESIDE_MS: u64 = 60_000;

/// So long after an instance was ended for its health, or after the line to the master came back since, what the app has too
/// few counts as the gap that it left: as much less is ended for its health beside it.
pub const GAP_MS: u64 = 600_000;

fn is_everybodys(role: &RoleName) -> bool {
    *role == RoleName::any()
}

/// One task of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Used once.
    pub task_id: TaskId,
    /// Whose.
    pub app: AppId,
    /// The app's version when it was launched.
    pub version: Timestamp,
    /// The configuration it was launched with.
    pub config: Timestamp,
    /// Of the offer that it was launched on.
    #[serde(default, skip_serializing_if = "is_everybodys")]
    pub role: RoleName,
    /// Where.
    pub agent_id: AgentId,
    /// As people know the machine.
    pub hostname: String,
    /// What the fields of the app's constraints are there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub place: BTreeMap<String, String>,
    /// The machine's ports it was given.
    pub ports: Vec<u16>,
    /// What it has of the machine beyond its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holding: Option<HoldingId>,
    /// Its own addresses, where it has a network of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<std::net::IpAddr>,
    /// Has health checks.
    pub checked: bool,
    /// When it was launched, Unix milliseconds.
    pub staged_at: u64,
    /// When it first ran.
    pub started_at: Option<u64>,
    /// Where it stands.
    pub condition: Condition,
    /// The latest word of its health checks together.
    pub healthy: Option<bool>,
    /// So long it may go on to fail them before it is replaced; `None`: for ever, or the agent ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<u64>,
    /// Since when it fails them, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_since: Option<u64>,
    /// Of an app with several health checks: how it stands by each, in their order. What is said above follows from that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// Has a readiness check.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits_readiness: bool,
    /// Its latest word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Box<ReadinessStatus>>,
    /// What its check found last; of a pod its members have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_result: Option<Box<CheckResult>>,
    /// It is to end.
    pub sentence: Option<Sentence>,
    /// It came back when it was not expected any more.
    pub late: bool,
    /// When something last was heard of its way to running.
    pub progress_at: u64,
    /// The agent's latest words.
    pub message: String,
    /// Of a pod: its containers. The instance stands by how these do, and `task_id` is no task but its own name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Container>,
}

impl Instance {
    /// As the reconciler sees it.
    #[must_use]
    pub fn phase(&self, strategy: UnreachableStrategy, now: u64) -> Phase {
        match (self.condition, self.sentence) {
            (Condition::Unreachable { .. }, Some(_)) => Phase::Abandoned,
            (Condition::Unreachable { since }, None) => match strategy {
                UnreachableStrategy::Disabled => Phase::Unreachable,
                UnreachableStrategy::After { inactive_ms, .. } => {
                    if now >= since.saturating_add(inactive_ms) {
                        Phase::Inactive
                    } else {
                        Phase::Unreachable
                    }
                }
            },
            (_, Some(_)) | (Condition::Killing, None) => Phase::Leaving,
            (Condition::Provisioned | Condition::Staging | Condition::Starting, None) => {
                Phase::Launching
            }
            (Condition::Running, None) => {
                if self.is_healthy() && self.is_ready() {
                    return Phase::Healthy;
                }
                match self.failing_at() {
                    Some(at) if now >= at.saturating_add(REPLACE_BESIDE_MS) => Phase::FailingLong,
                    Some(at) if now >= at => Phase::Failing,
                    Some(_) | None => Phase::Unhealthy,
                }
            }
        }
    }

    /// From when on it has failed its health check for good, if it goes on to fail it.
    #[must_use]
    pub fn failing_at(&self) -> Option<u64> {
        if self.condition != Condition::Running || self.healthy != Some(false) {
            return None;
        }
        Some(self.unhealthy_since?.saturating_add(self.patience_ms?))
    }

    /// Whether that was so, at its end.
    #[must_use]
    pub fn was_failing(&self, now: u64) -> bool {
        let times = self.unhealthy_since.zip(self.patience_ms);
        times.is_some_and(|(since, patience)| now >= since.saturating_add(patience))
    }

    /// When its phase is another by time alone; of a time before that this says nothing.
    pub(super) fn next_phase_at(&self, strategy: UnreachableStrategy, now: u64) -> Option<u64> {
        match (self.condition, self.sentence) {
            (Condition::Unreachable { since }, None) => match strategy {
                UnreachableStrategy::Disabled => None,
                UnreachableStrategy::After { inactive_ms, .. } => {
                    Some(since.saturating_add(inactive_ms)).filter(|then| *then > now)
                }
            },
            (Condition::Running, None) => {
                let failing = self.failing_at();
                let later = failing.map(|at| at.saturating_add(REPLACE_BESIDE_MS));
                failing.into_iter().chain(later).find(|then| *then > now)
            }
            (
                Condition::Provisioned
                | Condition::Staging
                | Condition::Starting
                | Condition::Killing,
                None,
            )
            | (_, Some(_)) => None,
        }
    }

    /// Where it is, as far as GROUP_BY asks for it.
    pub(super) fn group(&self, constraints: &[Constraint]) -> Option<String> {
        let grouping = constraints
            .iter()
            .filter(|one| matches!(one.operator, Operator::GroupBy(_)));
        let values = grouping.map(|one| self.place.get(&one.field));
        let values: Vec<&str> = values
            .map(|value| value.map_or("", String::as_str))
            .collect();
        (!values.is_empty()).then(|| values.join("\n"))
    }

    /// Runs, and its health check agrees if it has one.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.condition == Condition::Running && (!self.checked || self.healthy == Some(true))
    }

    /// Its readiness check has passed, if it has one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.awaits_readiness || self.readiness.as_ref().is_some_and(|last| last.ready)
    }

    /// Mesos' name for where it stands.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.condition {
            Condition::Provisioned | Condition::Staging => TaskState::Staging.name(),
            Condition::Starting => TaskState::Starting.name(),
            Condition::Running => TaskState::Running.name(),
            Condition::Killing => TaskState::Killing.name(),
            Condition::Unreachable { .. } => TaskState::Unreachable.name(),
        }
    }
}
