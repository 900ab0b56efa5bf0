//! A set of processors as the kernel writes it, `0-2,5`: read, printed, compared. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// More than any kernel is built for (`CONFIG_NR_CPUS`), so that a range cannot fill the memory.
const MOST: u32 = 16_384;

/// Processors by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u32>);

/// Text that is no set of processors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a list of processors like 0-2,5")]
pub struct InvalidCpuSet(String);

impl CpuSet {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// The first that `other` does not have.
    #[must_use]
    pub fn missing_in(&self, other: &Self) -> Option<u32> {
        self.0.difference(&other.0).next().copied()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = InvalidCpuSet;

    fn from_str(text: &str) -> Result<Self, InvalidCpuSet> {
        let invalid = || InvalidCpuSet(text.chars().take(80).collect());
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number: Option<u32> = digits.then(|| text.parse().ok()).flatten();
            number.filter(|number| *number < MOST).ok_or_else(invalid)
        };
        let text = text.trim();
        let mut found = BTreeSet::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            match part.split_once('-') {
                None => {
                    found.insert(number(part)?);
                }
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(invalid());
                    }
                    found.extend(first..=last);
                }
            }
        }
        Ok(Self(found))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for number in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                Some(_) | None => ranges.push((number, number)),
            }
        }
        for (index, (first, last)) in ranges.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(formatter, "{comma}{first}")?;
            } else {
                write!(formatter, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for CpuSet {
    type Error = InvalidCpuSet;

    fn try_from(text: String) -> Result<Self, InvalidCpuSet> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_the_kernel_writes_it() {
        for (text, written) in [
            ("", ""),
            ("\n", ""),
            ("0", "0"),
            ("0-1\n", "0-1"),
            ("3,1,2", "1-3"),
            ("0-2,5,7-8", "0-2,5,7-8"),
        ] {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!(set.to_string(), written);
        }
        for bad in [
            "a",
            "1-",
            "-1",
            "2-1",
            "1,,2",
            "+1",
            "0-4294967295",
            "16384",
        ] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        assert_eq!(set("0,4").missing_in(&set("0-3")), Some(4));
        assert_eq!(set("1").missing_in(&set("0-3")), None);
    }
}
