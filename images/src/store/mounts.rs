//! Images that somebody mounted on the host to look at them: their layers must stay while the mount is there.
//!
//! `mounts/KEY.json` says which layers, and where. The mount's source is `mezzo-image-KEY`; the kernel's table of mounts
//! therefore tells whether it is still there, whoever unmounted it and whether the machine was booted anew. A record
//! without its mount is stale and holds nothing. This crate does not mount: it says what to mount.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::content::{Layout, read_bounded};
use super::inner::Pins;
use super::{Image, ImageStore, StoreError, io_error, unix_seconds};
use crate::digest::Digest;
use crate::reference::Reference;

const VERSION: u32 = 1;
/// A directory with nothing in it: overlayfs wants two layers where there is no writable one.
const EMPTY: &str = "empty";

/// What is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) reference: Reference,
    pub(crate) layers: Vec<Digest>,
    target: PathBuf,
    mounted_at: Option<u64>,
}

/// A record, and whether its mount is there.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) key: String,
    pub(crate) record: Record,
    pub(crate) is_there: bool,
}

/// An image that is mounted on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedImage {
    /// The image.
    pub reference: Reference,
    /// Where.
    pub target: PathBuf,
    /// Seconds since 1970.
    pub mounted_at: Option<u64>,
}

/// What to mount. Its layers stay while this lives, and afterwards while the mount is there.
#[derive(Debug)]
pub struct MountPlan {
    /// The mount's source, by which it is known again.
    pub source: String,
    /// Layers, topmost first; at least two.
    pub lowers: Vec<PathBuf>,
    /// Where to.
    pub target: PathBuf,
    _pins: Pins,
}

/// Why an image could not be made ready to be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is one.
    #[error("{image} is mounted on {} already; unmount it first: `mezzo image umount {}`", target.display(), target.display())]
    Busy {
        /// What is there.
        image: String,
        /// Where.
        target: PathBuf,
    },
    /// Not a path that can be written down.
    #[error("{} is no absolute path in UTF-8", .0.display())]
    BadTarget(PathBuf),
    /// The image was removed since it was looked up.
    #[error(transparent)]
    Gone(#[from] super::snapshot::SnapshotError),
    /// The store's own files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageStore {
    /// Says what to mount for an image to appear at `target`, an absolute path without links, and holds its layers.
    pub fn plan_mount(&self, image: &Image, target: &Path) -> Result<MountPlan, MountError> {
        if !target.is_absolute() || target.to_str().is_none() {
            return Err(MountError::BadTarget(target.into()));
        }
        let layout = &self.inner.layout;
        let key = key(target);
        let same = list(layout)?.into_iter().find(|held| held.key == key);
        if let Some(held) = same.filter(|held| held.is_there) {
            return Err(MountError::Busy {
                image: held.record.reference.to_string(),
                target: target.into(),
            });
        }
        let pins = self.inner.pin(&image.layers);
        let mut lowers = self.lowers(image)?;
        if lowers.len() < 2 {
            let empty = layout.mounts().join(EMPTY);
            match Layout::private_folder(&empty) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("create", &empty, e).into());
                }
                Ok(()) | Err(_) => lowers.push(empty),
            }
        }
        let record = Record {
            version: VERSION,
            reference: image.reference.clone(),
            layers: image.layers.clone(),
            target: target.into(),
            mounted_at: unix_seconds(SystemTime::now()),
        };
        let text = serde_json::to_vec(&record).expect("the path was checked to be UTF-8");
        let path = file(layout, &key);
        layout
            .write_atomically(&path, &text)
            .map_err(|source| io_error("write", &path, source))?;
        self.inner.touch(&image.reference, SystemTime::now());
        Ok(MountPlan {
            source: source(&key),
            lowers,
            target: target.into(),
            _pins: pins,
        })
    }

    /// Forgets a mount that was undone, or could not be made. False if none was known there.
    pub fn forget_mount(&self, target: &Path) -> Result<bool, StoreError> {
        let path = file(&self.inner.layout, &key(target));
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(io_error("remove", &path, source)),
        }
    }

    /// The images that are mounted now.
    pub fn mounts(&self) -> Result<Vec<MountedImage>, StoreError> {
        let held = list(&self.inner.layout)?.into_iter();
        let there = held.filter(|held| held.is_there);
        Ok(there
            .map(|held| MountedImage {
                reference: held.record.reference,
                target: held.record.target,
                mounted_at: held.record.mounted_at,
            })
            .collect())
    }
}

fn key(target: &Path) -> String {
    Digest::of(target.as_os_str().as_bytes()).hex()[..32].to_string()
}

fn source(key: &str) -> String {
    format!("mezzo-image-{key}")
}

fn file(layout: &Layout, key: &str) -> PathBuf {
    layout.mounts().join(format!("{key}.json"))
}

/// All records. One that cannot be read counts as there, with no layers: verify tells.
pub(crate) fn list(layout: &Layout) -> Result<Vec<Held>, StoreError> {
    let folder = layout.mounts();
    let mut held = Vec::new();
    let mut sources = None;
    for entry in std::fs::read_dir(&folder).map_err(|e| io_error("list", &folder, e))? {
        let path = entry.map_err(|e| io_error("list", &folder, e))?.path();
        let Some(key) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".json"))
        else {
            continue;
        };
        let text = match read_bounded(&path, 1 << 20) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(io_error("read", &path, source)),
        };
        let record: Record = match serde_json::from_slice(&text) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot read the record of a mount");
                continue;
            }
        };
        let sources = sources.get_or_insert_with(mounted_sources);
        // When the kernel does not tell, nothing is given up.
        let is_there = sources
            .as_ref()
            .is_none_or(|sources| sources.contains(&source(key)));
        held.push(Held {
            key: key.into(),
            record,
            is_there,
        });
    }
    Ok(held)
}

/// Removes the records of mounts that are gone. For `open`, before anything can be mounted.
pub(crate) fn forget_stale(layout: &Layout) {
    for held in list(layout).unwrap_or_default() {
        if !held.is_there
            && let Err(error) = std::fs::remove_file(file(layout, &held.key))
        {
            tracing::warn!(%error, target = %held.record.target.display(), "cannot forget a mount that is gone");
        }
    }
}

/// Sources of all overlay mounts that this process or the machine's first one sees.
fn mounted_sources() -> Option<BTreeSet<String>> {
    let own = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    // Another mount namespace, if this process has one of its own; not readable without root.
    let first = std::fs::read_to_string("/proc/1/mountinfo").unwrap_or_default();
    Some(sources(&own).chain(sources(&first)).collect())
}

/// Sources of overlay mounts in a table of mounts (pure).
fn sources(table: &str) -> impl Iterator<Item = String> {
    table.lines().filter_map(|line| {
        let (_, kind) = line.split_once(" - ")?;
        let mut words = kind.split(' ');
        (words.next()? == "overlay").then_some(())?;
        words.next().map(ToString::to_string)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_from_the_table_of_mounts() {
        let table = "36 35 98:0 / /mnt rw,noatime shared:1 - ext3 /dev/root rw\n\
                     40 35 0:30 / /x rw - overlay mezzo-image-ab ro,lowerdir=/a - b\n\
                     broken\n";
        assert_eq!(sources(table).collect::<Vec<_>>(), ["mezzo-image-ab"]);
    }
}
