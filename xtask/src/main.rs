//! `cargo xtask …`: everything a contributor runs, on a fresh Debian or Ubuntu machine with a Rust toolchain.
//!
//! It builds fast and alone: nothing of the servers is linked in, they are built and started as programs. `setup`
//! brings what the machine lacks, `steps` times and reports, the rest is one file per command.

#![forbid(unsafe_code)]

mod alerts;
mod bench;
mod cargo;
mod crun;
mod demo;
mod dist;
mod fuzz;
mod runner;
mod setup;
mod steps;
mod suite;
mod table;
mod vagrant;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use mezzo_integration::interrupt;

/// Everything a contributor runs. Missing system packages are installed when root, and named when not.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show distributed sleep on this machine: deploy, scale, kill, recover, update, remove; each step with its time
    #[command(after_help = "\
Examples:
  cargo xtask demo
  cargo xtask demo --keep            leaves it running, and tells what to try next
  cargo xtask demo --profile release for measuring: builds three times as long")]
    Demo(DemoArgs),
    /// Check everything: formatting, lints, licences, documentation, unit tests, tests on real containers
    #[command(after_help = "\
Examples:
  cargo xtask test                  all that this machine can show by itself
  cargo xtask test --vm             all that CI runs: the same, and what needs virtual machines
  cargo xtask test --vm --all       with the long runs that CI samples
  cargo xtask test lint             formatting, clippy, cargo deny, documentation
  cargo xtask test vagrant          the files for virtual machines, without starting one
  cargo xtask test unit --quick     unit tests alone, without looking for missing packages
  cargo xtask test e2e rolling      tests on real containers whose names contain `rolling`
  cargo xtask test e2e --all        with more rounds of kill -9")]
    Test(TestArgs),
    /// Measure against peers, and write target/bench/NAME.json and .svg
    #[command(after_help = "\
Examples:
  cargo xtask bench launch
  cargo xtask bench launch --case life,start --rounds 100
  cargo xtask bench launch --case life --ours --rounds 500 --under 'perf stat -d'
                                    without peers, below a profiler
  cargo xtask bench pull --quick    with fewer rounds and images
  cargo xtask bench master          the allocator alone; launches, lists and failover with simulated agents
  cargo xtask bench scheduler       50,000 instances, 10,000 apps, over simulated agents")]
    Bench(BenchArgs),
    /// Feed hostile bytes to everything that reads them, for as long as you like
    #[command(after_help = "\
Examples:
  cargo xtask fuzz                       every target for a minute, several at once
  cargo xtask fuzz --seconds 600         for ten minutes each
  cargo xtask fuzz tar unpack            only these
  cargo xtask fuzz tar --seed 7          the same run again; a failure tells its seed")]
    Fuzz(fuzz::FuzzArgs),
    /// Try things on a small virtual machine with true cgroup v2, whatever this machine has
    #[command(after_help = "\
Examples:
  cargo xtask vm boot               boots one, and tells how long it took and what it offers
  cargo xtask vm runtime            runs all tests of the runtime crate in one
  cargo xtask vm runtime oom        those whose names contain `oom`
  cargo xtask vm node in_a_guest    those of the agent that need cgroup v2 and project quotas
  cargo xtask vm node --xfs quota   those of quotas, on XFS
  cargo xtask vm debian             boots one with systemd; the first time makes its disk, which takes a minute or two")]
    Vm(vm::VmArgs),
    /// Build a Debian package and an archive, with units, settings, manual pages and completions, in target/dist
    #[command(after_help = "\
Examples:
  cargo xtask dist
  cargo xtask dist --profile dev    for trying the package: builds in a third of the time")]
    Dist(dist::DistArgs),
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Leave the cluster running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Where everything goes; removed at the end [default: target/demo]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How mezzo is built. The steps take about as long with either: their time goes to the kernel
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    profile: Profile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    Dev,
    Release,
}

#[derive(Debug, Args)]
struct TestArgs {
    /// Only this part
    #[arg(value_enum)]
    part: Option<Part>,
    /// Only tests whose names, or whose program's name, contain this
    filter: Option<String>,
    /// Leave out what takes minutes: cargo deny, documentation, tests on real containers (unless asked for by name)
    #[arg(long)]
    quick: bool,
    /// Also the long runs that are otherwise sampled
    #[arg(long)]
    all: bool,
    /// Also in virtual machines with true cgroup v2: clusters that lose power and links, limits, the runtime's tests
    #[arg(long)]
    vm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Lint,
    Vagrant,
    Alerts,
    Unit,
    E2e,
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    what: Bench,
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
    /// Only these cases of `launch`
    #[arg(long = "case", value_name = "CASE", value_enum, value_delimiter = ',')]
    cases: Vec<bench::launch::Case>,
    /// How many rounds of `launch`, where they take one container each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
    /// One case of `launch` without peers and without a report: for a profiler
    #[arg(long)]
    ours: bool,
    /// A command, such as `perf stat -d` or `strace -c -f`, below which `--ours` runs
    #[arg(long, value_name = "COMMAND", requires = "ours")]
    under: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Containers: their life, start, rates and memory beside crun, runc, podman and containerd; an app scaled by 20
    Launch,
    /// Images from a registry on loopback into an empty store, beside podman, containerd, skopeo and plain tools
    Pull,
    /// The master's allocator alone, at up to 50,000 agents and 1,000 frameworks; a master with simulated agents: launches
    /// up to a million tasks, lists meanwhile, memory, failover
    Master,
    /// The scheduler with a real master and simulated agents: 50,000 instances, 10,000 apps, restart, rolling update, memory
    Scheduler,
}

/// The command line, without a `--` behind the command: people are used to it from `cargo run`, and here it would hide
/// the command's own commands.
fn words(args: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    args.enumerate()
        .filter(|(n, word)| !(*n == 2 && word == "--"))
        .map(|(_, word)| word)
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(words(std::env::args()));
    interrupt::install();
    let done = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => suite::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Dist(args) => dist::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            // 2 is for what a person must do first.
            if error.is::<setup::Missing>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_separator_behind_the_command_is_no_word() {
        let parse = |line: &str| {
            let words_typed = line.split(' ').map(str::to_owned);
            Cli::try_parse_from(words(words_typed)).map(drop)
        };
        for line in [
            "xtask vm -- smoke",
            "xtask vm smoke",
            "xtask test lint -- x",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        assert!(parse("xtask vm -- nonsense").is_err());
    }
}
