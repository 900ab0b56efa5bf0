//! Writes that wait a turn: what tasks have to say on one connection in one turn of the runtime leaves in one system call.
//!
//! HTTP/2 has a task for each connection, and it flushes whenever it was polled. The runtime polls it right after the
//! first stream that had something for it: the messages of a hundred streams, all ready, went out one by one. Here a flush
//! first goes back to the end of the runtime's queue, behind whoever else is ready to write; where nobody is, nothing is
//! lost but that poll.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As many bytes wait at most. A peer that does not read stops the writer there, as its socket does.
const MOST: usize = 64 * 1024;

/// A stream whose writes are gathered until it is flushed, and whose flush waits one turn.
#[derive(Debug)]
pub struct Gathered<S> {
    stream: S,
    /// From `written` on it is to be written.
    buffer: Vec<u8>,
    written: usize,
    /// The flush under way has waited.
    waited: bool,
}

impl<S> Gathered<S> {
    /// Of a stream that nothing was written to.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            written: 0,
            waited: false,
        }
    }

    /// The stream itself, to ask it something.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Until nothing waits. An idle connection keeps no buffer.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let rest = &self.buffer[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        self.buffer = Vec::new();
        self.written = 0;
        self.waited = false;
        Poll::Ready(Ok(()))
    }

    /// Room for something, at least one byte.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= MOST {
            ready!(self.poll_drain(context))?;
        }
        Poll::Ready(Ok(MOST - self.buffer.len()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(context))?;
        let n = data.len().min(room);
        self.buffer.extend_from_slice(&data[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut room = ready!(self.poll_room(context))?;
        let mut taken = 0;
        for slice in data {
            let n = slice.len().min(room);
            self.buffer.extend_from_slice(&slice[..n]);
            (taken, room) = (taken + n, room - n);
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.buffer.is_empty() && !self.waited {
            self.waited = true;
            // From within its own poll a task goes to the end of the queue.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What it was given in one call each; nothing while it is full.
    #[derive(Debug, Default)]
    struct Pieces {
        pieces: Vec<Vec<u8>>,
        full: bool,
    }

    impl AsyncWrite for Pieces {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.full {
                return Poll::Pending;
            }
            self.pieces.push(data.to_vec());
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn write(gathered: &mut Gathered<Pieces>, data: &[u8]) -> Poll<usize> {
        let context = &mut Context::from_waker(Waker::noop());
        Pin::new(gathered)
            .poll_write(context, data)
            .map(Result::unwrap)
    }

    fn flush(gathered: &mut Gathered<Pieces>) -> Poll<()> {
        let context = &mut Context::from_waker(Waker::noop());
        Pin::new(gathered).poll_flush(context).map(Result::unwrap)
    }

    #[test]
    fn what_is_written_before_the_next_turn_leaves_at_once() {
        let mut gathered = Gathered::new(Pieces::default());
        assert_eq!(flush(&mut gathered), Poll::Ready(()));
        assert_eq!(write(&mut gathered, b"one "), Poll::Ready(4));
        assert_eq!(flush(&mut gathered), Poll::Pending);
        assert_eq!(write(&mut gathered, b"two"), Poll::Ready(3));
        assert_eq!(gathered.get_ref().pieces.len(), 0);
        assert_eq!(flush(&mut gathered), Poll::Ready(()));
        assert_eq!(gathered.get_ref().pieces, [b"one two"]);
        // The next flush waits as the first one did.
        assert_eq!(write(&mut gathered, b"three"), Poll::Ready(5));
        assert_eq!(flush(&mut gathered), Poll::Pending);
        assert_eq!(flush(&mut gathered), Poll::Ready(()));
        assert_eq!(gathered.get_ref().pieces.len(), 2);
    }

    #[test]
    fn a_peer_that_does_not_read_stops_the_writer() {
        let mut gathered = Gathered::new(Pieces::default());
        gathered.stream.full = true;
        let data = vec![7; MOST / 2 + 1];
        assert_eq!(write(&mut gathered, &data), Poll::Ready(data.len()));
        assert_eq!(write(&mut gathered, &data), Poll::Ready(MOST - data.len()));
        assert_eq!(write(&mut gathered, b"more"), Poll::Pending);
        assert_eq!(flush(&mut gathered), Poll::Pending);
        assert_eq!(flush(&mut gathered), Poll::Pending);
        gathered.stream.full = false;
        assert_eq!(write(&mut gathered, b"more"), Poll::Ready(4));
        assert_eq!(gathered.get_ref().pieces.concat(), vec![7; MOST]);
    }

    #[tokio::test]
    async fn everything_arrives_in_order_and_before_the_end() {
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (near, mut far) = tokio::io::duplex(1000);
        let writer = async {
            let mut near = Gathered::new(near);
            for piece in sent.chunks(777) {
                near.write_all(piece).await.unwrap();
            }
            near.shutdown().await.unwrap();
        };
        let mut arrived = Vec::new();
        let (read, ()) = tokio::join!(far.read_to_end(&mut arrived), writer);
        read.unwrap();
        assert_eq!(arrived, sent);
    }
}
