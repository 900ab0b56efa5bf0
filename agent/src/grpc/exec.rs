//! One session in a container: input to it, output from it, its exit code last. Ends when either side does; every
//! buffer is bounded, nothing is left running when the caller goes away.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use mezzo_api::proto::{self, exec_input::Input, exec_output::Output};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::Answers;
use crate::node::{
    ContainerId, ExecControl, ExecSession, ExecSpec, Reader, Runtime, RuntimeError, Writer,
};

const CHUNK: usize = 32 * 1024;
pub(super) const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// After the end, output still under way is waited for so long: a child may hold the pipe open.
const DRAIN: Duration = Duration::from_secs(2);

type Outputs = mpsc::Sender<Result<proto::ExecOutput, Status>>;

/// The first message of the caller, which must be Start.
pub(super) async fn first(
    input: &mut Streaming<proto::ExecInput>,
) -> Result<proto::exec_input::Start, Status> {
    let message = tokio::time::timeout(FIRST_MESSAGE, input.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no first message"))??;
    match message.and_then(|message| message.input) {
        Some(Input::Start(start)) if start.args.is_empty() => {
            Err(Status::invalid_argument("start.args: is empty"))
        }
        Some(Input::Start(start)) => Ok(start),
        _ => Err(Status::invalid_argument(
            "the first message must be `start`",
        )),
    }
}

/// Starts the session; it ends when the answer is dropped.
pub(super) async fn open(
    runtime: &dyn Runtime,
    container: &ContainerId,
    start: proto::exec_input::Start,
    input: Streaming<proto::ExecInput>,
) -> Result<Answers<proto::ExecOutput>, Status> {
    let spec = ExecSpec {
        args: start.args,
        env: start
            .env
            .into_iter()
            .map(|var| (var.name, var.value))
            .collect(),
        cwd: start.working_dir,
        user: start.user,
        terminal: start
            .terminal
            .map(|size| (cells(size.columns), cells(size.rows))),
    };
    let session = runtime
        .exec(container, spec)
        .await
        .map_err(|error| match error {
            RuntimeError::NotFound(_) => Status::failed_precondition("the task has ended"),
            RuntimeError::Invalid(message) => Status::invalid_argument(message),
            RuntimeError::Other(message) => Status::failed_precondition(message),
        })?;
    let (sender, outputs) = mpsc::channel(8);
    let task = AbortOnDropHandle::new(tokio::spawn(carry(session, input, sender)));
    Ok(Box::pin(ReceiverStream::new(outputs).map(move |output| {
        let _session = &task;
        output
    })))
}

pub(super) fn cells(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

async fn carry(mut session: ExecSession, input: Streaming<proto::ExecInput>, sender: Outputs) {
    let control = Arc::clone(&session.control);
    let feed = feed(input, session.stdin.take(), Arc::clone(&control));
    let stdout = pump(session.stdout.take(), &sender, Output::Stdout);
    let stderr = pump(session.stderr.take(), &sender, Output::Stderr);
    let output = async { tokio::join!(stdout, stderr) };
    tokio::pin!(feed, output);
    let (mut fed, mut drained) = (false, false);
    let wait = control.wait();
    tokio::pin!(wait);
    let code = loop {
        tokio::select! {
            code = &mut wait => break code,
            alive = &mut feed, if !fed => {
                fed = true;
                if !alive {
                    // The caller is gone: dropping the session ends the program.
                    return;
                }
            }
            _ = &mut output, if !drained => drained = true,
        }
    };
    if !drained {
        let _ = tokio::time::timeout(DRAIN, &mut output).await;
    }
    let last = match code {
        Ok(code) => Ok(proto::ExecOutput {
            output: Some(Output::ExitCode(code)),
        }),
        Err(error) => Err(Status::internal(error.to_string())),
    };
    let _ = sender.send(last).await;
}

/// Passes the caller's input on; `false` when the caller broke off.
async fn feed(
    mut input: Streaming<proto::ExecInput>,
    mut stdin: Option<Writer>,
    control: Arc<dyn ExecControl>,
) -> bool {
    loop {
        match input.message().await {
            Ok(Some(message)) => match message.input {
                Some(Input::Stdin(data)) => {
                    // A program that does not read any more is no error.
                    if let Some(writer) = &mut stdin
                        && writer.write_all(&data).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Some(Input::Resize(size)) => {
                    if let Err(error) = control.resize(cells(size.columns), cells(size.rows)) {
                        tracing::debug!(%error, "cannot resize a session's terminal");
                    }
                }
                Some(Input::CloseStdin(true)) => stdin = None,
                Some(Input::CloseStdin(false) | Input::Start(_)) | None => {}
            },
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

async fn pump(reader: Option<Reader>, sender: &Outputs, wrap: fn(Vec<u8>) -> Output) {
    let Some(mut reader) = reader else { return };
    loop {
        let mut data = vec![0; CHUNK];
        match reader.read(&mut data).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                data.truncate(n);
                if sender
                    .send(Ok(proto::ExecOutput {
                        output: Some(wrap(data)),
                    }))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    }
}
