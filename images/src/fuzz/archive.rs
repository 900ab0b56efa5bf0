//! Targets that read archives: the reader alone, and the whole way into a directory with a world around it.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use rand::rngs::StdRng;

use super::builder::Archive;
use super::canary::Canary;
use super::driver::{Target, behaviour, message};
use super::mutate;
use crate::digest::Digest;
use crate::manifest::Compression;
use crate::unpack::decompress::{Bounds, Chunk};
use crate::unpack::layer::{self, Job, LayerFailure, Unpacked};
use crate::unpack::tar::{Entry, Kind, TarReader};
use crate::unpack::{UnpackError, UnpackLimits};

/// Bounds that an input of a few KiB can reach.
fn limits() -> UnpackLimits {
    UnpackLimits {
        max_entries: 200,
        max_depth: 16,
        max_path_bytes: 1024,
        max_header_bytes: 8 << 10,
        ..UnpackLimits::default()
    }
}

const NAMES: [&str; 25] = [
    "a",
    "b",
    "a/b",
    "a/b/c",
    "b/a",
    "./",
    "/",
    "..",
    "../x",
    "a/../b",
    "/etc/passwd",
    ".wh.a",
    "a/.wh.b",
    ".wh..wh..opq",
    "a/.wh..wh..opq",
    ".wh..wh.plnk",
    ".wh..",
    "OUT",
    "OUT/secret",
    "OUT/folder",
    "../../../outside/secret",
    "a\n",
    "/proc/self/root",
    "..\0",
    "OUT/way/file",
];

/// `OUT` in a name is where the world outside is.
pub(super) fn names(outside: &str) -> Vec<String> {
    NAMES
        .iter()
        .map(|name| name.replace("OUT", outside))
        .collect()
}

pub(super) fn seeds(out: &str) -> Vec<Vec<u8>> {
    vec![
        Archive::new()
            .dir("a")
            .pax("mtime", b"1.5")
            .pax("SCHILY.xattr.user.x", b"y")
            .file("a/file", &[b'x'; 1500])
            .symlink("a/link", "file")
            .hard_link("hard", "a/file")
            .file(".wh.gone", b"")
            .done(),
        Archive::new()
            .symlink("a", out)
            .mode(0o777)
            .owner(7, 7)
            .dir("a")
            .file("a/secret", b"evil")
            .symlink("b", &format!("{out}/secret"))
            .mode(0o6777)
            .file("b", b"evil")
            .done(),
        Archive::new()
            .symlink("a", out)
            .hard_link("b", "a/secret")
            .file("b", b"evil")
            .done(),
        Archive::new()
            .file("a", b"1")
            .dir("a")
            .file("a/.wh..wh..opq", b"")
            .file("a/b", b"2")
            .symlink("a", "b")
            .done(),
        Archive::new()
            .file(".wh.a", b"")
            .file("a/b/c", b"x")
            .device("b", b'6', 0, 0)
            .device("c", b'3', 1, 3)
            .done(),
        Archive::new()
            .gnu_long(b'L', &b"a/".repeat(60))
            .gnu_long(b'K', out.as_bytes())
            .symlink("short", "short")
            .global_pax("comment", b"x")
            .pax("size", b"3")
            .declare(0)
            .file("b", b"abc")
            .done(),
        Archive::new()
            .symlink("a", "b")
            .symlink("b", "..")
            .dir("a/outside")
            .mode(0)
            .owner(1, 1)
            .dir("./")
            .done(),
        Archive::new()
            .file(".wh.a", b"")
            .file("a/.wh.b", b"")
            .file("b", b"")
            .file("b/.wh.c", b"")
            .file("a/b/c", b"")
            .done(),
        Archive::new()
            .dir("a/b")
            .symlink("a/b", out)
            .file("a/b/c", b"x")
            .hard_link("a/b/d", "a/b")
            .done(),
    ]
}

/// Gives its bytes in pieces of given sizes, as a network does.
struct Pieces<'a> {
    bytes: &'a [u8],
    most: usize,
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.bytes[..self.bytes.len().min(self.most)])
    }

    fn consume(&mut self, length: usize) {
        self.bytes = &self.bytes[length..];
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let length = piece.len().min(into.len());
        into[..length].copy_from_slice(&piece[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Entries with their data, and how it ended.
type Reading = (Vec<(Entry, Vec<u8>)>, Result<(), String>);

fn read(archive: &[u8], most: usize) -> Reading {
    let mut reader = TarReader::new(
        Pieces {
            bytes: archive,
            most,
        },
        limits(),
    );
    let mut found = Vec::new();
    let mut all = || -> Result<(), UnpackError> {
        while let Some(entry) = reader.next()? {
            let mut data = Vec::new();
            // As the writer does: only files are asked for their data.
            if entry.kind == Kind::File {
                reader.copy_data(|piece| {
                    data.extend_from_slice(piece);
                    Ok(())
                })?;
            }
            found.push((entry, data));
        }
        assert!(
            reader.next()?.is_none(),
            "an archive that has ended goes on"
        );
        reader.drain()
    };
    let ended = all().map_err(|error| message(&error));
    (found, ended)
}

/// The reader: finds the same in whatever pieces the bytes arrive, and holds no more than its bounds.
pub(super) struct TarTarget;

impl Target for TarTarget {
    const MAX_INPUT: usize = 64 << 10;

    fn new() -> Self {
        Self
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        seeds("/outside")
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        let names = names("/outside");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        mutate::archive(input, other, &names, rng);
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let whole = read(input, usize::MAX);
        for most in [1, 511, 512, 700] {
            assert_eq!(
                read(input, most),
                whole,
                "in pieces of {most} bytes it reads differently"
            );
        }
        let (found, ended) = &whole;
        let mut data = 0;
        for (entry, content) in found {
            let held = entry.path.len()
                + entry.link.len()
                + entry
                    .xattrs
                    .iter()
                    .map(|(name, value)| name.len() + value.len())
                    .sum::<usize>();
            assert!(
                held < 17 * (8 << 10) + 600,
                "{held} bytes of headers are held for one entry"
            );
            assert!(!entry.path.contains(&0) && entry.uid != u32::MAX && entry.gid != u32::MAX);
            assert!(entry.mode <= 0o7777 && entry.mtime.nanos < 1_000_000_000);
            data += content.len();
        }
        assert!(data <= input.len(), "more data was found than there is");
        let kinds: Vec<Kind> = found.iter().map(|(entry, _)| entry.kind).take(6).collect();
        behaviour(&format!("{kinds:?}{ended:?}"))
    }
}

/// Unpacks like a pull does, from chunks of `most` bytes.
pub(super) fn unpack(
    directory: PathBuf,
    bytes: &[u8],
    compression: Compression,
    diff_id: Digest,
    digest: Digest,
    most: usize,
) -> Result<Unpacked, LayerFailure> {
    let mut chunks: VecDeque<Chunk> = bytes
        .chunks(most.max(1))
        .map(|piece| Chunk::Data(Bytes::copy_from_slice(piece)))
        .collect();
    chunks.push_back(Chunk::End);
    let (sender, receiver) = tokio::sync::mpsc::channel(chunks.len());
    for chunk in chunks {
        sender
            .try_send(chunk)
            .expect("the channel has room for all");
    }
    drop(sender);
    let job = Job {
        directory,
        digest,
        diff_id,
        compression,
        bounds: Bounds {
            size: bytes.len() as u64,
            max_ratio: 200,
            image_bytes: Arc::new(AtomicU64::new(0)),
            max_image_bytes: 4 << 20,
        },
        limits: limits(),
    };
    layer::unpack(receiver, &job)
}

/// The whole way: whatever an archive holds, the world outside of the layer's directory stays as it is.
pub(super) struct UnpackTarget {
    canary: Canary,
    /// An accepted layer, which the next ones lie upon.
    below: Option<PathBuf>,
    next: u64,
    folder: tempfile::TempDir,
}

impl UnpackTarget {
    fn fresh(&mut self) -> PathBuf {
        self.next += 1;
        let path = self.folder.path().join(format!("layer-{}", self.next));
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .unwrap();
        path
    }
}

impl Target for UnpackTarget {
    const MAX_INPUT: usize = 64 << 10;
    const NEEDS_ROOT: bool = true;

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            canary: Canary::new(folder.path()),
            below: None,
            next: 0,
            folder,
        }
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        seeds(self.canary.path())
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        let names = names(self.canary.path());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        mutate::archive(input, other, &names, rng);
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let directory = self.fresh();
        let digest = Digest::of(input);
        let result = unpack(
            directory.clone(),
            input,
            Compression::None,
            digest,
            digest,
            700,
        );
        let told = match &result {
            Ok(unpacked) => {
                if let Some(below) = &self.below {
                    layer::inherit(&directory, &unpacked.implied, std::slice::from_ref(below))
                        .unwrap();
                }
                format!(
                    "good {} {}",
                    "x".repeat(unpacked.implied.len().min(9)),
                    unpacked.opaque_root
                )
            }
            Err(LayerFailure::Unpack(UnpackError::Io {
                operation, source, ..
            })) => {
                // What the kernel refuses must be of the archive's making, never a bound of ours that was missed.
                format!("{operation} {:?}", source.kind())
            }
            Err(LayerFailure::Unpack(error)) => message(&error),
            Err(failure) => panic!("the digests are right, but: {failure:?}"),
        };
        let files = walk(&directory);
        assert!(
            files <= limits().max_entries + limits().max_depth as u64,
            "{files} files were made"
        );
        self.canary.check("an archive");
        if result.is_ok() {
            if let Some(old) = self.below.replace(directory) {
                std::fs::remove_dir_all(old).unwrap();
            }
        } else {
            std::fs::remove_dir_all(directory).unwrap();
        }
        behaviour(&told)
    }
}

/// How many files and directories there are below a folder.
pub(super) fn walk(root: &std::path::Path) -> u64 {
    let mut todo = vec![root.to_path_buf()];
    let mut found = 0;
    while let Some(path) = todo.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            found += 1;
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    found
}
