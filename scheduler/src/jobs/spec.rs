//! The checked description of a job. Valid by construction: only [`super::parse`] makes one from outside data.
//!
//! Pure. What it names beyond itself (its parents) is checked by the core against the other jobs.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{
    FetchUri, NetworkMode, Resources, RoleName, Scalar, SecretEnv, SecretSource, Volume,
    VolumeSource,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::name::JobName;
use super::schedule::Schedule;
use crate::app::confinement::Confinement;
use crate::app::constraint::Constraint;
use crate::app::role::Accepts;
use crate::app::spec::Engine;

/// One million: factors are in millionths.
pub const PPM: u64 = 1_000_000;

/// What starts a job, beside a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// Set times.
    Times(Schedule),
    /// The success of all of these since its last run.
    Parents(BTreeSet<JobName>),
    /// Nothing.
    Request,
}

/// What happens when a run is due while another of the job is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// Both run.
    Allow,
    /// The new one is skipped.
    Forbid,
    /// The old one is killed; the new one starts when it is gone.
    Replace,
}

impl Concurrency {
    /// By their names.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("allow", Self::Allow),
        ("forbid", Self::Forbid),
        ("replace", Self::Replace),
    ];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Forbid => "forbid",
            Self::Replace => "replace",
        }
    }
}

/// How often and when an attempt that failed is followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Beyond the first attempt.
    pub count: u32,
    /// Before the first of them.
    pub delay_ms: u64,
    /// Growth of the delay, in millionths.
    pub factor_ppm: u64,
    /// Never longer.
    pub max_delay_ms: u64,
}

impl Retries {
    /// The delay before attempt number `attempt` (the first attempt of all is 0).
    #[must_use]
    pub fn delay_before(&self, attempt: u32) -> u64 {
        let mut delay = u128::from(self.delay_ms);
        for _ in 1..attempt {
            delay = (delay * u128::from(self.factor_ppm) / u128::from(PPM))
                .min(u128::from(self.max_delay_ms));
        }
        u64::try_from(delay)
            .unwrap_or(u64::MAX)
            .min(self.max_delay_ms)
    }
}

/// The image and how it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobContainer {
    /// As named by the job; both run the same way here.
    pub engine: Engine,
    /// Reference, as the job wrote it.
    pub image: String,
    /// Ask the registry although the image is there.
    pub force_pull: bool,
    /// What it may do, and where it may write.
    pub confinement: Confinement,
    /// The machine's unless the job says otherwise.
    pub network: NetworkMode,
    /// Which of the agents' networks, for [`NetworkMode::Container`].
    pub network_name: Option<String>,
    /// Host paths.
    pub volumes: Vec<Volume>,
    /// Files with secrets: where, and the name that the job gives the secret.
    pub secret_volumes: Vec<(String, String)>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Unique.
    pub name: JobName,
    /// For people.
    pub description: String,
    /// For people.
    pub owner: String,
    /// For people.
    pub owner_name: String,
    /// What starts it.
    pub trigger: Trigger,
    /// Of the schedule, as named by the job.
    pub time_zone: Option<String>,
    /// A line for `/bin/sh -c`; without `shell` the program. Empty: what the image says.
    pub command: String,
    /// Of the program, without `shell`.
    pub arguments: Vec<String>,
    /// See `command`.
    pub shell: bool,
    /// Where it comes from.
    pub container: JobContainer,
    /// For the process.
    pub env: BTreeMap<String, String>,
    /// Variables with secrets, and the names that the job gives these.
    pub secret_env: BTreeMap<String, String>,
    /// Where secrets come from, by the names that the job gives them.
    pub secrets: BTreeMap<String, SecretSource>,
    /// In the container; empty: the image's.
    pub user: String,
    /// Per run.
    pub cpus: Scalar,
    /// Per run, MiB.
    pub mem: Scalar,
    /// Per run, MiB.
    pub disk: Scalar,
    /// Of an attempt that failed.
    pub retries: Retries,
    /// A task that runs longer is killed and has failed; 0: any time.
    pub max_completion_secs: u64,
    /// No slots, no starts by parents.
    pub disabled: bool,
    /// While a run is under way.
    pub concurrency: Concurrency,
    /// How late a slot may still be taken.
    pub catch_up_secs: u64,
    /// Disabled after so many runs in a row that failed; 0: never.
    pub disable_after_failures: u32,
    /// A run that failed counts for its children as one that succeeded.
    pub soft_error: bool,
    /// Its runs get resources before all others.
    pub high_priority: bool,
    /// Put into the sandbox before a run starts.
    pub fetch: Vec<FetchUri>,
    /// On which machines its runs may be; each run for itself.
    pub constraints: Vec<Constraint>,
    /// In whose share its runs are. `None`: it was made before jobs had roles, and has the scheduler's default one.
    pub role: Option<RoleName>,
    /// Which resources of that role's offers its runs take.
    pub accepts: Accepts,
}

impl Job {
    /// What one run takes.
    #[must_use]
    pub fn resources(&self) -> Resources {
        Resources::new()
            .with_scalar("cpus", self.cpus)
            .with_scalar("mem", self.mem)
            .with_scalar("disk", self.disk)
    }

    /// The volumes of its tasks, those with secrets too.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        let secrets = self.container.secret_volumes.iter();
        let secrets = secrets.filter_map(|(path, name)| {
            Some(Volume {
                container_path: path.clone(),
                read_only: true,
                source: VolumeSource::Secret(self.secrets.get(name)?.clone()),
            })
        });
        let host = self.container.volumes.iter().cloned();
        host.chain(secrets).collect()
    }

    /// The variables of its tasks that hold secrets.
    #[must_use]
    pub fn secret_variables(&self) -> Vec<SecretEnv> {
        let variables = self.secret_env.iter();
        let variables = variables.filter_map(|(variable, name)| {
            Some(SecretEnv {
                name: variable.clone(),
                secret: self.secrets.get(name)?.clone(),
            })
        });
        variables.collect()
    }

    /// The role of the offers on which its runs start, given the scheduler's default one.
    #[must_use]
    pub fn role_or<'a>(&'a self, default: &'a RoleName) -> &'a RoleName {
        self.role.as_ref().unwrap_or(default)
    }

    /// What it waits for, if for others.
    #[must_use]
    pub fn parents(&self) -> Option<&BTreeSet<JobName>> {
        match &self.trigger {
            Trigger::Parents(parents) => Some(parents),
            Trigger::Times(_) | Trigger::Request => None,
        }
    }

    /// Its set times, if it has some.
    #[must_use]
    pub fn schedule(&self) -> Option<&Schedule> {
        match &self.trigger {
            Trigger::Times(schedule) => Some(schedule),
            Trigger::Parents(_) | Trigger::Request => None,
        }
    }

    /// How late a slot may still be taken.
    #[must_use]
    pub fn catch_up_ms(&self) -> u64 {
        self.catch_up_secs.saturating_mul(1000)
    }
}

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// The durable form is the JSON that people see, read by the same code.
impl<'de> Deserialize<'de> for Job {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        // What is on disk says when it starts: the present is not asked for.
        let (job, report) = super::parse::parse_job(&value, None, super::parse::Kind::Any, 0);
        job.ok_or_else(|| {
            let problems: Vec<String> = report
                .errors
                .iter()
                .map(|problem| format!("{}: {}", problem.path, problem.message))
                .collect();
            serde::de::Error::custom(format!("not a job: {}", problems.join("; ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_wait_longer_up_to_a_bound() {
        let retries = Retries {
            count: 5,
            delay_ms: 1000,
            factor_ppm: 2 * PPM,
            max_delay_ms: 5000,
        };
        let delays: Vec<u64> = (1..=5)
            .map(|attempt| retries.delay_before(attempt))
            .collect();
        assert_eq!(delays, [1000, 2000, 4000, 5000, 5000]);
    }
}
