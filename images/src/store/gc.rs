//! What nobody needs any more (pure): roots and contents in, deletions out.

use std::collections::BTreeSet;

use super::index::Record;
use crate::digest::Digest;

/// What may be deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Garbage {
    pub(crate) layers: BTreeSet<Digest>,
    pub(crate) blobs: BTreeSet<Digest>,
}

/// Everything in the store that no image and no pin (a running pull, a snapshot) holds.
pub(crate) fn garbage<'a>(
    images: impl Iterator<Item = &'a Record>,
    pinned: &BTreeSet<Digest>,
    layers: impl Iterator<Item = Digest>,
    blobs: impl Iterator<Item = Digest>,
) -> Garbage {
    let mut kept_layers = pinned.clone();
    let mut kept_blobs = pinned.clone();
    for image in images {
        kept_layers.extend(image.layers.iter().copied());
        kept_blobs.extend([image.manifest, image.config]);
    }
    Garbage {
        layers: layers
            .filter(|layer| !kept_layers.contains(layer))
            .collect(),
        blobs: blobs.filter(|blob| !kept_blobs.contains(blob)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn image(name: &str, layers: &[&str]) -> Record {
        Record {
            version: 1,
            reference: name.parse().unwrap(),
            manifest: digest(&format!("manifest of {name}")),
            config: digest(&format!("config of {name}")),
            layers: layers.iter().map(|name| digest(name)).collect(),
            size_compressed: 0,
            size_unpacked: 0,
            with_secret: false,
        }
    }

    #[test]
    fn shared_and_pinned_contents_stay() {
        let images = [image("a", &["base", "a"]), image("b", &["base", "b"])];
        let layers = ["base", "a", "b", "old", "pulled", "run"].map(digest);
        let pinned = BTreeSet::from([digest("pulled"), digest("run")]);
        let found = garbage(
            images.iter(),
            &pinned,
            layers.into_iter(),
            [images[0].manifest, digest("x")].into_iter(),
        );
        assert_eq!(found.layers, BTreeSet::from([digest("old")]));
        assert_eq!(found.blobs, BTreeSet::from([digest("x")]));
    }

    #[test]
    fn an_empty_store_has_no_garbage() {
        assert_eq!(
            garbage([].iter(), &BTreeSet::new(), [].into_iter(), [].into_iter()),
            Garbage::default()
        );
    }
}
