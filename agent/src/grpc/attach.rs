//! Somebody at a task's terminal: what the caller types goes there, what the task writes comes from its log. Several may be
//! attached; who goes away takes nothing along.

use std::io;

use futures::StreamExt as _;
use mezzo_api::proto::{self, attach_input::Input, attach_input::Start};
use mezzo_runtime::TerminalInput;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::Answers;
use super::exec::{FIRST_MESSAGE, cells};
use crate::node::{ContainerId, Runtime, RuntimeError};

/// The first message of the caller, which must be Start.
pub(super) async fn first(input: &mut Streaming<proto::AttachInput>) -> Result<Start, Status> {
    let message = tokio::time::timeout(FIRST_MESSAGE, input.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no first message"))??;
    match message.and_then(|message| message.input) {
        Some(Input::Start(start)) => Ok(start),
        Some(Input::Typed(_) | Input::Resize(_)) | None => Err(Status::invalid_argument(
            "the first message must be `start`",
        )),
    }
}

/// The task's terminal.
pub(super) fn terminal(
    runtime: &dyn Runtime,
    container: &ContainerId,
) -> Result<TerminalInput, Status> {
    match runtime.terminal(container) {
        Ok(Some(terminal)) => Ok(terminal),
        Ok(None) => Err(Status::failed_precondition(
            "the task has no terminal: its app must say \"tty\": true",
        )),
        Err(RuntimeError::NotFound(_)) => Err(Status::failed_precondition("the task has ended")),
        Err(RuntimeError::Invalid(message)) => Err(Status::invalid_argument(message)),
        Err(RuntimeError::Other(message)) => Err(Status::failed_precondition(message)),
    }
}

/// What a caller types.
pub(super) struct Typing {
    pub(super) terminal: TerminalInput,
    pub(super) start: Start,
    pub(super) input: Streaming<proto::AttachInput>,
    /// Told when the output is being read: what is typed comes after that, or its echo might be missed.
    pub(super) reading: oneshot::Receiver<()>,
}

impl Typing {
    /// Goes on while somebody reads the output.
    pub(super) fn beside(self, output: Answers<proto::LogChunk>) -> Answers<proto::LogChunk> {
        let typing = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = self.pass_on().await {
                // It has ended; the caller hears of that by the end of the output.
                tracing::debug!(%error, "nothing more can be typed on a task's terminal");
            }
        }));
        Box::pin(output.map(move |chunk| {
            let _typing = &typing;
            chunk
        }))
    }

    /// Until the caller says no more.
    async fn pass_on(mut self) -> io::Result<()> {
        if self.reading.await.is_err() {
            return Ok(());
        }
        if let Some(size) = self.start.terminal {
            resize(&self.terminal, size).await?;
        }
        while let Ok(Some(message)) = self.input.message().await {
            match message.input {
                Some(Input::Typed(bytes)) => self.terminal.write(&bytes).await?,
                Some(Input::Resize(size)) => resize(&self.terminal, size).await?,
                Some(Input::Start(_)) | None => {}
            }
        }
        Ok(())
    }
}

async fn resize(terminal: &TerminalInput, size: proto::WindowSize) -> io::Result<()> {
    terminal.resize(cells(size.columns), cells(size.rows)).await
}
