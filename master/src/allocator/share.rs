//! Dominant shares, exact and comparable.
//!
//! A share is the largest fraction of any resource of the cluster that somebody holds, offers included, divided by a
//! weight. Integers throughout, and one division only: what is equal as a fraction is equal here, so that the same
//! books give the same order on every machine.

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
        let pairs = held.iter().map(|(name, held)| (held, total.get(name)));
        Self::largest(pairs, weight_millis)
    }

    /// The same, of amounts in the same places.
    pub(super) fn of(held: &[i128], total: &[i128], weight_millis: u64) -> Self {
        Self::largest(
            held.iter().copied().zip(total.iter().copied()),
            weight_millis,
        )
    }

    fn largest(pairs: impl Iterator<Item = (i128, i128)>, weight_millis: u64) -> Self {
        // Compared crosswise, so that only the winner is divided.
        let (mut most, mut of) = (0_u128, 1_u128);
        for (held, total) in pairs {
            let (Ok(held), Ok(total)) = (u128::try_from(held), u128::try_from(total)) else {
                continue;
            };
            if total > 0 && product(held, of) > product(most, total) {
                (most, of) = (held, total);
            }
        }
        let above = product(most, u128::from(DEFAULT_WEIGHT_MILLIS) << FRACTION_BITS);
        Self(above / product(of, u128::from(weight_millis.max(1))))
    }

    /// In millionths, to the nearest.
    #[must_use]
    pub fn parts_per_million(self) -> u64 {
        let half = 1 << (FRACTION_BITS - 1);
        let millionths = self.0.saturating_mul(1_000_000).saturating_add(half) >> FRACTION_BITS;
        u64::try_from(millionths).unwrap_or(u64::MAX)
    }
}

/// Saturates. Amounts of real clusters need 64 bits, whose product a single instruction makes.
fn product(a: u128, b: u128) -> u128 {
    if (a | b) >> 64 == 0 {
        a * b
    } else {
        a.saturating_mul(b)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn equal_fractions_are_equal_shares(
            held in 1..1_000_000_i128, total in 1..1_000_000_i128, times in 1..1000_i128, weight in 1..100_000_u64,
        ) {
            let once = Share::of(&[held], &[total], weight);
            prop_assert_eq!(once, Share::of(&[held * times], &[total * times], weight));
            let n = u64::try_from(times).unwrap();
            prop_assert_eq!(once, Share::of(&[held * times], &[total], weight * n));
        }
    }
}
