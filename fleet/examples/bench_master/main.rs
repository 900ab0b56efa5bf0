//! Drives a real master over its gRPC API for `cargo xtask bench master`: launches, lists, memory, failover.
//!
//! ```text
//! bench_master launches --agents 5000 --tasks 10000,100000 [--per-accept 20] [--window 3000]
//! bench_master reads    --agents 5000 --tasks 150000 [--rounds 3] [--listed 100000]
//! bench_master failover --agents 40000 --tasks 400000
//! ```
//!
//! Master, fleet and who lists are processes of their own (this program again: `parts`), so that processor time and memory of
//! each can be told apart (`process`); the framework, made with the SDK, is this process. They end with it: each stops when
//! its standard input closes. One line of JSON per measurement. Each case is a file, and all begin with `launches`.

mod failover;
mod launches;
mod parts;
mod process;
mod reads;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use mezzo_framework::model::Resources;

/// As the program has it.
#[global_allocator]
static HEAP: mezzo_heap::Heap = mezzo_heap::Heap;

/// For anything to happen at all; what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Parser)]
enum What {
    /// Tasks until TASK_RUNNING is acknowledged
    Launches(Size),
    /// The same, with and without somebody who lists tasks
    Reads(Size),
    /// A master is killed; until the next one knows all agents and tasks again
    Failover(Size),
    #[command(subcommand, hide = true)]
    Part(Part),
}

#[derive(Debug, Args)]
struct Size {
    /// Simulated agents
    #[arg(long, default_value_t = 5000)]
    agents: usize,
    /// How many tasks; several numbers are reached one after the other
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    tasks: Vec<usize>,
    /// Tasks launched by one Accept, where the offer has room
    #[arg(long, default_value_t = 20)]
    per_accept: usize,
    /// Tasks that may be launched and not running yet
    #[arg(long, default_value_t = 3000)]
    window: usize,
    /// Of `reads`: how often, with and without
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Of `reads`: how long the list is
    #[arg(long, default_value_t = 100_000)]
    listed: usize,
    /// Of `reads`: milliseconds between two lists; the first comes after half of them
    #[arg(long, default_value_t = 10_000)]
    every: u64,
}

/// What this program is when it starts itself.
#[derive(Debug, Subcommand)]
enum Part {
    Serve {
        listen: SocketAddr,
        state_dir: PathBuf,
    },
    Fleet {
        master: SocketAddr,
        agents: usize,
        resources: Resources,
    },
    List {
        master: SocketAddr,
        tasks: usize,
        /// Milliseconds
        every: u64,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    match What::parse() {
        What::Launches(size) => launches::run(&size).await,
        What::Reads(size) => reads::run(&size).await,
        What::Failover(size) => failover::run(&size).await,
        What::Part(Part::Serve { listen, state_dir }) => parts::serve(listen, state_dir).await,
        What::Part(Part::Fleet {
            master,
            agents,
            resources,
        }) => parts::fleet(master, agents, resources).await,
        What::Part(Part::List {
            master,
            tasks,
            every,
        }) => parts::list(master, tasks, Duration::from_millis(every)).await,
    }
}
