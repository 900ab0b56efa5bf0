//! Files and archives of others, put into one directory as files: what a task's sandbox gets before the task starts.
//!
//! The same hostile-archive rules as for layers, by the same code (`unpack`): nothing follows a symlink, nothing leaves the
//! directory, everything is bounded. Different from a layer: names of whiteouts are names, devices and pipes are refused,
//! everything belongs to whoever writes it, and set-id bits, attributes and times in the far past are not taken over.
//! Knows neither where the files come from nor who wants them. `zip`: the directory of a zip file.

mod zip;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use flate2::read::DeflateDecoder;
use nix::unistd::{getegid, geteuid};

use crate::unpack::apply::LayerWriter;
use crate::unpack::directories::open_root;
use crate::unpack::paths::LayerPath;
use crate::unpack::tar::{Entry, Kind, TarReader, Time};
use crate::unpack::xz::XzDecoder;
use crate::unpack::{DeviceNodes, UnpackError, UnpackLimits};

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;
/// A symlink in a zip file is its target, as data.
const LONGEST_LINK: u64 = 4096;

/// How an archive is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// As it is.
    Tar,
    /// Compressed with bzip2, in one stream or several.
    TarBzip2,
    /// Compressed with gzip, in one stream or several.
    TarGzip,
    /// Compressed with xz, in one stream or several.
    TarXz,
    /// Compressed with zstd.
    TarZstd,
    /// Not encrypted, not ZIP64; stored or deflated.
    Zip,
}

/// What may be put into a directory.
#[derive(Debug, Clone)]
pub struct FileBounds {
    /// All of it, unpacked.
    pub max_bytes: u64,
    /// Files, directories and links.
    pub max_entries: u64,
    /// Set by whoever does not want it any more; then the next piece is refused.
    pub stop: Arc<AtomicBool>,
}

/// One directory that files are put into. What comes later replaces what came before under the same name.
#[derive(Debug)]
pub struct FileFolder {
    writer: LayerWriter,
    limits: UnpackLimits,
    bounds: FileBounds,
    left: u64,
}

impl FileFolder {
    /// Opens a directory that nobody else writes to meanwhile.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn open(path: &Path, bounds: FileBounds) -> Result<Self, UnpackError> {
        let limits = UnpackLimits {
            max_entries: bounds.max_entries,
            max_file_bytes: bounds.max_bytes,
            device_nodes: DeviceNodes::Refuse,
            ..UnpackLimits::default()
        };
        Ok(Self {
            writer: LayerWriter::of_files(open_root(path)?, limits.clone())?,
            limits,
            left: bounds.max_bytes,
            bounds,
        })
    }

    /// Writes a file of `size` bytes at `name`, a relative path; directories above it are made.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or is larger or smaller than said.
    pub fn write(
        &mut self,
        name: &str,
        mode: u32,
        source: impl Read,
        size: u64,
    ) -> Result<(), UnpackError> {
        let entry = plain(Kind::File, name.as_bytes().to_vec(), mode, size);
        let source = self.watched(source);
        let mut data = TarReader::of_data(BufReader::with_capacity(BUFFER, source), size);
        self.writer.apply(&entry, &mut data)?;
        self.left = data.into_inner().into_inner().left;
        Ok(())
    }

    /// Moves a file that lies in the directory itself, under a name of the caller's own, to `name`.
    ///
    /// # Errors
    ///
    /// When it cannot be moved.
    pub fn adopt(&mut self, from: &str, name: &str, mode: u32) -> Result<(), UnpackError> {
        let entry = plain(Kind::File, name.as_bytes().to_vec(), mode, 0);
        self.writer.adopt(from.as_bytes(), &entry)
    }

    /// Writes what one gzip stream inflates to at `name`.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written; what was written under the temporary name `spool` then stays.
    pub fn inflate(
        &mut self,
        archive: &File,
        spool: &str,
        name: &str,
        mode: u32,
    ) -> Result<(), UnpackError> {
        let mut source = self.watched(MultiGzDecoder::new(self.given(archive)));
        let mut file = self.writer.spool(spool.as_bytes())?;
        // Errors of either side: the reader's own are told apart by what they carry.
        let copied = io::copy(&mut source, &mut file);
        self.left = source.left;
        copied.map_err(|error| match error.downcast::<UnpackError>() {
            Ok(inner) => inner,
            Err(error) => UnpackError::Decompress(error),
        })?;
        self.adopt(spool, name, mode)
    }

    /// Unpacks an archive.
    ///
    /// # Errors
    ///
    /// When it is damaged, refused or too large; what was unpacked before stays.
    pub fn unpack(&mut self, format: ArchiveFormat, archive: &File) -> Result<(), UnpackError> {
        match format {
            ArchiveFormat::Tar => self.tar(self.given(archive)),
            ArchiveFormat::TarBzip2 => self.tar(MultiBzDecoder::new(self.given(archive))),
            ArchiveFormat::TarGzip => self.tar(MultiGzDecoder::new(self.given(archive))),
            ArchiveFormat::TarXz => self.tar(XzDecoder::new(self.given(archive))),
            ArchiveFormat::TarZstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(self.given(archive))
                    .map_err(UnpackError::Decompress)?;
                // As for layers: a frame cannot ask for gigabytes.
                decoder
                    .window_log_max(27)
                    .map_err(UnpackError::Decompress)?;
                self.tar(decoder)
            }
            ArchiveFormat::Zip => self.zip(archive),
        }
    }

    /// How many bytes may still come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Everything is here.
    ///
    /// # Errors
    ///
    /// When a directory cannot be given what comes last.
    pub fn finish(self) -> Result<(), UnpackError> {
        self.writer.finish().map(|_| ())
    }

    fn tar(&mut self, source: impl Read) -> Result<(), UnpackError> {
        let source = BufReader::with_capacity(BUFFER, self.watched(source));
        let mut tar = TarReader::new(source, self.limits.clone());
        while let Some(entry) = tar.next()? {
            let entry = plain_of(entry);
            if entry.kind == Kind::Fifo {
                return Err(UnpackError::Refused {
                    path: crate::unpack::printable(&entry.path),
                    reason: "pipes are not allowed here",
                });
            }
            // The directory itself is not the archive's.
            if LayerPath::parse(&entry.path, &self.limits)?
                .split()
                .is_none()
            {
                continue;
            }
            self.writer.apply(&entry, &mut tar)?;
        }
        // To the end, where the checksum is.
        tar.drain()?;
        self.left = tar.into_inner().into_inner().left;
        Ok(())
    }

    fn zip(&mut self, archive: &File) -> Result<(), UnpackError> {
        for member in zip::members(archive, self.limits.max_entries)? {
            let data = zip::data(archive, &member)?;
            let source: Box<dyn Read> = if member.deflated {
                Box::new(DeflateDecoder::new(data))
            } else {
                Box::new(data)
            };
            let source = self.watched(zip::Checked::new(source, &member));
            let mut entry = plain(
                member.kind,
                member.name.clone(),
                member.mode,
                if member.kind == Kind::File {
                    member.size
                } else {
                    0
                },
            );
            entry.mtime = member.mtime;
            let mut source = BufReader::with_capacity(BUFFER, source);
            if member.kind == Kind::Symlink {
                let link = &mut entry.link;
                let read = source.by_ref().take(LONGEST_LINK).read_to_end(link);
                read.map_err(UnpackError::Decompress)?;
            }
            if LayerPath::parse(&entry.path, &self.limits)?
                .split()
                .is_none()
            {
                continue;
            }
            let mut data = TarReader::of_data(source, entry.size);
            self.writer.apply(&entry, &mut data)?;
            // To the end, where the checksum is compared.
            data.drain()?;
            self.left = data.into_inner().into_inner().left;
        }
        Ok(())
    }

    /// A stream of an archive may go on for long without anything coming of it: what goes in can be given up, too.
    fn given<'a>(&self, archive: &'a File) -> BufReader<Given<&'a File>> {
        let stop = Arc::clone(&self.bounds.stop);
        let inner = archive;
        BufReader::with_capacity(BUFFER, Given { inner, stop })
    }

    fn watched<R: Read>(&self, inner: R) -> Watched<R> {
        Watched {
            inner,
            left: self.left,
            limit: self.bounds.max_bytes,
            stop: Arc::clone(&self.bounds.stop),
        }
    }
}

/// Ends when it is not wanted any more.
struct Given<R> {
    inner: R,
    stop: Arc<AtomicBool>,
}

impl<R: Read> Read for Given<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("it was given up"));
        }
        self.inner.read(into)
    }
}

/// Counts what comes, and ends it when it is too much or not wanted any more.
struct Watched<R> {
    inner: R,
    left: u64,
    limit: u64,
    stop: Arc<AtomicBool>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("it was given up"));
        }
        let length = self.inner.read(into)?;
        match self.left.checked_sub(length as u64) {
            Some(left) => self.left = left,
            None => {
                return Err(io::Error::other(UnpackError::TooMuch {
                    what: "unpacked bytes",
                    limit: self.limit,
                }));
            }
        }
        Ok(length)
    }
}

/// Of whoever writes it, with harmless permissions and without more.
fn plain(kind: Kind, path: Vec<u8>, mode: u32, size: u64) -> Entry {
    Entry {
        kind,
        size,
        mode: mode & 0o777,
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        mtime: now(),
        ..Entry::marker(path)
    }
}

fn plain_of(entry: Entry) -> Entry {
    Entry {
        link: entry.link,
        mtime: entry.mtime,
        sparse: entry.sparse,
        device: entry.device,
        ..plain(entry.kind, entry.path, entry.mode, entry.size)
    }
}

fn now() -> Time {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Time {
        secs: i64::try_from(since.as_secs()).unwrap_or(0),
        nanos: 0,
    }
}

#[cfg(test)]
pub(crate) mod tests;
