//! What nobody needs any more, and what may go when the disk is full (pure): roots and contents in, deletions out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::index::Record;
use crate::digest::Digest;
use crate::reference::Reference;

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

/// An image that might go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) reference: Reference,
    pub(crate) layers: Vec<Digest>,
    pub(crate) last_used: SystemTime,
}

/// Which images shall go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The longest unused first.
    pub(crate) victims: Vec<Reference>,
    /// Bytes that are free when they are gone.
    pub(crate) frees: u64,
    /// Images that stay because somebody stands on them.
    pub(crate) in_use: usize,
    /// Images that stay because they were used just now.
    pub(crate) young: usize,
}

/// Whether somebody stands on an image: its topmost chain id speaks of all its layers.
pub(crate) fn is_used(layers: &[Digest], held: &BTreeSet<Digest>) -> bool {
    layers.last().is_some_and(|top| held.contains(top))
}

/// Chooses images to free `need` bytes: unused ones, older than `min_age`, the longest unused first, and none whose end
/// frees nothing. `held` are layers that stay whatever happens.
pub(crate) fn plan(
    mut images: Vec<Candidate>,
    held: &BTreeSet<Digest>,
    size: impl Fn(&Digest) -> u64,
    need: u64,
    now: SystemTime,
    min_age: Duration,
) -> Plan {
    let mut plan = Plan::default();
    let mut names: BTreeMap<Digest, usize> = BTreeMap::new();
    let distinct = |image: &Candidate| image.layers.iter().copied().collect::<BTreeSet<_>>();
    for layer in images.iter().flat_map(&distinct) {
        *names.entry(layer).or_insert(0) += 1;
    }
    images.sort_by(|left, right| {
        (left.last_used, &left.reference).cmp(&(right.last_used, &right.reference))
    });
    let mut chosen = Vec::new();
    for image in images {
        if is_used(&image.layers, held) {
            plan.in_use += 1;
            continue;
        }
        // A time in the future is a clock that was set: as good as now.
        let age = now.duration_since(image.last_used).unwrap_or_default();
        if age < min_age {
            plan.young += 1;
            continue;
        }
        if plan.frees >= need {
            continue;
        }
        for layer in distinct(&image) {
            let left = names.entry(layer).or_insert(1);
            *left -= 1;
            if *left == 0 && !held.contains(&layer) {
                plan.frees += size(&layer);
            }
        }
        chosen.push(image);
    }
    let contributes = |image: &Candidate| {
        let mut layers = image.layers.iter();
        layers.any(|layer| names.get(layer) == Some(&0) && !held.contains(layer) && size(layer) > 0)
    };
    let victims = chosen.into_iter().filter(contributes);
    plan.victims = victims.map(|image| image.reference).collect();
    plan
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    pub(crate) fn image(name: &str, layers: &[&str]) -> Record {
        Record {
            version: 1,
            reference: name.parse().unwrap(),
            manifest: digest(&format!("manifest of {name}")),
            config: digest(&format!("config of {name}")),
            layers: layers.iter().map(|name| digest(name)).collect(),
            size_compressed: 0,
            size_unpacked: 0,
            pulled_at: None,
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

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const NOW: u64 = 1000;
    const MIN_AGE: u64 = 100;
    const LAYERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    fn size(layer: &Digest) -> u64 {
        let at = LAYERS.iter().position(|name| digest(name) == *layer);
        1 << at.unwrap()
    }

    /// Bytes that are free when `gone` go, counted anew.
    fn freed(images: &[Candidate], gone: &[Reference], held: &BTreeSet<Digest>) -> u64 {
        let stays: BTreeSet<_> = images
            .iter()
            .filter(|image| !gone.contains(&image.reference))
            .flat_map(|image| &image.layers)
            .collect();
        let all: BTreeSet<_> = images.iter().flat_map(|image| &image.layers).collect();
        all.into_iter()
            .filter(|layer| !stays.contains(layer) && !held.contains(*layer))
            .map(size)
            .sum()
    }

    prop_compose! {
        fn stores()(
            images in prop::collection::vec(
                (prop::collection::vec(0usize..LAYERS.len(), 1..4), 0u64..1200),
                0..8,
            ),
            used in prop::collection::vec(0usize..8, 0..3),
            need in 0u64..80,
        ) -> (Vec<Candidate>, BTreeSet<Digest>, u64) {
            let images: Vec<Candidate> = images
                .into_iter()
                .enumerate()
                .map(|(n, (layers, used))| Candidate {
                    reference: format!("image:{n}").parse().unwrap(),
                    layers: layers.into_iter().map(|at| digest(LAYERS[at])).collect(),
                    last_used: at(used),
                })
                .collect();
            let held = used
                .into_iter()
                .filter_map(|n| images.get(n))
                .flat_map(|image| image.layers.clone())
                .collect();
            (images, held, need)
        }
    }

    proptest! {
        #[test]
        fn what_goes_is_unused_old_and_just_enough((images, held, need) in stores()) {
            let min_age = Duration::from_secs(MIN_AGE);
            let plan = plan(images.clone(), &held, size, need, at(NOW), min_age);
            let eligible = |image: &&Candidate| {
                !is_used(&image.layers, &held) && image.last_used <= at(NOW - MIN_AGE)
            };
            let of = |reference: &Reference| {
                images.iter().find(|image| image.reference == *reference).unwrap()
            };
            for victim in &plan.victims {
                prop_assert!(eligible(&of(victim)), "{victim} must stay");
            }
            prop_assert_eq!(plan.frees, freed(&images, &plan.victims, &held), "it frees what it says");
            let all: Vec<Reference> =
                images.iter().filter(eligible).map(|image| image.reference.clone()).collect();
            match plan.victims.split_last() {
                _ if plan.frees < need => prop_assert_eq!(
                    plan.frees,
                    freed(&images, &all, &held),
                    "too little, although more could go"
                ),
                Some((_, others)) => {
                    prop_assert!(freed(&images, others, &held) < need, "one too many");
                }
                None => prop_assert_eq!(need, 0),
            }
            // The longest unused first: of the older ones stays only what would free nothing.
            let ages: Vec<_> = plan.victims.iter().map(|victim| of(victim).last_used).collect();
            prop_assert!(ages.is_sorted());
            if let Some(newest) = ages.last() {
                for image in images.iter().filter(eligible) {
                    if image.last_used < *newest && !plan.victims.contains(&image.reference) {
                        let mut more = plan.victims.clone();
                        more.push(image.reference.clone());
                        prop_assert_eq!(freed(&images, &more, &held), plan.frees);
                    }
                }
            }
            let counted = plan.in_use + plan.young + all.len();
            prop_assert_eq!(counted, images.len(), "each image stays for one reason or may go");
        }
    }

    #[test]
    fn two_names_of_one_image_go_together_or_not_at_all() {
        let candidate = |name: &str, used| Candidate {
            reference: name.parse().unwrap(),
            layers: vec![digest("a"), digest("b")],
            last_used: at(used),
        };
        let images = vec![candidate("one", 1), candidate("two", 2)];
        let min_age = Duration::from_secs(MIN_AGE);
        let none = BTreeSet::new();
        let both = plan(images.clone(), &none, size, 1, at(NOW), min_age);
        assert_eq!((both.victims.len(), both.frees), (2, 3));
        // The second name is young: without it, the end of the first frees nothing.
        let images = vec![candidate("one", 1), candidate("two", NOW)];
        let neither = plan(images, &none, size, 1, at(NOW), min_age);
        assert_eq!((neither.victims.len(), neither.frees), (0, 0));
        assert_eq!(neither.young, 1);
    }

    #[test]
    fn an_empty_store_has_no_garbage() {
        assert_eq!(
            garbage([].iter(), &BTreeSet::new(), [].into_iter(), [].into_iter()),
            Garbage::default()
        );
    }
}
