//! The state behind a store's handles, and every change to it.
//!
//! Two locks, never held across an await: `names` while names change on the disk, `state` for what is in memory.
//! Collection decides and renames under `state`, so that no pull can pin and no snapshot begin in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::fcntl::Flock;
use tokio::sync::Semaphore;

use super::content::{self, LayerRecord, Layout};
use super::index::Record;
use super::{Image, StoreConfig, StoreError, gc, snapshot};
use crate::digest::Digest;
use crate::manifest::{self, Platform};
use crate::pull::Flight;
use crate::reference::Reference;
use crate::registry::client::RegistryClient;

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    pub(crate) layout: Layout,
    pub(crate) registries: RegistryClient,
    pub(crate) host: Platform,
    pub(crate) boot_id: String,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) flights: Mutex<HashMap<String, Weak<Flight>>>,
    /// One writer per layer.
    pub(crate) layer_locks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    pub(super) state: Mutex<State>,
    /// Held while names change on the disk.
    pub(super) names: Mutex<()>,
    pub(super) write_back: SyncSender<PathBuf>,
    pub(super) _lock: Flock<File>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) images: BTreeMap<Reference, Record>,
    pub(super) layers: BTreeMap<Digest, LayerRecord>,
    pub(super) pins: BTreeMap<Digest, usize>,
}

/// Keeps contents from being collected while it lives.
#[derive(Debug)]
pub(crate) struct Pins {
    inner: Arc<Inner>,
    pinned: Vec<Digest>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for digest in &self.pinned {
            if let Some(count) = state.pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(digest);
                }
            }
        }
    }
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps these from being collected. Pin first, then look whether they are there.
    pub(crate) fn pin(self: &Arc<Self>, digests: &[Digest]) -> Pins {
        let mut state = self.state();
        for digest in digests {
            *state.pins.entry(*digest).or_insert(0) += 1;
        }
        Pins {
            inner: Arc::clone(self),
            pinned: digests.to_vec(),
        }
    }

    pub(crate) fn layer(&self, chain: &Digest) -> Option<LayerRecord> {
        self.state().layers.get(chain).cloned()
    }

    /// What a name stands for.
    pub(crate) fn record(&self, reference: &Reference) -> Option<Record> {
        self.state().images.get(reference).cloned()
    }

    pub(crate) fn get(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let record = {
            let state = self.state();
            let Some(record) = state.images.get(reference) else {
                return Ok(None);
            };
            if !record
                .layers
                .iter()
                .all(|layer| state.layers.contains_key(layer))
            {
                return Ok(None);
            }
            record.clone()
        };
        let path = self.layout.blob(&record.config);
        let bytes = match content::read_bounded(&path, manifest::MAX_METADATA_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("read", &path, source)),
        };
        let corrupt = |problem: String| StoreError::Corrupt {
            path: path.clone(),
            problem,
        };
        if Digest::of(&bytes) != record.config {
            return Err(corrupt("its digest is another one than its name".into()));
        }
        let parsed = manifest::parse_config(&bytes).map_err(|e| corrupt(e.to_string()))?;
        Ok(Some(Image {
            reference: record.reference,
            manifest_digest: record.manifest,
            config: parsed.config,
            layers: record.layers,
            size_compressed: record.size_compressed,
            size_unpacked: record.size_unpacked,
        }))
    }

    /// Puts a verified blob in its place.
    pub(crate) fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.layout.blob(digest);
        // One that was damaged on the disk is replaced: what comes here is verified.
        match content::read_bounded(&path, manifest::MAX_METADATA_BYTES) {
            Ok(found) if Digest::of(&found) == *digest => Ok(()),
            Ok(_) | Err(_) => self
                .layout
                .write_atomically(&path, bytes)
                .map_err(|source| io_error("write", &path, source)),
        }
    }

    /// Makes an unpacked layer visible: from here on it may be mounted.
    pub(crate) fn commit_layer(
        &self,
        folder: &Path,
        record: LayerRecord,
    ) -> Result<(), StoreError> {
        let target = self.layout.layer(&record.chain_id);
        let text = serde_json::to_vec(&record).expect("a record has string keys only");
        std::fs::write(folder.join("layer.json"), text)
            .map_err(|source| io_error("write", folder, source))?;
        // Left over by something that was cut between rename and here, in this process: the state does not know it.
        if let Some(trash) = self
            .layout
            .discard(&target)
            .map_err(|source| io_error("replace", &target, source))?
        {
            content::delete(&trash).map_err(|source| io_error("delete", &trash, source))?;
        }
        std::fs::rename(folder, &target).map_err(|source| io_error("publish", &target, source))?;
        self.state().layers.insert(record.chain_id, record);
        // A full queue only means that these layers stay marked as young until the store is opened again.
        let _ = self.write_back.try_send(target);
        Ok(())
    }

    /// Makes a name stand for an image.
    pub(crate) fn remember(&self, record: Record) -> Result<(), StoreError> {
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self
            .layout
            .references()
            .join(Record::file_name(&record.reference));
        if self.state().images.get(&record.reference) == Some(&record) {
            return Ok(());
        }
        self.layout
            .write_atomically(&path, &record.to_json())
            .map_err(|source| io_error("write", &path, source))?;
        self.state().images.insert(record.reference.clone(), record);
        Ok(())
    }

    pub(super) fn forget(&self, reference: &Reference) -> Result<bool, StoreError> {
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.layout.references().join(Record::file_name(reference));
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("remove", &path, source)),
        }
        Ok(self.state().images.remove(reference).is_some())
    }

    /// Deletes what nobody needs; returns the number of layers and their bytes.
    pub(super) fn collect(&self) -> Result<(usize, u64), StoreError> {
        let blobs = self.blobs_on_disk()?;
        let (trash, layers, bytes) = {
            // Under the state's lock: no pull can pin, and no snapshot begin, between decision and rename.
            let mut state = self.state();
            let mut pinned: BTreeSet<Digest> = state.pins.keys().copied().collect();
            let used = snapshot::used_layers(&self.layout)
                .map_err(|e| StoreError::Snapshots(Arc::new(e)))?;
            pinned.extend(used);
            let layers = state.layers.keys().copied().collect::<Vec<_>>();
            let garbage = gc::garbage(
                state.images.values(),
                &pinned,
                layers.into_iter(),
                blobs.into_iter(),
            );
            let mut trash = Vec::new();
            let mut bytes = 0;
            for layer in &garbage.layers {
                let path = self.layout.layer(layer);
                trash.extend(
                    self.layout
                        .discard(&path)
                        .map_err(|source| io_error("remove", &path, source))?,
                );
                bytes += state
                    .layers
                    .remove(layer)
                    .map_or(0, |record| record.size_unpacked);
            }
            for blob in &garbage.blobs {
                let path = self.layout.blob(blob);
                trash.extend(
                    self.layout
                        .discard(&path)
                        .map_err(|source| io_error("remove", &path, source))?,
                );
            }
            (trash, garbage.layers.len(), bytes)
        };
        for path in trash {
            content::delete(&path).map_err(|source| io_error("delete", &path, source))?;
        }
        Ok((layers, bytes))
    }

    fn blobs_on_disk(&self) -> Result<Vec<Digest>, StoreError> {
        let folder = self.layout.blobs();
        let io = |source| io_error("list", &folder, source);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            found.extend(name.to_str().and_then(|name| Digest::from_hex(name).ok()));
        }
        Ok(found)
    }
}

/// Runs file system work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| StoreError::Interrupted)?
}

pub(crate) fn io_error(operation: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io {
        operation,
        path: path.into(),
        source: Arc::new(source),
    }
}
