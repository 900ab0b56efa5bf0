//! What is exported is the same image in all but its digests, whatever its layers hold.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

mod common;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::{Archive, Fake, Packed, Registry, config, image, open, skip_unless_root};
use mezzo_images::{
    DeviceNodes, Image, ImageStore, ImportOptions, ImportSource, PullPolicy, VerifyOptions, push,
};
use nix::sys::stat::{Mode, SFlag, mknod};

/// Everything that a layer can hold.
fn base() -> Vec<u8> {
    let long = format!("{}/file", "directory/".repeat(20).trim_end_matches('/'));
    Archive::new()
        .mode(0o711)
        .dir("./")
        .dir("etc")
        .file("etc/gone", b"1")
        .dir("opt")
        .file("opt/old", b"1")
        .mode(0o4755)
        .owner(3_000_000, 42)
        .pax("mtime", b"1234567890.123456789")
        .pax("SCHILY.xattr.user.note", b"a=b\n")
        .file("setuid", &vec![b's'; 300_000])
        .hard_link("etc/again", "setuid")
        .file(&long, b"long")
        .symlink("link", "../a//b/")
        .symlink("long-link", &"t/".repeat(100))
        .file("sp ace\u{e9}", b"")
        .device("null", b'3', 1, 3)
        .done()
}

fn top() -> Vec<u8> {
    Archive::new()
        .file("etc/.wh.gone", b"")
        .dir("opt")
        .file("opt/.wh..wh..opq", b"")
        .file("opt/new", b"2")
        .done()
}

fn opaque() -> Vec<u8> {
    Archive::new()
        .file(".wh..wh..opq", b"")
        .file("alone", b"3")
        .done()
}

async fn store(root: &Path) -> ImageStore {
    let mut config = config(root);
    config.limits.device_nodes = DeviceNodes::Create;
    ImageStore::open(config).await.unwrap()
}

/// Every file below a layer as a line that tells all of it.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    fn look(root: &Path, folder: &Path, all: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let found = std::fs::symlink_metadata(&path).unwrap();
            let kind = found.file_type();
            let content = if kind.is_file() {
                format!(
                    "{:?}",
                    mezzo_images::Digest::of(&std::fs::read(&path).unwrap())
                )
            } else if kind.is_symlink() {
                format!("{:?}", std::fs::read_link(&path).unwrap())
            } else if kind.is_char_device() {
                found.rdev().to_string()
            } else {
                String::new()
            };
            let xattrs: BTreeMap<_, _> = xattr::list(&path)
                .unwrap()
                .map(|name| (name.clone(), xattr::get(&path, &name).unwrap()))
                .collect();
            if kind.is_char_device() && found.rdev() == 0 {
                // A whiteout has the time when it was unpacked.
                all.insert(path.strip_prefix(root).unwrap().into(), "whiteout".into());
                continue;
            }
            let line = format!(
                "{:o} {}:{} {}.{} {} {content} {xattrs:?}",
                found.mode(),
                found.uid(),
                found.gid(),
                found.mtime(),
                found.mtime_nsec(),
                if kind.is_dir() { 0 } else { found.nlink() },
            );
            all.insert(path.strip_prefix(root).unwrap().into(), line);
            if kind.is_dir() {
                look(root, &path, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    look(root, root, &mut all);
    all
}

fn layers(store: &ImageStore, image: &Image, key: &str) -> Vec<BTreeMap<PathBuf, String>> {
    let snapshot = store.snapshot(image, key).unwrap();
    snapshot.lowers.iter().map(|lower| listing(lower)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_image_imported_elsewhere_has_the_same_files() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fakes = [
        image("x", &[(base(), Packed::Zstd), (top(), Packed::Gzip)]),
        image("y", &[(base(), Packed::Plain), (opaque(), Packed::Plain)]),
    ];
    let fake = Fake::serving(&[&fakes[0], &fakes[1]]);
    let here = store(&folder.path().join("here")).await;
    let there = store(&folder.path().join("there")).await;
    for name in ["x", "y"] {
        let reference = fake.reference(name);
        let image = here
            .pull(&reference, PullPolicy::IfNotPresent, None)
            .await
            .unwrap();
        let packed = here.export(&reference).await.unwrap();
        assert_eq!(
            here.export(&reference).await.unwrap().digest(),
            packed.digest()
        );
        let mut archive = Vec::new();
        packed.write_archive(&reference, &mut archive).unwrap();
        let options = ImportOptions {
            source: ImportSource::Stream(Box::new(Cursor::new(archive)), "x.tar".into()),
            name: None,
            image: None,
        };
        let (imported_name, imported) = there.import_archive(options, None).await.unwrap();
        assert_eq!(imported_name, reference);
        assert_eq!(imported.manifest_digest, packed.digest());
        assert_eq!(imported.config, image.config);
        let (ours, theirs) = (layers(&here, &image, name), layers(&there, &imported, name));
        assert_eq!(ours, theirs, "{name}");
        // Packed again from there it has the same digest: nothing was lost on the way.
        let again = there.export(&imported_name).await.unwrap();
        assert_eq!(again.digest(), packed.digest());
    }
    let report = there.verify(VerifyOptions::default()).await.unwrap();
    assert!(report.found_nothing(), "{report:?}");
    assert_eq!(
        std::fs::read_dir(folder.path().join("here/tmp"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_the_store_can_be_pushed_by_another_name_and_pulled_again() {
    if skip_unless_root() {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::serving(&[&image(
        "x",
        &[(base(), Packed::Plain), (top(), Packed::Plain)],
    )]);
    let here = open(&folder.path().join("here")).await;
    let reference = fake.reference("x");
    let image = here
        .pull(&reference, PullPolicy::IfNotPresent, None)
        .await
        .unwrap();
    let packed = here.export(&reference).await.unwrap();
    let name = registry.reference("copy:1");
    let pushed = push(
        &packed,
        &name,
        &mezzo_images::RegistriesConfig::default(),
        None,
    )
    .await
    .unwrap();
    assert_eq!(pushed, packed.digest());
    let there = open(&folder.path().join("there")).await;
    let pulled = there
        .pull(&name, PullPolicy::IfNotPresent, None)
        .await
        .unwrap();
    assert_eq!(pulled.manifest_digest, packed.digest());
    assert_eq!(layers(&here, &image, "k"), layers(&there, &pulled, "k"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_or_cannot_be_read_is_not_exported() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::serving(&[&image("x", &[(base(), Packed::Plain)])]);
    let here = open(folder.path()).await;
    let error = here.export(&fake.reference("x")).await.unwrap_err();
    assert!(error.to_string().contains("no image"), "{error}");
    let image = here
        .pull(&fake.reference("x"), PullPolicy::IfNotPresent, None)
        .await
        .unwrap();
    let root = here.snapshot(&image, "k").unwrap().lowers.remove(0);
    // A bound one would need a short path.
    mknod(&root.join("socket"), SFlag::S_IFSOCK, Mode::S_IRUSR, 0).unwrap();
    let error = here.export(&fake.reference("x")).await.unwrap_err();
    assert!(error.to_string().contains("verify"), "{error}");
}
