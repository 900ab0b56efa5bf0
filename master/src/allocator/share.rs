//! Dominant shares, exact and comparable.
//!
//! A share is the largest fraction of any resource of the cluster that somebody holds, offers included, divided by a
//! weight. Integers throughout, so that the same books give the same order on every machine.

use super::Quantities;

/// Weight 1.
pub const DEFAULT_WEIGHT_MILLIS: u64 = 1000;

/// Bits behind the point.
const FRACTION_BITS: u32 = 40;

/// A dominant share; smaller is offered to first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u128);

impl Share {
    /// Of one who holds `held` of `total` with that weight.
    #[must_use]
    pub fn dominant(held: &Quantities, total: &Quantities, weight_millis: u64) -> Self {
        let weight = u128::from(weight_millis.max(1));
        let fraction = held
            .iter()
            .filter_map(|(name, millis)| {
                let (held, total) = (
                    u128::try_from(millis).ok()?,
                    u128::try_from(total.get(name)).ok()?,
                );
                Some(
                    held.checked_shl(FRACTION_BITS)?
                        .checked_div(total)
                        .unwrap_or(0),
                )
            })
            .max()
            .unwrap_or(0);
        Self(fraction.saturating_mul(u128::from(DEFAULT_WEIGHT_MILLIS)) / weight)
    }

    /// In millionths, to the nearest.
    #[must_use]
    pub fn parts_per_million(self) -> u64 {
        let half = 1 << (FRACTION_BITS - 1);
        let millionths = self.0.saturating_mul(1_000_000).saturating_add(half) >> FRACTION_BITS;
        u64::try_from(millionths).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantities(text: &str) -> Quantities {
        Quantities::of(&text.parse().unwrap())
    }

    #[test]
    fn the_share_is_that_of_the_dominant_resource() {
        let total = quantities("cpus:9;mem:18");
        for (held, weight, ppm) in [
            ("cpus:3;mem:12", 1000, 666_667),
            ("cpus:6;mem:2", 1000, 666_667),
            ("cpus:3;mem:12", 2000, 333_333),
            ("", 1000, 0),
            ("gpus:1", 1000, 0),
        ] {
            assert_eq!(
                Share::dominant(&quantities(held), &total, weight).parts_per_million(),
                ppm,
                "{held}"
            );
        }
    }
}
