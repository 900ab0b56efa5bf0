//! `mezzo-fleet`: simulated agents for a running master, until Ctrl-C, with a line of figures every few seconds.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use mezzo_api::{credential::Credential, model::Resources};
use mezzo_fleet::{Config, Counts, Fleet};

/// Simulated agents: they register with a master as true ones do, and run tasks as timers.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  mezzo-fleet --agents 1000\n  mezzo-fleet --master m1:5050,m2:5050 --agents 200 --racks 10 --run-for 30,90 --failures 20"
)]
struct Args {
    /// host:port of every master
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:5050",
        env = "MEZZO_MASTER"
    )]
    master: Vec<String>,
    /// A file with `NAME:SECRET`, for a master that asks for a credential
    #[arg(long, env = "MEZZO_CREDENTIAL", value_name = "FILE")]
    credential: Option<PathBuf>,
    /// How many agents
    #[arg(long, default_value_t = 10)]
    agents: usize,
    /// What each of them has
    #[arg(
        long,
        default_value = "cpus:8;mem:32768;disk:100000;ports:[31000-32000]"
    )]
    resources: Resources,
    /// Spread them over so many values of the attribute `rack`
    #[arg(long, default_value_t = 0)]
    racks: usize,
    /// Spread them over so many zones
    #[arg(long, default_value_t = 0)]
    zones: usize,
    /// Milliseconds between a launch and TASK_RUNNING
    #[arg(long, default_value_t = 0)]
    start_ms: u64,
    /// Tasks end by themselves after SHORTEST,LONGEST seconds; without it they run until they are killed
    #[arg(long, value_delimiter = ',', num_args = 1..=2, value_name = "SECONDS")]
    run_for: Vec<f64>,
    /// Of a thousand tasks that end by themselves, so many fail
    #[arg(long, default_value_t = 0, value_name = "PER_MILLE")]
    failures: u32,
    /// Streams break by themselves after about so many seconds
    #[arg(long, value_name = "SECONDS")]
    break_after: Option<u64>,
    /// Tell no TASK_STARTING
    #[arg(long)]
    no_starting: bool,
    /// For all that is left to chance
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Seconds between two lines of figures
    #[arg(long, default_value_t = 5)]
    report: u64,
}

/// Thousands of agents make and drop as much as the master that they speak to.
#[global_allocator]
static HEAP: mezzo_heap::Heap = mezzo_heap::Heap;

#[tokio::main]
async fn main() -> ExitCode {
    mezzo_heap::choose_for_server();
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let every = Duration::from_secs(args.report.max(1));
    let fleet = Fleet::spawn(args.config()?)?;
    let mut former = Counts::default();
    loop {
        tokio::select! {
            stop = tokio::signal::ctrl_c() => {
                stop.context("listen for Ctrl-C")?;
                break;
            }
            () = tokio::time::sleep(every) => {
                let counts = fleet.counts();
                let rate = (counts.launches - former.launches) as f64 / every.as_secs_f64();
                println!(
                    "{} connected, {} tasks, {} launched ({rate:.0}/s), {} ended, {} registrations, {} repeats, {} overcommitted",
                    counts.connected, counts.tasks, counts.launches, counts.ended, counts.registrations, counts.repeats,
                    counts.overcommitted
                );
                former = counts;
            }
        }
    }
    fleet.stop().await;
    Ok(())
}

impl Args {
    fn config(self) -> Result<Config> {
        let seconds = |seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .with_context(|| format!("--run-for: {seconds} s is no time"))
        };
        let run_for = match *self.run_for {
            [] => None,
            [time] => Some((seconds(time)?, seconds(time)?)),
            [shortest, longest, ..] => Some((seconds(shortest)?, seconds(longest)?)),
        };
        Ok(Config {
            masters: self.master,
            credential: Credential::read(self.credential.as_deref())?,
            agents: self.agents,
            resources: self.resources,
            racks: self.racks,
            zones: self.zones,
            start_delay: Duration::from_millis(self.start_ms),
            tell_starting: !self.no_starting,
            run_for,
            failures_per_mille: self.failures,
            break_after: self.break_after.map(Duration::from_secs),
            seed: self.seed,
            ..Config::default()
        })
    }
}
