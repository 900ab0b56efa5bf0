//! `mezzo task attach`: what a task writes from now on, to its end, whose code becomes ours. With `-i` what is typed here
//! goes to the task's terminal, with `-t` key by key, until Ctrl-P Ctrl-Q.
//!
//! Input is read by a thread of its own, as for `task exec`; everything else happens on one event loop. Our terminal is put
//! back in every case.

use std::{io::Read as _, sync::Arc, thread, time::Duration};

use mezzo_api::proto::{
    self, AttachInput,
    attach_input::{Input, Start},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    time::Instant,
};

use super::exec::{INPUT_QUEUE, PIECE, end_with, next, window_size};
use super::task::{find_node, find_task, print_chunk, print_log};
use crate::{
    args::task::AttachArgs,
    client::{master::Master, node::Node},
    failure::Failure,
    output::say,
    render,
    terminal::{self, RawMode},
};

/// How long the master may take to hear of an end.
const END_KNOWN: Duration = Duration::from_secs(10);

pub(super) async fn run(master: &mut Master, args: &AttachArgs) -> Result<(), Failure> {
    if args.tty && !terminal::is_interactive() {
        return Err(Failure::usage(
            "--tty needs a terminal on standard input and output; leave out -t here",
        ));
    }
    let (task, mut node) = find_node(master, &args.task).await?;
    if !task.is_live() {
        return Err(Failure::failed(format!(
            "task {} has ended already ({}); `mezzo task log` shows what it wrote",
            task.id,
            task.short_state()
        )));
    }
    if !args.interactive {
        let request = proto::ReadLogRequest {
            task_id: task.id.clone(),
            tail_lines: Some(0),
            follow: true,
            ..proto::ReadLogRequest::default()
        };
        print_log(&mut node, request).await?;
    } else if let Left::Alone = at_terminal(&mut node, &task.id, args.tty).await? {
        say(&format!("detached from task {}, which runs on", task.id));
        return Ok(());
    }
    // The master hears of the end a moment after the node.
    let deadline = Instant::now() + END_KNOWN;
    loop {
        let ended = find_task(master, &task.id).await?;
        if !ended.is_live() || Instant::now() >= deadline {
            let exit = ended.exit.clone().unwrap_or_default();
            let how = ended
                .exit
                .as_ref()
                .map(render::task::exit)
                .filter(|how| !how.is_empty())
                .unwrap_or_else(|| ended.short_state());
            say(&format!("task {} ended: {how}", ended.id));
            return end_with(match (exit.code, exit.signal) {
                (Some(code), _) => code,
                (None, Some(signal)) => 128 + signal,
                (None, None) => 255,
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How it was to an end.
enum Left {
    /// The task's.
    Ended,
    /// Ours: the task runs on.
    Alone,
}

fn input(input: Input) -> AttachInput {
    AttachInput { input: Some(input) }
}

/// Types on the task's terminal, and shows what it writes.
async fn at_terminal(node: &mut Node, task_id: &str, tty: bool) -> Result<Left, Failure> {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    let start = Start {
        task_id: task_id.to_owned(),
        terminal: tty.then(window_size),
    };
    let queued = sender.try_send(input(Input::Start(start)));
    queued.expect("the queue is empty and its receiver is here");
    let mut output = node.attach(receiver).await?;

    let failed =
        |error: std::io::Error| Failure::failed(format!("cannot watch for signals: {error}"));
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let raw = if tty { Some(RawMode::enter()?) } else { None };
    let detached = Arc::new(Notify::new());
    let keys = tty.then(DetachKeys::default);
    let (typing, detach) = (sender.clone(), Arc::clone(&detached));
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            if forward_stdin(&typing, keys) == Stdin::Detached {
                detach.notify_one();
            }
        })
        .map_err(|error| {
            Failure::failed(format!("cannot start a thread for standard input: {error}"))
        })?;
    let left = loop {
        tokio::select! {
            chunk = output.message() => match chunk.map_err(|status| node.refused(&status))? {
                Some(chunk) => print_chunk(&chunk)?,
                None => break Left::Ended,
            },
            Some(()) = next(&mut resized, tty) => {
                // A full queue means that the network hangs, or that the program reads nothing; the next change tells it anew.
                let _ = sender.try_send(input(Input::Resize(window_size())));
            }
            () = detached.notified() => break Left::Alone,
            _ = hangup.recv() => return Err(Failure::Code(128 + 1)),
            _ = terminate.recv() => return Err(Failure::Code(128 + 15)),
        }
    };
    drop(raw);
    Ok(left)
}

/// Why nothing more is read.
#[derive(Debug, PartialEq, Eq)]
enum Stdin {
    /// Its end, or that of the session.
    Over,
    Detached,
}

fn forward_stdin(sender: &mpsc::Sender<AttachInput>, mut keys: Option<DetachKeys>) -> Stdin {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; PIECE];
    loop {
        let typed = match stdin.read(&mut buffer) {
            Ok(0) | Err(_) => return Stdin::Over,
            Ok(n) => &buffer[..n],
        };
        let (typed, detach) = match &mut keys {
            Some(keys) => keys.filter(typed),
            None => (typed.to_vec(), false),
        };
        if detach {
            return Stdin::Detached;
        }
        if !typed.is_empty() && sender.blocking_send(input(Input::Typed(typed))).is_err() {
            return Stdin::Over;
        }
    }
}

/// Docker's keys for leaving: Ctrl-P, and Ctrl-Q right after it. A Ctrl-P waits for the next key.
#[derive(Debug, Default)]
struct DetachKeys {
    held: bool,
}

impl DetachKeys {
    const FIRST: u8 = 0x10;
    const SECOND: u8 = 0x11;

    /// What is to be passed on, and whether those keys were pressed. Pure.
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            if std::mem::take(&mut self.held) {
                if key == Self::SECOND {
                    return (passed, true);
                }
                passed.push(Self::FIRST);
            }
            if key == Self::FIRST {
                self.held = true;
            } else {
                passed.push(key);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_for_leaving_are_found_across_reads_and_others_pass() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(keys.filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"b\x11"), (b"\x10b\x11".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11"), (Vec::new(), true));
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"x\x10\x11y"), (b"x".to_vec(), true));
    }
}
