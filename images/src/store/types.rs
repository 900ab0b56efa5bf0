//! What a store is told, what it tells, and how it fails (no I/O).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::snapshot::SnapshotError;
use super::usage::DiskUsage;
use crate::digest::Digest;
use crate::manifest::ImageConfig;
use crate::reference::Reference;
use crate::registry::{RegistriesConfig, credential_files};
use crate::unpack::UnpackLimits;

/// How to run a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The folder that the store has for itself.
    pub root: PathBuf,
    /// Registries (`host[:port]`) that are spoken to without TLS; those on a loopback address always are.
    pub insecure_registries: Vec<String>,
    /// Mirrors and certificates of registries.
    pub registries: RegistriesConfig,
    /// How long one pull may take in all.
    pub pull_deadline: Duration,
    /// How long a registry may be silent.
    pub stall_timeout: Duration,
    /// Bytes that an image may inflate to.
    pub max_unpacked_bytes: u64,
    /// Layers that are fetched and unpacked at the same time, over all pulls.
    pub parallel_layers: usize,
    /// Files with credentials, Docker's or podman's; the first that knows a registry counts.
    pub auth_files: Vec<PathBuf>,
    /// A policy that says whose signatures an image needs, read at each pull; none lets all images in.
    pub signature_policy: Option<PathBuf>,
    /// Further bounds on archives.
    pub limits: UnpackLimits,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/mezzo/images"),
            insecure_registries: Vec::new(),
            registries: RegistriesConfig::default(),
            pull_deadline: Duration::from_secs(30 * 60),
            stall_timeout: Duration::from_secs(30),
            max_unpacked_bytes: 64 << 30,
            parallel_layers: 4,
            auth_files: credential_files(),
            signature_policy: None,
            limits: UnpackLimits::default(),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the image store {} is in use by another process; stop that one or choose another directory", root.display())]
    InUse {
        /// The store.
        root: PathBuf,
    },
    /// Written by a later version of this program.
    #[error("{} has format version {found} but this program knows {known} only; use the newer program", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest one known here.
        known: u32,
    },
    /// Half-written or damaged.
    #[error("{} is damaged ({problem}); remove {} and all images will be pulled again", path.display(), root.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The store.
        root: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file system refused.
    #[error("could not {operation} {} of the image store", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: std::io::Error,
    },
    /// No client for registries could be made.
    #[error("could not prepare for talking to registries")]
    Client(#[source] crate::registry::RegistryError),
}

/// Why an operation on the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("could not {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// A file of the store is not what it was.
    #[error("{} is damaged ({problem}); remove the image and pull it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A snapshot's list of layers could not be read.
    #[error("could not tell which layers are in use")]
    Snapshots(#[source] Arc<SnapshotError>),
    /// The task doing it was stopped.
    #[error("the operation was interrupted because the program is stopping")]
    Interrupted,
}

/// An image that is here, complete and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name it was asked for by.
    pub reference: Reference,
    /// Which image it is, whatever its name.
    pub manifest_digest: Digest,
    /// How to run it.
    pub config: ImageConfig,
    /// Chain ids of the layers, bottom first.
    pub layers: Vec<Digest>,
    /// Bytes in the registry.
    pub size_compressed: u64,
    /// Bytes of its archives.
    pub size_unpacked: u64,
}

/// A line of the list of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The name.
    pub reference: Reference,
    /// Which image it is.
    pub manifest_digest: Digest,
    /// Number of layers.
    pub layers: usize,
    /// Bytes in the registry.
    pub size_compressed: u64,
    /// Bytes of its archives, layers shared with others included.
    pub size_unpacked: u64,
    /// On the disk.
    pub disk: DiskUsage,
    /// Seconds since 1970.
    pub pulled_at: Option<u64>,
    /// Seconds since 1970.
    pub last_used: Option<u64>,
}

/// What `remove` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// There was such an image.
    pub found: bool,
    /// Layers that nobody else used.
    pub layers: usize,
    /// What they took on the disk.
    pub bytes: u64,
}

/// What `prune` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names that went.
    pub references: Vec<Reference>,
    /// Layers that went.
    pub layers: usize,
    /// What they took on the disk.
    pub bytes: u64,
}
