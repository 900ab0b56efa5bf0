//! Manifests and indexes that cannot be used, and the choice of a platform.

use crate::common::faulty::{fail, simple};
use crate::common::{
    Answer, Archive, Fake, LAYER, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Packed, descriptor,
    host_arch, image_for, open, skip_unless_root,
};
use mezzo_images::{Digest, ManifestError, PullError, PullPolicy, RegistryError};
use serde_json::{Value, json};

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
