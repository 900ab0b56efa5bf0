//! The store: what images are here, and the one place that changes it.
//!
//! - `handle`: `ImageStore`, what callers see.
//! - `inner`: the state behind it, in memory and on the disk, and who holds what.
//! - `open`: the lock, the format, and what a crash has left behind.
//! - `content`, `index`, `snapshot`, `mounts`: folders and files.
//! - `write_back`, `recorder`: what happens to young layers in the background: to the disk, and a list of their files.
//! - `verify`, `inspect`: looking at what is here. `usage`: whose bytes they are (pure).
//! - `gc`: what may go (pure). `collect`: lets it go when the disk fills.
//!
//! One process holds the store's lock. Images, layers and pins live in memory and are read from the disk once, by
//! `open`; whatever changes the disk does so before it changes the state. A pull *pins* what it counts on before it
//! looks whether it is there, and collection never touches what is pinned.

pub(crate) mod collect;
pub(crate) mod content;
pub(crate) mod gc;
pub(crate) mod handle;
pub(crate) mod index;
pub(crate) mod inner;
pub(crate) mod inspect;
pub(crate) mod mounts;
pub(crate) mod open;
pub(crate) mod recorder;
pub(crate) mod snapshot;
pub(crate) mod types;
pub(crate) mod usage;
pub(crate) mod verify;
pub(crate) mod write_back;

pub use collect::{GcPolicy, GcReport};
pub use handle::ImageStore;
pub(crate) use inner::{Inner, blocking, io_error, unix_seconds};
pub use inspect::{ImageDetails, LayerDetails};
pub use mounts::{MountError, MountPlan, MountedImage};
pub use types::{Image, ImageSummary, OpenError, Pruned, Removed, StoreConfig, StoreError};
pub use usage::DiskUsage;
pub use verify::{LayerState, Stray, VerifiedImage, VerifiedLayer, VerifyOptions, VerifyReport};
