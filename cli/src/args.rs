//! The command line as typed: every verb, flag and help text, by clap's derive.
//!
//! Nothing is decided here. What has a syntax of its own (addresses, durations, `K=V`) stays text and is checked in
//! `request.rs`, so that its errors read the same wherever the value comes from. One file per family of verbs.

pub(crate) mod app;
pub(crate) mod cluster;
pub(crate) mod image;
pub(crate) mod server;
pub(crate) mod task;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

const AFTER_HELP: &str = "\
Exit codes:
  0  done            1  failed            2  wrong command line or app file
  3  not found       4  server not reachable
`mezzo task exec` exits with the command's own code.

Try it on this machine (as root):
  mezzo dev                         start a whole cluster here
  mezzo app add sleep.json --wait   run an app on it
  mezzo status                      what the cluster does, at a glance";

/// Makes a data centre look like one big computer.
#[derive(Debug, Parser)]
#[command(name = "mezzo", version, about, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every verb takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// `table` for people, `json` for programs (for `image pack`: a file name writes the image there)
    #[arg(short, long, global = true, value_name = "FORMAT", value_parser = OutputArg::parse, default_value = "table")]
    pub(crate) output: OutputArg,
    /// The master, host:port [default: 127.0.0.1:5050]
    #[arg(long, global = true, env = "MEZZO_MASTER", value_name = "ADDRESS")]
    pub(crate) master: Option<String>,
    /// The scheduler's URL [default: http://127.0.0.1:8080]
    #[arg(long, global = true, env = "MEZZO_SCHEDULER", value_name = "URL")]
    pub(crate) scheduler: Option<String>,
}

/// What `-o` was given: a format, or for `image pack` a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutputArg {
    Table,
    Json,
    File(PathBuf),
}

impl OutputArg {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            other if other.contains(['.', '/']) => Ok(Self::File(PathBuf::from(other))),
            other => Err(format!(
                "`{other}` is not an output format; known are table and json"
            )),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole cluster on this machine: master, agent and scheduler, until Ctrl-C
    Dev(server::DevArgs),
    /// Run a master: it offers the agents' resources to frameworks
    Master(server::MasterArgs),
    /// Run an agent: it runs containers on this machine (needs root)
    Agent(server::AgentArgs),
    /// Run the Marathon-style scheduler: it keeps apps running
    Scheduler(server::SchedulerArgs),
    /// Deploy, scale, update and remove apps
    #[command(subcommand)]
    App(app::AppCommand),
    /// Look at and into running tasks
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// The machines of the cluster
    #[command(subcommand)]
    Node(cluster::NodeCommand),
    /// The frameworks that share the cluster
    #[command(subcommand)]
    Framework(cluster::FrameworkCommand),
    /// Roles and their weights
    #[command(subcommand)]
    Role(cluster::RoleCommand),
    /// Changes under way
    #[command(subcommand)]
    Deployment(app::DeploymentCommand),
    /// Make images and look after the local image store
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// The cluster at a glance: nodes, what is used, services, what fails and why
    Status(cluster::StatusArgs),
    /// What this machine lacks to run mezzo, and the fix
    Doctor(cluster::DoctorArgs),
    /// Print a completion script for a shell
    Completions(cluster::CompletionsArgs),
    /// Print the version
    Version,
}
