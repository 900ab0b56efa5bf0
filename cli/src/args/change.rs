//! How a change is said: what the verbs for apps, pods and groups have in common.

use std::path::PathBuf;

use clap::Args;

/// How a change is made and waited for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Change {
    /// Return when the change is complete; show progress until then
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// Give up waiting after this long (the change goes on)
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub(crate) timeout: String,
    /// Cancel deployments of the same that are still under way
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// The same, or only what would be done.
#[derive(Debug, Clone, Args)]
pub(crate) struct Planned {
    /// Only show what would be done: the fields of apps that change, and the steps
    #[arg(long)]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// What is to be deployed.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Files; `-` reads standard input; `.yaml` and `.yml` are YAML
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The role of those whose files name none: the scheduler's default one, or their top-level group's name
    #[arg(long)]
    pub(crate) role: Option<String>,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// An app or a pod, and how many of it.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Its id
    pub(crate) id: String,
    /// How many instances it shall have
    pub(crate) instances: u32,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// An app or a pod that is changed.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Its id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) change: Change,
}
