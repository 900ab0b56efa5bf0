//! What `docker save` wrote before it wrote OCI layouts: `manifest.json`, configs and `layer.tar` files.
//!
//! There are no digests but those of the config's name and the diff ids in it, so a manifest is made here; the image's
//! digest is that of this manifest, the same for the same image but not what a registry calls it. Layers are stored as
//! they are: plain from Docker, compressed from some other tools.

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::ImportError;
use super::choose::{Candidate, choose};
use super::source::Source;
use super::spool::{self, Packing};
use crate::digest::Digest;
use crate::manifest::{self, Document, ManifestError, OCI_CONFIG, OCI_MANIFEST};
use crate::pull::Incoming;
use crate::reference::Reference;
use crate::section::Section;
use crate::unpack::UnpackLimits;
use crate::unpack::paths::LayerPath;

/// The list of images.
pub(crate) const LIST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// An image with the places of its layers, bottom first.
pub(crate) fn read(
    source: &Source,
    image: Option<&str>,
    tag: Option<&Reference>,
) -> Result<(Reference, Incoming, Vec<Section>), ImportError> {
    let text = source.text(LIST, &source.need(LIST)?)?;
    let items: Vec<Item> = serde_json::from_slice(&text)
        .map_err(|error| source.part(LIST, format!("is malformed: {error}")))?;
    let candidates: Vec<Candidate> = items
        .iter()
        .map(|item| Candidate {
            names: item.repo_tags.clone().unwrap_or_default(),
            digest: claimed_digest(&item.config)
                .map_or_else(|| item.config.clone(), |digest| digest.to_string()),
        })
        .collect();
    let (at, name) = choose(&source.origin, &candidates, image, tag)?;
    let item = &items[at];
    let config_name = inside(source, &item.config)?;
    let config = source.text(&config_name, &source.need(&config_name)?)?;
    if let Some(claimed) = claimed_digest(&item.config) {
        source.check(&config_name, &config, claimed)?;
    }
    let unusable = |name: &str| {
        let (origin, name) = (source.origin.clone(), name.to_string());
        move |problem| ImportError::Manifest {
            origin,
            name,
            problem,
        }
    };
    let diff_ids = manifest::parse_config(&config)
        .map_err(unusable(&config_name))?
        .diff_ids;
    let counts = (item.layers.len(), diff_ids.len());
    if counts.0 != counts.1 {
        return Err(unusable(LIST)(ManifestError::LayerCount {
            layers: counts.0,
            diff_ids: counts.1,
        }));
    }
    // Before layers are read to be hashed.
    if counts.0 > manifest::MAX_LAYERS {
        return Err(unusable(LIST)(ManifestError::TooManyLayers(counts.0)));
    }
    let mut layers = Vec::new();
    let mut descriptors = Vec::new();
    for (layer, diff_id) in item.layers.iter().zip(&diff_ids) {
        let name = inside(source, layer)?;
        let section = source.need(&name)?;
        let head = section
            .head(spool::MAGIC)
            .map_err(|error| source.io("read", &name, error))?;
        let (suffix, digest) = match spool::packing(&head) {
            Packing::None => ("", *diff_id),
            Packing::Gzip => ("+gzip", hash(source, &name, &section)?),
            Packing::Zstd => ("+zstd", hash(source, &name, &section)?),
            packing @ (Packing::Bzip2 | Packing::Xz) => {
                let problem =
                    format!("is compressed with {packing:?}, which no layer of an image is");
                return Err(source.part(&name, problem));
            }
        };
        descriptors.push(json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
            "digest": digest,
            "size": section.size(),
        }));
        layers.push(section);
    }
    let manifest_bytes = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": Digest::of(&config), "size": config.len()},
        "layers": descriptors,
    })
    .to_string()
    .into_bytes();
    let document =
        manifest::parse_document(&manifest_bytes, Some(OCI_MANIFEST)).map_err(unusable(LIST))?;
    let Document::Manifest(manifest) = document else {
        unreachable!("a document with layers is a manifest")
    };
    let incoming = Incoming {
        manifest,
        manifest_digest: Digest::of(&manifest_bytes),
        manifest_bytes,
        config,
    };
    Ok((name, incoming, layers))
}

/// A name in the list as a name in the archive.
fn inside(source: &Source, name: &str) -> Result<String, ImportError> {
    LayerPath::parse(name.as_bytes(), &UnpackLimits::default())
        .ok()
        .and_then(|path| String::from_utf8(path.bytes().to_vec()).ok())
        .filter(|path| !path.is_empty())
        .ok_or_else(|| {
            let name: String = name.chars().take(100).collect();
            source.part(LIST, format!("names {name:?}, which is no name of a file"))
        })
}

/// The digest that a config's name says it has: `HEX.json`, `sha256:HEX` or `blobs/sha256/HEX`.
fn claimed_digest(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let hex = last.strip_suffix(".json").unwrap_or(last);
    Digest::from_hex(hex.strip_prefix("sha256:").unwrap_or(hex)).ok()
}

fn hash(source: &Source, name: &str, section: &Section) -> Result<Digest, ImportError> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut section.reader(), &mut hasher)
        .map_err(|error| source.io("read", name, error))?;
    Ok(Digest::from_hasher(hasher))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configs_name_says_its_digest_in_all_the_known_ways() {
        let digest = Digest::of(b"x");
        for name in [
            format!("{}.json", digest.hex()),
            digest.to_string(),
            format!("blobs/sha256/{}", digest.hex()),
        ] {
            assert_eq!(claimed_digest(&name), Some(digest), "{name}");
        }
        assert_eq!(claimed_digest("config.json"), None);
    }
}
