//! What cannot be read by position, a pipe or a compressed archive, becomes an unnamed file in the store's `tmp` first.
//!
//! Bounded like a layer: by bytes in all and by bytes for each compressed one. The file has no name, so that it is gone
//! with the descriptor, whatever happens.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use bzip2::bufread::MultiBzDecoder;

use super::ImportError;
use crate::unpack::xz::XzDecoder;

/// Unpacked bytes that are free of the bound on the ratio.
const RATIO_FREE: u64 = 256 << 20;
/// Bytes that tell how something is compressed.
pub(crate) const MAGIC: usize = 6;

/// What an archive may become.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpoolLimits {
    pub(crate) max_bytes: u64,
    pub(crate) max_ratio: u64,
}

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Bzip2,
    Gzip,
    Xz,
    Zstd,
}

/// How something that begins like this is compressed (pure).
pub(crate) fn packing(head: &[u8]) -> Packing {
    match head {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Packing::Xz,
        [b'B', b'Z', b'h', ..] => Packing::Bzip2,
        _ => Packing::None,
    }
}

/// Reads all of `input` into a file without a name in `folder`.
pub(crate) fn spool(
    origin: &str,
    mut input: impl Read,
    folder: &Path,
    limits: SpoolLimits,
) -> Result<File, ImportError> {
    let failed = |operation| {
        move |source| ImportError::Io {
            operation,
            what: origin.into(),
            source,
        }
    };
    let mut head = Vec::new();
    (&mut input)
        .take(MAGIC as u64)
        .read_to_end(&mut head)
        .map_err(failed("read"))?;
    let packing = packing(&head);
    let mut counted = Counted {
        inner: head.as_slice().chain(input),
        count: 0,
    };
    let mut file = tempfile::tempfile_in(folder).map_err(failed("make room for"))?;
    let spooled = match packing {
        Packing::None => copy(&mut counted, |reader| reader, &mut file, limits),
        Packing::Bzip2 => copy(
            &mut MultiBzDecoder::new(BufReader::new(counted)),
            |decoder| decoder.get_mut().get_mut(),
            &mut file,
            limits,
        ),
        Packing::Xz => copy(
            &mut XzDecoder::new(BufReader::new(counted)),
            |decoder| decoder.get_mut().get_mut(),
            &mut file,
            limits,
        ),
        Packing::Gzip => copy(
            &mut flate2::read::MultiGzDecoder::new(counted),
            flate2::read::MultiGzDecoder::get_mut,
            &mut file,
            limits,
        ),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(counted).map_err(failed("read"))?;
            // As for layers: a frame cannot ask for gigabytes of window.
            decoder.window_log_max(27).map_err(failed("read"))?;
            copy(
                &mut decoder,
                |decoder| decoder.get_mut().get_mut(),
                &mut file,
                limits,
            )
        }
    };
    spooled.map_err(|(operation, source)| failed(operation)(source))?;
    Ok(file)
}

fn copy<D: Read, R>(
    decoder: &mut D,
    compressed: impl Fn(&mut D) -> &mut Counted<R>,
    file: &mut File,
    limits: SpoolLimits,
) -> Result<(), (&'static str, io::Error)> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0u64;
    loop {
        let length = match decoder.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(("read", e)),
        };
        total += length as u64;
        let by_ratio = compressed(decoder).count.saturating_mul(limits.max_ratio);
        let limit = limits.max_bytes.min(by_ratio.max(RATIO_FREE));
        if total > limit {
            let problem = format!("it inflates to more than the {limit} bytes allowed");
            return Err(("read", io::Error::new(io::ErrorKind::InvalidData, problem)));
        }
        file.write_all(&buffer[..length])
            .map_err(|e| ("write to the store what is in", e))?;
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(into)?;
        self.count += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;

    const LIMITS: SpoolLimits = SpoolLimits {
        max_bytes: 1 << 30,
        max_ratio: 10,
    };

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(0);
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn spooled(input: &[u8], limits: SpoolLimits) -> Result<Vec<u8>, ImportError> {
        let folder = tempfile::tempdir().unwrap();
        let mut file = spool("x.tar", input, folder.path(), limits)?;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    #[test]
    fn every_compression_gives_the_same_bytes() {
        let plain = b"what an archive holds".repeat(1000);
        let packed = zstd::encode_all(plain.as_slice(), 3).unwrap();
        for input in [
            plain.clone(),
            bzip2(&plain),
            gzip(&plain),
            xz(&plain),
            packed,
        ] {
            assert_eq!(spooled(&input, LIMITS).unwrap(), plain);
        }
        assert_eq!(spooled(b"", LIMITS).unwrap(), b"");
    }

    #[test]
    fn bombs_and_damaged_archives_are_refused() {
        let small = SpoolLimits {
            max_bytes: 1000,
            max_ratio: 10,
        };
        let zeros = [0; 2000];
        for input in [zeros.to_vec(), bzip2(&zeros), gzip(&zeros), xz(&zeros)] {
            let error = spooled(&input, small).unwrap_err();
            assert!(
                std::error::Error::source(&error)
                    .is_some_and(|cause| cause.to_string().contains("1000 bytes")),
                "{error:?}"
            );
        }
        for damaged in [&b"\xfd7zXZ\0rest"[..], b"BZh9rest", b"\x1f\x8brest"] {
            let error = spooled(damaged, LIMITS).unwrap_err();
            assert!(error.to_string().contains("could not read"), "{error}");
        }
    }
}
