//! `ImageStore`: what callers do with the images that are here. Pulling and importing have files of their own.
//!
//! Async where the disk may take its time; a snapshot is a few system calls and is not.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::index::Record;
use super::snapshot::{self, Snapshot, SnapshotError};
use super::{
    Image, ImageSummary, Inner, OpenError, Pruned, Removed, StoreConfig, StoreError, blocking, open,
};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::registry::client::{ClientOptions, RegistryClient};

/// The store; a cheap handle.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

impl ImageStore {
    /// Opens a store, makes it if it is not there, and removes what a crash has left behind.
    ///
    /// The lock goes to every child that is forked without exec while the store is open: fork those first.
    pub async fn open(config: StoreConfig) -> Result<Self, OpenError> {
        let registries = config.registries.clone();
        let registries = RegistryClient::new(ClientOptions {
            registries: registries.with_insecure(&config.insecure_registries),
            auth_files: config.auth_files.clone(),
            stall: config.stall_timeout,
        })
        .map_err(OpenError::Client)?;
        let root = config.root.clone();
        let opened =
            tokio::task::spawn_blocking(move || open::open_blocking(config, registries)).await;
        opened.map_err(|e| OpenError::Io {
            operation: "open",
            path: root,
            source: std::io::Error::other(e),
        })?
    }

    /// The image of that name, if it is here.
    pub async fn get(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.clone());
        blocking(move || inner.get(&reference)).await
    }

    /// All images, by name.
    #[expect(
        clippy::unused_async,
        reason = "the list may come from the disk one day; callers should not care"
    )]
    pub async fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let state = self.inner.state();
        Ok(state.images.values().map(summary).collect())
    }

    /// Forgets a name, and deletes what no other image, pull or snapshot needs.
    pub async fn remove(&self, reference: &Reference) -> Result<Removed, StoreError> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.clone());
        blocking(move || {
            let found = inner.forget(&reference)?;
            let (layers, bytes) = inner.collect()?;
            Ok(Removed {
                found,
                layers,
                bytes,
            })
        })
        .await
    }

    /// Forgets every image whose manifest is not in `in_use`, and deletes what nobody needs.
    pub async fn prune(&self, in_use: &BTreeSet<Digest>) -> Result<Pruned, StoreError> {
        let (inner, in_use) = (Arc::clone(&self.inner), in_use.clone());
        blocking(move || {
            let doomed: Vec<Reference> = {
                let state = inner.state();
                let unused = state
                    .images
                    .values()
                    .filter(|image| !in_use.contains(&image.manifest));
                unused.map(|image| image.reference.clone()).collect()
            };
            for reference in &doomed {
                inner.forget(reference)?;
            }
            let (layers, bytes) = inner.collect()?;
            Ok(Pruned {
                references: doomed,
                layers,
                bytes,
            })
        })
        .await
    }

    /// Makes a writable directory on top of an image. `key` names it, such as a container's id.
    pub fn snapshot(&self, image: &Image, key: &str) -> Result<Snapshot, SnapshotError> {
        snapshot::check_key(key)?;
        let _pins = self.inner.pin(&image.layers);
        let lowers = {
            let state = self.inner.state();
            let mut lowers = Vec::with_capacity(image.layers.len());
            for chain in image.layers.iter().rev() {
                let Some(layer) = state.layers.get(chain) else {
                    return Err(SnapshotError::LayerGone {
                        image: image.reference.to_string(),
                        layer: *chain,
                    });
                };
                lowers.push(self.inner.layout.layer_fs(chain));
                if layer.opaque_root {
                    break;
                }
            }
            lowers
        };
        snapshot::create(&self.inner.layout, key, &image.layers, lowers)
    }

    /// Removes a snapshot and what was written to it; fine if there is none.
    pub fn remove_snapshot(&self, key: &str) -> Result<(), SnapshotError> {
        snapshot::check_key(key)?;
        snapshot::remove(&self.inner.layout, key)
    }

    /// The keys of all snapshots.
    pub fn list_snapshots(&self) -> Result<Vec<String>, SnapshotError> {
        snapshot::list(&self.inner.layout)
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        self.inner.layout.root()
    }
}

fn summary(record: &Record) -> ImageSummary {
    ImageSummary {
        reference: record.reference.clone(),
        manifest_digest: record.manifest,
        layers: record.layers.len(),
        size_compressed: record.size_compressed,
        size_unpacked: record.size_unpacked,
    }
}
