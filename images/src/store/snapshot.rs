//! A container's writable directory on top of an image: made, described, removed, never mounted here.
//!
//! Each has a folder `snapshots/KEY` with `upper` and `work` for overlayfs and `layers`, a list of the chain ids it
//! stands on, which keeps them from being collected. Nothing is fsynced: a snapshot does not outlive the boot.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::content::{Layout, delete};
use crate::digest::Digest;
use crate::unpack::directories::open_root;
use crate::unpack::looks::copy_looks;

/// What overlayfs needs for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Layers, topmost first, as overlayfs wants them.
    pub lowers: Vec<PathBuf>,
    /// Takes what the container writes.
    pub upper: PathBuf,
    /// Overlayfs's own scratch directory, on the same file system.
    pub work: PathBuf,
}

/// Why a snapshot could not be made, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The key would not do as a file name.
    #[error(
        "snapshot key {0:?} must be 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit"
    )]
    BadKey(String),
    /// There is one by this key.
    #[error("snapshot {0} exists already; remove it first")]
    Exists(String),
    /// The image was removed since it was looked up.
    #[error("layer {layer} of {image} is no longer in the store; pull the image again")]
    LayerGone {
        /// The image.
        image: String,
        /// Its missing layer.
        layer: Digest,
    },
    /// The file system refused.
    #[error("could not {operation} snapshot {key}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Which one.
        key: String,
        /// The kernel's word.
        #[source]
        source: std::io::Error,
    },
}

/// Checks that a key may be a file name.
pub(crate) fn check_key(key: &str) -> Result<(), SnapshotError> {
    let good = key.len() <= 128
        && key
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good {
        Ok(())
    } else {
        Err(SnapshotError::BadKey(key.chars().take(140).collect()))
    }
}

/// Makes the directories; the caller has made sure that `layers` (bottom first) exist and stay.
pub(crate) fn create(
    layout: &Layout,
    key: &str,
    layers: &[Digest],
    lowers: Vec<PathBuf>,
) -> Result<Snapshot, SnapshotError> {
    let io = |source| SnapshotError::Io {
        operation: "create",
        key: key.into(),
        source,
    };
    let folder = layout.snapshots().join(key);
    // Made aside and renamed: whoever lists snapshots sees whole ones, also after a crash.
    let aside = layout.fresh("snapshot");
    let made = Layout::private_folder(&aside)
        .and_then(|()| fill(&aside, layers, &lowers))
        .and_then(|()| std::fs::rename(&aside, &folder));
    if let Err(error) = made {
        let _ = delete(&aside);
        // A folder that is there is never empty, so the rename fails.
        let exists = [ErrorKind::DirectoryNotEmpty, ErrorKind::AlreadyExists];
        return Err(if exists.contains(&error.kind()) {
            SnapshotError::Exists(key.into())
        } else {
            io(error)
        });
    }
    Ok(Snapshot {
        lowers,
        upper: folder.join("upper"),
        work: folder.join("work"),
    })
}

fn fill(folder: &Path, layers: &[Digest], lowers: &[PathBuf]) -> std::io::Result<()> {
    let list: String = layers.iter().map(|layer| format!("{layer}\n")).collect();
    std::fs::write(folder.join("layers"), list)?;
    let (upper, work) = (folder.join("upper"), folder.join("work"));
    Layout::private_folder(&upper)?;
    Layout::private_folder(&work)?;
    // The container sees the upper directory's own looks as those of its root.
    if let Some(top) = lowers.first() {
        let open = |path: &Path| -> std::io::Result<OwnedFd> {
            open_root(path).map_err(std::io::Error::other)
        };
        copy_looks(&open(top)?, &open(&upper)?)?;
    }
    Ok(())
}

/// Removes a snapshot, if there is one.
pub(crate) fn remove(layout: &Layout, key: &str) -> Result<(), SnapshotError> {
    let io = |source| SnapshotError::Io {
        operation: "remove",
        key: key.into(),
        source,
    };
    match layout.discard(&layout.snapshots().join(key)).map_err(io)? {
        Some(trash) => delete(&trash).map_err(io),
        None => Ok(()),
    }
}

/// All keys, sorted.
pub(crate) fn list(layout: &Layout) -> Result<Vec<String>, SnapshotError> {
    let io = |source| SnapshotError::Io {
        operation: "list",
        key: "(all)".into(),
        source,
    };
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(layout.snapshots()).map_err(io)? {
        if let Ok(key) = entry.map_err(io)?.file_name().into_string() {
            keys.push(key);
        }
    }
    keys.sort();
    Ok(keys)
}

/// The layers that snapshots stand on.
pub(crate) fn used_layers(layout: &Layout) -> Result<Vec<Digest>, SnapshotError> {
    let mut used = Vec::new();
    for key in list(layout)? {
        used.extend(layers_of(layout, &key)?);
    }
    Ok(used)
}

/// The layers that one snapshot stands on, bottom first; none if it is not there.
pub(crate) fn layers_of(layout: &Layout, key: &str) -> Result<Vec<Digest>, SnapshotError> {
    let path = layout.snapshots().join(key).join("layers");
    let text = match super::content::read_bounded(&path, 1 << 20) {
        Ok(text) => text,
        // Removed meanwhile.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(SnapshotError::Io {
                operation: "read",
                key: key.into(),
                source,
            });
        }
    };
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines();
    Ok(lines.filter_map(|line| line.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        for good in ["a", "sleep.1_x-2", "0f"] {
            check_key(good).unwrap();
        }
        for bad in [
            "",
            ".",
            "..",
            "../a",
            "a/b",
            "-a",
            ".a",
            "a b",
            "é",
            &"a".repeat(129),
        ] {
            assert!(check_key(bad).is_err(), "{bad} was accepted");
        }
    }
}
