//! A program that was executed in a running container, as the caller holds it: its streams, its terminal's size,
//! its end. Dropping the session kills the program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::link;
use crate::model::ExecExit;
use crate::protocol::ExecReply;
use crate::sys;

/// One stream of a session: a pipe's end, or a terminal (whose clones all mean the same terminal).
#[derive(Debug, Clone)]
pub struct ExecStream {
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl ExecStream {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            fd: Arc::new(link::non_blocking(fd)?),
        })
    }
}

impl AsyncRead for ExecStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            let result =
                guard.try_io(|fd| nix::unistd::read(fd.as_fd(), unfilled).map_err(io::Error::from));
            match result {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // A terminal whose other side is closed says this; it is the end.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for ExecStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(context))?;
            match guard.try_io(|fd| nix::unistd::write(fd.as_fd(), bytes).map_err(io::Error::from))
            {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A program running in a container.
#[derive(Debug)]
pub struct ExecSession {
    /// What the program reads; drop it to end its input. With a terminal, the terminal.
    pub stdin: Option<ExecStream>,
    /// What it writes. With a terminal, the terminal.
    pub stdout: ExecStream,
    /// What it writes as errors; with a terminal that is part of `stdout`.
    pub stderr: Option<ExecStream>,
    pub(crate) pid: i32,
    pub(crate) terminal: Option<ExecStream>,
    pub(crate) reply: AsyncFd<OwnedFd>,
    pub(crate) exit: Option<ExecExit>,
}

impl ExecSession {
    /// The program's process id on the host.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sets the terminal's size; without a terminal there is nothing to set.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        self.terminal.as_ref().map_or(Ok(()), |terminal| {
            sys::terminal::set_terminal_size(terminal.fd.get_ref().as_fd(), columns, rows)
        })
    }

    /// Waits for the program's end. Its output may still have to be read afterwards.
    pub async fn wait(&mut self) -> io::Result<ExecExit> {
        while self.exit.is_none() {
            self.exit = match link::receive::<ExecReply>(&self.reply).await? {
                Some((ExecReply::Exited(exit), _)) => Some(exit),
                Some((ExecReply::Started { .. } | ExecReply::Failed(_), _)) => None,
                // The helper is gone, and the kernel has killed the program with it.
                None => Some(ExecExit::Signal(libc::SIGKILL)),
            };
        }
        self.exit.ok_or_else(|| io::Error::other("no exit"))
    }
}
