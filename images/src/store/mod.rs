//! The store: what images are here, and the one place that changes it.
//!
//! - `handle`: `ImageStore`, what callers see.
//! - `inner`: the state behind it, in memory and on the disk, and who holds what.
//! - `open`: the lock, the format, and what a crash has left behind.
//! - `content`, `index`, `snapshot`: folders and files.
//! - `write_back`: what is synced to the disk, and when.
//! - `gc`: what may go (pure).
//!
//! One process holds the store's lock. Images, layers and pins live in memory and are read from the disk once, by
//! `open`; whatever changes the disk does so before it changes the state. A pull *pins* what it counts on before it
//! looks whether it is there, and collection never touches what is pinned.

pub(crate) mod content;
pub(crate) mod gc;
pub(crate) mod handle;
pub(crate) mod index;
pub(crate) mod inner;
pub(crate) mod open;
pub(crate) mod snapshot;
pub(crate) mod types;
mod write_back;

pub use handle::ImageStore;
pub(crate) use inner::{Inner, blocking, io_error};
pub use types::{Image, ImageSummary, OpenError, Pruned, Removed, StoreConfig, StoreError};
