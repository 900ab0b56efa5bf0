//! Containers with users of their own: root inside is nobody outside, files keep their owners on disk, volumes too,
//! and what root of a container makes is root's inside and nobody's outside.

#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use common::{BOTH, Node, id, spec_as, within};
use mezzo_runtime::{
    ContainerSpec, ContainerState, DeviceSpec, Exit, MountSpec, Network, Rootfs, StartError,
    UserNamespace, UserRanges,
};

/// What the probe does, in a container with users of its own.
fn own(node: &Node, args: &[&str]) -> ContainerSpec {
    let mut spec = node.spec(args);
    spec.user_namespace = UserNamespace::Own;
    spec
}

/// The user of a running container's first process, as the host numbers users.
async fn on_host(node: &Node, name: &str) -> u32 {
    let status = node.runtime().status(&id(name)).await.unwrap().unwrap();
    let ContainerState::Running { pid, .. } = status.state else {
        panic!("{:?}", status.state);
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_of_a_container_is_nobody_on_the_host_nor_in_another() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime().user_namespaces().unwrap();
    let first = UserRanges::default().first;
    for (name, expected) in [("one", first), ("two", first + 65_536)] {
        node.runtime()
            .start(&id(name), own(&node, &["sleep"]))
            .await
            .unwrap();
        assert_eq!(on_host(&node, name).await, expected, "{name}");
    }
    // A range is free again when its container is forgotten.
    let ended = within(
        node.runtime()
            .stop(&id("one"), std::time::Duration::ZERO, 9),
    )
    .await;
    ended.unwrap();
    node.runtime().remove(&id("one")).await.unwrap();
    node.runtime()
        .start(&id("three"), own(&node, &["sleep"]))
        .await
        .unwrap();
    assert_eq!(on_host(&node, "three").await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_on_record_is_taken_after_a_restart() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("before"), own(&node, &["sleep"]))
        .await
        .unwrap();
    node.open().await;
    node.runtime()
        .start(&id("after"), own(&node, &["sleep"]))
        .await
        .unwrap();
    assert_ne!(
        on_host(&node, "before").await,
        on_host(&node, "after").await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_the_owners_of_the_image_inside_and_keep_them_on_disk() {
    let Some(node) = Node::new().await else {
        return;
    };
    let image = node.image();
    fs::write(image.join("etc/secret"), "").unwrap();
    chown(image.join("etc/secret"), Some(1000), Some(1001)).unwrap();
    // A second layer, on the same mount, and a third beside them.
    let above = node.path().join("above");
    fs::create_dir_all(above.join("srv")).unwrap();
    chown(above.join("srv"), Some(7), Some(7)).unwrap();
    let mut spec = own(
        &node,
        &[
            "owner",
            "/",
            "/etc/secret",
            "/srv",
            "/bin/probe",
            "/made/here",
            "/proc",
            "/dev",
            "/dev/shm",
        ],
    );
    spec.cwd = "/made/here".into();
    let Rootfs::Overlay { lowers, upper, .. } = &mut spec.rootfs else {
        panic!("no overlay");
    };
    lowers.insert(0, above);
    let upper = upper.clone();
    let record = node.run("files", spec).await;
    assert_eq!(record.exit, Exit::Code(0), "{}", node.stdout("files"));
    let inside = node.stdout("files");
    for line in [
        "/ 0:0",
        "/etc/secret 1000:1001",
        "/srv 7:7",
        "/bin/probe 0:0",
        "/made/here 0:0",
        "/dev 0:0",
        "/dev/shm 0:0",
    ] {
        assert!(
            inside.lines().any(|found| found == line),
            "{line}: {inside}"
        );
    }
    let owner = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().uid();
    assert_eq!(owner(&image.join("etc/secret")), 1000);
    assert_eq!(owner(&upper.join("made/here")), UserRanges::default().first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_the_same_inside_and_on_the_host() {
    let Some(node) = Node::new().await else {
        return;
    };
    let (data, file) = (node.path().join("data"), node.path().join("hosts"));
    fs::create_dir(&data).unwrap();
    fs::write(&file, "127.0.0.1 localhost\n").unwrap();
    fs::write(data.join("old"), "").unwrap();
    chown(data.join("old"), Some(42), Some(42)).unwrap();
    let bind = |source: &std::path::Path, target: &str, readonly| MountSpec::Bind {
        source: source.to_owned(),
        target: target.into(),
        readonly,
    };
    let mut spec = own(&node, &["owner", "/data/old", "/etc/hosts", "/data"]);
    spec.mounts = vec![
        bind(&data, "/data", false),
        MountSpec::Tmpfs {
            target: "/scratch".into(),
            size_bytes: 1 << 20,
            mode: 0o700,
        },
        bind(&file, "/etc/hosts", true),
    ];
    let mut write = spec.clone();
    node.run("look", spec).await;
    assert_eq!(
        node.stdout("look"),
        "/data/old 42:42\n/etc/hosts 0:0\n/data 0:0\n"
    );

    write.args = ["/bin/probe", "touch", "/data/new"]
        .map(str::to_owned)
        .to_vec();
    let mut refused = write.clone();
    node.run("write", write).await;
    assert_eq!(node.stdout("write"), "/data/new: ok\n");
    assert_eq!(fs::metadata(data.join("new")).unwrap().uid(), 0);
    refused.args[2] = "/etc/hosts".into();
    node.run("refused", refused).await;
    assert_eq!(
        node.stdout("refused"),
        "/etc/hosts: Read-only file system\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_over_is_the_users_inside_and_on_disk() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (name, users) in BOTH {
        let (data, beside) = (node.path().join(name), node.path().join("beside"));
        fs::create_dir_all(data.join("bin")).unwrap();
        fs::write(data.join("bin/tool"), "").unwrap();
        fs::write(&beside, "").unwrap();
        std::os::unix::fs::symlink(&beside, data.join("out")).unwrap();
        let mut spec = spec_as(&node, users, &["owner", "/data", "/data/bin/tool"]);
        // A name that only the image's `/etc/passwd` has.
        spec.user = "web".parse().unwrap();
        spec.mounts = vec![MountSpec::Bind {
            source: data.clone(),
            target: "/data".into(),
            readonly: false,
        }];
        spec.handed_over = vec![data.clone()];
        // Nobody else gets in, not even to look.
        fs::set_permissions(data.join("bin"), PermissionsExt::from_mode(0o700)).unwrap();
        node.run(name, spec).await;
        assert_eq!(
            node.stdout(name),
            "/data 0:0\n/data/bin/tool 1000:1001\n",
            "{name}"
        );
        let owner = |path: &std::path::Path| {
            let about = fs::symlink_metadata(path).unwrap();
            (about.uid(), about.gid())
        };
        assert_eq!(owner(&data.join("bin/tool")), (1000, 1001), "{name}");
        assert_eq!(owner(&data.join("out")), (1000, 1001), "{name}");
        assert_eq!(owner(&beside), (0, 0), "{name}");
    }
    let mut spec = node.spec(&["true"]);
    spec.user = "web".parse().unwrap();
    spec.handed_over = vec!["relative".into()];
    match node.runtime().start(&id("no"), spec).await {
        Err(StartError::BadSpec { problem, .. }) => assert_eq!(problem.field, "handed_over[0]"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn walls_networks_and_executions_are_the_same_with_own_users() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = own(&node, &["attack"]);
    spec.network = Network::None;
    node.run("attack", spec).await;
    let attack = node.stdout("attack");
    for what in ["mknod", "mount", "setns", "bpf", "sethostname"] {
        let line = attack.lines().find(|line| line.starts_with(what)).unwrap();
        assert!(!line.ends_with("ok"), "{attack}");
    }
    for what in ["null", "random"] {
        assert!(attack.contains(&format!("{what}: ok")), "{attack}");
    }
    // By a user of the image, whose output is a pipe that it opens anew.
    let mut spec = own(&node, &["reopen"]);
    spec.user = "web".parse().unwrap();
    let record = node.run("reopen", spec).await;
    assert_eq!(record.exit, Exit::Code(0), "{}", node.stdout("reopen"));
    assert!(node.stdout("reopen").contains("written"));

    node.runtime()
        .start(&id("exec"), own(&node, &["sleep"]))
        .await
        .unwrap();
    let exec = |args: &[&str]| mezzo_runtime::ExecSpec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        cwd: None,
        user: None,
        terminal: None,
    };
    let status = exec(&["/bin/probe", "status"]);
    let mut session = node.runtime().exec(&id("exec"), status).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut session.stdout, &mut text)
        .await
        .unwrap();
    assert!(text.contains("Uid:\t0\t0\t0\t0"), "{text}");
    within(session.wait()).await.unwrap();

    // What is executed is nobody's on the host either, in a network of its own or not.
    let mut alone = own(&node, &["sleep"]);
    alone.network = Network::None;
    node.runtime().start(&id("alone"), alone).await.unwrap();
    for name in ["exec", "alone"] {
        let sleeping = exec(&["/bin/probe", "sleep"]);
        let _session = node.runtime().exec(&id(name), sleeping).await.unwrap();
        let pids = fs::read_to_string(node.cgroup_dir("pids", name).join("cgroup.procs")).unwrap();
        assert_eq!(pids.lines().count(), 2, "{name}: {pids}");
        for pid in pids.lines() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t"));
            let first: u32 = uid.unwrap().split('\t').next().unwrap().parse().unwrap();
            assert!(first >= UserRanges::default().first, "{name}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_the_hosts_users_says_so() {
    let Some(node) = Node::new().await else {
        return;
    };
    let refused = async |spec: ContainerSpec| match node.runtime().start(&id("no"), spec).await {
        Err(StartError::BadSpec { problem, .. }) => (problem.field, problem.problem),
        other => panic!("{other:?}"),
    };
    let mut spec = own(&node, &["true"]);
    spec.privileged = true;
    assert_eq!(refused(spec).await.0, "user_namespace");
    let mut spec = own(&node, &["true"]);
    spec.devices = vec![DeviceSpec {
        source: "/dev/zero".into(),
        target: "/dev/card".into(),
    }];
    assert_eq!(refused(spec).await.0, "user_namespace");
    let mut spec = own(&node, &["true"]);
    spec.user = "70000".parse().unwrap();
    let (field, problem) = refused(spec).await;
    assert_eq!(field, "user");
    assert!(problem.contains("70000"), "{problem}");
}
