//! `mezzo job …`: verbs for jobs, through the scheduler; their logs come from the nodes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Add jobs from JSON or YAML files, or change those that are there
    #[command(
        after_help = "Examples:\n  mezzo job add nightly.json\n  mezzo job add nightly.yaml weekly.yaml"
    )]
    Add(AddArgs),
    /// Change settings of a job that is there; the others stay
    #[command(after_help = "Example:\n  mezzo job update nightly --role batch")]
    Update(UpdateArgs),
    /// List jobs with their next run and how the last one ended
    #[command(visible_alias = "ls", after_help = "Example:\n  mezzo job list")]
    List,
    /// Show one job: its settings and its latest runs
    #[command(after_help = "Example:\n  mezzo job show nightly")]
    Show(JobArg),
    /// Run a job now, beside its schedule
    #[command(after_help = "\
Examples:
  mezzo job run nightly
  mezzo job run nightly --arguments=--full")]
    Run(RunArgs),
    /// List the runs of a job that are known, newest first: times, exit codes, nodes, reasons
    #[command(after_help = "Example:\n  mezzo job history nightly")]
    History(JobArg),
    /// Print what a run wrote: its last attempt
    #[command(
        visible_alias = "logs",
        after_help = "\
Examples:
  mezzo job log nightly        the latest run that had a task
  mezzo job log nightly 17 -n 100"
    )]
    Log(LogArgs),
    /// Kill the runs of a job that are under way; nothing of them is tried again
    #[command(after_help = "Examples:\n  mezzo job kill nightly\n  mezzo job kill nightly 17")]
    Kill(KillArgs),
    /// Remove a job, its history, and what runs of it
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  mezzo job remove nightly"
    )]
    Remove(JobArg),
    /// Let its schedule or its parents start a job again
    #[command(after_help = "Example:\n  mezzo job enable nightly")]
    Enable(JobArg),
    /// Let nothing but a person start a job; what runs goes on
    #[command(after_help = "Example:\n  mezzo job disable nightly")]
    Disable(JobArg),
    /// Print which job runs after which, for Graphviz
    #[command(after_help = "Example:\n  mezzo job graph")]
    Graph,
}

#[derive(Debug, Args)]
pub(crate) struct JobArg {
    /// The job's name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Job files; `-` reads standard input; `.yaml` and `.yml` are YAML
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The role of those whose files name none; otherwise they get the scheduler's default one
    #[arg(long)]
    pub(crate) role: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The job's name
    pub(crate) name: String,
    /// The new role: runs that wait and those to come go by offers of it
    #[arg(long)]
    pub(crate) role: String,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The job's name
    pub(crate) name: String,
    /// Added to its command line
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) arguments: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// The job's name
    pub(crate) name: String,
    /// Only this run
    pub(crate) run: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The job's name
    pub(crate) name: String,
    /// Which run
    pub(crate) run: Option<u64>,
    /// Go on until the task ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<u64>,
}
