//! Whose images may run: cosign's signatures, checked against a policy file.
//!
//! - `policy`: which keys for which repositories (pure but for reading the files).
//! - `key`: one public key, and whether it made a signature.
//! - `claim`: what a signature says, hostile JSON in (pure).
//! - `check`: asks the registry for an image's signatures and judges them.
//! - `gate`: what a pull calls.
//! - `memory`: what was verified before, so that an image that is here starts without its registry.
//!
//! A pull reads the policy first, so that a registry that nobody named is not even asked, and checks when the manifest
//! is known, before anything else is fetched. A change of the file counts from the next pull on, and a policy that
//! cannot be read lets nothing pass. Signatures by a key are understood, where cosign stores them by tag; certificates,
//! transparency logs and bundles are not.

mod check;
pub(crate) mod claim;
mod gate;
pub(crate) mod key;
mod memory;
pub(crate) mod policy;

use check::{Subject, check};
pub(crate) use gate::{asked, on_hand};
use memory::Memory;
pub use policy::PolicyProblem;
use policy::{Policy, Requirement};

use crate::digest::Digest;

/// Why an image may not run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The policy lets nobody in who is not named.
    #[error("no policy in {policy} names its repository, and the default there is \"reject\"")]
    NotNamed {
        /// The policy file.
        policy: String,
    },
    /// Nobody has signed it.
    #[error(
        "it is not signed: {policy} asks for a signature, and the registry has none under {looked}"
    )]
    Unsigned {
        /// The policy file.
        policy: String,
        /// The tags that were looked at.
        looked: String,
    },
    /// There are signatures, and none will do.
    #[error("none of its {count} signatures is good for {policy}: {reasons}")]
    NoneGood {
        /// The policy file.
        policy: String,
        /// How many were looked at.
        count: usize,
        /// What is wrong with each.
        reasons: String,
    },
    /// What the registry has in place of signatures cannot be read.
    #[error("its signatures under {tag} cannot be read: {problem}")]
    Unreadable {
        /// The tag.
        tag: String,
        /// Why.
        problem: String,
    },
    /// The policy itself is no good, so that nothing may pass.
    #[error("the signature policy {policy} cannot be used: {problem}")]
    Policy {
        /// The file.
        policy: String,
        /// All that is wrong with it.
        problem: PolicyProblem,
    },
}

/// What was verified: which key vouches for which bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The digest that was signed: the manifest's, or that of the index that led to it.
    pub(crate) signed: Digest,
    /// Digest of the key.
    pub(crate) key: Digest,
}
