//! All agents of a fleet: started together, counted together, stopped together.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use crate::{
    Config, Counts, InvalidConfig, Record,
    agent::Agent,
    counts::Shared,
    line::{Line, Trunk},
};

/// Between two looks at the counts.
const LOOK: Duration = Duration::from_millis(5);

/// What was waited for did not come.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} not within {patience:?}; the fleet is at {counts:?}")]
pub struct NotInTime {
    what: String,
    patience: Duration,
    counts: Box<Counts>,
}

/// Running agents. Dropped, they are gone at once, as machines whose power fails.
#[derive(Debug)]
pub struct Fleet {
    lines: JoinSet<()>,
    counts: Arc<Shared>,
    agents: u64,
}

impl Fleet {
    /// Starts all agents of a description. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// With every mistake of the description. That no master can be reached is no error: agents try on.
    pub fn spawn(config: Config) -> Result<Self, InvalidConfig> {
        let masters = config.check()?;
        let (config, counts) = (Arc::new(config), Arc::new(Shared::default()));
        let registering = Arc::new(Semaphore::new(config.registrations));
        let mut trunks = Vec::new();
        for _ in 0..config.agents.div_ceil(config.agents_per_connection) {
            trunks.push(Arc::new(Trunk::new(masters.clone())));
        }
        let mut lines = JoinSet::new();
        for number in 0..config.agents {
            let line = Line {
                agent: Agent::new(number, Arc::clone(&config), Arc::clone(&counts)),
                trunk: Arc::clone(&trunks[number % trunks.len()]),
                config: Arc::clone(&config),
                counts: Arc::clone(&counts),
                registering: Arc::clone(&registering),
            };
            lines.spawn(line.run());
        }
        Ok(Self {
            lines,
            counts,
            agents: config.agents as u64,
        })
    }

    /// The figures now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.read()
    }

    /// All that the agents did so far, if the description said to keep it.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.counts.records().clone()
    }

    /// Until every agent is registered.
    ///
    /// # Errors
    ///
    /// When that takes too long.
    pub async fn all_connected(&self, patience: Duration) -> Result<(), NotInTime> {
        let agents = self.agents;
        self.until("all agents connected", patience, |counts| {
            counts.connected == agents
        })
        .await
    }

    /// Until the figures are as they should be.
    ///
    /// # Errors
    ///
    /// When that takes too long.
    pub async fn until(
        &self,
        what: &str,
        patience: Duration,
        fits: impl Fn(&Counts) -> bool,
    ) -> Result<(), NotInTime> {
        let deadline = Instant::now() + patience;
        loop {
            let counts = self.counts();
            if fits(&counts) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(NotInTime {
                    what: what.to_owned(),
                    patience,
                    counts: Box::new(counts),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends all agents and waits until they are gone.
    pub async fn stop(mut self) {
        self.lines.shutdown().await;
    }
}
