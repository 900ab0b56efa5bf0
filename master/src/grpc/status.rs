//! The one match from the core's refusals and endings to gRPC codes.

use std::fmt::Display;

use tonic::{Code, Status};

use crate::{
    allocator::quota::QuotaProblem,
    state::{Ending, Refusal},
    store::LARGEST_RECORD,
};

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::UnknownFramework(_)
            | Refusal::UnknownTask { .. }
            | Refusal::UnknownAgent(_)
            | Refusal::UnknownWindow(_) => Code::NotFound,
            Refusal::StaleStream { .. }
            | Refusal::RemovedFramework(_)
            | Refusal::AgentAway(_)
            | Refusal::Change { .. }
            | Refusal::InUse { .. }
            | Refusal::AgentConnected(_) => Code::FailedPrecondition,
            Refusal::Quotas(problems) if problems.iter().all(QuotaProblem::may_be_forced) => {
                Code::FailedPrecondition
            }
            Refusal::Immutable { .. }
            | Refusal::NotInRole { .. }
            | Refusal::InvalidPattern(_)
            | Refusal::Window(..)
            | Refusal::Quotas(_) => Code::InvalidArgument,
        };
        Self::new(code, refusal.to_string())
    }
}

impl From<Ending> for Status {
    fn from(ending: Ending) -> Self {
        let code = match ending {
            Ending::Superseded => Code::Aborted,
            Ending::TooSlow => Code::ResourceExhausted,
            Ending::Refused | Ending::Removed => Code::FailedPrecondition,
            Ending::ShuttingDown | Ending::Deposed => Code::Unavailable,
        };
        Self::new(code, ending.to_string())
    }
}

/// A field that cannot be read.
pub(crate) fn invalid(field: &str, problem: impl Display) -> Status {
    Status::invalid_argument(format!("{field}: {problem}"))
}

/// The same refusal, of a field that is part of another one.
pub(crate) fn within(field: &str, status: &Status) -> Status {
    Status::new(status.code(), format!("{field}.{}", status.message()))
}

/// Reads an id.
pub(crate) fn parse<T: TryFrom<String, Error: Display>>(
    field: &str,
    value: String,
) -> Result<T, Status> {
    T::try_from(value).map_err(|problem| invalid(field, problem))
}

/// Reads an id that may be absent (empty).
pub(crate) fn parse_optional<T: TryFrom<String, Error: Display>>(
    field: &str,
    value: String,
) -> Result<Option<T>, Status> {
    if value.is_empty() {
        Ok(None)
    } else {
        parse(field, value).map(Some)
    }
}

/// Refuses a description that no store takes: a leader that cannot write it would fail, and the next one too.
pub(crate) fn storable(field: &str, record: &impl serde::Serialize) -> Result<(), Status> {
    let size = serde_json::to_vec(record).map_or(usize::MAX, |text| text.len());
    if size > LARGEST_RECORD {
        return Err(invalid(
            field,
            format!("takes {size} bytes as JSON, at most {LARGEST_RECORD} are allowed"),
        ));
    }
    Ok(())
}

/// Refuses lists that no honest caller sends.
pub(crate) fn bounded(field: &str, length: usize, most: usize) -> Result<(), Status> {
    if length > most {
        return Err(invalid(
            field,
            format!("has {length} entries, at most {most} are allowed"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_store_takes_is_refused() {
        storable("x", &"a".repeat(1000)).unwrap();
        let status = storable("x", &"a".repeat(LARGEST_RECORD)).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}
