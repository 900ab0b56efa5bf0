//! `mezzo node reserve|unreserve` and `mezzo volume …`: whose a part of a node's resources is.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct ReserveArgs {
    /// An agent's id, the beginning of one, or a hostname
    pub(crate) node: String,
    /// How much: NAME=AMOUNT,...; `mem` and `disk` in MiB, or with K, M, G or T
    pub(crate) amounts: String,
    /// For whom
    #[arg(long)]
    pub(crate) role: String,
    /// Of what is reserved for this role above it, instead of what is open to all
    #[arg(long, value_name = "ROLE")]
    pub(crate) within: Option<String>,
    /// Kept apart: tasks get it only when they name it
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Who says so, for people
    #[arg(long, default_value = "operator")]
    pub(crate) principal: String,
}

#[derive(Debug, Args)]
pub(crate) struct UnreserveArgs {
    /// An agent's id, the beginning of one, or a hostname
    pub(crate) node: String,
    /// How much: NAME=AMOUNT,...
    pub(crate) amounts: String,
    /// Whose reservation
    #[arg(long)]
    pub(crate) role: String,
    /// The one with these labels
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List volumes, and which tasks mount them
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  mezzo volume list\n  mezzo volume list --node node-1 -o json"
    )]
    List(VolumeListArgs),
    /// Make a volume of a role's reserved disk on a node
    #[command(after_help = "\
Examples:
  mezzo volume create node-1 orders --role db --size 10G
  mezzo volume create node-1 orders --role db --size 10G --reserve
  mezzo volume create node-1 corpus --role db --size 10G --shared")]
    Create(VolumeCreateArgs),
    /// Remove a volume and what is in it, for good; its disk stays reserved
    #[command(after_help = "Example:\n  mezzo volume destroy node-1 orders --role db --yes")]
    Destroy(VolumeDestroyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VolumeListArgs {
    /// Only of this node
    #[arg(long)]
    pub(crate) node: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreateArgs {
    /// An agent's id, the beginning of one, or a hostname
    pub(crate) node: String,
    /// Its name; tasks mount it by this
    pub(crate) id: String,
    /// Whose
    #[arg(long)]
    pub(crate) role: String,
    /// In MiB, or with K, M, G or T
    #[arg(long)]
    pub(crate) size: String,
    /// Reserve the disk first, of what is open to all
    #[arg(long)]
    pub(crate) reserve: bool,
    /// Any number of tasks may have it at once, those that write too; only frameworks that can deal with it are offered it
    #[arg(long)]
    pub(crate) shared: bool,
    /// Who says so, for people
    #[arg(long, default_value = "operator")]
    pub(crate) principal: String,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeDestroyArgs {
    /// An agent's id, the beginning of one, or a hostname
    pub(crate) node: String,
    /// Its name
    pub(crate) id: String,
    /// Whose
    #[arg(long)]
    pub(crate) role: String,
    /// Yes, what is in it is lost
    #[arg(long)]
    pub(crate) yes: bool,
}
