//! `cargo xtask bench NAME`: measures mezzo beside the tools that people use today, and beside what the kernel alone
//! costs.
//!
//! Cases alternate within one run, so that what else the machine does falls on all of them. Peers that are missing are
//! named, not installed. `report` writes what came of it to `target/bench/NAME.json`, with a picture beside it.

mod containerd;
pub(crate) mod launch;
mod master;
mod pull;
mod quiet;
mod report;
mod scheduler;

use anyhow::{Result, ensure};

use crate::{Bench, BenchArgs};

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match args.what {
        Bench::Launch => launch::run(args),
        Bench::Pull | Bench::Master | Bench::Scheduler => {
            let only_launch = args.ours || args.rounds.is_some() || !args.cases.is_empty();
            ensure!(
                !only_launch,
                "--case, --ours, --rounds and --under belong to `bench launch`"
            );
            match args.what {
                Bench::Pull => pull::run(args.quick),
                Bench::Scheduler => scheduler::run(args.quick),
                Bench::Launch | Bench::Master => master::run(args.quick),
            }
        }
    }
}
