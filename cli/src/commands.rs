//! The verbs: each family in a file of its own, all with the same shape: check the request, ask the servers, print.

pub(crate) mod app;
mod attach;
pub(crate) mod cluster;
mod copy;
pub(crate) mod deployment;
pub(crate) mod doctor;
pub(crate) mod events;
mod exec;
pub(crate) mod group;
pub(crate) mod image;
pub(crate) mod job;
mod manual;
pub(crate) mod operating;
pub(crate) mod pod;
pub(crate) mod serve;
mod stats;
pub(crate) mod status;
pub(crate) mod task;
mod volume;
mod wait;

use std::time::{SystemTime, UNIX_EPOCH};

use mezzo_api::credential::Credential;

use crate::{
    args::{Cli, Command, OutputArg, image::ImageCommand, operating::MasterCommand},
    client::master::Master,
    completion, dev,
    failure::{Failure, chain},
    output::{Format, Output, print, print_bytes},
    request::Servers,
};

/// What every client verb needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) servers: Servers,
    pub(crate) output: Output,
    /// Shown to the master.
    pub(crate) credential: Credential,
}

impl Context {
    /// A connection to the master that leads.
    pub(crate) async fn master(&self) -> Result<Master, Failure> {
        Master::connect(&self.servers.master, &self.credential).await
    }
}

/// Carries out a command line.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let global = cli.global;
    let servers = Servers::new(global.master.as_deref(), global.scheduler.as_deref())?;
    // Only these two write files.
    let pack_to = match (&cli.command, &global.output) {
        (
            Command::Image(ImageCommand::Pack(_) | ImageCommand::Export(_)),
            OutputArg::File(path),
        ) => Some(path.clone()),
        _ => None,
    };
    let format = if pack_to.is_some() {
        Format::Table
    } else {
        Format::from_arg(&global.output)?
    };
    let context = Context {
        servers,
        output: Output::new(format),
        credential: Credential::read(global.credential.as_deref())
            .map_err(|error| Failure::usage(chain(&error)))?,
    };
    match cli.command {
        Command::Dev(args) => dev::run(&args),
        Command::Master(args) => match args.command {
            None => serve::master(&args),
            Some(MasterCommand::Backup(args)) => client(operating::backup(&context, &args)),
            Some(MasterCommand::Restore(args)) => client(operating::restore(&context, &args)),
            Some(MasterCommand::Events(args)) => client(operating::events(&context, &args)),
            Some(MasterCommand::Credential(args)) => operating::credential(&context, &args),
        },
        Command::Agent(args) => serve::agent(&args, global.master.as_deref()),
        Command::Scheduler(args) => serve::scheduler(&args, global.master.as_deref()),
        Command::App(command) => client(app::run(&context, command)),
        Command::Job(command) => client(job::run(&context, command)),
        Command::Task(command) => client(task::run(&context, command)),
        Command::Node(command) => client(cluster::node(&context, command)),
        Command::Volume(command) => client(volume::run(&context, command)),
        Command::Framework(command) => client(cluster::framework(&context, command)),
        Command::Role(command) => client(cluster::role(&context, command)),
        Command::Deployment(command) => client(deployment::run(&context, command)),
        Command::Events(args) => client(events::run(&context, &args)),
        Command::Group(command) => client(group::run(&context, command)),
        Command::Pod(command) => client(pod::run(&context, command)),
        Command::Image(command) => image::run(&context, command, pack_to),
        Command::Status(_) => client(status::run(&context)),
        Command::Top(args) => client(stats::run_top(&context, &args)),
        Command::Doctor(args) => client(doctor::run(&context, &args)),
        Command::Completions(args) => print_bytes(&completion::script(args.shell)?),
        Command::Man(args) => manual::run(&args.dir),
        Command::Version => version(&context),
    }
}

/// Runs a client verb: one thread is enough, and a blocked read of standard input does not hold up the end.
fn client(verb: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the event loop: {error}")))?;
    let result = runtime.block_on(verb);
    runtime.shutdown_background();
    result
}

fn version(context: &Context) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match context.output.format {
        Format::Table => print(&format!("mezzo {version}\n")),
        Format::Json => context
            .output
            .emit(&serde_json::json!({ "version": version }), |_| {
                String::new()
            }),
    }
}

/// The present time, read once per verb.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
