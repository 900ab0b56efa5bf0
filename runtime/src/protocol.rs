//! The messages between the runtime, its launcher and the processes that the launcher forks. One message is one
//! packet of JSON, with descriptors beside it. Every request brings its own reply socket, so that the launcher
//! has nothing to remember and an answer that never comes shows as the socket's end.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::Hierarchies;
use crate::error::StartFailure;
use crate::id::ContainerId;
use crate::layout::{ContainerDir, StartCost};
use crate::model::{ExecExit, ExecSpec, LogLimits};
use crate::process::ProcessRef;
use crate::seccomp::Filter;
use crate::spec::HostFacts;
use crate::sys;
use crate::user::ResolvedUser;

/// Most bytes of one message; a packet must also fit into the socket's send buffer.
pub(crate) const MAX_MESSAGE: usize = 160 * 1024;

/// A new launcher's first and only word of its own: everything it needs is there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {}

/// What the runtime asks of the launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Fork a keeper. Descriptors: reply socket, the container's locked lock file, its secrets if it has any, and
    /// its network namespace if one was prepared.
    Start(StartRequest),
    /// Fork a helper that runs a program in a container. Descriptors: reply socket, then stdin, stdout and
    /// stderr unless a terminal is wanted.
    Exec(ExecRequest),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartRequest {
    pub(crate) id: ContainerId,
    pub(crate) dir: ContainerDir,
    pub(crate) cgroup: String,
    pub(crate) log: LogLimits,
    /// `None`: no filter.
    pub(crate) seccomp: Option<Filter>,
    /// Whether secrets come along.
    pub(crate) secrets: bool,
    /// If it has a part in a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<GroupRequest>,
    /// Whether its users are its own.
    pub(crate) own_users: bool,
    /// Whether it is to have a network namespace with nothing but loopback.
    pub(crate) alone: bool,
    /// Whether its program has a terminal.
    pub(crate) terminal: bool,
    pub(crate) timeout_ms: u64,
}

impl StartRequest {
    /// Whether the container's first process is the one that makes it: a pid namespace belongs to the users in which it
    /// was made, and what is made outside of a container's own users needs somebody outside.
    pub(crate) fn is_made_by_itself(&self) -> bool {
        !self.own_users && self.group.is_none()
    }
}

/// What a start must know of a group.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct GroupRequest {
    /// The holder's process; of the holder itself, none.
    pub(crate) holder: Option<ProcessRef>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    pub(crate) id: ContainerId,
    pub(crate) dir: ContainerDir,
    pub(crate) process: ProcessRef,
    pub(crate) seccomp: Option<Filter>,
    pub(crate) spec: ExecSpec,
}

/// A keeper's one answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StartReply {
    Started {
        keeper: ProcessRef,
        process: ProcessRef,
        started_at_ms: u64,
        start_cost: Option<StartCost>,
        user: Option<ResolvedUser>,
    },
    Failed(StartFailure),
}

/// A helper's answers: started or failed, then exited.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ExecReply {
    /// With the terminal's master side beside it, if one was wanted.
    Started {
        pid: i32,
    },
    Failed(StartFailure),
    Exited(ExecExit),
}

/// What a forked process needs to know of the host, found out once by the launcher.
#[derive(Clone, Debug)]
pub(crate) struct HostContext {
    pub(crate) hierarchies: Hierarchies,
    pub(crate) facts: HostFacts,
}

/// Sends a message; an error only when the other side is gone or the message does not fit.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(std::io::Error::other)?;
    if bytes.len() > MAX_MESSAGE {
        let text = format!(
            "a message of {} bytes is longer than {MAX_MESSAGE}",
            bytes.len()
        );
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
    }
    sys::send_message(socket, &bytes, fds)
}

/// Receives a message; `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> std::io::Result<Option<(T, Vec<OwnedFd>)>> {
    let Some((bytes, fds)) = sys::receive_message(socket, MAX_MESSAGE)? else {
        return Ok(None);
    };
    let message = serde_json::from_slice(&bytes).map_err(std::io::Error::other)?;
    Ok(Some((message, fds)))
}
