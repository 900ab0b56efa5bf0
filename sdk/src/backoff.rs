//! How long to wait before the next attempt. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Between half of it and all of it of 100 ms × 2^failures, at most 5 s. `random` in 0..1 keeps a thousand frameworks
/// apart that lost the same master.
pub(crate) fn pause(failures: u32, random: f64) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    let most = FIRST.saturating_mul(factor).min(LONGEST);
    most.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds_and_differ() {
        assert_eq!(pause(0, 1.0), Duration::from_millis(100));
        assert_eq!(pause(0, 0.0), Duration::from_millis(50));
        assert_eq!(pause(3, 1.0), Duration::from_millis(800));
        for failures in [6, 31, 32, u32::MAX] {
            assert_eq!(pause(failures, 1.0), LONGEST);
        }
    }
}
