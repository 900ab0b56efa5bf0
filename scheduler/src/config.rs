//! How a scheduler is set up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use mezzo_api::masters::Masters;
use mezzo_api::model::RoleName;
pub use mezzo_etcd::StoreAddress;
use serde::{Deserialize, Serialize};

/// All settings, each with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the REST API is served. Port 0: any; see `<state_dir>/address`.
    pub listen: SocketAddr,
    /// The master: `host:port`; of several masters `host:port,host:port,...`.
    pub master: String,
    /// A file with `NAME:SECRET`, shown to masters that ask for a credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<PathBuf>,
    /// `host:port` at which others reach it, where that is not where it listens. Other schedulers send requests there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Where the durable state is kept, unless `store` says otherwise.
    pub state_dir: PathBuf,
    /// `file:` (in `state_dir`), `file:/folder`, or etcd for several schedulers: `etcd://host:port,host:port/prefix`. Its keys
    /// lie below `PREFIX-scheduler`.
    pub store: StoreAddress,
    /// With etcd: a leader that gives no sign of life for so many seconds has no lease any more, and another is elected.
    pub lease_secs: u32,
    /// With etcd: the leader makes it forget what was overwritten longer ago than this, at about this pace. 0: never, for an etcd
    /// that does so by itself.
    pub etcd_compaction_secs: u64,
    /// As the master's operators see it.
    pub framework_name: String,
    /// How long the master keeps the tasks when the scheduler is away.
    pub failover_timeout_secs: u64,
    /// A task that does not come to run is killed after this long without a sign of progress.
    pub task_launch_timeout_secs: u64,
    /// All tasks are asked after this often.
    pub reconcile_interval_secs: u64,
    /// An offer that is of no use is not wanted again for this long.
    pub decline_secs: u64,
    /// Of apps and jobs that name none: Marathon's `mesos_role`.
    pub role: RoleName,
    /// Whether groups that come to be enforce their role.
    pub new_group_enforce_role: NewGroups,
    /// For which role the machines' resources are reserved that apps with persistent volumes keep, where they have the role
    /// `*`; itself never `*`.
    pub resident_role: RoleName,
    /// More deployments at once are refused.
    pub max_running_deployments: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            master: "127.0.0.1:5050".to_owned(),
            credential: None,
            advertise: None,
            state_dir: PathBuf::from("/var/lib/mezzo/scheduler"),
            store: StoreAddress::StateDir,
            lease_secs: 3,
            etcd_compaction_secs: 3600,
            framework_name: "mezzo-scheduler".to_owned(),
            failover_timeout_secs: 7 * 86_400,
            task_launch_timeout_secs: 300,
            reconcile_interval_secs: 600,
            decline_secs: 120,
            role: RoleName::any(),
            new_group_enforce_role: NewGroups::Off,
            resident_role: crate::core::default_resident_role(),
            max_running_deployments: 10_000,
        }
    }
}

/// `new_group_enforce_role`, by Marathon's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewGroups {
    /// They do not, unless somebody says so.
    #[default]
    Off,
    /// Top-level groups do.
    Top,
}

/// Values that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scheduler configuration: {}", problems.join("; "))]
pub struct InvalidConfig {
    /// One sentence each, with the key.
    pub problems: Vec<String>,
}

impl Config {
    /// Looks for values that cannot work; gives the masters.
    ///
    /// # Errors
    ///
    /// With every problem found.
    pub fn check(&self) -> Result<Masters, InvalidConfig> {
        let mut problems = Vec::new();
        let masters = Masters::parse(&self.master)
            .inspect_err(|error| problems.push(format!("`master`: {error}")));
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
                "`advertise` is missing: with etcd others must know where to reach this scheduler, and {} says nothing",
                self.listen
            ));
        }
        if self.resident_role == RoleName::any() {
            problems.push(
                "`resident_role`: nothing can be reserved for `*`, which is everybody: name another role"
                    .to_owned(),
            );
        }
        match masters {
            Ok(masters) if problems.is_empty() => Ok(masters),
            Ok(_) | Err(_) => Err(InvalidConfig { problems }),
        }
    }

    /// `host:port` for others, of a scheduler that listens there.
    pub(crate) fn advertised(&self, listens: SocketAddr) -> String {
        self.advertise
            .clone()
            .unwrap_or_else(|| listens.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_impossible_value_is_named() {
        Config::default().check().expect("the defaults work");
        let config = Config {
            listen: "0.0.0.0:8080".parse().expect("an address"),
            master: "nowhere".to_owned(),
            store: "etcd://a:2379".to_owned().try_into().expect("an address"),
            lease_secs: 1,
            ..Config::default()
        };
        let problems = config.check().expect_err("wrong").problems;
        assert_eq!(problems.len(), 3, "{problems:?}");
        let text = problems.join("\n");
        for key in ["`master`", "`lease_secs`", "`advertise`"] {
            assert!(text.contains(key), "{text}");
        }
    }
}
