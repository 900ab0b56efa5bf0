//! Asks an image's registry for its signatures, and judges them.

use super::claim::{self, Signed};
use super::key::PublicKey;
use super::{SignatureError, Verified};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::registry::client::RegistryClient;
use crate::registry::{PullSecret, RegistryError};

/// Why the answer is no: the registry did not give one, or it did.
#[derive(Debug)]
pub(crate) enum Failure {
    Registry(RegistryError),
    Signature(SignatureError),
}

/// The image whose signatures are looked for.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) reference: &'a Reference,
    /// Its manifest's digest, and that of the index which led to it: either may be the one that was signed.
    pub(crate) digests: &'a [Digest],
    /// The policy file, for messages.
    pub(crate) policy: &'a str,
}

/// Finds a signature by one of `keys`. Nothing of the image itself is fetched.
pub(crate) async fn check(
    registries: &RegistryClient,
    secret: Option<&PullSecret>,
    subject: &Subject<'_>,
    keys: &[PublicKey],
) -> Result<Verified, Failure> {
    let Subject {
        reference,
        digests,
        policy,
    } = *subject;
    let mut looked = Vec::new();
    let mut reasons = Vec::new();
    let mut count = 0;
    for digest in digests {
        let tag = claim::tag(digest);
        let place = place(reference, &tag);
        let source = registries
            .source(&place, secret, None)
            .map_err(Failure::Registry)?;
        let fetched = match source.manifest().await {
            Ok(fetched) => fetched,
            Err(RegistryError::NotFound { .. }) => {
                looked.push(tag);
                continue;
            }
            Err(error) => return Err(Failure::Registry(error)),
        };
        let signatures = claim::parse(&fetched.bytes).map_err(|problem| {
            Failure::Signature(SignatureError::Unreadable {
                tag: tag.clone(),
                problem,
            })
        })?;
        looked.push(tag);
        for signed in signatures {
            count += 1;
            let payload = source
                .blob(&signed.payload, "signature")
                .await
                .map_err(Failure::Registry)?;
            match judge(&payload, &signed, keys, reference, digests) {
                Ok(verified) => return Ok(verified),
                Err(reason) => reasons.push(reason),
            }
        }
    }
    let policy = policy.to_string();
    Err(Failure::Signature(if count == 0 {
        SignatureError::Unsigned {
            policy,
            looked: looked.join(" or "),
        }
    } else {
        reasons.dedup();
        reasons.truncate(3);
        SignatureError::NoneGood {
            policy,
            count,
            reasons: reasons.join("; "),
        }
    }))
}

/// The signatures of an image lie in its own repository.
fn place(reference: &Reference, tag: &str) -> Reference {
    let text = format!("{}/{}:{tag}", reference.registry(), reference.repository());
    text.parse().expect("a name with another tag is a name")
}

/// The signature comes first: what nobody vouches for is not even read.
fn judge(
    payload: &[u8],
    signed: &Signed,
    keys: &[PublicKey],
    reference: &Reference,
    digests: &[Digest],
) -> Result<Verified, String> {
    let key = keys
        .iter()
        .find(|key| key.made(payload, &signed.signature))
        .ok_or("no key that the policy names for this repository has made it")?;
    let signed = claim::speaks_of(payload, reference, digests)?;
    Ok(Verified {
        signed,
        key: key.id,
    })
}
