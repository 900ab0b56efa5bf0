//! The directory of a zip file, and the data of its members. Touches no file but the archive.
//!
//! As strict as our reader of tar: two readers must not disagree about what is in an archive. The directory must end where
//! its end record begins, a member's own header must have the directory's name, no two members share bytes (which is how
//! small archives become huge ones), and what is not supported (ZIP64, encryption, other methods) is an error.

use std::fs::File;
use std::io::{self, Read, Take};
use std::os::unix::fs::FileExt as _;

use crate::unpack::tar::{Kind, Time};
use crate::unpack::{UnpackError, printable};

const END: &[u8] = b"PK\x05\x06";
const END_SIZE: u64 = 22;
const MEMBER: &[u8] = b"PK\x01\x02";
const MEMBER_SIZE: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_SIZE: u64 = 30;
/// A directory larger than this is not read into memory.
const MAX_DIRECTORY: u64 = 64 << 20;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) kind: Kind,
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
    pub(super) mtime: Time,
    pub(super) deflated: bool,
    /// Unpacked.
    pub(super) size: u64,
    packed: u64,
    checksum: u32,
    /// Of its own header.
    offset: u64,
}

/// All of them, in the order of their data.
pub(super) fn members(archive: &File, most: u64) -> Result<Vec<Member>, UnpackError> {
    let length = archive.metadata().map_err(UnpackError::Decompress)?.len();
    let tail_at = length.saturating_sub(END_SIZE + 0xffff);
    let tail = bytes(archive, tail_at, length - tail_at)?;
    let end = (0..tail.len().saturating_sub(END_SIZE as usize - 1))
        .rev()
        .find(|at| {
            let rest = &tail[*at..];
            rest.starts_with(END) && usize::from(u16_at(rest, 20)) == rest.len() - END_SIZE as usize
        })
        .ok_or_else(|| malformed("it has no end record"))?;
    let record = &tail[end..];
    let n_members = u64::from(u16_at(record, 10));
    let (size, at) = (u64::from(u32_at(record, 12)), u64::from(u32_at(record, 16)));
    if n_members == 0xffff || size == 0xffff_ffff || at == 0xffff_ffff {
        return Err(UnpackError::Unsupported {
            path: "the archive".into(),
            feature: "ZIP64",
        });
    }
    if u32_at(record, 4) != 0 || u64::from(u16_at(record, 8)) != n_members {
        return Err(malformed("it is a part of several"));
    }
    if at + size != tail_at + end as u64 {
        return Err(malformed("its directory is not where it should be"));
    }
    if n_members > most || size > MAX_DIRECTORY {
        return Err(UnpackError::TooMuch {
            what: "entries",
            limit: most.min(MAX_DIRECTORY / MEMBER_SIZE as u64),
        });
    }
    let directory = bytes(archive, at, size)?;
    let mut rest = directory.as_slice();
    let mut members = Vec::new();
    for _ in 0..n_members {
        let (member, after) = member(rest)?;
        members.push(member);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(malformed("its directory is longer than it says"));
    }
    members.sort_by_key(|member| member.offset);
    let mut free = 0;
    for member in &members {
        if member.offset < free {
            return Err(malformed("two members share bytes"));
        }
        free = member.offset + LOCAL_SIZE + member.name.len() as u64 + member.packed;
        if free > at {
            return Err(malformed("a member reaches into the directory"));
        }
    }
    Ok(members)
}

fn member(from: &[u8]) -> Result<(Member, &[u8]), UnpackError> {
    if from.len() < MEMBER_SIZE || !from.starts_with(MEMBER) {
        return Err(malformed("its directory is cut short"));
    }
    let lengths = [28, 30, 32].map(|at| usize::from(u16_at(from, at)));
    let whole = MEMBER_SIZE + lengths.iter().sum::<usize>();
    let Some((header, after)) = from.split_at_checked(whole) else {
        return Err(malformed("its directory is cut short"));
    };
    let name = header[MEMBER_SIZE..MEMBER_SIZE + lengths[0]].to_vec();
    let unsupported = |feature| UnpackError::Unsupported {
        path: printable(&name),
        feature,
    };
    if u16_at(header, 8) & 0x2041 != 0 {
        return Err(unsupported("encryption"));
    }
    let deflated = match u16_at(header, 10) {
        0 => false,
        8 => true,
        _ => return Err(unsupported("a method of compression other than deflate")),
    };
    let (packed, size) = (u32_at(header, 20), u32_at(header, 24));
    let offset = u32_at(header, 42);
    if [packed, size, offset].contains(&u32::MAX) {
        return Err(unsupported("ZIP64"));
    }
    // Where a Unix wrote it, the attributes have its mode.
    let unix = if header[5] == 3 {
        u32_at(header, 38) >> 16
    } else {
        0
    };
    let kind = match unix & 0o170_000 {
        0o120_000 => Kind::Symlink,
        0 | 0o100_000 | 0o040_000 if name.ends_with(b"/") => Kind::Directory,
        0o040_000 => Kind::Directory,
        0 | 0o100_000 => Kind::File,
        _ => {
            return Err(UnpackError::Refused {
                path: printable(&name),
                reason: "devices and pipes are not allowed here",
            });
        }
    };
    let default = if kind == Kind::Directory {
        0o755
    } else {
        0o644
    };
    Ok((
        Member {
            kind,
            mode: Some(unix & 0o777)
                .filter(|mode| *mode != 0)
                .unwrap_or(default),
            mtime: time(u16_at(header, 14), u16_at(header, 12)),
            deflated,
            size: size.into(),
            packed: packed.into(),
            checksum: u32_at(header, 16),
            offset: offset.into(),
            name,
        },
        after,
    ))
}

/// Its bytes as they are in the archive.
pub(super) fn data(archive: &File, member: &Member) -> Result<Take<At>, UnpackError> {
    let header = bytes(archive, member.offset, LOCAL_SIZE)?;
    let name_length = u64::from(u16_at(&header, 26));
    if !header.starts_with(LOCAL)
        || bytes(archive, member.offset + LOCAL_SIZE, name_length)? != member.name
    {
        return Err(malformed("a member has two names"));
    }
    let at = member.offset + LOCAL_SIZE + name_length + u64::from(u16_at(&header, 28));
    let file = archive.try_clone().map_err(UnpackError::Decompress)?;
    Ok(At { file, at }.take(member.packed))
}

/// Reads from a place in a file, whoever else reads it.
pub(super) struct At {
    file: File,
    at: u64,
}

impl Read for At {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(into, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Compares size and checksum when the end comes.
pub(super) struct Checked<R> {
    inner: R,
    sum: flate2::Crc,
    left: u64,
    wanted: u32,
}

impl<R> Checked<R> {
    pub(super) fn new(inner: R, member: &Member) -> Self {
        Self {
            inner,
            sum: flate2::Crc::new(),
            left: member.size,
            wanted: member.checksum,
        }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let length = self.inner.read(into)?;
        self.sum.update(&into[..length]);
        match self.left.checked_sub(length as u64) {
            None => Err(io::Error::other(malformed(
                "a member is larger than it says",
            ))),
            Some(left) if length == 0 && (left > 0 || self.sum.sum() != self.wanted) => Err(
                io::Error::other(malformed("the checksum of a member is wrong")),
            ),
            Some(left) => {
                self.left = left;
                Ok(length)
            }
        }
    }
}

fn bytes(archive: &File, at: u64, length: u64) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    match archive.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(malformed("it is cut short"))
        }
        Err(error) => Err(UnpackError::Decompress(error)),
    }
}

/// MS-DOS' date and time, which know no zone: taken as UTC.
fn time(date: u16, time: u16) -> Time {
    let (year, month, day) = (
        1980 + i64::from(date >> 9),
        i64::from(date >> 5 & 15),
        i64::from(date & 31),
    );
    // Days since 1970 by the proleptic Gregorian calendar, the year beginning in March.
    let (y, m) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let secs =
        i64::from(time >> 11) * 3600 + i64::from(time >> 5 & 63) * 60 + i64::from(time & 31) * 2;
    Time {
        secs: days * 86_400 + secs,
        nanos: 0,
    }
}

fn u16_at(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([from[at], from[at + 1]])
}

fn u32_at(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]])
}

fn malformed(problem: &str) -> UnpackError {
    UnpackError::Malformed(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_ms_dos_are_read() {
        // 2026-11-27 12:03:50 and the first there is.
        assert_eq!(
            time(46 << 9 | 11 << 5 | 27, 12 << 11 | 3 << 5 | 25).secs,
            1_795_781_030
        );
        assert_eq!(time(1 << 5 | 1, 0).secs, 315_532_800);
    }
}
