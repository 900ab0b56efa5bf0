//! Files that tasks want in their sandbox before they start: fetched, checked, put there, one after the other.
//!
//! The order comes from `launch`, when the sandbox is there and its disk is bounded. What others wrote is handled by the
//! crate of images (`FileFolder`, `Downloader`); here is where a file comes from, what it may cost, and what is kept
//! (`cache`). Nothing here survives the agent but what is whole in the cache: a launch that was cut off is told as such by
//! the recovery, and its sandbox goes with it.

mod cache;

use std::{
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mezzo_api::model::{ArchiveKind, FetchSource, FetchUri};
use mezzo_images::{
    ArchiveFormat, DownloadBounds, DownloadError, Downloader, FileBounds, FileFolder, UnpackError,
};
use nix::libc;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{Config, Error, node::runtime::chain};
use cache::Cache;

/// Downloads at once on this machine.
const AT_ONCE: usize = 8;
/// Files, directories and links that one task's files may become.
const MOST_ENTRIES: u64 = 200_000;
/// So much longer than a download may take, so that its own words are heard.
const GRACE: Duration = Duration::from_secs(2);

/// Why a task's files are not there.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// The launch was given up.
    Cancelled,
    /// The operator does not allow it; with the URI.
    NotAllowed(String),
    /// Everything else, with the URI and the cause.
    Failed(String),
}

/// What all tasks of a machine fetch by.
pub(crate) struct Fetcher {
    downloader: Downloader,
    cache: Cache,
    at_once: Semaphore,
    /// Paths beneath which files of the machine may be fetched.
    allow: Vec<PathBuf>,
    /// Of all files of one task, as they come and unpacked.
    max_bytes: u64,
    /// Of one file.
    deadline: Duration,
}

/// A file that has come.
enum Content {
    /// In the sandbox, under a name of ours; so long.
    Spooled(String, u64),
    /// Elsewhere on the machine.
    Kept(File),
}

impl Fetcher {
    /// Makes the cache's folder and removes what was only half there.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let folder = config.state_dir.join("fetch");
        let cache = Cache::open(folder.clone(), config.fetch_cache_mb << 20);
        Ok(Self {
            downloader: Downloader::new().map_err(|error| Error::Fetch(chain(&error)))?,
            cache: cache.map_err(|source| Error::State {
                operation: "make the folder",
                path: folder,
                source,
            })?,
            at_once: Semaphore::new(AT_ONCE),
            allow: config.host_path_allow.clone(),
            max_bytes: config.fetch_max_mb << 20,
            deadline: Duration::from_secs(config.fetch_deadline_secs),
        })
    }

    /// Puts all of them into the sandbox, which nobody else writes to meanwhile. `told` has a word on how far it is.
    pub(crate) async fn fetch(
        &self,
        uris: &[FetchUri],
        sandbox: &Path,
        cancelled: &CancellationToken,
        told: &watch::Sender<String>,
    ) -> Result<(), FetchError> {
        let mut left = self.max_bytes;
        for uri in uris {
            told.send_replace(format!("fetching {uri}"));
            let content = tokio::select! {
                biased;
                () = cancelled.cancelled() => return Err(FetchError::Cancelled),
                content = self.content(uri, sandbox, left, told) => content?,
            };
            if let Content::Spooled(_, length) = &content {
                left = left.saturating_sub(*length);
            }
            if uri.archive().is_some() {
                told.send_replace(format!("unpacking {uri}"));
            }
            left = self.place(uri, sandbox, content, left, cancelled).await?;
        }
        Ok(())
    }

    async fn content(
        &self,
        uri: &FetchUri,
        sandbox: &Path,
        left: u64,
        told: &watch::Sender<String>,
    ) -> Result<Content, FetchError> {
        let failed = |cause: String| FetchError::Failed(format!("{uri}: {cause}"));
        match uri.source().map_err(failed)? {
            FetchSource::File(path) => {
                let allow = self.allow.clone();
                let opened = blocking(move || open_allowed(Path::new(&path), &allow)).await;
                match opened.map_err(failed)? {
                    Ok(file) => Ok(Content::Kept(file)),
                    Err(Refused::NotAllowed(cause)) => {
                        Err(FetchError::NotAllowed(format!("{uri}: {cause}")))
                    }
                    Err(Refused::Io(cause)) => Err(failed(cause)),
                }
            }
            FetchSource::Web if uri.cache && self.cache.is_on() => {
                let make = async |file: &mut File| {
                    let length = self.download(uri, file, left, told).await?;
                    Ok::<u64, String>(length)
                };
                let waiting = || {
                    told.send_replace(format!("waiting for {uri}, which another task fetches"));
                };
                let kept = self.cache.get(&uri.uri, waiting, make);
                match tokio::time::timeout(self.deadline + GRACE, kept).await {
                    Ok(kept) => kept.map(Content::Kept).map_err(failed),
                    Err(_) => Err(failed(format!(
                        "it did not come within {} s",
                        self.deadline.as_secs()
                    ))),
                }
            }
            FetchSource::Web => {
                let name = format!(".fetch-{:016x}", rand::random::<u64>());
                let mut file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .custom_flags(libc::O_NOFOLLOW)
                    .mode(0o600)
                    .open(sandbox.join(&name))
                    .map_err(|error| failed(format!("it cannot be written: {error}")))?;
                match self.download(uri, &mut file, left, told).await {
                    Ok(length) => Ok(Content::Spooled(name, length)),
                    Err(cause) => {
                        let _ = fs::remove_file(sandbox.join(&name));
                        Err(failed(cause))
                    }
                }
            }
        }
    }

    async fn download(
        &self,
        uri: &FetchUri,
        file: &mut File,
        max_bytes: u64,
        told: &watch::Sender<String>,
    ) -> Result<u64, String> {
        let whole = async {
            let _permit = self.at_once.acquire().await;
            let (progress, mut seen) = watch::channel((0, None));
            let bounds = DownloadBounds {
                max_bytes,
                deadline: self.deadline,
            };
            let download = self.downloader.download(&uri.uri, file, bounds, &progress);
            tokio::pin!(download);
            loop {
                tokio::select! {
                    done = &mut download => break done,
                    Ok(()) = seen.changed() => {
                        let (done, total) = *seen.borrow_and_update();
                        told.send_replace(how_far(uri, done, total));
                    }
                }
            }
        };
        let done = tokio::time::timeout(self.deadline + GRACE, whole).await;
        let done = done.unwrap_or(Err(DownloadError::Deadline(self.deadline.as_secs())));
        done.map_err(|error| {
            if matches!(error, DownloadError::TooLarge(_)) {
                return format!(
                    "more than the {} MiB that all files of a task may take (fetch_max_mb)",
                    self.max_bytes >> 20
                );
            }
            chain(&error)
        })
    }

    /// Where it belongs, unpacked if it is to be. Gives what is left of the bytes.
    async fn place(
        &self,
        uri: &FetchUri,
        sandbox: &Path,
        content: Content,
        left: u64,
        cancelled: &CancellationToken,
    ) -> Result<u64, FetchError> {
        let failed = |cause: String| FetchError::Failed(format!("{uri}: {cause}"));
        let stop = Arc::new(AtomicBool::new(false));
        let bounds = FileBounds {
            max_bytes: left,
            max_entries: MOST_ENTRIES,
            stop: Arc::clone(&stop),
        };
        let (wanted, folder) = (uri.clone(), sandbox.to_owned());
        let mut placing = tokio::task::spawn_blocking(move || {
            let _span = tracing::debug_span!("placing", uri = %wanted).entered();
            place(&wanted, &folder, content, bounds)
        });
        let placed = tokio::select! {
            placed = &mut placing => placed,
            () = cancelled.cancelled() => {
                // It is seen to its end: nobody may write into a sandbox that is being removed.
                stop.store(true, Ordering::Relaxed);
                let _ = placing.await;
                return Err(FetchError::Cancelled);
            }
        };
        match placed {
            Ok(placed) => placed.map_err(failed),
            Err(error) => Err(failed(format!("putting it in place broke: {error}"))),
        }
    }
}

/// Puts a file into the sandbox. As in Mesos an archive that is not kept on the machine lies beside what was in it.
fn place(
    uri: &FetchUri,
    sandbox: &Path,
    content: Content,
    bounds: FileBounds,
) -> Result<u64, String> {
    let name = uri.name().map_err(|(_, problem)| problem)?;
    let mode = if uri.executable { 0o755 } else { 0o644 };
    let limit = bounds.max_bytes;
    let cause = |error: UnpackError| match &error {
        UnpackError::TooMuch { what, .. } if what.contains("bytes") => format!(
            "with it there are more bytes than all files of a task may take, {limit} are left (fetch_max_mb)"
        ),
        UnpackError::TooMuch { .. }
        | UnpackError::Malformed(_)
        | UnpackError::Unsupported { .. }
        | UnpackError::Refused { .. }
        | UnpackError::Decompress(_)
        | UnpackError::Io { .. } => chain(&error),
    };
    let io = |error: std::io::Error| format!("it cannot be read: {error}");
    let mut folder = FileFolder::open(sandbox, bounds).map_err(cause)?;
    let file = match content {
        Content::Spooled(spool, _) => {
            let file = File::open(sandbox.join(&spool)).map_err(io)?;
            folder.adopt(&spool, &name, mode).map_err(cause)?;
            if uri.archive().is_none() {
                folder.finish().map_err(cause)?;
                return Ok(limit);
            }
            file
        }
        Content::Kept(file) => file,
    };
    let format = match uri.archive() {
        None => {
            let length = file.metadata().map_err(io)?.len();
            let written = folder.write(&name, mode, &file, length);
            written.map_err(cause)?;
            None
        }
        Some(ArchiveKind::Gzip) => {
            let spool = format!(".fetch-{:016x}", rand::random::<u64>());
            let to = name.get(..name.len() - ".gz".len()).unwrap_or(&name);
            let inflated = folder.inflate(&file, &spool, to, mode);
            inflated.map_err(cause)?;
            None
        }
        Some(ArchiveKind::Tar) => Some(ArchiveFormat::Tar),
        Some(ArchiveKind::TarBzip2) => Some(ArchiveFormat::TarBzip2),
        Some(ArchiveKind::TarGzip) => Some(ArchiveFormat::TarGzip),
        Some(ArchiveKind::TarXz) => Some(ArchiveFormat::TarXz),
        Some(ArchiveKind::TarZstd) => Some(ArchiveFormat::TarZstd),
        Some(ArchiveKind::Zip) => Some(ArchiveFormat::Zip),
    };
    if let Some(format) = format {
        folder.unpack(format, &file).map_err(cause)?;
    }
    let left = folder.left();
    folder.finish().map_err(cause)?;
    Ok(left)
}

/// For a task's status.
fn how_far(uri: &FetchUri, done: u64, total: Option<u64>) -> String {
    match total.and_then(|total| done.saturating_mul(100).checked_div(total)) {
        Some(percent) => format!("fetching {uri}, {} %", percent.min(100)),
        None => format!("fetching {uri}, {} MiB", done >> 20),
    }
}

enum Refused {
    NotAllowed(String),
    Io(String),
}

/// Opens a file of the machine that is really beneath an allowed path, however its links change meanwhile: what was opened
/// is looked at, and nothing but a regular file is opened for more than that.
fn open_allowed(path: &Path, allow: &[PathBuf]) -> Result<File, Refused> {
    let io = |error: std::io::Error| Refused::Io(error.to_string());
    let place = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .map_err(io)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let real = fs::read_link(&through).map_err(io)?;
    let allowed = allow
        .iter()
        .filter_map(|allowed| fs::canonicalize(allowed).ok())
        .any(|allowed| real.starts_with(allowed));
    if !allowed {
        return Err(Refused::NotAllowed(format!(
            "it is {}, which this agent's operator does not allow (host_path_allow)",
            real.display()
        )));
    }
    if !place.metadata().map_err(io)?.is_file() {
        return Err(Refused::Io("it is no regular file".into()));
    }
    File::open(&through).map_err(io)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| format!("a step of it broke: {error}"))
}

#[cfg(test)]
mod tests;
