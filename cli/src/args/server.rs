//! `mezzo dev|master|agent|scheduler`: verbs that stay and serve.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::operating::MasterCommand;

/// Where `mezzo dev` keeps its state unless told otherwise.
pub(crate) const DEV_STATE_DIR: &str = "/var/lib/mezzo/dev";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mezzo dev
  mezzo dev --insecure-registry 127.0.0.1:5000 --resources 'cpus:4;mem:4096;ports:[31000-32000]'
  mezzo dev --state-dir /tmp/mezzo --master-port 0 --agent-port 0 --scheduler-port 0

Ctrl-C stops the servers, kills the tasks and removes containers, snapshots and cgroups; apps stay in the state
directory and run again with the next `mezzo dev`. Killed with SIGKILL, the containers run on and the next
`mezzo dev` adopts them.")]
pub(crate) struct DevArgs {
    /// Where state and logs go
    #[arg(long, value_name = "DIR", default_value = DEV_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
    /// The address everything listens on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(crate) bind: std::net::IpAddr,
    /// The master's port; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 5050)]
    pub(crate) master_port: u16,
    /// The agent's port; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 5051)]
    pub(crate) agent_port: u16,
    /// The scheduler's port; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) scheduler_port: u16,
    /// A registry that is asked over plain HTTP, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) insecure_registry: Vec<String>,
    /// What the agent offers [default: what the machine has], like `cpus:4;mem:4096;ports:[31000-32000]`
    #[arg(long, value_name = "RESOURCES")]
    pub(crate) resources: Option<String>,
    /// Show the servers' logs here too, not only in DIR/log
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// How long the cluster may take to come up
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) ready_timeout: String,
}

/// Logging of a server.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or directives like `info,mezzo_master=debug`
    #[arg(long, value_name = "FILTER", env = "MEZZO_LOG", default_value = "info")]
    pub(crate) log: String,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// End when the process with this id, our parent, ends (set by `mezzo dev`)
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) die_with: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// What all three servers take. Flags win over the file.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// A TOML file with settings
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where durable state goes
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The address to listen on, host:port; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mezzo master
  mezzo master --config /etc/mezzo/master.toml
  mezzo master --listen 10.0.0.1:5050 --state-dir /var/lib/mezzo/master
  mezzo master --listen 10.0.0.1:5050 --store etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/mezzo")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct MasterArgs {
    #[command(subcommand)]
    pub(crate) command: Option<MasterCommand>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Where the state is: file: (in the state directory), file:/folder, or, for several masters of which one leads,
    /// etcd://host:port,host:port/prefix
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// host:port at which others reach this master [default: what it listens on]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) advertise: Option<String>,
    /// Who may do what: principals with hashes of their secrets, and rules; not to be readable by others
    #[arg(long, value_name = "FILE")]
    pub(crate) credentials: Option<PathBuf>,
    /// Without credentials, let other machines in, too: only on a network that you trust
    #[arg(long)]
    pub(crate) allow_anonymous: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mezzo agent --master 10.0.0.1:5050
  mezzo agent --master 10.0.0.1:5050,10.0.0.2:5050,10.0.0.3:5050
  mezzo agent --config /etc/mezzo/agent.toml
  mezzo agent --resources 'cpus:4;mem:4096' --attribute rack=a1
  mezzo agent --resources 'cpus:4;mem:4096;cpus(eng):2;mem(eng):1024'   # these are for role eng alone")]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// What to offer [default: what the machine has], like `cpus:4;mem:4096;ports:[31000-32000]`
    #[arg(long, value_name = "RESOURCES")]
    pub(crate) resources: Option<String>,
    /// An attribute of this machine, for constraints
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) attribute: Vec<String>,
    /// The name of this machine [default: its host name]
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// A registry that is asked over plain HTTP, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) insecure_registry: Vec<String>,
    /// host:port at which others reach this agent [default: what it listens on]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) advertise: Option<String>,
    /// The cgroup under which containers live
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,
    /// A capability that tasks may add to the default ones, like NET_RAW; may be given again for others
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_capability: Vec<String>,
    /// Lend what tasks do not use of their cpus and mem to revocable tasks, which make way when it is needed
    #[arg(long)]
    pub(crate) oversubscribe: bool,
    /// End the containers together with the agent instead of leaving them for the next one
    #[arg(long)]
    pub(crate) kill_tasks_on_shutdown: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mezzo scheduler --master 10.0.0.1:5050
  mezzo scheduler --config /etc/mezzo/scheduler.toml
  mezzo scheduler --listen 10.0.0.1:8080 --store etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/mezzo")]
pub(crate) struct SchedulerArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Where the state is: file: (in the state directory), file:/folder, or, for several schedulers of which one leads,
    /// etcd://host:port,host:port/prefix
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// host:port at which others reach this scheduler [default: what it listens on]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) advertise: Option<String>,
    /// The role of apps that name none, and of jobs [default: *]
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// Whether top-level groups that come to be enforce their name as the role of their apps: off or top [default: off]
    #[arg(long, value_name = "WHICH")]
    pub(crate) new_group_enforce_role: Option<String>,
}
