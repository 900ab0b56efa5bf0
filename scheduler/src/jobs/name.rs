//! Names of jobs, and the task ids made from them.
//!
//! Pure. A task id has Chronos' form, `ct:DUE:ATTEMPT:JOB:…`, and the colons tell it from those of apps, which have
//! none.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mezzo_api::model::TaskId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// So long that a task id made from it still has at most 255 bytes.
const MAX_LEN: usize = 180;

/// Letters, digits, `_`, `.` and `-`, as in Chronos.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobName(Arc<str>);

/// A text that cannot name a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidJobName(String);

impl JobName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A task id that has not been used before if `unique` has not.
    #[must_use]
    pub fn task_id(&self, due: u64, attempt: u32, unique: Uuid) -> TaskId {
        format!("ct:{due}:{attempt}:{self}:{}", unique.simple())
            .parse()
            .expect("a job's name holds letters, digits, `_`, `.` and `-`, and is short")
    }
}

impl FromStr for JobName {
    type Err = InvalidJobName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if text.is_empty() {
            return Err(InvalidJobName("is empty".to_owned()));
        }
        if text.len() > MAX_LEN {
            return Err(InvalidJobName(format!("is longer than {MAX_LEN} bytes")));
        }
        // These two are no names anywhere that has paths, URLs above all.
        if !text.bytes().all(good) || text == "." || text == ".." {
            let shown: String = text.chars().take(80).collect();
            return Err(InvalidJobName(format!(
                "{shown:?} is not valid: letters, digits, `_`, `.` and `-` make a job's name"
            )));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for JobName {
    type Error = InvalidJobName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<JobName> for String {
    fn from(name: JobName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobName({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_chronos() {
        for good in ["a", "Nightly_report.v2", "x-1", &"x".repeat(MAX_LEN)] {
            let name: JobName = good.parse().expect("valid");
            assert!(name.task_id(u64::MAX, u32::MAX, Uuid::nil()).as_str().len() <= 255);
        }
        for bad in [
            "",
            "a b",
            "a/b",
            "a:b",
            "é",
            "..",
            ".",
            &"x".repeat(MAX_LEN + 1),
        ] {
            assert!(bad.parse::<JobName>().is_err(), "{bad:?}");
        }
    }
}
