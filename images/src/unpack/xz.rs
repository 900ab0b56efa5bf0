//! Reads xz streams, one after the other as `xz -dc` does, within a bound of memory.
//!
//! A block names the dictionary that its reader must hold, up to 4 GiB. More than zstd may ask for is refused before any
//! of it is allocated.

use std::io::{self, Read};

use lzma_rust2::XzReader;

use super::UnpackError;

/// As much as zstd's window: twice what `xz -9` makes.
const MAX_DICTIONARY_MIB: u32 = 128;
/// In KiB, for what the decoder has beside the dictionary.
const OWN_KIB: u32 = 1024;

/// What some xz streams inflate to.
pub(crate) struct XzDecoder<R: Read>(XzReader<R>);

impl<R: Read> XzDecoder<R> {
    /// `inner` is asked for single bytes, so it has a buffer.
    pub(crate) fn new(inner: R) -> Self {
        let limit = MAX_DICTIONARY_MIB * 1024 + OWN_KIB;
        Self(XzReader::new_mem_limit(inner, true, limit))
    }

    /// What it reads from.
    pub(crate) fn get_mut(&mut self) -> &mut R {
        self.0.inner_mut()
    }
}

impl<R: Read> Read for XzDecoder<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| {
            if error.kind() != io::ErrorKind::OutOfMemory {
                return error;
            }
            io::Error::other(UnpackError::TooMuch {
                what: "MiB of xz dictionary",
                limit: u64::from(MAX_DICTIONARY_MIB),
            })
        })
    }
}
