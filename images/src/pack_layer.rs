//! Writes the one layer of a packed image, and both of its digests, in one go.
//!
//! The tree is walked by descriptors that follow no symlink, so that nobody can swap a link in on the way
//! (CVE-2023-0778). Entries are sorted, owned by root and carry the one time that the caller names.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flate2::GzBuilder;
use flate2::write::GzEncoder;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::elf;
use crate::manifest::Blob;
use crate::pack::PackError;
use crate::unpack::looks::NOFOLLOW;

const MAX_DEPTH: usize = 256;

type Compressed = GzEncoder<Hashing<BufWriter<File>>>;

/// Writes the layer and both of its digests in one go.
pub(crate) struct LayerBuilder {
    tar: tar::Builder<Hashing<Compressed>>,
    seconds: u64,
}

impl LayerBuilder {
    pub(crate) fn new(file: File, seconds: u64) -> Self {
        let compressed = GzBuilder::new().mtime(0).write(
            Hashing::new(BufWriter::new(file)),
            flate2::Compression::new(6),
        );
        Self {
            tar: tar::Builder::new(Hashing::new(compressed)),
            seconds,
        }
    }

    fn header(&self, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.seconds);
        header
    }

    /// One static program, executable by all.
    pub(crate) fn program(&mut self, path: &Path) -> Result<(String, &'static str), PackError> {
        let io = |operation| {
            let path = path.to_path_buf();
            move |source| PackError::Io {
                operation,
                path,
                source,
            }
        };
        let not = |reason: String| PackError::NotAProgram {
            path: path.into(),
            reason,
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name
            .ok_or_else(|| not("its name is not UTF-8".into()))?
            .to_string();
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(io("open"))?;
        file.take(1 << 30)
            .read_to_end(&mut bytes)
            .map_err(io("read"))?;
        let program = elf::parse(&bytes[..bytes.len().min(64 << 10)]).map_err(|reason| {
            not(format!(
                "{reason}; pack a directory that holds all it needs"
            ))
        })?;
        if let Some(interpreter) = program.interpreter {
            return Err(not(format!(
                "it is linked dynamically and needs {interpreter}, which would not be there; link it statically or pack a \
                 directory that holds all it needs"
            )));
        }
        let mut header = self.header(tar::EntryType::Regular, 0o755, bytes.len() as u64);
        self.tar
            .append_data(&mut header, &name, bytes.as_slice())
            .map_err(io("pack"))?;
        Ok((name, program.architecture))
    }

    /// A directory's own entry, then what is in it, by name. `inside` is its place in the image.
    pub(crate) fn tree(
        &mut self,
        folder: OwnedFd,
        inside: &Path,
        shown: &Path,
        depth: usize,
    ) -> Result<(), PackError> {
        let io = |operation| {
            let path = shown.to_path_buf();
            move |source: io::Error| PackError::Io {
                operation,
                path,
                source,
            }
        };
        if depth > MAX_DEPTH {
            return Err(PackError::Refused {
                path: shown.into(),
                reason: "too many directories deep",
            });
        }
        let mut names = Vec::new();
        let mut listing = Dir::from_fd(folder.try_clone().map_err(io("open"))?)
            .map_err(|e| io("open")(e.into()))?;
        for entry in listing.iter() {
            let entry = entry.map_err(|e| io("list")(e.into()))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        for name in names {
            let part = std::ffi::OsStr::from_bytes(&name);
            let (inside, shown) = (inside.join(part), shown.join(part));
            if name.starts_with(b".wh.") {
                return Err(PackError::Refused {
                    path: shown,
                    reason: "names with .wh. in front mean deletions in images",
                });
            }
            self.entry(&folder, &name, &inside, &shown, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &[u8],
        inside: &Path,
        shown: &Path,
        depth: usize,
    ) -> Result<(), PackError> {
        let io = |operation| {
            let path = shown.to_path_buf();
            move |source: io::Error| PackError::Io {
                operation,
                path,
                source,
            }
        };
        let errno = |operation| {
            let io = io(operation);
            move |errno: Errno| io(errno.into())
        };
        let found = fstatat(folder, name, NOFOLLOW).map_err(errno("look at"))?;
        let mode = found.st_mode & 0o7777;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        match kind(&found) {
            SFlag::S_IFDIR => {
                let opened = openat(folder, name, flags | OFlag::O_DIRECTORY, Mode::empty())
                    .map_err(errno("open"))?;
                let mut header = self.header(tar::EntryType::Directory, mode, 0);
                self.tar
                    .append_data(&mut header, inside, io::empty())
                    .map_err(io("pack"))?;
                self.tree(opened, inside, shown, depth + 1)
            }
            SFlag::S_IFREG => {
                let file =
                    File::from(openat(folder, name, flags, Mode::empty()).map_err(errno("open"))?);
                let opened = fstat(&file).map_err(errno("look at"))?;
                if kind(&opened) != SFlag::S_IFREG {
                    return Err(PackError::Refused {
                        path: shown.into(),
                        reason: "it changed while it was packed",
                    });
                }
                let size = u64::try_from(opened.st_size).unwrap_or(0);
                let mut header =
                    self.header(tar::EntryType::Regular, opened.st_mode & 0o7777, size);
                let mut exact = Exact { file, left: size };
                self.tar
                    .append_data(&mut header, inside, &mut exact)
                    .map_err(io("pack"))
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(folder, name).map_err(errno("read link"))?;
                let mut header = self.header(tar::EntryType::Symlink, 0o777, 0);
                self.tar
                    .append_link(&mut header, inside, Path::new(&target))
                    .map_err(io("pack"))
            }
            SFlag::S_IFIFO => {
                let mut header = self.header(tar::EntryType::Fifo, mode, 0);
                self.tar
                    .append_data(&mut header, inside, io::empty())
                    .map_err(io("pack"))
            }
            SFlag::S_IFSOCK => Ok(()),
            _ => Err(PackError::Refused {
                path: shown.into(),
                reason: "it is a device",
            }),
        }
    }

    pub(crate) fn finish(self) -> io::Result<(Digest, Blob)> {
        let (diff_id, compressed) = self.tar.into_inner()?.finish();
        let mut compressed = compressed.finish()?;
        compressed.flush()?;
        let size = compressed.count();
        let (digest, _) = compressed.finish();
        Ok((diff_id, Blob { digest, size }))
    }
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits())
}

/// A file that must have exactly the size it had when it was opened.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(into.len());
        if most == 0 {
            return Ok(0);
        }
        let length = self.file.read(&mut into[..most])?;
        if length == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it became shorter while it was packed",
            ));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// Hashes and counts what goes through.
pub(crate) struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    count: u64,
}

impl<W> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            count: 0,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The digest of all that went through, and where it went.
    pub(crate) fn finish(self) -> (Digest, W) {
        (Digest::from_hasher(self.hasher), self.inner)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        self.count += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
