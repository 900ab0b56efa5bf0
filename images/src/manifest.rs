//! Manifests, indexes and image configs (pure): hostile JSON in, checked types out.
//!
//! OCI and Docker schema 2 are read into the same types. What is ambiguous (CVE-2021-41190: both `layers` and
//! `manifests`, or a media type other than the server's), oversized or of a kind that cannot run is refused here,
//! before a byte of a layer is fetched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::platform::Platform;

/// Manifests and configs larger than this are refused.
pub(crate) const MAX_METADATA_BYTES: u64 = 4 << 20;
/// Overlay mounts get slow, then impossible, with more layers; Docker stops at 127 as well.
pub(crate) const MAX_LAYERS: usize = 127;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a client says it accepts.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// Why a manifest or a config cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not the JSON of a manifest.
    #[error("{what} is malformed: {problem}")]
    Malformed {
        /// Manifest, index or config.
        what: &'static str,
        /// The parser's words.
        problem: String,
    },
    /// CVE-2021-41190: readable as two different things.
    #[error("it has both \"layers\" and \"manifests\", so it can be read in two ways")]
    Ambiguous,
    /// The server's content type and the document's own media type differ.
    #[error("it calls itself {inside:?} but the registry serves it as {outside:?}")]
    MediaTypeMismatch {
        /// `mediaType` in the document.
        inside: String,
        /// `Content-Type` of the response, or the type its descriptor names.
        outside: String,
    },
    /// A document or layer of a kind that this store does not handle.
    #[error("{what} has the unsupported media type {media_type:?}")]
    UnsupportedMediaType {
        /// What has the type.
        what: String,
        /// The type.
        media_type: String,
    },
    /// A layer that must be fetched from somewhere else, or may not be copied.
    #[error("layer {0} is a foreign (non-distributable) layer, which is not supported")]
    ForeignLayer(Digest),
    /// Only schema version 2 exists today.
    #[error(
        "schema version {0} is not supported (only 2 is); push the image again with a current tool"
    )]
    SchemaVersion(u64),
    /// More layers than can be mounted.
    #[error("it has {0} layers, more than the {MAX_LAYERS} allowed")]
    TooManyLayers(usize),
    /// Nothing to run in it (and CVE-2026-24054: nothing to mount).
    #[error("it has no layers, so there is nothing to run")]
    NoLayers,
    /// A size that is negative, zero or beyond a bound.
    #[error("{what} declares {size} bytes, outside of 1 to {limit}")]
    Size {
        /// What declares it.
        what: String,
        /// The size.
        size: i64,
        /// The largest allowed.
        limit: u64,
    },
    /// Manifest and config disagree on the number of layers.
    #[error("the manifest lists {layers} layers but the config {diff_ids} diff ids")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
}

/// Where to find a blob and what it must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// One layer, from its descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerBlob {
    pub(crate) blob: Blob,
    pub(crate) compression: Compression,
}

/// A manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<LayerBlob>,
}

/// One line of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) blob: Blob,
    pub(crate) media_type: String,
    pub(crate) platform: Option<Platform>,
}

/// What a registry answers to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<IndexEntry>),
}

/// What an image says about how to run it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, replaced by those of the user.
    pub cmd: Vec<String>,
    /// `NAME=value` lines.
    pub env: Vec<String>,
    /// Where to start.
    pub working_dir: Option<String>,
    /// `user[:group]`, as names or numbers; still to be checked against the image.
    pub user: Option<String>,
    /// The signal that asks it to stop, such as `SIGQUIT`.
    pub stop_signal: Option<String>,
    /// Free text by the image's maker: never to be taken as control data.
    pub labels: BTreeMap<String, String>,
    /// Such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// In Go's words, such as `amd64`.
    pub architecture: String,
    /// Always `linux` here.
    pub os: String,
}

/// One step of how an image was made, as its maker says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// When, in the maker's words.
    pub created: Option<String>,
    /// By which command.
    pub created_by: Option<String>,
    /// Free text.
    pub comment: Option<String>,
    /// It made no layer.
    pub empty_layer: bool,
}

/// A config with the layers' digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParsedConfig {
    pub(crate) config: ImageConfig,
    pub(crate) platform: Platform,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: Digest,
    size: i64,
    #[serde(default)]
    urls: Vec<String>,
    platform: Option<Platform>,
}

/// Reads a manifest or an index; `content_type` is what the server (or the descriptor that led here) says it is.
pub(crate) fn parse_document(
    bytes: &[u8],
    content_type: Option<&str>,
) -> Result<Document, ManifestError> {
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(|e| malformed("manifest", &e))?;
    if raw.schema_version != 2 {
        return Err(ManifestError::SchemaVersion(raw.schema_version));
    }
    if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
        return Err(ManifestError::Ambiguous);
    }
    // A registry without a clue says application/json or octet-stream: that is no claim to be held against it.
    let outside = content_type
        .map(|text| text.split(';').next().unwrap_or(text).trim())
        .filter(|text| text.starts_with("application/vnd."));
    if let (Some(inside), Some(outside)) = (raw.media_type.as_deref(), outside)
        && inside != outside
    {
        return Err(ManifestError::MediaTypeMismatch {
            inside: shorten(inside),
            outside: shorten(outside),
        });
    }
    let is_index = raw.manifests.is_some();
    let fallback = if is_index { OCI_INDEX } else { OCI_MANIFEST };
    let media_type = raw.media_type.as_deref().or(outside).unwrap_or(fallback);
    let expected: [&str; 2] = if is_index {
        [OCI_INDEX, DOCKER_LIST]
    } else {
        [OCI_MANIFEST, DOCKER_MANIFEST]
    };
    if !expected.contains(&media_type) {
        return Err(ManifestError::UnsupportedMediaType {
            what: "the document".into(),
            media_type: shorten(media_type),
        });
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(entries), None, None) => entries
            .into_iter()
            .map(index_entry)
            .collect::<Result<_, _>>()
            .map(Document::Index),
        (None, Some(config), Some(layers)) => manifest(&config, layers).map(Document::Manifest),
        (_, config, _) => Err(ManifestError::Malformed {
            what: "manifest",
            problem: format!(
                "missing field `{}`",
                if config.is_none() { "config" } else { "layers" }
            ),
        }),
    }
}

fn index_entry(raw: RawDescriptor) -> Result<IndexEntry, ManifestError> {
    let blob = blob("a manifest in the index", &raw, MAX_METADATA_BYTES)?;
    Ok(IndexEntry {
        blob,
        media_type: raw.media_type,
        platform: raw.platform,
    })
}

fn manifest(config: &RawDescriptor, layers: Vec<RawDescriptor>) -> Result<Manifest, ManifestError> {
    if config.media_type != OCI_CONFIG && config.media_type != DOCKER_CONFIG {
        return Err(ManifestError::UnsupportedMediaType {
            what: "the config (is this a container image?)".into(),
            media_type: shorten(&config.media_type),
        });
    }
    if layers.is_empty() {
        return Err(ManifestError::NoLayers);
    }
    if layers.len() > MAX_LAYERS {
        return Err(ManifestError::TooManyLayers(layers.len()));
    }
    Ok(Manifest {
        config: blob("the config", config, MAX_METADATA_BYTES)?,
        layers: layers.iter().map(layer).collect::<Result<_, _>>()?,
    })
}

fn layer(raw: &RawDescriptor) -> Result<LayerBlob, ManifestError> {
    if raw.media_type.contains("nondistributable")
        || raw.media_type.contains("foreign")
        || !raw.urls.is_empty()
    {
        return Err(ManifestError::ForeignLayer(raw.digest));
    }
    let compression = match raw.media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        OCI_LAYER_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        other => {
            return Err(ManifestError::UnsupportedMediaType {
                what: format!("layer {}", raw.digest),
                media_type: shorten(other),
            });
        }
    };
    // 1 TiB: a bound against nonsense only, the store's own limits are much lower.
    Ok(LayerBlob {
        blob: blob("a layer", raw, 1 << 40)?,
        compression,
    })
}

fn blob(what: &str, raw: &RawDescriptor, limit: u64) -> Result<Blob, ManifestError> {
    match u64::try_from(raw.size) {
        Ok(size) if (1..=limit).contains(&size) => Ok(Blob {
            digest: raw.digest,
            size,
        }),
        Ok(_) | Err(_) => Err(ManifestError::Size {
            what: format!("{what} ({})", raw.digest),
            size: raw.size,
            limit,
        }),
    }
}

fn malformed(what: &'static str, error: &serde_json::Error) -> ManifestError {
    ManifestError::Malformed {
        what,
        problem: shorten(&error.to_string()),
    }
}

/// Words of somebody else's for a message: it goes into logs, terminals and statuses of tasks.
pub(crate) fn shorten(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(200).collect()
}

#[derive(Deserialize)]
struct RawConfigFile {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(default)]
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

/// Reads an image's config.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<ParsedConfig, ManifestError> {
    let raw: RawConfigFile = serde_json::from_slice(bytes).map_err(|e| malformed("config", &e))?;
    let known = |field: Option<String>, name: &str| {
        let problem = format!("missing field `{name}`");
        field
            .filter(|text| !text.is_empty())
            .ok_or(ManifestError::Malformed {
                what: "config",
                problem,
            })
    };
    let platform = Platform {
        os: known(raw.os, "os")?,
        architecture: known(raw.architecture, "architecture")?,
        variant: raw.variant.filter(|text| !text.is_empty()),
    };
    let run = raw.config.unwrap_or_default();
    let filled = |field: Option<String>| field.filter(|text| !text.is_empty());
    let config = ImageConfig {
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        working_dir: filled(run.working_dir),
        user: filled(run.user),
        stop_signal: filled(run.stop_signal),
        labels: run.labels.unwrap_or_default(),
        exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
    };
    Ok(ParsedConfig {
        config,
        platform,
        diff_ids: raw.rootfs.diff_ids.unwrap_or_default(),
    })
}

/// Reads the history in an image's config; most makers write one, none has to.
pub(crate) fn parse_history(bytes: &[u8]) -> Result<Vec<HistoryEntry>, ManifestError> {
    #[derive(Deserialize)]
    struct History {
        #[serde(default)]
        history: Option<Vec<HistoryEntry>>,
    }
    let raw: History = serde_json::from_slice(bytes).map_err(|e| malformed("config", &e))?;
    Ok(raw.history.unwrap_or_default())
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
