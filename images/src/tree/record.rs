//! The list of a layer's files on the disk, `layers/HEX/tree`: written once, compared with later.
//!
//! ```text
//! mezzo-tree 1
//! d 0755 0 0 …             a line per file, in the order of the walk
//! end ENTRIES DISK_BYTES SHA256
//! ```
//!
//! The last line tells what the layer takes on the disk, and the digest of all lines before it, by which a damaged list is
//! told from a damaged layer. Both directions stream: memory does not grow with the layer.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use sha2::{Digest as _, Sha256};

use super::line::{difference, line, order, path};
use super::walk::{Found, What, walk};
use crate::digest::Digest;
use crate::unpack::{UnpackError, printable};

const HEADER: &str = "mezzo-tree 1";
const PIECE: usize = 256 << 10;
/// Longer lines are no lines of ours: two paths of 4095 bytes, each byte escaped, and the rest.
const MAX_LINE: u64 = 32 << 10;
/// Problems that are told one by one.
const MAX_TOLD: usize = 20;

/// What is known of a layer's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) entries: u64,
    /// Bytes that the files take on the disk.
    pub(crate) disk_bytes: u64,
}

/// Why a list could not be made.
#[derive(Debug)]
pub(crate) enum TreeError {
    /// A file of the layer could not be read.
    Layer(UnpackError),
    /// The list could not be written or read.
    List(io::Error),
    /// Told to stop.
    Stopped,
}

impl From<UnpackError> for TreeError {
    fn from(error: UnpackError) -> Self {
        Self::Layer(error)
    }
}

impl From<io::Error> for TreeError {
    fn from(error: io::Error) -> Self {
        Self::List(error)
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) entries: u64,
    /// Content read and hashed.
    pub(crate) bytes: u64,
    /// The first few differences.
    pub(crate) problems: Vec<String>,
    /// How many there are in all.
    pub(crate) n_problems: u64,
}

impl Compared {
    fn problem(&mut self, problem: impl FnOnce() -> String) {
        self.n_problems += 1;
        if self.problems.len() < MAX_TOLD {
            self.problems.push(problem());
        }
    }
}

/// Lists the files below `root` to `to`. `pause` is called every now and then; told `false`, the work ends.
pub(crate) fn write(
    root: OwnedFd,
    to: &mut File,
    pause: &mut dyn FnMut() -> bool,
) -> Result<Recorded, TreeError> {
    let mut out = BufWriter::new(to);
    let mut hasher = Sha256::new();
    let mut recorded = Recorded {
        entries: 0,
        disk_bytes: 0,
    };
    let mut put = |out: &mut BufWriter<&mut File>, text: &str| -> io::Result<()> {
        for part in [text.as_bytes(), b"\n"] {
            hasher.update(part);
            out.write_all(part)?;
        }
        Ok(())
    };
    put(&mut out, HEADER)?;
    walk::<TreeError>(root, &mut |found| {
        recorded.entries += 1;
        recorded.disk_bytes += disk_bytes(&found);
        let mut read = 0;
        let line = described(&found, &mut read, pause)?;
        Ok(put(&mut out, &line)?)
    })?;
    let digest = Digest::from_hasher(hasher);
    let Recorded {
        entries,
        disk_bytes,
    } = recorded;
    writeln!(out, "end {entries} {disk_bytes} {}", digest.hex())?;
    out.flush()?;
    Ok(recorded)
}

/// Compares the files below `root` with a list. `Err` is for what cannot be read; differences are in the result.
pub(crate) fn compare(root: OwnedFd, list: File) -> Result<Compared, TreeError> {
    let mut list = Lines::open(list)?;
    let mut compared = Compared::default();
    walk::<TreeError>(root, &mut |found| {
        compared.entries += 1;
        let mut read = 0;
        let now = described(&found, &mut read, &mut || true)?;
        compared.bytes += read;
        let place = path(&now).unwrap_or(".").to_string();
        loop {
            let next = list.peek()?;
            match next.map(|recorded| (order(path(recorded).unwrap_or("."), &place), recorded)) {
                Some((std::cmp::Ordering::Less, recorded)) => {
                    let missing = path(recorded).unwrap_or(".").to_string();
                    compared.problem(|| format!("{missing} is missing"));
                    list.consume();
                }
                Some((std::cmp::Ordering::Equal, recorded)) => {
                    if recorded != now {
                        let differs = difference(recorded, &now);
                        compared.problem(|| format!("{place} has {differs}"));
                    }
                    list.consume();
                    return Ok(());
                }
                Some((std::cmp::Ordering::Greater, _)) | None => {
                    compared.problem(|| format!("{place} should not be there"));
                    return Ok(());
                }
            }
        }
    })?;
    while let Some(recorded) = list.peek()? {
        let missing = path(recorded).unwrap_or(".").to_string();
        compared.problem(|| format!("{missing} is missing"));
        list.consume();
    }
    if !list.honest {
        // What was said above may come from the list.
        compared.problem(|| "the list of its files is damaged".into());
    }
    Ok(compared)
}

/// Reads the last line of a list.
pub(crate) fn summary(list: &mut File) -> io::Result<Recorded> {
    let length = list.metadata()?.len();
    list.seek(SeekFrom::Start(length.saturating_sub(200)))?;
    let mut tail = Vec::new();
    list.take(200).read_to_end(&mut tail)?;
    let text = String::from_utf8_lossy(&tail);
    let last = text.lines().last().unwrap_or_default();
    end(last)
        .map(|(recorded, _)| recorded)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has no end"))
}

fn end(line: &str) -> Option<(Recorded, Digest)> {
    let mut words = line.strip_prefix("end ")?.split(' ');
    let entries = words.next()?.parse().ok()?;
    let disk_bytes = words.next()?.parse().ok()?;
    let digest = Digest::from_hex(words.next()?).ok()?;
    let recorded = Recorded {
        entries,
        disk_bytes,
    };
    words.next().is_none().then_some((recorded, digest))
}

/// Counted once for a file of several names.
fn disk_bytes(found: &Found<'_>) -> u64 {
    if matches!(found.what, What::HardLink(_)) {
        return 0;
    }
    u64::try_from(found.stat.st_blocks).unwrap_or(0) * 512
}

fn described(
    found: &Found<'_>,
    bytes: &mut u64,
    pause: &mut dyn FnMut() -> bool,
) -> Result<String, TreeError> {
    if !pause() {
        return Err(TreeError::Stopped);
    }
    let What::File(file) = &found.what else {
        return Ok(line(found, None));
    };
    let io = |source| UnpackError::Io {
        operation: "read",
        path: printable(found.path),
        source,
    };
    let mut file = file;
    let mut hasher = Sha256::new();
    let size = usize::try_from(found.stat.st_size).unwrap_or(PIECE);
    let mut buffer = vec![0; size.clamp(1, PIECE)];
    loop {
        let length = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(io(e).into()),
        };
        hasher.update(&buffer[..length]);
        *bytes += length as u64;
        if !pause() {
            return Err(TreeError::Stopped);
        }
    }
    Ok(line(found, Some(Digest::from_hasher(hasher))))
}

/// The lines of a list between its header and its end.
struct Lines {
    reader: BufReader<File>,
    hasher: Sha256,
    current: Option<String>,
    ended: bool,
    /// So far it is what was written.
    honest: bool,
}

impl Lines {
    fn open(file: File) -> io::Result<Self> {
        let mut lines = Self {
            reader: BufReader::new(file),
            hasher: Sha256::new(),
            current: None,
            ended: false,
            honest: true,
        };
        if lines.read()?.as_deref() != Some(HEADER) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the list of its files is of another format",
            ));
        }
        Ok(lines)
    }

    fn peek(&mut self) -> io::Result<Option<&str>> {
        if self.current.is_none() && !self.ended {
            let hasher = self.hasher.clone();
            match self.read()? {
                Some(line) if line.starts_with("end ") => {
                    self.ended = true;
                    let digest = Digest::from_hasher(hasher);
                    self.honest = end(&line).is_some_and(|(_, told)| told == digest);
                }
                Some(line) => self.current = Some(line),
                None => {
                    self.ended = true;
                    self.honest = false;
                }
            }
        }
        Ok(self.current.as_deref())
    }

    fn consume(&mut self) {
        self.current = None;
    }

    fn read(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        (&mut self.reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.hasher.update(&bytes);
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
