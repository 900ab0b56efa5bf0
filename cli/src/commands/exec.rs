//! `mezzo task exec`: a command inside a task's container, with our input, output and terminal.
//!
//! Input is read by a thread of its own, because a read of a terminal cannot be called off; it ends with the process.
//! Everything else happens on one event loop: output, window sizes, signals. The terminal is put back in every case.

use std::{io::Read as _, thread};

use mezzo_api::proto::{
    EnvVar, ExecInput, ExecOutput, WindowSize,
    exec_input::{Input, Start},
    exec_output::Output,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use crate::{
    args::task::ExecArgs,
    client::node::Node,
    failure::Failure,
    output::{eprint_bytes, print_bytes},
    request,
    terminal::{self, RawMode},
};

/// Pieces of input that may wait for the network.
pub(super) const INPUT_QUEUE: usize = 32;
pub(super) const PIECE: usize = 16 << 10;

/// What to run, checked.
#[derive(Debug)]
pub(crate) struct Request {
    interactive: bool,
    tty: bool,
    env: Vec<(String, String)>,
    user: String,
    workdir: String,
    command: Vec<String>,
}

impl Request {
    pub(crate) fn new(args: &ExecArgs) -> Result<Self, Failure> {
        if args.tty && !terminal::is_interactive() {
            return Err(Failure::usage(
                "--tty needs a terminal on standard input and output; leave out -t here",
            ));
        }
        Ok(Self {
            interactive: args.interactive,
            tty: args.tty,
            env: request::pairs("--env", &args.env)?,
            user: args.user.clone(),
            workdir: args.workdir.clone(),
            command: args.command.clone(),
        })
    }

    fn start(&self, task_id: &str) -> Start {
        let env = self.env.iter().map(|(name, value)| EnvVar {
            name: name.clone(),
            value: value.clone(),
        });
        Start {
            task_id: task_id.to_owned(),
            args: self.command.clone(),
            env: env.collect(),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            terminal: self.tty.then(window_size),
        }
    }
}

pub(super) fn window_size() -> WindowSize {
    let (columns, rows) = terminal::size();
    WindowSize {
        columns: columns.into(),
        rows: rows.into(),
    }
}

fn input(input: Input) -> ExecInput {
    ExecInput { input: Some(input) }
}

/// Runs it to its end; a code other than 0 becomes ours.
pub(crate) async fn run(node: &mut Node, task_id: &str, request: Request) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    let queued = sender.try_send(input(Input::Start(request.start(task_id))));
    queued.expect("the queue is empty and its receiver is here");
    if !request.interactive {
        sender
            .try_send(input(Input::CloseStdin(true)))
            .expect("the queue has room for two");
    }
    let mut output = node.exec(receiver).await?;

    let failed =
        |error: std::io::Error| Failure::failed(format!("cannot watch for signals: {error}"));
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let raw = if request.tty {
        Some(RawMode::enter()?)
    } else {
        None
    };
    if request.interactive {
        let sender = sender.clone();
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || forward_stdin(&sender))
            .map_err(|error| {
                Failure::failed(format!("cannot start a thread for standard input: {error}"))
            })?;
    }
    let code = loop {
        tokio::select! {
            message = output.message() => match message.map_err(|status| node.refused(&status))? {
                Some(ExecOutput { output: Some(Output::Stdout(bytes)) }) => print_bytes(&bytes)?,
                Some(ExecOutput { output: Some(Output::Stderr(bytes)) }) => eprint_bytes(&bytes)?,
                Some(ExecOutput { output: Some(Output::ExitCode(code)) }) => break code,
                Some(ExecOutput { output: None }) => {}
                None => return Err(Failure::failed("the session ended without the command's exit code")),
            },
            Some(()) = next(&mut resized, request.tty) => {
                // A full queue means that the network hangs; the next change tells the size anew.
                let _ = sender.try_send(input(Input::Resize(window_size())));
            }
            _ = hangup.recv() => return Err(Failure::Code(128 + 1)),
            _ = terminate.recv() => return Err(Failure::Code(128 + 15)),
        }
    };
    drop(raw);
    end_with(code)
}

/// A program's code becomes ours.
pub(super) fn end_with(code: i32) -> Result<(), Failure> {
    match u8::try_from(code & 0xff) {
        Ok(0) if code == 0 => Ok(()),
        Ok(0) | Err(_) => Err(Failure::Code(255)),
        Ok(code) => Err(Failure::Code(code)),
    }
}

/// The next signal, where it is wanted.
pub(super) async fn next(signal: &mut Signal, wanted: bool) -> Option<()> {
    if wanted {
        signal.recv().await
    } else {
        std::future::pending().await
    }
}

/// Standard input until its end or ours.
fn forward_stdin(sender: &mpsc::Sender<ExecInput>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; PIECE];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if sender
                    .blocking_send(input(Input::Stdin(buffer[..n].to_vec())))
                    .is_err()
                {
                    return;
                }
            }
        }
    }
    // The session may be over: then nobody needs to know.
    let _ = sender.blocking_send(input(Input::CloseStdin(true)));
}
