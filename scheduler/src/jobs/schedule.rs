//! When a job runs: a cron line in a time zone, or an ISO 8601 repeating interval.
//!
//! Pure. Slots are Unix milliseconds and strictly growing.

use jiff::tz::TimeZone;

use super::cron::Cron;
use super::repeat::Repeat;

/// Set times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// A cron line, on the clocks of a zone.
    Cron(Cron, TimeZone),
    /// `R[n]/start/period`.
    Repeat(Repeat),
}

impl Schedule {
    /// The first slot after an instant.
    #[must_use]
    pub fn next_after(&self, after: u64) -> Option<u64> {
        match self {
            Self::Cron(cron, zone) => cron.next_after(zone, after),
            Self::Repeat(repeat) => repeat.next_after(after),
        }
    }

    /// The first slot of a job that is new at `now`. A start that passed less than `window_ms` ago still counts.
    #[must_use]
    pub fn first(&self, now: u64, window_ms: u64) -> Option<u64> {
        if let Self::Repeat(repeat) = self
            && let Some(first) = repeat.first()
            && first <= now
            && first.saturating_add(window_ms) >= now
        {
            return Some(first);
        }
        self.next_after(now.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_just_now_counts_and_an_older_one_is_counted_on_from() {
        let at = |text: &str| Schedule::Repeat(Repeat::parse(text, None, 0).expect("valid"));
        let minute = at("R/1970-01-01T00:10:00Z/PT1H");
        assert_eq!(minute.first(600_000 + 30_000, 60_000), Some(600_000));
        assert_eq!(minute.first(600_000 + 90_000, 60_000), Some(4_200_000));
        assert_eq!(minute.first(1000, 60_000), Some(600_000));
        let cron = Schedule::Cron(Cron::parse("@hourly").expect("valid"), TimeZone::UTC);
        assert_eq!(cron.first(3_600_000, 60_000), Some(3_600_000));
        assert_eq!(cron.first(3_600_001, 60_000), Some(7_200_000));
    }
}
