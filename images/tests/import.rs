//! Images from files: every format gives the image that a pull gives, and what is wrong with a file is said.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

mod common;

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{
    Archive, OCI_INDEX, OCI_MANIFEST, Packed, TestImage, config, descriptor, gzip, host_arch,
    image, image_for, open, skip_unless_root,
};
use mezzo_images::{
    Digest, Image, ImageStore, ImportError, ImportOptions, ImportSource, PackOptions, Reference,
    pack,
};
use serde_json::{Value, json};

fn layers(word: &str) -> [(Vec<u8>, Packed); 2] {
    [
        (
            Archive::new().dir("etc").file("etc/a", b"base").done(),
            Packed::Plain,
        ),
        (
            Archive::new().file("etc/b", word.as_bytes()).done(),
            Packed::Gzip,
        ),
    ]
}

/// The files of an OCI layout that holds these images, by the annotations of their index.
fn layout(images: &[(&TestImage, Value)]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![(
        "oci-layout".to_string(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    )];
    let mut entries = Vec::new();
    for (image, extra) in images {
        let (media_type, bytes) = image.manifests.last().unwrap();
        let mut entry = descriptor(media_type, bytes);
        for (key, value) in extra.as_object().unwrap() {
            entry[key] = value.clone();
        }
        entries.push(entry);
        let manifests = image.manifests.iter().map(|(_, bytes)| bytes);
        for blob in manifests.chain(&image.blobs) {
            files.push((
                format!("blobs/sha256/{}", Digest::of(blob).hex()),
                blob.clone(),
            ));
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    files.push(("index.json".into(), index.to_string().into_bytes()));
    files.sort();
    files.dedup();
    files
}

fn named(name: &str) -> Value {
    json!({"annotations": {"io.containerd.image.name": name}})
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Archive::new();
    for (name, bytes) in files {
        archive = archive.file(name, bytes);
    }
    archive.done()
}

fn folder(root: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    for (name, bytes) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    root.to_path_buf()
}

/// What `docker save` wrote before it wrote layouts; layers that are the same are links to the first.
fn docker_save(images: &[(&str, &[Vec<u8>])]) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut list = Vec::new();
    for (name, layers) in images {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({"architecture": host_arch(), "os": "linux", "config": {"Cmd": ["/x"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
        .into_bytes();
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let names: Vec<_> = diff_ids
            .iter()
            .map(|diff_id| format!("{}/layer.tar", diff_id.hex()))
            .collect();
        for (name, layer) in names.iter().zip(*layers) {
            files.push((name.clone(), layer.clone()));
        }
        list.push(json!({"Config": config_name, "RepoTags": [name], "Layers": names}));
        files.push((config_name, config));
    }
    files.push(("manifest.json".into(), json!(list).to_string().into_bytes()));
    files.sort();
    files.dedup();
    files
}

fn stream(bytes: Vec<u8>) -> ImportSource {
    ImportSource::Stream(Box::new(Cursor::new(bytes)), "x.tar".into())
}

async fn import(
    store: &ImageStore,
    source: ImportSource,
    name: Option<&str>,
    image: Option<&str>,
) -> Result<(Reference, Image), ImportError> {
    let options = ImportOptions {
        source,
        name: name.map(|name| name.parse().unwrap()),
        image: image.map(ToString::to_string),
    };
    store.import_archive(options, None).await
}

/// A good layer may stay when another one is bad, for the next attempt: nobody sees it.
fn nothing_left(store: &Path) {
    let count = |place| std::fs::read_dir(store.join(place)).unwrap().count();
    for place in ["references", "blobs/sha256"] {
        assert_eq!(count(place), 0, "something is left in {place}");
    }
    // A layer that was being unpacked when another one failed is deleted by the thread that unpacks it.
    let deadline = Instant::now() + Duration::from_secs(60);
    while count("tmp") > 0 {
        assert!(Instant::now() < deadline, "something is left in tmp");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Imports from a stream into a fresh store; nothing may be left of a failure.
async fn fail(bytes: Vec<u8>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = open(&root).await;
    let error = import(&store, stream(bytes), Some("a:1"), None)
        .await
        .expect_err("was accepted");
    nothing_left(&root);
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    println!("{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_a_layout_comes_gives_the_same_image() {
    if skip_unless_root() {
        return;
    }
    let image = image("x", &layers("one"));
    let files = layout(&[(&image, named("docker.io/library/app:1"))]);
    let dir = tempfile::tempdir().unwrap();
    let archive = tar(&files);
    let path = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        ImportSource::Path(path)
    };
    let zstd = zstd::encode_all(archive.as_slice(), 1).unwrap();
    let sources = [
        ImportSource::Path(folder(&dir.path().join("layout"), &files)),
        path("plain.tar", &archive),
        path("gzipped", &gzip(&archive)),
        path("zstd", &zstd),
        stream(archive.clone()),
        stream(gzip(&archive)),
    ];
    for source in sources {
        let told = format!("{source:?}");
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let (name, imported) = import(&store, source, None, None).await.unwrap();
        assert_eq!(name.to_string(), "docker.io/library/app:1", "{told}");
        assert_eq!(
            imported.manifest_digest,
            Digest::of(&image.manifests[0].1),
            "{told}"
        );
        assert_eq!(store.get(&name).await.unwrap(), Some(imported.clone()));
        let lowers = store.snapshot(&imported, "k").unwrap().lowers;
        assert_eq!(std::fs::read(lowers[0].join("etc/b")).unwrap(), b"one");
        assert_eq!(std::fs::read(lowers[1].join("etc/a")).unwrap(), b"base");
        assert_eq!(
            std::fs::read_dir(root.path().join("tmp")).unwrap().count(),
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_save_wrote_is_imported_with_links_and_compressed_layers() {
    if skip_unless_root() {
        return;
    }
    let base = Archive::new().file("a", b"1").done();
    let top = Archive::new().file("b", b"2").done();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let plain = docker_save(&[("app:1", &[base.clone(), top.clone()])]);
    let (name, first) = import(&store, stream(tar(&plain)), None, None)
        .await
        .unwrap();
    assert_eq!(name.to_string(), "docker.io/library/app:1");
    assert_eq!(first.layers.len(), 2);

    // The same image with the second layer compressed, and with a link in place of a layer.
    let mut packed = docker_save(&[("app:2", &[base.clone(), top.clone()])]);
    let top_name = format!("{}/layer.tar", Digest::of(&top).hex());
    let layer = packed.iter_mut().find(|(name, _)| *name == top_name);
    layer.unwrap().1 = gzip(&top);
    let mut archive = Archive::new();
    for (name, bytes) in &packed {
        archive = archive.file(&format!("./{name}"), bytes);
    }
    let base_name = format!("{}/layer.tar", Digest::of(&base).hex());
    let linked: Vec<_> = packed
        .iter()
        .filter(|(name, _)| *name != base_name)
        .cloned()
        .collect();
    let mut links = Archive::new()
        .file("first/layer.tar", &base)
        .symlink(&base_name, "../first/layer.tar");
    for (name, bytes) in &linked {
        links = links.file(name, bytes);
    }
    for archive in [archive.done(), links.done()] {
        let (_, again) = import(&store, stream(archive), Some("other:1"), None)
            .await
            .unwrap();
        assert_eq!(again.layers, first.layers, "the layers are shared");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_images_one_is_chosen_or_all_are_listed() {
    if skip_unless_root() {
        return;
    }
    let (one, two) = (image("x", &layers("one")), image("x", &layers("two")));
    let archive = tar(&layout(&[(&one, named("app:1")), (&two, named("app:2"))]));
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let error = import(&store, stream(archive.clone()), None, None)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ImportError::Several { found, .. } if found == &["app:1", "app:2"]),
        "{error}"
    );
    let (_, chosen) = import(&store, stream(archive.clone()), Some("app:2"), None)
        .await
        .unwrap();
    assert_eq!(chosen.manifest_digest, Digest::of(&two.manifests[0].1));
    let (name, chosen) = import(&store, stream(archive), Some("mine:1"), Some("app:1"))
        .await
        .unwrap();
    assert_eq!(chosen.manifest_digest, Digest::of(&one.manifests[0].1));
    assert_eq!(name.to_string(), "docker.io/library/mine:1");

    let base = Archive::new().file("a", b"1").done();
    let top = Archive::new().file("b", b"2").done();
    let archive = tar(&docker_save(&[
        ("app:1", std::slice::from_ref(&base)),
        ("app:2", &[base.clone(), top]),
    ]));
    let (_, chosen) = import(&store, stream(archive), Some("app:2"), None)
        .await
        .unwrap();
    assert_eq!(chosen.layers.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_platforms_the_hosts_is_taken() {
    if skip_unless_root() {
        return;
    }
    let ours = image("x", &layers("ours"));
    let theirs = image_for("x", "m68k", &layers("theirs"));
    let platform = |arch: &str| json!({"platform": {"os": "linux", "architecture": arch}});
    let direct = layout(&[(&theirs, platform("m68k")), (&ours, platform(host_arch()))]);
    // The same by an index of its own, as buildx writes it.
    let entry = |image: &TestImage, arch: &str| {
        let mut entry = descriptor(OCI_MANIFEST, &image.manifests[0].1);
        entry["platform"] = platform(arch)["platform"].clone();
        entry
    };
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [entry(&theirs, "m68k"), entry(&ours, host_arch())]});
    let mut nested = ours.clone();
    nested
        .manifests
        .push((OCI_INDEX.into(), index.to_string().into_bytes()));
    let nested = layout(&[(&nested, named("app:1"))]);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    for files in [direct, nested] {
        let (_, chosen) = import(&store, stream(tar(&files)), Some("a:1"), None)
            .await
            .unwrap();
        assert_eq!(chosen.manifest_digest, Digest::of(&ours.manifests[0].1));
    }
    let error = fail(tar(&layout(&[(&theirs, json!({}))]))).await;
    assert!(error.contains("m68k"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_those_of_their_digest_are_refused() {
    let image = image("x", &layers("one"));
    let good = layout(&[(&image, json!({}))]);
    for at in 0..good.len() {
        let (name, bytes) = &good[at];
        if !name.starts_with("blobs/") {
            continue;
        }
        let mut damaged = good.clone();
        let middle = bytes.len() / 2;
        damaged[at].1[middle] ^= 1;
        let error = fail(tar(&damaged)).await;
        assert!(error.contains("digest"), "{name}: {error}");

        let mut shorter = good.clone();
        shorter[at].1.pop();
        let error = fail(tar(&shorter)).await;
        assert!(error.contains("declared"), "{name}: {error}");

        let mut missing = good.clone();
        missing.remove(at);
        let error = fail(tar(&missing)).await;
        assert!(error.contains(name) && error.contains("missing"), "{error}");
    }
    // A config of `docker save` under a digest that is not its own, and a layer that is not that of the config.
    let base = Archive::new().file("a", b"1").done();
    let good = docker_save(&[("app:1", std::slice::from_ref(&base))]);
    for wanted in [".json", "layer.tar"] {
        let mut damaged = good.clone();
        let part = damaged
            .iter_mut()
            .find(|(name, _)| name.ends_with(wanted) && name != "manifest.json");
        let bytes = &mut part.unwrap().1;
        let spot = bytes.windows(2).position(|pair| pair == b"/x").unwrap_or(0);
        bytes[spot + 1] ^= 2;
        let error = fail(tar(&damaged)).await;
        assert!(error.contains("digest"), "{wanted}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_images_are_refused_with_the_reason() {
    let image = image("x", &layers("one"));
    let good = layout(&[(&image, json!({}))]);
    let with = |name: &str, text: &str| {
        let mut files = good.clone();
        files.retain(|(known, _)| known != name);
        files.push((name.into(), text.as_bytes().to_vec()));
        tar(&files)
    };
    let list = |text: &str| tar(&[("manifest.json".into(), text.as_bytes().to_vec())]);
    let cases = [
        (vec![b'x'; 4096], "tar archive"),
        (Vec::new(), "neither"),
        (tar(&[("hello".into(), b"x".to_vec())]), "oci-layout"),
        (b"\xfd7zXZ\0\0\0".to_vec(), "could not read"),
        (gzip(&tar(&good))[..200].to_vec(), "could not read"),
        (
            with("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#),
            "2.0.0",
        ),
        (with("index.json", "{"), "malformed"),
        (
            with("index.json", r#"{"schemaVersion":2,"manifests":[]}"#),
            "no images",
        ),
        (
            with(
                "index.json",
                r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#,
            ),
            "index.json",
        ),
        (list("{}"), "malformed"),
        (list("[]"), "no images"),
        (
            list(r#"[{"Config":"../x.json","Layers":[]}]"#),
            "no name of a file",
        ),
        (list(r#"[{"Config":"x.json","Layers":[]}]"#), "missing"),
        (
            Archive::new().symlink("oci-layout", "/etc/hostname").done(),
            "leads out",
        ),
    ];
    for (bytes, part) in cases {
        let error = fail(bytes).await;
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn symlinks_in_a_layout_directory_are_not_followed() {
    let image = image("x", &layers("one"));
    let files = layout(&[(&image, json!({}))]);
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    for swapped in ["index.json", "blobs", "blobs/sha256"] {
        let root = folder(
            &dir.path().join(format!("layout-{}", swapped.len())),
            &files,
        );
        let real = outside.join(swapped.replace('/', "-"));
        std::fs::rename(root.join(swapped), &real).unwrap();
        std::os::unix::fs::symlink(&real, root.join(swapped)).unwrap();
        let store_root = dir.path().join("store");
        let store = open(&store_root).await;
        let error = import(&store, ImportSource::Path(root), Some("a:1"), None)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("symlink"), "{swapped}: {error}");
        nothing_left(&store_root);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_inflates_beyond_the_bounds_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir.path().join("store"));
    config.max_unpacked_bytes = 100_000;
    let store = ImageStore::open(config).await.unwrap();
    let bomb = gzip(&vec![0; 10_000_000]);
    let error = import(&store, stream(bomb), Some("a:1"), None)
        .await
        .unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("100000 bytes"), "{error}: {cause}");
    nothing_left(&dir.path().join("store"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pack_writes_is_imported_as_the_same_image() {
    if skip_unless_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("root");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("hello"), "world").unwrap();
    let options = PackOptions {
        source,
        ..PackOptions::default()
    };
    let packed = pack(&options).unwrap();
    let mut archive = Vec::new();
    packed
        .write_archive(&"hello:1".parse().unwrap(), &mut archive)
        .unwrap();
    let store = open(&dir.path().join("store")).await;
    let (name, imported) = import(&store, stream(archive), None, None).await.unwrap();
    assert_eq!(imported.manifest_digest, packed.digest());
    assert_eq!(name.to_string(), "docker.io/library/hello:1");
}
