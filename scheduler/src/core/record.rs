//! The durable form of the state: one JSON record per key, so that a turn writes only what it changed.
//!
//! Pure. Format 5, which has roles of apps, instances and groups beside all that format 4 has: where none is said it is `*`, which
//! everything had before. That has pods and the containers of their instances beside all that format 3 has. That has the master's term and what resident instances keep beside all that format 2 has, as that has
//! groups beside format 1. An older scheduler refuses a newer format; this one reads the older ones, of which every record
//! means the same, and from then on writes format 5.
//! Unknown fields are ignored, missing new ones must have a serde default.

use std::collections::BTreeMap;
use std::sync::Arc;

use mezzo_api::model::{FrameworkId, TaskId};
use serde::{Deserialize, Serialize};

use super::state::{AppState, Instance, Rollback, State, TaskFailure};
use crate::app::{AppId, AppVersion};
use crate::backoff::Backoff;
use crate::deployment::{Deployment, DeploymentId};
use crate::group::{Group, GroupId, GroupState, GroupVersion};
use crate::jobs::JobName;
use crate::jobs::record as jobs;
use crate::resident::{Holding, HoldingId};
use crate::time::Timestamp;

/// Names one record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The framework id.
    Framework,
    /// The highest term of a master that was followed.
    MasterTerm,
    /// What an app is meant to be.
    App(AppId),
    /// One entry of an app's history.
    Version(AppId, Timestamp),
    /// A task.
    Instance(TaskId),
    /// A plan under way.
    Deployment(DeploymentId),
    /// A group that somebody made.
    Group(GroupId),
    /// One entry of a group's history.
    GroupVersion(GroupId, Timestamp),
    /// What an instance keeps on a machine.
    Holding(AppId, HoldingId),
    /// A job, without its runs.
    Job(JobName),
    /// One run of a job.
    JobRun(JobName, u64),
}

/// A record to be written, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which.
    pub key: Key,
    /// `None`: remove it.
    pub value: Option<Vec<u8>>,
}

/// A record that cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("record {key:?} cannot be read: {problem}")]
pub struct BadRecord {
    key: Key,
    problem: String,
}

#[derive(Serialize, Deserialize)]
struct AppRecord {
    current: Timestamp,
    backoff: Backoff,
    last_failure: Option<TaskFailure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_rollback: Option<Rollback>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_sick_at: Option<u64>,
}

/// The bytes of the record, or `None` if the state has nothing under that key.
#[must_use]
pub fn encode(state: &State, key: &Key) -> Option<Vec<u8>> {
    match key {
        Key::Framework => state.framework_id.as_ref().map(to_json),
        Key::MasterTerm => (state.master_term > 0).then(|| to_json(&state.master_term)),
        Key::App(id) => state.apps.get(id).map(|app| {
            to_json(&AppRecord {
                current: app.current.version,
                backoff: app.backoff,
                last_failure: app.last_failure.clone(),
                last_rollback: app.last_rollback.clone(),
                ended_sick_at: app.ended_sick_at,
            })
        }),
        Key::Version(id, version) => state
            .apps
            .get(id)?
            .versions
            .get(version)
            .map(|v| to_json(&**v)),
        Key::Instance(id) => state
            .apps
            .values()
            .find_map(|app| app.instances.get(id))
            .or_else(|| state.orphans.get(id))
            .map(|instance| to_json(&**instance)),
        Key::Deployment(id) => state.deployments.get(id).map(|d| to_json(&**d)),
        Key::Group(id) => state.groups.get(id).map(|group| to_json(&group.current)),
        Key::GroupVersion(id, version) => {
            let group = state.groups.get(id)?;
            group.versions.get(version).map(|v| to_json(&**v))
        }
        Key::Holding(app, id) => state
            .apps
            .get(app)
            .and_then(|app| app.holdings.get(id))
            .or_else(|| state.releasing.get(id))
            .map(|holding| to_json(&**holding)),
        Key::Job(name) => state.jobs.get(name).map(|job| jobs::encode_job(job)),
        Key::JobRun(name, number) => {
            let run = state.jobs.get(name)?.runs.get(number)?;
            Some(jobs::encode_run(run))
        }
    }
}

/// The same for an instance whose app is known, without a search.
#[must_use]
pub(super) fn encode_instance(state: &State, app: Option<&AppId>, id: &TaskId) -> Option<Vec<u8>> {
    app.and_then(|app| state.apps.get(app)?.instances.get(id))
        .or_else(|| state.orphans.get(id))
        .map(|instance| to_json(&**instance))
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have string keys and no failing serializers")
}

/// Puts the state together from its records, in any order.
///
/// # Errors
///
/// When a record is not what it should be, or one that another names is missing.
pub fn decode(records: impl IntoIterator<Item = (Key, Vec<u8>)>) -> Result<State, BadRecord> {
    let mut state = State::default();
    let mut apps: BTreeMap<AppId, AppRecord> = BTreeMap::new();
    let mut versions: BTreeMap<AppId, BTreeMap<Timestamp, Arc<AppVersion>>> = BTreeMap::new();
    let mut instances: Vec<Instance> = Vec::new();
    let mut holdings: Vec<Holding> = Vec::new();
    let mut groups: BTreeMap<GroupId, Group> = BTreeMap::new();
    let mut group_versions: BTreeMap<GroupId, BTreeMap<Timestamp, Arc<GroupVersion>>> =
        BTreeMap::new();
    let mut job_states = BTreeMap::new();
    let mut job_runs = Vec::new();
    for (key, bytes) in records {
        match &key {
            Key::Framework => state.framework_id = Some(read::<FrameworkId>(&key, &bytes)?),
            Key::MasterTerm => state.master_term = read(&key, &bytes)?,
            Key::App(id) => {
                apps.insert(id.clone(), read(&key, &bytes)?);
            }
            Key::Version(id, version) => {
                let read = Arc::new(read::<AppVersion>(&key, &bytes)?);
                versions
                    .entry(id.clone())
                    .or_default()
                    .insert(*version, read);
            }
            Key::Instance(_) => instances.push(read(&key, &bytes)?),
            Key::Holding(..) => holdings.push(read(&key, &bytes)?),
            Key::Deployment(id) => {
                let deployment: Deployment = read(&key, &bytes)?;
                state.locks.extend(deployment.locks());
                state.deployments.insert(*id, Arc::new(deployment));
            }
            Key::Group(id) => {
                groups.insert(id.clone(), read::<Group>(&key, &bytes)?);
            }
            Key::GroupVersion(id, version) => {
                let read = Arc::new(read::<GroupVersion>(&key, &bytes)?);
                let history: &mut BTreeMap<_, _> = group_versions.entry(id.clone()).or_default();
                history.insert(*version, read);
            }
            Key::Job(name) => {
                let read = jobs::decode_job(&bytes).map_err(|problem| bad(&key, problem))?;
                job_states.insert(name.clone(), read);
            }
            Key::JobRun(name, _) => {
                let read = jobs::decode_run(&bytes).map_err(|problem| bad(&key, problem))?;
                job_runs.push((name.clone(), read));
            }
        }
    }
    state.jobs = Arc::new(jobs::assemble(job_states, job_runs));
    for (id, record) in apps {
        let history = versions.remove(&id).unwrap_or_default();
        let Some(current) = history.get(&record.current).cloned() else {
            return Err(BadRecord {
                problem: format!("its version {} is missing", record.current),
                key: Key::App(id),
            });
        };
        let mut app = AppState::new(current);
        app.versions = history;
        app.backoff = record.backoff;
        app.last_failure = record.last_failure;
        app.last_rollback = record.last_rollback;
        app.ended_sick_at = record.ended_sick_at;
        state.apps.insert(id, Arc::new(app));
    }
    for instance in instances {
        let id = instance.task_id.clone();
        match state.apps.get_mut(&instance.app) {
            Some(app) => {
                Arc::make_mut(app).instances.insert(id, Arc::new(instance));
            }
            None => {
                state.orphans.insert(id, Arc::new(instance));
            }
        }
    }
    for holding in holdings {
        let holding = Arc::new(holding);
        match state.apps.get_mut(&holding.app) {
            // What is not wanted any more is taken out again by the first turn.
            Some(app) => Arc::make_mut(app).holdings.insert(holding.id, holding),
            None => state.releasing.insert(holding.id, holding),
        };
    }
    for (id, current) in groups {
        let versions = group_versions.remove(&id).unwrap_or_default();
        let group = GroupState { current, versions };
        state.groups.insert(id, Arc::new(group));
    }
    for id in state.locks.keys().cloned().collect::<Vec<AppId>>() {
        state.hold(&id);
    }
    Ok(state)
}

fn read<T: for<'de> Deserialize<'de>>(key: &Key, bytes: &[u8]) -> Result<T, BadRecord> {
    serde_json::from_slice(bytes).map_err(|error| bad(key, error.to_string()))
}

fn bad(key: &Key, problem: String) -> BadRecord {
    BadRecord {
        key: key.clone(),
        problem,
    }
}
