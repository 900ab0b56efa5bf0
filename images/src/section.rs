//! A stretch of a file, read by position: a layer that lies in a temporary file or in the middle of an archive.
//!
//! Several may be read from one descriptor at once, because nobody moves its offset. What is read is checked by whoever
//! knows its digest; a file that becomes shorter meanwhile is an error here.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

/// What one read takes, and so the memory that a stream holds.
const PIECE: u64 = 1 << 20;

/// `size` bytes of a file from `offset` on.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    file: Arc<File>,
    offset: u64,
    size: u64,
}

impl Section {
    pub(crate) fn new(file: Arc<File>, offset: u64, size: u64) -> Self {
        Self { file, offset, size }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The first bytes, up to `wanted` of them.
    pub(crate) fn head(&self, wanted: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.reader().take(wanted as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    /// All of it, if that is not more than `limit`.
    pub(crate) fn read_all(&self, limit: u64) -> io::Result<Vec<u8>> {
        if self.size > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it has {} bytes, more than the {limit} allowed", self.size),
            ));
        }
        let mut bytes = vec![0; usize::try_from(self.size).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes)
    }

    pub(crate) fn reader(&self) -> SectionReader<'_> {
        SectionReader {
            section: self,
            at: 0,
        }
    }

    /// The piece that begins `at` bytes into it; empty at the end.
    pub(crate) async fn piece(&self, at: u64) -> io::Result<Bytes> {
        let length = self.size.saturating_sub(at).min(PIECE);
        let (file, from) = (Arc::clone(&self.file), self.offset + at);
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            file.read_exact_at(&mut piece, from)
                .map(|()| Bytes::from(piece))
        });
        read.await.map_err(io::Error::other)?
    }

    /// Hands it to `sink`, piece by piece, until that wants no more.
    pub(crate) async fn stream<F, Fut>(&self, mut sink: F) -> io::Result<()>
    where
        F: FnMut(Bytes) -> Fut,
        Fut: Future<Output = bool>,
    {
        let mut at = 0;
        while at < self.size {
            let piece = self.piece(at).await?;
            at += piece.len() as u64;
            if !sink(piece).await {
                break;
            }
        }
        Ok(())
    }
}

/// Reads a section from its beginning.
#[derive(Debug)]
pub(crate) struct SectionReader<'s> {
    section: &'s Section,
    at: u64,
}

impl Read for SectionReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.section.size - self.at;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let from = self.section.offset + self.at;
        let length = self.section.file.read_at(&mut into[..most], from)?;
        if length == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_section_gives_its_own_bytes_and_no_others() {
        let section = Section::new(file(b"0123456789"), 2, 5);
        assert_eq!(section.read_all(5).unwrap(), b"23456");
        assert_eq!(section.head(3).unwrap(), b"234");
        assert!(section.read_all(4).is_err());
        let mut read = Vec::new();
        section.reader().read_to_end(&mut read).unwrap();
        assert_eq!(read, b"23456");
        let mut streamed = Vec::new();
        section
            .stream(|piece| {
                streamed.extend_from_slice(&piece);
                async { true }
            })
            .await
            .unwrap();
        assert_eq!(streamed, b"23456");
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_an_error() {
        let section = Section::new(file(b"0123"), 2, 5);
        assert!(section.read_all(5).is_err());
        assert!(section.reader().read_to_end(&mut Vec::new()).is_err());
        assert!(section.stream(|_| async { true }).await.is_err());
    }
}
