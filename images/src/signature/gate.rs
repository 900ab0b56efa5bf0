//! Where the policy stands in a pull's way: before an image that is here is used, and before one is fetched.

use std::sync::Arc;

use super::check::Failure;
use super::key::PublicKey;
use super::{Memory, Policy, Requirement, SignatureError, Subject, check};
use crate::digest::Digest;
use crate::pull::PullError;
use crate::reference::Reference;
use crate::registry::PullSecret;
use crate::store::{Image, ImageStore, Inner, blocking, io_error};

/// Whether an image that is here may be used without asking its registry; false if it has to be looked at again.
pub(crate) async fn on_hand(inner: &Arc<Inner>, image: &Image) -> Result<bool, PullError> {
    let Some(policy) = read(inner, &image.reference).await? else {
        return Ok(true);
    };
    match policy.requirement(&image.reference) {
        Requirement::Nothing => Ok(true),
        Requirement::Refused => Err(not_named(&image.reference, &policy)),
        Requirement::SignedBy(keys) => {
            let (inner, image, keys) = (Arc::clone(inner), image.clone(), keys.to_vec());
            let known =
                move || {
                    Ok(Memory::of(&inner.layout).knows(
                        &image.reference,
                        &image.manifest_digest,
                        &keys,
                    ))
                };
            Ok(blocking(known).await?)
        }
    }
}

/// What a pull has to show before anything of the image is fetched.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The policy file, for messages.
    policy: String,
    keys: Vec<PublicKey>,
}

/// Looks an image up in the policy before its registry is asked; none if nothing is asked of it.
pub(crate) async fn asked(
    inner: &Arc<Inner>,
    reference: &Reference,
) -> Result<Option<Asked>, PullError> {
    let Some(policy) = read(inner, reference).await? else {
        return Ok(None);
    };
    match policy.requirement(reference) {
        Requirement::Nothing => Ok(None),
        Requirement::Refused => Err(not_named(reference, &policy)),
        Requirement::SignedBy(keys) => Ok(Some(Asked {
            keys: keys.to_vec(),
            policy: policy.file,
        })),
    }
}

impl Asked {
    /// Lets an image in, of which only the manifest was fetched, or says why not. `digests` are the manifest's own and,
    /// before it, its index's.
    pub(crate) async fn check(
        &self,
        inner: &Arc<Inner>,
        reference: &Reference,
        secret: Option<&PullSecret>,
        digests: &[Digest],
    ) -> Result<(), PullError> {
        let subject = Subject {
            reference,
            digests,
            policy: &self.policy,
        };
        let verified = check(&inner.registries, secret, &subject, &self.keys)
            .await
            .map_err(|failure| match failure {
                Failure::Registry(error) => PullError::Registry(error),
                Failure::Signature(problem) => refused(reference, problem),
            })?;
        tracing::info!(image = %reference, signed = %verified.signed, key = %verified.key, "its signature is good");
        let Some(manifest) = digests.last().copied() else {
            return Ok(());
        };
        let store = ImageStore {
            inner: Arc::clone(inner),
        };
        let images = store.list().await?;
        let (inner, reference) = (Arc::clone(inner), reference.clone());
        let remembered = move || {
            let here = images
                .into_iter()
                .map(|image| (image.reference, image.manifest_digest));
            Memory::of(&inner.layout)
                .remember(&reference, &manifest, &verified, here)
                .map_err(|source| io_error("remember a signature in", inner.layout.root(), source))
        };
        Ok(blocking(remembered).await?)
    }
}

/// The policy as it is now; none if none was asked for.
async fn read(inner: &Arc<Inner>, reference: &Reference) -> Result<Option<Policy>, PullError> {
    let Some(path) = inner.config.signature_policy.clone() else {
        return Ok(None);
    };
    let policy = path.display().to_string();
    match blocking(move || Ok(Policy::read(&path))).await? {
        Ok(policy) => Ok(Some(policy)),
        Err(problem) => Err(refused(
            reference,
            SignatureError::Policy { policy, problem },
        )),
    }
}

fn not_named(reference: &Reference, policy: &Policy) -> PullError {
    let policy = policy.file.clone();
    refused(reference, SignatureError::NotNamed { policy })
}

fn refused(reference: &Reference, problem: SignatureError) -> PullError {
    PullError::Signature {
        reference: reference.to_string(),
        problem,
    }
}
