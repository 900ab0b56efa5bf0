//! The state behind a store's handles, and every change to it.
//!
//! Two locks, never held across an await: `names` while names change on the disk, `state` for what is in memory.
//! Collection decides and renames under `state`, so that no pull can pin and no snapshot begin in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::Flock;
use tokio::sync::Semaphore;

use super::content::{self, LayerRecord, Layout};
use super::index::Record;
use super::recorder::Recorder;
use super::write_back::WriteBack;
use super::{Image, StoreConfig, StoreError, gc, mounts, snapshot};
use crate::digest::Digest;
use crate::manifest;
use crate::platform::Platform;
use crate::pull::Flight;
use crate::reference::Reference;
use crate::registry::client::RegistryClient;

/// Uses of an image within this time are one.
const COARSE: Duration = Duration::from_secs(60);

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
    pub(super) write_back: WriteBack,
    /// Names or blobs were written that a crash of the machine may still take.
    pub(super) young_files: AtomicBool,
    /// Before the lock: when another process gets that, nobody here writes any more.
    pub(super) recorder: Recorder,
    /// None for one who only looks.
    pub(super) _lock: Option<Flock<File>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) images: BTreeMap<Reference, Record>,
    /// As the records' files tell it, and newer.
    pub(super) last_used: BTreeMap<Reference, SystemTime>,
    pub(super) layers: BTreeMap<Digest, LayerRecord>,
    pub(super) pins: BTreeMap<Digest, usize>,
}

/// What was taken out of the store and is still to be deleted.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) trash: Vec<PathBuf>,
    pub(super) layers: usize,
    /// On the disk.
    pub(super) bytes: u64,
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

    pub(super) fn layers_of(&self, reference: &Reference) -> Vec<Digest> {
        let state = self.state();
        let record = state.images.get(reference);
        record.map_or_else(Vec::new, |record| record.layers.clone())
    }

    pub(crate) fn config_digest(&self, reference: &Reference) -> Option<Digest> {
        let state = self.state();
        state.images.get(reference).map(|record| record.config)
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
            // Not synced: a damaged one is seen by its digest, and its layers are not durable yet either.
            Ok(_) | Err(_) => {
                self.young_files.store(true, Ordering::SeqCst);
                self.layout
                    .write_whole(&path, bytes)
                    .map_err(|source| io_error("write", &path, source))
            }
        }
    }

    /// Makes an unpacked layer visible: from here on it may be mounted. See [`Inner::write_back`] for what comes after.
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
        Ok(())
    }

    /// Has layers written back to the disk and marked as durable, in the background. Not while their image still
    /// comes: the sync would hold up every file that is made meanwhile.
    pub(crate) fn write_back(&self, layers: &[Digest]) {
        let folders = layers.iter().map(|chain| self.layout.layer(chain));
        self.write_back.submit(folders.collect());
    }

    /// Does what else would be done in the background, and syncs the files of names and blobs with it.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        let root = self.layout.root();
        let sync = || {
            self.write_back.now()?;
            if self.young_files.swap(false, Ordering::SeqCst)
                && let Err(errno) = nix::unistd::syncfs(File::open(root)?)
            {
                // They are as young as before: the next call must try again.
                self.young_files.store(true, Ordering::SeqCst);
                return Err(errno.into());
            }
            Ok(())
        };
        sync().map_err(|source| io_error("write back", root, source))
    }

    /// Makes a name stand for an image.
    pub(crate) fn remember(&self, record: Record) -> Result<(), StoreError> {
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self
            .layout
            .references()
            .join(Record::file_name(&record.reference));
        let known = self.state().images.get(&record.reference).cloned();
        if known
            .as_ref()
            .is_some_and(|known| known.is_same_as(&record))
        {
            self.touch(&record.reference, SystemTime::now());
            return Ok(());
        }
        // A new name is as young as its layers, and goes with them when the machine does; an old one must not.
        let written = if known.is_some() {
            self.layout.write_atomically(&path, &record.to_json())
        } else {
            self.young_files.store(true, Ordering::SeqCst);
            self.layout.write_whole(&path, &record.to_json())
        };
        written.map_err(|source| io_error("write", &path, source))?;
        // As whoever reads the file finds it: the file system's clock is some milliseconds late.
        let used = std::fs::metadata(&path).and_then(|file| file.modified());
        let mut state = self.state();
        let reference = record.reference.clone();
        let used = used.unwrap_or_else(|_| SystemTime::now());
        state.last_used.insert(reference.clone(), used);
        state.images.insert(reference, record);
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
        let mut state = self.state();
        state.last_used.remove(reference);
        Ok(state.images.remove(reference).is_some())
    }

    /// Deletes what nobody needs; returns the number of layers and their bytes.
    pub(super) fn collect(&self) -> Result<(usize, u64), StoreError> {
        let taken = self.take_garbage(|_| false)?;
        for path in &taken.trash {
            content::delete(path).map_err(|source| io_error("delete", path, source))?;
        }
        Ok((taken.layers, taken.bytes))
    }

    /// Takes what nobody needs out of the store, but for layers that `stays` wants kept; to delete it is up to the caller.
    pub(super) fn take_garbage(
        &self,
        stays: impl Fn(&Digest) -> bool,
    ) -> Result<Taken, StoreError> {
        let blobs = self.blobs_on_disk()?;
        {
            // Under the state's lock: no pull can pin, and no snapshot begin, between decision and rename.
            let mut state = self.state();
            let mut pinned: BTreeSet<Digest> = state.pins.keys().copied().collect();
            pinned.extend(self.used_layers()?);
            let layers = state.layers.keys().copied();
            pinned.extend(layers.filter(stays));
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
                let record = state.layers.remove(layer);
                bytes += record.map_or(0, |record| self.disk_bytes(&record));
                self.recorder.shared().forget(layer);
            }
            for blob in &garbage.blobs {
                let path = self.layout.blob(blob);
                trash.extend(
                    self.layout
                        .discard(&path)
                        .map_err(|source| io_error("remove", &path, source))?,
                );
            }
            Ok(Taken {
                trash,
                layers: garbage.layers.len(),
                bytes,
            })
        }
    }

    /// Layers of containers and of mounted images.
    pub(super) fn used_layers(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let used =
            snapshot::used_layers(&self.layout).map_err(|e| StoreError::Snapshots(Arc::new(e)))?;
        let mut used: BTreeSet<Digest> = used.into_iter().collect();
        for mount in mounts::list(&self.layout)? {
            if mount.is_there {
                used.extend(mount.record.layers);
            }
        }
        Ok(used)
    }

    /// The same, and those of pulls under way.
    pub(super) fn held_layers(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let mut held = self.used_layers()?;
        held.extend(self.state().pins.keys());
        Ok(held)
    }

    /// What a layer takes on the disk; what its archive took, until its files were counted.
    pub(super) fn disk_bytes(&self, layer: &LayerRecord) -> u64 {
        let recorded = self.recorder.shared().known(&layer.chain_id);
        recorded.map_or(layer.size_unpacked, |recorded| recorded.disk_bytes)
    }

    /// Notes that an image is used. Costs a system call a minute.
    pub(crate) fn touch(&self, reference: &Reference, now: SystemTime) {
        {
            let mut state = self.state();
            let Some(used) = state.last_used.get_mut(reference) else {
                return;
            };
            if now.duration_since(*used).is_ok_and(|since| since < COARSE) {
                return;
            }
            *used = now;
        }
        let path = self.layout.references().join(Record::file_name(reference));
        let noted = File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(now));
        if let Err(error) = noted {
            tracing::debug!(%reference, %error, "cannot note that an image is used");
        }
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

/// Seconds since 1970.
pub(crate) fn unix_seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
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
