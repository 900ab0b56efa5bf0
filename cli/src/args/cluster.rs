//! `mezzo node|framework|role …`, `status`, `doctor` and `completions`: the operator's verbs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::operating::MaintenanceCommand;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List nodes: what is allocated and what is really used
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  mezzo node list\n  mezzo node list --state unreachable\n  mezzo node list --attribute rack=r12"
    )]
    List(NodeListArgs),
    /// Show one node and its tasks
    #[command(after_help = "Example:\n  mezzo node show node-1")]
    Show(NodeArg),
    /// Forget a node that is gone for good: its tasks count as lost, and it must register anew if it comes back
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  mezzo node remove agent-3 --yes"
    )]
    Remove(NodeRemoveArgs),
    /// Take a node out of service: nothing more starts there, its tasks end and start elsewhere
    #[command(
        after_help = "Examples:\n  mezzo node drain node-1 --deadline 10m\n  mezzo node drain node-1 --mark-gone"
    )]
    Drain(NodeDrainArgs),
    /// Start nothing more on a node, and leave what runs there alone
    #[command(after_help = "Example:\n  mezzo node deactivate node-1")]
    Deactivate(NodeArg),
    /// Put a node back into service: after a drain, or after it was deactivated
    #[command(after_help = "Example:\n  mezzo node activate node-1")]
    Activate(NodeArg),
    /// Keep a part of a node's resources for a role and those below it
    #[command(after_help = "\
Examples:
  mezzo node reserve node-1 cpus=4,mem=8G --role eng
  mezzo node reserve node-1 cpus=1 --role eng/web --within eng
  mezzo node reserve node-1 disk=100G --role db --label app=orders")]
    Reserve(super::volume::ReserveArgs),
    /// Take a reservation, or a part of one, away: not what tasks use, and not the disk of volumes
    #[command(after_help = "Example:\n  mezzo node unreserve node-1 cpus=4,mem=8G --role eng")]
    Unreserve(super::volume::UnreserveArgs),
    /// Planned work on nodes: when they are vacated, drained, and back in service
    #[command(subcommand)]
    Maintenance(MaintenanceCommand),
}

#[derive(Debug, Args)]
pub(crate) struct NodeListArgs {
    /// Only nodes in these states
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) state: Vec<NodeState>,
    /// Only nodes with this attribute
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) attribute: Option<String>,
    /// Only nodes that drain or are drained
    #[arg(long)]
    pub(crate) draining: bool,
    /// Only nodes that are deactivated
    #[arg(long)]
    pub(crate) deactivated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NodeState {
    Connected,
    Disconnected,
    Unreachable,
    Recovering,
}

#[derive(Debug, Args)]
pub(crate) struct NodeDrainArgs {
    /// An agent's id, the beginning of one, or a hostname
    pub(crate) node: String,
    /// Tasks that need longer to end are killed then: 30s, 10m, 2h. Without it each has its own grace period
    #[arg(long, value_name = "TIME")]
    pub(crate) deadline: Option<String>,
    /// Remove the node once it is drained; its id cannot come back
    #[arg(long)]
    pub(crate) mark_gone: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeRemoveArgs {
    /// An agent's id, the beginning of one, or a hostname; it must not be connected
    pub(crate) node: String,
    /// Yes, its tasks are lost
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArg {
    /// An agent's id, the beginning of one, or a hostname
    pub(crate) node: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FrameworkCommand {
    /// List frameworks and their shares
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  mezzo framework list\n  mezzo framework list --role eng/web"
    )]
    List(FrameworkListArgs),
    /// Show one framework
    #[command(after_help = "Example:\n  mezzo framework show marathon")]
    Show(FrameworkArg),
    /// Why a framework gets the offers that it gets, or none
    #[command(after_help = "Example:\n  mezzo framework explain marathon")]
    Explain(FrameworkArg),
    /// Kill every task of a framework and forget it; its id cannot be used again
    #[command(after_help = "Example:\n  mezzo framework teardown 7be1 --yes")]
    Teardown(TeardownArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FrameworkListArgs {
    /// Only frameworks subscribed to this role
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// Only frameworks with this name
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FrameworkArg {
    /// A framework's id, the beginning of one, or its name
    pub(crate) framework: String,
}

#[derive(Debug, Args)]
pub(crate) struct TeardownArgs {
    /// A framework's id, the beginning of one, or its name
    pub(crate) framework: String,
    /// Yes, kill all its tasks
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// List roles with their weights and shares
    #[command(visible_alias = "ls", after_help = "Example:\n  mezzo role list")]
    List,
    /// Set a role's weight: one of weight 2 gets twice the share of one of weight 1
    #[command(after_help = "Example:\n  mezzo role weight batch 0.5")]
    Weight(WeightArgs),
    /// What a role with all roles below it gets at least, and has at most
    #[command(subcommand)]
    Quota(QuotaCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Set a role's quota in place of what it had
    #[command(after_help = "\
Examples:
  mezzo role quota set eng --guarantee cpus=8,mem=16G --limit cpus=32
  mezzo role quota set eng/web --limit gpus=0")]
    Set(QuotaSetArgs),
    /// Remove a role's quota
    #[command(after_help = "Example:\n  mezzo role quota clear eng")]
    Clear(QuotaClearArgs),
}

#[derive(Debug, Args)]
pub(crate) struct QuotaSetArgs {
    /// The role's name, like eng or eng/web
    pub(crate) role: String,
    /// At least that, if it can use it: NAME=AMOUNT,...; `mem` and `disk` in MiB, or with K, M, G or T
    #[arg(
        long,
        value_name = "AMOUNTS",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) guarantee: String,
    /// At most that, offers included; 0 is none of it
    #[arg(
        long,
        value_name = "AMOUNTS",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) limit: String,
    /// Also where the cluster is too small for it now, or the role holds more than the limit
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QuotaClearArgs {
    /// The role's name
    pub(crate) role: String,
}

#[derive(Debug, Args)]
pub(crate) struct WeightArgs {
    /// The role's name
    pub(crate) role: String,
    /// The weight, at least 0.001; 1 is the default
    pub(crate) weight: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mezzo status
  mezzo status -o json | jq .problems")]
pub(crate) struct StatusArgs {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mezzo doctor
  mezzo doctor --registry 127.0.0.1:5000")]
pub(crate) struct DoctorArgs {
    /// Where `mezzo dev` shall keep its state
    #[arg(long, value_name = "DIR", default_value = super::server::DEV_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
    /// A registry to try, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) registry: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mezzo completions bash > /etc/bash_completion.d/mezzo
  mezzo completions fish > ~/.config/fish/completions/mezzo.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}
