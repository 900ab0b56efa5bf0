//! Writes young layers back to the disk and marks them `durable`, on a thread of its own.
//!
//! Its end is not waited for, for a sync may take its time: a mark that is missing costs a pull after the next crash of
//! the machine, no more. But once the store is closed no mark is made any more.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::recorder::Shared;
use crate::digest::Digest;
use crate::unpack::layer::open_for_sync;

/// The mark in a layer's folder.
pub(crate) const MARK: &str = "durable";
/// Layers that one sync covers: each costs a descriptor.
const MOST_AT_ONCE: usize = 128;

/// Works until the store is closed, and hands each layer on to have its files listed.
pub(crate) fn run(jobs: &Receiver<PathBuf>, recorder: &Shared) {
    while let Ok(first) = jobs.recv() {
        let mut layers = vec![first];
        layers.extend(jobs.try_iter().take(MOST_AT_ONCE));
        if let Err(error) = write_back(&layers, recorder) {
            tracing::warn!(%error, "layers could not be written back; they count until the machine goes down");
        }
        for layer in &layers {
            let name = layer.file_name().and_then(|name| name.to_str());
            if let Some(chain) = name.and_then(|name| Digest::from_hex(name).ok()) {
                recorder.submit(chain);
            }
        }
    }
}

/// Writes layers back and marks them.
pub(crate) fn write_back(layers: &[PathBuf], recorder: &Shared) -> std::io::Result<()> {
    // Opened before the sync: a layer that is collected and fetched again meanwhile is another one of the same name,
    // and must not get the mark.
    let opened = layers
        .iter()
        .filter_map(|layer| match open_for_sync(layer) {
            Err(Errno::ENOENT) => None,
            other => Some(other),
        });
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    let Some(first) = opened.first() else {
        return Ok(());
    };
    // One call for all: they are on one file system.
    nix::unistd::syncfs(first)?;
    let Some(_open) = recorder.while_open() else {
        return Ok(());
    };
    for layer in &opened {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC;
        match openat(layer, MARK, flags, Mode::from_bits_truncate(0o600)) {
            Ok(mark) => {
                nix::unistd::fsync(&mark)?;
                nix::unistd::fsync(layer)?;
            }
            // Collected meanwhile.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
