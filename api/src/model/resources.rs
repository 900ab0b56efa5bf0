//! Exact arithmetic on resources: scalars in thousandths, inclusive ranges, sets.
//!
//! Never floats: sums over agents, roles and frameworks must agree to the last digit. An entry that is zero or empty
//! is never stored, so that equal resources compare equal.
//!
//! A master keeps millions of them and copies them all the time: a copy shares the entries, and a change makes new ones.

use std::{cmp::Ordering, collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A quantity with three decimals. `Scalar::from_millis(1500)` is 1.5.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scalar(i64);

/// A sum that left the range of `i64` thousandths, or a difference below zero.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("arithmetic on resource {name:?} overflows")]
pub struct Overflow {
    /// The resource.
    pub name: String,
}

/// Text that does not describe resources.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not valid: {problem}")]
pub struct InvalidResources {
    /// The part that could not be read.
    pub text: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

fn invalid(text: &str, problem: impl Into<String>) -> InvalidResources {
    InvalidResources {
        text: text.chars().take(80).collect(),
        problem: problem.into(),
    }
}

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

/// Named items.
pub type Set = BTreeSet<String>;

/// The value of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Adds up.
    Scalar(Scalar),
    /// Each value is had by one at a time.
    Ranges(Ranges),
    /// Each item is had by one at a time.
    Set(Set),
}

impl Value {
    fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(s) => s.is_zero(),
            Self::Ranges(r) => r.is_empty(),
            Self::Set(s) => s.is_empty(),
        }
    }

    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => a >= b,
            (Self::Ranges(a), Self::Ranges(b)) => a.contains(b),
            (Self::Set(a), Self::Set(b)) => a.is_superset(b),
            (Self::Scalar(_) | Self::Ranges(_) | Self::Set(_), _) => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(s) => s.fmt(f),
            Self::Ranges(r) => r.fmt(f),
            Self::Set(s) => write!(f, "{{{}}}", s.iter().cloned().collect::<Vec<_>>().join(",")),
        }
    }
}

/// Of one resource. The usual ones take no memory of their own.
#[derive(Debug, Clone)]
enum Name {
    Usual(&'static str),
    Other(Arc<str>),
}

impl Name {
    const USUAL: [&'static str; 5] = ["cpus", "mem", "disk", "ports", "gpus"];

    fn new(name: &str) -> Self {
        match Self::USUAL.into_iter().find(|usual| *usual == name) {
            Some(usual) => Self::Usual(usual),
            None => Self::Other(name.into()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Usual(name) => name,
            Self::Other(name) => name,
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

type Entry = (Name, Value);

/// What a machine has, an offer holds, a task takes: values by name. Cheap to clone.
#[derive(Debug, Clone, Default, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resources(
    /// By name, ascending.
    Arc<[Entry]>,
);

impl PartialEq for Resources {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl std::hash::Hash for Resources {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Entries of both, by name: those of one side alone come with `None`.
struct Merge<'a> {
    ours: std::iter::Peekable<std::slice::Iter<'a, Entry>>,
    theirs: std::iter::Peekable<std::slice::Iter<'a, Entry>>,
}

impl<'a> Iterator for Merge<'a> {
    type Item = (&'a Name, Option<&'a Value>, Option<&'a Value>);

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.ours.peek(), self.theirs.peek()) {
            (Some((a, _)), Some((b, _))) => a.as_str().cmp(b.as_str()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let ours = match order {
            Ordering::Less | Ordering::Equal => self.ours.next(),
            Ordering::Greater => None,
        };
        let theirs = match order {
            Ordering::Greater | Ordering::Equal => self.theirs.next(),
            Ordering::Less => None,
        };
        let name = ours.or(theirs).map(|(name, _)| name)?;
        Some((
            name,
            ours.map(|(_, value)| value),
            theirs.map(|(_, value)| value),
        ))
    }
}

impl Resources {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With that scalar in place of any former value of the name.
    #[must_use]
    pub fn with_scalar(self, name: &str, value: Scalar) -> Self {
        self.with(name, Value::Scalar(value))
    }

    /// With these ranges in place of any former value of the name.
    #[must_use]
    pub fn with_ranges(self, name: &str, value: Ranges) -> Self {
        self.with(name, Value::Ranges(value))
    }

    /// With that value in place of any former one of the name; an empty value removes it.
    #[must_use]
    pub fn with(self, name: &str, value: Value) -> Self {
        let place = self.position(name);
        let entries = match (place, value.is_empty()) {
            (Err(_), true) => return self,
            (Ok(at), true) => {
                let mut entries = self.0.to_vec();
                entries.remove(at);
                entries
            }
            (Ok(at), false) => {
                let mut entries = self.0.to_vec();
                entries[at].1 = value;
                entries
            }
            (Err(at), false) => {
                let mut entries = Vec::with_capacity(self.0.len() + 1);
                entries.extend_from_slice(&self.0);
                entries.insert(at, (Name::new(name), value));
                entries
            }
        };
        Self(entries.into())
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(have, _)| have.as_str().cmp(name))
    }

    fn merge<'a>(&'a self, other: &'a Self) -> Merge<'a> {
        Merge {
            ours: self.0.iter().peekable(),
            theirs: other.0.iter().peekable(),
        }
    }

    /// The value of a name, if there is any.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.position(name).ok().map(|at| &self.0[at].1)
    }

    /// The scalar of a name; zero where there is none.
    #[must_use]
    pub fn scalar(&self, name: &str) -> Scalar {
        match self.get(name) {
            Some(Value::Scalar(s)) => *s,
            Some(Value::Ranges(_) | Value::Set(_)) | None => Scalar::ZERO,
        }
    }

    /// Processors.
    #[must_use]
    pub fn cpus(&self) -> Scalar {
        self.scalar("cpus")
    }

    /// Memory in MiB.
    #[must_use]
    pub fn mem(&self) -> Scalar {
        self.scalar("mem")
    }

    /// Disk in MiB.
    #[must_use]
    pub fn disk(&self) -> Scalar {
        self.scalar("disk")
    }

    /// Host ports; empty where there are none.
    #[must_use]
    pub fn ports(&self) -> Ranges {
        match self.get("ports") {
            Some(Value::Ranges(r)) => r.clone(),
            Some(Value::Scalar(_) | Value::Set(_)) | None => Ranges::default(),
        }
    }

    /// Nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name and value, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether all of `other` could be taken from it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.merge(other).all(|(_, have, want)| match (have, want) {
            (_, None) => true,
            (Some(have), Some(want)) => have.contains(want),
            (None, Some(_)) => false,
        })
    }

    /// Adds `other`. Range values and set items that both have count once.
    ///
    /// # Panics
    ///
    /// When a scalar leaves the range of `i64` thousandths or the kinds of a name differ: what came from outside is
    /// bounded in [`crate::convert`], so either is a bug. Use [`Self::checked_add`] for anything else.
    pub fn add(&mut self, other: &Self) {
        *self = self
            .checked_add(other)
            .expect("bounded resources of equal kinds add up");
    }

    /// The sum.
    ///
    /// # Errors
    ///
    /// When a scalar leaves the range of `i64` thousandths or the kinds of a name differ.
    pub fn checked_add(&self, other: &Self) -> Result<Self, Overflow> {
        if other.is_empty() {
            return Ok(self.clone());
        }
        if self.is_empty() {
            return Ok(other.clone());
        }
        let mut sum = Vec::with_capacity(self.0.len().max(other.0.len()));
        for (name, ours, theirs) in self.merge(other) {
            let overflow = || Overflow {
                name: name.as_str().to_owned(),
            };
            let value = match (ours, theirs) {
                (Some(Value::Scalar(a)), Some(Value::Scalar(b))) => {
                    Value::Scalar(a.checked_add(*b).ok_or_else(overflow)?)
                }
                (Some(Value::Ranges(a)), Some(Value::Ranges(b))) => Value::Ranges(a.union(b)),
                (Some(Value::Set(a)), Some(Value::Set(b))) => Value::Set(a | b),
                (Some(Value::Scalar(_) | Value::Ranges(_) | Value::Set(_)), Some(_)) => {
                    return Err(overflow());
                }
                (Some(value), None) | (None, Some(value)) => value.clone(),
                (None, None) => continue,
            };
            if !value.is_empty() {
                sum.push((name.clone(), value));
            }
        }
        Ok(Self(sum.into()))
    }

    /// What is left when `other` is taken; `None` when it does not [contain](Self::contains) it.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        if !self.contains(other) {
            return None;
        }
        if other.is_empty() {
            return Some(self.clone());
        }
        let mut left = Vec::with_capacity(self.0.len());
        for (name, ours, theirs) in self.merge(other) {
            let value = match (ours?, theirs) {
                (value, None) => value.clone(),
                (Value::Scalar(a), Some(Value::Scalar(b))) => Value::Scalar(a.checked_sub(*b)?),
                (Value::Ranges(a), Some(Value::Ranges(b))) => Value::Ranges(a.difference(b)),
                (Value::Set(a), Some(Value::Set(b))) => Value::Set(a - b),
                (Value::Scalar(_) | Value::Ranges(_) | Value::Set(_), Some(_)) => return None,
            };
            if !value.is_empty() {
                left.push((name.clone(), value));
            }
        }
        Some(Self(left.into()))
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.iter().enumerate() {
            write!(f, "{}{name}:{value}", if i == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

impl FromStr for Resources {
    type Err = InvalidResources;

    /// Mesos' notation: `cpus:2;mem:1024;ports:[31000-32000,33000-33000];disks:{a,b}`. Scalars must not be negative,
    /// each name may stand once.
    fn from_str(text: &str) -> Result<Self, InvalidResources> {
        let mut resources = Self::new();
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part
                .split_once(':')
                .ok_or_else(|| invalid(part, "expected NAME:VALUE, as in cpus:2"))?;
            let (name, value) = (name.trim(), value.trim());
            if name.is_empty() {
                return Err(invalid(part, "the name before `:` is empty"));
            }
            let parsed = if let Some(list) = value.strip_prefix('[') {
                let list = list
                    .strip_suffix(']')
                    .ok_or_else(|| invalid(part, "`]` is missing at the end"))?;
                Value::Ranges(parse_ranges(part, list)?)
            } else if let Some(list) = value.strip_prefix('{') {
                let list = list
                    .strip_suffix('}')
                    .ok_or_else(|| invalid(part, "`}` is missing at the end"))?;
                Value::Set(
                    list.split(',')
                        .map(|s| s.trim().to_owned())
                        .filter(|s| !s.is_empty())
                        .collect(),
                )
            } else {
                let scalar: Scalar = value.parse()?;
                if scalar < Scalar::ZERO {
                    return Err(invalid(part, "it is negative"));
                }
                Value::Scalar(scalar)
            };
            if resources.get(name).is_some() {
                return Err(invalid(part, format!("{name:?} stands twice")));
            }
            resources = resources.with(name, parsed);
        }
        Ok(resources)
    }
}

fn parse_ranges(part: &str, list: &str) -> Result<Ranges, InvalidResources> {
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

impl TryFrom<String> for Resources {
    type Error = InvalidResources;

    fn try_from(text: String) -> Result<Self, InvalidResources> {
        text.parse()
    }
}

impl From<Resources> for String {
    fn from(resources: Resources) -> String {
        resources.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resources() -> impl Strategy<Value = Resources> {
        (
            0i64..100_000,
            0i64..100_000,
            proptest::collection::vec((0u64..60, 0u64..6), 0..5),
        )
            .prop_map(|(cpus, mem, ports)| {
                Resources::new()
                    .with_scalar("cpus", Scalar::from_millis(cpus))
                    .with_scalar("mem", Scalar::from_millis(mem))
                    .with_ranges(
                        "ports",
                        Ranges::new(ports.into_iter().map(|(b, n)| (b, b + n))),
                    )
            })
    }

    proptest! {
        #[test]
        fn what_is_taken_and_given_back_is_the_same(a in resources(), b in resources()) {
            match a.checked_sub(&b) {
                Some(rest) => {
                    prop_assert!(a.contains(&b));
                    let mut back = rest;
                    back.add(&b);
                    prop_assert_eq!(back, a);
                }
                None => prop_assert!(!a.contains(&b)),
            }
        }

        #[test]
        fn ranges_behave_as_sets_of_values(
            a in proptest::collection::vec((0u64..60, 0u64..6), 0..6),
            b in proptest::collection::vec((0u64..60, 0u64..6), 0..6),
        ) {
            let a = Ranges::new(a.into_iter().map(|(b, n)| (b, b + n)));
            let b = Ranges::new(b.into_iter().map(|(b, n)| (b, b + n)));
            let (sa, sb): (BTreeSet<_>, BTreeSet<_>) = (a.values().collect(), b.values().collect());
            prop_assert_eq!(a.union(&b).values().collect::<BTreeSet<_>>(), &sa | &sb);
            prop_assert_eq!(a.difference(&b).values().collect::<BTreeSet<_>>(), &sa - &sb);
            prop_assert_eq!(a.contains(&b), sa.is_superset(&sb));
            prop_assert_eq!(a.intersects(&b), !sa.is_disjoint(&sb));
            prop_assert_eq!(a.len(), sa.len() as u64);
        }

        #[test]
        fn text_round_trips(a in resources()) {
            prop_assert_eq!(a.to_string().parse::<Resources>().unwrap(), a);
        }

        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,40}") {
            let _ = text.parse::<Resources>();
            let _ = text.parse::<Scalar>();
        }
    }

    #[test]
    fn ranges_at_the_end_of_u64_do_not_overflow() {
        let all = Ranges::new([(0, u64::MAX)]);
        assert_eq!(
            all.difference(&Ranges::single(u64::MAX)).as_slice(),
            [(0, u64::MAX - 1)]
        );
        assert!(all.difference(&all).is_empty());
        assert_eq!(all.union(&Ranges::single(u64::MAX)), all);
    }

    #[test]
    fn scalars_are_exact() {
        for (text, millis) in [
            ("0.1", 100),
            ("1", 1000),
            ("-2.5", -2500),
            ("0.001", 1),
            ("3.1400", 3140),
        ] {
            assert_eq!(text.parse::<Scalar>().unwrap().millis(), millis, "{text}");
        }
        for bad in [
            "",
            ".",
            "1.",
            ".5",
            "1e3",
            "0.0001",
            "--1",
            "9223372036854775807",
            "NaN",
            "+1",
            "1 ",
        ] {
            assert!(bad.parse::<Scalar>().is_err(), "{bad:?}");
        }
        assert_eq!(Scalar::from_millis(-1500).to_string(), "-1.5");
        assert_eq!(Scalar::from_millis(1010).to_string(), "1.01");
    }
}
