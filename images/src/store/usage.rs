//! What images take on the disk (pure): their own bytes, and those of layers that they share.

use std::collections::{BTreeMap, BTreeSet};

use super::index::Record;
use crate::digest::Digest;
use crate::reference::Reference;

/// The bytes of one image on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Of layers that no other image has: what goes with it.
    pub own_bytes: u64,
    /// Of layers that other images have as well.
    pub shared_bytes: u64,
}

/// Which images have a layer, each once however many names it goes by.
pub(crate) fn owners<'a>(
    images: impl Iterator<Item = &'a Record>,
) -> BTreeMap<Digest, BTreeSet<Digest>> {
    let mut owners: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
    for image in images {
        for layer in &image.layers {
            owners.entry(*layer).or_default().insert(image.manifest);
        }
    }
    owners
}

/// What each image takes. Two names of one image share nothing with each other: both tell what the image takes.
pub(crate) fn usage<'a>(
    images: impl Iterator<Item = &'a Record> + Clone,
    size: impl Fn(&Digest) -> u64,
) -> BTreeMap<Reference, DiskUsage> {
    let owners = owners(images.clone());
    let mut usage = BTreeMap::new();
    for image in images {
        let mut of_image = DiskUsage::default();
        for layer in image.layers.iter().collect::<BTreeSet<_>>() {
            let alone = owners.get(layer).is_none_or(|owners| owners.len() < 2);
            if alone {
                of_image.own_bytes += size(layer);
            } else {
                of_image.shared_bytes += size(layer);
            }
        }
        usage.insert(image.reference.clone(), of_image);
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, manifest: &str, layers: &[&str]) -> Record {
        Record {
            manifest: Digest::of(manifest.as_bytes()),
            ..super::super::gc::tests::image(name, layers)
        }
    }

    #[test]
    fn shared_layers_are_told_apart_from_own_ones() {
        let images = [
            image("a", "a", &["base", "a"]),
            image("b", "b", &["base", "b", "b2"]),
            image("same-as-a", "a", &["base", "a"]),
        ];
        let size = |layer: &Digest| {
            if *layer == Digest::of(b"base") {
                100
            } else {
                1
            }
        };
        let usage = usage(images.iter(), size);
        let of = |name: &str| usage[&name.parse::<Reference>().unwrap()];
        let told = |own_bytes, shared_bytes| DiskUsage {
            own_bytes,
            shared_bytes,
        };
        assert_eq!(of("a"), told(1, 100));
        assert_eq!(of("same-as-a"), told(1, 100));
        assert_eq!(of("b"), told(2, 100));
    }
}
