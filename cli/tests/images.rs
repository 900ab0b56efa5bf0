//! `mezzo image` as people run it, on a store of its own: no registry and no cluster needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{mezzo, stderr, stdout};

#[test]
fn an_image_is_packed_into_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("hello"), "world").unwrap();
    let archive = dir.path().join("out.tar");
    let words = [
        "image",
        "pack",
        root.to_str().unwrap(),
        "-t",
        "hello:1",
        "--entrypoint",
        "/hello",
        "-o",
        archive.to_str().unwrap(),
    ];
    let output = mezzo(&words);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("written to"),
        "{}",
        stdout(&output)
    );
    assert!(std::fs::metadata(&archive).unwrap().len() > 1024);

    let missing = mezzo(&["image", "pack", "/nonexistent/x", "-t", "hello:1"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(
        stderr(&missing).contains("/nonexistent/x"),
        "{}",
        stderr(&missing)
    );
    let name = mezzo(&["image", "pack", root.to_str().unwrap(), "-t", "../hello"]);
    assert_eq!(name.status.code(), Some(2), "{}", stderr(&name));
}

/// Unmounts, whatever becomes of the test.
struct Unmounted(std::path::PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn an_image_goes_through_the_store_and_out_again() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("root")).unwrap();
    std::fs::write(path("root/hello"), "world").unwrap();
    std::fs::create_dir(path("mnt")).unwrap();
    let (store, other) = (path("store"), path("other"));
    let run = |words: &[&str]| {
        let output = mezzo(words);
        assert!(
            output.status.success(),
            "{words:?}: {}{}",
            stdout(&output),
            stderr(&output)
        );
        stdout(&output).to_owned()
    };
    let (root, archive) = (path("root"), path("out.tar"));
    run(&["image", "pack", &root, "-t", "hello:1", "--store", &store]);
    let list = run(&["image", "list", "--store", &store]);
    assert!(list.contains("hello:1") && list.contains("OWN"), "{list}");
    let verified = run(&["image", "verify", "--store", &store]);
    assert!(verified.contains("recorded"), "{verified}");
    let verified = run(&["image", "verify", "hello:1", "--store", &store]);
    assert!(
        verified.contains("intact") && verified.contains("nothing is wrong"),
        "{verified}"
    );
    run(&[
        "image", "export", "hello:1", "-o", &archive, "--store", &store,
    ]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    let imported = run(&[
        "image", "import", &archive, "-t", "copy:2", "--store", &other,
    ]);
    assert!(imported.contains("library/copy:2"), "{imported}");
    let shown = run(&["image", "show", "copy:2", "-o", "json", "--store", &other]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["layers"][0]["shared_with_images"], 0);
    assert_eq!(shown["history"][0]["created_by"], "mezzo image pack");

    let point = path("mnt");
    let _unmounted = Unmounted(point.clone().into());
    run(&["image", "mount", "copy:2", &point, "--store", &other]);
    assert_eq!(std::fs::read_to_string(path("mnt/hello")).unwrap(), "world");
    assert!(std::fs::write(path("mnt/hello"), "x").is_err());
    let twice = mezzo(&["image", "mount", "copy:2", &point, "--store", &other]);
    assert_eq!(twice.status.code(), Some(1), "{}", stderr(&twice));
    run(&["image", "remove", "copy:2", "--store", &other]);
    assert!(run(&["image", "mount", "--store", &other]).contains("copy:2"));
    assert_eq!(std::fs::read_to_string(path("mnt/hello")).unwrap(), "world");
    run(&["image", "umount", &point, "--store", &other]);
    run(&["image", "prune", "--store", &other]);
    let layers = std::fs::read_dir(path("other/layers")).unwrap();
    assert_eq!(layers.count(), 0);

    // Damage is told, by the exit code too, and dropped when asked to.
    let layer = std::fs::read_dir(path("store/layers")).unwrap().next();
    let file = layer.unwrap().unwrap().path().join("fs/hello");
    std::fs::write(file, "there").unwrap();
    let damaged = mezzo(&["image", "verify", "--store", &store]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(stdout(&damaged).contains("damaged"), "{}", stdout(&damaged));
    run(&["image", "verify", "--repair", "--store", &store]);
    for words in [
        vec!["image", "show", "nothing:1"],
        vec!["image", "export", "nothing:1", "-o", "./x.tar"],
        vec!["image", "verify", "nothing:1"],
        vec!["image", "umount", "/"],
    ] {
        let output = mezzo(&[words.as_slice(), &["--store", &store]].concat());
        assert_eq!(output.status.code(), Some(3), "{words:?}");
    }
    let no_file = mezzo(&["image", "export", "hello:1", "--store", &store]);
    assert_eq!(no_file.status.code(), Some(2), "{}", stderr(&no_file));
    let text = mezzo(&["image", "import", &root, "--store", &store]);
    assert_eq!(text.status.code(), Some(1));
    assert!(stderr(&text).contains("oci-layout"), "{}", stderr(&text));
}
