//! Registries that are wrong, slow, down or hostile: one clear error each, nothing left.

use std::time::{Duration, Instant};

use crate::common::faulty::{body, but, fail, full, layer_path, nothing_left, simple};
use crate::common::{
    Answer, Archive, Fake, LAYER, OCI_CONFIG, Packed, answers, config, descriptor, host_arch,
    image, not_found, open, skip_unless_root,
};
use mezzo_images::{Digest, ImageStore, PullError, PullPolicy, RegistryError};
use serde_json::json;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

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
    let gzipped = crate::common::image(
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
    // Port 1 of loopback: nobody listens.
    let reference = "127.0.0.1:1/x".parse().unwrap();
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
    let reference = fake.reference("x");
    let given_up = async |pull_deadline: Duration, stall_timeout: Duration| {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(mezzo_images::StoreConfig {
            pull_deadline,
            stall_timeout,
            ..config(&folder.path().join("store"))
        });
        let store = store.await.unwrap();
        let pull = store.pull(&reference, PullPolicy::Always, None);
        let ended = tokio::time::timeout(PATIENCE, pull).await;
        ended.expect("it hangs on").unwrap_err()
    };
    let short = Duration::from_millis(500);
    let error = given_up(4 * short, 2 * PATIENCE).await;
    assert!(matches!(error, PullError::Deadline { .. }), "{error}");
    let error = given_up(2 * PATIENCE, short).await;
    assert!(
        matches!(error, PullError::Registry(RegistryError::Timeout { .. })),
        "{error}"
    );
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
    let store = open(&root).await;
    let reference = fake.reference("x");
    let pull = tokio::spawn({
        let (store, reference) = (store.clone(), reference.clone());
        async move { store.pull(&reference, PullPolicy::Always, None).await }
    });
    let deadline = Instant::now() + PATIENCE;
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
