//! Talking to registries.
//!
//! ```text
//! client ──► source (one image: its mirrors, then its registry)
//!              └─► session (one of them) ──► exchange (one request: challenge, token, refusal)
//! ```
//!
//! - `config`: what an operator says about registries (pure).
//! - `client`: how registries are reached; makes sources and sessions.
//! - `source`: whom to ask, in which order, and when to turn to the next.
//! - `session`: manifests and blobs of one image, each wait with a deadline, each body with a bound.
//! - `exchange`: one request and its answer; proof of who we are.
//! - `challenge`: what a registry wants to see, and where credentials may be sent (pure).
//! - `credentials`, `docker_config` (pure), `helper`: whose credentials those are.
//! - `retry`, `range` (pure), `pause`: when to try again, from where, and when not.
//! - `error`: what may go wrong there.
//!
//! Pulling does not go through oci-client, which pushing does: it reads manifests, tokens and error bodies without a
//! bound, sends credentials to whatever realm a registry names, and hashes every blob a second time.

pub(crate) mod challenge;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod credentials;
pub(crate) mod docker_config;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod helper;
pub(crate) mod pause;
pub(crate) mod range;
pub(crate) mod retry;
pub(crate) mod session;
pub(crate) mod source;

pub use config::{RegistriesConfig, RegistriesConfigError, RegistryConfig};
pub use credentials::{MAX_CREDENTIALS_FILE, PullSecret, credential_files};
pub use error::RegistryError;
