//! Registries that asked to be left alone for a while: `Retry-After`, and until when.
//!
//! All pulls of this process keep the wish of a registry that limits its rate, also those that have not been refused
//! yet: eight layers that each find out for themselves would be eight requests more.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Longer than this nobody is believed: a wish of years would be a way to switch pulls off.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Who wants to be left alone, until when.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    until: Mutex<HashMap<String, Instant>>,
}

impl Pauses {
    /// A registry asks for a pause.
    pub(crate) fn note(&self, registry: &str, wish: Duration, now: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.retain(|_, end| *end > now);
        let end = now + wish.min(LONGEST);
        let known = until.entry(registry.to_owned()).or_insert(end);
        *known = (*known).max(end);
    }

    /// How long it still lasts.
    pub(crate) fn left(&self, registry: &str, now: Instant) -> Option<Duration> {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.get(registry)?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

/// Reads `Retry-After`: seconds or a date (pure).
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(value.parse().map_or(LONGEST, Duration::from_secs));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_wish_is_read_as_seconds_or_as_a_date() {
        // 1994-11-06 08:49:37 UTC, as in the HTTP specification.
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 90);
        let secs = Duration::from_secs;
        assert_eq!(retry_after("12", now), Some(secs(12)));
        assert_eq!(retry_after(" 0 ", now), Some(secs(0)));
        assert_eq!(retry_after("99999999999999999999999", now), Some(LONGEST));
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(retry_after(date, now), Some(secs(90)), "{date}");
        }
        let past = "Sun, 06 Nov 1994 08:00:00 GMT";
        assert_eq!(retry_after(past, now), Some(secs(0)));
        for nonsense in ["", "soon", "-5", "1.5", "+3"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense:?}");
        }
    }

    #[test]
    fn the_longest_wish_of_a_registry_counts_and_ends() {
        let (pauses, now) = (Pauses::default(), Instant::now());
        let secs = Duration::from_secs;
        assert_eq!(pauses.left("a", now), None);
        pauses.note("a", secs(10), now);
        pauses.note("a", secs(3), now);
        assert_eq!(pauses.left("a", now + secs(4)), Some(secs(6)));
        assert_eq!(pauses.left("b", now), None);
        assert_eq!(pauses.left("a", now + secs(10)), None);
        pauses.note("b", secs(u64::MAX), now);
        assert_eq!(pauses.left("b", now), Some(LONGEST));
        assert_eq!(pauses.until.lock().unwrap().len(), 2);
        pauses.note("c", secs(0), now + secs(11));
        assert_eq!(pauses.until.lock().unwrap().len(), 2, "what is over stays");
    }
}
