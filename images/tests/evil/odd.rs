//! Types, modes, attributes and names that honest tools do not write. (tar has no type for Unix sockets: there is no
//! way to bring one along.)

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use mezzo_images::{DeviceNodes, UnpackError, UnpackLimits};

use crate::common::{Archive, Packed, skip_unless_root};
use crate::{Mill, pull_evil, pull_with};

#[tokio::test(flavor = "multi_thread")]
async fn device_nodes_are_made_or_refused_as_the_operator_says() {
    if skip_unless_root() {
        return;
    }
    let null = Archive::new().device("null", b'3', 1, 3).done();
    let say = |nodes| {
        move |config: &mut mezzo_images::StoreConfig| {
            config.limits = UnpackLimits {
                device_nodes: nodes,
                ..UnpackLimits::default()
            };
        }
    };
    pull_with(say(DeviceNodes::Create), null.clone(), Packed::Gzip)
        .await
        .unwrap();
    let error = pull_with(say(DeviceNodes::Refuse), null, Packed::Gzip)
        .await
        .unwrap_err();
    assert!(matches!(error, UnpackError::Refused { .. }), "{error}");
}

/// What an entry may be, in the order of `put`.
const KINDS: [&str; 8] = [
    "file",
    "directory",
    "link outside",
    "hard link",
    "fifo",
    "device",
    "whiteout",
    "opaque",
];

fn put(archive: Archive, kind: &str, out: &str) -> Archive {
    match kind {
        "file" => archive.mode(0o600).file("p", b"new"),
        "directory" => archive.mode(0o711).dir("p"),
        "link outside" => archive.symlink("p", &format!("{out}/folder")),
        "hard link" => archive.hard_link("p", "base"),
        "fifo" => archive.device("p", b'6', 0, 0),
        "device" => archive.device("p", b'3', 1, 3),
        "whiteout" => archive.file(".wh.p", b""),
        "opaque" => archive.file("p/.wh..wh..opq", b""),
        other => panic!("no such kind: {other}"),
    }
}

fn kind_of(path: &Path) -> &'static str {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return "nothing";
    };
    let kind = meta.file_type();
    if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "link outside"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_char_device() {
        "whiteout"
    } else if meta.nlink() > 1 {
        "hard link"
    } else {
        "file"
    }
}

/// Every kind after every kind under one name, and then a file below that name: the later entry counts, what is no
/// directory is no way, and nothing is reached through a link that was there before.
#[tokio::test(flavor = "multi_thread")]
async fn one_name_twice_in_all_pairs_of_kinds() {
    if skip_unless_root() {
        return;
    }
    let mill = Mill::new().await;
    let out = mill.canary.path().to_string();
    for first in KINDS {
        for second in KINDS {
            let what = format!("{first}, then {second}");
            let pair = put(
                put(Archive::new().file("base", b"base"), first, &out),
                second,
                &out,
            );
            // A deletion speaks of the layers below, and devices are left out: what came first stays. The mark of an
            // opaque directory needs one, and makes it where there was nothing or a deletion.
            let left = match (first, second) {
                (_, "whiteout" | "device") if first == "device" && second == "device" => "nothing",
                ("device", "whiteout") => "whiteout",
                ("opaque", "whiteout" | "device") => "directory",
                (first, "whiteout" | "device") => first,
                (_, "opaque") => "directory",
                (_, second) => second,
            };
            let refused = second == "opaque"
                && matches!(first, "file" | "link outside" | "hard link" | "fifo");
            let accepted = mill
                .grind(&what, pair.clone().done(), Packed::Plain, |layer| {
                    assert_eq!(kind_of(&layer.join("p")), left, "{what}");
                    assert_eq!(
                        std::fs::read(layer.join("base")).unwrap(),
                        b"base",
                        "{what}"
                    );
                })
                .await;
            assert_eq!(accepted, !refused, "{what}");
            // `p/new` needs a directory; over a deletion or nothing it makes one.
            let way = matches!(left, "directory" | "whiteout" | "nothing") && !refused;
            let below = pair.file("p/new", b"x").done();
            let then = format!("{what}, then a file below");
            let accepted = mill
                .grind(&then, below, Packed::Plain, |layer| {
                    assert_eq!(kind_of(&layer.join("p")), "directory", "{then}");
                })
                .await;
            assert_eq!(accepted, way, "{then}");
        }
    }
}

/// A whiteout is a name, whatever its entry says it is: it never becomes a file, a link, or set-id.
#[tokio::test(flavor = "multi_thread")]
async fn a_whiteout_of_any_type_is_a_whiteout() {
    if skip_unless_root() {
        return;
    }
    let mill = Mill::new().await;
    let out = mill.canary.path().to_string();
    for kind in *b"0123456" {
        for (name, made) in [(".wh.gone", "gone"), ("d/.wh..wh..opq", "d")] {
            let archive = Archive::new()
                .file("base", b"base")
                .mode(0o6777)
                .owner(5, 5)
                .pax("SCHILY.xattr.user.x", b"y")
                .entry(
                    kind,
                    name,
                    if kind == b'1' { "base" } else { &out },
                    b"",
                    (0, 0),
                )
                .done();
            let what = format!("type {:?} called {name}", char::from(kind));
            let accepted = mill
                .grind(&what, archive, Packed::Plain, |layer| {
                    assert!(
                        !layer.join(name).exists(),
                        "{what}: the mark itself is there"
                    );
                    let looks = std::fs::symlink_metadata(layer.join(made)).unwrap();
                    assert_eq!((looks.uid(), looks.mode() & 0o6000), (0, 0), "{what}");
                    let wanted = if made == "d" { "directory" } else { "whiteout" };
                    assert_eq!(kind_of(&layer.join(made)), wanted, "{what}");
                })
                .await;
            assert!(accepted, "{what}");
        }
    }
    for (what, archive) in [
        (
            "a file below an opaque mark",
            Archive::new().file("d/.wh..wh..opq/x", b"x").done(),
        ),
        (
            "a file below a whiteout",
            Archive::new()
                .file(".wh.d", b"")
                .file(".wh.d/x", b"x")
                .done(),
        ),
        (
            "a directory below AUFS's own",
            Archive::new().dir(".wh..wh.plnk/d").done(),
        ),
        (
            "a hard link to the mark of a whiteout",
            Archive::new()
                .file(".wh.a", b"")
                .hard_link("h", ".wh.a")
                .done(),
        ),
    ] {
        let accepted = mill.grind(what, archive, Packed::Plain, |_| {}).await;
        assert!(!accepted, "{what} was accepted");
    }
}

/// umoci writes a deletion for each file of a directory that is gone, whatever stands there now. Nothing of the layers
/// below shows through a file or a deletion, so that there is nothing to do; through a link there still is no way.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_below_what_is_no_directory_means_nothing() {
    if skip_unless_root() {
        return;
    }
    let mill = Mill::new().await;
    let out = mill.canary.path().to_string();
    for (first, left) in [
        ("file", Some("file")),
        ("fifo", Some("fifo")),
        ("whiteout", Some("whiteout")),
        ("link outside", None),
    ] {
        let archive = put(Archive::new(), first, &out)
            .file("p/.wh.file", b"")
            .file("p/deep/.wh.file", b"")
            .done();
        let accepted = mill
            .grind(first, archive, Packed::Plain, |layer| {
                assert_eq!(Some(kind_of(&layer.join("p"))), left, "{first}");
            })
            .await;
        assert_eq!(accepted, left.is_some(), "{first}");
    }
}

/// Set-id bits are kept where an image has them (the runtime allows nobody to gain by them) and only there.
#[tokio::test(flavor = "multi_thread")]
async fn set_id_bits_stay_where_they_belong() {
    if skip_unless_root() {
        return;
    }
    let archive = Archive::new()
        .mode(0o7755)
        .owner(3, 4)
        .dir("d")
        .file("d/plain", b"x")
        .mode(0o6711)
        .owner(3, 4)
        .file("tool", b"x")
        .mode(0o6777)
        .hard_link("alias", "d/plain")
        .mode(0o6777)
        .symlink("link", "d/plain")
        .mode(0o4666)
        .device("fifo", b'6', 0, 0)
        .file("over", b"x")
        .mode(0o6777)
        .file("over", b"y")
        .file("over", b"z")
        .done();
    let (_folder, root) = pull_evil("set-id bits", |_| archive.clone()).await.unwrap();
    let mode = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("d"), mode("tool"), mode("fifo")),
        (0o7755, 0o6711, 0o4666)
    );
    assert_eq!(
        mode("d/plain"),
        0o644,
        "by a hard link's header or the directory's group"
    );
    assert_eq!(
        std::fs::metadata(root.join("d/plain")).unwrap().gid(),
        0,
        "by the directory's group"
    );
    assert_eq!(mode("over"), 0o644, "from the file that was there before");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_attributes_that_mean_the_same_here_are_set() {
    if skip_unless_root() {
        return;
    }
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0,
        255, 255, 255, 255,
    ];
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Archive::new()
        .pax("SCHILY.xattr.trusted.overlay.opaque", b"y")
        .dir("./")
        .pax("SCHILY.xattr.trusted.evil", b"x")
        .pax(
            "SCHILY.xattr.security.selinux",
            b"system_u:object_r:init_t:s0",
        )
        .pax("SCHILY.xattr.security.ima", b"x")
        .pax("SCHILY.xattr.security.evm", b"x")
        .pax("SCHILY.xattr.security.apparmor", b"x")
        .pax("SCHILY.xattr.nonsense", b"x")
        .pax("SCHILY.xattr.security.capability", capability)
        .pax("SCHILY.xattr.system.posix_acl_access", acl)
        .pax("SCHILY.xattr.user.kept", b"x")
        .file("f", b"x")
        .done();
    let (_folder, root) = pull_evil("attributes", |_| archive.clone()).await.unwrap();
    let mut names: Vec<_> = xattr::list(root.join("f")).unwrap().collect();
    names.sort();
    // The kernel keeps an access list that says no more than the mode in the mode.
    names.retain(|name| name != "system.posix_acl_access");
    assert_eq!(names, ["security.capability", "user.kept"]);
    assert_eq!(
        xattr::list(&root).unwrap().count(),
        0,
        "the root has attributes"
    );
    for (what, key, value) in [
        ("overlayfs's own", "trusted.overlay.opaque", &b"y"[..]),
        (
            "overlayfs's own, nested",
            "trusted.overlay.overlay.opaque",
            b"y",
        ),
        (
            "overlayfs's own for users",
            "user.overlay.redirect",
            b"/etc",
        ),
        (
            "half an access list",
            "system.posix_acl_access",
            b"\x02\0\0",
        ),
        ("half a capability", "security.capability", b"x"),
    ] {
        let made = Archive::new()
            .pax(&format!("SCHILY.xattr.{key}"), value)
            .file("f", b"x")
            .done();
        let error = pull_evil(what, |_| made.clone()).await.expect_err(what);
        println!("{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_bytes_and_messages_are_one_line() {
    if skip_unless_root() {
        return;
    }
    let names: [&[u8]; 5] = [
        b"new\nline",
        b"\x1b[31mred",
        b"\xff\xfe not utf-8",
        b" ",
        b"-rf",
    ];
    let archive = names
        .iter()
        .fold(Archive::new(), |archive, name| archive.file(name, b"x"))
        .done();
    let (_folder, root) = pull_evil("odd names", |_| archive.clone()).await.unwrap();
    for name in names {
        assert!(
            root.join(std::ffi::OsStr::from_bytes(name)).is_file(),
            "{name:?}"
        );
    }
    for evil in [
        &b"../new\nline\x1b[31m\xff"[..],
        &[b"../", &b"x\n".repeat(2000)[..]].concat(),
    ] {
        let error = pull_evil("an odd name that leads out", |_| {
            Archive::new().file(evil, b"").done()
        });
        let told = error.await.unwrap_err().to_string();
        assert!(
            told.len() < 1000 && !told.chars().any(char::is_control),
            "{told:?}"
        );
    }
}

/// CVE-2025-62518 and its kin: where two readers may disagree on what an archive holds, this one has one rule or none.
#[tokio::test(flavor = "multi_thread")]
async fn sizes_and_names_that_are_given_twice_hide_nothing() {
    if skip_unless_root() {
        return;
    }
    let hidden = Archive::new().mode(0o4755).file("smuggled", b"evil").done();
    // The header says nothing is there, PAX says two blocks: they are data.
    let archive = Archive::new()
        .pax("size", hidden.len().to_string().as_bytes())
        .declare(0)
        .file("f", &hidden)
        .done();
    let (_folder, root) = pull_evil("a PAX size above the header's", |_| archive.clone())
        .await
        .unwrap();
    assert_eq!(std::fs::read(root.join("f")).unwrap(), hidden);
    assert!(!root.join("smuggled").exists());
    for (what, archive) in [
        (
            "a PAX size beyond the archive",
            Archive::new().pax("size", b"99999").file("f", b"x").done(),
        ),
        (
            "a PAX size that is none",
            Archive::new().pax("size", b"0x10").file("f", b"x").done(),
        ),
        (
            "a PAX size with a sign",
            Archive::new().pax("size", b"+1").file("f", b"x").done(),
        ),
        (
            "half a PAX record",
            Archive::new()
                .entry(b'x', "p", "", b"20 path=a\n", (0, 0))
                .file("f", b"")
                .done(),
        ),
        (
            "a GNU name and another one in PAX",
            Archive::new()
                .gnu_long(b'L', b"one")
                .pax("path", b"two")
                .file("f", b"x")
                .done(),
        ),
        (
            "a PAX name and another one by GNU",
            Archive::new()
                .entry(
                    b'x',
                    "p",
                    "",
                    &crate::common::archive::record("path", b"two"),
                    (0, 0),
                )
                .gnu_long(b'L', b"one")
                .file("f", b"x")
                .done(),
        ),
        (
            "a GNU target and another one in PAX",
            Archive::new()
                .gnu_long(b'K', b"one")
                .pax("linkpath", b"two")
                .symlink("f", "three")
                .done(),
        ),
    ] {
        let error = pull_evil(what, |_| archive.clone()).await.expect_err(what);
        assert!(
            matches!(error, UnpackError::Malformed(_)),
            "{what}: {error}"
        );
    }
    let agreed = Archive::new()
        .gnu_long(b'L', b"one")
        .pax("path", b"one")
        .file("f", b"x")
        .done();
    let (_folder, root) = pull_evil("a name that both agree on", |_| agreed.clone())
        .await
        .unwrap();
    assert!(root.join("one").is_file());
}
