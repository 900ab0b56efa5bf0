//! `mezzo events` and `mezzo app events`: what happens, as it happens.

use clap::Args;

/// What is shown, and when it ends.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Only events of this type, like `deployment_success`; may be given several times
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<String>,
    /// Begin after this event instead of now, by the id that `-o json` shows
    #[arg(long, value_name = "EVENT")]
    pub(crate) after: Option<String>,
    /// End after this many events
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mezzo events
  mezzo events --type deployment_success --type deployment_failed
  mezzo events -o json | jq -r .eventType")]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mezzo app events sleep")]
pub(crate) struct AppEventsArgs {
    /// The app's id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) how: How,
}
