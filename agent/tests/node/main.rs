//! The agent on real containers and images, against a scripted master: what a cluster relies on, one machine at a time.
//!
//! This program plays three parts: the tests; with `--agent FILE` an agent that can be killed; and, asked by the
//! environment, the launcher of that agent's containers. Needs root; says so and passes where it is not.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod bad_disks;
mod bench;
mod cases;
mod cni;
mod cut_short;
mod disk;
mod fetch;
mod figures;
mod files;
mod groups;
mod guest;
mod health;
mod holder;
mod inside;
mod lend;
mod life;
mod limits;
mod master;
mod mounts;
mod network;
mod sessions;
mod volumes;
mod walls;

use std::{
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

const TEST_DEADLINE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    if let Some(code) = mezzo_runtime::launcher_main_if_requested() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("tokio starts");
    match args.iter().position(|arg| arg == "--agent") {
        Some(at) => runtime.block_on(agent(&args[at + 1])),
        None => runtime.block_on(tests(&args)),
    }
}

/// The agent under test, until SIGTERM.
async fn agent(file: &str) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let text = std::fs::read(file).expect("the configuration is readable");
    let config = serde_json::from_slice(&text).expect("the configuration parses");
    let shutdown = CancellationToken::new();
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("signals can be awaited");
    let stop = shutdown.clone();
    let waiting = tokio::spawn(async move {
        terminated.recv().await;
        stop.cancel();
    });
    let result = mezzo_agent::run(config, shutdown).await;
    waiting.abort();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn tests(args: &[String]) -> ExitCode {
    let filters: Vec<_> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let mut all = cases::all();
    all.extend(network::all());
    all.extend(cni::all());
    all.extend(bad_disks::all());
    if args.iter().any(|arg| arg == "--list") {
        for case in &all {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        println!(
            "\ntest result: ok. 0 passed; 0 failed; {} ignored",
            all.len()
        );
        return ExitCode::SUCCESS;
    }
    let begin = Instant::now();
    let (mut passed, mut failed) = (0, 0);
    println!("\nrunning {} tests", all.len());
    for case in all {
        if !filters.is_empty()
            && !filters
                .iter()
                .any(|filter| case.name.contains(filter.as_str()))
        {
            continue;
        }
        if case.isolated && std::env::var_os(network::ISOLATED).is_none() {
            let ok = network::in_a_network_of_its_own(case.name).await;
            println!(
                "test {} ... {}",
                case.name,
                if ok { "ok" } else { "FAILED" }
            );
            if ok {
                passed += 1
            } else {
                failed += 1
            }
            continue;
        }
        let mut bench = bench::Bench::new(case.name).await;
        let run = AssertUnwindSafe((case.run)(&mut bench)).catch_unwind();
        let ran = matches!(tokio::time::timeout(TEST_DEADLINE, run).await, Ok(Ok(())));
        let clean = bench.close().await;
        if let Err(left) = &clean {
            eprintln!("left behind: {left}");
        }
        let ok = ran && clean.is_ok();
        println!(
            "test {} ... {}",
            case.name,
            if ok { "ok" } else { "FAILED" }
        );
        if ok { passed += 1 } else { failed += 1 }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; finished in {:.2}s",
        begin.elapsed().as_secs_f64()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
