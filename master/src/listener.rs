//! Connections as they come in, each with a deadline for its first words.
//!
//! A peer that connects and says nothing, or stops in the middle of its greeting, would hold a descriptor for ever:
//! reading fails when the first bytes are not there in time. Later silence is found by HTTP/2 keep-alive.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use mezzo_api::gather::Gathered;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// The length of HTTP/2's connection preface; no HTTP/1 request is shorter.
const GREETING_BYTES: usize = 16;

/// One connection.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: Gathered<TcpStream>,
    greeting: Greeting,
}

#[derive(Debug)]
enum Greeting {
    Awaited {
        read: usize,
        deadline: Pin<Box<Sleep>>,
    },
    Heard,
}

impl Connected for Guarded {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.get_ref().connect_info()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Greeting::Awaited { read, deadline } = &mut self.greeting {
            *read += buffer.filled().len() - before;
            if *read >= GREETING_BYTES {
                self.greeting = Greeting::Heard;
            } else if polled.is_pending() && deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the peer did not greet in time",
                )));
            }
        }
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A bound socket that hands out guarded connections.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: TcpListener,
    greeting_timeout: Duration,
    /// Out of descriptors, most likely: waiting is better than spinning.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Listener {
    pub(crate) async fn bind(address: SocketAddr, greeting_timeout: Duration) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            greeting_timeout,
            pause: None,
        })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Stream for Listener {
    type Item = io::Result<Guarded>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.listener.poll_accept(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok((stream, _))) => {
                    // Latency of small messages; a socket that refuses is about to fail anyway.
                    drop(stream.set_nodelay(true));
                    let deadline = Box::pin(sleep(self.greeting_timeout));
                    let greeting = Greeting::Awaited { read: 0, deadline };
                    let stream = Gathered::new(stream);
                    return Poll::Ready(Some(Ok(Guarded { stream, greeting })));
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.pause = Some(Box::pin(sleep(Duration::from_millis(100))));
                }
            }
        }
    }
}
