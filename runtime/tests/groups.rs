//! Groups on real containers: what the members share, what is each one's own, and that all of it goes with the last.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod common;

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use common::{BOTH, Node, alive, chain, id, kill, output, probe_in, until, within};
use mezzo_runtime::{
    ContainerSpec, Exit, GroupPart, Limits, MountSpec, Network, Rootfs, StartError, UserNamespace,
};

/// A holder with a network of its own, or another.
fn holder(users: UserNamespace, network: Network) -> ContainerSpec {
    let limits = Limits {
        memory_bytes: Some(96 << 20),
        pids: Some(100),
        ..Limits::default()
    };
    let mut spec = ContainerSpec::holder(limits, network, &[("scratch".to_owned(), 1 << 20)]);
    spec.user_namespace = users;
    spec
}

fn member(node: &Node, of: &str, network: Network, args: &[&str]) -> ContainerSpec {
    let mut spec = node.spec(args);
    spec.group = Some(GroupPart::Member { of: id(of) });
    spec.network = network;
    spec.hostname = Some("pod".to_owned());
    spec.mounts.push(MountSpec::Shared {
        volume: "scratch".to_owned(),
        target: "/scratch".into(),
        readonly: false,
    });
    spec
}

async fn start(node: &Node, name: &str, spec: ContainerSpec) -> i32 {
    let started = node.runtime().start(&id(name), spec).await;
    started
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
        .pid
}

async fn end(node: &Node, name: &str) {
    let id = id(name);
    within(node.runtime().stop(&id, Duration::ZERO, 9))
        .await
        .unwrap();
}

/// What a member's own loopback address answers on port 8080.
async fn asked_through(node: &Node, name: &str) -> String {
    let to = "127.0.0.1:8080".parse::<std::net::SocketAddr>().unwrap();
    let socket = node.runtime().tcp_socket(&id(name), to.ip()).await.unwrap();
    let socket = tokio::net::TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    let stream: TcpStream = within(socket.connect(to))
        .await
        .unwrap()
        .into_std()
        .unwrap();
    stream.set_nonblocking(false).unwrap();
    let (mut stream, mut text) = (stream, String::new());
    stream.read_to_string(&mut text).unwrap();
    text
}

fn namespace(pid: i32, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    link.display().to_string()
}

#[tokio::test]
async fn members_share_network_ipc_memory_users_and_a_cgroup_and_nothing_else() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (word, users) in BOTH {
        if users == UserNamespace::Own && node.runtime().user_namespaces().is_err() {
            continue;
        }
        let named = |name: &str| format!("{name}-{word}");
        let (group, one, two) = (named("group"), named("one"), named("two"));
        let held = start(&node, &group, holder(users, Network::None)).await;
        let serve = member(&node, &group, Network::None, &["serve", "tcp4", "8080"]);
        let first = start(&node, &one, serve).await;
        let sleep = member(&node, &group, Network::None, &["sleep"]);
        let second = start(&node, &two, sleep).await;
        for shared in ["net", "ipc", "user"] {
            let all = [held, first, second].map(|pid| namespace(pid, shared));
            assert!(all.iter().all(|one| *one == all[0]), "{shared}: {all:?}");
        }
        for own in ["pid", "mnt", "uts", "cgroup"] {
            assert_ne!(namespace(first, own), namespace(second, own), "{own}");
        }
        node.await_output(&one, "ready").await;
        assert!(
            !asked_through(&node, &two).await.is_empty(),
            "over loopback"
        );

        output(&node, &one, probe_in(&["touch", "/dev/shm/x"])).await;
        output(&node, &one, probe_in(&["touch", "/scratch/y"])).await;
        output(&node, &one, probe_in(&["touch", "/tmp/z"])).await;
        let seen = |path: &'static str| {
            let (node, two) = (&node, &two);
            async move { output(node, two, probe_in(&["owner", path])).await }
        };
        assert_eq!(seen("/dev/shm/x").await, "/dev/shm/x 0:0\n");
        assert_eq!(seen("/scratch/y").await, "/scratch/y 0:0\n");
        assert!(
            !seen("/tmp/z").await.contains("0:0"),
            "roots are not shared"
        );
        let place = output(&node, &two, probe_in(&["where"])).await;
        assert!(place.contains("host pod"), "{place}");

        // The group's limit is above the members', who have none of their own here.
        let files = ["memory.max", "memory.limit_in_bytes"];
        assert_eq!(node.cgroup_number("memory", &group, &files), 96 << 20);
        let inside = format!("{group}/{two}");
        assert!(node.cgroup_dir("memory", &inside).is_dir());

        let still_needed = node.runtime().remove(&id(&group)).await;
        assert!(still_needed.is_err());
        for name in [&one, &two, &group] {
            end(&node, name).await;
        }
        until("the group's cgroup is gone", || {
            !node.cgroup_dir("memory", &group).exists()
        })
        .await;
        for name in [&one, &two, &group] {
            node.runtime().remove(&id(name)).await.unwrap();
        }
    }
}

/// What tells the two apart: events at the member's own limit on version 2, its peak on version 1.
#[tokio::test]
async fn a_member_killed_for_the_groups_limit_was_not_at_its_own() {
    let Some(node) = Node::new().await else {
        return;
    };
    let own = 200 << 20;
    start(&node, "group", holder(UserNamespace::Host, Network::None)).await;
    let mut eater = member(&node, "group", Network::None, &["eat", "150"]);
    eater.limits.memory_bytes = Some(own);
    start(&node, "eater", eater).await;
    let record = within(node.runtime().wait(&id("eater"))).await.unwrap();
    assert_eq!((&record.exit, record.oom_killed), (&Exit::Signal(9), true));
    assert_eq!(record.memory_limit_bytes, Some(own));
    let usage = &record.usage;
    assert!(usage.memory_peak_bytes.unwrap() <= 96 << 20, "{usage:?}");
    let events = Node::v2().then_some(0);
    assert_eq!(usage.memory_oom_events, events, "{usage:?}");
    end(&node, "group").await;
}

#[tokio::test]
async fn a_group_outlives_its_runtime_its_members_and_the_launcher() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let users = match node.runtime().user_namespaces() {
        Ok(()) => UserNamespace::Own,
        Err(_) => UserNamespace::Host,
    };
    start(&node, "group", holder(users, Network::None)).await;
    let serve = member(&node, "group", Network::None, &["serve", "tcp4", "8080"]);
    let first = start(&node, "one", serve).await;
    node.await_output("one", "ready").await;
    let launcher = node.runtime().launcher_pid().await.unwrap();
    kill(i32::try_from(launcher).unwrap());
    node.open().await;
    assert!(alive(first));
    // A member that joins after the restart shares the same, and the end of the first leaves it alone.
    let sleep = member(&node, "group", Network::None, &["sleep"]);
    let second = start(&node, "two", sleep.clone()).await;
    assert_eq!(namespace(first, "net"), namespace(second, "net"));
    assert!(!asked_through(&node, "two").await.is_empty());
    kill(first);
    within(node.runtime().wait(&id("one"))).await.unwrap();
    assert!(alive(second));
    // Without its holder a group takes nobody, and those that run go on until somebody ends them.
    end(&node, "group").await;
    assert!(alive(second));
    let refused = node.runtime().start(&id("three"), sleep).await.unwrap_err();
    assert!(chain(&refused).contains("has ended"), "{}", chain(&refused));
    end(&node, "two").await;
    until("the group's cgroup is gone", || {
        !node.cgroup_dir("memory", "group").exists()
    })
    .await;
    assert!(
        node.leftovers()
            .iter()
            .all(|left| !left.starts_with("mount"))
    );
}

#[tokio::test]
async fn what_makes_no_group_is_refused_with_the_field() {
    let Some(node) = Node::new().await else {
        return;
    };
    let refused = |name: &'static str, spec| {
        let node = &node;
        async move {
            match node.runtime().start(&id(name), spec).await {
                Err(StartError::BadSpec { problem, .. }) => problem.field,
                other => panic!("{other:?}"),
            }
        }
    };
    let lonely = member(&node, "nobody", Network::None, &["true"]);
    assert_eq!(refused("a", lonely).await, "group");
    let mut empty = node.spec(&["true"]);
    empty.rootfs = Rootfs::Empty;
    assert_eq!(refused("b", empty).await, "rootfs");
    start(&node, "group", holder(UserNamespace::Host, Network::None)).await;
    let other_network = member(&node, "group", Network::Host, &["true"]);
    assert_eq!(refused("c", other_network).await, "network");
    let mut no_volume = member(&node, "group", Network::None, &["true"]);
    no_volume.mounts = vec![MountSpec::Shared {
        volume: "other".to_owned(),
        target: "/other".into(),
        readonly: true,
    }];
    assert_eq!(refused("d", no_volume).await, "mounts[0].volume");
    let group = id("group");
    let record = within(node.runtime().stop(&group, Duration::ZERO, 15)).await;
    assert_eq!(record.unwrap().exit, Exit::Signal(9));
}
