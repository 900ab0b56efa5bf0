//! How a scheduler is set up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use mezzo_api::model::RoleName;
use serde::{Deserialize, Serialize};

/// All settings, each with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the REST API is served. Port 0: any; see `<state_dir>/address`.
    pub listen: SocketAddr,
    /// The master: `host:port`; of several masters `host:port,host:port,...`.
    pub master: String,
    /// Where the durable state is kept.
    pub state_dir: PathBuf,
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
    /// For which role the machines' resources are reserved that apps with persistent volumes keep; never `*`.
    pub resident_role: RoleName,
    /// More deployments at once are refused.
    pub max_running_deployments: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            master: "127.0.0.1:5050".to_owned(),
            state_dir: PathBuf::from("/var/lib/mezzo/scheduler"),
            framework_name: "mezzo-scheduler".to_owned(),
            failover_timeout_secs: 7 * 86_400,
            task_launch_timeout_secs: 300,
            reconcile_interval_secs: 600,
            decline_secs: 120,
            resident_role: crate::core::default_resident_role(),
            max_running_deployments: 10_000,
        }
    }
}
