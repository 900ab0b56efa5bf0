//! Images: from a name to directories that overlayfs can mount, and back into a registry.
//!
//! - `reference`, `digest`, `manifest`, `platform`, `whiteout`, `elf`: what things are called and what they look like (pure).
//! - `registry`: manifests and blobs over HTTP.
//! - `signature`: whose images may run.
//! - `unpack`: a hostile archive into a directory, as root, without harm.
//! - `tree`: the files of an unpacked layer as a list, to compare with and to pack again.
//! - `files`: files and archives that are no layers into a directory; `download`: one file over HTTP.
//! - `store`: what is here, who holds it, what may go.
//! - `pull` (its layers: `fetch`), `import`, `pack` (its layer: `pack_layer`), `export`, `push`, `archive`: what people
//!   do. `tar_write`: what `export` writes (pure).
//!
//! This crate knows nothing of tasks, agents or frameworks, and it never mounts anything: a [`Snapshot`] says which
//! directories to mount, and whoever runs containers does so in a mount namespace of its own.

#![forbid(unsafe_code)]

mod archive;
mod digest;
mod download;
mod elf;
mod export;
mod fetch;
mod files;
#[cfg(test)]
mod fuzz;
mod import;
mod manifest;
mod pack;
mod pack_layer;
mod platform;
mod pull;
mod push;
mod reference;
mod registry;
mod section;
mod signature;
mod store;
mod tar_write;
mod tree;
mod unpack;
mod whiteout;

pub use digest::{Digest, DigestError};
pub use download::{DownloadBounds, DownloadError, Downloader};
pub use export::ExportError;
pub use files::{ArchiveFormat, FileBounds, FileFolder};
pub use import::{ImportError, ImportOptions, ImportSource};
pub use manifest::{HistoryEntry, ImageConfig, ManifestError};
pub use pack::{PackError, PackOptions, PackedImage, pack};
pub use pull::{PullError, PullPolicy, PullProgress};
pub use push::{PushError, PushProgress, push};
pub use reference::{DEFAULT_REGISTRY, Reference, ReferenceError};
pub use registry::{
    MAX_CREDENTIALS_FILE, PullSecret, RegistriesConfig, RegistriesConfigError, RegistryConfig,
    RegistryError, credential_files,
};
pub use signature::{PolicyProblem, SignatureError};
pub use store::snapshot::{Snapshot, SnapshotError};
pub use store::{
    DiskUsage, GcPolicy, GcReport, Image, ImageDetails, ImageStore, ImageSummary, LayerDetails,
    LayerState, MountError, MountPlan, MountedImage, OpenError, Pruned, Removed, StoreConfig,
    StoreError, StoreReader, Stray, VerifiedImage, VerifiedLayer, VerifyOptions, VerifyReport,
};
pub use unpack::{DeviceNodes, UnpackError, UnpackLimits};
