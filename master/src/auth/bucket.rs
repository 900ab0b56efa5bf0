//! How often: a token bucket per principal, in whole thousandths of a call. Pure.

/// So many calls in a second, so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    per_sec: u32,
    burst: u32,
}

impl Rate {
    /// `None` where `per_sec` is zero: no limit. A burst of zero is that of one second.
    pub(super) fn new(per_sec: u32, burst: u32) -> Option<Self> {
        let burst = if burst == 0 { per_sec } else { burst };
        (per_sec > 0).then_some(Self { per_sec, burst })
    }

    pub(super) fn per_sec(self) -> u32 {
        self.per_sec
    }
}

const CALL: u64 = 1000;

/// What is left of a principal's calls.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Thousandths of a call.
    left: u64,
    at_ms: u64,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now_ms: u64) -> Self {
        Self {
            left: u64::from(rate.burst) * CALL,
            at_ms: now_ms,
        }
    }

    /// Takes one call, or says in how many milliseconds there will be one.
    pub(super) fn take(&mut self, rate: Rate, now_ms: u64) -> Result<(), u64> {
        // A call per second is a thousandth per millisecond.
        let per_ms = u64::from(rate.per_sec);
        let elapsed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let most = u64::from(rate.burst) * CALL;
        self.left = most.min(self.left.saturating_add(elapsed.saturating_mul(per_ms)));
        if self.left < CALL {
            return Err((CALL - self.left).div_ceil(per_ms));
        }
        self.left -= CALL;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate_pass_and_the_hint_is_right(
            per_sec in 1_u32..500,
            burst in 0_u32..50,
            steps in prop::collection::vec(0_u64..100, 1..300),
        ) {
            let rate = Rate::new(per_sec, burst).unwrap();
            let mut bucket = Bucket::full(rate, 0);
            let (mut now, mut passed) = (0_u64, 0_u64);
            for step in steps {
                now += step;
                match bucket.take(rate, now) {
                    Ok(()) => passed += 1,
                    Err(wait) => {
                        let mut later = Bucket { ..bucket };
                        prop_assert!(wait > 0);
                        prop_assert!(later.take(rate, now + wait).is_ok());
                        if wait > 1 {
                            let mut sooner = Bucket { ..bucket };
                            prop_assert!(sooner.take(rate, now + wait - 1).is_err());
                        }
                    }
                }
                prop_assert!(passed <= u64::from(rate.burst) + now * u64::from(per_sec) / 1000 + 1);
            }
        }
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        assert_eq!(Rate::new(0, 5), None);
    }
}
