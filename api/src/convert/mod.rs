//! The border: messages from the wire become checked [`crate::model`] types, or one [`Invalid`] that names every
//! problem with the path of its field. The way back never fails.
//!
//! Bounds here keep later arithmetic from overflowing and lists from growing without end.

mod agent;
mod check;
mod common;
mod confinement;
mod container;
mod description;
mod framework;
mod group;
mod health;
mod launch;
mod limits;
mod listed;
mod network;
mod operation;
mod readiness;
mod reservations;
mod revocable;
mod status;
mod task;
mod usage;

use std::fmt;

pub use description::Description;
pub use group::members as group_members;
pub use launch::Launch;
pub use limits::limit_problems;
pub use listed::{EncodedTasks, ListTasksResponse, ListedTask, TaskWriter};
pub use revocable::{REVOCABLE, revocable_problems, slack};
pub use task::AtHand;
use thiserror::Error;

/// One thing wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Such as `task.resources[2].scalar`; empty for the message as a whole.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// Everything wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Invalid {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Invalid {
    /// One problem.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            problems: vec![Problem {
                field: field.into(),
                message: message.into(),
            }],
        }
    }

    /// The same problems, one level deeper: `prefix.field`.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> Self {
        for problem in &mut self.problems {
            problem.field = match problem.field.as_str() {
                "" => prefix.to_owned(),
                field if field.starts_with('[') => format!("{prefix}{field}"),
                field => format!("{prefix}.{field}"),
            };
        }
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        tonic::Status::invalid_argument(invalid.to_string())
    }
}

/// Collects problems while a message is read field by field.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// The value, or `None` with the problem noted under `field`.
    pub(crate) fn take<T, E: Into<Invalid>>(
        &mut self,
        field: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.extend(error.into().within(field).problems);
                None
            }
        }
    }

    /// Each item converted; problems carry the index.
    pub(crate) fn list<P, T>(&mut self, field: &str, items: Vec<P>, most: usize) -> Vec<T>
    where
        T: TryFrom<P>,
        T::Error: Into<Invalid>,
    {
        if items.len() > most {
            self.note(
                field,
                format!("has {} entries; at most {most} are allowed", items.len()),
            );
            return Vec::new();
        }
        let mut out = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            match T::try_from(item) {
                Ok(item) => out.push(item),
                Err(error) => {
                    let place = format!("{field}[{i}]");
                    self.0.extend(error.into().within(&place).problems);
                }
            }
        }
        out
    }

    pub(crate) fn note(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Problem {
            field: field.to_owned(),
            message: message.into(),
        });
    }

    /// Problems that were found elsewhere, already with their fields.
    pub(crate) fn extend(&mut self, problems: Vec<Problem>) {
        self.0.extend(problems);
    }

    /// Notes a text that is longer than `most` bytes.
    pub(crate) fn bound(&mut self, field: &str, text: &str, most: usize) {
        if text.len() > most {
            self.note(
                field,
                format!("is {} bytes long; at most {most} are allowed", text.len()),
            );
        }
    }

    /// The port that a check asks.
    pub(crate) fn port(&mut self, port: u32) -> Option<u16> {
        match u16::try_from(port) {
            Ok(port) if port > 0 => Some(port),
            Ok(_) | Err(_) => {
                self.note("port", format!("{port} is not between 1 and 65535"));
                None
            }
        }
    }

    /// The value when nothing was noted.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, Invalid> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            Some(_) | None => Err(Invalid { problems: self.0 }),
        }
    }
}

impl From<crate::model::InvalidId> for Invalid {
    fn from(error: crate::model::InvalidId) -> Self {
        Self::new("", error.to_string())
    }
}
