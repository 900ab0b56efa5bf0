//! Images from files: an OCI layout (a directory or an archive of one) and what `docker save` writes.
//!
//! ```text
//! path ─► directory? ─────────────────────────────► source ─► layout (index.json) ─┐
//!      ─► plain tar? ─► archive: where is what ───►        └► docker (manifest.json) ┴► choose ─► store, as a pull does
//!      ─► compressed, a pipe ─► spool (unnamed file in the store) ─► archive
//! ```
//!
//! - `run`: the order of things. `error`: how it fails.
//! - `source`: files by name, in a directory or an archive. `archive`: the table of contents of a tar file.
//! - `spool`: what cannot be read by position becomes a file first, within bounds.
//! - `layout`, `docker`: the two formats. `choose`: which of several images (pure).
//!
//! All of it is hostile. Names in an archive are keys of a table, never paths of this machine; symlinks of a directory are
//! not followed; whatever has a digest is checked against it; layers go the way of a pull, with its limits.

mod archive;
mod choose;
mod docker;
mod error;
mod layout;
mod run;
mod source;
mod spool;

pub use error::ImportError;
pub use run::{ImportOptions, ImportSource};
