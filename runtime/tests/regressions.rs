//! Holes that other runtimes had to close, one test for each that `security.rs` and `users.rs` do not ask already, with
//! the machine's users and with users of the container's own. `docs/security.md` has the whole table.

#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use common::{BOTH, Node, id, output, probe_in, spec_as, within};
use mezzo_runtime::{BadSpec, ExecError, Exit, MountSpec, StartError, UserNamespace, UserSpec};

/// A directory of the host beside the image, which nothing may touch.
struct Outside {
    dir: PathBuf,
    before: (u32, u32, u32, i64, i64),
}

impl Outside {
    fn new(node: &Node) -> Self {
        let dir = node.path().join("outside");
        fs::create_dir(&dir).unwrap();
        let before = Self::look(&dir);
        Self { dir, before }
    }

    fn look(dir: &Path) -> (u32, u32, u32, i64, i64) {
        let seen = fs::metadata(dir).unwrap();
        let changed = (seen.ctime(), seen.ctime_nsec());
        (seen.mode(), seen.uid(), seen.gid(), changed.0, changed.1)
    }

    fn assert_untouched(&self, after: &str) {
        assert_eq!(fs::read_dir(&self.dir).unwrap().count(), 0, "{after}");
        assert_eq!(Self::look(&self.dir), self.before, "{after}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.to_str().unwrap()), "{after}");
    }
}

/// CVE-2021-30465, CVE-2024-45310, CVE-2022-23648: where a mount is asked for, the image has a link out of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_where_a_mount_is_asked_for_leads_nowhere_else() {
    let Some(node) = Node::new().await else {
        return;
    };
    let outside = Outside::new(&node);
    let up = format!("../../../../../../../..{}", outside.dir.display());
    symlink(&outside.dir, node.image().join("srv/absolute")).unwrap();
    symlink(up, node.image().join("srv/relative")).unwrap();
    symlink("/../../tmp", node.image().join("srv/inside")).unwrap();
    let (data, file) = (node.path().join("data"), node.path().join("file"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("seen"), "seen\n").unwrap();
    fs::write(&file, "seen\n").unwrap();
    for (users, namespace) in BOTH {
        for (n, link) in ["absolute", "relative", "inside"].into_iter().enumerate() {
            let directory = format!("/srv/{link}/made/deeper");
            let plain = format!("/srv/{link}/file");
            let memory = format!("/srv/{link}/memory");
            let seen = format!("{directory}/seen");
            let mut spec = spec_as(&node, namespace, &["cat", &seen, &plain]);
            let bind = |source: &Path, target: &str| MountSpec::Bind {
                source: source.into(),
                target: target.into(),
                readonly: false,
            };
            spec.mounts = vec![
                bind(&data, &directory),
                bind(&file, &plain),
                MountSpec::Tmpfs {
                    target: memory.into(),
                    size_bytes: 1 << 20,
                    mode: 0o700,
                },
            ];
            let name = format!("{users}-{n}");
            let result = node.runtime().start(&id(&name), spec).await;
            if link == "inside" {
                result.unwrap();
                within(node.runtime().wait(&id(&name))).await.unwrap();
                assert_eq!(node.stdout(&name), "seen\nseen\n", "{name}");
            } else {
                assert!(
                    matches!(result, Err(StartError::Mount { .. })),
                    "{name}: {result:?}"
                );
            }
            outside.assert_untouched(&name);
        }
    }
}

/// The same while somebody else, who has the volume too, swaps the directory for a link and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_swapped_for_a_link_meanwhile_leads_nowhere_else() {
    let Some(node) = Node::new().await else {
        return;
    };
    let outside = Outside::new(&node);
    let volume = node.path().join("volume");
    fs::create_dir_all(volume.join("way")).unwrap();
    symlink(&outside.dir, volume.join("link")).unwrap();
    let (stop, n_swaps) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
    );
    let racer = {
        let (stop, n_swaps, volume) = (stop.clone(), n_swaps.clone(), volume.clone());
        std::thread::spawn(move || {
            let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            let here = nix::fcntl::AT_FDCWD;
            while !stop.load(Ordering::Relaxed) {
                let (way, link) = (volume.join("way"), volume.join("link"));
                nix::fcntl::renameat2(here, &way, here, &link, flags).unwrap();
                n_swaps.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut n_started = 0;
    for (users, namespace) in BOTH {
        for n in 0..20 {
            let mut spec = spec_as(&node, namespace, &["true"]);
            spec.mounts = vec![
                MountSpec::Bind {
                    source: volume.clone(),
                    target: "/volume".into(),
                    readonly: false,
                },
                MountSpec::Tmpfs {
                    target: format!("/volume/way/made-{users}-{n}/deeper").into(),
                    size_bytes: 1 << 20,
                    mode: 0o700,
                },
            ];
            let name = format!("{users}-{n}");
            if node.runtime().start(&id(&name), spec).await.is_ok() {
                n_started += 1;
                within(node.runtime().wait(&id(&name))).await.unwrap();
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    assert!(n_swaps.load(Ordering::Relaxed) > 40, "there was a race");
    outside.assert_untouched(&format!("{n_started} started"));
}

/// CVE-2019-19921, CVE-2025-54867, CVE-2026-41579: the same with users of one's own as `security.rs` asks without.
#[tokio::test(flavor = "multi_thread")]
async fn system_directories_that_are_links_are_refused_or_harmless_with_own_users() {
    let Some(node) = Node::new().await else {
        return;
    };
    let outside = Outside::new(&node);
    for name in ["proc", "sys", "dev"] {
        let place = node.image().join(name);
        fs::remove_dir(&place).unwrap();
        symlink(&outside.dir, &place).unwrap();
        let spec = spec_as(&node, UserNamespace::Own, &["true"]);
        let result = node.runtime().start(&id(name), spec).await;
        if name != "dev" {
            assert!(
                matches!(result, Err(StartError::Mount { .. })),
                "/{name} is a link: {result:?}"
            );
        }
        outside.assert_untouched(name);
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
    }
}

/// CVE-2025-31133, CVE-2025-62161, CVE-2025-52565: an image's own `/dev/null`, `/dev/console` and `/dev/pts` are links.
#[tokio::test(flavor = "multi_thread")]
async fn devices_of_the_image_are_not_what_paths_are_masked_with() {
    let Some(node) = Node::new().await else {
        return;
    };
    let victim = node.path().join("victim");
    fs::write(&victim, "of the host\n").unwrap();
    for name in ["null", "console", "pts", "ptmx", "zero"] {
        symlink(&victim, node.image().join("dev").join(name)).unwrap();
    }
    for (users, namespace) in BOTH {
        let spec = spec_as(
            &node,
            namespace,
            &[
                "cat",
                "/dev/null",
                "/dev/console",
                "/proc/kcore",
                "/proc/keys",
            ],
        );
        node.run(users, spec).await;
        let out = node.stdout(users);
        assert!(!out.contains("of the host"), "{users}: {out}");
        // What is masked by the true device is empty.
        assert!(!out.contains("keyring"), "{users}: {out}");
        let name = format!("attack-{users}");
        node.run(&name, spec_as(&node, namespace, &["attack", "8"]))
            .await;
        let out = node.stdout(&name);
        assert!(out.contains("kcore size: 0"), "{out}");
        assert!(out.contains("null: ok"), "{out}");
    }
    // A volume in the place of the device that the masks are made of: what is not masked does not run.
    for (users, namespace) in BOTH {
        let mut spec = spec_as(
            &node,
            namespace,
            &["cat", "/dev/null", "/proc/kcore", "/proc/keys"],
        );
        spec.mounts.push(MountSpec::Bind {
            source: victim.clone(),
            target: "/dev/null".into(),
            readonly: false,
        });
        let name = format!("bound-{users}");
        let started = node.runtime().start(&id(&name), spec).await;
        // Refused, or covered by the true device, which users of one's own get after the volumes.
        match started {
            Err(StartError::Mount { .. }) => {}
            Ok(_) => {
                within(node.runtime().wait(&id(&name))).await.unwrap();
                assert!(!node.stdout(&name).contains("of the host"), "{name}");
            }
            Err(other) => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "of the host\n");
}

/// CVE-2024-21626: a working directory named by a descriptor, of the first process and of one executed later.
#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_by_a_descriptor_is_never_outside() {
    let Some(node) = Node::new().await else {
        return;
    };
    let secret = node.path().join("secret");
    fs::write(&secret, "of the host\n").unwrap();
    let up = format!("../../../../../../../..{}", secret.display());
    for (users, namespace) in BOTH {
        node.runtime()
            .start(&id(users), spec_as(&node, namespace, &["sleep"]))
            .await
            .unwrap();
        // By its name, and by a link of the image that nothing is seen of before it is followed. Either is the caller's
        // mistake, and called so.
        for fd in 3..24 {
            let link = node.image().join(format!("srv/{users}-{fd}"));
            symlink(format!("/proc/self/fd/{fd}"), link).unwrap();
            for (kind, cwd) in [
                ("name", format!("/proc/self/fd/{fd}")),
                ("link", format!("/srv/{users}-{fd}")),
            ] {
                let name = format!("{users}-{kind}-{fd}");
                let mut spec = spec_as(&node, namespace, &["cat", &up]);
                spec.cwd.clone_from(&cwd);
                let result = node.runtime().start(&id(&name), spec).await;
                let is_cwd = |problem: &BadSpec| problem.field == "cwd";
                assert!(
                    matches!(&result, Err(StartError::BadSpec { problem, .. }) if is_cwd(problem)),
                    "{name}: {result:?}"
                );
                let mut exec = probe_in(&["cat", &up]);
                exec.cwd = Some(cwd);
                let result = node.runtime().exec(&id(users), exec).await;
                assert!(
                    matches!(&result, Err(ExecError::BadSpec { problem, .. }) if is_cwd(problem)),
                    "exec {name}: {result:?}"
                );
            }
        }
        // A way up from a directory of its own ends at its root.
        let mut exec = probe_in(&["cat", &up]);
        exec.cwd = Some("/srv".into());
        let text = output(&node, users, exec).await;
        assert!(text.ends_with("No such file or directory\n"), "{text}");
    }
}

/// CVE-2022-29162, CVE-2025-27612: what is executed has no inheritable capability, also with some added, and sees no
/// descriptor but its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_executed_inherits_no_capability_and_no_descriptor() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (users, namespace) in BOTH {
        let mut spec = spec_as(&node, namespace, &["sleep"]);
        spec.capabilities_add.push("NET_RAW".into());
        node.runtime().start(&id(users), spec).await.unwrap();
        for user in ["0", "web"] {
            let mut exec = probe_in(&["status"]);
            exec.user = Some(user.parse().unwrap());
            let status = output(&node, users, exec).await;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap().trim().to_owned()
            };
            let none = "0000000000000000";
            assert_eq!(field("CapInh:"), none, "{users} {user}");
            assert_eq!(field("CapAmb:"), none, "{users} {user}");
            let bounding = u64::from_str_radix(&field("CapBnd:"), 16).unwrap();
            assert_eq!(bounding.count_ones(), 11, "{users} {user}: {bounding:x}");
            if user == "web" {
                assert_eq!(field("CapEff:"), none, "{users}: capabilities are for root");
            }
        }
        let fds = output(&node, users, probe_in(&["fds"])).await;
        assert_eq!(fds.lines().count(), 3, "{users}: {fds}");
        assert!(!fds.contains("/proc") && !fds.contains("ns:"), "{fds}");
    }
}

/// CVE-2023-25809: nothing of the cgroup tree can be written, by name or by descriptor, whoever its users are.
#[tokio::test(flavor = "multi_thread")]
async fn the_cgroup_tree_cannot_be_written() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (users, namespace) in BOTH {
        for (n, file) in ["cgroup.procs", "pids.max", "memory/tasks", "made"]
            .into_iter()
            .enumerate()
        {
            let path = format!("/sys/fs/cgroup/{file}");
            let name = format!("{users}-{n}");
            let record = node
                .run(&name, spec_as(&node, namespace, &["touch", &path]))
                .await;
            assert_eq!(record.exit, Exit::Code(1), "{}", node.stdout(&name));
        }
        let started = node
            .runtime()
            .start(&id(users), spec_as(&node, namespace, &["sleep"]))
            .await
            .unwrap();
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", started.pid)).unwrap();
        for line in mounts.lines().filter(|line| line.contains(" /sys")) {
            let options = line.split_whitespace().nth(5).unwrap();
            let writable = options.split(',').all(|option| option != "ro");
            // What is masked within is an empty file system or the null device, read-only as well.
            assert!(!writable, "{users}: {line}");
        }
        let owner = fs::metadata(node.cgroup_dir("pids", users)).unwrap();
        assert_eq!(owner.uid(), 0, "{users}: the cgroup is not the container's");
    }
}

/// CVE-2024-40635, 2026-46680, 2026-47262, 2024-9676: users by an image's own files, which are large, odd, or links.
#[tokio::test(flavor = "multi_thread")]
async fn an_images_user_files_are_bounded_and_its_own() {
    let Some(node) = Node::new().await else {
        return;
    };
    assert!("4294967296".parse::<UserSpec>().is_err(), "it would be 0");
    assert!(
        "4294967295".parse::<UserSpec>().is_err(),
        "it would be none"
    );
    let passwd = node.image().join("etc/passwd");
    let host = node.path().join("passwd");
    fs::write(&host, "late:x:1:1::/:/\n").unwrap();
    let wraps = "wraps:x:4294967296:0::/:/\nnegative:x:-1:0::/:/\nhex:x:0x0:0::/:/\n";
    let refused = async |name: &str, user: &str, namespace| {
        let mut spec = spec_as(&node, namespace, &["true"]);
        spec.user = user.parse().unwrap();
        match within(node.runtime().start(&id(name), spec)).await {
            Err(StartError::BadSpec { problem, .. }) => assert_eq!(problem.field, "user"),
            other => panic!("{name} {user}: {other:?}"),
        }
    };
    for (users, namespace) in BOTH {
        fs::write(&passwd, wraps).unwrap();
        for user in ["wraps", "negative", "hex"] {
            refused(users, user, namespace).await;
        }
        // 1 TiB of nothing, and then a name.
        let large = fs::File::create(&passwd).unwrap();
        large.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&large, b"\nlate:x:1:1::/:/\n", 1 << 40).unwrap();
        refused(users, "late", namespace).await;
        fs::remove_file(&passwd).unwrap();
        // One that nobody ever writes to.
        nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        refused(users, "late", namespace).await;
        fs::remove_file(&passwd).unwrap();
        symlink(&host, &passwd).unwrap();
        refused(users, "late", namespace).await;
        fs::remove_file(&passwd).unwrap();
    }
}

/// CVE-2020-15257, CVE-2021-41103, CVE-2024-25621: state folders are for root only, and no supervisor listens on a
/// socket without a path, which whoever shares the machine's network could reach.
#[tokio::test(flavor = "multi_thread")]
async fn state_is_for_root_only_and_no_socket_is_abstract() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut keepers = Vec::new();
    for (users, namespace) in BOTH {
        let spec = spec_as(&node, namespace, &["sleep"]);
        let started = node.runtime().start(&id(users), spec).await.unwrap();
        keepers.push(started.keeper_pid);
    }
    let mut terminal = probe_in(&["tty"]);
    terminal.terminal = Some((80, 25));
    let _session = node.runtime().exec(&id("own"), terminal).await.unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&node.config.state_dir), 0o700);
    let mut folders = vec![node.config.state_dir.clone()];
    let mut n_files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            n_files += 1;
            if kind.is_dir() {
                assert_eq!(mode(&path), 0o700, "{}", path.display());
                folders.push(path);
            } else if kind.is_socket() {
                assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
            } else {
                assert_eq!(mode(&path) & 0o027, 0, "{}", path.display());
            }
        }
    }
    assert!(n_files > 5, "{n_files}");
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    for pid in keepers {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            let Some(inode) = target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'))
            else {
                continue;
            };
            for line in table.lines() {
                let mut columns = line.split_whitespace();
                let found = columns.by_ref().nth(6) == Some(inode);
                let name = columns.next().unwrap_or_default();
                assert!(!found || !name.starts_with('@'), "keeper {pid}: {line}");
            }
        }
    }
}

/// Every `path.rs::test` of these documents is a test, or a case of a harness of its own.
#[test]
fn the_documents_name_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    if !root.join("docs").exists() {
        eprintln!("skipped: the sources are not on this machine");
        return;
    }
    for (document, at_least) in [
        ("docs/security.md", 60),
        ("docs/image-safety.md", 40),
        ("README.md", 10),
        ("docs/marathon-compatibility.md", 3),
    ] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let mut n_named = 0;
        for quoted in text.split('`').skip(1).step_by(2) {
            let Some((file, test)) = quoted.split_once(".rs::") else {
                continue;
            };
            n_named += 1;
            let file = root.join(format!("{file}.rs"));
            let source = fs::read_to_string(&file).unwrap_or_else(|error| {
                panic!("{document}: {quoted}: {}: {error}", file.display())
            });
            let found = source.contains(&format!("fn {test}("))
                || source.contains(&format!("name: \"{test}\""));
            assert!(found, "{document}: no test {quoted}");
        }
        assert!(n_named >= at_least, "{document} names {n_named}");
    }
}
