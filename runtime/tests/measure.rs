//! Figures, not verdicts: how long a start takes, how many starts a second there are, what a keeper costs.
//! `cargo test -p mezzo-runtime --test measure -- --ignored --nocapture`

#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::time::{Duration, Instant};

use common::{Node, id, within};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn start_latency_rate_and_keeper_memory() {
    let Some(node) = Node::new().await else {
        return;
    };
    let runtime = node.runtime();
    let limited = || {
        let mut spec = node.spec(&["sleep"]);
        spec.limits.memory_bytes = Some(64 << 20);
        spec.limits.cpu_limit_millis = Some(1000);
        spec.limits.pids = Some(100);
        spec
    };
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for number in 0..40 {
        let (name, spec) = (id(&format!("one-{number}")), limited());
        let begun = Instant::now();
        runtime.start(&name, spec).await.unwrap();
        starts.push(begun.elapsed());
        let begun = Instant::now();
        within(runtime.stop(&name, Duration::ZERO, libc::SIGKILL))
            .await
            .unwrap();
        stops.push(begun.elapsed());
    }
    println!(
        "start: first {:?}, median of 40 {:?}; stop: median {:?}",
        starts[0],
        median(starts.clone()),
        median(stops)
    );

    for count in [1, 20, 100] {
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..count {
            let (runtime, spec) = (runtime.clone(), limited());
            tasks.spawn(async move {
                runtime
                    .start(&id(&format!("many-{count}-{number}")), spec)
                    .await
                    .unwrap()
            });
        }
        let mut keepers = Vec::new();
        while let Some(started) = tasks.join_next().await {
            keepers.push(started.unwrap().keeper_pid);
        }
        let elapsed = begun.elapsed();
        let pss: Vec<u64> = keepers.iter().map(|pid| kib(*pid, "Pss:")).collect();
        let private: u64 = keepers
            .iter()
            .map(|pid| kib(*pid, "Private_Dirty:") + kib(*pid, "Private_Clean:"))
            .sum();
        println!(
            "{count} with {} in parallel: {elapsed:?}, {:.0} starts/s; keeper: mean PSS {} KiB (private {} KiB); launcher PSS {} KiB",
            node.config.max_parallel_starts,
            f64::from(count) / elapsed.as_secs_f64(),
            pss.iter().sum::<u64>() / pss.len() as u64,
            private / pss.len() as u64,
            kib(
                i32::try_from(runtime.launcher_pid().await.unwrap()).unwrap(),
                "Pss:"
            ),
        );
        let begun = Instant::now();
        for number in 0..count {
            within(runtime.stop(
                &id(&format!("many-{count}-{number}")),
                Duration::ZERO,
                libc::SIGKILL,
            ))
            .await
            .unwrap();
        }
        println!("{count} stops one after the other: {:?}", begun.elapsed());
    }
}

/// A field of a process's memory summary.
fn kib(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn latency_of_a_program_executed_in_a_container() {
    let Some(node) = Node::new().await else {
        return;
    };
    let runtime = node.runtime();
    let name = id("c");
    runtime.start(&name, node.spec(&["sleep"])).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..100 {
        let program = mezzo_runtime::ExecSpec {
            args: vec!["/bin/probe".to_owned(), "exit".to_owned(), "0".to_owned()],
            env: vec![],
            cwd: None,
            user: None,
            terminal: None,
        };
        let begun = Instant::now();
        let mut session = runtime.exec(&name, program).await.unwrap();
        within(session.wait()).await.unwrap();
        times.push(begun.elapsed());
    }
    println!("exec to its end: median of 100 {:?}", median(times));
}
