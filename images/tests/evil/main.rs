//! Layers, manifests and registries that mean harm: each is refused or contained, and the world outside looks the same
//! before and after. docs/image-safety.md says which test stands for which hole that others had to close.
//!
//! - `escape`: out of the layer's directory.
//! - `cost`: more than an image may take.
//! - `odd`: types, modes, attributes and names that honest tools do not write.
//! - `random`: all of it in any order.
//! - `registry`: manifests, redirects, what a failure leaves behind.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

#[path = "../common/mod.rs"]
mod common;
mod cost;
mod escape;
mod odd;
mod random;
mod registry;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::canary::Canary;
use common::{Answer, Fake, Packed, config, image, not_found, pull_layers};
use mezzo_images::{ImageStore, PullError, PullPolicy, UnpackError};

/// Pulls the archive as an image; the world must stay as it is, and a refused layer must leave nothing behind.
async fn pull_evil(
    what: &str,
    make: impl Fn(&str) -> Vec<u8>,
) -> Result<(tempfile::TempDir, PathBuf), UnpackError> {
    let folder = tempfile::tempdir().unwrap();
    let canary = Canary::new(folder.path());
    let archive = make(canary.path());
    let result = pull_layers(folder.path(), &[(archive, Packed::Gzip)]).await;
    canary.check(what);
    match result {
        Ok((_, lowers)) => Ok((folder, lowers[0].clone())),
        Err(PullError::Unpack { problem, .. }) => {
            for place in ["layers", "tmp", "references"] {
                let left = std::fs::read_dir(folder.path().join("store").join(place))
                    .unwrap()
                    .count();
                assert_eq!(left, 0, "{what}: something is left in {place}");
            }
            Err(Arc::try_unwrap(problem).unwrap())
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

/// Pulls the archive into a store with other settings.
async fn pull_with(
    change: impl Fn(&mut mezzo_images::StoreConfig),
    archive: Vec<u8>,
    packed: Packed,
) -> Result<(), UnpackError> {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::serving(&[&image("x", &[(archive, packed)])]);
    let mut config = config(&folder.path().join("store"));
    change(&mut config);
    let store = ImageStore::open(config).await.unwrap();
    match store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
    {
        Ok(_) => Ok(()),
        Err(PullError::Unpack { problem, .. }) => {
            assert_eq!(
                std::fs::read_dir(folder.path().join("store/tmp"))
                    .unwrap()
                    .count(),
                0
            );
            Err(Arc::try_unwrap(problem).unwrap())
        }
        Err(other) => panic!("{other}"),
    }
}

/// One store and one registry for many images.
struct Mill {
    folder: tempfile::TempDir,
    canary: Canary,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    fake: Fake,
    store: ImageStore,
}

impl Mill {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let canary = Canary::new(folder.path());
        let answers = Arc::new(Mutex::new(HashMap::new()));
        let known = Arc::clone(&answers);
        let fake = Fake::start(move |request| {
            known
                .lock()
                .unwrap()
                .get(&request.path)
                .cloned()
                .unwrap_or_else(not_found)
        });
        let store = common::open(&folder.path().join("store")).await;
        Self {
            folder,
            canary,
            answers,
            fake,
            store,
        }
    }

    /// Where the layer of the image lies that was just pulled.
    async fn layer(&self) -> PathBuf {
        let image = self.store.get(&self.fake.reference("x")).await.unwrap();
        let chain = image.expect("it was pulled").layers[0].hex();
        self.folder
            .path()
            .join("store/layers")
            .join(chain)
            .join("fs")
    }

    /// Pulls an archive; true if it was accepted, and then `look` sees its layer. The world must stay as it is, and nothing may be left of it.
    async fn grind(
        &self,
        what: &str,
        archive: Vec<u8>,
        packed: Packed,
        look: impl FnOnce(&Path),
    ) -> bool {
        *self.answers.lock().unwrap() = common::answers(&[&image("x", &[(archive, packed)])]);
        let reference = self.fake.reference("x");
        let accepted = match self.store.pull(&reference, PullPolicy::Always, None).await {
            Ok(_) => true,
            Err(PullError::Unpack { .. }) => false,
            Err(other) => panic!("{what}: {other}"),
        };
        self.canary.check(what);
        if accepted {
            look(&self.layer().await);
        }
        self.store.remove(&reference).await.unwrap();
        for place in ["layers", "tmp", "references", "blobs/sha256"] {
            let left = std::fs::read_dir(self.folder.path().join("store").join(place))
                .unwrap()
                .count();
            assert_eq!(left, 0, "{what}: something is left in {place}");
        }
        accepted
    }
}
