//! Talking to registries.
//!
//! - `client`: how registries are reached; makes sessions.
//! - `session`: manifests and blobs of one image over HTTP, each wait with a deadline, each body with a bound.
//! - `auth`: whose credentials go where (pure but for reading one file).
//! - `retry`: when to try again, and how long to wait (pure).
//! - `error`: what may go wrong there.
//!
//! Pulling does not go through oci-client, which pushing does: it reads manifests, tokens and error bodies without a
//! bound, sends credentials to whatever realm a registry names, and hashes every blob a second time.

pub(crate) mod auth;
pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod retry;
pub(crate) mod session;

pub use error::RegistryError;
