//! Pulling: one conversation with a registry per image, however many ask for it.
//!
//! ```text
//! manifest ─► (index? pick the host's) ─► (signed?) ─► config ─► layers, several at once:
//!     download ─► channel ─► [thread: sha256, inflate, sha256] ─► ring ─► [thread: parse, write] ─► verified? rename
//! ─► manifest and config into the store ─► the name into the index
//! ```
//!
//! Callers that want the same image share one `Flight`, a future that any of them drives; it ends when the last one
//! goes. What happens to the layers is in `fetch`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::watch;

use crate::digest::Digest;
use crate::fetch::{Origin, fetch_layers, plan};
use crate::manifest::{self, Document, Manifest, ManifestError};
use crate::platform;
use crate::reference::Reference;
use crate::registry::source::DocumentError;
use crate::registry::{PullSecret, RegistryError};
use crate::signature::{self, SignatureError};
use crate::store::index::Record;
use crate::store::{Image, ImageStore, Inner, StoreError, blocking, unix_seconds};
use crate::unpack::UnpackError;

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
    /// The registry limits how often it may be asked, and we wait so long for it.
    pub waiting: Option<Duration>,
}

/// How a file system says that it is full, or that somebody's share of it is.
const FULL: [ErrorKind; 2] = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];

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
    /// Not signed as the policy asks.
    #[error("image {reference} may not run here: {problem}")]
    Signature {
        /// The image.
        reference: String,
        /// Why.
        problem: SignatureError,
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
    /// The disk is full.
    #[error("no space left in the image store {} for {reference} ({cause}); make room or remove images", root.display())]
    NoSpace {
        /// The image.
        reference: String,
        /// The store.
        root: PathBuf,
        /// What was being done.
        cause: String,
    },
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
            Self::Deadline { .. } | Self::Store(_) | Self::NoSpace { .. } => true,
            Self::Manifest { .. }
            | Self::Signature { .. }
            | Self::WrongPlatform { .. }
            | Self::WrongDiffId { .. }
            | Self::Unpack { .. } => false,
        }
    }

    /// Whether what came was something else than what was asked for.
    pub(crate) fn is_of_the_bytes(&self) -> bool {
        match self {
            Self::Registry(error) => matches!(
                error,
                RegistryError::WrongDigest { .. }
                    | RegistryError::WrongSize { .. }
                    | RegistryError::Protocol { .. }
            ),
            Self::Manifest { .. }
            | Self::WrongPlatform { .. }
            | Self::WrongDiffId { .. }
            | Self::Signature { .. }
            | Self::Unpack { .. }
            | Self::Store(_)
            | Self::NoSpace { .. }
            | Self::Deadline { .. } => false,
        }
    }
}

impl PullError {
    /// The same, but a full disk is called by its name: whatever was being done then is not to blame.
    fn naming_a_full_disk(self, reference: &Reference, root: &Path) -> Self {
        let mut next: Option<&dyn std::error::Error> = match &self {
            Self::Unpack { problem, .. } => Some(problem.as_ref()),
            Self::Store(error) => Some(error),
            Self::Registry(_)
            | Self::Manifest { .. }
            | Self::Signature { .. }
            | Self::WrongPlatform { .. }
            | Self::WrongDiffId { .. }
            | Self::NoSpace { .. }
            | Self::Deadline { .. } => None,
        };
        while let Some(error) = next {
            let io = error.downcast_ref::<std::io::Error>();
            let io = io.or_else(|| Some(error.downcast_ref::<Arc<std::io::Error>>()?.as_ref()));
            if io.is_some_and(|io| FULL.contains(&io.kind())) {
                return Self::NoSpace {
                    reference: reference.to_string(),
                    root: root.into(),
                    cause: self.to_string(),
                };
            }
            next = error.source();
        }
        self
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

impl ImageStore {
    /// Makes an image be here, complete and verified. However many ask for it at once, it is fetched once; the pull
    /// ends when the last of them gives up. `progress` is told how far it is.
    pub async fn pull(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<Image, PullError> {
        self.pull_as(reference, policy, None, progress).await
    }

    /// The same with credentials of one's own. An image that is here is used only if the registry would give it to
    /// whoever has them: that is asked each time.
    pub async fn pull_with_secret(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        secret: &PullSecret,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<Image, PullError> {
        self.pull_as(reference, policy, Some(secret), progress)
            .await
    }

    async fn pull_as(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        secret: Option<&PullSecret>,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<Image, PullError> {
        // A name with a digest always stands for the same image.
        if policy == PullPolicy::IfNotPresent || reference.digest().is_some() {
            match self.get(reference).await {
                Ok(Some(image)) => {
                    if signature::on_hand(&self.inner, &image).await?
                        && self.may_use(&image, secret, progress.as_ref()).await?
                    {
                        return Ok(image);
                    }
                }
                Ok(None) => {}
                // What is damaged here is whole in the registry.
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::warn!(%error, "pulling {reference} again")
                }
                Err(error) => return Err(error.into()),
            }
        }
        let flight = self.flight(reference, secret);
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

    /// Whether an image that is here may be used by whoever asks: one that came with a secret, or is asked for with
    /// one, only if the registry agrees. False if it must be pulled again, because the registry has it no more.
    async fn may_use(
        &self,
        image: &Image,
        secret: Option<&PullSecret>,
        told: Option<&watch::Sender<PullProgress>>,
    ) -> Result<bool, PullError> {
        let reference = &image.reference;
        let guarded = self
            .inner
            .record(reference)
            .is_some_and(|record| record.with_secret);
        if secret.is_none() && !guarded {
            return Ok(true);
        }
        let source = self.inner.registries.source(reference, secret, told)?;
        let deadline = self.inner.config.pull_deadline;
        match tokio::time::timeout(deadline, source.serves(&image.manifest_digest)).await {
            Ok(served) => Ok(served?),
            Err(_) => Err(PullError::Deadline {
                reference: reference.to_string(),
                after: deadline,
            }),
        }
    }

    /// Pulls with the same credentials are one.
    fn flight(&self, reference: &Reference, secret: Option<&PullSecret>) -> Arc<Flight> {
        let mut flights = self
            .inner
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        let name = match secret {
            Some(secret) => format!("{reference} {:?}", secret.fingerprint()),
            None => reference.to_string(),
        };
        if let Some(flight) = flights.get(&name).and_then(std::sync::Weak::upgrade)
            && flight.result.peek().is_none()
        {
            return flight;
        }
        let (told, progress) = watch::channel(PullProgress::default());
        let (inner, reference) = (Arc::clone(&self.inner), reference.clone());
        let secret = secret.cloned();
        let deadline = self.inner.config.pull_deadline;
        let result = async move {
            let fetched = fetch(&inner, &reference, secret.as_ref(), told);
            match tokio::time::timeout(deadline, fetched).await {
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
    secret: Option<&PullSecret>,
    told: watch::Sender<PullProgress>,
) -> Result<Image, PullError> {
    let asked = signature::asked(inner, reference).await?;
    let source = inner.registries.source(reference, secret, Some(&told))?;
    let unusable = |problem| PullError::Manifest {
        reference: reference.to_string(),
        problem,
    };
    let failed = |error| match error {
        DocumentError::Registry(error) => PullError::Registry(error),
        DocumentError::Manifest(problem) => unusable(problem),
    };
    let (mut fetched, document) = source.document(None).await.map_err(failed)?;
    let mut digests = vec![fetched.digest];
    let manifest = match document {
        Document::Manifest(manifest) => manifest,
        Document::Index(entries) => {
            let entry = platform::select(&entries, &inner.host).map_err(|found| {
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
            let (child, document) = source.document(Some(entry)).await.map_err(failed)?;
            fetched = child;
            digests.push(fetched.digest);
            match document {
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
    if let Some(asked) = asked {
        asked.check(inner, reference, secret, &digests).await?;
    }
    let config = source.blob(&manifest.config, "config").await?;
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
        &Origin::Registry(Box::new(source)),
        told,
    )
    .await
}

/// Whether the image is to be guarded from those without its credentials: it came with some, and was not here before
/// without.
fn guarded(inner: &Inner, reference: &Reference, manifest: Digest, origin: &Origin) -> bool {
    let with_secret = match origin {
        Origin::Registry(source) => source.with_secret(),
        Origin::Local(_) => false,
    };
    let open = |record: &Record| record.manifest == manifest && !record.with_secret;
    with_secret && !inner.record(reference).as_ref().is_some_and(open)
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
    let stored = store_parts(inner, reference, incoming, origin, told).await;
    stored.map_err(|error| error.naming_a_full_disk(reference, inner.layout.root()))
}

async fn store_parts(
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
        pulled_at: unix_seconds(SystemTime::now()),
        with_secret: false,
    }
    .guarded(guarded(inner, reference, manifest_digest, origin));
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
