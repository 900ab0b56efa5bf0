//! `mezzo group …`: verbs for groups of apps and pods.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::change::Planned;

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List the apps and pods of a group and of those in it
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  mezzo group list\n  mezzo group list /shop"
    )]
    List(ListArgs),
    /// Show a group: what it depends on, its version, its apps and pods
    #[command(after_help = "Example:\n  mezzo group show /shop")]
    Show(ListArgs),
    /// List the versions of a group that can be gone back to, newest first
    #[command(after_help = "Example:\n  mezzo group versions /shop")]
    Versions(ListArgs),
    /// Go back to an earlier version of a group and of everything in it
    #[command(after_help = "\
Examples:
  mezzo group rollback /shop                            the version before this one
  mezzo group rollback /shop 2026-01-31T12:00:00.000Z   that version")]
    Rollback(GroupRollbackArgs),
    /// Make a group, or make it as a JSON or YAML file says
    #[command(after_help = "\
Examples:
  mezzo group apply shop.json --plan   what would be done, in which order
  mezzo group apply shop.json --wait")]
    Apply(ApplyArgs),
    /// Multiply the instances of every app of a group
    #[command(after_help = "Example:\n  mezzo group scale /shop 1.5")]
    Scale(ScaleArgs),
    /// Stop and forget every app of a group
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  mezzo group remove /shop"
    )]
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The group's path
    #[arg(default_value = "/")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct GroupRollbackArgs {
    /// The group's path
    pub(crate) id: String,
    /// A version from `mezzo group versions`; the one before the present when left out
    pub(crate) version: Option<String>,
    #[command(flatten)]
    pub(crate) how: Planned,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A group file; `-` reads standard input; `.yaml` and `.yml` are YAML
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) how: Planned,
}

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// The group's path
    pub(crate) id: String,
    /// How many times as many instances each app shall have
    pub(crate) factor: f64,
    #[command(flatten)]
    pub(crate) how: Planned,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The group's path
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) how: Planned,
}
