//! Where events meet their readers.
//!
//! Edge: a lock around the ring, held for a few events at a time, and a number that wakes who waits. The driver
//! publishes after its commit; nobody it publishes to can slow it down.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::ring::{EventId, Gap, Lagged, Ring};
use super::{Event, EventKind};
use crate::driver::now_ms;

/// Events kept for readers that come back. With the apps they speak of shared with the state, some ten megabytes.
pub(crate) const CAPACITY: usize = 16_384;
/// Readers at once.
const MAX_READERS: usize = 1000;
/// Events taken by a reader at a time.
const BATCH: usize = 64;

/// The events of one run of the scheduler.
#[derive(Debug)]
pub(crate) struct Hub {
    ring: Mutex<Ring>,
    next: watch::Sender<u64>,
    readers: Arc<Semaphore>,
    ending: CancellationToken,
}

/// As many read as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_READERS} readers of events are connected, which is the limit")]
pub(crate) struct TooManyReaders;

impl Hub {
    /// `ending` ends all readers.
    pub(crate) fn new(run: u64, capacity: usize, ending: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            ring: Mutex::new(Ring::new(run, capacity)),
            next: watch::channel(0).0,
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            ending,
        })
    }

    /// Tells everybody.
    pub(crate) fn publish(&self, events: impl IntoIterator<Item = Event>) {
        let next = {
            let mut ring = self.ring();
            for event in events {
                ring.push(event);
            }
            ring.next()
        };
        self.next.send_replace(next);
    }

    /// A reader from now on, or from after `last`; with what it has lost since.
    pub(crate) fn attach(
        self: &Arc<Self>,
        client: IpAddr,
        last: Option<EventId>,
    ) -> Result<(Reader, Option<Lost>), TooManyReaders> {
        let permit = Arc::clone(&self.readers)
            .try_acquire_owned()
            .map_err(|_| TooManyReaders)?;
        let (at, lost) = {
            let mut ring = self.ring();
            // Looked up before its own coming is told, which might push out the next it wants.
            let resume = last.map(|last| (last, ring.resume(last)));
            let own = ring.push(Event {
                at: now_ms(),
                kind: EventKind::StreamAttached(client),
            });
            match resume {
                None => (own, None),
                Some((last, resume)) => {
                    let from = resume.from.max(ring.first());
                    let gap = resume.gap.or((from > resume.from).then_some(Gap::TooOld));
                    let lost = gap.map(|gap| Lost {
                        gap,
                        last,
                        oldest: ring.id(from),
                    });
                    (from, lost)
                }
            }
        };
        let next = self.next.subscribe();
        self.next.send_replace(self.ring().next());
        let reader = Reader {
            hub: Arc::clone(self),
            at,
            next,
            client,
            _permit: permit,
        };
        Ok((reader, lost))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing in there panics halfway through a change.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a reader has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Why.
    pub(crate) gap: Gap,
    /// The last event it has.
    pub(crate) last: EventId,
    /// The first it gets.
    pub(crate) oldest: EventId,
}

/// One reader's place. Its going is told when it is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    hub: Arc<Hub>,
    at: u64,
    next: watch::Receiver<u64>,
    client: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// The next few events, as soon as there are any. `None`: the scheduler ends, or the reader was too slow.
    pub(crate) async fn read(&mut self) -> Option<Vec<(EventId, Arc<Event>)>> {
        loop {
            // Seen first, so that what is published meanwhile wakes the wait below.
            self.next.borrow_and_update();
            match self.hub.ring().read(self.at, BATCH) {
                Err(Lagged) => {
                    tracing::info!(client = %self.client, "a reader of events is too slow: cut off");
                    return None;
                }
                Ok(events) if !events.is_empty() => {
                    self.at += events.len() as u64;
                    return Some(events);
                }
                Ok(_) => {}
            }
            tokio::select! {
                () = self.hub.ending.cancelled() => return None,
                changed = self.next.changed() => changed.ok()?,
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.hub.publish([Event {
            at: now_ms(),
            kind: EventKind::StreamDetached(self.client),
        }]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn hub(capacity: usize) -> Arc<Hub> {
        Hub::new(7, capacity, CancellationToken::new())
    }

    fn tell(hub: &Hub, n: u64) {
        hub.publish((0..n).map(|at| Event {
            at,
            kind: EventKind::SchedulerReregistered,
        }));
    }

    async fn numbers(reader: &mut Reader) -> Vec<u64> {
        let events = reader.read().await.expect("not ended");
        events.iter().map(|(id, _)| id.number).collect()
    }

    #[tokio::test]
    async fn a_reader_sees_itself_come_and_all_that_follows() {
        let hub = hub(100);
        tell(&hub, 3);
        let (mut reader, lost) = hub.attach(CLIENT, None).expect("room");
        assert_eq!(lost, None);
        tell(&hub, 2);
        assert_eq!(numbers(&mut reader).await, [3, 4, 5]);
        let waiting = tokio::spawn(async move { numbers(&mut reader).await });
        tell(&hub, 1);
        assert_eq!(waiting.await.expect("no panic"), [6]);
        // It was dropped with the task: the next one sees it go.
        let last = EventId { run: 7, number: 6 };
        let (mut next, _) = hub.attach(CLIENT, Some(last)).expect("room");
        let events = next.read().await.expect("not ended");
        assert_eq!(events[0].1.kind, EventKind::StreamDetached(CLIENT));
        assert_eq!(events[1].1.kind, EventKind::StreamAttached(CLIENT));
    }

    #[tokio::test]
    async fn a_slow_reader_is_cut_off_and_told_what_it_lost_when_it_returns() {
        let hub = hub(10);
        let (mut slow, _) = hub.attach(CLIENT, None).expect("room");
        let (mut fast, _) = hub.attach(CLIENT, None).expect("room");
        for _ in 0..4 {
            tell(&hub, 5);
            fast.read().await.expect("it keeps up");
        }
        assert!(slow.read().await.is_none());
        let (mut back, lost) = hub
            .attach(CLIENT, Some(EventId { run: 7, number: 0 }))
            .expect("room");
        let lost = lost.expect("a gap");
        assert_eq!(lost.gap, Gap::TooOld);
        assert_eq!(numbers(&mut back).await[0], lost.oldest.number);
    }

    #[tokio::test]
    async fn the_end_of_the_scheduler_ends_every_reader() {
        let ending = CancellationToken::new();
        let hub = Hub::new(7, 10, ending.clone());
        let (mut reader, _) = hub.attach(CLIENT, None).expect("room");
        reader.read().await.expect("itself");
        ending.cancel();
        assert!(reader.read().await.is_none());
    }

    #[tokio::test]
    async fn only_so_many_may_read() {
        let hub = hub(10);
        let all: Vec<Reader> = (0..MAX_READERS)
            .map(|_| hub.attach(CLIENT, None).expect("room").0)
            .collect();
        assert!(hub.attach(CLIENT, None).is_err());
        drop(all);
        assert!(hub.attach(CLIENT, None).is_ok());
    }
}
