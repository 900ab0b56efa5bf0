//! What may go wrong between here and a registry: one variant for each thing that a person would do something else about.

use std::path::PathBuf;
use std::time::Duration;

/// What may go wrong between here and a registry.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// 404.
    #[error("{what} was not found in registry {registry}: check the name and the tag")]
    NotFound {
        /// The image, or a blob of it.
        what: String,
        /// The registry.
        registry: String,
    },
    /// 401 or 403.
    #[error("registry {registry} refused access to {what} ({status}): {hint}")]
    Unauthorized {
        /// The image.
        what: String,
        /// The registry.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// What to do.
        hint: String,
    },
    /// No connection, or it broke again and again.
    #[error("registry {registry} cannot be reached: {problem}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// The system's word.
        problem: String,
    },
    /// Connected, but no answer or no data in time.
    #[error("registry {registry} did not {what} within {} s", after.as_secs_f32())]
    Timeout {
        /// The registry.
        registry: String,
        /// What it should have done.
        what: String,
        /// How long we waited.
        after: Duration,
    },
    /// Another HTTP status.
    #[error("registry {registry} answered {status} to the request for {what}: {message}")]
    Status {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The start of the body.
        message: String,
        /// When it asks us to come back.
        retry_after: Option<Duration>,
    },
    /// It limits how often it may be asked, and wants a longer pause than a pull waits for.
    #[error(
        "registry {registry} limits how often it may be asked and wants no request for {} s: try again later, use credentials that may ask more often, or a mirror", wait.as_secs()
    )]
    RateLimited {
        /// The registry.
        registry: String,
        /// How long it wants to be left alone.
        wait: Duration,
    },
    /// An answer that makes no sense.
    #[error("registry {registry} gave an answer that cannot be used: {problem}")]
    Protocol {
        /// The registry.
        registry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The bytes are not those that the digest names.
    #[error(
        "wrong digest: {what} should be {expected} but the registry sent bytes with the digest {actual}"
    )]
    WrongDigest {
        /// Manifest, config or layer.
        what: String,
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// More or fewer bytes than declared.
    #[error("wrong size: {what} was declared as {declared} bytes but the registry sent {got}")]
    WrongSize {
        /// Manifest, config or layer.
        what: String,
        /// In the descriptor.
        declared: u64,
        /// "more" or a number.
        got: String,
    },
    /// The file with credentials cannot be used.
    #[error("credentials in {} cannot be used: {problem}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The credentials that came with this pull cannot be used.
    #[error("pull secret {name:?} cannot be used: {problem}")]
    PullSecret {
        /// The secret.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What the operator says about registries cannot be right.
    #[error("{0}")]
    Config(#[from] super::RegistriesConfigError),
    /// A registry's own certificates cannot be used.
    #[error("registries.{registry:?}.ca_file: {} cannot be used: {problem}", path.display())]
    CaFile {
        /// The registry.
        registry: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl RegistryError {
    /// Whether another attempt may succeed without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::RateLimited { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            Self::NotFound { .. }
            | Self::Unauthorized { .. }
            | Self::Protocol { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::Credentials { .. }
            | Self::PullSecret { .. }
            | Self::Config(_)
            | Self::CaFile { .. } => false,
        }
    }

    /// How long the registry wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::RateLimited { wait, .. } => Some(*wait),
            Self::NotFound { .. }
            | Self::Unauthorized { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Protocol { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::Credentials { .. }
            | Self::PullSecret { .. }
            | Self::Config(_)
            | Self::CaFile { .. } => None,
        }
    }

    /// Whether it was refused because it asked too often.
    pub(crate) fn is_rate_limit(&self) -> bool {
        matches!(
            self,
            Self::Status { status: 429, .. } | Self::RateLimited { .. }
        )
    }
}
