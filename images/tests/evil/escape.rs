//! Out of the layer's directory: `..`, absolute names, links in any order, whiteouts through links.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::common::{Archive, skip_unless_root};
use crate::pull_evil;

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_reach_outside_are_refused() {
    if skip_unless_root() {
        return;
    }
    type Make = fn(&str) -> Vec<u8>;
    let cases: &[(&str, Make)] = &[
        ("a name with ..", |out| {
            Archive::new()
                .file(&format!("../../../../../../..{out}/new"), b"x")
                .done()
        }),
        ("a name with .. in the middle", |_| {
            Archive::new().dir("a").file("a/../../x", b"x").done()
        }),
        ("a file through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .file("l/secret", b"x")
                .done()
        }),
        ("a directory through a symlink", |out| {
            Archive::new().symlink("l", out).dir("l/new").done()
        }),
        ("a file through a chain of symlinks", |out| {
            Archive::new()
                .symlink("a", "b")
                .symlink("b", out)
                .file("a/new", b"x")
                .done()
        }),
        ("a file through a relative symlink", |_| {
            Archive::new()
                .dir("d")
                .symlink("d/l", "../../../../../outside")
                .file("d/l/new", b"x")
                .done()
        }),
        ("a file through a symlink to /", |out| {
            Archive::new()
                .symlink("root", "/")
                .file(&format!("root{out}/new"), b"x")
                .done()
        }),
        ("a file through a magic link", |out| {
            Archive::new()
                .symlink("p", "/proc/self/root")
                .file(&format!("p{out}/new"), b"x")
                .done()
        }),
        ("a symlink through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .symlink("l/x", "/etc")
                .done()
        }),
        ("a directory that was kept open becomes a symlink", |out| {
            Archive::new()
                .dir("d")
                .file("d/a", b"x")
                .symlink("d", out)
                .file("d/new", b"x")
                .done()
        }),
        ("a hard link to an absolute name", |out| {
            Archive::new()
                .hard_link("h", &format!("{out}/secret"))
                .done()
        }),
        ("a hard link to a name with ..", |out| {
            Archive::new()
                .hard_link("h", &format!("../../../../../..{out}/secret"))
                .done()
        }),
        ("a hard link through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .hard_link("h", "l/secret")
                .done()
        }),
        ("a hard link into a directory behind a symlink", |out| {
            Archive::new()
                .file("a", b"x")
                .symlink("l", out)
                .hard_link("l/new", "a")
                .done()
        }),
        ("a hard link to itself", |_| {
            Archive::new().file("a", b"x").hard_link("a", "./a").done()
        }),
        ("a hard link to a directory", |_| {
            Archive::new().dir("d").hard_link("h", "d").done()
        }),
        ("a hard link to a whiteout", |_| {
            Archive::new().file(".wh.a", b"").hard_link("h", "a").done()
        }),
        ("a whiteout through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .file("l/.wh.secret", b"")
                .done()
        }),
        ("an opaque mark through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .file("l/.wh..wh..opq", b"")
                .done()
        }),
        ("a whiteout of the directory above", |_| {
            Archive::new().dir("d").file("d/.wh...", b"").done()
        }),
        ("a whiteout of nothing", |_| {
            Archive::new().file(".wh.", b"").done()
        }),
        ("a whiteout used as a directory", |_| {
            Archive::new().file(".wh.d/file", b"x").done()
        }),
        ("a node that is overlayfs's mark", |_| {
            Archive::new().device("n", b'3', 0, 0).done()
        }),
        ("overlayfs's own attribute", |_| {
            Archive::new()
                .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
                .dir("d")
                .done()
        }),
        ("overlayfs's own attribute without privileges", |_| {
            Archive::new()
                .pax("SCHILY.xattr.user.overlay.opaque", b"y")
                .dir("d")
                .done()
        }),
        ("one path as both file and directory", |_| {
            Archive::new().file("p", b"x").file("p/x", b"x").done()
        }),
        ("a root that is a symlink", |out| {
            Archive::new().symlink("./", out).file("new", b"x").done()
        }),
        ("a name that is too deep", |_| {
            Archive::new().file(&"d/".repeat(1000), b"x").done()
        }),
        ("a part of a name that is too long", |_| {
            Archive::new().file(&"x".repeat(300), b"x").done()
        }),
        ("an owner beyond 32 bits", |_| {
            Archive::new()
                .pax("uid", b"4294967296")
                .file("a", b"x")
                .done()
        }),
        ("an archive that is cut", |_| {
            Archive::new().file("a", &[1; 5000]).done()[..3000].to_vec()
        }),
        ("no archive at all", |_| vec![b'x'; 4096]),
    ];
    for (what, make) in cases {
        match pull_evil(what, make).await {
            Ok(_) => panic!("{what}: was accepted"),
            Err(error) => println!("{what}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_only_look_evil_are_contained() {
    if skip_unless_root() {
        return;
    }
    let (_folder, root) = pull_evil("absolute names", |out| {
        Archive::new()
            .file(&format!("{out}/secret"), b"mine")
            .file("/etc/x", b"y")
            .done()
    })
    .await
    .unwrap();
    assert_eq!(std::fs::read(root.join("etc/x")).unwrap(), b"y");

    // CVE-2021-32760, 2026-33056: chmod and chown of the directory must not go through the link.
    let (_folder, root) = pull_evil("a symlink, then a directory of its name", |out| {
        Archive::new()
            .symlink("l", &format!("{out}/folder"))
            .mode(0o777)
            .owner(7, 7)
            .dir("l")
            .file("l/new", b"x")
            .done()
    })
    .await
    .unwrap();
    assert!(std::fs::symlink_metadata(root.join("l")).unwrap().is_dir());
    assert_eq!(std::fs::read(root.join("l/new")).unwrap(), b"x");

    let (_folder, root) = pull_evil("a symlink, then a file of its name", |out| {
        Archive::new()
            .symlink("l", &format!("{out}/secret"))
            .mode(0o6777)
            .file("l", b"mine")
            .done()
    })
    .await
    .unwrap();
    assert_eq!(std::fs::read(root.join("l")).unwrap(), b"mine");

    let (_folder, root) = pull_evil("a hard link to a symlink, then a file over it", |out| {
        Archive::new()
            .symlink("l", &format!("{out}/secret"))
            .hard_link("h", "l")
            .file("h", b"mine")
            .done()
    })
    .await
    .unwrap();
    assert!(std::fs::symlink_metadata(root.join("h")).unwrap().is_file());
    assert!(
        std::fs::symlink_metadata(root.join("l"))
            .unwrap()
            .is_symlink()
    );

    let (_folder, root) = pull_evil("attributes and times of a symlink", |out| {
        Archive::new()
            .pax("SCHILY.xattr.user.a", b"b")
            .owner(5, 6)
            .symlink("l", &format!("{out}/secret"))
            .done()
    })
    .await
    .unwrap();
    assert_eq!(std::fs::symlink_metadata(root.join("l")).unwrap().uid(), 5);

    let (_folder, root) = pull_evil("a directory full of links, replaced by a file", |out| {
        Archive::new()
            .dir("d")
            .symlink("d/l", out)
            .dir("d/e")
            .symlink("d/e/l", out)
            .file("d", b"x")
            .done()
    })
    .await
    .unwrap();
    assert!(std::fs::symlink_metadata(root.join("d")).unwrap().is_file());

    let (_folder, root) = pull_evil("devices and a fifo", |_| {
        Archive::new()
            .device("disk", b'4', 8, 0)
            .device("null", b'3', 1, 3)
            .device("fifo", b'6', 0, 0)
            .done()
    })
    .await
    .unwrap();
    assert!(!root.join("disk").exists() && !root.join("null").exists());
    assert!(
        std::fs::metadata(root.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}
