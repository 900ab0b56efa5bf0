//! One layer from its compressed bytes to a directory, and what its place in the image adds to it afterwards.
//!
//! `unpack` runs on a blocking thread with a thread of its own for the second half; it writes only below the directory it
//! is given. `inherit` runs when the layers below are there: directories that the archive only implied get the mode,
//! owner and times that they have below, because overlayfs shows those of the topmost layer.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};

use super::apply::LayerWriter;
use super::decompress::{BUFFERS, Bounds, Chunk, ChunkReader, PieceReader, Pumped, pump};
use super::directories::{open_directory, open_root};
use super::looks::copy_looks;
use super::tar::TarReader;
use super::{UnpackError, UnpackLimits, printable};
use crate::digest::Digest;
use crate::manifest::Compression;

/// What to unpack and where.
#[derive(Debug)]
pub(crate) struct Job {
    /// The layer's empty root directory.
    pub(crate) directory: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) compression: Compression,
    pub(crate) bounds: Bounds,
    pub(crate) limits: UnpackLimits,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) bytes: u64,
    /// Directories that no entry described, parents first; the root is the empty path.
    pub(crate) implied: Vec<Vec<u8>>,
    /// Nothing of the layers below shows through.
    pub(crate) opaque_root: bool,
}

/// Why a layer is not there.
#[derive(Debug)]
pub(crate) enum LayerFailure {
    WrongDigest {
        actual: Digest,
    },
    WrongDiffId {
        actual: Digest,
    },
    Unpack(UnpackError),
    /// The download ended early; whoever drives it knows why.
    Cut,
}

/// Unpacks what comes down the channel.
pub(crate) fn unpack(
    chunks: tokio::sync::mpsc::Receiver<Chunk>,
    job: &Job,
) -> Result<Unpacked, LayerFailure> {
    let root = open_root(&job.directory).map_err(LayerFailure::Unpack)?;
    let (up, pieces) = sync_channel(BUFFERS);
    let (back, returned) = sync_channel(BUFFERS);
    let reader = ChunkReader::new(chunks);
    let (written, pumped) = std::thread::scope(|scope| {
        let pieces = PieceReader::new(pieces, back);
        let second_half = std::thread::Builder::new()
            .name("image-write".into())
            .spawn_scoped(scope, move || {
                write(pieces, root, &job.limits, clear_umask())
            });
        let second_half = second_half.map_err(|source| UnpackError::Io {
            operation: "start a thread for",
            path: job.digest.to_string(),
            source,
        })?;
        let pumped = pump(reader, job.compression, &job.bounds, up, &returned);
        let written = second_half
            .join()
            .expect("writing has no panicking path, and a panic must not look like success");
        Ok((written, pumped))
    })
    .map_err(LayerFailure::Unpack)?;
    judge(written, &pumped, job)
}

/// Damage comes first: an archive that cannot be read is the registry's fault if its bytes are not those declared.
fn judge(
    written: Result<(Vec<Vec<u8>>, bool), UnpackError>,
    pumped: &Pumped,
    job: &Job,
) -> Result<Unpacked, LayerFailure> {
    match (pumped.digest, written) {
        (Some(actual), _) if actual != job.digest => Err(LayerFailure::WrongDigest { actual }),
        (None, Ok(_)) => Err(LayerFailure::Cut),
        (None, Err(UnpackError::Decompress(e)))
            if e.kind() == std::io::ErrorKind::ConnectionAborted =>
        {
            Err(LayerFailure::Cut)
        }
        (_, Err(error)) => Err(LayerFailure::Unpack(error)),
        (Some(_), Ok(_)) if pumped.diff_id != job.diff_id => Err(LayerFailure::WrongDiffId {
            actual: pumped.diff_id,
        }),
        (Some(_), Ok((implied, opaque_root))) => Ok(Unpacked {
            bytes: pumped.unpacked,
            implied,
            opaque_root,
        }),
    }
}

/// Gives the calling thread, which must be ours alone, a umask of its own: 0. False if the kernel does not let it.
fn clear_umask() -> bool {
    let own = unshare(CloneFlags::CLONE_FS);
    if let Err(errno) = own {
        tracing::debug!(%errno, "modes will be set one by one");
        return false;
    }
    umask(Mode::empty());
    true
}

fn write(
    pieces: PieceReader,
    root: OwnedFd,
    limits: &UnpackLimits,
    exact_modes: bool,
) -> Result<(Vec<Vec<u8>>, bool), UnpackError> {
    let mut tar = TarReader::new(pieces, limits.clone());
    let mut writer = LayerWriter::new(root, limits.clone(), exact_modes)?;
    while let Some(entry) = tar.next()? {
        writer.apply(&entry, &mut tar)?;
    }
    tar.drain()?;
    writer.finish()
}

/// Gives implied directories the looks that they have in the layers below, `lowers` topmost first.
pub(crate) fn inherit(
    layer: &Path,
    implied: &[Vec<u8>],
    lowers: &[PathBuf],
) -> Result<(), UnpackError> {
    if implied.is_empty() || lowers.is_empty() {
        return Ok(());
    }
    let root = open_root(layer)?;
    let below = lowers
        .iter()
        .map(|path| open_root(path))
        .collect::<Result<Vec<_>, _>>()?;
    for path in implied {
        let Ok(ours) = open_directory(&root, path) else {
            continue;
        };
        for lower in &below {
            match open_directory(lower, path) {
                Ok(theirs) => {
                    copy_looks(&theirs, &ours).map_err(|source| UnpackError::Io {
                        operation: "copy the attributes of",
                        path: printable(path),
                        source,
                    })?;
                    break;
                }
                // A file or whiteout there: what lies further below is hidden.
                Err(Errno::ENOENT) => {}
                Err(_) => break,
            }
        }
    }
    Ok(())
}

/// A descriptor of the file system that holds a directory.
pub(crate) fn open_for_sync(path: &Path) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(
        path,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}
