//! `cargo xtask bench NAME`: measures mezzo beside the tools that people use today, and beside what the kernel alone
//! costs.
//!
//! Cases alternate within one run, so that what else the machine does falls on all of them. Peers that are missing are
//! named, not installed. `report` writes what came of it to `target/bench/NAME.json`, with a picture beside it.

mod launch;
mod pull;
mod report;

use anyhow::Result;

use crate::{Bench, BenchArgs};

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match args.what {
        Bench::Launch => launch::run(if args.quick { 3 } else { 15 }),
        Bench::Pull => pull::run(args.quick),
    }
}
