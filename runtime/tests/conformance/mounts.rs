//! What is mounted, how, and what spreads.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use mezzo_runtime::MountSpec;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::common::{Node, id};
use crate::{inside, mounts_of, start};

/// default, mounts: the file systems that every container has, with their options.
#[tokio::test]
async fn the_standard_file_systems_are_mounted() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = start(&node, "standard", node.spec(&["sleep"])).await;
    let mounts = mounts_of(&started);
    for (target, kind, options) in [
        ("/", "overlay", &["nodev"][..]),
        ("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", &["nosuid", "noexec", "mode=755"]),
        (
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "mode=620", "ptmxmode=666"],
        ),
        ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ] {
        let found = mounts.get(target).unwrap_or_else(|| panic!("{target}"));
        assert_eq!(found.kind, kind, "{target}");
        for option in options {
            assert!(found.has(option), "{target}: {option} in {found:?}");
        }
    }
    let shared = fs::metadata(inside(&started, "/dev/shm")).unwrap();
    assert_eq!(shared.mode() & 0o7777, 0o1777);
}

/// mounts: in the order that they are given, with size and mode.
#[tokio::test]
async fn mounts_are_made_in_order_with_size_and_mode() {
    let Some(node) = Node::new().await else {
        return;
    };
    let source = node.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "from the host").unwrap();
    let mut spec = node.spec(&["sleep"]);
    spec.mounts = vec![
        MountSpec::Tmpfs {
            target: "/outer".into(),
            size_bytes: 1 << 20,
            mode: 0o1770,
        },
        // Below the one before, and so after it.
        MountSpec::Bind {
            source: source.clone(),
            target: "/outer/inner".into(),
            readonly: true,
        },
    ];
    let started = start(&node, "order", spec).await;
    let outer = inside(&started, "/outer");
    assert_eq!(fs::metadata(&outer).unwrap().mode() & 0o7777, 0o1770);
    let size = nix::sys::statvfs::statvfs(&outer).unwrap();
    assert_eq!(size.blocks() * size.fragment_size(), 1 << 20);
    let file = outer.join("inner/file");
    assert_eq!(fs::read_to_string(file).unwrap(), "from the host");
    let mounts = mounts_of(&started);
    let bound = &mounts["/outer/inner"];
    for option in ["ro", "nosuid", "nodev"] {
        assert!(bound.has(option), "{option}: {bound:?}");
    }
}

/// linux_rootfs_propagation: nothing that is mounted inside is seen outside, nor the other way round.
#[tokio::test]
async fn no_mount_of_a_container_is_shared() {
    let Some(node) = Node::new().await else {
        return;
    };
    let source = node.path().join("source");
    fs::create_dir(&source).unwrap();
    let mut spec = node.spec(&["sleep"]);
    spec.mounts = vec![MountSpec::Bind {
        source,
        target: "/bound".into(),
        readonly: false,
    }];
    let started = start(&node, "private", spec).await;
    for (target, mount) in mounts_of(&started) {
        assert_eq!(mount.propagation, Vec::<String>::new(), "{target}");
    }
}

/// mounts_recursive (rro): what is mounted below the source of a read-only bind cannot be written either.
///
/// The mounts of the test are in a mount namespace of this thread, which all that it starts inherits.
#[tokio::test]
async fn a_read_only_bind_is_read_only_all_the_way_down() {
    let Some(mut node) = Node::closed() else {
        return;
    };
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let below = node.path().join("source/below");
    fs::create_dir_all(&below).unwrap();
    mount(Some("test"), &below, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::write(below.join("file"), "x").unwrap();
    let with_bind = |node: &Node, args: &[&str], readonly| {
        let mut spec = node.spec(args);
        spec.mounts = vec![MountSpec::Bind {
            source: node.path().join("source"),
            target: "/bound".into(),
            readonly,
        }];
        spec
    };
    node.open().await;
    let started = start(&node, "sleep", with_bind(&node, &["sleep"], true)).await;
    let mounts = mounts_of(&started);
    assert!(mounts["/bound"].has("ro"));
    let deep = mounts["/bound/below"].clone();
    node.run(
        "write",
        with_bind(&node, &["touch", "/bound/below/new"], true),
    )
    .await;
    let refused = node.stdout("write");
    // The other way: that it can be written at all.
    node.run(
        "may",
        with_bind(&node, &["touch", "/bound/below/may"], false),
    )
    .await;
    assert!(below.join("may").exists());
    node.runtime()
        .stop(&id("sleep"), std::time::Duration::ZERO, libc::SIGKILL)
        .await
        .unwrap();
    nix::mount::umount2(&below, nix::mount::MntFlags::MNT_DETACH).unwrap();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(deep.has(option), "{option}: {deep:?}");
    }
    assert_eq!(refused, "/bound/below/new: Read-only file system\n");
}
