//! `ImageStore`: what callers do with the images that are here. Pulling and importing have files of their own.
//!
//! Async where the disk may take its time; a snapshot is a few system calls and is not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::open::Access;
use super::snapshot::{self, Snapshot, SnapshotError};
use super::{
    Image, ImageSummary, Inner, OpenError, Pruned, Removed, StoreConfig, StoreError, blocking,
    open, unix_seconds, usage,
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
        Self::open_for(config, Access::Own).await
    }

    pub(super) async fn open_for(config: StoreConfig, access: Access) -> Result<Self, OpenError> {
        let registries = config.registries.clone();
        let registries = RegistryClient::new(ClientOptions {
            registries: registries.with_insecure(&config.insecure_registries),
            auth_files: config.auth_files.clone(),
            stall: config.stall_timeout,
        })
        .map_err(OpenError::Client)?;
        let root = config.root.clone();
        let opened =
            tokio::task::spawn_blocking(move || open::open_blocking(config, registries, access))
                .await;
        opened.map_err(|e| OpenError::Io {
            operation: "open",
            path: root,
            source: std::io::Error::other(e),
        })?
    }

    /// The image of that name, if it is here. Counts as a use of it: whoever asks means to do something with it, and it
    /// shall not be collected just then.
    pub async fn get(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.clone());
        blocking(move || {
            let found = inner.get(&reference)?;
            if found.is_some() {
                inner.touch(&reference, SystemTime::now());
            }
            Ok(found)
        })
        .await
    }

    /// Waits until everything that is here would survive a crash of the machine. Else that comes by itself within
    /// half a minute, as long as the store stays open.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.flush()).await
    }

    /// All images, by name.
    #[expect(
        clippy::unused_async,
        reason = "the list may come from the disk one day; callers should not care"
    )]
    pub async fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let state = self.inner.state();
        let size = |chain: &Digest| {
            let layer = state.layers.get(chain);
            layer.map_or(0, |layer| self.inner.disk_bytes(layer))
        };
        let disk = usage::usage(state.images.values(), size);
        let images = state.images.values().map(|record| ImageSummary {
            reference: record.reference.clone(),
            manifest_digest: record.manifest,
            layers: record.layers.len(),
            size_compressed: record.size_compressed,
            size_unpacked: record.size_unpacked,
            disk: disk.get(&record.reference).copied().unwrap_or_default(),
            pulled_at: record.pulled_at,
            last_used: state
                .last_used
                .get(&record.reference)
                .and_then(|used| unix_seconds(*used)),
        });
        Ok(images.collect())
    }

    /// What all layers that are here take on the disk, each counted once.
    pub fn disk_bytes(&self) -> u64 {
        let state = self.inner.state();
        let layers = state.layers.values();
        layers.map(|layer| self.inner.disk_bytes(layer)).sum()
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
        let lowers = self.lowers(image)?;
        let created = snapshot::create(&self.inner.layout, key, &image.layers, lowers)?;
        self.inner.touch(&image.reference, SystemTime::now());
        Ok(created)
    }

    /// The directories of an image, topmost first, as overlayfs wants them. The caller has pinned its layers.
    pub(super) fn lowers(&self, image: &Image) -> Result<Vec<PathBuf>, SnapshotError> {
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
        Ok(lowers)
    }

    /// Removes a snapshot and what was written to it; fine if there is none.
    pub fn remove_snapshot(&self, key: &str) -> Result<(), SnapshotError> {
        snapshot::check_key(key)?;
        // Until now its image was used: the time counts from here.
        let layers = snapshot::layers_of(&self.inner.layout, key)?;
        let images: Vec<Reference> = {
            let state = self.inner.state();
            let same = state.images.values();
            let same = same.filter(|image| image.layers == layers);
            same.map(|image| image.reference.clone()).collect()
        };
        let now = SystemTime::now();
        for reference in &images {
            self.inner.touch(reference, now);
        }
        snapshot::remove(&self.inner.layout, key)
    }

    /// The folder of a snapshot: all that its container changes is in there. Also when there is none.
    #[must_use]
    pub fn snapshot_folder(&self, key: &str) -> PathBuf {
        self.inner.layout.snapshots().join(key)
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
