//! How a verb can fail, and the exit code of each way: the one place where errors become codes.
//!
//! Every message is one line (or one line per problem of an input) that names the thing and, where there is one, the
//! fix. `main` prints it; nobody else does.

use std::{io, process::ExitCode};

/// Why a verb did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The request was understood and did not succeed.
    #[error("{0}")]
    Failed(String),
    /// The command line or a file given on it is wrong.
    #[error("{0}")]
    Usage(String),
    /// The thing named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A server did not answer.
    #[error("{0}")]
    Unreachable(String),
    /// Everything has been said; only the code matters (the code of a command run by `exec`).
    #[error("exit code {0}")]
    Code(u8),
    /// Whoever read our output has gone (`| head`): the end, without a word.
    #[error("the reader of the output has gone")]
    ReaderGone,
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// A failure of our own output.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ReaderGone
        } else {
            Self::Failed(format!("cannot write the output: {error}"))
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
            Self::Code(code) => *code,
            Self::ReaderGone => 0,
        })
    }

    /// What the person is told, if anything.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Failed(_) | Self::Usage(_) | Self::NotFound(_) | Self::Unreachable(_) => {
                Some(self.to_string())
            }
            Self::Code(_) | Self::ReaderGone => None,
        }
    }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit_code(), ExitCode::from(0));
        assert_eq!(failure.message(), None);
    }

    #[test]
    fn the_documented_exit_codes_hold() {
        let codes = [
            (Failure::failed("x"), 1),
            (Failure::usage("x"), 2),
            (Failure::NotFound("x".into()), 3),
            (Failure::Unreachable("x".into()), 4),
            (Failure::Code(42), 42),
        ];
        for (failure, code) in codes {
            assert_eq!(failure.exit_code(), ExitCode::from(code), "{failure:?}");
        }
    }
}
