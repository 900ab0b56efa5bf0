//! The way out to one peer: a bounded queue, and the reason for which it ends.
//!
//! The sending side never waits: a peer whose queue is full does not read, and is cut off. What was queued before the
//! end is still delivered, then the stream ends with its status. Only of a deposed leader nothing is delivered any more:
//! also of one that was frozen while messages were on their way out.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures::Stream;
use mezzo_etcd::Fence;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::state::Ending;

/// The sending side. Clones send to the same peer.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    queue: mpsc::Sender<T>,
    ending: Arc<OnceLock<Status>>,
    closed: CancellationToken,
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            ending: Arc::clone(&self.ending),
            closed: self.closed.clone(),
        }
    }
}

/// Why nothing could be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendFailure {
    /// The peer does not read.
    Full,
    /// The peer is gone.
    Gone,
}

impl<T> Outbox<T> {
    /// Queues a message, or says why not.
    pub(crate) fn send(&self, message: T) -> Result<(), SendFailure> {
        // The reason is there before the token is cancelled, and is looked at without a lock.
        if self.ending.get().is_some() {
            return Err(SendFailure::Gone);
        }
        self.queue.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendFailure::Full,
            mpsc::error::TrySendError::Closed(_) => SendFailure::Gone,
        })
    }

    /// Ends the stream after what is queued. The first reason counts.
    pub(crate) fn close(&self, status: Status) {
        self.ending.get_or_init(|| status);
        self.closed.cancel();
    }

    /// Until somebody closed it, or the peer stopped listening.
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.closed.cancelled() => {}
            () = self.queue.closed() => {}
        }
    }
}

/// The receiving side: the body of a server stream.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    queue: mpsc::Receiver<T>,
    ending: Arc<OnceLock<Status>>,
    fence: Fence,
}

impl<T> Stream for Inbox<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_recv(context).map(|message| match message {
            Some(_) if !self.fence.is_open() => {
                self.queue.close();
                while self.queue.try_recv().is_ok() {}
                self.ending = Arc::default();
                Some(Err(Ending::Deposed.into()))
            }
            Some(message) => Some(Ok(message)),
            None => {
                let last = self.ending.get().cloned().map(Err);
                self.ending = Arc::default();
                last
            }
        })
    }
}

/// A way to one peer that holds at most `capacity` messages, and delivers none once the fence is closed.
pub(crate) fn channel<T>(capacity: usize, fence: Fence) -> (Outbox<T>, Inbox<T>) {
    let (sender, receiver) = mpsc::channel(capacity);
    let ending = Arc::new(OnceLock::new());
    let outbox = Outbox {
        queue: sender,
        ending: Arc::clone(&ending),
        closed: CancellationToken::new(),
    };
    (
        outbox,
        Inbox {
            queue: receiver,
            ending,
            fence,
        },
    )
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn what_was_queued_comes_first_then_the_reason_then_the_end() {
        let (outbox, mut inbox) = channel(2, Fence::always_open());
        assert_eq!(outbox.send(1), Ok(()));
        assert_eq!(outbox.send(2), Ok(()));
        assert_eq!(outbox.send(3), Err(SendFailure::Full));
        outbox.close(Status::aborted("first"));
        outbox.close(Status::cancelled("second"));
        assert_eq!(outbox.send(4), Err(SendFailure::Gone));
        drop(outbox);
        assert_eq!(inbox.next().await.unwrap().unwrap(), 1);
        assert_eq!(inbox.next().await.unwrap().unwrap(), 2);
        assert_eq!(inbox.next().await.unwrap().unwrap_err().message(), "first");
        assert!(inbox.next().await.is_none());
    }

    #[tokio::test]
    async fn nothing_of_a_deposed_leader_is_delivered() {
        let fence = Fence::always_open();
        let (outbox, mut inbox) = channel(3, fence.clone());
        for message in 1..=3 {
            assert_eq!(outbox.send(message), Ok(()));
        }
        assert_eq!(inbox.next().await.unwrap().unwrap(), 1);
        fence.close();
        let last = inbox.next().await.unwrap().unwrap_err();
        assert_eq!(last.code(), tonic::Code::Unavailable);
        assert!(inbox.next().await.is_none());
        assert_eq!(outbox.send(4), Err(SendFailure::Gone));
    }
}
