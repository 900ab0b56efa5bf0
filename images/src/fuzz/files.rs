//! Zip files put into a directory with a world around it.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::archive::{names, walk};
use super::canary::Canary;
use super::driver::{Target, behaviour, message};
use super::mutate;
use crate::files::tests::zip;
use crate::files::{ArchiveFormat, FileBounds, FileFolder};
use crate::unpack::UnpackError;

const MOST_BYTES: u64 = 1 << 20;
const MOST_ENTRIES: u64 = 50;
/// Of a regular file, a directory, a symlink, with set-id bits, a device.
const MODES: [u32; 6] = [0, 0o100_644, 0o040_755, 0o120_777, 0o104_777, 0o020_600];

/// Whatever a zip file holds, no more than its bounds is written, and the world outside stays as it is.
pub(super) struct ZipTarget {
    canary: Canary,
    folder: tempfile::TempDir,
}

impl Target for ZipTarget {
    const MAX_INPUT: usize = 64 << 10;

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            canary: Canary::new(folder.path()),
            folder,
        }
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let out = self.canary.path().to_owned();
        vec![
            zip(&[]),
            zip(&[
                ("a/", 0o040_755, b"", false),
                ("a/b", 0o100_644, &[b'x'; 3000], true),
                ("c", 0, b"words", false),
            ]),
            zip(&[
                ("a", 0o120_777, out.as_bytes(), false),
                ("a/secret", 0o100_644, b"evil", true),
            ]),
        ]
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        let names = names(self.canary.path());
        match rng.random_range(0..3) {
            // In place, so that offsets stay right and inputs get deep.
            0 if !input.is_empty() => {
                let at = rng.random_range(0..input.len());
                input[at] = rng.random();
            }
            1 => {
                let words: Vec<&str> = names.iter().map(String::as_str).collect();
                mutate::text(input, other, &words, rng);
            }
            _ => {
                let n = rng.random_range(0..6);
                let members: Vec<_> = (0..n)
                    .map(|_| {
                        let name = names.choose(rng).expect("some");
                        let data = names.choose(rng).expect("some");
                        let mode = *MODES.choose(rng).expect("some");
                        (name.as_str(), mode, data.as_bytes(), rng.random())
                    })
                    .collect();
                *input = zip(&members);
            }
        }
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let into = self.folder.path().join("into");
        std::fs::create_dir(&into).unwrap();
        let mut archive: File = tempfile::tempfile_in(self.folder.path()).unwrap();
        archive.write_all(input).unwrap();
        let bounds = FileBounds {
            max_bytes: MOST_BYTES,
            max_entries: MOST_ENTRIES,
            stop: Arc::default(),
        };
        let mut folder = FileFolder::open(&into, bounds).unwrap();
        let done = folder.unpack(ArchiveFormat::Zip, &archive);
        let told = match done.and_then(|()| folder.finish()) {
            Ok(()) => "good".to_owned(),
            Err(UnpackError::Io {
                operation, source, ..
            }) => format!("{operation} {:?}", source.kind()),
            Err(error) => message(&error),
        };
        let files = walk(&into);
        // Directories above them are made, and are not entries.
        assert!(files <= MOST_ENTRIES * 16, "{files} files were made");
        self.canary.check("a zip file");
        std::fs::remove_dir_all(&into).unwrap();
        behaviour(&format!("{told}{}", "x".repeat(files.min(5) as usize)))
    }
}
