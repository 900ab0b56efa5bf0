//! `mezzo app …` and `mezzo deployment …`: verbs that talk to the scheduler.

use clap::{Args, Subcommand};

use super::change::{AddArgs, Change, ChangeArgs, Planned, ScaleArgs};
use super::events::AppEventsArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// Deploy an app from a JSON or YAML file
    #[command(after_help = "\
Examples:
  mezzo app add sleep.json --wait
  mezzo app add sleep.json --plan      what would be done; nothing is
  echo '{\"id\": \"sleep\", \"container\": {\"docker\": {\"image\": \"sleep:1\"}}}' | mezzo app add -")]
    Add(AddAppArgs),
    /// List apps with running and wanted instances
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  mezzo app list
  mezzo app list -o json | jq -r '.[].id'"
    )]
    List,
    /// Show one app: its settings, tasks, deployments and last failure
    #[command(after_help = "Example:\n  mezzo app show sleep")]
    Show(AppArg),
    /// Say why an app is not as it should be: what waits, and which offers were refused for what
    #[command(after_help = "Example:\n  mezzo app why sleep")]
    Why(AppArg),
    /// Set the number of instances
    #[command(after_help = "Example:\n  mezzo app scale sleep 20 --wait")]
    Scale(ScaleArgs),
    /// Change an app: merge a file into it, or set single values
    #[command(after_help = "\
Examples:
  mezzo app update sleep.json --wait
  mezzo app update sleep --image sleep:2 --wait
  mezzo app update sleep --set cpus=0.2 --set mem=64 --env LEVEL=debug")]
    Update(UpdateArgs),
    /// Show what an app file, or a version, would change: every field with its value before and after
    #[command(after_help = "\
Examples:
  mezzo app diff sleep.json                             the file against what runs
  mezzo app diff sleep --version 2026-01-31T12:00:00.000Z   that version against what runs")]
    Diff(DiffArgs),
    /// Change an app in an editor ($VISUAL, $EDITOR, vi)
    #[command(
        after_help = "Examples:\n  mezzo app edit sleep --wait\n  EDITOR=nano mezzo app edit /shop/cart"
    )]
    Edit(ChangeArgs),
    /// Show what all instances of an app write, each line behind its instance
    #[command(
        visible_alias = "log",
        after_help = "Examples:\n  mezzo app logs sleep -n 20\n  mezzo app logs sleep -f     also of instances that come later"
    )]
    Logs(LogsArgs),
    /// Replace every instance by a fresh one
    #[command(after_help = "Example:\n  mezzo app restart sleep --wait")]
    Restart(ChangeArgs),
    /// Stop every instance and forget the app
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  mezzo app remove sleep --wait"
    )]
    Remove(ChangeArgs),
    /// End instances with persistent volumes and give back what they kept: new ones begin empty
    #[command(after_help = "\
Examples:
  mezzo app wipe db --yes                       all instances, and all that any of the app's kept
  mezzo app wipe db --host node-1 --yes         those of a node
  mezzo app wipe db db.instance-5c3f… --yes     one, by its task's id")]
    Wipe(WipeArgs),
    /// List the versions that can be rolled back to, newest first
    #[command(after_help = "Example:\n  mezzo app versions sleep")]
    Versions(AppArg),
    /// Follow what happens to one app
    Events(AppEventsArgs),
    /// Go back to an earlier version
    #[command(after_help = "\
Examples:
  mezzo app rollback sleep                            the version before this one
  mezzo app rollback sleep 2026-01-31T12:00:00.000Z   that version")]
    Rollback(RollbackArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddAppArgs {
    /// Only show what would be done: the fields, and the steps
    #[arg(long)]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) add: AddArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AppArg {
    /// The app's id, like `sleep` or `/shop/cart`
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// An app file (`-`: standard input), or an app's id with at least one of the flags below
    #[arg(value_name = "FILE|ID")]
    pub(crate) target: String,
    /// The new image
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// The new role: the scheduler's default one, or the name of the app's top-level group
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// A top-level field and its new value as JSON
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
    /// An environment variable; others stay
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    #[command(flatten)]
    pub(crate) how: Planned,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// An app file (`-`: standard input), or with --version an app's id
    #[arg(value_name = "FILE|ID")]
    pub(crate) target: String,
    /// A version from `mezzo app versions`
    #[arg(long)]
    pub(crate) version: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The app's id
    pub(crate) id: String,
    /// Go on, also with instances that come later, until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines of each instance
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct WipeArgs {
    /// The app's id
    pub(crate) id: String,
    /// Only this task
    pub(crate) task: Option<String>,
    /// Only instances on this host
    #[arg(long, conflicts_with = "task")]
    pub(crate) host: Option<String>,
    /// Yes, what is in their volumes is lost
    #[arg(long)]
    pub(crate) yes: bool,
    /// Also while a deployment of the app is under way
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The app's id
    pub(crate) id: String,
    /// A version from `mezzo app versions`; the one before the present when left out
    pub(crate) version: Option<String>,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeploymentCommand {
    /// List deployments under way
    #[command(visible_alias = "ls", after_help = "Example:\n  mezzo deployment list")]
    List,
    /// Show one deployment and what it waits for
    #[command(after_help = "Example:\n  mezzo deployment show 5c3f")]
    Show(DeploymentArg),
    /// End the trial of a canary, or of blue and green: what is left of the update follows
    #[command(after_help = "Example:\n  mezzo deployment promote 5c3f")]
    Promote(DeploymentArg),
    /// Stop a deployment and roll its apps back
    #[command(after_help = "\
Examples:
  mezzo deployment cancel 5c3f           roll back
  mezzo deployment cancel 5c3f --force   stop where it stands")]
    Cancel(CancelArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DeploymentArg {
    /// A deployment's id or the beginning of one
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// A deployment's id or the beginning of one
    pub(crate) id: String,
    /// Do not roll back
    #[arg(short, long)]
    pub(crate) force: bool,
}
