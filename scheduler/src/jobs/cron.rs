//! Cron lines: five fields, names, lists, ranges, steps, and the `@daily` kind.
//!
//! Pure. An own parser: the crates there are either know no time zones, or decide about the hours that clocks skip and
//! repeat in ways that cannot be chosen (a job at 02:30 is lost, or runs an hour late, or twice). As in cron, a day
//! matches by either of its two fields when both are given, by both when one begins with `*`.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::zone;

/// Days looked at for the next slot: 29 February may be eight years away.
const MAX_DAYS: u32 = 366 * 9;

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A checked cron line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    /// One bit per value.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Sunday is 0.
    weekdays: u64,
    /// Both day fields must match; otherwise either does.
    both_days: bool,
}

/// What is wrong with a cron line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCron(String);

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        min: 0,
        max: 59,
        names: &[],
    },
    Field {
        name: "hour",
        min: 0,
        max: 23,
        names: &[],
    },
    Field {
        name: "day of month",
        min: 1,
        max: 31,
        names: &[],
    },
    Field {
        name: "month",
        min: 1,
        max: 12,
        names: &MONTHS,
    },
    // 7 is Sunday too.
    Field {
        name: "day of week",
        min: 0,
        max: 7,
        names: &WEEKDAYS,
    },
];

impl Cron {
    /// Reads a line.
    ///
    /// # Errors
    ///
    /// When it is no cron line, or one that never comes.
    pub fn parse(text: &str) -> Result<Self, InvalidCron> {
        let shown: String = text.chars().take(80).collect();
        let line = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => {
                return Err(InvalidCron(format!(
                    "{shown:?} is not known: of these there are @yearly, @monthly, @weekly, @daily and @hourly; \
                     for every so often give an ISO 8601 schedule such as \"R//PT10M\""
                )));
            }
            other => other,
        };
        let parts: Vec<&str> = line.split_whitespace().collect();
        if parts.len() != FIELDS.len() {
            let seconds = if parts.len() == 6 {
                " (there is none for seconds)"
            } else {
                ""
            };
            return Err(InvalidCron(format!(
                "{shown:?} has {} fields, a cron line has five{seconds}: minute, hour, day of month, month, day of week",
                parts.len()
            )));
        }
        let mut sets = [0u64; 5];
        for ((set, field), part) in sets.iter_mut().zip(&FIELDS).zip(&parts) {
            *set = field.read(part)?;
        }
        let [minutes, hours, days, months, weekdays] = sets;
        let weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let starred = |part: &str| part.starts_with(['*', '?']);
        let cron = Self {
            text: text.trim().to_owned(),
            minutes,
            hours,
            days,
            months,
            weekdays,
            both_days: starred(parts[2]) || starred(parts[4]),
        };
        if cron.both_days && !cron.has_a_day() {
            return Err(InvalidCron(format!(
                "{shown:?} never comes: no month of those has such a day"
            )));
        }
        Ok(cron)
    }

    /// The first slot after an instant; instants are Unix milliseconds.
    #[must_use]
    pub fn next_after(&self, zone: &TimeZone, after: u64) -> Option<u64> {
        let from = zone::wall(zone, after)?;
        let mut date = from.date();
        let mut first_minute =
            u32::try_from(from.hour()).ok()? * 60 + u32::try_from(from.minute()).ok()?;
        for _ in 0..MAX_DAYS {
            if self.has_date(date) {
                for minute in first_minute..24 * 60 {
                    if !self.has_minute(minute) {
                        continue;
                    }
                    // The second pass of a doubled hour: those were taken at the first.
                    let at = zone::instant(zone, DateTime::from_parts(date, time(minute)?))?;
                    if at > after {
                        return Some(at);
                    }
                }
            }
            first_minute = 0;
            date = if has(self.months, date.month()) {
                date.tomorrow().ok()?
            } else {
                date.last_of_month().tomorrow().ok()?
            };
        }
        None
    }

    /// Whether clocks that show this are at a slot.
    #[must_use]
    pub fn matches(&self, wall: DateTime) -> bool {
        self.has_date(wall.date())
            && has(self.hours, wall.hour())
            && has(self.minutes, wall.minute())
    }

    fn has_minute(&self, minute: u32) -> bool {
        self.hours >> (minute / 60) & 1 == 1 && self.minutes >> (minute % 60) & 1 == 1
    }

    fn has_date(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month())
            && if self.both_days {
                day && weekday
            } else {
                day || weekday
            }
    }

    fn has_a_day(&self) -> bool {
        (1u32..=12).any(|month| {
            let longest = match month {
                2 => 29,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            self.months >> month & 1 == 1 && self.days & !(u64::MAX << (longest + 1)) != 0
        })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn time(minute: u32) -> Option<Time> {
    Time::new(
        i8::try_from(minute / 60).ok()?,
        i8::try_from(minute % 60).ok()?,
        0,
        0,
    )
    .ok()
}

fn has(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| set >> value & 1 == 1)
}

impl Field {
    fn read(&self, text: &str) -> Result<u64, InvalidCron> {
        let mut set = 0;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(self.step(part, step)?)),
                None => (part, None),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" || range == "?" => (self.min, self.max),
                Some((from, to)) => (self.value(from)?, self.value(to)?),
                None => {
                    let from = self.value(range)?;
                    // `5/15` is every fifteenth from the fifth on.
                    (from, if step.is_some() { self.max } else { from })
                }
            };
            if from > to {
                return Err(self.wrong(
                    part,
                    "goes backwards; give two ranges with a comma between them",
                ));
            }
            let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
            set |= (from..=to)
                .step_by(step)
                .fold(0, |set, value| set | 1u64 << value);
        }
        if self.max == 7 && text.starts_with(['*', '?']) {
            // Steps over all days count from Sunday to Saturday.
            set &= 0x7f;
        }
        Ok(set)
    }

    fn step(&self, part: &str, text: &str) -> Result<u32, InvalidCron> {
        match text.parse() {
            Ok(step) if step > 0 && step <= self.max => Ok(step),
            Ok(_) | Err(_) => {
                Err(self.wrong(part, &format!("a step is a number from 1 to {}", self.max)))
            }
        }
    }

    fn value(&self, text: &str) -> Result<u32, InvalidCron> {
        let upper = text.to_ascii_uppercase();
        if let Some(at) = self.names.iter().position(|name| *name == upper) {
            return Ok(u32::try_from(at).unwrap_or(0) + self.min);
        }
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(value) if digits && (self.min..=self.max).contains(&value) => Ok(value),
            Ok(_) | Err(_) => {
                let names = match self.names {
                    [] => String::new(),
                    names => format!(" or {} to {}", names[0], names[names.len() - 1]),
                };
                Err(self.wrong(
                    text,
                    &format!("must be {} to {}{names}", self.min, self.max),
                ))
            }
        }
    }

    fn wrong(&self, text: &str, why: &str) -> InvalidCron {
        let shown: String = text.chars().take(40).collect();
        InvalidCron(format!("{}: {shown:?}: {why}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;
    use proptest::prelude::*;

    const ZONES: [&str; 6] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kolkata",
        "Africa/Casablanca",
    ];

    fn millis(text: &str) -> u64 {
        text.parse::<Timestamp>().expect("a timestamp").millis()
    }

    fn check(line: &str, zone: &str, after: &str, want: &[&str]) {
        let cron = Cron::parse(line).expect("valid");
        let zone = zone::by_name(zone).expect("known");
        let mut at = millis(after);
        for want in want {
            at = cron.next_after(&zone, at).expect("comes");
            assert_eq!(Timestamp::from_millis(at).to_string(), *want, "{line}");
        }
    }

    #[test]
    fn slots_follow_the_line() {
        let midnights = ["2026-01-02T00:00:00.000Z", "2026-01-03T00:00:00.000Z"];
        check("@daily", "UTC", "2026-01-01T00:00:00.000Z", &midnights);
        let tens = [
            "2026-01-01T09:10:00.000Z",
            "2026-01-01T09:30:00.000Z",
            "2026-01-01T09:50:00.000Z",
        ];
        check(
            "10/20 9-17 * * mon-fri",
            "UTC",
            "2026-01-01T00:00:00.000Z",
            &tens,
        );
        let leap = ["2028-02-29T12:00:00.000Z", "2032-02-29T12:00:00.000Z"];
        check("0 12 29 feb *", "UTC", "2026-01-01T00:00:00.000Z", &leap);
        check(
            "0 12 29 2 *",
            "UTC",
            "2096-03-01T00:00:00.000Z",
            &["2104-02-29T12:00:00.000Z"],
        );
        // Either of the days: Friday, and the 13th.
        let days = [
            "2026-02-06T00:00:00.000Z",
            "2026-02-13T00:00:00.000Z",
            "2026-02-20T00:00:00.000Z",
        ];
        check("0 0 13 * 5", "UTC", "2026-02-01T00:00:00.000Z", &days);
        // Both: every second day that is a Monday.
        check(
            "0 0 */2 * 1",
            "UTC",
            "2026-02-01T00:00:00.000Z",
            &["2026-02-09T00:00:00.000Z"],
        );
        check(
            "0 0 * * 7",
            "UTC",
            "2026-02-01T00:00:00.000Z",
            &["2026-02-08T00:00:00.000Z"],
        );
    }

    #[test]
    fn a_slot_in_the_gap_runs_once_at_its_end() {
        let slots = [
            "2026-03-28T01:30:00.000Z",
            "2026-03-29T01:00:00.000Z",
            "2026-03-30T00:30:00.000Z",
        ];
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00.000Z",
            &slots,
        );
        // All that the clocks skipped is one slot, the same as the one at three.
        let slots = [
            "2026-03-29T00:45:00.000Z",
            "2026-03-29T01:00:00.000Z",
            "2026-03-29T01:15:00.000Z",
        ];
        check(
            "*/15 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:30:00.000Z",
            &slots,
        );
    }

    #[test]
    fn a_slot_in_the_doubled_hour_runs_once() {
        let slots = ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"];
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T22:00:00.000Z",
            &slots,
        );
        let slots = [
            "2026-10-25T00:45:00.000Z",
            "2026-10-25T02:00:00.000Z",
            "2026-10-25T02:15:00.000Z",
        ];
        check(
            "*/15 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:30:00.000Z",
            &slots,
        );
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        for (line, says) in [
            ("* * * *", "has 4 fields"),
            ("* * * * * *", "none for seconds"),
            ("60 * * * *", "minute: \"60\": must be 0 to 59"),
            ("* 5-1 * * *", "hour: \"5-1\": goes backwards"),
            ("*/0 * * * *", "a step is a number"),
            (
                "* * * foo *",
                "month: \"foo\": must be 1 to 12 or JAN to DEC",
            ),
            ("0 0 30 2 *", "never comes"),
            ("0 0 31 4,6 ?", "never comes"),
            ("@every 5m", "ISO 8601"),
            ("* * 1-99999999999999999999 * *", "day of month"),
            ("+1 * * * *", "minute"),
            (",1 * * * *", "minute"),
            ("* * L * *", "day of month"),
        ] {
            let error = Cron::parse(line).expect_err(line).to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    /// A field that is now and then rare.
    fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*".to_owned()),
            (2..=max).prop_map(|step| format!("*/{step}")),
            (min..=max).prop_map(|value| value.to_string()),
            (min..=max, min..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
            (min..=max, min..=max).prop_map(|(a, b)| format!("{a},{b}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn slots_grow_and_agree_with_a_scan_of_every_minute(
            minute in field(0, 59), hour in field(0, 23), day in field(1, 28), month in field(1, 12),
            weekday in field(0, 6), zone in 0..ZONES.len(), start in 0u64..700,
        ) {
            let cron = Cron::parse(&format!("{minute} {hour} {day} {month} {weekday}")).expect("valid");
            let zone = zone::by_name(ZONES[zone]).expect("known");
            let from = millis("2025-12-20T00:00:00.000Z") + start * 86_400_000 / 2;
            let until = from + 9 * 86_400_000;
            let mut slots = Vec::new();
            let mut at = from;
            while let Some(next) = cron.next_after(&zone, at).filter(|next| *next <= until) {
                prop_assert!(next > at);
                slots.push(next);
                at = next;
            }
            // Every wall-clock minute from before to after, by where it lies in time.
            let mut wall = zone::wall(&zone, from - 2 * 86_400_000).expect("in range");
            wall = DateTime::from_parts(wall.date(), Time::midnight());
            let mut scanned = std::collections::BTreeSet::new();
            for _ in 0..13 * 24 * 60 {
                if cron.matches(wall) {
                    scanned.extend(zone::instant(&zone, wall).filter(|at| *at > from && *at <= until));
                }
                wall = wall.checked_add(jiff::Span::new().minutes(1)).expect("in range");
            }
            prop_assert_eq!(slots, scanned.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[-*/,?@a-z0-9 ]{0,30}") {
            let _ = Cron::parse(&text);
        }
    }
}
