//! Images: from a name to directories that overlayfs can mount, and back into a registry.
//!
//! - `reference`, `digest`, `manifest`, `whiteout`, `elf`: what things are called and what they look like (pure).
//! - `registry`: manifests and blobs over HTTP.
//! - `signature`: whose images may run.
//! - `unpack`: a hostile archive into a directory, as root, without harm.
//! - `store`: what is here, who holds it, what may go.
//! - `pull` (its layers: `fetch`), `pack` (its layer: `pack_layer`), `push`, `archive`: what people do.
//!
//! This crate knows nothing of tasks, agents or frameworks, and it never mounts anything: a [`Snapshot`] says which
//! directories to mount, and whoever runs containers does so in a mount namespace of its own.

#![forbid(unsafe_code)]

mod archive;
mod digest;
mod elf;
mod fetch;
#[cfg(test)]
mod fuzz;
mod manifest;
mod pack;
mod pack_layer;
mod pull;
mod push;
mod reference;
mod registry;
mod signature;
mod store;
mod unpack;
mod whiteout;

pub use digest::{Digest, DigestError};
pub use manifest::{ImageConfig, ManifestError};
pub use pack::{PackError, PackOptions, PackedImage, pack};
pub use pull::{PullError, PullPolicy, PullProgress};
pub use push::{PushError, PushProgress, push};
pub use reference::{DEFAULT_REGISTRY, Reference, ReferenceError};
pub use registry::RegistryError;
pub use signature::{PolicyProblem, SignatureError};
pub use store::snapshot::{Snapshot, SnapshotError};
pub use store::{
    Image, ImageStore, ImageSummary, OpenError, Pruned, Removed, StoreConfig, StoreError,
};
pub use unpack::{DeviceNodes, UnpackError, UnpackLimits};
