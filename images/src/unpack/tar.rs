//! Reads a tar stream: headers, PAX and GNU extensions, data. Touches no file.
//!
//! Why not the iterator of the `tar` crate: it holds extension headers of any length in memory and skips PAX records
//! that it cannot read, where CVE-2025-62518 and its kin show that two readers must not disagree on where data ends.
//! Here every extension is bounded, a record that cannot be read is an error, and as in Go's reader (which builds and
//! reads nearly all images) a PAX size overrides the header's and header-only entries have no data.

use std::io::{self, BufRead};

use super::pax::{Extensions, decimal, malformed, number};
use super::sparse::SparseMap;
use super::{UnpackError, UnpackLimits, printable};

const BLOCK: usize = 512;
const MAX_EXTENSIONS_IN_A_ROW: usize = 16;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry, its extensions applied; names are still unchecked bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes, if there are holes.
    pub(crate) sparse: Option<SparseMap>,
}

impl Entry {
    /// An empty file without looks of its own, for names that mean something by themselves, as whiteouts do.
    pub(crate) fn marker(path: Vec<u8>) -> Self {
        Self {
            kind: Kind::File,
            path,
            link: Vec::new(),
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// Seconds since the epoch and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
}

/// A reader at the start of an entry or within its data.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    source: R,
    limits: UnpackLimits,
    /// Data of the current entry that was not read yet, and the padding behind it.
    data_left: u64,
    padding: u64,
    at_end: bool,
}

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(source: R, limits: UnpackLimits) -> Self {
        Self {
            source,
            limits,
            data_left: 0,
            padding: 0,
            at_end: false,
        }
    }

    /// In the middle of an entry: the data of one file, and no archive around it.
    pub(crate) fn of_data(source: R, size: u64) -> Self {
        Self {
            data_left: size,
            at_end: true,
            ..Self::new(source, UnpackLimits::default())
        }
    }

    /// The source, wherever in it the reader is.
    pub(crate) fn into_inner(self) -> R {
        self.source
    }

    /// The next entry, after what is left of the one before.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extensions = Extensions::default();
        let (mut gnu_path, mut gnu_link) = (None, None);
        for seen in 0.. {
            if seen > MAX_EXTENSIONS_IN_A_ROW {
                return Err(malformed("too many extension headers in a row"));
            }
            self.skip(self.data_left.saturating_add(self.padding))?;
            (self.data_left, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                return if seen == 0 {
                    Ok(None)
                } else {
                    Err(malformed("extension headers without an entry behind them"))
                };
            };
            let size = number(&header[124..136], "size")?;
            let size = u64::try_from(size).map_err(|_| malformed("negative size"))?;
            match header[156] {
                b'x' => {
                    let records = self.extension(size)?;
                    extensions.read_pax(&records)?;
                }
                b'g' => drop(self.extension(size)?),
                b'L' => gnu_path = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => gnu_link = Some(until_nul(&self.extension(size)?).to_vec()),
                flag => {
                    extensions.path = agreed(gnu_path, extensions.path)?;
                    extensions.link = agreed(gnu_link, extensions.link)?;
                    return self.entry(&header, flag, size, extensions).map(Some);
                }
            }
        }
        unreachable!("the loop above has no end but its returns")
    }

    /// Hands the data of the current entry to `sink`, piece by piece, straight from the input buffer.
    pub(crate) fn copy_data(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        while self.data_left > 0 {
            let buffer = self.source.fill_buf().map_err(stream_error)?;
            if buffer.is_empty() {
                return Err(malformed("it ends within the data of a file"));
            }
            let take = buffer
                .len()
                .min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
            sink(&buffer[..take])?;
            self.source.consume(take);
            self.data_left -= take as u64;
        }
        Ok(())
    }

    /// Reads what follows the archive's end, so that the whole stream is hashed.
    pub(crate) fn drain(&mut self) -> Result<(), UnpackError> {
        loop {
            let length = self.source.fill_buf().map_err(stream_error)?.len();
            if length == 0 {
                return Ok(());
            }
            self.source.consume(length);
        }
    }

    fn skip(&mut self, mut left: u64) -> Result<(), UnpackError> {
        while left > 0 {
            let length = self.source.fill_buf().map_err(stream_error)?.len();
            if length == 0 {
                return Err(malformed("it ends within an entry"));
            }
            let take = length.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.source.consume(take);
            left -= take as u64;
        }
        Ok(())
    }

    /// The next header block; none at the archive's end.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        if self.at_end || self.source.fill_buf().map_err(stream_error)?.is_empty() {
            self.at_end = true;
            return Ok(None);
        }
        let block = self.block("it ends within a header")?;
        if block.iter().all(|byte| *byte == 0) {
            self.at_end = true;
            return Ok(None);
        }
        let stored = number(&block[148..156], "checksum")?;
        let sum = |signed: bool| -> i64 {
            let value = |byte: u8| {
                if signed {
                    i64::from(byte.cast_signed())
                } else {
                    i64::from(byte)
                }
            };
            let all: i64 = block.iter().map(|byte| value(*byte)).sum();
            let field: i64 = block[148..156].iter().map(|byte| value(*byte)).sum();
            all - field + 8 * i64::from(b' ')
        };
        if stored != sum(false) && stored != sum(true) {
            return Err(malformed("a header's checksum is wrong"));
        }
        Ok(Some(block))
    }

    /// The data of an extension header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let limit = self.limits.max_header_bytes;
        if size > limit {
            return Err(UnpackError::TooMuch {
                what: "bytes in an extended header",
                limit,
            });
        }
        (self.data_left, self.padding) = (size, padding(size));
        let mut data = Vec::new();
        self.copy_data(|piece| {
            data.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(data)
    }

    /// The map of a sparse file that stands before its data: the number of pairs, then offsets and lengths, a line each,
    /// filled up to whole blocks.
    fn map_in_data(&mut self) -> Result<Vec<u64>, UnpackError> {
        let (mut numbers, mut line) = (Vec::new(), Vec::new());
        let mut read = 0;
        loop {
            read += BLOCK as u64;
            if read > self.limits.max_header_bytes {
                return Err(UnpackError::TooMuch {
                    what: "bytes in the map of a sparse file",
                    limit: self.limits.max_header_bytes,
                });
            }
            let Some(left) = self.data_left.checked_sub(BLOCK as u64) else {
                return Err(malformed("the map of a sparse file is cut short"));
            };
            let block = self.block("the map of a sparse file is cut short")?;
            self.data_left = left;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let value = decimal(&line)
                    .ok_or_else(|| malformed("the map of a sparse file has a bad number"))?;
                line.clear();
                numbers.push(value);
                if numbers[0].checked_mul(2).and_then(|all| all.checked_add(1))
                    == Some(numbers.len() as u64)
                {
                    numbers.remove(0);
                    return Ok(numbers);
                }
            }
        }
    }

    /// The blocks that follow the header of a sparse file of the old kind.
    fn old_sparse_extensions(
        &mut self,
        header: &[u8; BLOCK],
    ) -> Result<Vec<[u8; BLOCK]>, UnpackError> {
        let mut blocks: Vec<[u8; BLOCK]> = Vec::new();
        let mut more = header[482] != 0;
        while more {
            if (blocks.len() * BLOCK) as u64 >= self.limits.max_header_bytes {
                return Err(UnpackError::TooMuch {
                    what: "bytes in the map of a sparse file",
                    limit: self.limits.max_header_bytes,
                });
            }
            let block = self.block("the map of a sparse file is cut short")?;
            more = block[504] != 0;
            blocks.push(block);
        }
        Ok(blocks)
    }

    fn block(&mut self, cut: &'static str) -> Result<[u8; BLOCK], UnpackError> {
        let mut block = [0u8; BLOCK];
        match self.source.read_exact(&mut block) {
            Ok(()) => Ok(block),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(malformed(cut)),
            Err(e) => Err(stream_error(e)),
        }
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        flag: u8,
        size: u64,
        ext: Extensions,
    ) -> Result<Entry, UnpackError> {
        // GNU's name of a sparse file stands for that of a reader which knows nothing of holes.
        let sparse_name = ext.sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let path = sparse_name
            .or(ext.path)
            .unwrap_or_else(|| header_path(header));
        if path.contains(&0) {
            return Err(UnpackError::Refused {
                path: printable(&path),
                reason: "the name has a NUL byte",
            });
        }
        let kind = match flag {
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => {
                return Err(UnpackError::Unsupported {
                    path: printable(&path),
                    feature: "an unknown type of entry",
                });
            }
        };
        let mut size = if kind == Kind::File {
            ext.size.unwrap_or(size)
        } else {
            0
        };
        let sparse = match (ext.sparse, flag) {
            (Some(_), b'S') => return Err(malformed("a file is sparse in two ways")),
            (Some(_), _) if kind != Kind::File => {
                return Err(malformed("something is sparse that is no file"));
            }
            (Some(records), _) => {
                (self.data_left, self.padding) = (size, padding(size));
                let in_data = if records.is_in_data() {
                    Some(self.map_in_data()?)
                } else {
                    None
                };
                size = self.data_left;
                Some(records.map(in_data, size, &self.limits)?)
            }
            (None, b'S') => {
                let extensions = self.old_sparse_extensions(header)?;
                Some(SparseMap::old(header, &extensions, size, &self.limits)?)
            }
            (None, _) => None,
        };
        (self.data_left, self.padding) = (size, padding(size));
        let id = |given: Option<u32>, field: &[u8], name| match given {
            Some(id) => Ok(id),
            None => u32::try_from(number(field, name)?)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| bad_id(&path)),
        };
        let device = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            let part = |field, name| {
                u32::try_from(number(field, name)?).map_err(|_| malformed("bad device number"))
            };
            (
                part(&header[329..337], "device")?,
                part(&header[337..345], "device")?,
            )
        } else {
            (0, 0)
        };
        let mtime = match ext.mtime {
            Some(time) => time,
            None => Time {
                secs: number(&header[136..148], "mtime")?,
                nanos: 0,
            },
        };
        Ok(Entry {
            kind,
            link: ext
                .link
                .unwrap_or_else(|| until_nul(&header[157..257]).to_vec()),
            size,
            mode: u32::try_from(number(&header[100..108], "mode")? & 0o7777).unwrap_or(0),
            uid: id(ext.uid, &header[108..116], "uid")?,
            gid: id(ext.gid, &header[116..124], "gid")?,
            mtime,
            device,
            xattrs: ext.xattrs,
            sparse,
            path,
        })
    }
}

/// A long name by GNU's extension and by PAX: readers differ in which one counts, so that both must say the same.
fn agreed(gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, UnpackError> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => Err(malformed(
            "a GNU header and a PAX record give one entry two names",
        )),
        (gnu, pax) => Ok(gnu.or(pax)),
    }
}

fn header_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    // Only POSIX's magic has the prefix field; GNU keeps other things there.
    let prefix = if &header[257..263] == b"ustar\0" {
        until_nul(&header[345..500])
    } else {
        b""
    };
    if prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn bad_id(path: &[u8]) -> UnpackError {
    UnpackError::Refused {
        path: printable(path),
        reason: "the owner is not a 32 bit number",
    }
}

/// What the stream itself failed with: damage, or a bound passed further up.
fn stream_error(error: io::Error) -> UnpackError {
    match error.downcast::<UnpackError>() {
        Ok(inner) => inner,
        Err(error) => UnpackError::Decompress(error),
    }
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
