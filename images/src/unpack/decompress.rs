//! The first half of unpacking, on a thread of its own: take compressed bytes as they arrive, hash, inflate, hash again.
//!
//! Buffers go round in a ring of fixed size, so that memory stays bounded and the download waits when the disk is slow.
//! Both digests are computed here: of what came (the layer's digest) and of what it inflates to (its diff id).

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use bytes::{Buf, Bytes};
use sha2::{Digest as _, Sha256};

use super::UnpackError;
use crate::digest::Digest;
use crate::manifest::Compression;

/// Size of one buffer of inflated bytes, and how many of them a layer may have in flight.
pub(crate) const BUFFER: usize = 256 << 10;
pub(crate) const BUFFERS: usize = 4;
/// Unpacked bytes that are free of the bound on the ratio.
const RATIO_FREE: u64 = 256 << 20;
/// After an error the rest of the layer is read to tell damage from malice, but no more than this.
const MAX_REST: u64 = 64 << 20;

/// What comes down the channel from the download.
#[derive(Debug)]
pub(crate) enum Chunk {
    Data(Bytes),
    /// The whole blob was sent. A channel that closes without it was cut.
    End,
}

/// What goes up to the archive's reader.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Vec<u8>, usize),
    Fail(UnpackError),
}

/// The bounds of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Compressed bytes declared.
    pub(crate) size: u64,
    pub(crate) max_ratio: u64,
    /// What the whole image has inflated to so far; its layers share it.
    pub(crate) image_bytes: Arc<AtomicU64>,
    pub(crate) max_image_bytes: u64,
}

/// What the first half found.
#[derive(Debug)]
pub(crate) struct Pumped {
    /// The digest of the compressed bytes; none if they were cut short.
    pub(crate) digest: Option<Digest>,
    pub(crate) diff_id: Digest,
    pub(crate) unpacked: u64,
}

/// Reads the channel from the download as a stream and hashes it on the way.
pub(crate) struct ChunkReader {
    receiver: tokio::sync::mpsc::Receiver<Chunk>,
    current: Bytes,
    hasher: Sha256,
    seen: u64,
    ended: bool,
}

impl ChunkReader {
    pub(crate) fn new(receiver: tokio::sync::mpsc::Receiver<Chunk>) -> Self {
        Self {
            receiver,
            current: Bytes::new(),
            hasher: Sha256::new(),
            seen: 0,
            ended: false,
        }
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Chunk::Data(data)) => {
                    self.hasher.update(&data);
                    self.seen += data.len() as u64;
                    self.current = data;
                }
                Some(Chunk::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the download was cut",
                    ));
                }
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, length: usize) {
        self.current.advance(length);
    }
}

impl Read for ChunkReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Inflates everything from `reader` and sends it to `up`; used buffers come back through `back`.
pub(crate) fn pump(
    reader: ChunkReader,
    compression: Compression,
    bounds: &Bounds,
    up: SyncSender<Piece>,
    back: &Receiver<Vec<u8>>,
) -> Pumped {
    let mut diff = Sha256::new();
    let mut unpacked = 0;
    let mut source = match Source::new(reader, compression) {
        Ok(source) => source,
        Err((reader, error)) => {
            let _ = up.send(Piece::Fail(UnpackError::Decompress(error)));
            return Pumped {
                digest: finish(*reader, bounds),
                diff_id: Digest::from_hasher(diff),
                unpacked,
            };
        }
    };
    loop {
        let mut buffer = back.try_recv().unwrap_or_else(|_| vec![0; BUFFER]);
        let filled = match fill(&mut source, &mut buffer) {
            Ok(0) => break,
            Ok(filled) => filled,
            Err(error) => {
                let _ = up.send(Piece::Fail(UnpackError::Decompress(error)));
                break;
            }
        };
        diff.update(&buffer[..filled]);
        unpacked += filled as u64;
        if let Some(error) = passed_bound(unpacked, filled as u64, bounds) {
            let _ = up.send(Piece::Fail(error));
            break;
        }
        // The reader went away: it has refused the archive.
        if up.send(Piece::Data(buffer, filled)).is_err() {
            break;
        }
    }
    // The archive's end is the channel's: tell it now, the rest of the stream is only hashed.
    drop(up);
    Pumped {
        digest: finish(source.into_inner(), bounds),
        diff_id: Digest::from_hasher(diff),
        unpacked,
    }
}

fn passed_bound(unpacked: u64, added: u64, bounds: &Bounds) -> Option<UnpackError> {
    let image = bounds.image_bytes.fetch_add(added, Ordering::Relaxed) + added;
    if image > bounds.max_image_bytes {
        return Some(UnpackError::TooMuch {
            what: "unpacked bytes in the image",
            limit: bounds.max_image_bytes,
        });
    }
    if unpacked > RATIO_FREE.max(bounds.size.saturating_mul(bounds.max_ratio)) {
        return Some(UnpackError::TooMuch {
            what: "unpacked bytes for each compressed byte",
            limit: bounds.max_ratio,
        });
    }
    None
}

/// Reads the rest, so that damaged bytes are told apart from an evil archive with an honest digest.
fn finish(mut reader: ChunkReader, bounds: &Bounds) -> Option<Digest> {
    loop {
        let length = reader.fill_buf().ok()?.len();
        if length == 0 {
            return Some(Digest::from_hasher(reader.hasher));
        }
        if bounds.size.saturating_sub(reader.seen) > MAX_REST {
            return None;
        }
        reader.consume(length);
    }
}

/// Reads until the buffer is full or the stream ends: large writes cost fewer system calls.
fn fill(source: &mut Source, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

enum Source {
    Plain(ChunkReader),
    Gzip(Box<flate2::bufread::MultiGzDecoder<ChunkReader>>),
    Zstd(zstd::stream::read::Decoder<'static, ChunkReader>),
}

impl Source {
    fn new(
        reader: ChunkReader,
        compression: Compression,
    ) -> Result<Self, (Box<ChunkReader>, io::Error)> {
        Ok(match compression {
            Compression::None => Self::Plain(reader),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader))),
            Compression::Zstd => {
                // Making the decoder only allocates; it fails when memory is out.
                let mut decoder = match zstd::stream::read::Decoder::with_buffer(reader) {
                    Ok(decoder) => decoder,
                    Err(error) => {
                        return Err((
                            Box::new(ChunkReader::new(tokio::sync::mpsc::channel(1).1)),
                            error,
                        ));
                    }
                };
                // 128 MiB of window, zstd's own limit without --long: a frame cannot ask for gigabytes.
                if let Err(error) = decoder.window_log_max(27) {
                    return Err((Box::new(decoder.finish()), error));
                }
                Self::Zstd(decoder)
            }
        })
    }

    fn into_inner(self) -> ChunkReader {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(into),
            Self::Gzip(decoder) => decoder.read(into),
            Self::Zstd(decoder) => decoder.read(into),
        }
    }
}

/// Reads the pieces as a stream; an error in it carries the `UnpackError`.
#[derive(Debug)]
pub(crate) struct PieceReader {
    pieces: Receiver<Piece>,
    back: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    end: usize,
}

impl PieceReader {
    pub(crate) fn new(pieces: Receiver<Piece>, back: SyncSender<Vec<u8>>) -> Self {
        Self {
            pieces,
            back,
            current: Vec::new(),
            at: 0,
            end: 0,
        }
    }
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            match self.pieces.recv() {
                Ok(Piece::Data(data, end)) => {
                    let used = std::mem::replace(&mut self.current, data);
                    (self.at, self.end) = (0, end);
                    if !used.is_empty() {
                        let _ = self.back.try_send(used);
                    }
                }
                Ok(Piece::Fail(error)) => return Err(io::Error::other(error)),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.current[self.at..self.end])
    }

    fn consume(&mut self, length: usize) {
        self.at = (self.at + length).min(self.end);
    }
}

impl Read for PieceReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
