//! Files in and out of a directory tree that somebody else may be changing at this moment: a container's root, or the
//! folder of a person who receives what a container sends. Blocking; knows no container.
//!
//! A tree is a sequence of [`Part`]s: an entry with its path, then a file's bytes. Not a tar archive: there is nothing
//! to parse, so nothing to parse wrongly. Neither side believes the other:
//!
//! - `read`: every directory and file is opened from the descriptor of the one above it, links are told, never
//!   followed, and nothing but plain files is opened for reading (CVE-2018-15664, CVE-2019-14271: nobody's root is
//!   entered, no program in it is run or loaded).
//! - `write`: every entry is placed beneath one directory, reached without a link; what is there is replaced by a rename,
//!   never written through.
//!
//! The path that a person names is resolved inside the root as the container sees it (`RESOLVE_IN_ROOT`).

mod read;
mod write;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

pub use read::read_tree;
pub use write::TreeWriter;

/// Most entries of one copy.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Most bytes of one copy.
pub const MAX_BYTES: u64 = 64 << 30;
/// Deepest nesting.
const MAX_DEPTH: usize = 128;
/// Longest path and longest target of a link.
const MAX_PATH: usize = 4096;
/// Bytes of a file in one part.
const CHUNK: usize = 64 << 10;
/// How often a resolution is tried again while somebody renames.
const MAX_RETRIES: u32 = 1000;

/// A piece of a tree, in the order in which it can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The next entry. A file's bytes follow.
    Entry(Entry),
    /// Bytes of the file before; never more than its size in all.
    Data(Vec<u8>),
}

impl Part {
    /// For people.
    fn path(&self) -> String {
        match self {
            Self::Entry(entry) => shown(&entry.path),
            Self::Data(_) => "a file".to_owned(),
        }
    }
}

/// A file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative, of plain names joined by `/`; empty for the directory itself of which the contents are copied.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified_secs: i64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain file of so many bytes.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link with its target, which may be anything.
    Link(Vec<u8>),
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Entries that are none of these (devices, sockets, pipes) or on another file system.
    pub left_out: u64,
}

/// Why a copy did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// What was named is not there.
    #[error("{0}: no such file or directory")]
    NotFound(String),
    /// What was asked for cannot be done.
    #[error("{path}: {problem}")]
    Refused {
        /// Which path, for people.
        path: String,
        /// Why.
        problem: String,
    },
    /// The other side sent something that no honest sender sends.
    #[error("what was sent is no copy of a tree: {0}")]
    Nonsense(String),
    /// The operating system refused.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The receiver is gone.
    #[error("nobody takes what is copied any more")]
    Gone,
}

fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
    let short: String = clean.take(200).collect();
    if short.is_empty() {
        ".".to_owned()
    } else {
        short
    }
}

fn refused(path: &[u8], problem: &str) -> CopyError {
    CopyError::Refused {
        path: shown(path),
        problem: problem.to_owned(),
    }
}

fn failed(operation: &'static str, path: &[u8]) -> impl FnOnce(nix::Error) -> CopyError {
    let path = shown(path);
    move |error| {
        if error == nix::Error::ENOENT {
            CopyError::NotFound(path)
        } else if error == nix::Error::ELOOP {
            CopyError::Refused {
                path,
                problem: "is a link, or beneath one, and links are not followed here".to_owned(),
            }
        } else {
            CopyError::Io {
                operation,
                path,
                source: error.into(),
            }
        }
    }
}

/// Opens beneath a directory, as the flags of resolution say, however often others rename meanwhile.
fn open_beneath(
    dir: &OwnedFd,
    path: &Path,
    flags: OFlag,
    resolve: ResolveFlag,
) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(resolve | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut retries = 0;
    loop {
        match openat2(dir, path, how) {
            Err(nix::Error::EAGAIN) if retries < MAX_RETRIES => retries += 1,
            opened => return opened,
        }
    }
}

/// The directory above what a person named, inside the root, and the last name; `None` for a path that names a
/// directory by itself (`/`, `a/.`, `a/..`).
fn parent_in(root: &OwnedFd, path: &[u8]) -> Result<(OwnedFd, Option<Vec<u8>>), CopyError> {
    use std::os::unix::ffi::OsStrExt;
    if path.len() > MAX_PATH || path.contains(&0) {
        return Err(refused(path, "is no path"));
    }
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |at| at + 1);
    let trimmed = &path[..end];
    let cut = trimmed
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    let (above, name) = trimmed.split_at(cut);
    let (dir, name) = match name {
        b"" | b"." | b".." => (trimmed, None),
        name => (above, Some(name.to_vec())),
    };
    let dir = if dir.is_empty() { b"." } else { dir };
    let opened = open_beneath(
        root,
        Path::new(std::ffi::OsStr::from_bytes(dir)),
        OFlag::O_PATH | OFlag::O_DIRECTORY,
        ResolveFlag::RESOLVE_IN_ROOT,
    );
    Ok((opened.map_err(failed("open", dir))?, name))
}

/// A name that stands for itself.
fn is_plain(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}

#[cfg(test)]
mod tests;
