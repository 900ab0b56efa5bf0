//! The keeper's side of its container's standard streams: what the program writes into two pipes, or to its terminal, goes
//! into the log files, and what is typed to its terminal. Nothing here holds the keeper up: it moves what is there, a bounded
//! amount at a time.
//!
//! Of a terminal the keeper has both sides. As long as somebody has the program's side open, the master is not at its end:
//! a program that closes its streams may open `/dev/tty` again later. When the container has ended, the keeper closes it,
//! and the master gives what is still on the way and then its end (`EIO`).

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::logs::BoundedLog;
use crate::terminal::Terminal;
use crate::terminal::input::InputReader;

/// The standard streams of one container.
#[derive(Debug)]
pub(super) struct Streams {
    /// Standard output, errors.
    outputs: [Output; 2],
    /// Of a program with a terminal, until the container has ended.
    console: Option<Console>,
}

/// What there is of a terminal beside its output.
#[derive(Debug)]
struct Console {
    /// The program's side.
    _slave: OwnedFd,
    input: InputReader,
}

/// Where one kind of output comes from, and the files behind it.
#[derive(Debug)]
struct Output {
    /// `None` before its beginning and after its end.
    source: Option<File>,
    log: BoundedLog,
}

impl Streams {
    /// Nothing comes yet.
    pub(super) fn new(stdout: BoundedLog, stderr: BoundedLog) -> Self {
        let output = |log| Output { source: None, log };
        Self {
            outputs: [output(stdout), output(stderr)],
            console: None,
        }
    }

    /// Output comes through these.
    pub(super) fn attach_pipes(
        &mut self,
        stdout: PipeReader,
        stderr: PipeReader,
    ) -> io::Result<()> {
        for (output, pipe) in self.outputs.iter_mut().zip([stdout, stderr]) {
            output.source = Some(never_waiting(pipe.into())?);
        }
        Ok(())
    }

    /// All output comes from this terminal, as standard output, and what is typed goes there.
    pub(super) fn attach_terminal(
        &mut self,
        terminal: Terminal,
        input: InputReader,
    ) -> io::Result<()> {
        self.outputs[0].source = Some(never_waiting(terminal.master)?);
        self.console = Some(Console {
            _slave: terminal.slave,
            input,
        });
        Ok(())
    }

    /// Waits until `fd` is readable, while output already flows; `false` when the time is over.
    pub(super) fn wait_for(&mut self, fd: BorrowedFd<'_>, deadline: Instant) -> bool {
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            if self.poll(fd, Some(left)) {
                return true;
            }
        }
    }

    /// Waits once for `fd` or output, moves output that is there, and tells whether `fd` is ready.
    pub(super) fn poll(&mut self, fd: BorrowedFd<'_>, timeout: Option<Duration>) -> bool {
        self.poll_with(Some(fd), timeout)
    }

    /// Moves what is left, after the container's end: until the end of the output, or until then.
    pub(super) fn drain(&mut self, deadline: Instant) {
        self.console = None;
        while self.outputs.iter().any(|output| output.source.is_some()) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            self.poll_with(None, Some(left));
        }
    }

    fn poll_with(&mut self, fd: Option<BorrowedFd<'_>>, timeout: Option<Duration>) -> bool {
        let ready: [PollFlags; 4] = {
            let sources = self.outputs.each_ref().map(|output| &output.source);
            let [stdout, stderr] = sources.map(|source| source.as_ref().map(File::as_fd));
            // Without a master nothing can be done about input.
            let console = self.console.as_ref().filter(|_| stdout.is_some());
            let input = console.map(|console| &console.input);
            // The terminal is where output comes from, and where input goes.
            let typing = match input.is_some_and(InputReader::is_pending) {
                true => PollFlags::POLLOUT,
                false => PollFlags::empty(),
            };
            let watched = [
                (fd, PollFlags::POLLIN),
                (stdout, PollFlags::POLLIN | typing),
                (stderr, PollFlags::POLLIN),
                (input.and_then(InputReader::readable), PollFlags::POLLIN),
            ];
            let mut items: Vec<_> = watched
                .iter()
                .filter_map(|(fd, events)| Some(PollFd::new((*fd)?, *events)))
                .collect();
            let timeout = timeout.map_or(PollTimeout::NONE, |time| {
                let millis = i32::try_from(time.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
                PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
            });
            if poll(&mut items, timeout).is_err() {
                return false;
            }
            let mut answers = items
                .iter()
                .map(|item| item.revents().unwrap_or(PollFlags::POLLERR));
            watched.map(|(fd, _)| {
                let answer = fd.and_then(|_| answers.next());
                answer.unwrap_or(PollFlags::empty())
            })
        };
        let [fd, stdout, stderr, input] = ready;
        if !(stdout & !PollFlags::POLLOUT).is_empty() {
            self.outputs[0].take();
        }
        if !stderr.is_empty() {
            self.outputs[1].take();
        }
        if (stdout.contains(PollFlags::POLLOUT) || !input.is_empty())
            && let (Some(console), Some(master)) = (&mut self.console, &mut self.outputs[0].source)
        {
            console.input.carry(master);
        }
        !fd.is_empty()
    }
}

impl Output {
    /// Moves what is there into the log, a bounded amount at a time so that no stream starves the other.
    fn take(&mut self) {
        let Some(source) = self.source.as_mut() else {
            return;
        };
        let mut chunk = [0_u8; 16 * 1024];
        for _ in 0..8 {
            match source.read(&mut chunk) {
                Ok(length) if length > 0 => self.log.write(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // A terminal's end is an error, and after any other there is nothing to be had either.
                Ok(_) | Err(_) => {
                    self.source = None;
                    return;
                }
            }
        }
    }
}

fn never_waiting(fd: OwnedFd) -> io::Result<File> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd.into())
}
