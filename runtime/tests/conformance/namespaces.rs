//! Namespaces, and what is named in them.

use std::fs;
use std::path::PathBuf;

use mezzo_runtime::{Network, StartError, Started};

use crate::common::{Node, id};
use crate::start;

fn namespace(pid: &str, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

fn of(started: &Started, kind: &str) -> PathBuf {
    namespace(&started.pid.to_string(), kind)
}

/// linux_ns_nopath, linux_ns_itype: new ones for what is asked for, the host's for the rest.
#[tokio::test]
async fn each_container_has_namespaces_of_its_own() {
    let Some(node) = Node::new().await else {
        return;
    };
    let one = start(&node, "one", node.spec(&["sleep"])).await;
    let mut spec = node.spec(&["sleep"]);
    spec.network = Network::None;
    let two = start(&node, "two", spec).await;
    for kind in ["pid", "mnt", "ipc", "uts", "cgroup"] {
        let host = namespace("self", kind);
        assert_ne!(of(&one, kind), host, "{kind}");
        assert_ne!(of(&two, kind), host, "{kind}");
        assert_ne!(of(&one, kind), of(&two, kind), "{kind}");
    }
    for kind in ["user", "time"] {
        assert_eq!(of(&one, kind), namespace("self", kind), "{kind}");
    }
    assert_eq!(
        of(&one, "net"),
        namespace("self", "net"),
        "the host's network"
    );
    assert_ne!(
        of(&two, "net"),
        namespace("self", "net"),
        "a network of its own"
    );
}

/// hostname: the one asked for, or the id; the host keeps its own.
#[tokio::test]
async fn the_host_name_is_set_inside_only() {
    let Some(node) = Node::new().await else {
        return;
    };
    let before = nix::unistd::gethostname().unwrap();
    let mut spec = node.spec(&["where"]);
    spec.hostname = Some("asked-for".to_owned());
    node.run("named", spec).await;
    assert!(node.stdout("named").contains(" host asked-for "));
    node.run("by-id", node.spec(&["where"])).await;
    assert!(node.stdout("by-id").contains(" host by-id "));
    for (name, hostname) in [("long", "l".repeat(64)), ("empty", String::new())] {
        let mut spec = node.spec(&["where"]);
        spec.hostname = Some(hostname);
        let refused = node.runtime().start(&id(name), spec).await;
        assert!(
            matches!(refused, Err(StartError::BadSpec { .. })),
            "{name}: {refused:?}"
        );
    }
    assert_eq!(nix::unistd::gethostname().unwrap(), before);
}

/// The cgroup namespace hides where the container is.
#[tokio::test]
async fn a_container_sees_its_cgroup_as_the_root() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.run("cgroup", node.spec(&["cat", "/proc/self/cgroup"]))
        .await;
    let told = node.stdout("cgroup");
    assert!(!told.is_empty());
    for line in told.lines() {
        assert!(line.ends_with(":/"), "{told}");
    }
}
