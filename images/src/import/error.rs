//! Why an image could not be imported (no I/O).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::manifest::ManifestError;
use crate::pull::PullError;
use crate::unpack::UnpackError;

/// Why an image could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file system refused.
    #[error("could not {operation} {what}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        what: String,
        /// The kernel's word.
        #[source]
        source: std::io::Error,
    },
    /// Neither of the formats.
    #[error("{origin} is not an image: {problem}")]
    NotAnImage {
        /// The file or directory.
        origin: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The archive around the image cannot be read.
    #[error("{origin} cannot be read as a tar archive")]
    Archive {
        /// The file.
        origin: String,
        /// Why.
        #[source]
        problem: UnpackError,
    },
    /// Something the image says it has is not there, or not as it says.
    #[error("{name} in {origin} {problem}")]
    Part {
        /// The file or directory.
        origin: String,
        /// The name in it.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// Bytes that are not those of their name.
    #[error("{name} in {origin} has the digest {actual}, not {expected}: the file is damaged")]
    WrongDigest {
        /// The file or directory.
        origin: String,
        /// The name in it.
        name: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A manifest, index or config that cannot be used.
    #[error("{name} in {origin} cannot be used")]
    Manifest {
        /// The file or directory.
        origin: String,
        /// The name in it.
        name: String,
        /// Why.
        #[source]
        problem: ManifestError,
    },
    /// More than one image, and nothing said which.
    #[error("{origin} holds {} images; say which one with --image: {}", found.len(), found.join(", "))]
    Several {
        /// The file or directory.
        origin: String,
        /// Their names, or digests where they have none.
        found: Vec<String>,
    },
    /// No image of the name that was asked for.
    #[error("{origin} holds no image {wanted:?}; it holds {}", found.join(", "))]
    NoSuchImage {
        /// The file or directory.
        origin: String,
        /// What was asked for.
        wanted: String,
        /// The names there are.
        found: Vec<String>,
    },
    /// Nobody said what the image shall be called.
    #[error("{origin} does not say the image's full name; give one with -t")]
    NoName {
        /// The file or directory.
        origin: String,
    },
    /// For other machines only.
    #[error("{origin} is for {found}, but this machine needs {wanted}")]
    WrongPlatform {
        /// The file or directory.
        origin: String,
        /// This machine's.
        wanted: String,
        /// The image's.
        found: String,
    },
    /// The disk is full.
    #[error("no space left in the image store {} to unpack {origin}; make room or remove images", root.display())]
    NoSpace {
        /// The archive.
        origin: String,
        /// The store.
        root: PathBuf,
    },
    /// What a pull might fail with as well: layers that are refused, a full disk.
    #[error(transparent)]
    Store(#[from] PullError),
    /// The task doing it was stopped.
    #[error("the import was interrupted because the program is stopping")]
    Interrupted,
}

impl ImportError {
    /// The same, but a full disk is called by its name.
    pub(super) fn naming_a_full_disk(self, origin: &str, root: &Path) -> Self {
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
        if let Self::Io { source, .. } = &self
            && full.contains(&source.kind())
        {
            return Self::NoSpace {
                origin: origin.into(),
                root: root.into(),
            };
        }
        self
    }
}
