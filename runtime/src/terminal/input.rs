//! What is typed on the terminal of a container: frames through a FIFO in the container's folder, from whoever has it open
//! to the keeper. So the keeper needs no connection to anybody, and typing goes on after an agent was restarted.
//!
//! ```text
//! frame:  kind (1 byte) · length of the payload (2 bytes, little endian) · payload
//! ```
//!
//! A frame is written at once or not at all (it is no longer than `PIPE_BUF`): several writers do not mix theirs. What
//! the program does not read waits in the FIFO, and the writer waits with it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Typed bytes.
const TYPED: u8 = 0;
/// The terminal's size: columns and rows, two bytes each, little endian.
const SIZE: u8 = 1;
const HEADER: usize = 3;
/// Most bytes of a frame (`PIPE_BUF`).
const MAX_FRAME: usize = 4096;

/// What a frame says.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Typed(Vec<u8>),
    Size(u16, u16),
    /// Of a newer program.
    Unknown,
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= MAX_FRAME - HEADER);
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![kind];
    bytes.extend(length.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// Takes the first frame, if all of it is there. Pure.
fn take_frame(bytes: &mut Vec<u8>) -> Option<Frame> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_le_bytes([header[1], header[2]]));
    let payload = rest.get(..length)?;
    let frame = match (header[0], payload) {
        (TYPED, typed) => Frame::Typed(typed.to_vec()),
        (SIZE, &[c0, c1, r0, r1]) => {
            Frame::Size(u16::from_le_bytes([c0, c1]), u16::from_le_bytes([r0, r1]))
        }
        _ => Frame::Unknown,
    };
    bytes.drain(..HEADER + length);
    Some(frame)
}

/// The keeper's end.
#[derive(Debug)]
pub(crate) struct InputReader {
    fifo: File,
    /// The beginning of a frame whose rest has not been read.
    unread: Vec<u8>,
    /// Typed, and not yet taken by the terminal.
    pending: Vec<u8>,
}

impl InputReader {
    /// Makes the FIFO, for root alone. It is never at its end: the reader could write, too.
    pub(crate) fn make(path: &Path) -> io::Result<Self> {
        mkfifo(path, Mode::from_bits_truncate(0o600))?;
        let fifo = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
            .open(path)?;
        Ok(Self {
            fifo,
            unread: Vec::new(),
            pending: Vec::new(),
        })
    }

    /// What to wait for to become readable: nothing while the terminal has not taken what came before.
    pub(crate) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.pending.is_empty().then(|| self.fifo.as_fd())
    }

    /// Whether something waits for the terminal to take it.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Moves what is there to the terminal's master, as far as that takes it without waiting, and a bounded amount of it.
    pub(crate) fn carry(&mut self, master: &mut File) {
        self.write_pending(master);
        if self.is_pending() {
            return;
        }
        let mut chunk = [0; MAX_FRAME];
        match self.fifo.read(&mut chunk) {
            Ok(length) => self.unread.extend(&chunk[..length]),
            // There is nothing, or nothing to be had; the next round asks again.
            Err(_) => return,
        }
        while let Some(frame) = take_frame(&mut self.unread) {
            match frame {
                Frame::Typed(bytes) => self.pending.extend(bytes),
                Frame::Size(columns, rows) => {
                    let _ = sys::terminal::set_terminal_size(master.as_fd(), columns, rows);
                }
                Frame::Unknown => {}
            }
        }
        self.write_pending(master);
    }

    fn write_pending(&mut self, master: &mut File) {
        while !self.pending.is_empty() {
            match master.write(&self.pending) {
                Ok(length) if length > 0 => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Nobody will ever read it.
                Ok(_) | Err(_) => self.pending.clear(),
            }
        }
    }
}

/// Types on the terminal of a container's program. Several may do so at once.
#[derive(Debug)]
pub struct TerminalInput {
    fifo: AsyncFd<OwnedFd>,
}

impl TerminalInput {
    /// `None` where there is no such terminal, or nobody reads what would be typed any more.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
            .open(path);
        match opened {
            Ok(fifo) => {
                let fifo = sys::register(fifo.into(), Interest::WRITABLE)?;
                Ok(Some(Self { fifo }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Types these bytes. Waits while the program reads nothing and much waits already.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(MAX_FRAME - HEADER) {
            self.send(&frame(TYPED, piece)).await?;
        }
        Ok(())
    }

    /// Sets the terminal's size, after what was typed before.
    pub async fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let [c0, c1] = columns.to_le_bytes();
        let [r0, r1] = rows.to_le_bytes();
        self.send(&frame(SIZE, &[c0, c1, r0, r1])).await
    }

    async fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            let mut guard = self.fifo.writable().await?;
            let written = guard
                .try_io(|fifo| nix::unistd::write(fifo.as_fd(), frame).map_err(io::Error::from));
            match written {
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(written) => return written.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beneath::Root;
    use crate::terminal::{Terminal, USUAL_SIZE};

    #[test]
    fn frames_are_taken_whole_in_their_order() {
        let mut bytes = frame(TYPED, b"ab");
        bytes.extend(frame(9, b"of the future"));
        bytes.extend(frame(SIZE, &[0x39, 0x30, 24, 0]));
        bytes.extend(frame(SIZE, &[1]));
        let last = frame(TYPED, b"cd");
        bytes.extend(&last[..4]);
        assert_eq!(take_frame(&mut bytes), Some(Frame::Typed(b"ab".to_vec())));
        assert_eq!(take_frame(&mut bytes), Some(Frame::Unknown));
        assert_eq!(take_frame(&mut bytes), Some(Frame::Size(12_345, 24)));
        assert_eq!(take_frame(&mut bytes), Some(Frame::Unknown));
        assert_eq!(take_frame(&mut bytes), None, "half of it is there");
        bytes.extend(&last[4..]);
        assert_eq!(take_frame(&mut bytes), Some(Frame::Typed(b"cd".to_vec())));
        assert!(bytes.is_empty());
    }

    /// A program that reads nothing: everything waits, within bounds, and nothing is lost in front of it.
    #[tokio::test]
    async fn what_is_typed_waits_for_a_program_that_reads_and_never_holds_the_keeper_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input");
        assert!(TerminalInput::open(&path).unwrap().is_none(), "no terminal");
        let root = Root::open(Path::new("/")).unwrap();
        let uid = nix::unistd::getuid().as_raw();
        let Ok(terminal) = Terminal::open(&root, uid, USUAL_SIZE) else {
            eprintln!("skipped: /dev/pts is no devpts here");
            return;
        };
        let mut raw = nix::sys::termios::tcgetattr(&terminal.slave).unwrap();
        nix::sys::termios::cfmakeraw(&mut raw);
        nix::sys::termios::tcsetattr(&terminal.slave, nix::sys::termios::SetArg::TCSANOW, &raw)
            .unwrap();
        let mut reader = InputReader::make(&path).unwrap();
        let input = TerminalInput::open(&path).unwrap().unwrap();
        let mut master = File::from(terminal.master.try_clone().unwrap());
        let typed: Vec<u8> = (0..400_000_u32)
            .map(|n| n.to_le_bytes()[n as usize % 2])
            .collect();
        let writing = {
            let typed = typed.clone();
            tokio::spawn(async move {
                input.write(&typed).await.unwrap();
                input
            })
        };
        while !reader.is_pending() {
            reader.carry(&mut master);
            tokio::task::yield_now().await;
        }
        assert!(!writing.is_finished(), "it waits with the program");
        assert!(reader.readable().is_none() && reader.pending.len() <= 2 * MAX_FRAME);
        // From now on it reads.
        nix::fcntl::fcntl(
            &terminal.slave,
            nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK),
        )
        .unwrap();
        let mut slave = File::from(terminal.slave.try_clone().unwrap());
        let mut seen: Vec<u8> = Vec::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while seen.len() < typed.len() {
            assert!(std::time::Instant::now() < deadline, "{}", seen.len());
            reader.carry(&mut master);
            let mut chunk = [0; 8192];
            if let Ok(length) = slave.read(&mut chunk) {
                seen.extend(&chunk[..length]);
            }
            tokio::task::yield_now().await;
        }
        assert!(seen == typed, "other bytes arrived");
        let input = writing.await.unwrap();
        drop(reader);
        assert!(input.write(b"x").await.is_err(), "nobody is there");
        assert!(TerminalInput::open(&path).unwrap().is_none());
    }
}
