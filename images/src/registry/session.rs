//! Manifests and blobs over HTTP: one image's conversation with one registry or mirror.
//!
//! A `Session` asks without credentials first, answers a challenge, keeps the token for its own requests only, tries
//! again what may succeed, and goes on from where a broken download stopped. Single requests are in `exchange`.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::watch;

use super::challenge::Challenge;
use super::client::{RegistryClient, Transport};
use super::credentials::CredentialSource;
use super::docker_config::Credentials;
use super::{RegistryError, range};
use crate::digest::Digest;
use crate::manifest::{Blob, MAX_METADATA_BYTES};
use crate::pull::PullProgress;
use crate::reference::Reference;

/// Whom a session talks to.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// `host[:port]`, as configuration and credentials have it.
    pub(super) host: String,
    /// As messages name it.
    pub(super) label: String,
    pub(super) is_mirror: bool,
    pub(super) base: Url,
    pub(super) transport: Arc<Transport>,
}

/// One image's conversation with one registry.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) client: RegistryClient,
    pub(super) reference: Reference,
    pub(super) endpoint: Endpoint,
    pub(super) scope: &'static str,
    pub(super) credentials: CredentialSource,
    pub(super) authorization: Mutex<Option<HeaderValue>>,
    /// Told when a wait is the registry's wish.
    pub(super) told: Option<watch::Sender<PullProgress>>,
}

/// A manifest or index as the registry sent it.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

/// How a session proves who it is, in oci-client's words.
#[derive(Debug)]
pub(crate) enum Proof {
    None,
    Bearer(String),
    Basic { user: String, password: String },
}

/// What came when the rest of a blob was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The rest.
    Follows,
    /// A part of another blob.
    Changed,
    /// Another part, or nobody knows which: to be asked for whole.
    Unusable,
}

impl Session {
    pub(super) fn new(
        client: RegistryClient,
        reference: Reference,
        endpoint: Endpoint,
        scope: &'static str,
        credentials: CredentialSource,
        told: Option<watch::Sender<PullProgress>>,
    ) -> Self {
        Self {
            client,
            reference,
            endpoint,
            scope,
            credentials,
            authorization: Mutex::new(None),
            told,
        }
    }

    /// Fetches the manifest that the reference names (or another one of the same repository, by digest).
    pub(crate) async fn manifest(&self, digest: Option<&Digest>) -> Result<Fetched, RegistryError> {
        let selector =
            digest.map_or_else(|| self.reference.manifest_selector(), ToString::to_string);
        let pinned = digest.or(self.reference.digest());
        let what = match digest {
            Some(digest) => format!("manifest {digest} of {}", self.reference),
            None => self.reference.to_string(),
        };
        self.retried(|| self.manifest_once(&selector, pinned, &what))
            .await
    }

    async fn manifest_once(
        &self,
        selector: &str,
        pinned: Option<&Digest>,
        what: &str,
    ) -> Result<Fetched, RegistryError> {
        let response = self
            .get(&format!("manifests/{selector}"), None, what)
            .await?;
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .map(str::to_string);
        let bytes = self.body(response, MAX_METADATA_BYTES, what).await?;
        let digest = Digest::of(&bytes);
        match pinned {
            Some(expected) if *expected != digest => Err(RegistryError::WrongDigest {
                what: what.into(),
                expected: expected.to_string(),
                actual: digest.to_string(),
            }),
            Some(_) | None => Ok(Fetched {
                bytes,
                digest,
                content_type,
            }),
        }
    }

    /// Whether the registry would give us this manifest; asks for its head only, where that can be asked for.
    pub(crate) async fn serves(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let what = format!("manifest {digest} of {}", self.reference);
        let path = format!("manifests/{digest}");
        let (what, path) = (what.as_str(), path.as_str());
        let head = || async { self.ask(Method::HEAD, path, None, what).await };
        let mut asked = self.retried(head).await;
        if let Err(RegistryError::Status { status: 405, .. }) = asked {
            asked = self.retried(|| self.get(path, None, what)).await;
        }
        match asked {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fetches a small blob whole and checks it.
    pub(crate) async fn blob(&self, blob: &Blob, name: &str) -> Result<Vec<u8>, RegistryError> {
        let what = format!("{name} {}", blob.digest);
        self.retried(|| async {
            let response = self
                .get(&format!("blobs/{}", blob.digest), None, &what)
                .await?;
            let bytes = self.body(response, blob.size, &what).await?;
            let actual = Digest::of(&bytes);
            if bytes.len() as u64 != blob.size {
                return Err(self.wrong_size(&what, blob.size, bytes.len().to_string()));
            }
            if actual != blob.digest {
                let (expected, actual) = (blob.digest.to_string(), actual.to_string());
                return Err(RegistryError::WrongDigest {
                    what: what.clone(),
                    expected,
                    actual,
                });
            }
            Ok(bytes)
        })
        .await
    }

    /// Streams a large blob to `sink`, which answers false when it wants no more, from byte `received` on, which moves
    /// with every byte. Sizes are checked here, digests by the one who reads. A broken stream goes on at the byte where
    /// it broke.
    pub(crate) async fn stream<F, Fut>(
        &self,
        blob: &Blob,
        received: &mut u64,
        sink: &mut F,
    ) -> Result<(), RegistryError>
    where
        F: FnMut(Bytes) -> Fut,
        Fut: Future<Output = bool>,
    {
        let what = format!("layer {}", blob.digest);
        let mut failures = 0;
        loop {
            let before = *received;
            let error = match self.stream_once(blob, &what, received, sink).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Progress starts the count anew: a long download may break more often than a short request.
            failures = if *received > before { 1 } else { failures + 1 };
            let Some(delay) = self.delay_after(&error, failures) else {
                return Err(error);
            };
            tracing::info!(%error, received, "download of {what} broke, trying again in {delay:?}");
            self.wait(delay, error.is_rate_limit()).await;
        }
    }

    async fn stream_once<F, Fut>(
        &self,
        blob: &Blob,
        what: &str,
        received: &mut u64,
        sink: &mut F,
    ) -> Result<(), RegistryError>
    where
        F: FnMut(Bytes) -> Fut,
        Fut: Future<Output = bool>,
    {
        let (mut response, mut skip) = self.rest(blob, what, *received).await?;
        if let Some(length) = response.content_length()
            && length + *received - skip > blob.size
        {
            return Err(self.wrong_size(what, blob.size, length.to_string()));
        }
        while let Some(mut piece) = response
            .chunk()
            .await
            .map_err(|e| self.transport(&e, "send data"))?
        {
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            let _ = piece.split_to(usize::try_from(skipped).unwrap_or(piece.len()));
            if *received + piece.len() as u64 > blob.size {
                return Err(self.wrong_size(what, blob.size, "more".into()));
            }
            *received += piece.len() as u64;
            if !piece.is_empty() && !sink(piece).await {
                return Ok(());
            }
        }
        if *received < blob.size {
            return Err(self.wrong_size(what, blob.size, received.to_string()));
        }
        Ok(())
    }

    /// Asks for a blob from byte `received` on. Who does not understand that sends it whole: the second value is how
    /// many bytes to skip.
    async fn rest(
        &self,
        blob: &Blob,
        what: &str,
        received: u64,
    ) -> Result<(Response, u64), RegistryError> {
        let path = format!("blobs/{}", blob.digest);
        let mut offset = (received > 0).then_some(received);
        loop {
            let response = match self.get(&path, offset, what).await {
                Err(RegistryError::Status { status: 416, .. }) if offset.is_some() => {
                    offset = None;
                    continue;
                }
                other => other?,
            };
            if response.status() != StatusCode::PARTIAL_CONTENT {
                return Ok((response, received));
            }
            let Some(from) = offset else {
                return Err(
                    self.protocol(format!("it sends a part of {what}, asked for the whole"))
                );
            };
            let header = response.headers().get(CONTENT_RANGE);
            match range::judge(header.and_then(|v| v.to_str().ok()), from, blob.size) {
                Rest::Follows => return Ok((response, 0)),
                Rest::Changed => {
                    return Err(self.protocol(format!(
                        "{what} has another size ({}) than a moment ago",
                        header.and_then(|v| v.to_str().ok()).unwrap_or_default()
                    )));
                }
                Rest::Unusable => {
                    tracing::info!(
                        registry = self.endpoint.label,
                        "no usable range of {what}: fetching it whole"
                    );
                    offset = None;
                }
            }
        }
    }

    /// How to prove who we are, for a client that makes requests of its own. Asks the registry.
    pub(crate) async fn proof(&self) -> Result<Proof, RegistryError> {
        let what = self.reference.to_string();
        let url = self.url("v2/")?;
        let response = self
            .retried(|| self.send(Method::GET, &url, None, &what))
            .await?;
        match self.challenge_of(&response) {
            None => Ok(Proof::None),
            Some(Challenge::Basic) => Ok(match self.find_credentials().await? {
                Some(Credentials::Password { user, password }) => Proof::Basic { user, password },
                Some(Credentials::IdentityToken(_)) | None => Proof::None,
            }),
            Some(Challenge::Bearer { realm, service, .. }) => {
                let token = self.token(&realm, service.as_deref(), None).await?;
                Ok(Proof::Bearer(token))
            }
        }
    }

    /// True if the registry wants plain http.
    pub(crate) fn is_plain_http(&self) -> bool {
        self.endpoint.base.scheme() == "http"
    }

    /// What is trusted in addition to the system's certificates, as PEM; empty if nothing.
    pub(crate) fn own_certificates(&self) -> &[u8] {
        &self.endpoint.transport.own_certificates
    }
}
