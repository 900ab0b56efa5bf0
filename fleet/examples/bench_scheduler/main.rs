//! Drives a real scheduler for `cargo xtask bench scheduler`: a master, a scheduler and simulated agents, over loopback.
//!
//! ```text
//! bench_scheduler [--agents 1000] [--scale 50000] [--apps 10000] [--each 10] [--roll 10000] [--clients 100] [--case scale,apps,roll]
//! ```
//!
//! One line of JSON per figure: `{"case", "unit", "values": [...]}`. Master and scheduler are processes of their own (this
//! program, called with `master` or `scheduler`), so that their processor time and memory can be told apart from the fleet's
//! and the clients'. Everything is in a temporary directory, on ports that the kernel picks, and gone at the end.
//!
//! * `scale`: one app from 0 to so many instances, from the PUT until all run and the deployment is over.
//! * `apps`: so many apps of one instance posted by clients side by side; the same scaled; the list of all with their
//!   tasks; the scheduler killed and started again.
//! * `roll`: every instance of an app replaced, with a look at the bounds all the way.

mod cases;
mod http;
mod servers;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// As the program has it.
#[global_allocator]
static HEAP: mezzo_heap::Heap = mezzo_heap::Heap;

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    server: Option<Server>,
    /// Simulated agents
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// Instances of the one app of `scale`
    #[arg(long, default_value_t = 50_000)]
    scale: u32,
    /// Apps of `apps`
    #[arg(long, default_value_t = 10_000)]
    apps: u32,
    /// Instances of each of them when they are listed and the scheduler is killed
    #[arg(long, default_value_t = 10)]
    each: u32,
    /// Instances of the app of `roll`
    #[arg(long, default_value_t = 10_000)]
    roll: u32,
    /// That post at the same time
    #[arg(long, default_value_t = 100)]
    clients: u32,
    /// Requests and restarts that are measured so often
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only these
    #[arg(long, value_delimiter = ',', default_value = "scale,apps,roll")]
    case: Vec<String>,
}

/// What this program is when it calls itself.
#[derive(Debug, Subcommand)]
enum Server {
    Master { dir: PathBuf },
    Scheduler { dir: PathBuf, master: String },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let done = match &args.server {
        Some(Server::Master { dir }) => servers::master(dir),
        Some(Server::Scheduler { dir, master }) => servers::scheduler(dir, master),
        None => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(cases::run(&args))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_scheduler: {error}");
            ExitCode::FAILURE
        }
    }
}
