//! Files by name, whether they lie in a directory or in an archive.
//!
//! In a directory every name is opened beneath it and through no symlink (CVE-2023-0778): what is in it may have been made
//! by anybody.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use super::ImportError;
use super::archive::Contents;
use crate::digest::Digest;
use crate::manifest::{Blob, MAX_METADATA_BYTES};
use crate::section::Section;

/// Where an image comes from.
#[derive(Debug)]
pub(crate) struct Source {
    /// For messages.
    pub(crate) origin: String,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Folder(OwnedFd),
    Archive(Contents),
}

impl Source {
    pub(crate) fn folder(path: &Path) -> Result<Self, ImportError> {
        let origin = path.display().to_string();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(path, flags, Mode::empty()).map_err(|errno| ImportError::Io {
            operation: "open",
            what: origin.clone(),
            source: errno.into(),
        })?;
        Ok(Self {
            origin,
            files: Files::Folder(folder),
        })
    }

    pub(crate) fn archive(origin: String, file: std::fs::File) -> Result<Self, ImportError> {
        let contents = Contents::read(&origin, &Arc::new(file))?;
        Ok(Self {
            origin,
            files: Files::Archive(contents),
        })
    }

    /// The file of that name, if there is one.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Section>, ImportError> {
        let folder = match &self.files {
            Files::Archive(contents) => return Ok(contents.get(name)),
            Files::Folder(folder) => folder,
        };
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            );
        let opened = loop {
            // EAGAIN: a rename elsewhere on the system raced with the check for "..".
            match openat2(folder, name, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => break other,
            }
        };
        let file = match opened {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => {
                return Err(self.part(name, "is reached through a symlink, which is not followed"));
            }
            Err(errno) => return Err(self.io("open", name, errno.into())),
        };
        let found = file
            .metadata()
            .map_err(|source| self.io("look at", name, source))?;
        if !found.is_file() {
            return Err(self.part(name, "is not a regular file"));
        }
        Ok(Some(Section::new(Arc::new(file), 0, found.len())))
    }

    /// The same, but it must be there.
    pub(crate) fn need(&self, name: &str) -> Result<Section, ImportError> {
        self.file(name)?
            .ok_or_else(|| self.part(name, "is missing"))
    }

    /// A small file, whole.
    pub(crate) fn text(&self, name: &str, section: &Section) -> Result<Vec<u8>, ImportError> {
        section
            .read_all(MAX_METADATA_BYTES)
            .map_err(|source| self.io("read", name, source))
    }

    /// The blob of an OCI layout that a descriptor speaks of, of the size that it says; its bytes are still unchecked.
    pub(crate) fn blob(&self, blob: &Blob) -> Result<Section, ImportError> {
        let name = blob_name(&blob.digest);
        let section = self.need(&name)?;
        if section.size() != blob.size {
            let problem = format!(
                "has {} bytes where {} are declared",
                section.size(),
                blob.size
            );
            return Err(self.part(&name, problem));
        }
        Ok(section)
    }

    /// A manifest, index or config of an OCI layout, checked.
    pub(crate) fn metadata(&self, blob: &Blob) -> Result<Vec<u8>, ImportError> {
        let name = blob_name(&blob.digest);
        let bytes = self.text(&name, &self.blob(blob)?)?;
        self.check(&name, &bytes, blob.digest)?;
        Ok(bytes)
    }

    pub(crate) fn check(
        &self,
        name: &str,
        bytes: &[u8],
        expected: Digest,
    ) -> Result<(), ImportError> {
        let actual = Digest::of(bytes);
        if actual == expected {
            return Ok(());
        }
        Err(ImportError::WrongDigest {
            origin: self.origin.clone(),
            name: name.into(),
            expected,
            actual,
        })
    }

    pub(crate) fn part(&self, name: &str, problem: impl Into<String>) -> ImportError {
        ImportError::Part {
            origin: self.origin.clone(),
            name: name.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn io(
        &self,
        operation: &'static str,
        name: &str,
        source: std::io::Error,
    ) -> ImportError {
        ImportError::Io {
            operation,
            what: format!("{name} in {}", self.origin),
            source,
        }
    }
}

/// Where an OCI layout keeps a blob.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
