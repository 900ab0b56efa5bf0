//! When to try again (pure): exponential back-off with jitter. A registry's own wish is kept, or the attempt given up.

use std::time::Duration;

/// Attempts for one request to a registry, the first included.
pub(crate) const ATTEMPTS: u32 = 5;
/// The same for a mirror: there is somebody else to ask.
pub(crate) const MIRROR_ATTEMPTS: u32 = 2;
const FIRST: Duration = Duration::from_millis(150);
const LONGEST: Duration = Duration::from_secs(10);
/// Who asks for more gets no further attempt: to come back earlier than asked would be held against us.
pub(crate) const LONGEST_WISH: Duration = Duration::from_secs(300);

/// How long to wait after the `failures`th failure in a row; none when there is no further attempt of `attempts`.
///
/// `jitter` in 0..1 spreads the machines of a fleet, which all saw the registry fail at the same moment.
pub(crate) fn delay(
    failures: u32,
    attempts: u32,
    jitter: f64,
    wish: Option<Duration>,
) -> Option<Duration> {
    let too_long = wish.is_some_and(|wish| wish > LONGEST_WISH);
    if failures == 0 || failures >= attempts || too_long {
        return None;
    }
    let plain = FIRST
        .saturating_mul(1 << (failures - 1).min(16))
        .min(LONGEST);
    let spread = plain.mul_f64(0.5 + jitter.clamp(0.0, 1.0));
    Some(wish.map_or(spread, |wish| wish + spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_end() {
        let delays: Vec<_> = (1..=ATTEMPTS)
            .map(|failures| delay(failures, ATTEMPTS, 0.5, None))
            .collect();
        assert_eq!(delays[0], Some(FIRST));
        assert!(
            delays[..delays.len() - 1]
                .windows(2)
                .all(|pair| pair[0] < pair[1])
        );
        assert_eq!(delays[delays.len() - 1], None);
        assert_eq!(delay(MIRROR_ATTEMPTS, MIRROR_ATTEMPTS, 0.5, None), None);
    }

    #[test]
    fn a_registry_is_never_asked_earlier_than_it_wishes() {
        for jitter in [0.0, 0.5, 1.0] {
            let wish = Duration::from_secs(7);
            let waits = delay(1, ATTEMPTS, jitter, Some(wish)).unwrap();
            assert!(
                waits >= wish && waits < wish + Duration::from_secs(1),
                "{waits:?}"
            );
        }
        let longer = LONGEST_WISH + Duration::from_secs(1);
        assert_eq!(delay(1, ATTEMPTS, 0.0, Some(longer)), None);
    }
}
