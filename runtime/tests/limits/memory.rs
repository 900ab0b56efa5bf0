//! Memory on version 2: what is taken back above `memory.high`, and what is left alone below `memory.low`.

use std::fs;
use std::time::Duration;

use mezzo_runtime::Limits;

use crate::common::{Node, id, tell, within};
use crate::{MIB, v2};

#[tokio::test(flavor = "multi_thread")]
async fn memory_above_high_is_taken_back_and_nothing_is_killed() {
    let Some(node) = Node::new().await.filter(|_| v2()) else {
        return;
    };
    let mut spec = node.with_store(node.spec(&["store", "48", "/store/file", "cached"]));
    spec.limits.memory_high = Some(16 * MIB);
    spec.limits.memory_low = Some(4 * MIB);
    node.runtime().start(&id("cache"), spec).await.unwrap();
    node.await_output("cache", "stored").await;
    let usage = node.runtime().usage(&id("cache")).await.unwrap();
    tell(&format!(
        "48 MiB written under memory.high of 16 MiB: peak {} KiB, high {:?}, stalled {:?}",
        usage.memory_peak_bytes.unwrap() / 1024,
        usage.memory_high_events,
        usage.memory_pressure
    ));
    assert!(usage.memory_high_events.unwrap() > 0, "{usage:?}");
    assert_eq!(
        (usage.oom_kills, usage.memory_oom_events),
        (Some(0), Some(0))
    );
    // It is no wall: a charge is made first and paid for after. Without it all 48 would be there.
    assert!(usage.memory_peak_bytes.unwrap() < 32 * MIB, "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn protected_memory_stays_when_memory_is_short_above_the_containers() {
    let Some(mut node) = Node::new().await.filter(|_| v2()) else {
        return;
    };
    let file = |file: &str| {
        let parent = node.config.cgroup_parent.trim_start_matches('/').to_owned();
        std::path::Path::new("/sys/fs/cgroup")
            .join(parent)
            .join(file)
    };
    let (own, all) = (file("memory.low"), file("containers/memory.low"));
    let reclaim = file("memory.reclaim");
    let carried = || [&own, &all].map(|low| fs::read_to_string(low).unwrap().trim().to_owned());
    assert_eq!(carried(), ["0", "0"]);
    for (name, low) in [("kept", Some(40 * MIB)), ("taken", None)] {
        let path = format!("/store/{name}");
        let mut spec = node.with_store(node.spec(&["store", "32", &path, "cached"]));
        spec.limits.memory_low = low;
        node.runtime().start(&id(name), spec).await.unwrap();
        node.await_output(name, "stored").await;
    }
    assert_eq!(carried(), [(40 * MIB).to_string(), (40 * MIB).to_string()]);
    let charged = async || -> [u64; 2] {
        let kept = node.runtime().usage(&id("kept")).await.unwrap();
        let taken = node.runtime().usage(&id("taken")).await.unwrap();
        [kept, taken].map(|usage| usage.memory_bytes.unwrap())
    };
    let before = charged().await;
    if reclaim.exists() && before.iter().all(|bytes| *bytes > 30 * MIB) {
        // Less than the other one has: the kernel says so if it had to give up before.
        let reclaimed = fs::write(&reclaim, (16 * MIB).to_string());
        let after = charged().await;
        tell(&format!(
            "16 MiB taken back ({reclaimed:?}): {before:?} became {after:?}"
        ));
        assert!(after[0] + MIB > before[0], "{before:?} {after:?}");
        assert!(after[1] + 8 * MIB < before[1], "{before:?} {after:?}");
    } else {
        tell(&format!("skipped: nothing to take back, {before:?}"));
    }
    // What changes while it runs, and what a runtime finds, is carried too; with the last it goes.
    let limits = |memory_low| Limits {
        memory_low,
        ..Limits::default()
    };
    node.runtime()
        .update(&id("taken"), limits(Some(2 * MIB)))
        .await
        .unwrap();
    assert_eq!(carried(), [(42 * MIB).to_string(), (42 * MIB).to_string()]);
    node.close();
    fs::write(&all, "0").unwrap();
    node.open().await;
    assert_eq!(carried(), [(42 * MIB).to_string(), (42 * MIB).to_string()]);
    for (name, left) in [("kept", 2 * MIB), ("taken", 0)] {
        let container = id(name);
        let stopped = node
            .runtime()
            .stop(&container, Duration::ZERO, libc::SIGKILL);
        within(stopped).await.unwrap();
        assert_eq!(carried(), [left.to_string(), left.to_string()], "{name}");
    }
}
