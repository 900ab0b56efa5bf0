//! Limits are enforced by the kernel, and usage is what the kernel says.

mod common;

use std::fs;
use std::time::Duration;

use common::{Node, id, until, within};
use mezzo_runtime::Exit;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_over_its_memory_limit_is_reported_as_killed_for_it() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["eat", "64"]);
    spec.limits.memory_bytes = Some(16 * MIB);
    node.runtime().start(&id("glutton"), spec).await.unwrap();
    // Without this a host with swap would let it have as much of that as there is.
    let swap = node.cgroup_dir("memory", "glutton").join("memory.swap.max");
    let swap = fs::read_to_string(swap);
    let record = within(node.runtime().wait(&id("glutton"))).await.unwrap();
    assert!(swap.is_err() || swap.is_ok_and(|most| most.trim() == "0"));
    assert_eq!(
        (&record.exit, record.oom_killed),
        (&Exit::Signal(libc::SIGKILL), true)
    );
    assert_eq!(record.memory_limit_bytes, Some(16 * MIB));
    let peak = record.usage.memory_peak_bytes.unwrap();
    assert!(peak > 15 * MIB && peak <= 16 * MIB, "{peak}");
    assert!(record.usage.oom_kills.unwrap() >= 1);
    // A plain SIGKILL is not one.
    node.runtime()
        .start(&id("plain"), node.spec(&["sleep"]))
        .await
        .unwrap();
    node.runtime()
        .signal(&id("plain"), libc::SIGKILL)
        .await
        .unwrap();
    let record = within(node.runtime().wait(&id("plain"))).await.unwrap();
    assert_eq!(
        (record.exit, record.oom_killed),
        (Exit::Signal(libc::SIGKILL), false)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_memory_is_enough_to_start() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["exit", "5"]);
    spec.limits.memory_bytes = Some(4 * MIB);
    let record = node.run("small", spec).await;
    assert_eq!((record.exit, record.oom_killed), (Exit::Code(5), false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_limit_holds() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["fork", "50"]);
    spec.limits.pids = Some(10);
    node.runtime().start(&id("forks"), spec).await.unwrap();
    node.await_output("forks", "made").await;
    assert_eq!(
        node.stdout("forks"),
        "made 9: Resource temporarily unavailable\n"
    );
    assert_eq!(
        node.runtime().usage(&id("forks")).await.unwrap().pids,
        Some(10)
    );
    within(
        node.runtime()
            .stop(&id("forks"), Duration::ZERO, libc::SIGKILL),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cpu_limit_throttles_and_the_weight_is_set() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["spin", "150"]);
    spec.limits.cpu_limit_millis = Some(200);
    spec.limits.cpu_millis_weight = 500;
    node.runtime().start(&id("spin"), spec).await.unwrap();
    node.await_output("spin", "done").await;
    let usage = node.runtime().usage(&id("spin")).await.unwrap();
    assert!(usage.throttled_us.unwrap() > 0, "{usage:?}");
    assert!(usage.cpu_total_us >= 150_000, "{usage:?}");
    let dir = node.cgroup_dir("cpu", "spin");
    match fs::read_to_string(dir.join("cpu.shares")) {
        Ok(shares) => {
            assert_eq!(shares.trim(), "512");
            assert_eq!(
                fs::read_to_string(dir.join("cpu.cfs_quota_us"))
                    .unwrap()
                    .trim(),
                "20000"
            );
        }
        Err(_) => {
            let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
            assert_eq!(text("cpu.max").trim(), "20000 100000");
            assert_eq!(text("cpu.weight").trim(), "50");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_what_the_kernel_says() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("eat"), node.spec(&["eat", "20"]))
        .await
        .unwrap();
    node.await_output("eat", "full").await;
    let number = |controller: &str, names: [&str; 2]| -> u64 {
        let dir = node.cgroup_dir(controller, "eat");
        let text = names
            .iter()
            .find_map(|name| fs::read_to_string(dir.join(name)).ok())
            .unwrap();
        text.trim().parse().unwrap()
    };
    // It sleeps, so two looks see the same; a moment of settling is given to the page counters.
    until("the figures agree", || {
        let usage = futures_now(node.runtime().usage(&id("eat"))).unwrap();
        usage.memory_bytes
            == Some(number(
                "memory",
                ["memory.usage_in_bytes", "memory.current"],
            ))
            && usage.memory_peak_bytes
                == Some(number(
                    "memory",
                    ["memory.max_usage_in_bytes", "memory.peak"],
                ))
            && usage.pids == Some(number("pids", ["pids.current", "pids.current"]))
    })
    .await;
    let usage = node.runtime().usage(&id("eat")).await.unwrap();
    assert!(usage.memory_anon_bytes.unwrap() >= 20 * MIB, "{usage:?}");
    assert!(usage.memory_working_set_bytes().unwrap() >= 20 * MIB);
    let dir = node.cgroup_dir("cpuacct", "eat");
    let kernel_us = match fs::read_to_string(dir.join("cpuacct.usage")) {
        Ok(nanos) => nanos.trim().parse::<u64>().unwrap() / 1000,
        Err(_) => {
            let text = fs::read_to_string(dir.join("cpu.stat")).unwrap();
            text.lines()
                .find_map(|line| line.strip_prefix("usage_usec "))
                .unwrap()
                .parse()
                .unwrap()
        }
    };
    assert!(
        usage.cpu_total_us.abs_diff(kernel_us) * 100 <= kernel_us,
        "{} {kernel_us}",
        usage.cpu_total_us
    );
    // After the end the last sample is told, with the same peak.
    let record = within(
        node.runtime()
            .stop(&id("eat"), Duration::ZERO, libc::SIGKILL),
    )
    .await
    .unwrap();
    assert_eq!(
        node.runtime().usage(&id("eat")).await.unwrap(),
        record.usage
    );
    assert!(record.usage.memory_peak_bytes >= usage.memory_peak_bytes);
    assert!(record.usage.cpu_total_us >= usage.cpu_total_us);
}

/// The result of a future that does not have to wait.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future
        .as_mut()
        .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_limits_that_cannot_be_raised_stay_as_they_are() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["cat", "/proc/self/limits"]);
    let rlimit = |soft, hard| mezzo_runtime::Rlimit {
        kind: "RLIMIT_NOFILE".into(),
        soft,
        hard,
    };
    spec.rlimits = vec![rlimit(100, 200)];
    node.run("low", spec).await;
    let line = |name: &str| {
        let text = node.stdout(name);
        text.lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(line("low")[3..5], ["100", "200"]);
    let mut spec = node.spec(&["cat", "/proc/self/limits"]);
    spec.rlimits = vec![rlimit(1000, 1 << 30)];
    assert_eq!(node.run("high", spec).await.exit, Exit::Code(0));
    assert_eq!(line("high")[3], "1000");
}
