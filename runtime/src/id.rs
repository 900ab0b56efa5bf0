//! The name of a container: what a directory, a cgroup and a log line are called by. Checked once here, so that
//! no other file has to think of `../`. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A container's id: a letter or digit, then up to 127 more of letters, digits, `_`, `.` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// Why a text is not a container id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "container id {id:?} is not valid: use a letter or digit followed by at most 127 letters, digits, '_', '.' or '-'"
)]
pub struct InvalidContainerId {
    id: String,
}

impl ContainerId {
    /// Longest id in bytes.
    pub const MAX_LENGTH: usize = 128;

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = InvalidContainerId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = text.len() <= Self::MAX_LENGTH
            && text
                .bytes()
                .next()
                .is_some_and(|first| first.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            let id = text.chars().take(Self::MAX_LENGTH).collect();
            Err(InvalidContainerId { id })
        }
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidContainerId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl AsRef<str> for ContainerId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_ids() {
        for name in ["a", "7", "web.1-x_Y", &"a".repeat(128)] {
            assert_eq!(name.parse::<ContainerId>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\0b",
            "-a",
            ".a",
            "ä",
            "a b",
            &"a".repeat(129),
        ] {
            assert!(name.parse::<ContainerId>().is_err(), "{name:?}");
        }
    }
}
