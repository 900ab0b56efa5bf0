//! The store's folders and how anything gets into them.
//!
//! ```text
//! store.json              which format this is
//! lock                    held (flock) by the one process that has the store open
//! blobs/sha256/HEX        manifests and configs, named by what they hold
//! layers/HEX/fs           an unpacked layer, named by its chain id
//! layers/HEX/layer.json   what it is, and the boot it was unpacked in
//! layers/HEX/durable      it has been written back to the disk
//! layers/HEX/tree         the list of its files, with digests; made in the background
//! references/HEX.json     a name and the image it stands for
//! signatures/HEX.json     which key vouched for an image of a repository
//! snapshots/KEY/          upper and work directory of a container, and its layers
//! mounts/KEY.json         an image that somebody mounted to look at it, and its layers
//! tmp/                    what is not complete, or being deleted: emptied when the store is opened
//! ```
//!
//! Everything is made in `tmp` and renamed into place when it is complete and verified. Nothing of a pull is synced on
//! its way, which would cost more than all the rest: a layer counts only while the machine runs (its boot id is the
//! current one) until a `syncfs` in the background, after its image came, has written it back and left the mark
//! `durable`. After a crash of the machine, layers of another boot without that mark are thrown away by `open`; a name
//! or a blob of that time that is damaged is seen as such, and the image is pulled again.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// What is known of an unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) version: u32,
    pub(crate) chain_id: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) size_unpacked: u64,
    /// Nothing of the layers below shows through.
    pub(crate) opaque_root: bool,
    pub(crate) boot_id: String,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn references(&self) -> PathBuf {
        self.root.join("references")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, chain: &Digest) -> PathBuf {
        self.layers().join(chain.hex())
    }

    /// The directory that overlayfs gets.
    pub(crate) fn layer_fs(&self, chain: &Digest) -> PathBuf {
        self.layer(chain).join("fs")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A path in `tmp` that nobody else uses; nothing is made yet.
    pub(crate) fn fresh(&self, what: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.tmp()
            .join(format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Makes all folders, for root's eyes only (CVE-2021-41103).
    pub(crate) fn create(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for folder in [
            self.blobs(),
            self.layers(),
            self.references(),
            self.snapshots(),
            self.mounts(),
            self.tmp(),
        ] {
            builder.create(folder)?;
        }
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&self.root, std::fs::Permissions::from_mode(0o700))
    }

    /// Makes one folder that only root can enter.
    pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    /// Writes a file that is either there whole or not at all, also after a crash of the machine.
    pub(crate) fn write_atomically(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write(path, bytes, true)
    }

    /// The same but for a crash of the machine, after which the file may be there in part.
    pub(crate) fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write(path, bytes, false)
    }

    fn write(&self, path: &Path, bytes: &[u8], durably: bool) -> io::Result<()> {
        let temporary = self.fresh("file");
        let written = (|| {
            let mut file = File::create_new(&temporary)?;
            file.write_all(bytes)?;
            if durably {
                file.sync_all()?;
            }
            std::fs::rename(&temporary, path)?;
            if durably {
                sync_folder(path.parent().unwrap_or(&self.root))?;
            }
            Ok(())
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    /// Takes something out of the store at once; the deletion itself may take its time.
    pub(crate) fn discard(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let target = self.fresh("trash");
        match std::fs::rename(path, &target) {
            Ok(()) => Ok(Some(target)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Deletes a file or a tree; it is none of our business if it is gone.
pub(crate) fn delete(path: &Path) -> io::Result<()> {
    // A layer that is deleted right after it came may get its mark `durable` while its folder is being emptied: once,
    // so that a second attempt finds nothing new.
    for attempt in 1.. {
        let deleted = match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
            Ok(_) => std::fs::remove_file(path),
            Err(e) => Err(e),
        };
        match deleted {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && attempt < 3 => {}
            other => return other,
        }
    }
    unreachable!("the loop above has no end but its returns")
}

/// Makes the names in a folder survive a crash of the machine.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Reads a file that must not be larger than `limit`.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("larger than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// The running boot, as the kernel names it.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_string())
}

/// Reads what a layer's folder says of it; `Err` says why it cannot be used.
pub(crate) fn read_layer(
    folder: &Path,
    chain: &Digest,
    boot_id: &str,
) -> Result<LayerRecord, String> {
    let text = read_bounded(&folder.join("layer.json"), 1 << 16)
        .map_err(|e| format!("layer.json: {e}"))?;
    let record: LayerRecord =
        serde_json::from_slice(&text).map_err(|e| format!("layer.json: {e}"))?;
    if record.version != 1 || record.chain_id != *chain {
        return Err("layer.json speaks of another layer or format".into());
    }
    if !folder.join("fs").is_dir() {
        return Err("its files are missing".into());
    }
    if record.boot_id != boot_id && !folder.join("durable").exists() {
        return Err("the machine went down before it was written back".into());
    }
    Ok(record)
}
