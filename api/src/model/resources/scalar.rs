//! Quantities with three decimals.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{InvalidResources, invalid};

/// A quantity with three decimals. `Scalar::from_millis(1500)` is 1.5.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scalar(i64);

impl Scalar {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From thousandths.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole units; saturates at the ends of the range.
    #[must_use]
    pub const fn from_units(units: i64) -> Self {
        Self(units.saturating_mul(1000))
    }

    /// In thousandths.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole units, rounded down.
    #[must_use]
    pub const fn units_floor(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// For display and for JSON of foreign APIs only; never compute with it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "display only")]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// `None` on overflow.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// `None` on overflow; the result may be negative.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Whether it is exactly zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, abs) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        let (whole, part) = (abs / 1000, abs % 1000);
        let text = if part == 0 {
            format!("{sign}{whole}")
        } else {
            let decimals = format!("{part:03}");
            format!("{sign}{whole}.{}", decimals.trim_end_matches('0'))
        };
        f.pad(&text)
    }
}

impl FromStr for Scalar {
    type Err = InvalidResources;

    /// A decimal number with at most three decimals. Exact: `0.1` is 100 thousandths.
    fn from_str(text: &str) -> Result<Self, InvalidResources> {
        let bad = |problem: &str| invalid(text, problem);
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty()
            || !all_digits(whole)
            || !all_digits(part)
            || (digits.contains('.') && part.is_empty())
        {
            return Err(bad("expected a decimal number like 1 or 0.25"));
        }
        let part = part.trim_end_matches('0');
        if part.len() > 3 {
            return Err(bad("at most three decimals are kept; round it"));
        }
        let whole: i64 = whole.parse().map_err(|_| bad("the number is too large"))?;
        let part: i64 = format!("{part:0<3}")
            .parse()
            .map_err(|_| bad("expected a decimal number"))?;
        let millis = whole
            .checked_mul(1000)
            .and_then(|w| w.checked_add(part))
            .ok_or_else(|| bad("the number is too large"))?;
        Ok(Self(if negative { -millis } else { millis }))
    }
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
