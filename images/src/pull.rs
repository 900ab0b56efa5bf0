//! Pulling: one conversation with a registry per image, however many ask for it.
//!
//! ```text
//! manifest ─► (index? pick the host's) ─► config ─► layers, several at once:
//!     download ─► channel ─► [thread: sha256, inflate, sha256] ─► ring ─► [thread: parse, write] ─► verified? rename
//! ─► manifest and config into the store ─► the name into the index
//! ```
//!
//! Callers that want the same image share one `Flight`, a future that any of them drives; it ends when the last one
//! goes. Different images with a layer in common share that layer by its lock. A layer's place in `layers/` is taken
//! by rename, after both digests were checked.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};

use crate::digest::{Digest, chain_id};
use crate::manifest::{self, Blob, Document, LayerBlob, Manifest, ManifestError, ParsedConfig};
use crate::reference::Reference;
use crate::registry::RegistryError;
use crate::registry::client::Session;
use crate::store::content::{LayerRecord, Layout, delete};
use crate::store::index::Record;
use crate::store::{Image, ImageStore, Inner, StoreError, blocking, io_error};
use crate::unpack::UnpackError;
use crate::unpack::decompress::{Bounds, Chunk};
use crate::unpack::layer::{self, Job, LayerFailure, Unpacked};

/// Pieces of a download that may wait for the disk.
const PIECES: usize = 16;

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only if no image of that name is here.
    IfNotPresent,
    /// Each time: the name may stand for another image now. Layers that are here are not fetched again.
    Always,
}

/// How far a pull has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Layers that are in the store.
    pub layers_done: u32,
    /// Layers of the image; 0 until its manifest is known.
    pub layers_total: u32,
    /// Compressed bytes fetched, or spared because the layer is here.
    pub bytes_done: u64,
    /// Compressed bytes of the image.
    pub bytes_total: u64,
}

/// Why an image could not be pulled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    /// Between here and the registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A manifest or config that cannot be used.
    #[error("image {reference} cannot be used: {problem}")]
    Manifest {
        /// The image.
        reference: String,
        /// Why.
        problem: ManifestError,
    },
    /// Made for other machines.
    #[error("image {reference} is for {found}, but this machine needs {wanted}")]
    WrongPlatform {
        /// The image.
        reference: String,
        /// This machine's.
        wanted: String,
        /// The image's, one or several.
        found: String,
    },
    /// The archive is not what the config says.
    #[error("wrong diff id: layer {layer} should unpack to {expected} but unpacks to {actual}")]
    WrongDiffId {
        /// The layer's digest.
        layer: Digest,
        /// In the config.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// The archive cannot be, or must not be, unpacked.
    #[error("layer {layer} of {reference} was refused: {}", chain(problem.as_ref()))]
    Unpack {
        /// The image.
        reference: String,
        /// The layer's digest.
        layer: Digest,
        /// Why.
        problem: Arc<UnpackError>,
    },
    /// The store's own files.
    #[error("the image store failed: {}", chain(.0))]
    Store(StoreError),
    /// It took longer than allowed.
    #[error("pulling {reference} took longer than the {} s allowed", after.as_secs_f32())]
    Deadline {
        /// The image.
        reference: String,
        /// What is allowed.
        after: Duration,
    },
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl PullError {
    /// Whether the same pull may succeed later without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_transient(),
            Self::Deadline { .. } | Self::Store(_) => true,
            Self::Manifest { .. }
            | Self::WrongPlatform { .. }
            | Self::WrongDiffId { .. }
            | Self::Unpack { .. } => false,
        }
    }
}

/// An error and its causes in one line: these errors are cloned to every waiter and end up in a task's status.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// A pull under way.
pub(crate) struct Flight {
    result: Shared<BoxFuture<'static, Result<Image, PullError>>>,
    progress: watch::Receiver<PullProgress>,
}

impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flight")
            .field("progress", &*self.progress.borrow())
            .finish_non_exhaustive()
    }
}

/// Where the bytes of an image come from.
pub(crate) enum Origin {
    Registry(Box<Session>),
    /// A layer that lies in a file, as packed here.
    File(Arc<std::fs::File>),
}

impl ImageStore {
    /// Makes an image be here, complete and verified. However many ask for it at once, it is fetched once; the pull
    /// ends when the last of them gives up. `progress` is told how far it is.
    pub async fn pull(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<Image, PullError> {
        // A name with a digest always stands for the same image.
        if policy == PullPolicy::IfNotPresent || reference.digest().is_some() {
            match self.get(reference).await {
                Ok(Some(image)) => return Ok(image),
                Ok(None) => {}
                // What is damaged here is whole in the registry.
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::warn!(%error, "pulling {reference} again")
                }
                Err(error) => return Err(error.into()),
            }
        }
        let flight = self.flight(reference);
        let mut seen = flight.progress.clone();
        let mut result = flight.result.clone();
        loop {
            tokio::select! {
                result = &mut result => {
                    if let Some(told) = &progress {
                        told.send_replace(*flight.progress.borrow());
                    }
                    return result;
                }
                changed = seen.changed(), if progress.is_some() => {
                    if changed.is_err() {
                        return result.await;
                    }
                    if let Some(told) = &progress {
                        told.send_replace(*seen.borrow_and_update());
                    }
                }
            }
        }
    }

    fn flight(&self, reference: &Reference) -> Arc<Flight> {
        let mut flights = self
            .inner
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        let name = reference.to_string();
        if let Some(flight) = flights.get(&name).and_then(std::sync::Weak::upgrade)
            && flight.result.peek().is_none()
        {
            return flight;
        }
        let (told, progress) = watch::channel(PullProgress::default());
        let (inner, reference) = (Arc::clone(&self.inner), reference.clone());
        let deadline = self.inner.config.pull_deadline;
        let result = async move {
            match tokio::time::timeout(deadline, fetch(&inner, &reference, told)).await {
                Ok(result) => result,
                Err(_) => Err(PullError::Deadline {
                    reference: reference.to_string(),
                    after: deadline,
                }),
            }
        };
        let flight = Arc::new(Flight {
            result: result.boxed().shared(),
            progress,
        });
        flights.insert(name, Arc::downgrade(&flight));
        flight
    }
}

async fn fetch(
    inner: &Arc<Inner>,
    reference: &Reference,
    told: watch::Sender<PullProgress>,
) -> Result<Image, PullError> {
    let session = inner.registries.session(reference, "pull")?;
    let unusable = |problem| PullError::Manifest {
        reference: reference.to_string(),
        problem,
    };
    let mut fetched = session.manifest(None).await?;
    let document = manifest::parse_document(&fetched.bytes, fetched.content_type.as_deref())
        .map_err(unusable)?;
    let manifest = match document {
        Document::Manifest(manifest) => manifest,
        Document::Index(entries) => {
            let entry = manifest::select(&entries, &inner.host).map_err(|found| {
                PullError::WrongPlatform {
                    reference: reference.to_string(),
                    wanted: inner.host.to_string(),
                    found: if found.is_empty() {
                        "no known platform".into()
                    } else {
                        found.join(", ")
                    },
                }
            })?;
            fetched = session.manifest(Some(&entry.blob.digest)).await?;
            match manifest::parse_document(&fetched.bytes, Some(&entry.media_type))
                .map_err(unusable)?
            {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => {
                    return Err(unusable(ManifestError::Malformed {
                        what: "manifest",
                        problem: "an index inside of an index".into(),
                    }));
                }
            }
        }
    };
    let config = session.blob(&manifest.config, "config").await?;
    let incoming = Incoming {
        manifest,
        manifest_digest: fetched.digest,
        manifest_bytes: fetched.bytes,
        config,
    };
    store(
        inner,
        reference,
        incoming,
        &Origin::Registry(Box::new(session)),
        told,
    )
    .await
}

/// An image of which all but the layers is in memory.
pub(crate) struct Incoming {
    pub(crate) manifest: Manifest,
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) config: Vec<u8>,
}

/// Fetches what is missing and makes the name stand for the image.
pub(crate) async fn store(
    inner: &Arc<Inner>,
    reference: &Reference,
    incoming: Incoming,
    origin: &Origin,
    told: watch::Sender<PullProgress>,
) -> Result<Image, PullError> {
    let Incoming {
        manifest,
        manifest_digest,
        manifest_bytes,
        config,
    } = incoming;
    let unusable = |problem| PullError::Manifest {
        reference: reference.to_string(),
        problem,
    };
    let parsed = manifest::parse_config(&config).map_err(unusable)?;
    if !parsed.platform.runs_on(&inner.host) {
        return Err(PullError::WrongPlatform {
            reference: reference.to_string(),
            wanted: inner.host.to_string(),
            found: parsed.platform.to_string(),
        });
    }
    let (layers, diff_ids) = (manifest.layers.len(), parsed.diff_ids.len());
    if layers != diff_ids {
        return Err(unusable(ManifestError::LayerCount { layers, diff_ids }));
    }
    let plan = plan(&manifest, &parsed);
    let chains: Vec<Digest> = plan.iter().map(|step| step.chain).collect();
    let mut pinned = chains.clone();
    pinned.extend([manifest_digest, manifest.config.digest]);
    let _pins = inner.pin(&pinned);
    let size_unpacked = fetch_layers(inner, reference, &plan, origin, &told).await?;
    let size_compressed = plan.iter().map(|step| step.layer.blob.size).sum();
    let record = Record {
        version: Record::version(),
        reference: reference.clone(),
        manifest: manifest_digest,
        config: manifest.config.digest,
        layers: chains.clone(),
        size_compressed,
        size_unpacked,
    };
    let inner = Arc::clone(inner);
    blocking(move || {
        inner.put_blob(&manifest_digest, &manifest_bytes)?;
        inner.put_blob(&manifest.config.digest, &config)?;
        inner.remember(record)
    })
    .await?;
    Ok(Image {
        reference: reference.clone(),
        manifest_digest,
        config: parsed.config,
        layers: chains,
        size_compressed,
        size_unpacked,
    })
}

/// One layer and its place in the image.
#[derive(Debug, Clone)]
struct Step {
    layer: LayerBlob,
    diff_id: Digest,
    chain: Digest,
    /// Chain ids of the layers below, topmost first.
    below: Vec<Digest>,
}

fn plan(manifest: &Manifest, config: &ParsedConfig) -> Vec<Step> {
    let mut below: Vec<Digest> = Vec::new();
    let mut steps = Vec::new();
    for (layer, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
        let chain = chain_id(below.first(), diff_id);
        steps.push(Step {
            layer: layer.clone(),
            diff_id: *diff_id,
            chain,
            below: below.clone(),
        });
        below.insert(0, chain);
    }
    steps
}

/// A layer that is unpacked and verified but not in its place.
struct Ready {
    step: Step,
    folder: Folder,
    unpacked: Unpacked,
    /// Keeps a second writer of the same layer out until this one is in its place.
    _lock: tokio::sync::OwnedMutexGuard<()>,
}

/// A folder in `tmp` that goes when it is not renamed away.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(error) = delete(&self.0)
        {
            tracing::warn!(%error, folder = %self.0.display(), "a left-over could not be deleted; the next start will");
        }
    }
}

/// Fetches all layers that are not here, several at once, and puts each in its place when those below are. Returns the
/// image's unpacked bytes.
async fn fetch_layers(
    inner: &Arc<Inner>,
    reference: &Reference,
    plan: &[Step],
    origin: &Origin,
    told: &watch::Sender<PullProgress>,
) -> Result<u64, PullError> {
    told.send_modify(|progress| {
        progress.layers_total = u32::try_from(plan.len()).unwrap_or(u32::MAX);
        progress.bytes_total = plan.iter().map(|step| step.layer.blob.size).sum();
    });
    let image_bytes = Arc::new(AtomicU64::new(0));
    let mut total = 0;
    let mut running = FuturesUnordered::new();
    for step in distinct(plan) {
        if let Some(record) = inner.layer(&step.chain) {
            done(told, step.layer.blob.size);
            image_bytes.fetch_add(record.size_unpacked, Ordering::Relaxed);
            total += record.size_unpacked;
        } else {
            running.push(fetch_layer(
                inner,
                reference,
                step,
                origin,
                told,
                Arc::clone(&image_bytes),
            ));
        }
    }
    // In whatever order they arrive, a layer takes its place after those below: it may inherit from them.
    let mut waiting: Vec<Ready> = Vec::new();
    let mut failure = None;
    while failure.is_none()
        && let Some(arrived) = running.next().await
    {
        match arrived {
            Ok(Arrived::Present(bytes)) => total += bytes,
            Ok(Arrived::Ready(ready)) => waiting.push(*ready),
            Err(error) => failure = Some(error),
        }
        let placed = |ready: &Ready| {
            ready
                .step
                .below
                .iter()
                .all(|below| inner.layer(below).is_some())
        };
        while failure.is_none()
            && let Some(at) = waiting.iter().position(placed)
        {
            let ready = waiting.swap_remove(at);
            let bytes = ready.unpacked.bytes;
            let inner = Arc::clone(inner);
            let (reference, layer) = (reference.to_string(), ready.step.layer.blob.digest);
            match blocking(move || Ok(commit(&inner, &ready))).await? {
                Ok(()) => total += bytes,
                Err(problem) => failure = Some(problem.named(reference, layer)),
            }
            told.send_modify(|progress| progress.layers_done += 1);
        }
    }
    match failure {
        None => Ok(total),
        Some(error) => {
            // Trees are deleted where that may take its time.
            blocking(move || Ok(drop(waiting))).await?;
            Err(error)
        }
    }
}

/// An image may list the same layer twice in a row with the same chain id only if a hash collides; but an evil config
/// costs nothing to guard against.
fn distinct(plan: &[Step]) -> Vec<Step> {
    let mut seen = std::collections::BTreeSet::new();
    plan.iter()
        .filter(|step| seen.insert(step.chain))
        .cloned()
        .collect()
}

fn done(told: &watch::Sender<PullProgress>, bytes: u64) {
    told.send_modify(|progress| {
        progress.layers_done += 1;
        progress.bytes_done += bytes;
    });
}

enum Arrived {
    /// Somebody else brought it.
    Present(u64),
    Ready(Box<Ready>),
}

async fn fetch_layer(
    inner: &Arc<Inner>,
    reference: &Reference,
    step: Step,
    origin: &Origin,
    told: &watch::Sender<PullProgress>,
    image_bytes: Arc<AtomicU64>,
) -> Result<Arrived, PullError> {
    let lock = {
        let mut locks = inner
            .layer_locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let known = locks.get(&step.chain).and_then(std::sync::Weak::upgrade);
        known.unwrap_or_else(|| {
            let fresh = Arc::new(tokio::sync::Mutex::new(()));
            locks.insert(step.chain, Arc::downgrade(&fresh));
            fresh
        })
    };
    // Lock, then permit: one who waits for a layer that another pull brings must not keep that pull from going on.
    let held = lock.lock_owned().await;
    if let Some(record) = inner.layer(&step.chain) {
        done(told, step.layer.blob.size);
        return Ok(Arrived::Present(record.size_unpacked));
    }
    let Ok(_permit) = inner.permits.acquire().await else {
        return Err(StoreError::Interrupted.into());
    };
    let folder = Folder(inner.layout.fresh("layer"));
    let job = Job {
        directory: folder.0.join("fs"),
        digest: step.layer.blob.digest,
        diff_id: step.diff_id,
        compression: step.layer.compression,
        bounds: Bounds {
            size: step.layer.blob.size,
            max_ratio: inner.config.limits.max_ratio,
            image_bytes,
            max_image_bytes: inner.config.max_unpacked_bytes,
        },
        limits: inner.config.limits.clone(),
    };
    let (chunks, receiver) = mpsc::channel(PIECES);
    let unpacking = tokio::task::spawn_blocking(move || {
        make_layer_folder(&folder)?;
        // On failure the folder is deleted here, not on an async thread.
        Ok::<_, StoreError>(layer::unpack(receiver, &job).map(|unpacked| (unpacked, folder)))
    });
    let sent = send(origin, &step.layer.blob, chunks, told).await;
    let unpacked = unpacking.await.map_err(|_| StoreError::Interrupted)??;
    // The download's own failure is the cause of whatever the archive's reader saw.
    sent?;
    let digest = step.layer.blob.digest;
    match unpacked {
        Ok((unpacked, folder)) => Ok(Arrived::Ready(Box::new(Ready {
            step,
            folder,
            unpacked,
            _lock: held,
        }))),
        Err(LayerFailure::WrongDigest { actual }) => Err(RegistryError::WrongDigest {
            what: format!("layer of {reference}"),
            expected: digest.to_string(),
            actual: actual.to_string(),
        }
        .into()),
        Err(LayerFailure::WrongDiffId { actual }) => Err(PullError::WrongDiffId {
            layer: digest,
            expected: step.diff_id,
            actual,
        }),
        Err(LayerFailure::Unpack(problem)) => Err(PullError::Unpack {
            reference: reference.to_string(),
            layer: digest,
            problem: Arc::new(problem),
        }),
        Err(LayerFailure::Cut) => Err(StoreError::Interrupted.into()),
    }
}

fn make_layer_folder(folder: &Folder) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    let root = folder.0.join("fs");
    Layout::private_folder(&folder.0)
        .and_then(|()| Layout::private_folder(&root))
        .and_then(|()| std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)))
        .map_err(|source| io_error("create", &folder.0, source))
}

/// Brings a layer's compressed bytes to its unpacker; ends early when that has refused them.
async fn send(
    origin: &Origin,
    blob: &Blob,
    chunks: mpsc::Sender<Chunk>,
    told: &watch::Sender<PullProgress>,
) -> Result<(), PullError> {
    let deliver = |data: Bytes| {
        let chunks = &chunks;
        async move {
            let length = data.len() as u64;
            let wanted = chunks.send(Chunk::Data(data)).await.is_ok();
            told.send_modify(|progress| progress.bytes_done += length);
            wanted
        }
    };
    match origin {
        Origin::Registry(session) => session.stream(blob, deliver).await?,
        Origin::File(file) => crate::pack::stream_file(file, blob.size, deliver)
            .await
            .map_err(|source| io_error("read", std::path::Path::new("packed layer"), source))?,
    }
    let _ = chunks.send(Chunk::End).await;
    Ok(())
}

enum CommitError {
    Unpack(UnpackError),
    Store(StoreError),
}

impl CommitError {
    fn named(self, reference: String, layer: Digest) -> PullError {
        match self {
            Self::Unpack(problem) => PullError::Unpack {
                reference,
                layer,
                problem: Arc::new(problem),
            },
            Self::Store(error) => PullError::Store(error),
        }
    }
}

fn commit(inner: &Inner, ready: &Ready) -> Result<(), CommitError> {
    let lowers: Vec<PathBuf> = ready
        .step
        .below
        .iter()
        .map(|chain| inner.layout.layer_fs(chain))
        .collect();
    let root = ready.folder.0.join("fs");
    layer::inherit(&root, &ready.unpacked.implied, &lowers).map_err(CommitError::Unpack)?;
    let record = LayerRecord {
        version: 1,
        chain_id: ready.step.chain,
        diff_id: ready.step.diff_id,
        size_unpacked: ready.unpacked.bytes,
        opaque_root: ready.unpacked.opaque_root,
        boot_id: inner.boot_id.clone(),
    };
    inner
        .commit_layer(&ready.folder.0, record)
        .map_err(CommitError::Store)
}
