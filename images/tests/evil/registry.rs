//! Registries that mean harm, and what a failure leaves behind.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use mezzo_images::{Digest, ImageStore, PullError, PullPolicy, StoreConfig};
use serde_json::json;

use crate::common::{
    Answer, Archive, Fake, Packed, answers, config, image, not_found, open, skip_unless_root,
};

/// CVE-2020-15157: a registry may send us elsewhere for a blob, and the password stays where it belongs.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_takes_no_password_along() {
    if skip_unless_root() {
        return;
    }
    let image = image(
        "x",
        &[(Archive::new().file("f", b"x").done(), Packed::Gzip)],
    );
    let all = answers(&[&image]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (blobs, log) = (all.clone(), Arc::clone(&seen));
    let elsewhere = Fake::start(move |request| {
        log.lock()
            .unwrap()
            .push(request.headers.get("authorization").cloned());
        blobs.get(&request.path).cloned().unwrap_or_else(not_found)
    });
    let port = elsewhere.host.rsplit(':').next().unwrap().to_string();
    let fake = Fake::start(move |request| {
        if !request.headers.contains_key("authorization") {
            return Answer::Headers(401, "WWW-Authenticate: Basic realm=\"x\"\r\n".into());
        }
        if request.path.contains("/blobs/") {
            // Another name, which is another host.
            return Answer::Headers(
                307,
                format!("Location: http://localhost:{port}{}\r\n", request.path),
            );
        }
        all.get(&request.path).cloned().unwrap_or_else(not_found)
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let encoded = base64::engine::general_purpose::STANDARD.encode("me:secret");
    std::fs::write(
        &file,
        json!({"auths": {&fake.host: {"auth": encoded}}}).to_string(),
    )
    .unwrap();
    let store = ImageStore::open(StoreConfig {
        auth_files: vec![file],
        ..config(&folder.path().join("store"))
    });
    store
        .await
        .unwrap()
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2, "config and layer come from there");
    assert!(seen.iter().all(Option::is_none), "{seen:?}");
}

/// CVE-2021-20291: after a stream that broke, the same layer can be had at once, by those who waited for it as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_stream_leaves_nothing_locked() {
    if skip_unless_root() {
        return;
    }
    let good = image(
        "x",
        &[(
            Archive::new().file("f", &vec![b'x'; 100_000]).done(),
            Packed::Zstd,
        )],
    );
    let layer = format!("/blobs/{}", Digest::of(&good.blobs[0]));
    let all = answers(&[&good]);
    let fake = Fake::start(move |request| {
        if request.path.ends_with(&layer) && request.before < 3 {
            return Answer::Full(200, "application/octet-stream".into(), vec![b'?'; 40]);
        }
        all.get(&request.path).cloned().unwrap_or_else(not_found)
    });
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).await;
    let mut failed = 0;
    for _ in 0..4 {
        let (one, two) = (
            fake.reference("x"),
            format!("{}/x:latest", fake.host).parse().unwrap(),
        );
        let pulls = tokio::join!(
            store.pull(&one, PullPolicy::Always, None),
            store.pull(&two, PullPolicy::Always, None)
        );
        failed += usize::from(pulls.0.is_err());
        if let Err(error) = pulls.0 {
            assert!(matches!(error, PullError::Registry(_)), "{error}");
        }
    }
    assert!((1..4).contains(&failed), "{failed} of 4 failed");
    store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap();
}

/// CVE-2021-41103, 2024-25621: images hold set-id programs and secrets; nobody but root comes near them.
#[tokio::test(flavor = "multi_thread")]
async fn the_folders_of_a_store_are_for_root_only() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let _store = open(&root).await;
    for name in [
        "",
        "layers",
        "blobs",
        "blobs/sha256",
        "references",
        "snapshots",
        "tmp",
    ] {
        let mode = std::fs::metadata(root.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o700, "{name:?}");
    }
}

/// CVE-2026-24054: without layers there would be nothing to mount but a folder of ours.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_layers_is_refused() {
    let fake = Fake::serving(&[&image("x", &[])]);
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).await;
    let error = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no layers"), "{error}");
}
