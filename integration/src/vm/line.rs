//! The host's end of a guest's line: sends requests, and one thread sorts the answers to those who wait for them.

use std::collections::HashMap;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::protocol::{self, Exit, Kind};
use crate::interrupt;

/// More of one stream is dropped, and said to be.
const MAX_KEPT: usize = 64 << 20;
/// How often a wait looks whether the person has pressed Ctrl-C.
const LOOK: Duration = Duration::from_millis(200);

/// What came for a request so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// Some bytes were dropped.
    pub(super) cut: bool,
    pub(super) end: Option<End>,
}

/// How a request ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    Exited(Exit),
    /// A file is complete.
    Complete,
    Failed(String),
    /// The line is dead.
    Gone,
}

#[derive(Debug, Default)]
struct State {
    next: u32,
    kernel: Option<String>,
    dead: bool,
    requests: HashMap<u32, Answer>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connected line.
#[derive(Debug)]
pub(super) struct Line {
    shared: Arc<Shared>,
    to: Mutex<UnixStream>,
    reader: Option<JoinHandle<()>>,
}

impl Line {
    pub(super) fn new(stream: UnixStream, write_limit: Duration) -> Result<Self> {
        stream.set_write_timeout(Some(write_limit))?;
        let from = stream.try_clone().context("clone the guest's line")?;
        let shared = Arc::new(Shared::default());
        let for_reader = Arc::clone(&shared);
        let reader = thread::Builder::new()
            .name("guest-line".to_owned())
            .spawn(move || sort(from, &for_reader))
            .context("start the reader of the guest's line")?;
        Ok(Self {
            shared,
            to: Mutex::new(stream),
            reader: Some(reader),
        })
    }

    /// Waits for the guest's first word, which tells its kernel. `None` if it has not come yet after a short look.
    pub(super) fn hello(&self) -> Result<Option<String>> {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout(state, LOOK)
            .unwrap_or_else(PoisonError::into_inner);
        if state.dead && state.kernel.is_none() {
            bail!("the guest ended before its first word");
        }
        Ok(state.kernel.clone())
    }

    /// Sends a request's first frame and returns its number.
    pub(super) fn ask(&self, kind: Kind, payload: &[u8]) -> Result<u32> {
        let request = {
            let mut state = self.shared.lock();
            state.next += 1;
            let request = state.next;
            let end = state.dead.then_some(End::Gone);
            state.requests.insert(
                request,
                Answer {
                    end,
                    ..Answer::default()
                },
            );
            request
        };
        self.tell(request, kind, payload)?;
        Ok(request)
    }

    /// Sends another frame of a request.
    pub(super) fn tell(&self, request: u32, kind: Kind, payload: &[u8]) -> Result<()> {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        protocol::write(&mut *to, request, kind, payload)
            .and_then(|()| to.flush())
            .context("write to the guest's line")
    }

    /// Waits until `done` finds what it wants in the answer so far.
    pub(super) fn wait<T>(
        &self,
        request: u32,
        what: &str,
        within: Duration,
        mut done: impl FnMut(&mut Answer) -> Option<T>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut state = self.shared.lock();
        loop {
            let answer = state.requests.get_mut(&request);
            let answer = answer.with_context(|| format!("{what}: asked for twice"))?;
            if let Some(found) = done(answer) {
                return Ok(found);
            }
            let ended = answer.end.is_some();
            if interrupt::requested() {
                bail!("interrupted while waiting for {what}");
            }
            if ended {
                bail!("{what}: ended without it");
            }
            if start.elapsed() >= within {
                bail!("{what}: not within {:.0} s", within.as_secs_f32());
            }
            (state, _) = self
                .shared
                .changed
                .wait_timeout(state, LOOK)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the end of a request and takes its answer.
    pub(super) fn finish(
        &self,
        request: u32,
        what: &str,
        within: Duration,
    ) -> Result<(Answer, End)> {
        let end = self.wait(request, what, within, |answer| answer.end.clone())?;
        Ok((self.forget(request).unwrap_or_default(), end))
    }

    /// Drops what came for it, and what may come still.
    pub(super) fn forget(&self, request: u32) -> Option<Answer> {
        self.shared.lock().requests.remove(&request)
    }

    /// What came on stdout for a request so far.
    pub(super) fn peek(&self, request: u32) -> Option<String> {
        let state = self.shared.lock();
        let answer = state.requests.get(&request)?;
        Some(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// Waits until everything that a guest said before it went has been heard.
    pub(super) fn wait_dead(&self, within: Duration) {
        let state = self.shared.lock();
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(state, within, |state| !state.dead);
        drop(waited);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let to = self.to.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _already_gone = to.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _panicked = reader.join();
        }
    }
}

/// Runs until the line is dead, which ends every request.
fn sort(mut from: UnixStream, shared: &Shared) {
    while let Ok(frame) = protocol::read(&mut from) {
        let mut state = shared.lock();
        if frame.kind == Kind::Hello {
            state.kernel = Some(String::from_utf8_lossy(&frame.payload).into_owned());
        } else if let Some(answer) = state.requests.get_mut(&frame.request) {
            take(answer, frame.kind, &frame.payload);
        }
        shared.changed.notify_all();
    }
    let mut state = shared.lock();
    state.dead = true;
    for answer in state.requests.values_mut() {
        answer.end.get_or_insert(End::Gone);
    }
    shared.changed.notify_all();
}

fn take(answer: &mut Answer, kind: Kind, payload: &[u8]) {
    match kind {
        Kind::Stdout | Kind::Data => answer.cut |= !keep(&mut answer.stdout, payload),
        Kind::Stderr => answer.cut |= !keep(&mut answer.stderr, payload),
        Kind::Exited => {
            answer.end = Some(match Exit::decode(payload) {
                Ok(exit) => End::Exited(exit),
                Err(error) => End::Failed(format!("{error:#}")),
            });
        }
        Kind::End => answer.end = Some(End::Complete),
        Kind::Failed => {
            answer.end = Some(End::Failed(String::from_utf8_lossy(payload).into_owned()));
        }
        // Those go the other way; a guest that sends them is not believed.
        Kind::Run | Kind::Signal | Kind::Put | Kind::Get | Kind::Call | Kind::Hello => {}
    }
}

/// False if not all of it was kept.
fn keep(stream: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let room = MAX_KEPT.saturating_sub(stream.len());
    stream.extend_from_slice(&bytes[..bytes.len().min(room)]);
    bytes.len() <= room
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn pair() -> (Line, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        (Line::new(ours, LIMIT).expect("line"), theirs)
    }

    fn say(guest: &mut UnixStream, request: u32, kind: Kind, payload: &[u8]) {
        protocol::write(guest, request, kind, payload).expect("write");
    }

    #[test]
    fn answers_reach_those_who_asked_in_any_order() {
        let (line, mut guest) = pair();
        say(&mut guest, 0, Kind::Hello, b"6.1");
        let kernel = crate::wait::until("the first word", LIMIT, || {
            line.hello()?.context("nothing yet")
        });
        assert_eq!(kernel.expect("hello"), "6.1");
        let first = line.ask(Kind::Get, b"/a").expect("ask");
        let second = line.ask(Kind::Run, b"{}").expect("ask");
        assert_eq!(protocol::read(&mut guest).expect("read").payload, b"/a");
        say(&mut guest, second, Kind::Stdout, b"out");
        say(&mut guest, second, Kind::Stderr, b"err");
        say(&mut guest, second, Kind::Exited, b"code 3");
        say(&mut guest, first, Kind::Failed, b"no such file");
        let (answer, end) = line.finish(first, "a file", LIMIT).expect("end");
        assert!(matches!(end, End::Failed(told) if told == "no such file"));
        assert!(answer.stdout.is_empty());
        let (answer, end) = line.finish(second, "a command", LIMIT).expect("end");
        assert!(matches!(end, End::Exited(Exit::Code(3))));
        assert_eq!(
            (answer.stdout, answer.stderr),
            (b"out".to_vec(), b"err".to_vec())
        );
    }

    #[test]
    fn a_dead_line_ends_what_is_asked_and_what_will_be() {
        let (line, guest) = pair();
        let asked = line.ask(Kind::Get, b"/a").expect("ask");
        drop(guest);
        let (_, end) = line.finish(asked, "a file", LIMIT).expect("end");
        assert!(matches!(end, End::Gone));
        line.wait_dead(LIMIT);
        assert!(line.ask(Kind::Get, b"/b").is_err());
    }

    #[test]
    fn a_silent_guest_is_not_waited_for_longer_than_said() {
        let (line, _guest) = pair();
        let asked = line.ask(Kind::Get, b"/a").expect("ask");
        let told = line.finish(asked, "a file", Duration::from_millis(50));
        assert_eq!(
            told.expect_err("silent").to_string(),
            "a file: not within 0 s"
        );
    }

    #[test]
    fn more_than_is_kept_is_dropped_and_marked() {
        let mut answer = Answer {
            stdout: vec![0; MAX_KEPT - 1],
            ..Answer::default()
        };
        take(&mut answer, Kind::Stdout, b"x");
        assert!(!answer.cut);
        take(&mut answer, Kind::Stdout, b"yz");
        assert!(answer.cut);
        assert_eq!(answer.stdout.len(), MAX_KEPT);
    }
}
