//! How long an app waits before a task that ended by itself is started again.
//!
//! Pure. Marathon's rule: backoffSeconds × backoffFactorⁿ, at most maxLaunchDelaySeconds, forgotten after a quiet time
//! of delay + maxLaunchDelaySeconds, on a new configuration or on request. One thing is kinder than Marathon's: of the
//! tasks that were launched together only the first failure counts, so an app of 20 is not punished 20 times for one
//! bad launch. What fails again and again without a quiet time between is a crash loop, and is shown as one.

use serde::{Deserialize, Serialize};

use crate::app::spec::{BackoffStrategy, PPM};

/// Launches that came to nothing (TASK_DROPPED) this often in a row are delayed like failures.
const FREE_DROPS: u32 = 3;

/// So many failures in a row are a crash loop.
const CRASH_LOOP: u32 = 3;

/// The launch delay of one app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backoff {
    /// The delay in force; 0: none.
    delay_ms: u64,
    /// When the latest failure that counted was seen.
    failed_at: u64,
    /// Drops since something last ran.
    drops: u32,
    /// Failures that counted since the latest quiet time.
    #[serde(default)]
    failures: u32,
}

impl Backoff {
    /// A task that was launched at `staged_at` ended by itself.
    #[must_use]
    pub fn after_failure(self, strategy: BackoffStrategy, staged_at: u64, now: u64) -> Self {
        let current = self.unless_quiet(strategy, now);
        let has_failed = current.delay_ms > 0 || current.failures > 0;
        if has_failed && staged_at < current.failed_at {
            return current;
        }
        let next = if current.delay_ms == 0 {
            strategy.initial_ms
        } else {
            let grown =
                u128::from(current.delay_ms) * u128::from(strategy.factor_ppm) / u128::from(PPM);
            u64::try_from(grown).unwrap_or(u64::MAX)
        };
        Self {
            delay_ms: next.min(strategy.max_ms),
            failed_at: now,
            drops: current.drops,
            failures: current.failures.saturating_add(1),
        }
    }

    /// A launch came to nothing through no fault of the task.
    #[must_use]
    pub fn after_drop(self, strategy: BackoffStrategy, staged_at: u64, now: u64) -> Self {
        let drops = self.drops.saturating_add(1);
        let counted = Self { drops, ..self };
        if drops <= FREE_DROPS {
            return counted;
        }
        counted.after_failure(strategy, staged_at, now)
    }

    /// A task runs.
    #[must_use]
    pub fn after_start(self) -> Self {
        Self { drops: 0, ..self }
    }

    /// When the next task may be launched.
    #[must_use]
    pub fn until(&self) -> u64 {
        self.failed_at.saturating_add(self.delay_ms)
    }

    /// What is left of the delay.
    #[must_use]
    pub fn left_ms(&self, now: u64) -> u64 {
        if self.delay_ms == 0 {
            return 0;
        }
        self.until().saturating_sub(now)
    }

    /// When the latest failure that counted was seen, Unix milliseconds.
    #[must_use]
    pub fn failed_at(&self) -> u64 {
        self.failed_at
    }

    /// Failures in a row, of which the tasks that were launched together count as one.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The same if they are so many that the app is in a crash loop; it is over after a quiet time.
    #[must_use]
    pub fn crash_loop(&self, strategy: BackoffStrategy, now: u64) -> Option<u32> {
        let failures = self.unless_quiet(strategy, now).failures;
        (failures >= CRASH_LOOP).then_some(failures)
    }

    fn unless_quiet(self, strategy: BackoffStrategy, now: u64) -> Self {
        let quiet_after = self.until().saturating_add(strategy.max_ms);
        if (self.delay_ms > 0 || self.failures > 0) && now > quiet_after {
            return Self::default();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARATHON: BackoffStrategy = BackoffStrategy {
        initial_ms: 1000,
        factor_ppm: 1_150_000,
        max_ms: 300_000,
    };

    #[test]
    fn delays_grow_by_the_factor_up_to_the_maximum() {
        let mut backoff = Backoff::default();
        let mut now = 1_000_000;
        let mut delays = Vec::new();
        for _ in 0..60 {
            backoff = backoff.after_failure(MARATHON, now, now);
            delays.push(backoff.left_ms(now));
            now = backoff.until();
        }
        assert_eq!(delays[..4], [1000, 1150, 1322, 1520]);
        assert_eq!(delays[59], 300_000);
    }

    #[test]
    fn tasks_launched_together_count_once() {
        let one = Backoff::default().after_failure(MARATHON, 10, 100);
        let two = one.after_failure(MARATHON, 10, 101);
        assert_eq!(one, two);
        assert_eq!(two.after_failure(MARATHON, 1100, 1200).left_ms(1200), 1150);
    }

    #[test]
    fn a_quiet_time_forgets() {
        let once = Backoff::default().after_failure(MARATHON, 10, 100);
        let twice = once.after_failure(MARATHON, 1100, 1100 + 301_000);
        assert_eq!(twice.left_ms(1100 + 301_000), 1000);
    }

    #[test]
    fn failures_in_a_row_are_a_crash_loop_until_a_quiet_time() {
        for strategy in [
            MARATHON,
            BackoffStrategy {
                initial_ms: 0,
                ..MARATHON
            },
        ] {
            let mut backoff = Backoff::default();
            let mut now = 1000;
            for n in 1..=4 {
                // Two that were launched together.
                backoff = backoff.after_failure(strategy, now, now + 10);
                backoff = backoff.after_failure(strategy, now, now + 20);
                now += 5000;
                assert_eq!(backoff.failures(), n);
                assert_eq!(backoff.crash_loop(strategy, now), (n >= 3).then_some(n));
            }
            let quiet = backoff.until() + strategy.max_ms;
            assert_eq!(backoff.crash_loop(strategy, quiet), Some(4));
            assert_eq!(backoff.crash_loop(strategy, quiet + 1), None);
            assert_eq!(
                backoff.after_failure(strategy, quiet, quiet + 1).failures(),
                1
            );
        }
    }

    #[test]
    fn a_record_from_before_failures_were_counted_is_read() {
        let old = serde_json::json!({"delay_ms": 1150, "failed_at": 100, "drops": 0});
        let backoff: Backoff = serde_json::from_value(old).expect("the older form");
        assert_eq!((backoff.left_ms(100), backoff.failures()), (1150, 0));
    }

    #[test]
    fn a_few_drops_are_free_and_a_storm_is_not() {
        let mut backoff = Backoff::default();
        for now in [10, 20, 30] {
            backoff = backoff.after_drop(MARATHON, now, now);
            assert_eq!(backoff.left_ms(now), 0);
        }
        assert_eq!(backoff.after_drop(MARATHON, 40, 40).left_ms(40), 1000);
        assert_eq!(
            backoff
                .after_start()
                .after_drop(MARATHON, 40, 40)
                .left_ms(40),
            0
        );
    }

    proptest! {
        #[test]
        fn delays_never_pass_the_maximum(
            initial_ms in 0u64..10_000, factor_ppm in PPM..5 * PPM, max_ms in 0u64..100_000, failures in 1usize..50,
        ) {
            let strategy = BackoffStrategy { initial_ms, factor_ppm, max_ms };
            let mut backoff = Backoff::default();
            let mut now = 5;
            for _ in 0..failures {
                backoff = backoff.after_failure(strategy, now, now);
                prop_assert!(backoff.left_ms(now) <= max_ms);
                now = backoff.until().max(now);
            }
        }
    }
}
