//! Start, state, signals, delete: what each does, and what it refuses.

use std::fs;
use std::time::Duration;

use mezzo_runtime::{ContainerState, Error, Exit, Rootfs, StartError};

use crate::common::{Node, alive, id, within};
use crate::start;

/// state, kill, delete of what there is not.
#[tokio::test]
async fn an_unknown_id_is_told_apart() {
    let Some(node) = Node::new().await else {
        return;
    };
    let (runtime, nobody) = (node.runtime(), id("nobody"));
    assert_eq!(runtime.status(&nobody).await.unwrap(), None);
    let refused = runtime.signal(&nobody, libc::SIGTERM).await;
    assert!(
        matches!(refused, Err(Error::NotFound { .. })),
        "{refused:?}"
    );
    let refused = runtime.wait(&nobody).await;
    assert!(
        matches!(refused, Err(Error::NotFound { .. })),
        "{refused:?}"
    );
    // Removing is idempotent: an agent that died in between asks again.
    runtime.remove(&nobody).await.unwrap();
}

/// start: of an id that runs, and of one that has ended, changes nothing.
#[tokio::test]
async fn a_second_start_is_refused_and_changes_nothing() {
    let Some(node) = Node::new().await else {
        return;
    };
    let (runtime, name) = (node.runtime(), id("once"));
    let started = start(&node, "once", node.spec(&["sleep"])).await;
    for _ in 0..2 {
        let refused = runtime.start(&name, node.spec(&["true"])).await;
        assert!(
            matches!(refused, Err(StartError::AlreadyExists { .. })),
            "{refused:?}"
        );
    }
    assert!(alive(started.pid));
    within(runtime.stop(&name, Duration::ZERO, libc::SIGKILL))
        .await
        .unwrap();
    let refused = runtime.start(&name, node.spec(&["true"])).await;
    assert!(
        matches!(refused, Err(StartError::AlreadyExists { .. })),
        "{refused:?}"
    );
    let status = runtime.status(&name).await.unwrap().unwrap();
    let ContainerState::Exited(record) = status.state else {
        panic!("{status:?}");
    };
    assert_eq!(record.exit, Exit::Signal(libc::SIGKILL));
}

/// kill, killsig: a program hears the signals that it listens to, and the kernel keeps the others from a first process;
/// SIGKILL ends it whatever it listens to.
#[tokio::test]
async fn signals_reach_the_program() {
    let Some(node) = Node::new().await else {
        return;
    };
    let runtime = node.runtime();
    start(&node, "hears", node.spec(&["graceful"])).await;
    node.await_output("hears", "ready").await;
    runtime.signal(&id("hears"), libc::SIGTERM).await.unwrap();
    let record = within(runtime.wait(&id("hears"))).await.unwrap();
    assert_eq!(record.exit, Exit::Code(3));
    let started = start(&node, "deaf", node.spec(&["ignore"])).await;
    node.await_output("deaf", "ready").await;
    for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGINT, 40] {
        runtime.signal(&id("deaf"), signal).await.unwrap();
    }
    assert!(alive(started.pid));
    runtime.signal(&id("deaf"), libc::SIGKILL).await.unwrap();
    let record = within(runtime.wait(&id("deaf"))).await.unwrap();
    assert_eq!(record.exit, Exit::Signal(libc::SIGKILL));
}

/// kill: of a signal that there is not.
#[tokio::test]
async fn a_signal_that_is_none_is_refused() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = start(&node, "one", node.spec(&["sleep"])).await;
    for signal in [0, -1, 65, 1000] {
        let refused = node.runtime().signal(&id("one"), signal).await;
        assert!(
            matches!(refused, Err(Error::BadSignal { .. })),
            "{refused:?}"
        );
    }
    assert!(alive(started.pid));
}

/// kill_no_effect: a signal to what has ended is refused, and its record stays as it is.
#[tokio::test]
async fn a_signal_to_an_ended_container_has_no_effect() {
    let Some(node) = Node::new().await else {
        return;
    };
    let before = node.run("ended", node.spec(&["exit", "7"])).await;
    let refused = node.runtime().signal(&id("ended"), libc::SIGKILL).await;
    assert!(
        matches!(refused, Err(Error::NotRunning { .. })),
        "{refused:?}"
    );
    assert_eq!(node.runtime().wait(&id("ended")).await.unwrap(), before);
    // Stopping it again gives the record again.
    let name = id("ended");
    let stopping = node.runtime().stop(&name, Duration::ZERO, libc::SIGTERM);
    assert_eq!(within(stopping).await.unwrap(), before);
}

/// delete: of what runs is refused and has no effect.
#[tokio::test]
async fn a_running_container_is_not_removed() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = start(&node, "runs", node.spec(&["sleep"])).await;
    let refused = node.runtime().remove(&id("runs")).await;
    assert!(
        matches!(refused, Err(Error::StillRunning { .. })),
        "{refused:?}"
    );
    assert!(alive(started.pid));
    let status = node.runtime().status(&id("runs")).await.unwrap().unwrap();
    assert!(matches!(status.state, ContainerState::Running { .. }));
}

/// delete_resources, delete_only_create_resources: everything that the runtime made is gone, and nothing else.
#[tokio::test]
async fn removing_takes_what_was_made_and_nothing_else() {
    let Some(node) = Node::new().await else {
        return;
    };
    let source = node.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "the caller's").unwrap();
    let mut spec = node.spec(&["touch", "/made"]);
    spec.mounts = vec![mezzo_runtime::MountSpec::Bind {
        source: source.clone(),
        target: "/bound".into(),
        readonly: false,
    }];
    let Rootfs::Overlay { upper, .. } = spec.rootfs.clone() else {
        panic!("an overlay");
    };
    node.run("gone", spec).await;
    let folder = node.config.state_dir.join("containers/gone");
    assert!(folder.exists(), "{}", folder.display());
    let controllers = ["memory", "cpu", "pids", "devices", "freezer"];
    for controller in controllers {
        assert!(
            !node.cgroup_dir(controller, "gone").exists(),
            "{controller}"
        );
    }
    node.runtime().remove(&id("gone")).await.unwrap();
    assert!(!folder.exists());
    assert_eq!(node.runtime().status(&id("gone")).await.unwrap(), None);
    assert!(
        upper.join("made").exists(),
        "the writable layer is the caller's"
    );
    assert_eq!(
        fs::read_to_string(source.join("file")).unwrap(),
        "the caller's"
    );
    assert!(node.image().join("bin/probe").exists());
    // The id is free again.
    node.run("gone", node.spec(&["true"])).await;
}
