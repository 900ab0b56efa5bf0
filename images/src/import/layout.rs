//! The OCI image layout: `oci-layout`, `index.json` and `blobs/sha256/…`.
//!
//! An index may list several images, by annotations, and one image for several platforms, directly or by an index of its
//! own. Of those the host's is taken, as in a pull.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ImportError;
use super::choose::{Candidate, choose};
use super::source::{Source, blob_name};
use crate::manifest::{self, Document, IndexEntry, Manifest, ManifestError};
use crate::platform::{self, Platform};
use crate::pull::Incoming;
use crate::reference::Reference;
use crate::section::Section;

/// The file that makes a directory an OCI layout.
pub(crate) const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct Annotated {
    manifests: Vec<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// The entries of one image: one, or one for each platform.
struct Group {
    candidate: Candidate,
    entries: Vec<IndexEntry>,
}

/// An image of a layout with the places of its layers, by digest.
pub(crate) fn read(
    source: &Source,
    image: Option<&str>,
    tag: Option<&Reference>,
    host: &Platform,
) -> Result<(Reference, Incoming, Vec<Section>), ImportError> {
    check_mark(source)?;
    let mut groups = groups(source)?;
    let candidates: Vec<Candidate> = groups.iter().map(|group| group.candidate.clone()).collect();
    let (at, name) = choose(&source.origin, &candidates, image, tag)?;
    let group = groups.swap_remove(at);
    let entry = match group.entries.as_slice() {
        [entry] => entry.clone(),
        entries => pick(source, entries, host)?,
    };
    let (manifest, bytes, digest) = manifest_of(source, &entry, host)?;
    let config = source.metadata(&manifest.config)?;
    let layers = manifest.layers.iter().map(|layer| source.blob(&layer.blob));
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let incoming = Incoming {
        manifest,
        manifest_digest: digest,
        manifest_bytes: bytes,
        config,
    };
    Ok((name, incoming, layers))
}

fn check_mark(source: &Source) -> Result<(), ImportError> {
    let text = source.text(MARK, &source.need(MARK)?)?;
    let mark: Mark = serde_json::from_slice(&text)
        .map_err(|error| source.part(MARK, format!("is malformed: {error}")))?;
    if mark.image_layout_version.starts_with("1.") {
        return Ok(());
    }
    let version: String = mark.image_layout_version.chars().take(40).collect();
    Err(source.part(
        MARK,
        format!("has version {version:?}, but only 1.x is known"),
    ))
}

fn groups(source: &Source) -> Result<Vec<Group>, ImportError> {
    let text = source.text(INDEX, &source.need(INDEX)?)?;
    let document = manifest::parse_document(&text, None).map_err(unusable(source, INDEX))?;
    let Document::Index(entries) = document else {
        return Err(source.part(INDEX, "is a manifest where an index should be"));
    };
    // The same text again for what a pull has no use for; it has just as many entries.
    let annotated: Annotated = serde_json::from_slice(&text)
        .map_err(|error| source.part(INDEX, format!("is malformed: {error}")))?;
    let mut groups: Vec<Group> = Vec::new();
    for (entry, annotations) in entries.into_iter().zip(annotated.manifests) {
        let annotations = annotations.annotations.unwrap_or_default();
        let names: Vec<String> = NAMES
            .iter()
            .filter_map(|key| annotations.get(*key).cloned())
            .collect();
        // Entries of one name, or without any but with platforms, are one image.
        let same = groups.iter_mut().find(|group| {
            group.candidate.names == names
                && entry.platform.is_some()
                && group.entries.iter().all(|other| other.platform.is_some())
        });
        match same {
            Some(group) => group.entries.push(entry),
            None => groups.push(Group {
                candidate: Candidate {
                    names,
                    digest: entry.blob.digest.to_string(),
                },
                entries: vec![entry],
            }),
        }
    }
    Ok(groups)
}

fn pick(
    source: &Source,
    entries: &[IndexEntry],
    host: &Platform,
) -> Result<IndexEntry, ImportError> {
    match platform::select(entries, host) {
        Ok(entry) => Ok(entry.clone()),
        Err(found) => Err(ImportError::WrongPlatform {
            origin: source.origin.clone(),
            wanted: host.to_string(),
            found: if found.is_empty() {
                "no known platform".into()
            } else {
                found.join(", ")
            },
        }),
    }
}

fn manifest_of(
    source: &Source,
    entry: &IndexEntry,
    host: &Platform,
) -> Result<(Manifest, Vec<u8>, crate::digest::Digest), ImportError> {
    let parsed = |entry: &IndexEntry| {
        let bytes = source.metadata(&entry.blob)?;
        let name = blob_name(&entry.blob.digest);
        let document = manifest::parse_document(&bytes, Some(&entry.media_type))
            .map_err(unusable(source, &name))?;
        Ok::<_, ImportError>((document, bytes))
    };
    let (document, bytes) = parsed(entry)?;
    let inner = match document {
        Document::Manifest(manifest) => return Ok((manifest, bytes, entry.blob.digest)),
        Document::Index(entries) => pick(source, &entries, host)?,
    };
    match parsed(&inner)? {
        (Document::Manifest(manifest), bytes) => Ok((manifest, bytes, inner.blob.digest)),
        (Document::Index(_), _) => Err(unusable(source, &blob_name(&inner.blob.digest))(
            ManifestError::Malformed {
                what: "manifest",
                problem: "an index inside of an index".into(),
            },
        )),
    }
}

fn unusable(source: &Source, name: &str) -> impl Fn(ManifestError) -> ImportError {
    let (origin, name) = (source.origin.clone(), name.to_string());
    move |problem| ImportError::Manifest {
        origin: origin.clone(),
        name: name.clone(),
        problem,
    }
}
