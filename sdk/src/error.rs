//! What can go wrong, for a subscription and for a call, and what an author does about it.

use std::time::Duration;

use mezzo_api::model::FrameworkId;
use thiserror::Error;
use tonic::{Code, Status};

/// What ended a subscription for good. Everything else is tried again without an author's doing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The master has removed this framework: torn down, or away for longer than its failover timeout. Its tasks are
    /// gone.
    #[error(
        "the master does not know framework {framework_id} any more ({message}); subscribe without an id to begin anew"
    )]
    Forgotten {
        /// The id that is of no use any more.
        framework_id: FrameworkId,
        /// The master's word.
        message: String,
    },
    /// Another process has subscribed with the same id.
    #[error("another instance has taken over framework {framework_id}; this one must stop")]
    Superseded {
        /// Whose.
        framework_id: FrameworkId,
    },
    /// The master refuses this framework's description.
    #[error("the master refuses the subscription: {message}; correct the framework's description")]
    Refused {
        /// The master's word.
        message: String,
    },
}

/// Why a call did not succeed.
#[derive(Debug, Clone, Error)]
pub enum CallError {
    /// There is no subscription now: nothing was sent.
    #[error("{call}: not subscribed now; wait for the next Subscribed event, then reconcile")]
    NotSubscribed {
        /// Which call.
        call: &'static str,
    },
    /// The subscription that the call belonged to has ended: nothing was done.
    #[error(
        "{call}: its subscription is over ({message}); wait for the next Subscribed event, then reconcile"
    )]
    Stale {
        /// Which call.
        call: &'static str,
        /// The master's word.
        message: String,
    },
    /// The master says that the call is wrong, or that its credential is: nothing was done, and trying again will not help.
    #[error("{call}: refused: {message}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// The master's word, with the field.
        message: String,
    },
    /// No answer in time. The call may have been carried out: reconcile the tasks that it named.
    #[error("{call}: no answer within {after:?}; it may have been carried out, so reconcile")]
    NoAnswer {
        /// Which call.
        call: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke, or the master is overloaded. The call may have been carried out.
    #[error("{call} failed; it may have been carried out, so reconcile")]
    Failed {
        /// Which call.
        call: &'static str,
        /// What gRPC says.
        #[source]
        source: Box<Status>,
    },
}

impl CallError {
    pub(crate) fn of(call: &'static str, status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::FailedPrecondition | Code::Aborted => Self::Stale { call, message },
            Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => Self::Refused { call, message },
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Failed {
                call,
                source: Box::new(status),
            },
        }
    }

    /// Whether the master may have done what was asked for, although no answer came.
    ///
    /// ```
    /// # use mezzo_framework::CallError;
    /// assert!(!CallError::NotSubscribed { call: "launch" }.may_have_happened());
    /// ```
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::NotSubscribed { .. } | Self::Stale { .. } | Self::Refused { .. } => false,
            Self::NoAnswer { .. } | Self::Failed { .. } => true,
        }
    }

    /// Whether the same call can succeed later, on another subscription.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_author_must_do_follows_from_the_code() {
        let of = |code| CallError::of("launch", Status::new(code, "tasks[0]: no image"));
        assert!(matches!(
            of(Code::FailedPrecondition),
            CallError::Stale { .. }
        ));
        assert!(!of(Code::InvalidArgument).is_passing());
        // Whoever is not known was turned away before anything was done.
        assert!(!of(Code::Unauthenticated).may_have_happened());
        assert!(of(Code::Unavailable).is_passing() && of(Code::Unavailable).may_have_happened());
        assert_eq!(
            of(Code::InvalidArgument).to_string(),
            "launch: refused: tasks[0]: no image"
        );
    }
}
