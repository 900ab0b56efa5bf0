//! `mezzo master backup|restore|events|credential` and `mezzo node maintenance …`: operating a cluster.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum MasterCommand {
    /// Write all that the running master keeps durably into one file
    #[command(after_help = "Example:\n  mezzo master backup /var/backups/mezzo-master")]
    Backup(BackupArgs),
    /// Put a backup into a store that no master uses
    #[command(
        after_help = "Examples:\n  mezzo master restore FILE --state-dir /var/lib/mezzo/master\n  \
                      mezzo master restore FILE --store etcd://10.0.0.1:2379/mezzo --replace"
    )]
    Restore(RestoreArgs),
    /// Follow what happens in the cluster
    #[command(
        after_help = "Examples:\n  mezzo master events\n  mezzo master events --kind agent,maintenance -o json\n  \
                      mezzo master events --after TOKEN"
    )]
    Events(EventsArgs),
    /// Make a credential: a line for its owner's file, and an entry for the master's
    #[command(after_help = "Example:\n  mezzo master credential team-a")]
    Credential(CredentialArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file; it is there whole or not at all
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// What `mezzo master backup` wrote
    pub(crate) file: PathBuf,
    /// The settings file of the master
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the master's durable state goes
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// file:, file:/folder or etcd://host:port,host:port/prefix
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// In place of what is there
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) kind: Vec<Kind>,
    /// What came after that event; the token is in the output as JSON
    #[arg(long, value_name = "TOKEN")]
    pub(crate) after: Option<String>,
    /// Only of the framework with this id
    #[arg(long, value_name = "ID")]
    pub(crate) framework: Option<String>,
    /// Only of the agent with this id
    #[arg(long, value_name = "ID")]
    pub(crate) agent: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Agent,
    Framework,
    Task,
    Role,
    Maintenance,
}

#[derive(Debug, Args)]
pub(crate) struct CredentialArgs {
    /// The principal's name
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MaintenanceCommand {
    /// List planned work
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  mezzo node maintenance list"
    )]
    List,
    /// Plan work on nodes: frameworks are asked to leave at the start, what is left is ended at the drain
    #[command(
        after_help = "Examples:\n  mezzo node maintenance schedule kernel node-1 node-2 --start 3h --drain 30m --end 2h\n  \
                      mezzo node maintenance schedule disk node-3 --start now --drain 10m\n\n\
                      --start is `now`, a time from now (2h), or like 2030-01-31T22:00:00Z; --drain and --end count from the start."
    )]
    Schedule(ScheduleArgs),
    /// Forget planned work; what it drained is in service again
    #[command(after_help = "Example:\n  mezzo node maintenance cancel kernel")]
    Cancel(CancelArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// The window's name
    pub(crate) name: String,
    /// Agents' ids, beginnings of them, or hostnames
    #[arg(required = true)]
    pub(crate) nodes: Vec<String>,
    /// When nothing is offered any more, and frameworks are asked to leave
    #[arg(long, value_name = "TIME", default_value = "now")]
    pub(crate) start: String,
    /// After the start: what is left there is ended then
    #[arg(long, value_name = "TIME")]
    pub(crate) drain: String,
    /// After the start: the nodes are in service again then. Without it: when the window is cancelled
    #[arg(long, value_name = "TIME")]
    pub(crate) end: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The window's name
    pub(crate) name: String,
}
