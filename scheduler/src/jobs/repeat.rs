//! ISO 8601 repeating intervals as Chronos has them: `R[n]/start/period`.
//!
//! Pure. The slot number k is start + k periods, never the slot before plus one, so that the last of a month stays it.
//! Years, months, weeks and days count on the calendar of the zone, hours, minutes and seconds in elapsed time.

use std::fmt;

use jiff::Span;
use jiff::civil::DateTime;
use jiff::fmt::temporal::{DateTimeParser, Pieces, SpanParser};
use jiff::tz::TimeZone;

use super::zone;
use crate::time::Timestamp;

/// A checked interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    /// How often in all; `None`: for ever.
    times: Option<u64>,
    /// As written; made anew where the text had no start.
    start_text: String,
    /// On the clocks of `zone`.
    start: DateTime,
    /// The zone that was named, or the offset of the start.
    zone: TimeZone,
    period_text: String,
    months: u64,
    days: u64,
    millis: u64,
}

/// What is wrong with an interval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRepeat(String);

impl Repeat {
    /// Reads an interval. `zone` wins over the offset of the start: its clocks show what the start says. An empty start
    /// is `now`.
    ///
    /// # Errors
    ///
    /// When it is none, or one that never moves.
    pub fn parse(text: &str, zone: Option<&TimeZone>, now: u64) -> Result<Self, InvalidRepeat> {
        let shown: String = text.chars().take(80).collect();
        let parts: Vec<&str> = text.trim().split('/').collect();
        let [times, start_text, period_text] = parts[..] else {
            return Err(InvalidRepeat(format!(
                "{shown:?} is not of the form R[n]/start/period, such as \"R/2026-01-31T02:00:00Z/P1D\""
            )));
        };
        let times = read_times(times)?;
        let start_text = if start_text.is_empty() {
            now_text(zone, now)
        } else {
            start_text.to_owned()
        };
        let (start, zone) = read_start(&start_text, zone)?;
        let (months, days, millis) = read_period(period_text)?;
        Ok(Self {
            times,
            start_text,
            start,
            zone,
            period_text: period_text.to_owned(),
            months,
            days,
            millis,
        })
    }

    /// The first slot.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.slot(0)
    }

    /// The first slot after an instant; instants are Unix milliseconds.
    #[must_use]
    pub fn next_after(&self, after: u64) -> Option<u64> {
        // Slots never go back, so the first that is later is found by halving; those out of range are later than all.
        let is_later = |k: u64| self.slot(k).is_none_or(|at| at > after);
        let mut high = 1;
        while !is_later(high) {
            high *= 2;
        }
        let mut low = 0;
        while low < high {
            let middle = low + (high - low) / 2;
            if is_later(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        self.slot(low)
    }

    /// The slot of that number, if there is one.
    #[must_use]
    pub fn slot(&self, k: u64) -> Option<u64> {
        if self.times.is_some_and(|times| k >= times) {
            return None;
        }
        let count = |each: u64| i64::try_from(each.checked_mul(k)?).ok();
        let span = Span::new()
            .try_months(count(self.months)?)
            .ok()?
            .try_days(count(self.days)?)
            .ok()?;
        let wall = self.start.checked_add(span).ok()?;
        let at = zone::instant(&self.zone, wall)?.checked_add(self.millis.checked_mul(k)?)?;
        // The end of the calendar: beyond it nothing can be written down.
        zone::wall(&self.zone, at).map(|_| at)
    }
}

impl fmt::Display for Repeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("R")?;
        if let Some(times) = self.times {
            write!(f, "{times}")?;
        }
        write!(f, "/{}/{}", self.start_text, self.period_text)
    }
}

fn read_times(text: &str) -> Result<Option<u64>, InvalidRepeat> {
    let digits = text
        .strip_prefix('R')
        .filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    match digits {
        Some("") => Ok(None),
        Some(digits) => digits.parse().map(Some).map_err(|_| {
            InvalidRepeat(format!(
                "{digits} repetitions are more than can be counted; leave the number out"
            ))
        }),
        None => {
            let shown: String = text.chars().take(40).collect();
            Err(InvalidRepeat(format!(
                "the part before the first slash is {shown:?}, must be R (for ever) or R and how often, such as R5"
            )))
        }
    }
}

/// The start that an empty one means, on the clocks of the zone.
fn now_text(zone: Option<&TimeZone>, now: u64) -> String {
    match zone.and_then(|zone| zone::wall(zone, now)) {
        Some(wall) => wall.to_string(),
        None => Timestamp::from_millis(now).to_string(),
    }
}

fn read_start(text: &str, zone: Option<&TimeZone>) -> Result<(DateTime, TimeZone), InvalidRepeat> {
    let wrong = || {
        let shown: String = text.chars().take(40).collect();
        InvalidRepeat(format!(
            "the start {shown:?} is not a time such as 2026-01-31T02:00:00Z; without one it is the present"
        ))
    };
    let pieces: Pieces<'_> = DateTimeParser::new()
        .parse_pieces(text)
        .map_err(|_| wrong())?;
    if pieces.time_zone_annotation().is_some() {
        return Err(wrong());
    }
    let start = DateTime::from_parts(pieces.date(), pieces.time().unwrap_or_default());
    let zone = match (zone, pieces.to_numeric_offset()) {
        (Some(zone), _) => zone.clone(),
        (None, Some(offset)) => TimeZone::fixed(offset),
        (None, None) => TimeZone::UTC,
    };
    if zone::instant(&zone, start).is_none() {
        return Err(InvalidRepeat(format!("the start {text} is before 1970")));
    }
    Ok((start, zone))
}

/// Months, days and milliseconds of a period.
fn read_period(text: &str) -> Result<(u64, u64, u64), InvalidRepeat> {
    let shown: String = text.chars().take(40).collect();
    let wrong = |why: &str| InvalidRepeat(format!("the period {shown:?} {why}"));
    let form = "is not one such as PT10M, P1D or P1Y2M3DT4H5M6S";
    if !text.starts_with('P') {
        return Err(wrong(form));
    }
    let span = SpanParser::new()
        .parse_span(text)
        .map_err(|_| wrong(form))?;
    let whole = |value: i64| u64::try_from(value).ok();
    let months = whole(i64::from(span.get_years()) * 12 + i64::from(span.get_months()));
    let days = whole(i64::from(span.get_weeks()) * 7 + i64::from(span.get_days()));
    let seconds = i64::from(span.get_hours()) * 3600 + span.get_minutes().saturating_mul(60);
    let millis = seconds
        .saturating_add(span.get_seconds())
        .saturating_mul(1000)
        .saturating_add(span.get_milliseconds());
    let (Some(months), Some(days), Some(millis)) = (months, days, whole(millis)) else {
        return Err(wrong("goes backwards"));
    };
    if months == 0 && days == 0 && millis < 1000 {
        return Err(wrong("is shorter than a second"));
    }
    Ok((months, days, millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn millis(text: &str) -> u64 {
        text.parse::<Timestamp>().expect("a timestamp").millis()
    }

    fn repeat(text: &str, zone: &str) -> Repeat {
        let zone = (!zone.is_empty()).then(|| zone::by_name(zone).expect("known"));
        Repeat::parse(text, zone.as_ref(), millis("2026-01-01T12:00:00.000Z")).expect("valid")
    }

    fn check(text: &str, zone: &str, want: &[&str]) {
        let repeat = repeat(text, zone);
        let mut slots = Vec::new();
        let mut next = repeat.first();
        while let Some(at) = next.filter(|_| slots.len() < want.len()) {
            slots.push(Timestamp::from_millis(at).to_string());
            next = repeat.next_after(at);
        }
        assert_eq!(slots, want, "{text}");
    }

    #[test]
    fn slots_count_from_the_start() {
        let hours = ["2026-01-31T02:00:00.000Z", "2026-01-31T03:00:00.000Z"];
        check("R/2026-01-31T02:00:00Z/PT1H", "", &hours);
        let months = [
            "2026-01-31T02:00:00.000Z",
            "2026-02-28T02:00:00.000Z",
            "2026-03-31T02:00:00.000Z",
        ];
        check("R/2026-01-31T02:00:00.000Z/P1M", "", &months);
        let leap = [
            "2024-02-29T00:00:00.000Z",
            "2025-02-28T00:00:00.000Z",
            "2026-02-28T00:00:00.000Z",
        ];
        check("R3/2024-02-29/P1Y", "", &leap);
        let offset = ["2026-01-31T00:00:00.000Z", "2026-02-01T12:00:00.000Z"];
        check("R/2026-01-31T02:00:00+02:00/P1DT12H", "", &offset);
        check(
            "R//PT10M",
            "",
            &["2026-01-01T12:00:00.000Z", "2026-01-01T12:10:00.000Z"],
        );
    }

    #[test]
    fn the_last_repetition_is_the_last() {
        let twice = repeat("R2/2026-01-31T02:00:00Z/PT1H", "");
        assert!(twice.slot(1).is_some() && twice.slot(2).is_none());
        assert_eq!(twice.next_after(millis("2026-01-31T03:00:00.000Z")), None);
        assert_eq!(repeat("R0/2026-01-31T02:00:00Z/PT1H", "").first(), None);
    }

    #[test]
    fn the_zone_wins_over_the_offset_and_its_clocks_lead() {
        let days = [
            "2026-03-28T01:30:00.000Z",
            "2026-03-29T01:00:00.000Z",
            "2026-03-30T00:30:00.000Z",
        ];
        check("R/2026-03-28T02:30:00Z/P1D", "Europe/Berlin", &days);
        let days = [
            "2026-10-24T00:30:00.000Z",
            "2026-10-25T00:30:00.000Z",
            "2026-10-26T01:30:00.000Z",
        ];
        check("R/2026-10-24T02:30:00/P1D", "Europe/Berlin", &days);
        // Hours are elapsed time: each of the doubled hour counts.
        let hours = [
            "2026-10-25T00:30:00.000Z",
            "2026-10-25T01:30:00.000Z",
            "2026-10-25T02:30:00.000Z",
        ];
        check("R/2026-10-25T02:30:00/PT1H", "Europe/Berlin", &hours);
    }

    #[test]
    fn it_is_written_as_it_was_read_with_a_start() {
        assert_eq!(
            repeat("R5/2026-01-31T02:00:00Z/PT1H", "").to_string(),
            "R5/2026-01-31T02:00:00Z/PT1H"
        );
        assert_eq!(
            repeat("R//P1D", "").to_string(),
            "R/2026-01-01T12:00:00.000Z/P1D"
        );
        assert_eq!(
            repeat("R//P1D", "Europe/Berlin").to_string(),
            "R/2026-01-01T13:00:00/P1D"
        );
    }

    #[test]
    fn far_starts_cost_little_and_the_end_of_time_ends() {
        let seconds = repeat("R/1970-01-01T00:00:00Z/PT1S", "");
        assert_eq!(
            seconds.next_after(1_777_777_777_123),
            Some(1_777_777_778_000)
        );
        assert_eq!(seconds.next_after(u64::MAX), None);
    }

    #[test]
    fn wrong_intervals_say_what_is_wrong() {
        for (text, says) in [
            ("", "R[n]/start/period"),
            ("R/2026-01-31T02:00:00Z", "R[n]/start/period"),
            ("5/2026-01-31T02:00:00Z/PT1H", "must be R"),
            ("R-1/2026-01-31T02:00:00Z/PT1H", "must be R"),
            ("R99999999999999999999//PT1H", "leave the number out"),
            ("R/yesterday/PT1H", "the start \"yesterday\""),
            ("R/1960-01-31T02:00:00Z/PT1H", "before 1970"),
            ("R/2026-01-31T02:00:00Z/1H", "PT10M"),
            ("R/2026-01-31T02:00:00Z/PT0S", "shorter than a second"),
            ("R/2026-01-31T02:00:00Z/PT0.5S", "shorter than a second"),
            ("R/2026-01-31T02:00:00Z/-P1D", "PT10M"),
        ] {
            let error = Repeat::parse(text, None, 0).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn slots_grow_and_agree_with_counting(
            months in 0u64..14, days in 0u64..40, seconds in 0u64..90_000, start in 0u64..20_000, zone in 0..4usize,
        ) {
            prop_assume!(months + days + seconds > 0);
            let zone = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"][zone];
            let start = Timestamp::from_millis(start * 86_400_000 + 9_000_000).to_string();
            let repeat = repeat(&format!("R/{start}/P{months}M{days}DT{seconds}S"), zone);
            let mut at = repeat.first().expect("a start");
            let mut counted: Vec<u64> = (0..60).filter_map(|k| repeat.slot(k)).collect();
            counted.dedup();
            for want in &counted[1..] {
                let next = repeat.next_after(at).expect("goes on");
                prop_assert!(next > at);
                prop_assert_eq!(next, *want);
                prop_assert_eq!(repeat.next_after(next - 1), Some(next));
                at = next;
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[-RPTZ0-9/:.+YMDHS]{0,40}") {
            let _ = Repeat::parse(&text, None, 0).map(|repeat| (repeat.first(), repeat.next_after(1)));
        }
    }
}
