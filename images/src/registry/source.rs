//! Whom to ask for one image: its mirrors in order, then its registry.
//!
//! A mirror is a convenience. Whatever is wrong with it, it is passed over with a word in the log, for the rest of the
//! pull unless it just lacked something; one that could not be reached is left alone for a while by later pulls, too.
//! Its bytes count only if their digest is the one asked for; a tag, which has none, is what the first one says it is.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::RegistryError;
use super::client::RegistryClient;
use super::session::{Fetched, Session};
use crate::digest::Digest;
use crate::manifest::{self, Blob, Document, IndexEntry, ManifestError};

/// How long a mirror that could not be reached is left alone.
const DOWN: Duration = Duration::from_secs(30);

/// The conversations of one pull.
#[derive(Debug)]
pub(crate) struct Source {
    client: RegistryClient,
    mirrors: Vec<Session>,
    registry: Session,
    with_secret: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Mirrors that are not asked any more.
    passed: BTreeSet<usize>,
    /// Of layers that mirrors sent bytes of.
    fed: HashMap<Digest, Fed>,
}

#[derive(Debug, Default)]
struct Fed {
    bytes: u64,
    mirrors: BTreeSet<usize>,
}

/// Why there is no usable manifest.
#[derive(Debug)]
pub(crate) enum DocumentError {
    Registry(RegistryError),
    Manifest(ManifestError),
}

impl Source {
    pub(super) fn new(
        client: RegistryClient,
        mirrors: Vec<Session>,
        registry: Session,
        with_secret: bool,
    ) -> Self {
        Self {
            client,
            mirrors,
            registry,
            with_secret,
            state: Mutex::default(),
        }
    }

    /// Whether credentials came with the pull.
    pub(crate) fn with_secret(&self) -> bool {
        self.with_secret
    }

    /// What the name stands for, or what an entry of its index does.
    pub(crate) async fn document(
        &self,
        entry: Option<&IndexEntry>,
    ) -> Result<(Fetched, Document), DocumentError> {
        let read = async |session: &Session| {
            let digest = entry.map(|entry| &entry.blob.digest);
            let fetched = session.manifest(digest).await;
            let fetched = fetched.map_err(DocumentError::Registry)?;
            let media_type = match entry {
                Some(entry) => Some(entry.media_type.as_str()),
                None => fetched.content_type.as_deref(),
            };
            match manifest::parse_document(&fetched.bytes, media_type) {
                Ok(document) => Ok((fetched, document)),
                Err(problem) => Err(DocumentError::Manifest(problem)),
            }
        };
        for (at, mirror) in self.open() {
            match read(mirror).await {
                Ok(found) => return Ok(found),
                Err(DocumentError::Registry(error)) => self.pass(at, &error),
                Err(DocumentError::Manifest(problem)) => {
                    let error = mirror.protocol(problem.to_string());
                    self.pass(at, &error);
                }
            }
        }
        read(&self.registry).await
    }

    /// The bytes that the name stands for, whatever kind of document they are.
    pub(crate) async fn manifest(&self) -> Result<Fetched, RegistryError> {
        for (at, mirror) in self.open() {
            match mirror.manifest(None).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => self.pass(at, &error),
            }
        }
        self.registry.manifest(None).await
    }

    /// Whether one of them would give us this manifest, which is how a registry says that we may have the image.
    pub(crate) async fn serves(&self, digest: &Digest) -> Result<bool, RegistryError> {
        for (at, mirror) in self.open() {
            match mirror.serves(digest).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => self.pass(at, &error),
            }
        }
        self.registry.serves(digest).await
    }

    /// Fetches a small blob whole and checks it.
    pub(crate) async fn blob(&self, blob: &Blob, name: &str) -> Result<Vec<u8>, RegistryError> {
        for (at, mirror) in self.open() {
            match mirror.blob(blob, name).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => self.pass(at, &error),
            }
        }
        self.registry.blob(blob, name).await
    }

    /// Streams a large blob to `sink`, which answers false when it wants no more. Where a mirror breaks off, the next
    /// one goes on. The digest is checked by the one who reads: see [`Self::distrust`].
    pub(crate) async fn stream<F, Fut>(&self, blob: &Blob, mut sink: F) -> Result<(), RegistryError>
    where
        F: FnMut(Bytes) -> Fut,
        Fut: Future<Output = bool>,
    {
        let mut received = 0;
        for (at, mirror) in self.open() {
            let before = received;
            let streamed = mirror.stream(blob, &mut received, &mut sink).await;
            if received > before {
                self.state()
                    .fed
                    .entry(blob.digest)
                    .or_default()
                    .mirrors
                    .insert(at);
            }
            match streamed {
                Ok(()) => {
                    self.fed(blob, received);
                    return Ok(());
                }
                Err(error) => {
                    self.pass(at, &error);
                    // What it sent is in doubt: nobody can go on from there.
                    if received > before && !error.is_transient() {
                        self.fed(blob, received);
                        return Err(error);
                    }
                }
            }
        }
        let streamed = self.registry.stream(blob, &mut received, &mut sink).await;
        self.fed(blob, received);
        streamed
    }

    /// How many mirrors are not asked any more.
    pub(crate) fn passed(&self) -> usize {
        self.state().passed.len()
    }

    /// The bytes of a layer were not what they should be. If some came from mirrors, those are passed over from now on
    /// and it is worth another attempt: returns how many bytes do not count. An image may have the same layer twice, at
    /// the same time: then the other one may have passed them over since there were `passed` of them.
    pub(crate) fn distrust(&self, layer: &Blob, passed: usize) -> Option<u64> {
        let Some(fed) = self.state().fed.remove(&layer.digest) else {
            return (self.passed() > passed).then_some(layer.size);
        };
        let layer = layer.digest;
        for at in fed.mirrors {
            self.pass(
                at,
                &self.mirrors[at].protocol(format!(
                    "the bytes of layer {layer} are others than its digest says"
                )),
            );
        }
        Some(fed.bytes)
    }

    fn fed(&self, blob: &Blob, received: u64) {
        if let Some(fed) = self.state().fed.get_mut(&blob.digest) {
            fed.bytes = received;
        }
    }

    /// The mirrors that are still worth asking.
    fn open(&self) -> Vec<(usize, &Session)> {
        let now = Instant::now();
        let state = self.state();
        self.mirrors
            .iter()
            .enumerate()
            .filter(|(at, mirror)| {
                let down = self.client.mirrors_down().left(&mirror.endpoint.host, now);
                !state.passed.contains(at) && down.is_none()
            })
            .collect()
    }

    fn pass(&self, at: usize, error: &RegistryError) {
        let mirror = &self.mirrors[at].endpoint;
        if let RegistryError::NotFound { what, .. } = error {
            tracing::info!(
                mirror = mirror.label,
                "it lacks {what}: asking the next one"
            );
            return;
        }
        if self.state().passed.insert(at) {
            tracing::warn!(mirror = mirror.label, %error, "passing over a mirror for the rest of this pull");
        }
        if let RegistryError::Unreachable { .. } | RegistryError::Timeout { .. } = error {
            let down = self.client.mirrors_down();
            down.note(&mirror.host, DOWN, Instant::now());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
