//! What a fleet is made of and how it behaves.

use std::time::Duration;

use mezzo_api::{credential::Credential, masters::Masters, model::Resources};
use thiserror::Error;

/// Every problem of a description.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("fleet: {}", problems.join("; "))]
pub struct InvalidConfig {
    /// One sentence each, with the name of the setting.
    pub problems: Vec<String>,
}

/// A fleet. [`Config::default`] is ten agents of eight processors whose tasks run until they are killed.
#[derive(Debug, Clone)]
pub struct Config {
    /// host:port of every master.
    pub masters: Vec<String>,
    /// What all agents show to masters that ask for a credential.
    pub credential: Credential,
    /// How many agents.
    pub agents: usize,
    /// Agents that share a connection; a master takes at most 1,024 streams on one.
    pub agents_per_connection: usize,
    /// Registrations under way at once; the others wait.
    pub registrations: usize,
    /// Of each agent.
    pub resources: Resources,
    /// Agents are spread over so many values of the attribute `rack`; 0: they have none.
    pub racks: usize,
    /// And over so many zones; 0: they have none.
    pub zones: usize,
    /// Between launch and `TASK_RUNNING`.
    pub start_delay: Duration,
    /// Whether `TASK_STARTING` is told first, as true agents do.
    pub tell_starting: bool,
    /// Tasks end by themselves after a time between these; `None`: they run until they are killed.
    pub run_for: Option<(Duration, Duration)>,
    /// Of a thousand tasks that end by themselves, so many fail with exit code 1.
    pub failures_per_mille: u32,
    /// Streams break by themselves after about so long; `None`: they do not.
    pub break_after: Option<Duration>,
    /// Statuses that are not acknowledged are sent again after so long.
    pub repeat_after: Duration,
    /// Whether each launch and each status is kept for [`crate::Fleet::records`]; it takes memory without end.
    pub keep_records: bool,
    /// For everything that is left to chance.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        let resources = Resources::new()
            .with_scalar("cpus", mezzo_api::model::Scalar::from_units(8))
            .with_scalar("mem", mezzo_api::model::Scalar::from_units(32_768))
            .with_scalar("disk", mezzo_api::model::Scalar::from_units(100_000));
        Self {
            masters: vec!["127.0.0.1:5050".to_owned()],
            credential: Credential::default(),
            agents: 10,
            agents_per_connection: 500,
            registrations: 64,
            resources,
            racks: 0,
            zones: 0,
            start_delay: Duration::ZERO,
            tell_starting: false,
            run_for: None,
            failures_per_mille: 0,
            break_after: None,
            repeat_after: Duration::from_secs(10),
            keep_records: false,
            seed: 0,
        }
    }
}

impl Config {
    /// Looks for mistakes; gives the masters.
    ///
    /// # Errors
    ///
    /// With every mistake.
    pub fn check(&self) -> Result<Masters, InvalidConfig> {
        let mut problems = Vec::new();
        let masters = Masters::parse(&self.masters.join(","))
            .inspect_err(|error| problems.push(format!("`masters`: {error}")));
        if !(1..=1_000_000).contains(&self.agents) {
            problems.push("`agents` must be from 1 to 1000000".to_owned());
        }
        if !(1..=1_000).contains(&self.agents_per_connection) {
            problems.push("`agents_per_connection` must be from 1 to 1000".to_owned());
        }
        if self.registrations == 0 {
            problems.push("`registrations` must be at least 1".to_owned());
        }
        if self
            .run_for
            .is_some_and(|(shortest, longest)| shortest > longest)
        {
            problems.push("`run_for`: the shortest time is longer than the longest".to_owned());
        }
        if self.failures_per_mille > 1000 {
            problems.push("`failures_per_mille` must be at most 1000".to_owned());
        }
        if self.repeat_after < Duration::from_millis(100) {
            problems.push("`repeat_after` must be at least 100 ms".to_owned());
        }
        match masters {
            Ok(masters) if problems.is_empty() => Ok(masters),
            Ok(_) | Err(_) => Err(InvalidConfig { problems }),
        }
    }
}
