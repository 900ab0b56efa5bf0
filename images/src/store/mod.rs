//! The store: what images are here, and the one place that changes it.
//!
//! `ImageStore` is a cheap handle; one process holds the store's lock. Images, layers and pins live in memory (`State`)
//! and are read from the disk once, by `open`; whatever changes the disk does so before it changes the state. A pull
//! *pins* what it counts on before it looks whether it is there, and collection never touches what is pinned.

pub(crate) mod content;
pub(crate) mod gc;
pub(crate) mod index;
pub(crate) mod snapshot;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::manifest::{self, ImageConfig, Platform};
use crate::pull::Flight;
use crate::reference::Reference;
use crate::registry::auth;
use crate::registry::client::{ClientOptions, RegistryClient};
use crate::unpack::UnpackLimits;
use content::{LayerRecord, Layout};
use index::Record;
use snapshot::{Snapshot, SnapshotError};

/// How to run a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The folder that the store has for itself.
    pub root: PathBuf,
    /// Registries (`host[:port]`) that are spoken to without TLS; those on a loopback address always are.
    pub insecure_registries: Vec<String>,
    /// How long one pull may take in all.
    pub pull_deadline: Duration,
    /// How long a registry may be silent.
    pub stall_timeout: Duration,
    /// Bytes that an image may inflate to.
    pub max_unpacked_bytes: u64,
    /// Layers that are fetched and unpacked at the same time, over all pulls.
    pub parallel_layers: usize,
    /// Docker's file with credentials.
    pub auth_file: Option<PathBuf>,
    /// Further bounds on archives.
    pub limits: UnpackLimits,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/mezzo/images"),
            insecure_registries: Vec::new(),
            pull_deadline: Duration::from_secs(30 * 60),
            stall_timeout: Duration::from_secs(30),
            max_unpacked_bytes: 64 << 30,
            parallel_layers: 4,
            auth_file: auth::default_file(),
            limits: UnpackLimits::default(),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the image store {} is in use by another process; stop that one or choose another directory", root.display())]
    InUse {
        /// The store.
        root: PathBuf,
    },
    /// Written by a later version of this program.
    #[error("{} has format version {found} but this program knows {known} only; use the newer program", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest one known here.
        known: u32,
    },
    /// Half-written or damaged.
    #[error("{} is damaged ({problem}); remove {} and all images will be pulled again", path.display(), root.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The store.
        root: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file system refused.
    #[error("could not {operation} {} of the image store", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: std::io::Error,
    },
    /// No client for registries could be made.
    #[error("could not prepare for talking to registries")]
    Client(#[source] crate::registry::RegistryError),
}

/// Why an operation on the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("could not {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// A file of the store is not what it was.
    #[error("{} is damaged ({problem}); remove the image and pull it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A snapshot's list of layers could not be read.
    #[error("could not tell which layers are in use")]
    Snapshots(#[source] Arc<SnapshotError>),
    /// The task doing it was stopped.
    #[error("the operation was interrupted because the program is stopping")]
    Interrupted,
}

/// An image that is here, complete and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name it was asked for by.
    pub reference: Reference,
    /// Which image it is, whatever its name.
    pub manifest_digest: Digest,
    /// How to run it.
    pub config: ImageConfig,
    /// Chain ids of the layers, bottom first.
    pub layers: Vec<Digest>,
    /// Bytes in the registry.
    pub size_compressed: u64,
    /// Bytes of its archives.
    pub size_unpacked: u64,
}

/// A line of the list of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The name.
    pub reference: Reference,
    /// Which image it is.
    pub manifest_digest: Digest,
    /// Number of layers.
    pub layers: usize,
    /// Bytes in the registry.
    pub size_compressed: u64,
    /// Bytes of its archives, layers shared with others included.
    pub size_unpacked: u64,
}

/// What `remove` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// There was such an image.
    pub found: bool,
    /// Layers that nobody else used.
    pub layers: usize,
    /// Their unpacked bytes.
    pub bytes: u64,
}

/// What `prune` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names that went.
    pub references: Vec<Reference>,
    /// Layers that went.
    pub layers: usize,
    /// Their unpacked bytes.
    pub bytes: u64,
}

/// The store; a cheap handle.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

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
    state: Mutex<State>,
    /// Held while names change on the disk.
    names: Mutex<()>,
    write_back: SyncSender<PathBuf>,
    _lock: Flock<File>,
}

#[derive(Debug)]
struct State {
    images: BTreeMap<Reference, Record>,
    layers: BTreeMap<Digest, LayerRecord>,
    pins: BTreeMap<Digest, usize>,
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

impl ImageStore {
    /// Opens a store, makes it if it is not there, and removes what a crash has left behind.
    ///
    /// The lock goes to every child that is forked without exec while the store is open: fork those first.
    pub async fn open(config: StoreConfig) -> Result<Self, OpenError> {
        let registries = RegistryClient::new(ClientOptions {
            insecure: config.insecure_registries.clone(),
            auth_file: config.auth_file.clone(),
            stall: config.stall_timeout,
        })
        .map_err(OpenError::Client)?;
        let root = config.root.clone();
        let opened = tokio::task::spawn_blocking(move || open_blocking(config, registries)).await;
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

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
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

    fn forget(&self, reference: &Reference) -> Result<bool, StoreError> {
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
    fn collect(&self) -> Result<(usize, u64), StoreError> {
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

fn summary(record: &Record) -> ImageSummary {
    ImageSummary {
        reference: record.reference.clone(),
        manifest_digest: record.manifest,
        layers: record.layers.len(),
        size_compressed: record.size_compressed,
        size_unpacked: record.size_unpacked,
    }
}

fn open_blocking(config: StoreConfig, registries: RegistryClient) -> Result<ImageStore, OpenError> {
    let layout = Layout::new(&config.root);
    let io = |operation, path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Io {
            operation,
            path,
            source,
        }
    };
    layout.create().map_err(io("create", layout.root()))?;
    let lock = lock(&layout)?;
    check_format(&layout)?;
    let boot_id =
        content::boot_id().map_err(io("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
    for entry in std::fs::read_dir(layout.tmp()).map_err(io("read", &layout.tmp()))? {
        let path = entry.map_err(io("read", &layout.tmp()))?.path();
        content::delete(&path).map_err(io("remove left-over", &path))?;
    }
    let layers = load_layers(&layout, &boot_id)?;
    let images = index::load(&layout)?;
    let (write_back, jobs) = sync_channel(1024);
    let root = config.root.clone();
    std::thread::Builder::new()
        .name("image-write-back".into())
        .spawn(move || write_back_loop(&jobs))
        .map_err(io("start a thread for", &root))?;
    let inner = Inner {
        permits: Arc::new(Semaphore::new(config.parallel_layers.max(1))),
        config,
        layout,
        registries,
        host: Platform::host(),
        boot_id,
        flights: Mutex::new(HashMap::new()),
        layer_locks: Mutex::new(HashMap::new()),
        state: Mutex::new(State {
            images,
            layers,
            pins: BTreeMap::new(),
        }),
        names: Mutex::new(()),
        write_back,
        _lock: lock,
    };
    Ok(ImageStore {
        inner: Arc::new(inner),
    })
}

fn lock(layout: &Layout) -> Result<Flock<File>, OpenError> {
    let path = layout.root().join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.map_err(|source| OpenError::Io {
        operation: "open",
        path: path.clone(),
        source,
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == Errno::EWOULDBLOCK {
            OpenError::InUse {
                root: layout.root().into(),
            }
        } else {
            OpenError::Io {
                operation: "lock",
                path,
                source: errno.into(),
            }
        }
    })
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Format {
    version: u32,
}

fn check_format(layout: &Layout) -> Result<(), OpenError> {
    let path = layout.root().join("store.json");
    let io = |operation| {
        let path = path.clone();
        move |source| OpenError::Io {
            operation,
            path,
            source,
        }
    };
    let text = match content::read_bounded(&path, 4096) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let text = serde_json::to_vec(&Format { version: 1 }).expect("a number serializes");
            return layout.write_atomically(&path, &text).map_err(io("write"));
        }
        Err(e) => return Err(io("read")(e)),
    };
    match serde_json::from_slice(&text) {
        Ok(Format { version: 1 }) => Ok(()),
        Ok(Format { version }) => Err(OpenError::NewerFormat {
            path,
            found: version,
            known: 1,
        }),
        Err(e) => Err(OpenError::Corrupt {
            path,
            root: layout.root().into(),
            problem: e.to_string(),
        }),
    }
}

fn load_layers(layout: &Layout, boot_id: &str) -> Result<BTreeMap<Digest, LayerRecord>, OpenError> {
    let folder = layout.layers();
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Io {
            operation: "read",
            path,
            source,
        }
    };
    let mut layers = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).map_err(io(&folder))? {
        let entry = entry.map_err(io(&folder))?;
        let path = entry.path();
        let name = entry.file_name();
        let chain = name.to_str().and_then(|name| Digest::from_hex(name).ok());
        let read = match chain {
            Some(chain) => {
                content::read_layer(&path, &chain, boot_id).map(|record| (chain, record))
            }
            None => Err("its name is no digest".into()),
        };
        match read {
            Ok((chain, record)) => {
                layers.insert(chain, record);
            }
            Err(problem) => {
                tracing::warn!(layer = %path.display(), problem, "removing a layer that cannot be trusted");
                content::delete(&path).map_err(io(&path))?;
            }
        }
    }
    Ok(layers)
}

/// Writes young layers back to the disk and marks them, until the store is closed. Its end is not waited for: a mark
/// that is missing costs a pull after the next crash, no more.
fn write_back_loop(jobs: &Receiver<PathBuf>) {
    while let Ok(first) = jobs.recv() {
        let mut layers = vec![first];
        layers.extend(jobs.try_iter());
        if let Err(error) = write_back(&layers) {
            tracing::warn!(%error, "layers could not be written back; they count until the machine goes down");
        }
    }
}

fn write_back(layers: &[PathBuf]) -> std::io::Result<()> {
    let Some(first) = layers.iter().find(|layer| layer.exists()) else {
        return Ok(());
    };
    // One call for all: they are on one file system.
    nix::unistd::syncfs(crate::unpack::layer::open_for_sync(first)?)?;
    for layer in layers {
        match File::create(layer.join("durable")).and_then(|mark| mark.sync_all()) {
            Ok(()) => content::sync_folder(layer)?,
            // Collected meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
