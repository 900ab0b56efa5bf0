//! Stores that were damaged: noticed, set aside, mended by a pull.

use std::path::Path;

use crate::common::faulty::simple;
use crate::common::{Fake, config, open, skip_unless_root};
use mezzo_images::{Digest, ImageStore, OpenError, PullPolicy};
use serde_json::{Value, json};

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
            .replace("\"version\": 1", "\"version\": 3"),
    )
    .unwrap();
    let error = ImageStore::open(config(&root)).await.unwrap_err();
    assert!(
        matches!(error, OpenError::NewerFormat { found: 3, .. }),
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
