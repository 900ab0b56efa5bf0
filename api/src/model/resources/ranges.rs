//! Whole numbers, such as ports, by ranges.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{InvalidResources, invalid};

/// Disjoint inclusive ranges, ascending, never adjacent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Any order, overlaps allowed; a range whose end lies before its begin is dropped.
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut all: Vec<_> = ranges
            .into_iter()
            .filter(|(begin, end)| begin <= end)
            .collect();
        all.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (begin, end) in all {
            match merged.last_mut() {
                Some(last) if begin <= last.1.saturating_add(1) => last.1 = last.1.max(end),
                _ => merged.push((begin, end)),
            }
        }
        Self(merged)
    }

    /// One value.
    #[must_use]
    pub fn single(value: u64) -> Self {
        Self(vec![(value, value)])
    }

    /// The ranges, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// No value at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many values.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().fold(0, |sum, (begin, end)| {
            sum.saturating_add((end - begin).saturating_add(1))
        })
    }

    /// The values, ascending.
    pub fn values(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|&(begin, end)| begin..=end)
    }

    /// Whether `value` is in it.
    #[must_use]
    pub fn has(&self, value: u64) -> bool {
        self.0
            .iter()
            .any(|&(begin, end)| begin <= value && value <= end)
    }

    /// Whether every value of `other` is in it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|&(begin, end)| self.0.iter().any(|&(b, e)| b <= begin && end <= e))
    }

    /// Values in both.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        self.0
            .iter()
            .any(|&(begin, end)| other.0.iter().any(|&(b, e)| begin <= e && b <= end))
    }

    /// Values in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).copied())
    }

    /// Values of `self` that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(begin, end) in &self.0 {
            let mut at = Some(begin);
            for &(b, e) in other.0.iter().filter(|&&(b, e)| b <= end && begin <= e) {
                let Some(start) = at else { break };
                if start < b {
                    left.push((start, b - 1));
                }
                at = e
                    .checked_add(1)
                    .filter(|next| *next <= end)
                    .map(|next| next.max(start));
            }
            if let Some(start) = at {
                left.push((start, end));
            }
        }
        Self::new(left)
    }
}

impl From<Vec<(u64, u64)>> for Ranges {
    fn from(ranges: Vec<(u64, u64)>) -> Self {
        Self::new(ranges)
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, (begin, end)) in self.0.iter().enumerate() {
            write!(f, "{}{begin}-{end}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}

/// The inside of `[…]` in `part`.
pub(super) fn parse_ranges(part: &str, list: &str) -> Result<Ranges, InvalidResources> {
    let mut ranges = Vec::new();
    for range in list
        .split(',')
        .map(str::trim)
        .filter(|range| !range.is_empty())
    {
        let (begin, end) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| {
            text.trim()
                .parse::<u64>()
                .map_err(|_| invalid(part, "expected ranges like [31000-32000]"))
        };
        let (begin, end) = (number(begin)?, number(end)?);
        if begin > end {
            return Err(invalid(
                part,
                format!("range {range} ends before it begins"),
            ));
        }
        ranges.push((begin, end));
    }
    Ok(Ranges::new(ranges))
}
