//! Time zones by name, and where a wall-clock time lies on the line of time.
//!
//! Pure but for the first look at a zone's rules: those of the machine, so that an update of its `tzdata` is enough when
//! a country changes its clocks; a copy in the program answers where the machine has none or dropped a name.
//!
//! Daylight saving: a time that the clocks skip is taken at the end of the gap, one that they show twice at the first.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

/// A name that no database has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no time zone {name:?} is known; give a name such as \"Europe/Berlin\" or \"UTC\"")]
pub struct UnknownZone {
    name: String,
}

/// The zone of that name.
///
/// # Errors
///
/// When there is none.
pub fn by_name(name: &str) -> Result<TimeZone, UnknownZone> {
    jiff::tz::db()
        .get(name)
        .or_else(|_| TimeZoneDatabase::bundled().get(name))
        .map_err(|_| UnknownZone {
            name: name.chars().take(64).collect(),
        })
}

/// Unix milliseconds of a wall-clock time; `None` before 1970 and after the year 9999.
///
/// Later times never come out earlier, so schedules that step over wall-clock times stay in order.
#[must_use]
pub fn instant(zone: &TimeZone, wall: DateTime) -> Option<u64> {
    let ambiguous = zone.to_ambiguous_timestamp(wall);
    let at = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
            ambiguous.earlier().ok()?
        }
        AmbiguousOffset::Gap { .. } => {
            // By the offset before the gap it lies after the change of clocks, which is the end of the gap.
            let beyond = ambiguous.later().ok()?;
            let next = Timestamp::from_nanosecond(beyond.as_nanosecond() + 1).ok()?;
            zone.preceding(next).next()?.timestamp()
        }
    };
    u64::try_from(at.as_millisecond()).ok()
}

/// What clocks show at an instant.
#[must_use]
pub fn wall(zone: &TimeZone, millis: u64) -> Option<DateTime> {
    let at = Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok()?;
    Some(zone.to_datetime(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(zone: &str, wall: &str, want: &str) {
        let zone = by_name(zone).expect("known");
        let got = instant(&zone, wall.parse().expect("a time")).expect("in range");
        assert_eq!(crate::time::Timestamp::from_millis(got).to_string(), want);
    }

    #[test]
    fn a_time_in_the_gap_is_taken_at_its_end() {
        check(
            "Europe/Berlin",
            "2026-03-29T01:59",
            "2026-03-29T00:59:00.000Z",
        );
        check(
            "Europe/Berlin",
            "2026-03-29T02:00",
            "2026-03-29T01:00:00.000Z",
        );
        check(
            "Europe/Berlin",
            "2026-03-29T02:30",
            "2026-03-29T01:00:00.000Z",
        );
        check(
            "Europe/Berlin",
            "2026-03-29T03:00",
            "2026-03-29T01:00:00.000Z",
        );
        check(
            "Europe/Berlin",
            "2026-03-29T03:01",
            "2026-03-29T01:01:00.000Z",
        );
        // Far beyond the tables, by the rule.
        check(
            "Europe/Berlin",
            "2150-03-29T02:30",
            "2150-03-29T01:00:00.000Z",
        );
    }

    #[test]
    fn a_time_that_comes_twice_is_taken_at_the_first() {
        check(
            "Europe/Berlin",
            "2026-10-25T02:30",
            "2026-10-25T00:30:00.000Z",
        );
        check(
            "Europe/Berlin",
            "2026-10-25T03:00",
            "2026-10-25T02:00:00.000Z",
        );
        // Half an hour only.
        check(
            "Australia/Lord_Howe",
            "2026-04-05T01:45",
            "2026-04-04T14:45:00.000Z",
        );
    }

    #[test]
    fn a_day_that_a_country_skipped_is_its_next_midnight() {
        check(
            "Pacific/Apia",
            "2011-12-30T12:00",
            "2011-12-30T10:00:00.000Z",
        );
    }

    #[test]
    fn zones_go_by_their_names() {
        assert!(by_name("UTC").is_ok() && by_name("America/New_York").is_ok());
        let error = by_name("Mars/Olympus").expect_err("not there yet");
        assert!(error.to_string().contains("Mars/Olympus"), "{error}");
    }
}
