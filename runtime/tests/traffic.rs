//! What a container sends and receives is told while it runs and at its end, to the byte, also when its end is near;
//! who shares the host's network has no figures of its own. The links are made in the container's own namespace and go
//! with it.

#![expect(clippy::unwrap_used, reason = "test helpers")]

mod common;

use std::fs::{self, File};
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use common::{Node, id, tell, within};
use mezzo_runtime::{Network, Traffic};
use nix::sched::{CloneFlags, setns};

const DATAGRAMS: u64 = 50;
/// Ethernet, IP and UDP before 1,000 bytes.
const FRAME: u64 = 14 + 20 + 8 + 1000;

/// Runs something in a process's network namespace, on a thread that ends with it.
fn in_network_of<T: Send + 'static>(pid: i32, act: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        act()
    })
    .join()
    .unwrap()
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {words}: {done:?}");
}

/// Two ends of a cable, and datagrams from one to the other. (Nobody else speaks: IPv6 would announce itself.)
fn send_datagrams() {
    for name in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    }
    ip("link add left type veth peer name right");
    ip("link set right up");
    ip("link set left up");
    ip("address add 10.9.0.1/24 dev left");
    ip("neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev left nud permanent");
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    for _ in 0..DATAGRAMS {
        assert_eq!(
            socket.send_to(&[0; 1000], "10.9.0.2:9").unwrap() as u64,
            1000
        );
    }
}

/// Descriptors of this process on a process's network figures.
fn kept(pid: i32) -> Vec<String> {
    let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
    all.filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|path| path.display().to_string())
        .filter(|path| path == &format!("/proc/{pid}/net/dev"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_network_of_its_own_carries_is_told_to_the_byte() {
    let Some(node) = Node::new().await else {
        return;
    };
    if Command::new("ip").arg("-V").output().is_err() {
        tell("skipped: there is no `ip`");
        return;
    }
    let runtime = node.runtime();
    let mut spec = node.spec(&["sleep"]);
    spec.network = Network::None;
    let started = runtime.start(&id("talks"), spec).await.unwrap();
    let quiet = runtime.usage(&id("talks")).await.unwrap();
    assert_eq!(quiet.traffic, Some(Traffic::default()));
    assert_eq!(kept(started.pid).len(), 1);
    in_network_of(started.pid, send_datagrams);
    let expected = Traffic {
        rx_bytes: DATAGRAMS * FRAME,
        rx_packets: DATAGRAMS,
        tx_bytes: DATAGRAMS * FRAME,
        tx_packets: DATAGRAMS,
        ..Traffic::default()
    };
    common::until("all datagrams have arrived", || {
        let text = fs::read_to_string(format!("/proc/{}/net/dev", started.pid)).unwrap();
        text.lines()
            .filter(|line| !line.trim_start().starts_with("lo:"))
            .filter(|line| line.contains(&format!(" {} ", DATAGRAMS * FRAME)))
            .count()
            == 2
    })
    .await;
    let live = runtime.usage(&id("talks")).await.unwrap();
    assert_eq!(live.traffic, Some(expected));
    let record = within(runtime.stop(&id("talks"), Duration::ZERO, libc::SIGKILL))
        .await
        .unwrap();
    assert_eq!(record.usage.traffic, Some(expected));
    // Who kept a descriptor would keep the namespace and the links in it.
    assert_eq!(kept(started.pid), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shortest_task_is_told_and_the_hosts_network_is_nobodys() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["exit", "0"]);
    spec.network = Network::None;
    let record = node.run("short", spec).await;
    assert_eq!(record.usage.traffic, Some(Traffic::default()));
    let mut spec = node.spec(&["sleep"]);
    spec.network = Network::Host;
    node.runtime().start(&id("host"), spec).await.unwrap();
    let (samples, _) = node.runtime().usage_of(&[id("host"), id("nobody")]);
    assert_eq!(samples.len(), 1);
    assert!(samples[0].1.memory_bytes.is_some() && samples[0].1.traffic.is_none());
    let record = within(
        node.runtime()
            .stop(&id("host"), Duration::ZERO, libc::SIGKILL),
    )
    .await
    .unwrap();
    assert_eq!(record.usage.traffic, None);
}
