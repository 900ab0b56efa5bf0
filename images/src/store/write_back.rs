//! Writes layers back to the disk, in the background, and marks those that are there as `durable`.
//!
//! Not at once: a sync holds up every file that is made meanwhile, and the end of the process as well; and several
//! images cost no more than one. So it waits until nothing came for a while and no layer is being unpacked, but not
//! forever. What was not written back when the store is closed is so when it is opened again, if the machine did not
//! go down in between; who cannot live with that calls [`WriteBack::now`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use tokio::sync::oneshot;

use super::recorder::Shared;
use crate::digest::Digest;
use crate::unpack::layer::open_for_sync;

/// The mark in a layer's folder.
pub(super) const MARK: &str = "durable";
/// Layers that one sync covers: each costs a descriptor.
const MOST_AT_ONCE: usize = 128;
/// How long nothing must have come before layers are written back, and how long they wait at most.
const SETTLE: Duration = Duration::from_secs(2);
const AT_THE_LATEST: Duration = Duration::from_secs(30);

enum Job {
    /// Folders of layers.
    Layers(Vec<PathBuf>),
    /// All that came before, without waiting.
    Now(oneshot::Sender<io::Result<()>>),
}

/// The thread's end that gives it work; the thread ends with it.
#[derive(Debug)]
pub(super) struct WriteBack {
    jobs: SyncSender<Job>,
}

impl WriteBack {
    /// Hands each layer on to `recorder`, to have its files listed.
    pub(super) fn start(recorder: Arc<Shared>) -> io::Result<Self> {
        let (jobs, work) = sync_channel(1024);
        std::thread::Builder::new()
            .name("image-write-back".into())
            .spawn(move || run(&work, &recorder))?;
        Ok(Self { jobs })
    }

    /// Layers that took their place. A full queue only means that they stay marked as young until the store is opened
    /// again.
    pub(super) fn submit(&self, layers: Vec<PathBuf>) {
        if !layers.is_empty() {
            let _ = self.jobs.try_send(Job::Layers(layers));
        }
    }

    /// Writes back all that was submitted, now; blocks.
    pub(super) fn now(&self) -> io::Result<()> {
        let gone = || io::Error::other("the thread that writes layers back is gone");
        let (told, done) = oneshot::channel();
        self.jobs.send(Job::Now(told)).map_err(|_| gone())?;
        done.blocking_recv().map_err(|_| gone())?
    }
}

/// Whether a layer would survive a crash of the machine.
pub(super) fn is_durable(layer: &Path) -> bool {
    layer.join(MARK).exists()
}

fn run(work: &Receiver<Job>, recorder: &Shared) {
    while let Ok(first) = work.recv() {
        let start = Instant::now();
        let mut layers = Vec::new();
        let mut next = Ok(first);
        let waiting = loop {
            match next {
                Ok(Job::Layers(more)) => layers.extend(more),
                Ok(Job::Now(told)) => break Some(told),
                Err(RecvTimeoutError::Timeout) if recorder.is_quiet() => break None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if start.elapsed() > AT_THE_LATEST {
                break None;
            }
            next = work.recv_timeout(SETTLE);
        };
        let written = layers
            .chunks(MOST_AT_ONCE)
            .try_for_each(|some| write_back(some, recorder));
        if let Err(error) = &written {
            tracing::warn!(%error, "layers could not be written back; they count until the machine goes down");
        }
        if let Some(told) = waiting {
            let _ = told.send(written);
        }
        for layer in &layers {
            let name = layer.file_name().and_then(|name| name.to_str());
            if let Some(chain) = name.and_then(|name| Digest::from_hex(name).ok()) {
                recorder.submit(chain);
            }
        }
    }
}

fn write_back(layers: &[PathBuf], recorder: &Shared) -> io::Result<()> {
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
