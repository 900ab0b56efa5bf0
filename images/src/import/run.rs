//! Imports an image: finds out what it comes in, chooses, and hands it to the store like something pulled.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::ImportError;
use super::source::Source;
use super::spool::{self, Packing, SpoolLimits, spool};
use super::{docker, layout};
use crate::digest::Digest;
use crate::fetch::Origin;
use crate::pull::{self, Incoming, PullProgress};
use crate::reference::Reference;
use crate::section::Section;
use crate::store::{Image, ImageStore, Inner};

/// Where an image comes from.
pub enum ImportSource {
    /// A directory with an OCI layout, or an archive.
    Path(PathBuf),
    /// An archive from a pipe; the name is for messages.
    Stream(Box<dyn Read + Send>, String),
}

impl std::fmt::Debug for ImportSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Stream(_, name) => f.debug_tuple("Stream").field(name).finish(),
        }
    }
}

/// What to import.
#[derive(Debug)]
pub struct ImportOptions {
    /// From where.
    pub source: ImportSource,
    /// What it shall be called; by default as in the archive.
    pub name: Option<Reference>,
    /// Which of several images, by its name or digest in the archive.
    pub image: Option<String>,
}

impl ImageStore {
    /// Puts an image from a directory or an archive into the store, verified like a pull.
    pub async fn import_archive(
        &self,
        options: ImportOptions,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<(Reference, Image), ImportError> {
        let inner = Arc::clone(&self.inner);
        let read = tokio::task::spawn_blocking(move || read(&inner, options));
        let (name, incoming, layers) = read.await.map_err(|_| ImportError::Interrupted)??;
        let digests = incoming
            .manifest
            .layers
            .iter()
            .map(|layer| layer.blob.digest);
        let blobs: BTreeMap<Digest, Section> = digests.zip(layers).collect();
        let told = progress.unwrap_or_else(|| watch::channel(PullProgress::default()).0);
        let image = pull::store(&self.inner, &name, incoming, &Origin::Local(blobs), told).await?;
        Ok((name, image))
    }
}

fn read(
    inner: &Inner,
    options: ImportOptions,
) -> Result<(Reference, Incoming, Vec<Section>), ImportError> {
    let limits = SpoolLimits {
        max_bytes: inner.config.max_unpacked_bytes,
        max_ratio: inner.config.limits.max_ratio,
    };
    let source = match options.source {
        ImportSource::Path(path) => open(inner, &path, limits)?,
        ImportSource::Stream(stream, name) => {
            let file = into_store(inner, &name, stream, limits)?;
            Source::archive(name, file)?
        }
    };
    let (image, tag) = (options.image.as_deref(), options.name.as_ref());
    // Newer `docker save` writes both; the layout says more.
    if source.file(layout::MARK)?.is_some() {
        return layout::read(&source, image, tag, &inner.host);
    }
    if source.file(docker::LIST)?.is_some() {
        return docker::read(&source, image, tag);
    }
    Err(ImportError::NotAnImage {
        origin: source.origin,
        problem: "it has neither oci-layout (an OCI layout) nor manifest.json (docker save)".into(),
    })
}

/// Spools into the store; if that is full, it is called by its name.
fn into_store(
    inner: &Inner,
    origin: &str,
    input: impl Read,
    limits: SpoolLimits,
) -> Result<File, ImportError> {
    spool(origin, input, &inner.layout.tmp(), limits)
        .map_err(|error| error.naming_a_full_disk(origin, inner.layout.root()))
}

fn open(inner: &Inner, path: &std::path::Path, limits: SpoolLimits) -> Result<Source, ImportError> {
    let origin = path.display().to_string();
    let failed = |operation| {
        let what = origin.clone();
        move |source| ImportError::Io {
            operation,
            what,
            source,
        }
    };
    let found = std::fs::metadata(path).map_err(failed("open"))?;
    if found.is_dir() {
        return Source::folder(path);
    }
    let file = File::open(path).map_err(failed("open"))?;
    if !found.is_file() {
        let spooled = into_store(inner, &origin, file, limits)?;
        return Source::archive(origin, spooled);
    }
    let file = Arc::new(file);
    let head = Section::new(Arc::clone(&file), 0, found.len())
        .head(spool::MAGIC)
        .map_err(failed("read"))?;
    let file = Arc::into_inner(file).expect("the section that shared it is gone");
    match spool::packing(&head) {
        Packing::None => Source::archive(origin, file),
        Packing::Bzip2 | Packing::Gzip | Packing::Xz | Packing::Zstd => {
            let spooled = into_store(inner, &origin, file, limits)?;
            Source::archive(origin, spooled)
        }
    }
}
