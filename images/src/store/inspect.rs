//! All there is to know of one image: its config, its history, and what each layer takes.

use std::sync::Arc;

use super::content::read_bounded;
use super::{
    DiskUsage, Image, ImageStore, Inner, StoreError, blocking, gc, io_error, unix_seconds, usage,
};
use crate::digest::Digest;
use crate::manifest::{self, Document, HistoryEntry, MAX_METADATA_BYTES};
use crate::reference::Reference;

/// An image in detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDetails {
    /// Name, digest, config, sizes.
    pub image: Image,
    /// As in `linux/arm64/v8`.
    pub platform: String,
    /// Digest of the config.
    pub config_digest: Digest,
    /// Seconds since 1970.
    pub pulled_at: Option<u64>,
    /// Seconds since 1970.
    pub last_used: Option<u64>,
    /// On the disk.
    pub disk: DiskUsage,
    /// Bottom first.
    pub layers: Vec<LayerDetails>,
    /// How it was made, as its maker says; oldest first.
    pub history: Vec<HistoryEntry>,
    /// It runs in a container, is mounted, or is being fetched.
    pub in_use: bool,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDetails {
    /// Its name here: it says what lies below, too.
    pub chain_id: Digest,
    /// Digest of its archive.
    pub diff_id: Option<Digest>,
    /// Digest of what a registry holds.
    pub digest: Digest,
    /// Bytes in the registry.
    pub size_compressed: u64,
    /// Bytes of its archive.
    pub size_unpacked: Option<u64>,
    /// Bytes on the disk, once they were counted.
    pub disk_bytes: Option<u64>,
    /// Files, directories and links, once they were counted.
    pub entries: Option<u64>,
    /// Other images that have it.
    pub shared_with: usize,
}

impl ImageStore {
    /// All there is to know of an image, if it is here.
    pub async fn inspect(&self, reference: &Reference) -> Result<Option<ImageDetails>, StoreError> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.clone());
        blocking(move || inspect(&inner, &reference)).await
    }
}

fn inspect(inner: &Inner, reference: &Reference) -> Result<Option<ImageDetails>, StoreError> {
    let Some(image) = inner.get(reference)? else {
        return Ok(None);
    };
    let (record, used, layers, owners, disk) = {
        let state = inner.state();
        let Some(record) = state.images.get(reference).cloned() else {
            return Ok(None);
        };
        let layers: Vec<_> = record
            .layers
            .iter()
            .map(|chain| state.layers.get(chain).cloned())
            .collect();
        let size = |chain: &Digest| {
            let layer = state.layers.get(chain);
            layer.map_or(0, |layer| inner.disk_bytes(layer))
        };
        let disk = usage::usage(state.images.values(), size);
        (
            record,
            state.last_used.get(reference).copied(),
            layers,
            usage::owners(state.images.values()),
            disk.get(reference).copied().unwrap_or_default(),
        )
    };
    let blob = |digest: &Digest| {
        let path = inner.layout.blob(digest);
        let bytes = read_bounded(&path, MAX_METADATA_BYTES)
            .map_err(|source| io_error("read", &path, source))?;
        Ok::<_, StoreError>((path, bytes))
    };
    let (path, bytes) = blob(&record.manifest)?;
    let corrupt = |problem: String| StoreError::Corrupt { path, problem };
    let manifest = match manifest::parse_document(&bytes, None) {
        Ok(Document::Manifest(manifest)) => manifest,
        Ok(Document::Index(_)) => return Err(corrupt("it is an index".into())),
        Err(error) => return Err(corrupt(error.to_string())),
    };
    let (path, bytes) = blob(&record.config)?;
    let corrupt = |problem: manifest::ManifestError| StoreError::Corrupt {
        path,
        problem: problem.to_string(),
    };
    let (parsed, history) = manifest::parse_config(&bytes)
        .and_then(|parsed| Ok((parsed, manifest::parse_history(&bytes)?)))
        .map_err(corrupt)?;
    let layers = record
        .layers
        .iter()
        .zip(&manifest.layers)
        .zip(layers)
        .map(|((chain, blob), layer)| {
            let recorded = inner.recorder.shared().known(chain);
            LayerDetails {
                chain_id: *chain,
                diff_id: layer.as_ref().map(|layer| layer.diff_id),
                digest: blob.blob.digest,
                size_compressed: blob.blob.size,
                size_unpacked: layer.as_ref().map(|layer| layer.size_unpacked),
                disk_bytes: recorded.map(|recorded| recorded.disk_bytes),
                entries: recorded.map(|recorded| recorded.entries),
                shared_with: owners.get(chain).map_or(0, |owners| {
                    owners.iter().filter(|o| **o != record.manifest).count()
                }),
            }
        })
        .collect();
    Ok(Some(ImageDetails {
        platform: parsed.platform.to_string(),
        config_digest: record.config,
        pulled_at: record.pulled_at,
        last_used: used.and_then(unix_seconds),
        disk,
        layers,
        history,
        in_use: gc::is_used(&record.layers, &inner.held_layers()?),
        image,
    }))
}
