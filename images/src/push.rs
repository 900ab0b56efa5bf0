//! Pushing a packed image, by oci-client's upload sessions.
//!
//! Blobs that the registry has are not sent again; the manifest goes last, so that an image is there whole or not at
//! all. What may succeed is tried again: nothing a push does harms when it is done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use reqwest::header::HeaderValue;
use tokio::sync::watch;

use crate::digest::Digest;
use crate::manifest::OCI_MANIFEST;
use crate::pack::{PackedImage, PackedLayer};
use crate::reference::Reference;
use crate::registry::client::{ClientOptions, RegistryClient};
use crate::registry::session::{Proof, chain};
use crate::registry::{RegistryError, auth, retry};

const STALL: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// How far a push has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PushProgress {
    /// Bytes sent, or spared because the registry has them.
    pub bytes_done: u64,
    /// Bytes of the image's blobs.
    pub bytes_total: u64,
}

/// Why an image could not be pushed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PushError {
    /// Between here and the registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The name pins another image.
    #[error("cannot push to {reference}: the name pins a digest, but the packed image is {digest}")]
    PinnedDigest {
        /// The name.
        reference: String,
        /// The image's digest.
        digest: Digest,
    },
}

/// Pushes a packed image to the registry that its name says; `insecure` lists registries to reach without TLS (those
/// on a loopback address always are). Returns the image's digest.
pub async fn push(
    packed: &PackedImage,
    reference: &Reference,
    insecure: &[String],
    progress: Option<watch::Sender<PushProgress>>,
) -> Result<Digest, PushError> {
    if reference
        .digest()
        .is_some_and(|digest| *digest != packed.manifest_digest)
    {
        return Err(PushError::PinnedDigest {
            reference: reference.to_string(),
            digest: packed.manifest_digest,
        });
    }
    let options = ClientOptions {
        insecure: insecure.to_vec(),
        auth_file: auth::default_file(),
        stall: STALL,
    };
    let client = RegistryClient::new(options)?;
    for failures in 1.. {
        let attempt = tokio::time::timeout(
            DEADLINE,
            push_once(&client, packed, reference, progress.as_ref()),
        );
        let registry = reference.registry().to_string();
        let late = |_| RegistryError::Timeout {
            registry,
            what: "take the image".into(),
            after: DEADLINE,
        };
        let error = match attempt.await.map_err(late).flatten() {
            Ok(()) => return Ok(packed.manifest_digest),
            Err(error) => error,
        };
        let delay = retry::delay(failures, rand::random(), error.retry_after())
            .filter(|_| error.is_transient());
        let Some(delay) = delay else {
            return Err(error.into());
        };
        tracing::info!(%error, "push of {reference} failed, trying again in {delay:?}");
        tokio::time::sleep(delay).await;
    }
    unreachable!("the loop above has no end but its returns")
}

async fn push_once(
    client: &RegistryClient,
    packed: &PackedImage,
    reference: &Reference,
    progress: Option<&watch::Sender<PushProgress>>,
) -> Result<(), RegistryError> {
    let session = client.session(reference, "pull,push")?;
    let proof = session.proof().await?;
    let registry = reference.registry();
    let failed = |error: OciDistributionError| translate(error, reference);
    let oci_reference = reference.to_oci();
    let protocol = if session.is_plain_http() {
        ClientProtocol::HttpsExcept(vec![reference.registry_host().to_string()])
    } else {
        ClientProtocol::Https
    };
    let oci = Client::try_from(ClientConfig {
        protocol,
        use_monolithic_push: true,
        connect_timeout: Some(Duration::from_secs(10)),
        read_timeout: Some(STALL),
        ..ClientConfig::default()
    })
    .map_err(failed)?;
    match proof {
        Proof::None => {}
        Proof::Bearer(token) => {
            oci.store_auth_if_needed(
                oci_reference.resolve_registry(),
                &RegistryAuth::Bearer(token),
            )
            .await;
        }
        Proof::Basic(credentials) => {
            let basic = RegistryAuth::Basic(credentials.user, credentials.password);
            oci.store_auth_if_needed(oci_reference.resolve_registry(), &basic)
                .await;
        }
    }
    let total = packed.size() - packed.manifest.len() as u64;
    let sent = Arc::new(AtomicU64::new(0));
    let told = progress.cloned();
    let tell = move |bytes: u64| {
        let bytes_done = sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(told) = &told {
            told.send_replace(PushProgress {
                bytes_done,
                bytes_total: total,
            });
        }
    };
    tell(0);
    for layer in &packed.layers {
        push_layer(&oci, &oci_reference, layer, &tell)
            .await
            .map_err(failed)?;
    }
    let digest = packed.config_digest.to_string();
    if !oci
        .blob_exists(&oci_reference, &digest)
        .await
        .map_err(failed)?
    {
        oci.push_blob(&oci_reference, Bytes::from(packed.config.clone()), &digest)
            .await
            .map_err(failed)?;
    }
    tell(packed.config.len() as u64);
    oci.push_manifest_raw(
        &oci_reference,
        packed.manifest.clone(),
        HeaderValue::from_static(OCI_MANIFEST),
    )
    .await
    .map_err(failed)?;
    tracing::debug!(registry, "pushed {reference}");
    Ok(())
}

/// Sends a layer that the registry does not have.
async fn push_layer(
    oci: &Client,
    reference: &oci_client::Reference,
    layer: &PackedLayer,
    tell: &(impl Fn(u64) + Clone + Send + Sync + 'static),
) -> Result<(), OciDistributionError> {
    let (digest, size) = (layer.digest.to_string(), layer.section.size());
    if oci.blob_exists(reference, &digest).await? {
        tell(size);
        return Ok(());
    }
    let pieces = stream::unfold(
        (layer.section.clone(), 0u64),
        move |(section, at)| async move {
            if at >= size {
                return None;
            }
            let piece = section.piece(at).await;
            let next = piece.as_ref().map_or(size, |piece| at + piece.len() as u64);
            Some((
                piece.map_err(OciDistributionError::IoError),
                (section, next),
            ))
        },
    );
    let tell = tell.clone();
    let pieces =
        pieces.inspect(move |piece| tell(piece.as_ref().map_or(0, |piece| piece.len() as u64)));
    oci.push_blob_stream(reference, pieces, &digest, Some(size))
        .await
        .map(drop)
}

/// oci-client's errors in our words.
fn translate(error: OciDistributionError, reference: &Reference) -> RegistryError {
    let registry = reference.registry().to_string();
    let what = reference.to_string();
    let denied = |registry, what, status| RegistryError::Unauthorized {
        registry,
        what,
        status,
        hint: "check the credentials in Docker's config.json and the right to push there".into(),
    };
    if let OciDistributionError::UnauthorizedError { .. }
    | OciDistributionError::AuthenticationFailure(_) = error
    {
        return denied(registry, what, 401);
    }
    if let OciDistributionError::ServerError { code, message, .. } = error {
        if matches!(code, 401 | 403) {
            return denied(registry, what, code);
        }
        let message = message
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect();
        return RegistryError::Status {
            registry,
            what,
            status: code,
            message,
            retry_after: None,
        };
    }
    if let OciDistributionError::RequestError(error) = &error {
        if error.is_builder() {
            // oci-client cannot be told to do without certificates, not even for plain http.
            let problem = format!(
                "no client could be made ({}); is ca-certificates installed here?",
                chain(error)
            );
            return RegistryError::Protocol { registry, problem };
        }
        let problem = chain(error);
        return RegistryError::Unreachable { registry, problem };
    }
    RegistryError::Protocol {
        registry,
        problem: error.to_string(),
    }
}
