//! What results of health checks mean. Pure.

use std::time::Duration;

use crate::task::event::Verdict;

/// Counts the failures of one check.
#[derive(Debug, Clone)]
pub(crate) struct Tracker {
    grace: Duration,
    max_failures: u32,
    failures: u32,
    last: Option<Verdict>,
}

impl Tracker {
    pub(crate) fn new(grace: Duration, max_failures: u32) -> Self {
        Self {
            grace,
            max_failures,
            failures: 0,
            last: None,
        }
    }

    /// Takes one result in; gives a verdict when it differs from the one before. `age` is the time since the start.
    pub(crate) fn result(&mut self, age: Duration, result: Result<(), String>) -> Option<Verdict> {
        let verdict = match result {
            Ok(()) => {
                self.failures = 0;
                Verdict::Healthy
            }
            Err(_) if self.last.is_none() && age < self.grace => return None,
            Err(problem) => {
                self.failures += 1;
                if self.max_failures > 0 && self.failures >= self.max_failures {
                    Verdict::Kill(format!("{} in a row, the last: {problem}", self.failures))
                } else {
                    Verdict::Unhealthy
                }
            }
        };
        if self.last.as_ref() == Some(&verdict) {
            return None;
        }
        self.last = Some(verdict.clone());
        Some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad() -> Result<(), String> {
        Err("refused".into())
    }

    #[test]
    fn failures_in_the_grace_period_count_only_after_a_success() {
        let mut tracker = Tracker::new(Duration::from_secs(10), 2);
        let early = Duration::from_secs(1);
        assert_eq!(tracker.result(early, bad()), None);
        assert_eq!(tracker.result(early, bad()), None);
        assert_eq!(tracker.result(early, Ok(())), Some(Verdict::Healthy));
        assert_eq!(tracker.result(early, Ok(())), None, "only changes are told");
        assert_eq!(tracker.result(early, bad()), Some(Verdict::Unhealthy));
        assert!(matches!(
            tracker.result(early, bad()),
            Some(Verdict::Kill(_))
        ));
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let mut tracker = Tracker::new(Duration::ZERO, 2);
        let late = Duration::from_secs(1);
        for _ in 0..5 {
            assert_eq!(tracker.result(late, bad()), Some(Verdict::Unhealthy));
            assert_eq!(tracker.result(late, Ok(())), Some(Verdict::Healthy));
        }
    }

    #[test]
    fn without_a_maximum_nothing_is_killed() {
        let mut tracker = Tracker::new(Duration::ZERO, 0);
        assert_eq!(
            tracker.result(Duration::ZERO, bad()),
            Some(Verdict::Unhealthy)
        );
        for _ in 0..100 {
            assert_eq!(tracker.result(Duration::ZERO, bad()), None);
        }
    }
}
