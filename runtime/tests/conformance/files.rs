//! The root file system: what is in /dev, what of /proc and /sys is hidden or read-only.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use mezzo_runtime::Exit;

use crate::common::Node;
use crate::{inside, mounts_of, start};

/// root_readonly_true, and its opposite.
#[tokio::test]
async fn the_root_is_writable_unless_asked_otherwise() {
    let Some(node) = Node::new().await else {
        return;
    };
    assert_eq!(
        node.run("writable", node.spec(&["touch", "/new"]))
            .await
            .exit,
        Exit::Code(0)
    );
    let mut spec = node.spec(&["touch", "/new"]);
    spec.readonly_rootfs = true;
    assert_eq!(node.run("refused", spec).await.exit, Exit::Code(1));
    let mut spec = node.spec(&["sleep"]);
    spec.readonly_rootfs = true;
    let started = start(&node, "readonly", spec).await;
    assert!(mounts_of(&started)["/"].has("ro"));
}

/// linux_devices, default devices: these and no others, with the right numbers, for everybody.
#[tokio::test]
async fn the_standard_devices_and_links_are_there() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = start(&node, "devices", node.spec(&["sleep"])).await;
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ] {
        let found = fs::metadata(inside(&started, &format!("/dev/{name}"))).unwrap();
        assert!(found.file_type().is_char_device(), "{name}");
        let device = found.rdev();
        assert_eq!(
            (nix::sys::stat::major(device), nix::sys::stat::minor(device)),
            (major, minor),
            "{name}"
        );
        assert_eq!(found.mode() & 0o777, 0o666, "{name}");
        assert_eq!((found.uid(), found.gid()), (0, 0), "{name}");
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let found = fs::read_link(inside(&started, &format!("/dev/{name}"))).unwrap();
        assert_eq!(found, PathBuf::from(target), "{name}");
    }
    let ptmx = fs::read_link(inside(&started, "/dev/ptmx")).unwrap();
    assert!(ptmx.ends_with("pts/ptmx"), "{}", ptmx.display());
    let known: BTreeSet<&str> = [
        "null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr",
        "ptmx", "pts", "shm", "mqueue", "core", "kcore", "console",
    ]
    .into();
    for entry in fs::read_dir(inside(&started, "/dev")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(known.contains(name.to_str().unwrap()), "{}", name.display());
    }
}

/// linux_masked_paths: files read as empty, directories have nothing in them and take nothing.
#[tokio::test]
async fn hidden_paths_show_nothing() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = start(&node, "masked", node.spec(&["sleep"])).await;
    let mounts = mounts_of(&started);
    let mut n_found = 0;
    for path in [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ] {
        if !fs::exists(path).unwrap() {
            continue;
        }
        n_found += 1;
        assert!(mounts.contains_key(path), "{path} is covered");
        let seen = inside(&started, path);
        if fs::metadata(path).unwrap().is_dir() {
            assert_eq!(fs::read_dir(&seen).unwrap().count(), 0, "{path}");
            assert!(mounts[path].has("ro"), "{path}");
        } else {
            // The null device: it can be read, and there is nothing.
            assert_eq!(fs::read(&seen).unwrap(), b"", "{path}");
        }
    }
    assert!(n_found > 3, "this kernel has {n_found} of them");
}

/// linux_readonly_paths.
#[tokio::test]
async fn read_only_paths_take_nothing() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = start(&node, "paths", node.spec(&["sleep"])).await;
    let mounts = mounts_of(&started);
    for path in [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ] {
        if fs::exists(path).unwrap() {
            assert!(mounts[path].has("ro"), "{path}: {:?}", mounts.get(path));
        }
    }
    assert!(mounts["/sys"].has("ro"));
    let name = "/proc/sys/kernel/core_pattern";
    node.run("write", node.spec(&["touch", name])).await;
    assert_eq!(
        node.stdout("write"),
        format!("{name}: Read-only file system\n")
    );
}
