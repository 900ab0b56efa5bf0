//! The compressed stream: gzip and zstd that are cut, damaged, glued together.

use std::io::Write;

use rand::Rng;
use rand::rngs::StdRng;

use super::archive::unpack;
use super::builder::Archive;
use super::driver::{Target, behaviour};
use super::mutate;
use crate::digest::Digest;
use crate::manifest::Compression;
use crate::unpack::layer::LayerFailure;

/// Damage is told as a wrong digest, an honest digest does not make a bad stream good, and all of it ends.
///
/// The first byte of an input tells how the rest is compressed.
pub(super) struct StreamTarget {
    folder: tempfile::TempDir,
    next: u64,
    archive: Vec<u8>,
}

impl Target for StreamTarget {
    const MAX_INPUT: usize = 64 << 10;
    const NEEDS_ROOT: bool = true;

    fn new() -> Self {
        let archive = Archive::new()
            .dir("d")
            .file("d/f", &[b'x'; 5000])
            .file("zeros", &[0; 100_000])
            .done();
        Self {
            folder: tempfile::tempdir().unwrap(),
            next: 0,
            archive,
        }
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let gzip = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
        let (first, second) = self.archive.split_at(3000);
        vec![
            [b"g", gzip(&self.archive).as_slice()].concat(),
            [b"z", zstd(&self.archive).as_slice()].concat(),
            [b"g", gzip(first).as_slice(), &gzip(second)].concat(),
            [b"z", zstd(first).as_slice(), &zstd(second)].concat(),
            [&b"p"[..], &self.archive[..2048]].concat(),
            // 64 MiB of zeros: beyond the bound of this target.
            [b"z", zstd(&vec![0; 64 << 20]).as_slice()].concat(),
        ]
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        let frame = "\u{1f}";
        mutate::text(input, other, &[frame, "\0\0\0\0", "P*M\u{18}"], rng);
        if rng.random_ratio(1, 2) && !input.is_empty() {
            let kinds = b"gzp";
            if !kinds.contains(&input[0]) {
                input.insert(0, kinds[rng.random_range(0..3)]);
            }
        }
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (kind, bytes) = input
            .split_first()
            .map_or((b'p', input), |(kind, rest)| (*kind, rest));
        let compression = match kind {
            b'g' => Compression::Gzip,
            b'z' => Compression::Zstd,
            _ => Compression::None,
        };
        let honest = Digest::of(bytes);
        let mut told = String::new();
        for digest in [honest, Digest::of(b"another")] {
            self.next += 1;
            let directory = self.folder.path().join(self.next.to_string());
            std::fs::create_dir(&directory).unwrap();
            let result = unpack(
                directory.clone(),
                bytes,
                compression,
                Digest::of(&self.archive),
                digest,
                1000,
            );
            std::fs::remove_dir_all(&directory).unwrap();
            told += &match result {
                Ok(unpacked) => {
                    assert_eq!(digest, honest, "bytes of another digest were accepted");
                    assert_eq!(
                        unpacked.bytes,
                        self.archive.len() as u64,
                        "another archive has this diff id"
                    );
                    "good".into()
                }
                Err(LayerFailure::WrongDigest { actual }) => {
                    assert!(
                        actual == honest && digest != honest,
                        "{actual} is not what came"
                    );
                    "wrong digest".into()
                }
                Err(LayerFailure::WrongDiffId { .. }) => {
                    assert_eq!(digest, honest);
                    "wrong diff id".to_string()
                }
                Err(LayerFailure::Unpack(error)) => {
                    assert_eq!(
                        digest, honest,
                        "damage is told as the archive's own fault: {error}"
                    );
                    format!(
                        "{error}{:?}",
                        std::error::Error::source(&error).map(ToString::to_string)
                    )
                }
                Err(LayerFailure::Cut) => panic!("nothing was cut"),
            };
        }
        behaviour(&told)
    }
}
