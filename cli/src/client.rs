//! The edges: connections to the scheduler (HTTP), the master and the nodes (gRPC).
//!
//! Every call has a deadline. A server that does not answer becomes one line that names its address and the fix.

pub(crate) mod events;
pub(crate) mod master;
pub(crate) mod node;
pub(crate) mod scheduler;

use std::time::Duration;

use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::failure::{Failure, chain};

/// How long a server may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a server may take to answer (for streams: to begin the answer).
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// A page of a thousand tasks with long descriptions fits.
const LARGEST_MESSAGE: usize = 64 << 20;

/// A gRPC channel to `address`; `hint` says what to do when nobody is there.
async fn channel(what: &str, address: &str, hint: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Failure::usage(format!("{what} address `{address}`: {error}")))?
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(CALL_DEADLINE)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_while_idle(true);
    endpoint.connect().await.map_err(|error| {
        Failure::Unreachable(format!(
            "cannot reach the {what} at {address}: {}; {hint}",
            root_cause(&error)
        ))
    })
}

/// A refused call in the words of the one who was asked.
fn refused(what: &str, address: &str, status: &Status) -> Failure {
    let message = if status.message().is_empty() {
        status.code().to_string()
    } else {
        status.message().to_owned()
    };
    match status.code() {
        Code::NotFound => Failure::NotFound(message),
        Code::InvalidArgument => Failure::Usage(message),
        Code::Unavailable | Code::DeadlineExceeded => Failure::Unreachable(format!(
            "the {what} at {address} does not answer: {message}"
        )),
        Code::Unimplemented => Failure::failed(format!(
            "the {what} at {address} does not know this call: is it a mezzo {what} of this version? ({message})"
        )),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Failure::Failed(message),
    }
}

/// The innermost cause, which is what a person can act on ("connection refused").
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    if innermost.to_string().is_empty() {
        chain(error)
    } else {
        innermost.to_string()
    }
}
