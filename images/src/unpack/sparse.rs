//! Sparse files (pure): the four ways in which tar says where a file's data goes between its holes.
//!
//! GNU's old header with its extension blocks (type `S`), and GNU's PAX records in the versions 0.0 (pairs of records),
//! 0.1 (one record with all numbers) and 1.0 (the numbers stand before the data); see "Sparse Formats" in GNU tar's
//! manual. A map that does not account for every byte of the data, or that overlaps, is refused: two readers must not
//! differ in what an archive holds.

use super::pax::{decimal, malformed, number};
use super::{UnpackError, UnpackLimits};

/// Bytes of data at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    offset: u64,
    length: u64,
}

/// Where the data of a sparse file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    size: u64,
    segments: Vec<Segment>,
}

/// What PAX records say of one file.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    blocks: Option<u64>,
    numbers: Vec<u64>,
    pub(super) name: Option<Vec<u8>>,
}

impl SparseRecords {
    /// One record, its key without `GNU.sparse.`; none if it makes no sense.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"numblocks" => self.blocks = Some(decimal(value)?),
            b"offset" if self.numbers.len().is_multiple_of(2) => self.numbers.push(decimal(value)?),
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => {
                self.numbers.push(decimal(value)?)
            }
            b"map" if self.numbers.is_empty() => {
                let numbers = value.split(|byte| *byte == b',').map(decimal);
                self.numbers = numbers.collect::<Option<_>>()?;
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether the map stands before the data, as in version 1.0.
    pub(super) fn is_in_data(&self) -> bool {
        (self.major, self.minor) == (Some(1), Some(0))
    }

    /// The map of `stored` bytes; `in_data` are the numbers that stood there.
    pub(super) fn map(
        self,
        in_data: Option<Vec<u64>>,
        stored: u64,
        limits: &UnpackLimits,
    ) -> Result<SparseMap, UnpackError> {
        let known = matches!(
            (self.major, self.minor),
            (None, None) | (Some(0), Some(0 | 1)) | (Some(1), Some(0))
        );
        if !known {
            return Err(malformed("a sparse file is of an unknown version"));
        }
        let size = self
            .size
            .ok_or_else(|| malformed("a sparse file's size is missing"))?;
        let numbers = in_data.unwrap_or(self.numbers);
        if self
            .blocks
            .is_some_and(|blocks| blocks != numbers.len() as u64 / 2)
        {
            return Err(malformed(
                "a sparse file has another number of parts than it says",
            ));
        }
        SparseMap::new(size, &numbers, stored, limits)
    }
}

impl SparseMap {
    /// `numbers` are offsets and lengths in turn.
    fn new(
        size: u64,
        numbers: &[u64],
        stored: u64,
        limits: &UnpackLimits,
    ) -> Result<Self, UnpackError> {
        if size > limits.max_file_bytes {
            return Err(UnpackError::TooMuch {
                what: "bytes in a sparse file",
                limit: limits.max_file_bytes,
            });
        }
        let (pairs, []) = numbers.as_chunks::<2>() else {
            return Err(malformed(
                "a sparse file's map has an odd number of numbers",
            ));
        };
        let mut segments = Vec::with_capacity(pairs.len());
        let (mut end, mut total) = (0u64, 0u64);
        for &[offset, length] in pairs {
            let next = offset.checked_add(length).filter(|next| *next <= size);
            let next = next.ok_or_else(|| malformed("a sparse file's map goes beyond its end"))?;
            if offset < end {
                return Err(malformed("a sparse file's map overlaps"));
            }
            end = next;
            total += length;
            if length > 0 {
                segments.push(Segment { offset, length });
            }
        }
        if total != stored {
            return Err(malformed("a sparse file has other data than its map says"));
        }
        Ok(Self { size, segments })
    }

    /// Of type `S`: `header` and the extension blocks behind it.
    pub(super) fn old(
        header: &[u8; 512],
        extensions: &[[u8; 512]],
        stored: u64,
        limits: &UnpackLimits,
    ) -> Result<Self, UnpackError> {
        let mut numbers = Vec::new();
        let fields =
            std::iter::once(&header[386..482]).chain(extensions.iter().map(|block| &block[..504]));
        for field in fields.flat_map(|fields| fields.chunks_exact(24)) {
            // An empty field ends the list.
            if field[0] == 0 {
                break;
            }
            for part in [&field[..12], &field[12..]] {
                let value = number(part, "sparse map")?;
                numbers.push(
                    u64::try_from(value)
                        .map_err(|_| malformed("a sparse map has a negative number"))?,
                );
            }
        }
        let size = u64::try_from(number(&header[483..495], "size")?)
            .map_err(|_| malformed("negative size"))?;
        Self::new(size, &numbers, stored, limits)
    }

    /// Bytes of the file, holes included.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where one piece after the other goes.
    pub(crate) fn places(&self) -> Places<'_> {
        Places {
            segments: &self.segments,
            done: 0,
        }
    }
}

/// A walk along the map while the data comes.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    segments: &'a [Segment],
    /// Of the first segment.
    done: u64,
}

impl Places<'_> {
    /// Hands each part of the next piece to `write`, with its offset.
    pub(crate) fn each<E>(
        &mut self,
        mut piece: &[u8],
        mut write: impl FnMut(&[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        // The map accounts for all data: there is a segment as long as there is a byte.
        while let (Some(first), false) = (self.segments.first(), piece.is_empty()) {
            let left = first.length - self.done;
            let take = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            write(&piece[..take], first.offset + self.done)?;
            piece = &piece[take..];
            self.done += take as u64;
            if self.done == first.length {
                self.segments = &self.segments[1..];
                self.done = 0;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(size: u64, numbers: &[u64], stored: u64) -> Result<SparseMap, UnpackError> {
        SparseMap::new(size, numbers, stored, &UnpackLimits::default())
    }

    #[test]
    fn pieces_go_where_the_map_says_however_they_are_cut() {
        let map = map(100, &[10, 3, 20, 0, 50, 4, 100, 0], 7).unwrap();
        for cut in 1..=7 {
            let mut places = map.places();
            let mut file = [b'.'; 100];
            for piece in b"abcdefg".chunks(cut) {
                places
                    .each(piece, |part, offset| {
                        let at = usize::try_from(offset).unwrap();
                        file[at..at + part.len()].copy_from_slice(part);
                        Ok::<_, ()>(())
                    })
                    .unwrap();
            }
            assert_eq!((&file[10..13], &file[50..54]), (&b"abc"[..], &b"defg"[..]));
            assert_eq!(file.iter().filter(|byte| **byte == b'.').count(), 93);
        }
    }

    #[test]
    fn maps_that_overlap_overflow_or_do_not_add_up_are_refused() {
        for (size, numbers, stored) in [
            (10, &[0, 5, 4, 1][..], 6),
            (10, &[5, 1, 0, 1], 2),
            (10, &[8, 3], 3),
            (10, &[u64::MAX, 2], 2),
            (10, &[0, 5], 4),
            (10, &[0, 5], 6),
            (10, &[0], 0),
            (1 << 60, &[], 0),
        ] {
            assert!(
                map(size, numbers, stored).is_err(),
                "{size} {numbers:?} {stored}"
            );
        }
        assert_eq!(map(1 << 30, &[], 0).unwrap().size(), 1 << 30);
    }
}
