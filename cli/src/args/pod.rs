//! `mezzo pod …`: verbs for pods.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::change::{AddArgs, ChangeArgs, Planned, ScaleArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum PodCommand {
    /// Deploy a pod from a JSON or YAML file
    #[command(after_help = "Example:\n  mezzo pod add shop.json --wait")]
    Add(AddArgs),
    /// List pods with their instances
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  mezzo pod list\n  mezzo pod list -o json | jq -r '.[].id'"
    )]
    List,
    /// Show one pod: its settings, as a file that `mezzo pod update` takes
    #[command(after_help = "Example:\n  mezzo pod show shop > shop.json")]
    Show(PodArg),
    /// Say why a pod is not as it should be: what waits, and which offers were refused for what
    #[command(after_help = "Example:\n  mezzo pod why shop")]
    Why(PodArg),
    /// Make a pod as a JSON or YAML file says, as a whole
    #[command(after_help = "Example:\n  mezzo pod update shop.json --wait")]
    Update(UpdateArgs),
    /// Set the number of instances
    #[command(after_help = "Example:\n  mezzo pod scale shop 5 --wait")]
    Scale(ScaleArgs),
    /// Stop every instance and forget the pod
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  mezzo pod remove shop --wait"
    )]
    Remove(ChangeArgs),
    /// Show how a pod's instances and containers stand, and what it waits for
    #[command(
        after_help = "Examples:\n  mezzo pod status shop\n  mezzo pod status shop --wait --timeout 1m"
    )]
    Status(StatusArgs),
    /// End one instance; another takes its place
    #[command(after_help = "\
Example:
  mezzo pod kill shop shop.instance-b6ff5fa5-7714-11e7-a55c-5ecf1c4671f6")]
    Kill(KillArgs),
    /// End instances of a pod with persistent volumes and give back what they kept; new ones begin empty
    #[command(after_help = "\
Examples:
  mezzo pod wipe db --yes                       all instances, and all that any of the pod's kept
  mezzo pod wipe db db.instance-5c3f… --yes     one")]
    Wipe(WipeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PodArg {
    /// The pod's id, like `shop` or `/shop/front`
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// A pod file; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) how: Planned,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The pod's id
    pub(crate) id: String,
    /// Return when all instances are stable and nothing is under way; show progress until then
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// Give up waiting after this long
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub(crate) timeout: String,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// The pod's id
    pub(crate) id: String,
    /// An instance's id from `mezzo pod status`
    pub(crate) instance: String,
}

#[derive(Debug, Args)]
pub(crate) struct WipeArgs {
    /// The pod's id
    pub(crate) id: String,
    /// An instance's id from `mezzo pod status`; without it all of them, and what none of them uses
    pub(crate) instance: Option<String>,
    /// Yes, what is in their volumes is lost
    #[arg(long)]
    pub(crate) yes: bool,
}
