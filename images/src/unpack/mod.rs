//! From a compressed layer to a directory: decompress, check, parse, write, all while the bytes arrive.
//!
//! - `decompress`: hashes and inflates the stream on its own thread, within bounds.
//! - `tar`: reads headers and their extensions (no file is touched there).
//! - `apply`: puts one entry after the other beneath the layer's directory, by descriptor.
//! - `directories`: finds and makes the directories that they go into.
//! - `looks`: owner, mode, times and attributes of what was made.
//! - `layer`: drives all of it for one layer.
//! - `paths`: splits and checks names (pure); `pax`, `sparse`: read extended headers (pure).
//! - `xz`: a decoder for what has that compression, which layers have not.
//! - `error`: bounds and refusals.
//!
//! The input is hostile and this runs as root: nothing here follows a symlink or leaves the layer's directory.

pub(crate) mod apply;
pub(crate) mod decompress;
pub(crate) mod directories;
pub(crate) mod error;
pub(crate) mod layer;
pub(crate) mod looks;
pub(crate) mod paths;
pub(crate) mod pax;
pub(crate) mod sparse;
pub(crate) mod tar;
pub(crate) mod xz;

pub(crate) use error::printable;
pub use error::{DeviceNodes, UnpackError, UnpackLimits};
