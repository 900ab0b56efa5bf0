//! Exact arithmetic on resources: scalars in thousandths, inclusive ranges, sets.
//!
//! Never floats: sums over agents, roles and frameworks must agree to the last digit. An entry that is zero or empty
//! is never stored, so that equal resources compare equal.
//!
//! A master keeps millions of them and copies them all the time: a copy shares the entries, and a change makes new ones.

mod ranges;
mod scalar;

use std::{cmp::Ordering, collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use ranges::Ranges;
use ranges::parse_ranges;
pub use scalar::Scalar;

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

    /// Of these values, each of another name, in one piece.
    pub(crate) fn of(values: Vec<(String, Value)>) -> Self {
        let there = values.into_iter().filter(|(_, value)| !value.is_empty());
        let mut entries: Vec<Entry> = there
            .map(|(name, value)| (Name::new(&name), value))
            .collect();
        entries.sort_unstable_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        Self(entries.into())
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
mod tests;
