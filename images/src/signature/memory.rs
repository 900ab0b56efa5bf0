//! What was verified, on the disk: so that an image that is here starts when its registry is down.
//!
//! One small file per repository and manifest: which key vouched for it. It counts as long as the policy still names
//! that key for the repository; without it the registry is asked again. A file that cannot be read says nothing.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Verified;
use super::key::PublicKey;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::content::{Layout, read_bounded};

/// Version 1 is the first; a file of another one is as good as none.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    repository: String,
    manifest: Digest,
    signed: Digest,
    key: Digest,
}

/// The folder `signatures` of a store. Blocks.
#[derive(Debug)]
pub(crate) struct Memory<'a> {
    layout: &'a Layout,
}

impl<'a> Memory<'a> {
    pub(crate) fn of(layout: &'a Layout) -> Self {
        Self { layout }
    }

    fn folder(&self) -> PathBuf {
        self.layout.root().join("signatures")
    }

    fn file(&self, repository: &str, manifest: &Digest) -> PathBuf {
        let name = Digest::of(format!("{repository}@{manifest}").as_bytes()).hex();
        self.folder().join(format!("{name}.json"))
    }

    /// Whether one of `keys` has vouched for this image.
    pub(crate) fn knows(
        &self,
        reference: &Reference,
        manifest: &Digest,
        keys: &[PublicKey],
    ) -> bool {
        let repository = repository(reference);
        let Ok(text) = read_bounded(&self.file(&repository, manifest), 1 << 16) else {
            return false;
        };
        serde_json::from_slice(&text).is_ok_and(|record: Record| {
            record.version == VERSION
                && record.repository == repository
                && record.manifest == *manifest
                && keys.iter().any(|key| key.id == record.key)
        })
    }

    /// Remembers; and forgets all images that `here` does not know.
    pub(crate) fn remember(
        &self,
        reference: &Reference,
        manifest: &Digest,
        verified: &Verified,
        here: impl Iterator<Item = (Reference, Digest)>,
    ) -> io::Result<()> {
        let folder = self.folder();
        match Layout::private_folder(&folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => {}
        }
        let repository = repository(reference);
        let own = self.file(&repository, manifest);
        let record = Record {
            version: VERSION,
            repository,
            manifest: *manifest,
            signed: verified.signed,
            key: verified.key,
        };
        let text = serde_json::to_vec(&record).expect("a record has string keys only");
        self.layout.write_atomically(&own, &text)?;
        let mut kept: Vec<PathBuf> = here
            .map(|(reference, manifest)| self.file(&self::repository(&reference), &manifest))
            .collect();
        kept.push(own);
        for file in std::fs::read_dir(&folder)? {
            let path = file?.path();
            if !kept.contains(&path) {
                // One that is being pulled right now is only looked up again.
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}
