//! An image of the store as one that can be written to an archive or pushed: its layers are packed again.
//!
//! The compressed layers are not kept. What comes out has the same files, and the same digests each time, but they are not
//! those of the image that was pulled: tar and gzip leave more freedom than a directory remembers. Whiteouts and opaque
//! directories become `.wh.` names again; files of several names become hard links.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::GzBuilder;
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::manifest::{self, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::pack::{PackedImage, PackedLayer};
use crate::pack_layer::Hashing;
use crate::reference::Reference;
use crate::section::Section;
use crate::store::content::{LayerRecord, read_bounded};
use crate::store::{ImageStore, Inner, StoreError, io_error};
use crate::tar_write;
use crate::tree::walk::{Found, What, walk};
use crate::unpack::directories::open_root;
use crate::unpack::looks::{OPAQUE, is_carried};
use crate::unpack::tar::{Entry, Kind, Time};
use crate::unpack::{UnpackError, printable};

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No such image.
    #[error("no image {0} in the store; pull or import it first")]
    NotHere(Reference),
    /// A layer on the disk cannot be packed.
    #[error(
        "layer {layer} cannot be packed again; `mezzo image verify` tells whether it is damaged"
    )]
    Layer {
        /// Its chain id.
        layer: Digest,
        /// Why.
        #[source]
        problem: UnpackError,
    },
    /// No room, or a file system that fails.
    #[error("could not {operation} an image packed again")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The store's own files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The task doing it was stopped.
    #[error("the export was interrupted")]
    Interrupted,
}

/// Ends the packing when whoever waits for it goes.
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ImageStore {
    /// Packs an image of the store again. Its layers lie in unnamed files of the store until the result is dropped.
    pub async fn export(&self, reference: &Reference) -> Result<PackedImage, ExportError> {
        let image = self.get(reference).await?;
        let image = image.ok_or_else(|| ExportError::NotHere(reference.clone()))?;
        let abandoned = Arc::new(AtomicBool::new(false));
        let _guard = Abandoned(Arc::clone(&abandoned));
        let inner = Arc::clone(&self.inner);
        let packed = tokio::task::spawn_blocking(move || {
            let _pins = inner.pin(&image.layers);
            pack_again(&inner, &image.reference, &image.layers, &abandoned)
        });
        packed.await.map_err(|_| ExportError::Interrupted)?
    }
}

fn pack_again(
    inner: &Inner,
    reference: &Reference,
    chains: &[Digest],
    abandoned: &AtomicBool,
) -> Result<PackedImage, ExportError> {
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for chain in chains {
        let gone = || ExportError::NotHere(reference.clone());
        let record = inner.layer(chain).ok_or_else(gone)?;
        let (layer, diff_id) = pack_layer(inner, &record, abandoned)?;
        layers.push(layer);
        diff_ids.push(diff_id);
    }
    let config = config(inner, reference, &diff_ids)?;
    let config_digest = Digest::of(&config);
    let descriptors: Vec<Value> = layers
        .iter()
        .map(|layer| {
            json!({"mediaType": OCI_LAYER_GZIP, "digest": layer.digest, "size": layer.section.size()})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": config_digest, "size": config.len()},
        "layers": descriptors,
    })
    .to_string()
    .into_bytes();
    Ok(PackedImage {
        manifest_digest: Digest::of(&manifest),
        manifest,
        config,
        config_digest,
        layers,
    })
}

/// The image's config with the new layers in place of the old; all else stays.
fn config(
    inner: &Inner,
    reference: &Reference,
    diff_ids: &[Digest],
) -> Result<Vec<u8>, ExportError> {
    let digest = inner
        .config_digest(reference)
        .ok_or_else(|| ExportError::NotHere(reference.clone()))?;
    let path = inner.layout.blob(&digest);
    let bytes = read_bounded(&path, manifest::MAX_METADATA_BYTES)
        .map_err(|source| io_error("read", &path, source))?;
    let corrupt = |problem: &str| StoreError::Corrupt {
        path: path.clone(),
        problem: problem.into(),
    };
    if Digest::of(&bytes) != digest {
        return Err(corrupt("its digest is another one than its name").into());
    }
    let mut config: Value =
        serde_json::from_slice(&bytes).map_err(|error| corrupt(&error.to_string()))?;
    let Some(object) = config.as_object_mut() else {
        return Err(corrupt("it is no object").into());
    };
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    object.insert("rootfs".into(), rootfs);
    Ok(config.to_string().into_bytes())
}

/// Where the archive goes: counted and hashed before and after it is compressed.
type Out = Hashing<flate2::write::GzEncoder<Hashing<BufWriter<File>>>>;

fn pack_layer(
    inner: &Inner,
    record: &LayerRecord,
    abandoned: &AtomicBool,
) -> Result<(PackedLayer, Digest), ExportError> {
    let io = |operation| move |source| ExportError::Io { operation, source };
    let file = tempfile::tempfile_in(inner.layout.tmp()).map_err(io("make room for"))?;
    let handle = file.try_clone().map_err(io("make room for"))?;
    let compressed = GzBuilder::new().mtime(0).write(
        Hashing::new(BufWriter::new(file)),
        flate2::Compression::new(6),
    );
    let mut out: Out = Hashing::new(compressed);
    let layer_failed = |problem| ExportError::Layer {
        layer: record.chain_id,
        problem,
    };
    let root = open_root(&inner.layout.layer_fs(&record.chain_id)).map_err(layer_failed)?;
    let walked = walk::<Failure>(root, &mut |found| {
        if abandoned.load(Ordering::Relaxed) {
            return Err(Failure::Abandoned);
        }
        write_entry(&mut out, &found, record.opaque_root, abandoned)
    });
    match walked {
        Ok(()) => {}
        Err(Failure::Layer(problem)) => return Err(layer_failed(problem)),
        Err(Failure::Output(source)) => return Err(io("write")(source)),
        Err(Failure::Abandoned) => return Err(ExportError::Interrupted),
    }
    tar_write::end(&mut out).map_err(io("write"))?;
    let (diff_id, compressed) = out.finish();
    let mut compressed = compressed.finish().map_err(io("write"))?;
    compressed.flush().map_err(io("write"))?;
    let size = compressed.count();
    let (digest, _) = compressed.finish();
    let layer = PackedLayer {
        digest,
        section: Section::new(Arc::new(handle), 0, size),
    };
    Ok((layer, diff_id))
}

/// Whose fault it is.
enum Failure {
    Layer(UnpackError),
    Output(io::Error),
    Abandoned,
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        Self::Layer(error)
    }
}

fn write_entry(
    out: &mut Out,
    found: &Found<'_>,
    opaque_root: bool,
    abandoned: &AtomicBool,
) -> Result<(), Failure> {
    let entry = entry(found)?;
    let header = tar_write::header(&entry).map_err(|source| UnpackError::Io {
        operation: "describe",
        path: printable(found.path),
        source,
    })?;
    out.write_all(&header).map_err(Failure::Output)?;
    if let What::File(file) = &found.what {
        copy(out, file, &entry, abandoned)?;
    }
    let is_opaque = found
        .xattrs
        .iter()
        .any(|(name, value)| name == OPAQUE.as_bytes() && value == b"y");
    let is_root = found.path.is_empty();
    if (is_root && opaque_root) || (!is_root && is_opaque) {
        let marker = Entry::marker(child(found.path, b".wh..wh..opq"));
        let header = tar_write::header(&marker).map_err(Failure::Output)?;
        out.write_all(&header).map_err(Failure::Output)?;
    }
    Ok(())
}

fn child(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, b"/", name].concat()
    }
}

/// A file of a layer as an entry of an archive (pure).
fn entry(found: &Found<'_>) -> Result<Entry, UnpackError> {
    let stat = &found.stat;
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let device = (
        number(nix::sys::stat::major(stat.st_rdev)),
        number(nix::sys::stat::minor(stat.st_rdev)),
    );
    let mut entry = Entry {
        kind: Kind::File,
        path: if found.path.is_empty() {
            b"./".to_vec()
        } else {
            found.path.to_vec()
        },
        link: Vec::new(),
        size: 0,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time {
            secs: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        device: (0, 0),
        sparse: None,
        xattrs: found
            .xattrs
            .iter()
            .filter(|(name, _)| is_carried(name))
            .cloned()
            .collect(),
    };
    match &found.what {
        What::Directory => entry.kind = Kind::Directory,
        What::File(_) => entry.size = u64::try_from(stat.st_size).unwrap_or(0),
        What::Symlink(target) => {
            entry.kind = Kind::Symlink;
            entry.link.clone_from(target);
        }
        // Whiteouts may share an inode, and are none of the layer's files.
        What::HardLink(_) | What::CharDevice if is_whiteout(stat) => {
            let (directory, name) = match found.path.iter().rposition(|byte| *byte == b'/') {
                Some(at) => (&found.path[..at], &found.path[at + 1..]),
                None => (&b""[..], found.path),
            };
            // Without looks: a layer's whiteouts have the time when they were unpacked.
            entry = Entry::marker(child(directory, &[b".wh.", name].concat()));
            if name.len() > 251 {
                return Err(UnpackError::Refused {
                    path: printable(found.path),
                    reason: "its name is too long for a whiteout",
                });
            }
        }
        What::HardLink(first) => {
            entry.kind = Kind::HardLink;
            entry.link.clone_from(first);
        }
        What::CharDevice => (entry.kind, entry.device) = (Kind::CharDevice, device),
        What::BlockDevice => (entry.kind, entry.device) = (Kind::BlockDevice, device),
        What::Fifo => entry.kind = Kind::Fifo,
    }
    Ok(entry)
}

fn is_whiteout(stat: &nix::sys::stat::FileStat) -> bool {
    use nix::sys::stat::SFlag;
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && stat.st_rdev == 0
}

fn copy(
    out: &mut Out,
    mut file: &File,
    entry: &Entry,
    abandoned: &AtomicBool,
) -> Result<(), Failure> {
    let failed = |source| UnpackError::Io {
        operation: "read",
        path: printable(&entry.path),
        source,
    };
    let mut left = entry.size;
    let room = usize::try_from(left).unwrap_or(usize::MAX);
    let mut buffer = vec![0; room.clamp(1, 256 << 10)];
    while left > 0 {
        if abandoned.load(Ordering::Relaxed) {
            return Err(Failure::Abandoned);
        }
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let length = file.read(&mut buffer[..most]).map_err(failed)?;
        if length == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()).into());
        }
        out.write_all(&buffer[..length]).map_err(Failure::Output)?;
        left -= length as u64;
    }
    out.write_all(tar_write::padding(entry.size))
        .map_err(Failure::Output)
}
