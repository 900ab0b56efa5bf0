//! Packing: a directory or one static program becomes an image, without Docker.
//!
//! The same input gives the same digest. The layer (see `pack_layer`) lies in an unnamed temporary file, manifest and
//! config in memory; nothing is left behind when the image is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde_json::json;
use tokio::sync::watch;

use crate::digest::Digest;
use crate::fetch::Origin;
use crate::manifest::{self, Blob, Document, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::pack_layer::LayerBuilder;
use crate::platform::Platform;
use crate::pull::{self, Incoming, PullError, PullProgress};
use crate::reference::Reference;
use crate::section::Section;
use crate::store::{Image, ImageStore};

/// What to pack and how it shall run.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// A directory that becomes the root, or a static program that becomes `/NAME`.
    pub source: PathBuf,
    /// The program and its first arguments; by default the packed program.
    pub entrypoint: Vec<String>,
    /// Further arguments, which an app may replace.
    pub cmd: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// Where to start.
    pub working_dir: Option<String>,
    /// `user[:group]`, by default root.
    pub user: Option<String>,
    /// The signal that asks it to stop.
    pub stop_signal: Option<String>,
    /// Such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// The time of the image and of every file in it: the same time gives the same digest.
    pub created: SystemTime,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            source: PathBuf::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            labels: BTreeMap::new(),
            working_dir: None,
            user: None,
            stop_signal: None,
            exposed_ports: Vec::new(),
            created: UNIX_EPOCH,
        }
    }
}

/// An image ready to be pushed or imported.
#[derive(Debug, Clone)]
pub struct PackedImage {
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_digest: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) config_digest: Digest,
    /// Bottom first.
    pub(crate) layers: Vec<PackedLayer>,
}

/// A layer in a file without a name.
#[derive(Debug, Clone)]
pub(crate) struct PackedLayer {
    pub(crate) digest: Digest,
    pub(crate) section: Section,
}

impl PackedImage {
    /// The digest that names the image everywhere.
    pub fn digest(&self) -> Digest {
        self.manifest_digest
    }

    /// Bytes that a registry will hold for it.
    pub fn size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.section.size()).sum();
        layers + (self.manifest.len() + self.config.len()) as u64
    }
}

/// Why something could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Nothing there, or not readable.
    #[error("could not {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A file that would not run alone in an image.
    #[error("{} cannot be packed alone: {reason}", path.display())]
    NotAProgram {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something that has no place in an image.
    #[error("{} cannot be packed: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// An option that cannot be written into an image's config.
    #[error("{option} {value:?} is not valid: {reason}")]
    BadOption {
        /// Which option.
        option: &'static str,
        /// Its value.
        value: String,
        /// Why.
        reason: &'static str,
    },
}

/// Packs a directory or a static program.
pub fn pack(options: &PackOptions) -> Result<PackedImage, PackError> {
    check(options)?;
    let source = &options.source;
    let io = |operation| {
        let path = source.clone();
        move |source| PackError::Io {
            operation,
            path,
            source,
        }
    };
    let found = std::fs::metadata(source).map_err(io("read"))?;
    let seconds = options
        .created
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let temporary = tempfile::tempfile().map_err(io("make a temporary file for"))?;
    let handle = temporary
        .try_clone()
        .map_err(io("make a temporary file for"))?;
    let mut layer = LayerBuilder::new(temporary, seconds);
    let mut entrypoint = options.entrypoint.clone();
    let architecture = if found.is_dir() {
        let root = open(
            source,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        layer.tree(
            root.map_err(|e| io("open")(e.into()))?,
            Path::new(""),
            source,
            0,
        )?;
        Platform::host().architecture
    } else if found.is_file() {
        let (name, architecture) = layer.program(source)?;
        if entrypoint.is_empty() {
            entrypoint.push(format!("/{name}"));
        }
        architecture.to_string()
    } else {
        return Err(PackError::Refused {
            path: source.clone(),
            reason: "it is neither a directory nor a file",
        });
    };
    let (diff_id, layer_blob) = layer.finish().map_err(io("pack"))?;
    Ok(describe(
        options,
        entrypoint,
        &architecture,
        seconds,
        diff_id,
        layer_blob,
        handle,
    ))
}

fn describe(
    options: &PackOptions,
    entrypoint: Vec<String>,
    architecture: &str,
    seconds: u64,
    diff_id: Digest,
    layer_blob: Blob,
    layer: File,
) -> PackedImage {
    let mut run = serde_json::Map::new();
    let mut set = |key: &str, value: serde_json::Value| drop(run.insert(key.to_string(), value));
    if !entrypoint.is_empty() {
        set("Entrypoint", json!(entrypoint));
    }
    if !options.cmd.is_empty() {
        set("Cmd", json!(options.cmd));
    }
    if !options.env.is_empty() {
        set(
            "Env",
            options
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        );
    }
    if !options.labels.is_empty() {
        set("Labels", json!(options.labels));
    }
    if !options.exposed_ports.is_empty() {
        let ports = options
            .exposed_ports
            .iter()
            .map(|port| (port.clone(), json!({})));
        set(
            "ExposedPorts",
            ports.collect::<serde_json::Map<_, _>>().into(),
        );
    }
    for (key, value) in [
        ("WorkingDir", &options.working_dir),
        ("User", &options.user),
        ("StopSignal", &options.stop_signal),
    ] {
        if let Some(value) = value {
            set(key, json!(value));
        }
    }
    let created = rfc3339(seconds);
    let config = json!({
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "created_by": "mezzo image pack"}],
    })
    .to_string()
    .into_bytes();
    let config_digest = Digest::of(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": OCI_LAYER_GZIP, "digest": layer_blob.digest, "size": layer_blob.size}],
    })
    .to_string()
    .into_bytes();
    let manifest_digest = Digest::of(&manifest);
    PackedImage {
        manifest,
        manifest_digest,
        config,
        config_digest,
        layers: vec![PackedLayer {
            digest: layer_blob.digest,
            section: Section::new(Arc::new(layer), 0, layer_blob.size),
        }],
    }
}

fn check(options: &PackOptions) -> Result<(), PackError> {
    let bad = |option, value: &str, reason| {
        Err(PackError::BadOption {
            option,
            value: value.into(),
            reason,
        })
    };
    for (name, value) in &options.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return bad(
                "environment variable",
                name,
                "it needs a name without '=' and no NUL bytes",
            );
        }
    }
    for word in options.entrypoint.iter().chain(&options.cmd) {
        if word.contains('\0') {
            return bad("argument", word, "it has a NUL byte");
        }
    }
    if options.entrypoint.first().is_some_and(String::is_empty) {
        return bad("entrypoint", "", "the program has no name");
    }
    if let Some(folder) = &options.working_dir
        && !folder.starts_with('/')
    {
        return bad("working directory", folder, "it must begin with '/'");
    }
    Ok(())
}

/// A time as `2026-01-31T00:00:00Z`.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970: eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

impl ImageStore {
    /// Puts a packed image into the store under a name, without a registry.
    pub async fn import(
        &self,
        packed: &PackedImage,
        reference: &Reference,
    ) -> Result<Image, PullError> {
        let unusable = |problem| PullError::Manifest {
            reference: reference.to_string(),
            problem,
        };
        let document = manifest::parse_document(&packed.manifest, None).map_err(unusable)?;
        let Document::Manifest(manifest) = document else {
            unreachable!("pack writes manifests, never an index")
        };
        let incoming = Incoming {
            manifest,
            manifest_digest: packed.manifest_digest,
            manifest_bytes: packed.manifest.clone(),
            config: packed.config.clone(),
        };
        let (told, _) = watch::channel(PullProgress::default());
        let layers = packed.layers.iter();
        let layers = layers.map(|layer| (layer.digest, layer.section.clone()));
        let origin = Origin::Local(layers.collect());
        pull::store(&self.inner, reference, incoming, &origin, told).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_registries_want_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
