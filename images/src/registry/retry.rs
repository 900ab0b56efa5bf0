//! When to try again (pure): exponential back-off with jitter, and a registry's own wish within bounds.

use std::time::Duration;

/// Attempts for one request, the first included.
pub(crate) const ATTEMPTS: u32 = 5;
const FIRST: Duration = Duration::from_millis(150);
const LONGEST: Duration = Duration::from_secs(10);
const LONGEST_WISH: Duration = Duration::from_secs(60);

/// How long to wait before attempt number `attempt` (the second is 1); none when there is no further one.
///
/// `jitter` in 0..1 spreads the machines of a fleet, which all saw the registry fail at the same moment.
pub(crate) fn delay(attempt: u32, jitter: f64, wish: Option<Duration>) -> Option<Duration> {
    if attempt == 0 || attempt >= ATTEMPTS {
        return None;
    }
    let plain = FIRST
        .saturating_mul(1 << (attempt - 1).min(16))
        .min(LONGEST);
    let spread = plain.mul_f64(0.5 + jitter.clamp(0.0, 1.0));
    Some(wish.map_or(spread, |wish| wish.min(LONGEST_WISH).max(spread)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_end() {
        let delays: Vec<_> = (1..=ATTEMPTS)
            .map(|attempt| delay(attempt, 0.5, None))
            .collect();
        assert_eq!(delays[0], Some(FIRST));
        assert!(
            delays[..delays.len() - 1]
                .windows(2)
                .all(|pair| pair[0] < pair[1])
        );
        assert_eq!(delays[delays.len() - 1], None);
    }

    #[test]
    fn a_registrys_wish_is_kept_within_a_bound() {
        assert_eq!(
            delay(1, 0.0, Some(Duration::from_secs(7))),
            Some(Duration::from_secs(7))
        );
        assert_eq!(
            delay(1, 0.0, Some(Duration::from_secs(86_400))),
            Some(LONGEST_WISH)
        );
    }
}
