//! The answer to a request for the rest of a blob (pure): is it the rest that we asked for?

use super::session::Rest;

/// What stands in `Content-Range`: `bytes FIRST-LAST/TOTAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentRange {
    first: u64,
    last: u64,
    /// None for `*`.
    total: Option<u64>,
}

impl ContentRange {
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.trim().split_once(' ')?;
        let (span, total) = rest.trim().split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let range = Self {
            first: number(first)?,
            last: number(last)?,
            total: match total {
                "*" => None,
                total => Some(number(total)?),
            },
        };
        (unit.eq_ignore_ascii_case("bytes") && range.first <= range.last).then_some(range)
    }
}

/// Judges a 206: `offset` is where the rest should begin, `size` the whole blob's.
pub(crate) fn judge(value: Option<&str>, offset: u64, size: u64) -> Rest {
    match value.and_then(ContentRange::parse) {
        // It would end elsewhere: the blob is another one than a moment ago.
        Some(range) if range.total.is_some_and(|total| total != size) || range.last >= size => {
            Rest::Changed
        }
        Some(range) if range.first == offset => Rest::Follows,
        Some(_) | None => Rest::Unusable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rest_of_the_same_blob_is_taken() {
        for (value, expected) in [
            (Some("bytes 100-999/1000"), Rest::Follows),
            (Some("Bytes 100-499/1000"), Rest::Follows),
            (Some("bytes 100-999/*"), Rest::Follows),
            (Some("bytes 100-1999/2000"), Rest::Changed),
            (Some("bytes 100-1999/*"), Rest::Changed),
            (Some("bytes 0-999/1000"), Rest::Unusable),
            (Some("bytes 101-999/1000"), Rest::Unusable),
            (Some("bytes 999-100/1000"), Rest::Unusable),
            (Some("bytes +100-999/1000"), Rest::Unusable),
            (Some("bytes */1000"), Rest::Unusable),
            (Some("lines 100-999/1000"), Rest::Unusable),
            (Some("100-999/1000"), Rest::Unusable),
            (Some(""), Rest::Unusable),
            (None, Rest::Unusable),
        ] {
            assert_eq!(judge(value, 100, 1000), expected, "{value:?}");
        }
    }
}
