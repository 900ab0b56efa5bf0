//! What a container must not be able to see or do.

#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::{Node, id, output, probe_in, within};
use mezzo_runtime::{DeviceSpec, Exit, MountSpec, Network, StartError, UserNamespace};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap()
        .trim()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_cannot_reach_past_its_walls() {
    let Some(node) = Node::new().await else {
        return;
    };
    // A device file that an image brings along: the root file system's own device, which is a disk here.
    let disk = fs::metadata("/").unwrap().dev();
    let device = node.image().join("dev/disk-from-host");
    let kind = nix::sys::stat::SFlag::S_IFBLK;
    nix::sys::stat::mknod(
        &device,
        kind,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        disk,
    )
    .unwrap();
    node.run(
        "attack",
        node.spec(&["attack", &nix::sys::stat::major(disk).to_string()]),
    )
    .await;
    let out = node.stdout("attack");
    let answer = |what: &str| {
        let line = out
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{what}: ")));
        line.unwrap_or_else(|| panic!("{what} in {out}")).to_owned()
    };
    for refused in [
        "mknod",
        "mount",
        "unshare user",
        "clone user",
        "raw socket",
        "vsock",
        "setns",
        "bpf",
        "keyctl",
        "sethostname",
    ] {
        assert_eq!(answer(refused), "Operation not permitted", "{refused}");
    }
    assert_eq!(
        answer("open disk"),
        "No such file or directory",
        "/dev is the container's own"
    );
    for readonly in ["write sysctl", "sysrq", "write sys"] {
        assert!(
            answer(readonly).contains("Read-only") || answer(readonly).contains("No such"),
            "{readonly}: {}",
            answer(readonly)
        );
    }
    assert_eq!(answer("kcore size"), "0", "masked");
    assert_eq!(
        (answer("null"), answer("random")),
        ("ok".into(), "ok".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_file_in_an_image_cannot_be_opened_even_with_mknod() {
    let Some(node) = Node::new().await else {
        return;
    };
    let disk = fs::metadata("/").unwrap().dev();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::sys::stat::mknod(
        &node.image().join("disk"),
        nix::sys::stat::SFlag::S_IFBLK,
        mode,
        disk,
    )
    .unwrap();
    node.run("open", node.spec(&["cat", "/disk"])).await;
    assert_eq!(node.stdout("open"), "/disk: Permission denied\n");
    // What is bound into /dev, which is not `nodev`, is `nodev` all the same, whatever the capabilities.
    let mut spec = node.spec(&["attack", &nix::sys::stat::major(disk).to_string()]);
    spec.capabilities_add.push("MKNOD".into());
    spec.mounts.push(MountSpec::Bind {
        source: "/dev/null".into(),
        target: "/dev/disk-from-host".into(),
        readonly: false,
    });
    node.run("null", spec).await;
    assert!(
        node.stdout("null").contains("open disk: Permission denied"),
        "a bound device is nodev: {}",
        node.stdout("null")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_device_but_the_usual_and_those_given_is_made_or_opened_where_nothing_else_refuses_it() {
    let Some(node) = Node::new().await else {
        return;
    };
    // Numbers for local use, which no driver has: who gets past the filter hears that there is no such device.
    let local = |path: &std::path::Path, minor| {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(path, SFlag::S_IFCHR, mode, makedev(61, minor)).unwrap();
    };
    let card = node.path().join("card");
    local(&card, 7);
    let mut spec = node.spec(&["sleep"]);
    spec.user_namespace = UserNamespace::Host;
    spec.capabilities_add.push("MKNOD".into());
    spec.devices.push(DeviceSpec {
        source: card,
        target: "/dev/card".into(),
    });
    let started = node.runtime().start(&id("held"), spec).await.unwrap();
    // Its /dev is not `nodev`, and this can be done by who has MKNOD: the same calls are refused for other numbers.
    let made = |name: &str, major: &str, minor: &str| {
        output(&node, "held", probe_in(&["device", name, major, minor]))
    };
    for (name, major, minor, answer) in [
        ("/dev/null2", "1", "3", "made: ok\nopen: ok\n"),
        (
            "/dev/card2",
            "61",
            "7",
            "made: ok\nopen: No such device or address\n",
        ),
        (
            "/dev/other",
            "61",
            "8",
            "made: Operation not permitted\nopen: No such file or directory\n",
        ),
    ] {
        assert_eq!(made(name, major, minor).await, answer, "{name}");
    }
    // One that somebody else has made there cannot be opened.
    local(format!("/proc/{}/root/dev/other", started.pid).as_ref(), 8);
    for (name, answer) in [
        ("/dev/card", "No such device or address"),
        ("/dev/other", "Operation not permitted"),
    ] {
        let said = output(&node, "held", probe_in(&["touch", name])).await;
        assert_eq!(said, format!("{name}: {answer}\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileges_are_cut_down_and_filtered() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.run("status", node.spec(&["status"])).await;
    let status = node.stdout("status");
    assert_eq!(field(&status, "NoNewPrivs:"), "1");
    assert_eq!(field(&status, "Seccomp:"), "2");
    assert_eq!(field(&status, "CapInh:"), "0000000000000000");
    assert_eq!(field(&status, "CapAmb:"), "0000000000000000");
    let bounding = u64::from_str_radix(field(&status, "CapBnd:"), 16).unwrap();
    assert_eq!(bounding.count_ones(), 10, "{bounding:x}");
    assert_eq!(field(&status, "CapEff:"), field(&status, "CapBnd:"));
    assert_eq!(
        field(&status, "SigIgn:"),
        "0000000000000000",
        "nothing that the supervisors ignore"
    );
    assert_eq!(field(&status, "SigBlk:"), "0000000000000000");
    assert_eq!(field(&status, "Groups:"), "");
    let mut spec = node.spec(&["status"]);
    spec.user = "web".parse().unwrap();
    node.run("web", spec).await;
    let status = node.stdout("web");
    assert_eq!(
        field(&status, "CapEff:"),
        "0000000000000000",
        "capabilities are for root"
    );
    assert_eq!(
        field(&status, "Uid:").split_whitespace().next(),
        Some("1000")
    );
    assert_eq!(field(&status, "Groups:"), "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_descriptor_of_the_host_is_visible() {
    let Some(node) = Node::new().await else {
        return;
    };
    let _open = fs::File::open("/etc/passwd").unwrap();
    node.run("fds", node.spec(&["fds"])).await;
    let out = node.stdout("fds");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert_eq!(lines[0], "fd 0 /dev/null");
    assert!(
        lines[1].starts_with("fd 1 pipe:") && lines[2].starts_with("fd 2 pipe:"),
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_sees_no_mount_of_a_container_and_the_container_none_of_the_host() {
    let Some(node) = Node::new().await else {
        return;
    };
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let started = node
        .runtime()
        .start(&id("mounts"), node.spec(&["sleep"]))
        .await
        .unwrap();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    let inside = fs::read_to_string(format!("/proc/{}/mountinfo", started.pid)).unwrap();
    assert!(
        !inside.contains("/sys/fs/cgroup/memory") && inside.lines().count() < 30,
        "{inside}"
    );
    // The keeper has the host's mounts: it holds none of the container's.
    let keeper = fs::read_to_string(format!("/proc/{}/mountinfo", started.keeper_pid)).unwrap();
    assert_eq!(keeper.lines().count(), before.lines().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_proc_or_sys_or_dev_is_a_link_is_refused_or_harmless() {
    let Some(node) = Node::new().await else {
        return;
    };
    for name in ["proc", "sys"] {
        fs::remove_dir(node.image().join(name)).unwrap();
        std::os::unix::fs::symlink("/tmp", node.image().join(name)).unwrap();
        let result = node.runtime().start(&id(name), node.spec(&["true"])).await;
        assert!(
            matches!(result, Err(StartError::Mount { .. })),
            "/{name} is a link: {result:?}"
        );
        fs::remove_file(node.image().join(name)).unwrap();
        fs::create_dir(node.image().join(name)).unwrap();
    }
    let outside = node.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir(node.image().join("dev")).unwrap();
    std::os::unix::fs::symlink(&outside, node.image().join("dev")).unwrap();
    let _ = node.runtime().start(&id("dev"), node.spec(&["true"])).await;
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "nothing is made outside the root"
    );
}

/// CVE-2026-55686: a working directory is made inside the root, whatever links the image has on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_behind_a_link_is_not_made_on_the_host() {
    let Some(node) = Node::new().await else {
        return;
    };
    let outside = node.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let before = fs::metadata(&outside).unwrap();
    let up = format!("../../../../../../..{}", outside.display());
    for (name, target) in [
        ("absolute", outside.display().to_string()),
        ("relative", up),
    ] {
        let way = node.image().join("srv").join(name);
        std::os::unix::fs::symlink(&target, &way).unwrap();
        let mut spec = node.spec(&["true"]);
        spec.cwd = format!("/srv/{name}/made");
        let result = node.runtime().start(&id(name), spec).await;
        assert!(
            matches!(result, Err(StartError::BadSpec { .. })),
            "{name}: {result:?}"
        );
        fs::remove_file(&way).unwrap();
    }
    // A link that leads to something inside is a way.
    std::os::unix::fs::symlink("/../../srv/real", node.image().join("srv/inside")).unwrap();
    fs::create_dir(node.image().join("srv/real")).unwrap();
    let mut spec = node.spec(&["where"]);
    spec.cwd = "/srv/inside/made".into();
    node.run("inside", spec).await;
    assert!(
        node.stdout("inside").starts_with("cwd /srv/real/made "),
        "{}",
        node.stdout("inside")
    );
    let after = fs::metadata(&outside).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(
        (
            after.mode(),
            after.uid(),
            after.gid(),
            after.ctime(),
            after.ctime_nsec()
        ),
        (
            before.mode(),
            before.uid(),
            before.gid(),
            before.ctime(),
            before.ctime_nsec()
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_land_inside_and_keep_their_access() {
    let Some(node) = Node::new().await else {
        return;
    };
    let sandbox = node.path().join("sandbox");
    fs::create_dir(&sandbox).unwrap();
    fs::write(node.path().join("hosts"), "127.0.0.1 me\n").unwrap();
    // A link in the image that points out of it, where a mount target is asked for.
    std::os::unix::fs::symlink(
        "../../../../../../tmp/elsewhere",
        node.image().join("srv/link"),
    )
    .unwrap();
    let bind = |source: &std::path::Path, target: &str, readonly| MountSpec::Bind {
        source: source.into(),
        target: target.into(),
        readonly,
    };
    let mut spec = node.spec(&["touch", "/mnt/mezzo/sandbox/file"]);
    spec.mounts = vec![
        bind(&sandbox, "/mnt/mezzo/sandbox", false),
        bind(&node.path().join("hosts"), "/etc/hosts", true),
    ];
    assert_eq!(
        node.run("write", spec.clone()).await.exit,
        Exit::Code(0),
        "{}",
        node.stdout("write")
    );
    assert!(sandbox.join("file").exists());
    for (name, args, expected) in [
        ("read", ["cat", "/etc/hosts"], "127.0.0.1 me\n"),
        (
            "hosts",
            ["touch", "/etc/hosts"],
            "/etc/hosts: Read-only file system\n",
        ),
    ] {
        let mut spec = spec.clone();
        spec.rootfs = node.spec(&[]).rootfs;
        spec.args[1..].clone_from_slice(&args.map(str::to_owned));
        node.run(name, spec).await;
        assert_eq!(node.stdout(name), expected);
    }
    let mut spec = node.spec(&["touch", "/new"]);
    spec.readonly_rootfs = true;
    node.run("readonly", spec).await;
    assert_eq!(node.stdout("readonly"), "/new: Read-only file system\n");
    let mut spec = node.spec(&["touch", "/srv/link/x"]);
    spec.mounts = vec![bind(&sandbox, "/srv/link", false)];
    let _ = node.runtime().start(&id("link"), spec).await;
    assert!(
        !std::path::Path::new("/tmp/elsewhere").exists(),
        "nothing is made outside the root"
    );
    let missing = node.path().join("missing");
    let mut spec = node.spec(&["true"]);
    spec.mounts = vec![bind(&missing, "/x", false)];
    let error = node
        .runtime()
        .start(&id("missing"), spec)
        .await
        .unwrap_err();
    assert!(
        matches!(error, StartError::BadSpec { .. } | StartError::Mount { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("missing"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_process_has_its_own_names_and_place() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["where"]);
    spec.cwd = "/srv".into();
    spec.hostname = Some("inside".into());
    node.run("where", spec).await;
    assert_eq!(
        node.stdout("where"),
        "cwd /srv host inside uid 0 gid 0 groups pid 1\n"
    );
    let mut spec = node.spec(&["env"]);
    spec.env = vec![("A".into(), "1".into()), ("B".into(), "x=y z".into())];
    node.run("env", spec).await;
    let out = node.stdout("env");
    assert!(out.starts_with("A=1\nB=x=y z\nHOME=/root\nPATH=/"), "{out}");
    assert_eq!(out.lines().count(), 4, "nothing of ours: {out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_network_has_loopback_only() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["interfaces"]);
    spec.network = Network::None;
    node.run("alone", spec).await;
    let out = node.stdout("alone");
    let interfaces: Vec<_> = out
        .lines()
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| !["loopback", "send"].contains(name))
        .collect();
    assert_eq!(interfaces, ["lo"], "{out}");
    assert!(
        out.contains("loopback: ok") && out.contains("send: ok"),
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_launcher_is_a_sealed_copy() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = node
        .runtime()
        .start(&id("one"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let launcher = node.runtime().launcher_pid().await.unwrap();
    for pid in [started.keeper_pid, i32::try_from(launcher).unwrap()] {
        let path = format!("/proc/{pid}/exe");
        let exe = fs::read_link(&path).unwrap();
        assert!(
            exe.to_string_lossy().starts_with("/memfd:mezzo-launcher"),
            "{}",
            exe.display()
        );
        // The seals hold when nobody executes it any more, too; until then the kernel refuses by itself to write to it.
        let seals = fcntl(fs::File::open(&path).unwrap(), FcntlArg::F_GET_SEALS).unwrap();
        let wanted = SealFlag::F_SEAL_SEAL
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_WRITE;
        assert!(
            SealFlag::from_bits_retain(seals).contains(wanted),
            "{path}: {seals:#x}"
        );
    }
    within(
        node.runtime()
            .stop(&id("one"), std::time::Duration::ZERO, libc::SIGKILL),
    )
    .await
    .unwrap();
}
