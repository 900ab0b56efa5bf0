//! More than an image may take: bytes, entries, headers, memory. All of it with honest digests: what is refused here is
//! refused for its cost.

use std::io::Write as _;

use mezzo_images::{Digest, ManifestError, PullError, PullPolicy, UnpackError, UnpackLimits};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::common::{
    Answer, Archive, Fake, LAYER, OCI_CONFIG, OCI_MANIFEST, Packed, TestImage, descriptor,
    host_arch, open, skip_unless_root,
};
use crate::pull_with;

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_cost_too_much_are_refused() {
    if skip_unless_root() {
        return;
    }
    let zeros = Archive::new().file("zeros", &vec![0; 40 << 20]).done();
    for packed in [Packed::Plain, Packed::Gzip, Packed::Zstd] {
        let error = pull_with(
            |config| config.max_unpacked_bytes = 10 << 20,
            zeros.clone(),
            packed,
        )
        .await
        .unwrap_err();
        assert!(matches!(error, UnpackError::TooMuch { .. }), "{error}");
        pull_with(|_| {}, zeros.clone(), packed).await.unwrap();
    }
    let many = (0..200)
        .fold(Archive::new(), |archive, n| {
            archive.file(&format!("f{n}"), b"")
        })
        .done();
    let few = |config: &mut mezzo_images::StoreConfig| {
        config.limits = UnpackLimits {
            max_entries: 100,
            ..UnpackLimits::default()
        };
    };
    let error = pull_with(few, many, Packed::Gzip).await.unwrap_err();
    assert!(
        matches!(
            error,
            UnpackError::TooMuch {
                what: "entries",
                limit: 100
            }
        ),
        "{error}"
    );
    let wide = Archive::new()
        .pax("comment", &vec![b'x'; 2 << 20])
        .file("a", b"")
        .done();
    let error = pull_with(|_| {}, wide, Packed::Gzip).await.unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { .. }), "{error}");
}

/// An image of one layer that is given as it goes over the wire, with an honest digest.
fn wire(blob: Vec<u8>, suffix: &str) -> TestImage {
    let diff_id = Digest::of(b"whatever it would be").to_string();
    let config = json!({"architecture": host_arch(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let config = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, &config),
        "layers": [descriptor(&format!("{LAYER}{suffix}"), &blob)]});
    TestImage {
        name: "x".into(),
        manifests: vec![(OCI_MANIFEST.into(), manifest.to_string().into_bytes())],
        blobs: vec![blob, config],
    }
}

async fn refuse_wire(image: &TestImage) -> UnpackError {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::serving(&[image]);
    let store = open(&folder.path().join("store")).await;
    let error = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap_err();
    assert!(!error.is_transient(), "{error}");
    let PullError::Unpack { problem, .. } = error else {
        panic!("{error}")
    };
    let left = std::fs::read_dir(folder.path().join("store/tmp"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "something is left of it");
    std::sync::Arc::try_unwrap(problem).unwrap()
}

/// A few hundred KiB that inflate to 300 MiB, behind the archive's end, where nothing is written: the bound is on what
/// is inflated, not on what reaches the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_stopped_by_its_ratio_wherever_it_hides() {
    let archive = Archive::new().file("small", b"x").done();
    let megabyte = vec![0; 1 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    gzip.write_all(&archive).unwrap();
    zstd.write_all(&archive).unwrap();
    for _ in 0..300 {
        gzip.write_all(&megabyte).unwrap();
        zstd.write_all(&megabyte).unwrap();
    }
    for (bomb, suffix) in [
        (gzip.finish().unwrap(), "+gzip"),
        (zstd.finish().unwrap(), "+zstd"),
    ] {
        assert!(bomb.len() < 3 << 20, "it is no bomb");
        let error = refuse_wire(&wire(bomb, suffix)).await;
        let expected = "unpacked bytes for each compressed byte";
        assert!(
            matches!(error, UnpackError::TooMuch { what, .. } if what == expected),
            "{error}"
        );
    }
}

/// A zstd frame that asks for a window of 2 GiB before it has said a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_asks_for_memory_does_not_get_it() {
    let frame = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3][..],
        &[0x01, 0x00, 0x00],
    ]
    .concat();
    let error = refuse_wire(&wire(frame, "+zstd")).await;
    let UnpackError::Decompress(source) = &error else {
        panic!("{error}")
    };
    assert!(source.to_string().contains("memory"), "{source}");
}

/// Each entry of a few bytes names hundreds of directories that no entry describes.
#[tokio::test(flavor = "multi_thread")]
async fn directories_that_are_only_implied_count() {
    if skip_unless_root() {
        return;
    }
    let deep = (0..60)
        .fold(Archive::new(), |archive, n| {
            archive.file(&format!("{n}/{}x", "d/".repeat(100)), b"")
        })
        .done();
    let few = |config: &mut mezzo_images::StoreConfig| {
        config.limits = UnpackLimits {
            max_entries: 1000,
            ..UnpackLimits::default()
        };
    };
    let error = pull_with(few, deep, Packed::Gzip).await.unwrap_err();
    assert!(
        matches!(
            error,
            UnpackError::TooMuch {
                what: "entries",
                limit: 1000
            }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_headers_are_refused() {
    if skip_unless_root() {
        return;
    }
    let row = (0..100)
        .fold(Archive::new(), |archive, _| {
            archive.global_pax("comment", b"x")
        })
        .file("a", b"")
        .done();
    let names = (0..100)
        .fold(Archive::new(), |archive, _| archive.gnu_long(b'L', b"x"))
        .file("a", b"")
        .done();
    let endless = Archive::new()
        .declare(1 << 40)
        .entry(b'x', "pax", "", b"", (0, 0))
        .done();
    let attributes = (0..30_000)
        .fold(Archive::new(), |archive, n| {
            archive.pax(&format!("SCHILY.xattr.user.{n}"), b"x")
        })
        .file("a", b"")
        .done();
    for (what, archive) in [
        ("global", row),
        ("long names", names),
        ("endless", endless),
        ("attributes", attributes),
    ] {
        let error = pull_with(|_| {}, archive, Packed::Gzip).await;
        println!("{what}: {}", error.expect_err(what));
    }
}

/// Bounds on the archive as a whole hold over all layers of an image together.
#[tokio::test(flavor = "multi_thread")]
async fn the_bound_on_bytes_is_of_the_whole_image() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let layers: Vec<_> = (0..6)
        .map(|n| {
            (
                Archive::new()
                    .file(&format!("f{n}"), &vec![n; 3 << 20])
                    .done(),
                Packed::Gzip,
            )
        })
        .collect();
    let fake = Fake::serving(&[&crate::common::image("x", &layers)]);
    let mut config = crate::common::config(&folder.path().join("store"));
    config.max_unpacked_bytes = 10 << 20;
    let store = mezzo_images::ImageStore::open(config).await.unwrap();
    let error = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("unpacked bytes in the image"),
        "{error}"
    );
    assert_eq!(store.list().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_layers_or_ten_gigabytes_of_config_cost_one_request() {
    let layer = descriptor(LAYER, b"x");
    let mut huge = descriptor(OCI_CONFIG, b"{}");
    huge["size"] = json!(10u64 << 30);
    for (config, layers) in [(descriptor(OCI_CONFIG, b"{}"), 10_000), (huge, 1)] {
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config,
            "layers": vec![layer.clone(); layers]});
        let text = manifest.to_string().into_bytes();
        let fake = Fake::start(move |_| Answer::Full(200, OCI_MANIFEST.into(), text.clone()));
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("store")).await;
        let error = store
            .pull(&fake.reference("x"), PullPolicy::Always, None)
            .await
            .unwrap_err();
        let PullError::Manifest { problem, .. } = &error else {
            panic!("{error}")
        };
        let told = matches!(
            problem,
            ManifestError::TooManyLayers(10_000) | ManifestError::Size { .. }
        );
        assert!(told, "{error}");
        assert_eq!(
            fake.requests.lock().unwrap().len(),
            1,
            "more was fetched than the manifest"
        );
    }
}

/// What neither bound nor ratio forbids may still be more than the disk has: the layer goes, the store stays usable.
#[test]
fn a_full_disk_ends_a_pull_and_leaves_nothing() {
    if skip_unless_root() {
        return;
    }
    let large = crate::common::image(
        "large",
        &[(
            Archive::new().file("f", &vec![7; 32 << 20]).done(),
            Packed::Gzip,
        )],
    );
    let small = crate::common::image(
        "small",
        &[(Archive::new().file("f", b"x").done(), Packed::Gzip)],
    );
    let fake = Fake::serving(&[&large, &small]);
    let (large, small) = (fake.reference("large"), fake.reference("small"));
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_path_buf();
    // A mount namespace that dies with this thread, and with the runtime's, which it makes.
    let pulls = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        mount(
            Some("tmpfs"),
            &root,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=16m"),
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = open(&root.join("store")).await;
            let error = store
                .pull(&large, PullPolicy::Always, None)
                .await
                .unwrap_err();
            let left = std::fs::read_dir(root.join("store/tmp")).unwrap().count();
            let next = store.pull(&small, PullPolicy::Always, None).await;
            (error.to_string(), left, next.map(drop))
        })
    });
    let (error, left, next) = pulls.join().unwrap();
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(left, 0, "something is left of it");
    next.expect("the store is usable");
}
