//! Pack, push, pull and remove against Debian's real registry.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use common::{Registry, open, skip_unless_root};
use mezzo_images::{
    OpenError, PackOptions, PullPolicy, PullProgress, RegistriesConfig, RegistryError, pack, push,
};
use tokio::sync::watch;

fn tree(root: &std::path::Path) {
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    std::fs::write(root.join("bin/tool"), vec![7u8; 3_000_000]).unwrap();
    std::fs::set_permissions(
        root.join("bin/tool"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    std::fs::write(root.join("etc/deep/er/file"), "hello").unwrap();
    symlink("bin/tool", root.join("link")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_goes_through_a_real_registry_unchanged() {
    if skip_unless_root() {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    tree(&source);
    let options = PackOptions {
        source: source.clone(),
        entrypoint: vec!["/bin/tool".into()],
        env: vec![("A".into(), "b c".into())],
        working_dir: Some("/etc".into()),
        ..PackOptions::default()
    };
    let packed = pack(&options).unwrap();
    assert_eq!(
        pack(&options).unwrap().digest(),
        packed.digest(),
        "the same input gave another digest"
    );
    let reference = registry.reference("team/app:1");
    assert_eq!(
        push(&packed, &reference, &RegistriesConfig::default(), None)
            .await
            .unwrap(),
        packed.digest()
    );
    push(&packed, &reference, &RegistriesConfig::default(), None)
        .await
        .expect("a second push finds everything there");

    let store = open(&folder.path().join("store")).await;
    let (told, progress) = watch::channel(PullProgress::default());
    let image = store
        .pull(&reference, PullPolicy::IfNotPresent, Some(told))
        .await
        .unwrap();
    assert_eq!(image.manifest_digest, packed.digest());
    assert_eq!(image.config.entrypoint, ["/bin/tool"]);
    assert_eq!(image.config.env, ["A=b c"]);
    assert_eq!(image.config.working_dir.as_deref(), Some("/etc"));
    let seen = *progress.borrow();
    assert_eq!((seen.layers_done, seen.layers_total), (1, 1));
    assert_eq!(seen.bytes_done, seen.bytes_total);

    let snapshot = store.snapshot(&image, "c1").unwrap();
    assert_eq!(snapshot.lowers.len(), 1);
    let root = &snapshot.lowers[0];
    assert_eq!(
        std::fs::read(root.join("bin/tool")).unwrap(),
        vec![7u8; 3_000_000]
    );
    assert_eq!(
        std::fs::metadata(root.join("bin/tool")).unwrap().mode() & 0o7777,
        0o755
    );
    assert_eq!(
        std::fs::read_to_string(root.join("etc/deep/er/file")).unwrap(),
        "hello"
    );
    assert_eq!(
        std::fs::read_link(root.join("link")).unwrap().to_str(),
        Some("bin/tool")
    );
    assert_eq!(
        std::fs::metadata(&snapshot.upper).unwrap().mode() & 0o7777,
        0o755
    );
    assert!(
        store.snapshot(&image, "c1").is_err(),
        "a key was used twice"
    );

    // With the registry gone, what is here is still here.
    drop(registry);
    assert_eq!(
        store
            .pull(&reference, PullPolicy::IfNotPresent, None)
            .await
            .unwrap(),
        image
    );

    // A snapshot holds its layers; without it they go.
    let removed = store.remove(&reference).await.unwrap();
    assert!(removed.found && removed.layers == 0, "{removed:?}");
    assert!(root.join("bin/tool").exists());
    store.remove_snapshot("c1").unwrap();
    store.remove_snapshot("c1").expect("removing twice is fine");
    assert_eq!(store.list_snapshots().unwrap(), Vec::<String>::new());
    let pruned = store.prune(&BTreeSet::new()).await.unwrap();
    assert_eq!(pruned.layers, 1);
    assert!(!root.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_found_again_and_opened_once_only() {
    if skip_unless_root() {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    tree(&source);
    let packed = pack(&PackOptions {
        source,
        ..PackOptions::default()
    })
    .unwrap();
    let reference = registry.reference("app");
    push(&packed, &reference, &RegistriesConfig::default(), None)
        .await
        .unwrap();
    let root = folder.path().join("store");
    let store = open(&root).await;
    let image = store
        .pull(&reference, PullPolicy::Always, None)
        .await
        .unwrap();
    let second = mezzo_images::ImageStore::open(common::config(&root)).await;
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    drop(store);
    std::fs::create_dir_all(root.join("tmp/layer-9/fs/half")).unwrap();
    std::fs::write(root.join("tmp/file-3"), "half").unwrap();
    let store = open(&root).await;
    assert_eq!(
        std::fs::read_dir(root.join("tmp")).unwrap().count(),
        0,
        "left-overs of a crash are still there"
    );
    assert_eq!(store.get(&reference).await.unwrap(), Some(image.clone()));
    assert_eq!(store.list().await.unwrap().len(), 1);
    let by_digest = format!("{}/app@{}", registry.host, packed.digest())
        .parse()
        .unwrap();
    assert_eq!(
        store
            .pull(&by_digest, PullPolicy::Always, None)
            .await
            .unwrap()
            .layers,
        image.layers
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_or_tag_is_not_found() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).await;
    for name in ["nothing", "nothing:9"] {
        let error = store
            .pull(&registry.reference(name), PullPolicy::IfNotPresent, None)
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                mezzo_images::PullError::Registry(RegistryError::NotFound { .. })
            ),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_needs_no_registry() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    tree(&source);
    let packed = pack(&PackOptions {
        source,
        ..PackOptions::default()
    })
    .unwrap();
    let store = open(&folder.path().join("store")).await;
    let reference = "local/app:1".parse().unwrap();
    let image = store.import(&packed, &reference).await.unwrap();
    assert_eq!(store.get(&reference).await.unwrap(), Some(image));
}
