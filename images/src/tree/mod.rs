//! The files of an unpacked layer as one list: what `verify` compares a layer with, and what `export` packs again.
//!
//! - `walk`: every file of a layer in one fixed order, by descriptors, through no link.
//! - `line`: one file as a line of text, and what differs between two of them (pure).
//! - `record`: the list as a file beside the layer; writing it, comparing with it.
//!
//! The compressed layer is not kept, so its digest says nothing about what lies on the disk afterwards. The list does: kind,
//! mode, owner, time, size, content, links, devices and attributes of every file.

mod line;
pub(crate) mod record;
pub(crate) mod walk;
