//! What an operator can choose. Everything has a default; durations are written in milliseconds, with `_ms` in the key.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use mezzo_api::masters::Masters;
pub use mezzo_etcd::StoreAddress;

pub use crate::allocator::{InvalidMinimum, Minimum};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The port for gRPC, `/metrics` and `/healthz`.
pub const DEFAULT_PORT: u16 = 5050;

/// Configuration of a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// `host:port` at which others reach it, where that is not where it listens. Other masters name it so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Where its durable state is, unless `store` says otherwise.
    pub state_dir: PathBuf,
    /// `file:` (in `state_dir`), `file:/folder`, or etcd for several masters: `etcd://host:port,host:port/prefix`.
    pub store: StoreAddress,
    /// With etcd: a leader that gives no sign of life for so many seconds has no lease any more, and another is elected.
    pub lease_secs: u32,
    /// With etcd: the leader makes it forget what was overwritten longer ago than this, at about this pace. 0: never, for an etcd
    /// that does so by itself.
    pub etcd_compaction_secs: u64,
    /// Between passes over all agents. What changes in between is offered at once.
    #[serde(rename = "allocation_interval_ms", with = "millis")]
    pub allocation_interval: Duration,
    /// Between pings to an agent. No more than 5,000 go out in a second: with more agents they are pinged more slowly.
    #[serde(rename = "agent_ping_interval_ms", with = "millis")]
    pub agent_ping_interval: Duration,
    /// Nothing heard from an agent for this long: its stream is cut. Grows as the time between pings does.
    #[serde(rename = "agent_ping_timeout_ms", with = "millis")]
    pub agent_ping_timeout: Duration,
    /// An agent without a stream for this long is unreachable.
    #[serde(rename = "agent_timeout_ms", with = "millis")]
    pub agent_timeout: Duration,
    /// After a start of the master: agents not back by then are unreachable, frameworks have at least this long to
    /// subscribe again.
    #[serde(rename = "recovery_timeout_ms", with = "millis")]
    pub recovery_timeout: Duration,
    /// Agents that have less free are not offered: `cpus:0.01|mem:32`, of which one is enough. Empty: whatever is free is.
    pub min_allocatable: Minimum,
    /// Offers not answered for this long are rescinded.
    #[serde(
        rename = "offer_timeout_ms",
        with = "optional_millis",
        skip_serializing_if = "Option::is_none"
    )]
    pub offer_timeout: Option<Duration>,
    /// Between heartbeats to a framework.
    #[serde(rename = "framework_heartbeat_interval_ms", with = "millis")]
    pub framework_heartbeat_interval: Duration,
    /// How long tasks are kept whose framework this master has never heard of.
    #[serde(rename = "orphan_timeout_ms", with = "millis")]
    pub orphan_timeout: Duration,
    /// So many agents at most become unreachable within `agent_loss_interval_ms`; the rest wait, and are shown as waiting.
    /// Not set: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_loss_limit: Option<usize>,
    /// See `agent_loss_limit`.
    #[serde(rename = "agent_loss_interval_ms", with = "millis")]
    pub agent_loss_interval: Duration,
    /// Events that watching operators can go back.
    pub event_history: usize,
    /// Who may do what. Not set: whoever comes from this machine may do all, and nobody else anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// Without `credentials`: other machines may do all, too.
    pub allow_anonymous: bool,
    /// Calls that each principal may make in a second. 0: no limit.
    pub calls_per_sec: u32,
    /// Calls that it may make at once after a pause. 0: as many as in a second.
    pub calls_burst: u32,
    /// Ended tasks remembered per framework.
    pub task_history: usize,
    /// Messages that may wait for one agent before it is cut off.
    pub peer_queue: usize,
    /// The same for one framework: room for two statuses of each of its tasks, one that the agent told and one that the
    /// framework asked for. One that has more tasks would be cut off by its own reconciliation.
    pub framework_queue: usize,
    /// A peer that connects or opens a stream must speak within this time.
    #[serde(rename = "greeting_timeout_ms", with = "millis")]
    pub greeting_timeout: Duration,
    /// How long open calls may take to end at shutdown.
    #[serde(rename = "shutdown_grace_ms", with = "millis")]
    pub shutdown_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
            advertise: None,
            state_dir: PathBuf::from("/var/lib/mezzo/master"),
            store: StoreAddress::StateDir,
            lease_secs: 3,
            etcd_compaction_secs: 3600,
            allocation_interval: Duration::from_secs(1),
            agent_ping_interval: Duration::from_secs(1),
            agent_ping_timeout: Duration::from_secs(5),
            agent_timeout: Duration::from_secs(15),
            recovery_timeout: Duration::from_secs(30),
            min_allocatable: Minimum::default(),
            offer_timeout: None,
            framework_heartbeat_interval: Duration::from_secs(5),
            orphan_timeout: Duration::from_secs(24 * 3600),
            agent_loss_limit: None,
            agent_loss_interval: Duration::from_secs(60),
            event_history: 10_000,
            credentials: None,
            allow_anonymous: false,
            calls_per_sec: 0,
            calls_burst: 0,
            task_history: 1000,
            peer_queue: 4096,
            framework_queue: 262_144,
            greeting_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// Values that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("master configuration: {}", problems.join("; "))]
pub struct InvalidConfig {
    /// One sentence each, with the key.
    pub problems: Vec<String>,
}

impl Config {
    /// Looks for values that cannot work.
    ///
    /// # Errors
    ///
    /// With every problem found.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let mut problems = Vec::new();
        for (key, value) in [
            ("allocation_interval_ms", self.allocation_interval),
            ("agent_ping_interval_ms", self.agent_ping_interval),
            (
                "framework_heartbeat_interval_ms",
                self.framework_heartbeat_interval,
            ),
            ("greeting_timeout_ms", self.greeting_timeout),
        ] {
            if value < Duration::from_millis(1) {
                problems.push(format!("`{key}` must be at least 1"));
            }
        }
        if self.agent_ping_timeout <= self.agent_ping_interval {
            problems.push(
                "`agent_ping_timeout_ms` must be more than `agent_ping_interval_ms`".to_owned(),
            );
        }
        // etcd itself makes shorter ones longer.
        if !(2..=60).contains(&self.lease_secs) {
            problems.push("`lease_secs` must be from 2 to 60".to_owned());
        }
        if let Some(address) = &self.advertise
            && let Err(error) = Masters::parse(address)
        {
            problems.push(format!("`advertise`: {error}"));
        }
        if matches!(self.store, StoreAddress::Etcd(_))
            && self.advertise.is_none()
            && self.listen.ip().is_unspecified()
        {
            problems.push(format!(
                "`advertise` is missing: with etcd others must know where to reach this master, and {} says nothing",
                self.listen
            ));
        }
        if self.agent_loss_limit == Some(0) {
            problems.push(
                "`agent_loss_limit` must be at least 1; without a limit leave it away".to_owned(),
            );
        }
        if self.event_history < 16 {
            problems.push("`event_history` must be at least 16".to_owned());
        }
        if self.allow_anonymous && self.credentials.is_some() {
            problems.push(
                "`allow_anonymous` and `credentials` exclude each other; what all may do is in the credentials' `anonymous`"
                    .to_owned(),
            );
        }
        if self.peer_queue < 16 {
            problems.push("`peer_queue` must be at least 16".to_owned());
        }
        if self.framework_queue < 16 {
            problems.push("`framework_queue` must be at least 16".to_owned());
        }
        if self.state_dir.as_os_str().is_empty() {
            problems.push("`state_dir` is empty".to_owned());
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(InvalidConfig { problems })
        }
    }
}

impl Config {
    /// `host:port` for others, of a master that listens there.
    pub(crate) fn advertised(&self, listens: SocketAddr) -> String {
        self.advertise
            .clone()
            .unwrap_or_else(|| listens.to_string())
    }
}

/// A duration in whole milliseconds; what does not fit 64 bits is cut there.
pub(crate) fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

mod millis {
    use super::{Deserialize, Deserializer, Duration, Serializer, to_millis};

    pub(super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(to_millis(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

mod optional_millis {
    use super::{Deserialize, Deserializer, Duration, Serialize as _, Serializer, to_millis};

    pub(super) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration.map(to_millis).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_round_trips_and_unknown_keys_are_refused() {
        let text = serde_json::to_string(&Config::default()).unwrap();
        assert_eq!(
            serde_json::from_str::<Config>(&text).unwrap(),
            Config::default()
        );
        let error = serde_json::from_str::<Config>(r#"{"agent_timeout": 3}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("agent_timeout"), "{error}");
    }

    #[test]
    fn the_store_is_named_by_a_url() {
        let config =
            |store: &str| serde_json::from_str::<Config>(&format!(r#"{{"store":"{store}"}}"#));
        for (text, told) in [
            ("file:", "file:"),
            ("file:/x/y", "file:/x/y"),
            ("file:///x", "file:/x"),
            ("etcd://a:2379", "etcd://a:2379/mezzo"),
        ] {
            assert_eq!(String::from(config(text).unwrap().store), told);
        }
        for text in ["", "redis://x", "file:x", "etcd://a", "etcd:a:1"] {
            let error = config(text).unwrap_err().to_string();
            assert!(error.contains("give "), "{text}: {error}");
        }
    }

    #[test]
    fn a_master_among_several_must_be_reachable() {
        let mut config = Config {
            listen: "0.0.0.0:5050".parse().unwrap(),
            store: String::from("etcd://a:2379").try_into().unwrap(),
            ..Config::default()
        };
        let problem = config.check().unwrap_err().to_string();
        assert!(problem.contains("advertise"), "{problem}");
        config.advertise = Some("m1:5050".into());
        config.check().unwrap();
        config.advertise = Some("m1".into());
        config.check().unwrap_err();
    }

    #[test]
    fn every_impossible_value_is_named() {
        let config = Config {
            allocation_interval: Duration::ZERO,
            agent_ping_timeout: Duration::ZERO,
            peer_queue: 0,
            ..Config::default()
        };
        let problems = config.check().unwrap_err().problems;
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
