//! Manifests and blobs over HTTP, for one image at a time.
//!
//! A `Session` is one image's conversation with its registry: it asks without credentials first, answers a challenge,
//! keeps the token for its own requests only, tries again what may succeed, and goes on from where a broken download
//! stopped.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::{self, Challenge, Credentials};
use super::client::{CONNECT, RegistryClient};
use super::{RegistryError, retry};
use crate::digest::Digest;
use crate::manifest::{self, Blob, MAX_METADATA_BYTES};
use crate::reference::Reference;

const MAX_TOKEN: u64 = 256 << 10;
const MAX_ERROR_BODY: u64 = 8 << 10;

/// One image's conversation with its registry.
#[derive(Debug)]
pub(crate) struct Session {
    client: RegistryClient,
    reference: Reference,
    base: Url,
    scope: &'static str,
    authorization: Mutex<Option<HeaderValue>>,
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
    Basic(Credentials),
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Session {
    pub(super) fn new(
        client: RegistryClient,
        reference: Reference,
        base: Url,
        scope: &'static str,
    ) -> Self {
        Self {
            client,
            reference,
            base,
            scope,
            authorization: Mutex::new(None),
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

    /// Streams a large blob to `sink`, which answers false when it wants no more. Sizes are checked here, digests by
    /// the one who reads. A broken stream goes on at the byte where it broke.
    pub(crate) async fn stream<F, Fut>(&self, blob: &Blob, mut sink: F) -> Result<(), RegistryError>
    where
        F: FnMut(Bytes) -> Fut,
        Fut: Future<Output = bool>,
    {
        let what = format!("layer {}", blob.digest);
        let mut received = 0u64;
        let mut failures = 0;
        loop {
            let before = received;
            match self
                .stream_once(blob, &what, &mut received, &mut sink)
                .await
            {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => {
                    // Progress starts the count anew: a long download may break more often than a short request.
                    failures = if received > before { 1 } else { failures + 1 };
                    let Some(delay) = retry::delay(failures, rand::random(), error.retry_after())
                    else {
                        return Err(error);
                    };
                    tracing::info!(%error, received, "download of {what} broke, trying again in {delay:?}");
                    tokio::time::sleep(delay).await;
                }
                Err(error) => return Err(error),
            }
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
        let offset = (*received > 0).then_some(*received);
        let mut response = self
            .get(&format!("blobs/{}", blob.digest), offset, what)
            .await?;
        // A server that ignores the range begins anew: what we have is skipped.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT {
            0
        } else {
            *received
        };
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
            *received += piece.len() as u64;
            if *received > blob.size {
                return Err(self.wrong_size(what, blob.size, "more".into()));
            }
            if !piece.is_empty() && !sink(piece).await {
                return Ok(());
            }
        }
        if *received < blob.size {
            return Err(self.wrong_size(what, blob.size, received.to_string()));
        }
        Ok(())
    }

    /// How to prove who we are, for a client that makes requests of its own. Asks the registry.
    pub(crate) async fn proof(&self) -> Result<Proof, RegistryError> {
        let what = self.reference.to_string();
        let url = self.url("v2/")?;
        let response = self.retried(|| self.send(&url, None, &what)).await?;
        let Some(challenge) = challenge_of(&response) else {
            return Ok(Proof::None);
        };
        match challenge {
            Challenge::Basic => Ok(self.credentials().await?.map_or(Proof::None, Proof::Basic)),
            Challenge::Bearer { realm, service, .. } => {
                let token = self.token(&realm, service.as_deref(), None).await?;
                Ok(Proof::Bearer(token))
            }
        }
    }

    /// True if the registry wants plain http.
    pub(crate) fn is_plain_http(&self) -> bool {
        self.base.scheme() == "http"
    }

    async fn retried<T, Fut: Future<Output = Result<T, RegistryError>>>(
        &self,
        attempt: impl Fn() -> Fut,
    ) -> Result<T, RegistryError> {
        for failures in 1.. {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            let Some(delay) = retry::delay(failures, rand::random(), error.retry_after()) else {
                return Err(error);
            };
            tracing::debug!(%error, "trying again in {delay:?}");
            tokio::time::sleep(delay).await;
        }
        unreachable!("the loop above has no end but its returns")
    }

    /// GET below the repository's URL, with a challenge answered once.
    async fn get(
        &self,
        path: &str,
        offset: Option<u64>,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let url = self.url(&format!("v2/{}/{path}", self.reference.repository()))?;
        let mut response = self.send(&url, offset, what).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(challenge) = challenge_of(&response)
            && self.answer(challenge).await?
        {
            response = self.send(&url, offset, what).await?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            status => Err(self.refusal(status, response, what).await),
        }
    }

    async fn send(
        &self,
        url: &Url,
        offset: Option<u64>,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let mut request = self
            .client
            .http(url)
            .get(url.clone())
            .header(ACCEPT, manifest::ACCEPT);
        if let Some(authorization) = self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
        {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(offset) = offset {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let patience = CONNECT + self.client.options.stall;
        match tokio::time::timeout(patience, request.send()).await {
            Ok(sent) => {
                sent.map_err(|e| self.transport(&e, &format!("answer the request for {what}")))
            }
            Err(_) => Err(self.timeout(format!("answer the request for {what}"), patience)),
        }
    }

    /// Answers a challenge; false if there is nothing to answer with.
    async fn answer(&self, challenge: Challenge) -> Result<bool, RegistryError> {
        let header = match challenge {
            Challenge::Basic => match self.credentials().await? {
                Some(credentials) => basic(&credentials),
                None => return Ok(false),
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                format!(
                    "Bearer {}",
                    self.token(&realm, service.as_deref(), scope.as_deref())
                        .await?
                )
            }
        };
        let mut header = HeaderValue::from_str(&header)
            .map_err(|_| self.protocol("its token has odd characters"))?;
        header.set_sensitive(true);
        *self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(header);
        Ok(true)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, RegistryError> {
        let mut url =
            auth::realm_url(realm, &self.base).map_err(|problem| self.protocol(problem))?;
        let own = format!("repository:{}:{}", self.reference.repository(), self.scope);
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", scope.unwrap_or(&own));
        }
        let mut request = self.client.http(&url).get(url.clone());
        if let Some(credentials) = self.credentials().await? {
            request = request.basic_auth(credentials.user, Some(credentials.password));
        }
        let patience = CONNECT + self.client.options.stall;
        let response = match tokio::time::timeout(patience, request.send()).await {
            Ok(sent) => sent.map_err(|e| self.transport(&e, "hand out a token"))?,
            Err(_) => return Err(self.timeout("hand out a token".into(), patience)),
        };
        let what = self.reference.to_string();
        if response.status() != StatusCode::OK {
            let status = response.status();
            return Err(self.refusal(status, response, &what).await);
        }
        let body = self.body(response, MAX_TOKEN, "the token").await?;
        let token: Token =
            serde_json::from_slice(&body).map_err(|e| self.protocol(format!("bad token: {e}")))?;
        token
            .token
            .or(token.access_token)
            .ok_or_else(|| self.protocol("its token answer has no token"))
    }

    /// Reads the file off the async threads.
    async fn credentials(&self) -> Result<Option<Credentials>, RegistryError> {
        let Some(path) = self.client.options.auth_file.clone() else {
            return Ok(None);
        };
        let registry = self.reference.registry().to_string();
        let read = tokio::task::spawn_blocking(move || auth::from_file(&path, &registry)).await;
        read.map_err(|e| self.protocol(format!("reading credentials failed: {e}")))?
    }

    async fn body(
        &self,
        mut response: Response,
        limit: u64,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|e| self.transport(&e, "send data"))?
        {
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(self.wrong_size(what, limit, "more".into()));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    async fn refusal(&self, status: StatusCode, response: Response, what: &str) -> RegistryError {
        let registry = self.reference.registry().to_string();
        let what = what.to_string();
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what, registry },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized {
                what,
                status: status.as_u16(),
                hint: match &self.client.options.auth_file {
                    Some(path) => format!(
                        "check the name, or the credentials for it in {}",
                        path.display()
                    ),
                    None => "check the name, or configure credentials for it".into(),
                },
                registry,
            },
            _ => {
                let seconds = response
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|v| v.to_str().ok()?.trim().parse().ok());
                let retry_after = seconds.map(Duration::from_secs);
                let body = self
                    .body(response, MAX_ERROR_BODY, "the error")
                    .await
                    .unwrap_or_default();
                let message: String = String::from_utf8_lossy(&body)
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(300)
                    .collect();
                RegistryError::Status {
                    registry,
                    what,
                    status: status.as_u16(),
                    message,
                    retry_after,
                }
            }
        }
    }

    fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base
            .join(path)
            .map_err(|e| self.protocol(e.to_string()))
    }

    fn transport(&self, error: &reqwest::Error, what: &str) -> RegistryError {
        let registry = self.reference.registry().to_string();
        if error.is_timeout() && !error.is_connect() {
            return self.timeout(what.into(), self.client.options.stall);
        }
        RegistryError::Unreachable {
            registry,
            problem: chain(error),
        }
    }

    fn timeout(&self, what: String, after: Duration) -> RegistryError {
        RegistryError::Timeout {
            registry: self.reference.registry().into(),
            what,
            after,
        }
    }

    fn protocol(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Protocol {
            registry: self.reference.registry().into(),
            problem: problem.into(),
        }
    }

    fn wrong_size(&self, what: &str, declared: u64, got: String) -> RegistryError {
        RegistryError::WrongSize {
            what: format!("{what} of {}", self.reference.repository()),
            declared,
            got,
        }
    }
}

fn challenge_of(response: &Response) -> Option<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE);
    headers
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(auth::parse_challenge)
}

fn basic(credentials: &Credentials) -> String {
    use base64::Engine as _;
    let plain = format!("{}:{}", credentials.user, credentials.password);
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(plain)
    )
}

/// reqwest's own message hides the reason in its sources.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let words = error.to_string();
        if !text.contains(&words) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&words);
        }
        next = error.source();
    }
    text
}
