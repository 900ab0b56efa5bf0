//! Registries that are wrong, slow, down or hostile, and stores that were damaged: one clear error each, nothing left.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use common::{
    Answer, Archive, Fake, LAYER, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Packed, TestImage, answers,
    config, descriptor, host_arch, image, image_for, not_found, open, skip_unless_root,
};
use mezzo_images::{
    Digest, ImageStore, ManifestError, OpenError, PullError, PullPolicy, RegistryError,
};
use serde_json::{Value, json};

fn simple() -> TestImage {
    image(
        "x",
        &[(
            Archive::new().file("file", &vec![b'x'; 200_000]).done(),
            Packed::Plain,
        )],
    )
}

fn nothing_left(store: &Path) {
    for place in ["layers", "tmp", "references", "blobs/sha256"] {
        let left = std::fs::read_dir(store.join(place)).unwrap().count();
        assert_eq!(left, 0, "something is left in {place}");
    }
}

/// Pulls `x` from a registry that answers so; nothing may be left of a failure.
async fn fail(fake: &Fake) -> PullError {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = open(&root).await;
    let error = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .expect_err("was accepted");
    println!("{error}");
    assert_eq!(store.list().await.unwrap(), []);
    nothing_left(&root);
    error
}

/// An honest registry for one image but for the paths that contain `part`.
fn but(
    image: &TestImage,
    part: String,
    change: impl Fn(Answer) -> Answer + Send + Sync + 'static,
) -> Fake {
    let answers = answers(&[image]);
    Fake::start(move |request| {
        let honest = answers
            .get(&request.path)
            .cloned()
            .unwrap_or_else(not_found);
        if request.path.contains(&part) {
            change(honest)
        } else {
            honest
        }
    })
}

fn body(answer: &Answer) -> Vec<u8> {
    let Answer::Full(_, _, body) = answer else {
        panic!("not an honest answer")
    };
    body.clone()
}

fn full(bytes: Vec<u8>) -> Answer {
    Answer::Full(200, "application/octet-stream".into(), bytes)
}

fn layer_path(image: &TestImage) -> String {
    format!("/blobs/{}", Digest::of(&image.blobs[0]))
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_those_of_the_digest_are_refused() {
    let image = simple();
    let config_path = format!("/blobs/{}", Digest::of(&image.blobs[1]));
    let flip = |answer: Answer| {
        let mut bytes = body(&answer);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        full(bytes)
    };
    for path in [layer_path(&image), config_path] {
        let error = fail(&but(&image, path, flip)).await;
        assert!(
            matches!(
                error,
                PullError::Registry(RegistryError::WrongDigest { .. })
            ),
            "{error}"
        );
    }
    // Damage that hits the compressed stream is a wrong digest, too, not a bad archive.
    let gzipped = common::image(
        "x",
        &[(
            Archive::new().file("file", &vec![b'x'; 200_000]).done(),
            Packed::Gzip,
        )],
    );
    let error = fail(&but(&gzipped, layer_path(&gzipped), flip)).await;
    assert!(
        matches!(
            error,
            PullError::Registry(RegistryError::WrongDigest { .. })
        ),
        "{error}"
    );
    // A manifest asked for by digest.
    let fake = but(&image, "/manifests/".into(), flip);
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let pinned = format!("{}/x@{}", fake.host, Digest::of(&image.manifests[0].1))
        .parse()
        .unwrap();
    let error = store
        .pull(&pinned, PullPolicy::IfNotPresent, None)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            PullError::Registry(RegistryError::WrongDigest { .. })
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_another_size_than_declared_is_refused() {
    let image = simple();
    let longer = but(&image, layer_path(&image), |answer| {
        full([body(&answer), vec![0; 4096]].concat())
    });
    let error = fail(&longer).await;
    assert!(
        matches!(error, PullError::Registry(RegistryError::WrongSize { .. })),
        "{error}"
    );
    let shorter = but(&image, layer_path(&image), |answer| {
        full(body(&answer)[..1000].to_vec())
    });
    let error = fail(&shorter).await;
    assert!(
        matches!(error, PullError::Registry(RegistryError::WrongSize { .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_unpacks_to_something_else_than_its_diff_id_is_refused() {
    if skip_unless_root() {
        return;
    }
    let mut image = simple();
    let config = json!({"architecture": host_arch(), "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"another").to_string()]}});
    image.blobs[1] = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "config": descriptor(OCI_CONFIG, &image.blobs[1]),
        "layers": [descriptor(LAYER, &image.blobs[0])]});
    image.manifests[0].1 = manifest.to_string().into_bytes();
    let error = fail(&Fake::serving(&[&image])).await;
    assert!(matches!(error, PullError::WrongDiffId { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_is_said_to_be() {
    let fake = Fake::start(|_| not_found());
    let reference = fake.reference("x");
    drop(fake);
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let error = store
        .pull(&reference, PullPolicy::Always, None)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            PullError::Registry(RegistryError::Unreachable { .. })
        ),
        "{error}"
    );
    assert!(error.is_transient());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_nothing_is_given_up() {
    let image = simple();
    let fake = but(&image, "/blobs/".into(), |_| Answer::Hang);
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(mezzo_images::StoreConfig {
        pull_deadline: Duration::from_secs(2),
        ..config(&folder.path().join("store"))
    });
    let store = store.await.unwrap();
    let begin = Instant::now();
    let error = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            PullError::Deadline { .. } | PullError::Registry(RegistryError::Timeout { .. })
        ),
        "{error}"
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_broke() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let path = layer_path(&image);
    let answers = answers(&[&image]);
    let ranges = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&ranges);
    let fake = Fake::start(move |request| {
        let honest = answers
            .get(&request.path)
            .cloned()
            .unwrap_or_else(not_found);
        if !request.path.contains(&path) {
            return honest;
        }
        let bytes = body(&honest);
        seen.lock()
            .unwrap()
            .push(request.headers.get("range").cloned());
        let from = request.headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        match (request.before, from) {
            (0, _) => Answer::Truncated(bytes[..50_000].to_vec(), bytes.len()),
            // Some servers ignore the range and send all.
            (1, _) => Answer::Truncated(bytes[..80_000].to_vec(), bytes.len()),
            (_, Some(from)) => Answer::Full(
                206,
                "application/octet-stream".into(),
                bytes[from..].to_vec(),
            ),
            (_, None) => honest,
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap();
    let lowers = store.snapshot(&image, "c").unwrap().lowers;
    assert_eq!(
        std::fs::read(lowers[0].join("file")).unwrap(),
        vec![b'x'; 200_000]
    );
    let ranges = ranges.lock().unwrap();
    assert_eq!(ranges.len(), 3);
    assert!(
        ranges[0].is_none() && ranges[1].is_some() && ranges[2].is_some(),
        "{ranges:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_recovers_is_tried_again() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let answers = answers(&[&image]);
    let fake = Fake::start(move |request| match request.before {
        0 => Answer::Full(503, "text/plain".into(), b"busy".to_vec()),
        1 => Answer::Headers(429, "Retry-After: 0\r\n".into()),
        _ => answers
            .get(&request.path)
            .cloned()
            .unwrap_or_else(not_found),
    });
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap();
    assert_eq!(fake.count("/manifests/"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_allowed_is_not_asked_for_twice() {
    let fake = Fake::start(|_| not_found());
    let error = fail(&fake).await;
    assert!(
        matches!(error, PullError::Registry(RegistryError::NotFound { .. })),
        "{error}"
    );
    assert_eq!(fake.requests.lock().unwrap().len(), 1);
    let fake =
        Fake::start(|_| Answer::Headers(401, "WWW-Authenticate: Basic realm=\"x\"\r\n".into()));
    let error = fail(&fake).await;
    assert!(
        matches!(
            error,
            PullError::Registry(RegistryError::Unauthorized { status: 401, .. })
        ),
        "{error}"
    );
    assert_eq!(fake.requests.lock().unwrap().len(), 1);
    assert!(!error.is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_passwords_open_a_registry_that_asks_for_them() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let encoded = base64::engine::general_purpose::STANDARD.encode("me:secret");
    for bearer in [true, false] {
        let answers = answers(&[&image]);
        let (basic, host) = (
            format!("Basic {encoded}"),
            std::sync::Arc::new(std::sync::OnceLock::<String>::new()),
        );
        let own_host = std::sync::Arc::clone(&host);
        let fake = Fake::start(move |request| {
            let given = request.headers.get("authorization").map(String::as_str);
            let host = own_host.get().map_or("", String::as_str);
            if bearer && request.path.starts_with("/token") {
                let good = given == Some(&basic)
                    && request.path.contains("service=reg")
                    && request.path.contains("scope=repository%3Ax%3Apull");
                return if good {
                    full(b"{\"token\": \"t0k\"}".to_vec())
                } else {
                    Answer::Headers(403, String::new())
                };
            }
            let wanted = if bearer { "Bearer t0k" } else { &basic };
            if given == Some(wanted) {
                return answers
                    .get(&request.path)
                    .cloned()
                    .unwrap_or_else(not_found);
            }
            let challenge = if bearer {
                format!("Bearer realm=\"http://{host}/token\",service=\"reg\"")
            } else {
                "Basic realm=\"reg\"".into()
            };
            Answer::Headers(401, format!("WWW-Authenticate: {challenge}\r\n"))
        });
        host.set(fake.host.clone()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(
            &file,
            json!({"auths": {&fake.host: {"auth": encoded}}}).to_string(),
        )
        .unwrap();
        let config = mezzo_images::StoreConfig {
            auth_file: Some(file),
            ..config(&folder.path().join("store"))
        };
        let store = ImageStore::open(config).await.unwrap();
        store
            .pull(&fake.reference("x"), PullPolicy::Always, None)
            .await
            .unwrap();
        assert!(fake.count("/token") <= 1, "the token is not kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_elsewhere_gets_no_credentials_in_the_clear() {
    let thief = Fake::start(|_| full(b"{\"token\": \"x\"}".to_vec()));
    // Another host than the registry's, though it is this very machine.
    let realm = format!(
        "http://localhost:{}/token",
        thief.host.rsplit(':').next().unwrap()
    );
    let fake = Fake::start(move |_| {
        Answer::Headers(
            401,
            format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n"),
        )
    });
    let error = fail(&fake).await;
    assert!(
        matches!(error, PullError::Registry(RegistryError::Protocol { .. })),
        "{error}"
    );
    assert_eq!(thief.requests.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_for_other_machines_are_refused_by_name() {
    let error = fail(&Fake::serving(&[&image_for(
        "x",
        "s390x",
        &[(Archive::new().done(), Packed::Plain)],
    )]))
    .await;
    let text = error.to_string();
    assert!(matches!(error, PullError::WrongPlatform { .. }), "{error}");
    assert!(
        text.contains("linux/s390x") && text.contains(&format!("linux/{}", host_arch())),
        "{text}"
    );
    let mut other = descriptor(OCI_MANIFEST, b"x");
    other["platform"] = json!({"os": "linux", "architecture": "mips"});
    let index =
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other]}).to_string();
    let fake =
        Fake::start(move |_| Answer::Full(200, OCI_INDEX.into(), index.clone().into_bytes()));
    let error = fail(&fake).await;
    assert!(matches!(error, PullError::WrongPlatform { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_image_is_taken_from_an_index() {
    if skip_unless_root() {
        return;
    }
    let mut image = simple();
    let mut entry = descriptor(OCI_MANIFEST, &image.manifests[0].1);
    entry["platform"] = json!({"os": "linux", "architecture": host_arch()});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
    image
        .manifests
        .push((OCI_INDEX.into(), index.to_string().into_bytes()));
    let fake = Fake::serving(&[&image]);
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let pulled = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap();
    assert_eq!(pulled.manifest_digest, Digest::of(&image.manifests[0].1));
}

async fn refuse_manifest(manifest: &Value) -> ManifestError {
    let text = manifest.to_string().into_bytes();
    let fake = Fake::start(move |_| Answer::Full(200, OCI_MANIFEST.into(), text.clone()));
    let error = fail(&fake).await;
    let PullError::Manifest { problem, .. } = error else {
        panic!("{error}")
    };
    let asked = fake.requests.lock().unwrap().len();
    assert_eq!(asked, 1, "more was fetched than the manifest");
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_cannot_be_used_are_refused_before_anything_is_fetched() {
    let layer = descriptor(LAYER, b"x");
    let good = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, b"{}"),
        "layers": [layer]});
    let with = |key: &str, value: Value| {
        let mut manifest = good.clone();
        manifest[key] = value;
        manifest
    };
    let error = refuse_manifest(&with("manifests", json!([]))).await;
    assert_eq!(error, ManifestError::Ambiguous);
    let error = refuse_manifest(&with("layers", json!(vec![layer.clone(); 10_000]))).await;
    assert_eq!(error, ManifestError::TooManyLayers(10_000));
    let error = refuse_manifest(&with(
        "layers",
        json!([descriptor("application/x-evil", b"x")]),
    ))
    .await;
    assert!(
        matches!(error, ManifestError::UnsupportedMediaType { .. }),
        "{error}"
    );
    let error = refuse_manifest(&with("mediaType", json!(OCI_INDEX))).await;
    assert!(
        matches!(error, ManifestError::MediaTypeMismatch { .. }),
        "{error}"
    );
    let error = refuse_manifest(&with("config", json!("x"))).await;
    assert!(matches!(error, ManifestError::Malformed { .. }), "{error}");
    let mut huge = descriptor(OCI_CONFIG, b"{}");
    huge["size"] = json!(10u64 << 30);
    let error = refuse_manifest(&with("config", huge)).await;
    assert!(matches!(error, ManifestError::Size { .. }), "{error}");
    // A manifest without end is not read to its end.
    let fake = Fake::start(|_| Answer::Full(200, OCI_MANIFEST.into(), vec![b' '; 5 << 20]));
    let error = fail(&fake).await;
    assert!(
        matches!(error, PullError::Registry(RegistryError::WrongSize { .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_waits_for_ends_and_leaves_nothing() {
    if skip_unless_root() {
        return;
    }
    let image = image(
        "x",
        &[(
            Archive::new().file("file", &vec![b'x'; 4 << 20]).done(),
            Packed::Plain,
        )],
    );
    let stuck = layer_path(&image);
    let answers = answers(&[&image]);
    let fake = Fake::start(move |request| {
        let honest = answers
            .get(&request.path)
            .cloned()
            .unwrap_or_else(not_found);
        if request.path.contains(&stuck) && request.before == 0 {
            Answer::Hang
        } else {
            honest
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let config = mezzo_images::StoreConfig {
        stall_timeout: Duration::from_secs(60),
        ..config(&root)
    };
    let store = ImageStore::open(config).await.unwrap();
    let reference = fake.reference("x");
    let pull = tokio::spawn({
        let (store, reference) = (store.clone(), reference.clone());
        async move { store.pull(&reference, PullPolicy::Always, None).await }
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while fake.hung.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        assert!(
            Instant::now() < deadline,
            "the pull never came to the layer"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    while std::fs::read_dir(root.join("tmp")).unwrap().count() > 0 {
        assert!(
            Instant::now() < deadline,
            "the half-unpacked layer is still there"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    nothing_left(&root);
    store
        .pull(&reference, PullPolicy::Always, None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn always_sees_that_a_tag_was_moved() {
    if skip_unless_root() {
        return;
    }
    let (one, two) = (
        simple(),
        image(
            "x",
            &[(Archive::new().file("new", b"2").done(), Packed::Gzip)],
        ),
    );
    let mut all = answers(&[&one]);
    all.extend(answers(&[&two]));
    let first = answers(&[&one]);
    let fake = Fake::start(move |request| {
        let from = if request.path.ends_with("/latest") && request.before == 0 {
            &first
        } else {
            &all
        };
        from.get(&request.path).cloned().unwrap_or_else(not_found)
    });
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let reference = fake.reference("x");
    let old = store
        .pull(&reference, PullPolicy::Always, None)
        .await
        .unwrap();
    assert_eq!(
        store
            .pull(&reference, PullPolicy::IfNotPresent, None)
            .await
            .unwrap(),
        old
    );
    let new = store
        .pull(&reference, PullPolicy::Always, None)
        .await
        .unwrap();
    assert_ne!(new.manifest_digest, old.manifest_digest);
    assert_eq!(store.get(&reference).await.unwrap(), Some(new));
}

/// A store with one image; returns the name.
async fn filled(root: &Path) -> mezzo_images::Reference {
    let fake = Fake::serving(&[&simple()]);
    let store = open(root).await;
    let reference = fake.reference("x");
    store
        .pull(&reference, PullPolicy::Always, None)
        .await
        .unwrap();
    reference
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    std::fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_set_aside_and_a_newer_one_is_an_error() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let reference = filled(&root).await;
    let record = only_file(&root.join("references"));
    let text = std::fs::read(&record).unwrap();
    std::fs::write(&record, &text[..text.len() / 2]).unwrap();
    assert_eq!(open(&root).await.get(&reference).await.unwrap(), None);
    assert!(record.with_extension("corrupt").exists());
    std::fs::write(
        &record,
        String::from_utf8(text)
            .unwrap()
            .replace("\"version\": 1", "\"version\": 2"),
    )
    .unwrap();
    let error = ImageStore::open(config(&root)).await.unwrap_err();
    assert!(
        matches!(error, OpenError::NewerFormat { found: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains(record.to_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_damaged_format_file_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    drop(open(&root).await);
    std::fs::write(root.join("store.json"), "{\"ver").unwrap();
    let error = ImageStore::open(config(&root)).await.unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("store.json"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_were_not_written_back_before_a_crash_of_the_machine_are_dropped() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let reference = filled(&root).await;
    let layer = only_file(&root.join("layers"));
    assert!(!layer.join("durable").exists(), "a pull does not wait");
    open(&root).await.flush().await.unwrap();
    assert!(layer.join("durable").exists());
    // As after a reboot: what was written back stays, what was not goes.
    let record = layer.join("layer.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    value["boot_id"] = json!("another boot");
    std::fs::write(&record, value.to_string()).unwrap();
    assert!(open(&root).await.get(&reference).await.unwrap().is_some());
    std::fs::remove_file(layer.join("durable")).unwrap();
    let store = open(&root).await;
    assert_eq!(store.get(&reference).await.unwrap(), None);
    assert!(!layer.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_config_in_the_store_is_noticed_and_mended_by_a_pull() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = simple();
    let fake = Fake::serving(&[&image]);
    let store = open(folder.path()).await;
    let reference = fake.reference("x");
    let pulled = store
        .pull(&reference, PullPolicy::Always, None)
        .await
        .unwrap();
    std::fs::write(
        folder
            .path()
            .join("blobs/sha256")
            .join(Digest::of(&image.blobs[1]).hex()),
        "{}",
    )
    .unwrap();
    let error = store.get(&reference).await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    let again = store.pull(&reference, PullPolicy::IfNotPresent, None).await;
    assert_eq!(again.unwrap(), pulled);
}
