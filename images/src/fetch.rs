//! The layers of one image: fetched several at once, unpacked while they arrive, put in place in order.
//!
//! One writer per layer, by its lock; a layer's place in `layers/` is taken by rename, after both digests were checked
//! and when those below it are there, for it may inherit from them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};

use crate::digest::{Digest, chain_id};
use crate::manifest::{Blob, LayerBlob, Manifest, ParsedConfig};
use crate::pull::{PullError, PullProgress};
use crate::reference::Reference;
use crate::registry::RegistryError;
use crate::registry::source::Source;
use crate::section::Section;
use crate::store::content::{LayerRecord, Layout, delete};
use crate::store::{Inner, StoreError, blocking, io_error};
use crate::unpack::UnpackError;
use crate::unpack::decompress::{Bounds, Chunk};
use crate::unpack::layer::{self, Job, LayerFailure, Unpacked};

/// Pieces of a download that may wait for the disk.
const PIECES: usize = 6;

/// Where the bytes of an image come from.
pub(crate) enum Origin {
    Registry(Box<Source>),
    /// Layers that lie in files: packed here, or in an archive that is imported.
    Local(BTreeMap<Digest, Section>),
}

/// One layer and its place in the image.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) layer: LayerBlob,
    diff_id: Digest,
    pub(crate) chain: Digest,
    /// Chain ids of the layers below, topmost first.
    below: Vec<Digest>,
}

pub(crate) fn plan(manifest: &Manifest, config: &ParsedConfig) -> Vec<Step> {
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
pub(crate) async fn fetch_layers(
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
    for step in plan.iter().cloned() {
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
    let mut young = Young {
        inner,
        layers: Vec::new(),
    };
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
            let chain = ready.step.chain;
            match blocking(move || Ok(commit(&inner, &ready))).await? {
                Ok(()) => {
                    total += bytes;
                    young.layers.push(chain);
                }
                Err(problem) => failure = Some(problem.named(reference, layer)),
            }
            told.send_modify(|progress| progress.layers_done += 1);
        }
    }
    match failure {
        None => Ok(total),
        Some(error) => {
            // Trees are deleted where that may take its time.
            blocking(move || {
                drop(waiting);
                Ok(())
            })
            .await?;
            Err(error)
        }
    }
}

/// Layers that took their place: written back when no more will come, however that ends.
struct Young<'a> {
    inner: &'a Inner,
    layers: Vec<Digest>,
}

impl Drop for Young<'_> {
    fn drop(&mut self) {
        self.inner.write_back(&self.layers);
    }
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

/// Fetches a layer; again, from elsewhere, if a mirror sent something else.
async fn fetch_layer(
    inner: &Arc<Inner>,
    reference: &Reference,
    step: Step,
    origin: &Origin,
    told: &watch::Sender<PullProgress>,
    image_bytes: Arc<AtomicU64>,
) -> Result<Arrived, PullError> {
    loop {
        let passed = match origin {
            Origin::Registry(source) => source.passed(),
            Origin::Local(_) => 0,
        };
        let bytes = Arc::clone(&image_bytes);
        let fetched = fetch_layer_once(inner, reference, step.clone(), origin, told, bytes).await;
        let (Err(error), Origin::Registry(source)) = (&fetched, origin) else {
            return fetched;
        };
        let Some(wasted) = error
            .is_of_the_bytes()
            .then(|| source.distrust(&step.layer.blob, passed))
            .flatten()
        else {
            return fetched;
        };
        told.send_modify(|progress| {
            progress.bytes_done = progress.bytes_done.saturating_sub(wasted);
        });
    }
}

async fn fetch_layer_once(
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
        Origin::Local(layers) => {
            let streamed = match layers.get(&blob.digest) {
                Some(layer) => layer.stream(deliver).await,
                None => Err(std::io::ErrorKind::NotFound.into()),
            };
            let what = PathBuf::from(format!("layer {}", blob.digest));
            streamed.map_err(|source| io_error("read", &what, source))?;
        }
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
