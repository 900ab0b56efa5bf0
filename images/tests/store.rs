//! The store as its keeper sees it: everything is hashed again, damage is found and mended, mounts hold their layers,
//! and it is told what takes how much.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Archive, Fake, Packed, TestImage, image, open, skip_unless_root};
use mezzo_images::{ImageStore, LayerState, PullPolicy, Reference, VerifyOptions, VerifyReport};

fn base() -> Vec<u8> {
    Archive::new()
        .dir("etc")
        .file("etc/a", &vec![b'a'; 100_000])
        .pax("SCHILY.xattr.user.note", b"x")
        .file("etc/noted", b"n")
        .hard_link("etc/b", "etc/a")
        .symlink("link", "etc/a")
        .done()
}

fn two(name: &str, word: &str) -> TestImage {
    let top = Archive::new()
        .file("top", word.repeat(50_000).as_bytes())
        .file("etc/.wh.noted", b"")
        .done();
    image(name, &[(base(), Packed::Gzip), (top, Packed::Plain)])
}

/// A store with the images `x` and `y`, which share a layer.
async fn filled(root: &Path) -> (Fake, ImageStore, [Reference; 2]) {
    let fake = Fake::serving(&[&two("x", "1"), &two("y", "2")]);
    let store = open(root).await;
    let names = [fake.reference("x"), fake.reference("y")];
    for name in &names {
        store
            .pull(name, PullPolicy::IfNotPresent, None)
            .await
            .unwrap();
    }
    (fake, store, names)
}

async fn verify(store: &ImageStore) -> VerifyReport {
    store.verify(VerifyOptions::default()).await.unwrap()
}

async fn repair(store: &ImageStore) -> VerifyReport {
    let options = VerifyOptions {
        repair: true,
        ..VerifyOptions::default()
    };
    store.verify(options).await.unwrap()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The folder of the layer that has a file of that name.
fn layer_with(root: &Path, file: &str) -> PathBuf {
    let mut layers = entries(&root.join("layers")).into_iter();
    layers
        .find(|layer| layer.join("fs").join(file).symlink_metadata().is_ok())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_layer_are_listed_in_the_background() {
    if skip_unless_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (_fake, _store, _) = filled(root.path()).await;
    let layers = entries(&root.path().join("layers"));
    assert_eq!(layers.len(), 3);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !layers.iter().all(|layer| layer.join("tree").exists()) {
        assert!(Instant::now() < deadline, "a layer was not listed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undamaged_store_is_clean_and_each_layer_is_listed_once() {
    if skip_unless_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (_fake, store, names) = filled(root.path()).await;
    assert!(verify(&store).await.found_nothing());
    let report = verify(&store).await;
    assert!(report.found_nothing(), "{report:?}");
    assert!(
        report
            .layers
            .iter()
            .all(|layer| layer.state == LayerState::Intact)
    );
    assert_eq!((report.images.len(), report.layers.len()), (2, 3));
    let bytes: u64 = report.layers.iter().map(|layer| layer.bytes).sum();
    assert_eq!(bytes, 200_001);
    // The same from the disk alone, and for one image only.
    drop(store);
    let store = open(root.path()).await;
    let options = VerifyOptions {
        references: vec![names[0].clone()],
        ..VerifyOptions::default()
    };
    let report = store.verify(options).await.unwrap();
    assert!(report.found_nothing(), "{report:?}");
    assert_eq!((report.images.len(), report.layers.len()), (1, 2));
}

fn blob_of(root: &Path, part: &str) -> PathBuf {
    let mut blobs = entries(&root.join("blobs/sha256")).into_iter();
    blobs
        .find(|blob| std::fs::read_to_string(blob).is_ok_and(|text| text.contains(part)))
        .unwrap()
}

type Damage = fn(&Path);

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_found_and_mended_by_a_repair_and_a_pull() {
    if skip_unless_root() {
        return;
    }
    let cases: [(&str, Damage); 9] = [
        ("content", |root| {
            let path = layer_with(root, "top").join("fs/top");
            let time = std::fs::metadata(&path).unwrap().modified().unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[1234] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(time).unwrap();
        }),
        ("attribute", |root| {
            let path = layer_with(root, "etc/a").join("fs/etc/noted");
            xattr::set(path, "user.note", b"y").unwrap();
        }),
        ("whiteout", |root| {
            std::fs::remove_file(layer_with(root, "top").join("fs/etc/noted")).unwrap();
        }),
        ("file too many", |root| {
            std::fs::write(layer_with(root, "etc/a").join("fs/etc/more"), "").unwrap();
        }),
        ("list of files", |root| {
            let path = layer_with(root, "top").join("tree");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replacen("0644", "0645", 1)).unwrap();
        }),
        ("missing layer", |root| {
            std::fs::remove_dir_all(layer_with(root, "etc/a")).unwrap();
        }),
        ("manifest", |root| {
            let path = blob_of(root, "schemaVersion");
            std::fs::write(path, "{}").unwrap();
        }),
        ("missing config", |root| {
            std::fs::remove_file(blob_of(root, "diff_ids")).unwrap();
        }),
        ("strays", |root| {
            for place in ["", "blobs", "layers", "references", "mounts", "tmp"] {
                std::fs::write(root.join(place).join("stray!"), "").unwrap();
            }
            std::fs::write(layer_with(root, "top").join("stray"), "").unwrap();
        }),
    ];
    for (what, damage) in cases {
        let root = tempfile::tempdir().unwrap();
        let (_fake, store, names) = filled(root.path()).await;
        assert!(verify(&store).await.found_nothing(), "{what}");
        damage(root.path());
        // A layer that is missing altogether is noticed by those who open the store.
        drop(store);
        if what == "strays" {
            // What is in `tmp` and no layer goes when the store is opened; put one there again.
            let store = open(root.path()).await;
            std::fs::write(root.path().join("tmp/stray!"), "").unwrap();
            assert_eq!(verify(&store).await.strays.len(), 6);
            drop(store);
        }
        let store = open(root.path()).await;
        let report = verify(&store).await;
        assert!(!report.is_clean(), "{what}: {report:?}");
        let report = repair(&store).await;
        assert!(
            report.is_clean() && !report.found_nothing(),
            "{what}: {report:?}"
        );
        for name in &names {
            let pulled = store.pull(name, PullPolicy::IfNotPresent, None).await;
            pulled.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        let report = verify(&store).await;
        assert!(report.found_nothing(), "{what}: {report:?}");
        assert_eq!(report.layers.len(), 3, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_in_use_is_left_alone_and_said_to_be() {
    if skip_unless_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (_fake, store, names) = filled(root.path()).await;
    verify(&store).await;
    let image = store.get(&names[0]).await.unwrap().unwrap();
    let snapshot = store.snapshot(&image, "c").unwrap();
    std::fs::write(snapshot.lowers[1].join("etc/a"), "changed").unwrap();
    let report = repair(&store).await;
    let states: BTreeSet<String> = report
        .layers
        .iter()
        .map(|layer| format!("{:?}", layer.state))
        .collect();
    assert_eq!(
        states,
        BTreeSet::from(["DamagedInUse".into(), "Intact".into()])
    );
    assert!(!report.is_clean());
    assert!(snapshot.lowers[1].join("etc/a").exists());
    store.remove_snapshot("c").unwrap();
    assert!(repair(&store).await.is_clean());
    assert!(!snapshot.lowers[1].exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn own_and_shared_bytes_are_told_apart() {
    if skip_unless_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (_fake, store, names) = filled(root.path()).await;
    // Counted for certain.
    verify(&store).await;
    let list = store.list().await.unwrap();
    for image in &list {
        assert!(image.disk.own_bytes >= 50_000, "{image:?}");
        assert!(image.disk.shared_bytes >= 100_000, "{image:?}");
        assert!(image.pulled_at.is_some() && image.last_used >= image.pulled_at);
    }
    let all = list.iter().map(|image| image.disk.own_bytes).sum::<u64>();
    assert_eq!(store.disk_bytes(), all + list[0].disk.shared_bytes);

    let details = store.inspect(&names[0]).await.unwrap().unwrap();
    let shared: Vec<usize> = details.layers.iter().map(|l| l.shared_with).collect();
    assert_eq!(shared, [1, 0]);
    assert_eq!(details.layers[0].entries, Some(6));
    assert!(!details.in_use);
    let image = store.get(&names[0]).await.unwrap().unwrap();
    store.snapshot(&image, "c").unwrap();
    assert!(store.inspect(&names[0]).await.unwrap().unwrap().in_use);

    let removed = store.remove(&names[1]).await.unwrap();
    assert_eq!(removed.bytes, list[1].disk.own_bytes);
    let left = store.list().await.unwrap();
    assert_eq!(left[0].disk.shared_bytes, 0, "nobody else is left");
}

/// Mounts at a folder of its own, and unmounts whatever happens.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_holds_its_layers_also_from_the_next_process_until_it_is_gone() {
    if skip_unless_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (_fake, store, names) = filled(root.path()).await;
    let image = store.get(&names[0]).await.unwrap().unwrap();
    let point = Mounted(tempfile::tempdir().unwrap());
    let plan = store.plan_mount(&image, point.path()).unwrap();
    let lowers: Vec<_> = plan
        .lowers
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect();
    nix::mount::mount(
        Some(plan.source.as_str()),
        point.path(),
        Some("overlay"),
        nix::mount::MsFlags::MS_RDONLY,
        Some(format!("lowerdir={}", lowers.join(":")).as_str()),
    )
    .unwrap();
    drop(plan);
    assert!(store.plan_mount(&image, point.path()).is_err(), "twice");
    drop(store);

    let store = open(root.path()).await;
    assert_eq!(store.mounts().unwrap()[0].target, point.path());
    store.prune(&BTreeSet::new()).await.unwrap();
    assert_eq!(store.list().await.unwrap(), []);
    assert_eq!(
        std::fs::read(point.path().join("top")).unwrap().len(),
        50_000
    );
    assert!(!point.path().join("etc/noted").exists());
    assert_eq!(entries(&root.path().join("layers")).len(), 2);

    nix::mount::umount(point.path()).unwrap();
    assert_eq!(store.mounts().unwrap(), []);
    store.prune(&BTreeSet::new()).await.unwrap();
    assert_eq!(entries(&root.path().join("layers")).len(), 0);
    drop(store);
    let store = open(root.path()).await;
    assert_eq!(entries(&root.path().join("mounts")).len(), 0);
    assert!(!store.forget_mount(point.path()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_layer_can_be_mounted_as_well() {
    if skip_unless_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::serving(&[&image("x", &[(base(), Packed::Plain)])]);
    let store = open(root.path()).await;
    let image = store
        .pull(&fake.reference("x"), PullPolicy::IfNotPresent, None)
        .await
        .unwrap();
    let plan = store.plan_mount(&image, Path::new("/mnt/x")).unwrap();
    assert_eq!(plan.lowers.len(), 2);
    assert!(store.plan_mount(&image, Path::new("relative")).is_err());
    drop(plan);
    // Never mounted: it holds nothing.
    store.prune(&BTreeSet::new()).await.unwrap();
    assert_eq!(entries(&root.path().join("layers")).len(), 0);
    assert!(verify(&store).await.found_nothing());
}
