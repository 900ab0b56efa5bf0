//! Manifests, indexes and image configs (pure): hostile JSON in, checked types out.
//!
//! OCI and Docker schema 2 are read into the same types. What is ambiguous (CVE-2021-41190: both `layers` and
//! `manifests`, or a media type other than the server's), oversized or of a kind that cannot run is refused here,
//! before a byte of a layer is fetched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Manifests and configs larger than this are refused.
pub(crate) const MAX_METADATA_BYTES: u64 = 4 << 20;
/// Overlay mounts get slow, then impossible, with more layers; Docker stops at 127 as well.
pub(crate) const MAX_LAYERS: usize = 127;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
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

/// Operating system, architecture and its variant, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

impl Platform {
    /// The one that this program runs on.
    pub(crate) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: host_variant(),
        }
    }

    /// Whether an image for `self` runs on `host`: a variant that counts further than the host's does not.
    pub(crate) fn runs_on(&self, host: &Self) -> bool {
        let within = match (self.level(), host.level()) {
            (Some(wanted), Some(there)) => wanted <= there,
            (Some(_) | None, _) => true,
        };
        self.os == host.os && self.architecture == host.architecture && within
    }

    /// The number in a variant such as `v8`.
    fn level(&self) -> Option<u32> {
        self.variant.as_deref()?.strip_prefix('v')?.parse().ok()
    }
}

/// What the processor can do beyond its architecture, as far as there are words for it.
#[cfg(target_arch = "x86_64")]
fn host_variant() -> Option<String> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = v3
        && has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    let level = 1 + u32::from(v2) + u32::from(v3) + u32::from(v4);
    Some(format!("v{level}"))
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> Option<String> {
    (std::env::consts::ARCH == "aarch64").then(|| "v8".to_owned())
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As an image says it: printed, it must stay one short line.
        write!(f, "{}/{}", shorten(&self.os), shorten(&self.architecture))?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", shorten(variant)),
            None => Ok(()),
        }
    }
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

/// The entry for `host`, of several the one that makes most of it (the first of equals), or the platforms that there are.
pub(crate) fn select<'a>(
    entries: &'a [IndexEntry],
    host: &Platform,
) -> Result<&'a IndexEntry, Vec<String>> {
    let fits = |entry: &&IndexEntry| {
        (entry.media_type == OCI_MANIFEST || entry.media_type == DOCKER_MANIFEST)
            && entry
                .platform
                .as_ref()
                .is_some_and(|platform| platform.runs_on(host))
    };
    let level = |entry: &IndexEntry| entry.platform.as_ref().and_then(Platform::level);
    let best = entries.iter().filter(fits).rev();
    best.max_by_key(|entry| level(entry)).ok_or_else(|| {
        // buildx adds attestations as unknown/unknown: noise to someone who looks for an architecture.
        let real = entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|p| p.os != "unknown");
        real.take(20).map(ToString::to_string).collect()
    })
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
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn descriptor(media_type: &str, size: i64) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(media_type.as_bytes()).to_string(), "size": size})
    }

    fn good() -> Value {
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, 10),
               "layers": [descriptor(OCI_LAYER_GZIP, 20)]})
    }

    fn refuse(document: &Value, content_type: Option<&str>) -> ManifestError {
        parse_document(document.to_string().as_bytes(), content_type).expect_err("was accepted")
    }

    #[test]
    fn oci_and_docker_manifests_read_alike() {
        let Ok(Document::Manifest(oci)) =
            parse_document(good().to_string().as_bytes(), Some(OCI_MANIFEST))
        else {
            panic!("not a manifest")
        };
        assert_eq!(
            (oci.config.size, oci.layers[0].compression),
            (10, Compression::Gzip)
        );
        let docker = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": descriptor(DOCKER_CONFIG, 10),
            "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", 20)]});
        parse_document(docker.to_string().as_bytes(), Some(DOCKER_MANIFEST)).unwrap();
        parse_document(docker.to_string().as_bytes(), Some("application/json")).unwrap();
    }

    #[test]
    fn a_document_that_can_be_read_in_two_ways_is_refused() {
        let mut both = good();
        both["manifests"] = json!([]);
        assert_eq!(refuse(&both, None), ManifestError::Ambiguous);
        assert!(matches!(
            refuse(&good(), Some(OCI_INDEX)),
            ManifestError::MediaTypeMismatch { .. }
        ));
    }

    #[test]
    fn unusable_documents_are_refused_with_their_own_error() {
        let mut doc = good();
        doc["schemaVersion"] = json!(1);
        assert_eq!(refuse(&doc, None), ManifestError::SchemaVersion(1));
        let mut doc = good();
        doc["layers"] = json!([]);
        assert_eq!(refuse(&doc, None), ManifestError::NoLayers);
        doc["layers"] = json!(vec![descriptor(OCI_LAYER_GZIP, 1); 10_000]);
        assert_eq!(refuse(&doc, None), ManifestError::TooManyLayers(10_000));
        doc["layers"] = json!([descriptor("application/vnd.oci.image.layer.v1.tar+lz4", 1)]);
        assert!(matches!(
            refuse(&doc, None),
            ManifestError::UnsupportedMediaType { .. }
        ));
        doc["layers"] = json!([descriptor(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            1
        )]);
        assert!(matches!(refuse(&doc, None), ManifestError::ForeignLayer(_)));
        let mut doc = good();
        doc["layers"][0]["urls"] = json!(["https://example.com/layer"]);
        assert!(matches!(refuse(&doc, None), ManifestError::ForeignLayer(_)));
        for size in [-1, 0, i64::MAX] {
            let mut doc = good();
            doc["layers"][0]["size"] = json!(size);
            assert!(
                matches!(refuse(&doc, None), ManifestError::Size { .. }),
                "{size}"
            );
        }
        let mut doc = good();
        doc["config"]["size"] = json!(10_i64 << 30);
        assert!(matches!(refuse(&doc, None), ManifestError::Size { .. }));
        let mut doc = good();
        doc["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        assert!(matches!(
            refuse(&doc, None),
            ManifestError::UnsupportedMediaType { .. }
        ));
        let mut doc = good();
        doc["layers"][0]["digest"] = json!("sha256:../../../etc/passwd");
        assert!(matches!(
            refuse(&doc, None),
            ManifestError::Malformed { .. }
        ));
        assert!(matches!(
            refuse(&json!({"schemaVersion": 2}), None),
            ManifestError::Malformed { .. }
        ));
        assert!(parse_document(b"<html>", None).is_err());
    }

    #[test]
    fn the_hosts_platform_is_picked_from_an_index() {
        let entry = |arch: &str| {
            let mut raw = descriptor(OCI_MANIFEST, 7);
            raw["platform"] = json!({"os": "linux", "architecture": arch});
            raw
        };
        let text = json!({"schemaVersion": 2, "manifests": [entry("s390x"), entry("amd64"), entry("arm64")]}).to_string();
        let Ok(Document::Index(entries)) = parse_document(text.as_bytes(), Some(OCI_INDEX)) else {
            panic!("no index")
        };
        let host = |arch: &str| Platform {
            os: "linux".into(),
            architecture: arch.into(),
            variant: None,
        };
        assert_eq!(select(&entries, &host("amd64")).unwrap(), &entries[1]);
        assert_eq!(
            select(&entries, &host("mips")).unwrap_err(),
            ["linux/s390x", "linux/amd64", "linux/arm64"]
        );
    }

    #[test]
    fn the_best_variant_that_the_host_can_run_is_picked() {
        let entry = |arch: &str, variant: Option<&str>| {
            let mut raw = descriptor(OCI_MANIFEST, 7);
            raw["platform"] = json!({"os": "linux", "architecture": arch, "variant": variant});
            raw
        };
        let pick = |host: (&str, Option<&str>), there: &[(&str, Option<&str>)]| {
            let entries: Vec<Value> = there.iter().map(|(a, v)| entry(a, *v)).collect();
            let text = json!({"schemaVersion": 2, "manifests": entries}).to_string();
            let Ok(Document::Index(entries)) = parse_document(text.as_bytes(), None) else {
                panic!("no index")
            };
            let host = Platform {
                os: "linux".into(),
                architecture: host.0.into(),
                variant: host.1.map(str::to_owned),
            };
            let picked = select(&entries, &host).ok()?;
            entries.iter().position(|entry| std::ptr::eq(entry, picked))
        };
        let (v2, v3, v6, v7, v8) = (Some("v2"), Some("v3"), Some("v6"), Some("v7"), Some("v8"));
        let amd = [("amd64", v3), ("amd64", None), ("amd64", v2), ("amd64", v2)];
        assert_eq!(pick(("amd64", v2), &amd), Some(2));
        assert_eq!(pick(("amd64", Some("v1")), &amd), Some(1));
        assert_eq!(pick(("amd64", Some("v4")), &amd), Some(0));
        assert_eq!(pick(("amd64", v2), &[("amd64", v3)]), None);
        let arm = [("arm", v6), ("arm", v7), ("arm64", v8)];
        assert_eq!(pick(("arm64", v8), &arm), Some(2));
        assert_eq!(pick(("arm", v6), &arm), Some(0));
        // What has no number is taken as it comes.
        assert_eq!(
            pick(("arm64", v8), &[("arm64", None), ("arm64", v8)]),
            Some(1)
        );
        assert_eq!(pick(("arm64", v8), &[("arm64", Some("odd"))]), Some(0));
    }

    #[test]
    fn a_config_with_nulls_reads_as_empty() {
        let text = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": null},
            "config": {"Entrypoint": null, "Cmd": ["sh"], "User": "", "ExposedPorts": {"80/tcp": {}}}});
        let parsed = parse_config(text.to_string().as_bytes()).unwrap();
        assert_eq!(parsed.config.cmd, ["sh"]);
        assert_eq!(parsed.config.exposed_ports, ["80/tcp"]);
        assert_eq!((parsed.config.user, parsed.diff_ids.len()), (None, 0));
        assert!(parse_config(b"{\"rootfs\":{}}").is_err());
    }
}
