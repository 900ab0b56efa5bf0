//! Limits of running containers change: in the kernel, in what the container can do, on record; or not at all.

#![expect(clippy::unwrap_used, reason = "test helpers")]

mod common;

use std::fs;
use std::time::Duration;

use common::{Node, chain, id, tell, until, within};
use mezzo_runtime::{ExitRecord, Limits, UpdateError};

const MIB: u64 = 1 << 20;

fn memory(bytes: u64) -> Limits {
    Limits {
        memory_bytes: Some(bytes),
        ..Limits::default()
    }
}

async fn start(node: &Node, name: &str, args: &[&str], limits: Limits) {
    let mut spec = node.with_store(node.spec(args));
    spec.limits = limits;
    let started = node.runtime().start(&id(name), spec).await;
    started.unwrap_or_else(|error| panic!("{}", chain(&error)));
}

async fn kill(node: &Node, name: &str) -> ExitRecord {
    let container = id(name);
    let stopped = node
        .runtime()
        .stop(&container, Duration::ZERO, libc::SIGKILL);
    within(stopped).await.unwrap()
}

fn memory_limit(node: &Node, name: &str) -> u64 {
    node.cgroup_number("memory", name, &["memory.limit_in_bytes", "memory.max"])
}

#[tokio::test(flavor = "multi_thread")]
async fn new_limits_are_the_kernels_and_outlive_the_runtime() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let first = Limits {
        pids: Some(10),
        cpu_millis_weight: 500,
        ..memory(64 * MIB)
    };
    start(&node, "task", &["sleep"], first).await;
    let second = Limits {
        cpu_millis_weight: 2000,
        cpu_limit_millis: Some(1500),
        pids: Some(20),
        ..memory(128 * MIB)
    };
    node.runtime().update(&id("task"), second).await.unwrap();
    let texts = |node: &Node| {
        [
            node.cgroup_text("cpu", "task", &["cpu.shares", "cpu.weight"]),
            node.cgroup_text("cpu", "task", &["cpu.cfs_quota_us", "cpu.max"]),
            node.cgroup_text("pids", "task", &["pids.max"]),
            memory_limit(node, "task").to_string(),
        ]
    };
    let weight = if Node::v2() {
        ["200", "150000 100000"]
    } else {
        ["2048", "150000"]
    };
    let expected = [weight[0], weight[1], "20", "134217728"];
    assert_eq!(texts(&node), expected);
    // Another runtime finds them, and so does the exit record.
    node.close();
    node.open().await;
    assert_eq!(texts(&node), expected);
    // None at all is a choice too.
    let none = Limits {
        cpu_millis_weight: 1000,
        ..memory(128 * MIB)
    };
    node.runtime().update(&id("task"), none).await.unwrap();
    let none = if Node::v2() {
        ["100", "max 100000"]
    } else {
        ["1024", "-1"]
    };
    assert_eq!(texts(&node)[..3], [none[0], none[1], "max"]);
    assert_eq!(
        kill(&node, "task").await.memory_limit_bytes,
        Some(128 * MIB)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn less_memory_than_is_in_use_is_refused_and_nothing_is_killed() {
    let Some(node) = Node::new().await else {
        return;
    };
    let old = Limits {
        pids: Some(10),
        ..memory(64 * MIB)
    };
    start(&node, "eat", &["eat", "32"], old).await;
    node.await_output("eat", "full").await;
    let new = Limits {
        pids: Some(5),
        ..memory(16 * MIB)
    };
    let error = node.runtime().update(&id("eat"), new).await.unwrap_err();
    tell(&error.to_string());
    assert!(
        matches!(error, UpdateError::MemoryInUse { wanted_bytes, used_bytes, .. }
            if wanted_bytes == 16 * MIB && used_bytes > 32 * MIB),
        "{error}"
    );
    assert_eq!(memory_limit(&node, "eat"), 64 * MIB);
    assert_eq!(node.cgroup_text("pids", "eat", &["pids.max"]), "10");
    if Node::v2() {
        assert_eq!(node.cgroup_text("memory", "eat", &["memory.high"]), "max");
    }
    let record = kill(&node, "eat").await;
    assert_eq!(
        (record.oom_killed, record.memory_limit_bytes),
        (false, Some(64 * MIB))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn page_cache_makes_room_for_a_lower_limit() {
    let Some(node) = Node::new().await else {
        return;
    };
    let args = ["store", "32", "/store/file", "cached"];
    start(&node, "cache", &args, memory(128 * MIB)).await;
    node.await_output("cache", "stored").await;
    let usage = async || node.runtime().usage(&id("cache")).await.unwrap();
    let before = usage().await.memory_bytes.unwrap();
    assert!(before > 32 * MIB, "{before}");
    node.runtime()
        .update(&id("cache"), memory(16 * MIB))
        .await
        .unwrap();
    let after = usage().await.memory_bytes.unwrap();
    tell(&format!(
        "charged {before} bytes, then {after} under 16 MiB"
    ));
    assert!(after <= 16 * MIB, "{after}");
    if Node::v2() {
        assert_eq!(node.cgroup_text("memory", "cache", &["memory.high"]), "max");
    }
    let record = kill(&node, "cache").await;
    assert_eq!(
        (record.oom_killed, record.memory_limit_bytes),
        (false, Some(16 * MIB))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_container_is_slowed_down_and_let_go_again() {
    let Some(node) = Node::new().await else {
        return;
    };
    start(&node, "spin", &["share"], Limits::default()).await;
    node.await_output("spin", "pin").await;
    let throttled = || {
        let text = node.cgroup_text("cpu", "spin", &["cpu.stat"]);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled "));
        line.map_or(0, |times| times.parse::<u64>().unwrap())
    };
    assert_eq!(throttled(), 0);
    let limits = Limits {
        cpu_limit_millis: Some(100),
        ..Limits::default()
    };
    node.runtime().update(&id("spin"), limits).await.unwrap();
    until("it is throttled", || throttled() >= 3).await;
    let usage = node.runtime().usage(&id("spin")).await.unwrap();
    assert!(usage.throttled_us.unwrap() > 0, "{usage:?}");
    node.runtime()
        .update(&id("spin"), Limits::default())
        .await
        .unwrap();
    // A period that was open then may still count.
    let times = throttled();
    let used = async || {
        node.runtime()
            .usage(&id("spin"))
            .await
            .unwrap()
            .cpu_total_us
    };
    let before = used().await;
    while used().await < before + 500_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(throttled() <= times + 1, "{times} then {}", throttled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_held_back_by_memory_high_goes_on_when_that_is_raised() {
    let Some(node) = Node::new().await else {
        return;
    };
    if !Node::v2() {
        tell("skipped: needs cgroup v2 (cargo xtask vm runtime)");
        return;
    }
    let high = |bytes| Limits {
        memory_high: Some(bytes),
        ..memory(256 * MIB)
    };
    // Anonymous memory, and no swap: it can only be made to wait.
    start(&node, "eat", &["eat", "64"], high(16 * MIB)).await;
    let mut usage = node.runtime().usage(&id("eat")).await.unwrap();
    within(async {
        while usage.memory_high_events == Some(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            usage = node.runtime().usage(&id("eat")).await.unwrap();
        }
    })
    .await;
    assert_eq!(usage.oom_kills, Some(0));
    node.runtime()
        .update(&id("eat"), high(128 * MIB))
        .await
        .unwrap();
    node.await_output("eat", "full").await;
    let record = kill(&node, "eat").await;
    tell(&format!(
        "memory.high was passed {:?} times, waited {:?}",
        record.usage.memory_high_events, record.usage.memory_pressure
    ));
    assert!(!record.oom_killed);
    assert!(record.usage.memory_peak_bytes.unwrap() > 64 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_cut_short_is_not_kept() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let limits = Limits {
        pids: Some(10),
        ..memory(64 * MIB)
    };
    start(&node, "task", &["sleep"], limits).await;
    node.close();
    // As a runtime leaves it that dies between the kernel and the record.
    fs::write(node.cgroup_dir("pids", "task").join("pids.max"), "7").unwrap();
    node.open().await;
    assert_eq!(node.cgroup_text("pids", "task", &["pids.max"]), "10");
    assert_eq!(memory_limit(&node, "task"), 64 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_the_same_time_leave_one_of_them_everywhere() {
    let Some(node) = Node::new().await else {
        return;
    };
    start(&node, "task", &["sleep"], memory(64 * MIB)).await;
    let mut changes = tokio::task::JoinSet::new();
    for number in 1..=8 {
        let runtime = node.runtime().clone();
        changes.spawn(async move {
            let limits = Limits {
                pids: Some(number),
                ..memory((64 + number) * MIB)
            };
            runtime.update(&id("task"), limits).await
        });
    }
    while let Some(done) = within(changes.join_next()).await {
        done.unwrap().unwrap();
    }
    let pids = node.cgroup_number("pids", "task", &["pids.max"]);
    assert_eq!(memory_limit(&node, "task"), (64 + pids) * MIB);
    let record = kill(&node, "task").await;
    assert_eq!(record.memory_limit_bytes, Some((64 + pids) * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_changed_says_why() {
    let Some(node) = Node::new().await else {
        return;
    };
    let update = async |name: &str, limits| node.runtime().update(&id(name), limits).await;
    assert!(matches!(
        update("nobody", Limits::default()).await,
        Err(UpdateError::NotFound { .. })
    ));
    node.run("ended", node.spec(&["true"])).await;
    assert!(matches!(
        update("ended", Limits::default()).await,
        Err(UpdateError::NotRunning { .. })
    ));
    start(&node, "task", &["sleep"], Limits::default()).await;
    let field = async |limits| match update("task", limits).await {
        Err(UpdateError::BadLimits { problem, .. }) => problem.field,
        other => format!("{other:?}"),
    };
    let none = Limits {
        pids: Some(0),
        ..Limits::default()
    };
    assert_eq!(field(none).await, "limits.pids");
    let high = Limits {
        memory_high: Some(64 * MIB),
        ..Limits::default()
    };
    if Node::v2() {
        update("task", high).await.unwrap();
    } else {
        assert_eq!(field(high).await, "limits.memory_high");
    }
}
