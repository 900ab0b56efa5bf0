//! Asking the launcher for a helper that runs a program in a container, and making a session of its answer.

use std::io;
use std::os::fd::AsFd;

use super::Inner;
use crate::error::{ExecError, StartFailure};
use crate::link;
use crate::protocol::{ExecReply, ExecRequest, Request};
use crate::session::{ExecSession, ExecStream};

pub(super) async fn run_exec(
    inner: &Inner,
    request: ExecRequest,
) -> Result<ExecSession, ExecError> {
    let id = request.id.clone();
    let internal = |error: io::Error| ExecError::Internal {
        id: id.clone(),
        reason: error.to_string(),
    };
    let (ours, theirs) = link::packet_socket_pair().map_err(internal)?;
    let reply = link::non_blocking(ours).map_err(internal)?;
    let pipes = if request.spec.terminal.is_some() {
        None
    } else {
        Some([
            io::pipe().map_err(internal)?,
            io::pipe().map_err(internal)?,
            io::pipe().map_err(internal)?,
        ])
    };
    let mut fds = vec![theirs.as_fd()];
    if let Some([stdin, stdout, stderr]) = &pipes {
        fds.extend([stdin.0.as_fd(), stdout.1.as_fd(), stderr.1.as_fd()]);
    }
    let timeout = inner.config.start_timeout;
    inner
        .link
        .request(&Request::Exec(request), &fds)
        .await
        .map_err(internal)?;
    drop(fds);
    drop(theirs);
    let answer = tokio::time::timeout(timeout, link::receive::<ExecReply>(&reply))
        .await
        .map_err(|_| {
            StartFailure::TimedOut {
                seconds: timeout.as_secs(),
            }
            .into_exec_error(&id)
        })?
        .map_err(internal)?;
    let (pid, received) = match answer {
        Some((ExecReply::Started { pid }, fds)) => (pid, fds),
        Some((ExecReply::Failed(failure), _)) => return Err(failure.into_exec_error(&id)),
        Some((ExecReply::Exited(_), _)) | None => {
            return Err(ExecError::Internal {
                id,
                reason: "its helper died".to_owned(),
            });
        }
    };
    let terminal = match received.into_iter().next() {
        Some(master) => Some(ExecStream::new(master).map_err(internal)?),
        None => None,
    };
    let (stdin, stdout, stderr) = match (pipes, &terminal) {
        (Some([stdin, stdout, stderr]), _) => (
            ExecStream::new(stdin.1.into()).map_err(internal)?,
            ExecStream::new(stdout.0.into()).map_err(internal)?,
            Some(ExecStream::new(stderr.0.into()).map_err(internal)?),
        ),
        (None, Some(terminal)) => (terminal.clone(), terminal.clone(), None),
        (None, None) => {
            return Err(ExecError::Internal {
                id,
                reason: "no terminal came".to_owned(),
            });
        }
    };
    Ok(ExecSession {
        stdin: Some(stdin),
        stdout,
        stderr,
        pid,
        terminal,
        reply,
        exit: None,
    })
}
