//! What tasks use over time: the last sample of each, rates between two, a bounded history, and sums by app for the
//! metrics. All of it pure (`rates`, `ring`, `book`); this file only shares the book.
//!
//! One writer, the owner task, which knows what runs; readers (`grpc::stats`, `metrics`) copy what they want under a
//! lock that is held for that long and are woken by a counter of rounds. Who reads slowly misses rounds, and nobody
//! waits for them.

pub(crate) mod book;
pub(crate) mod histogram;
pub(crate) mod rates;
pub(crate) mod ring;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use book::Book;

/// The shared book. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Stats {
    book: Arc<Mutex<Book>>,
    rounds: Arc<watch::Sender<u64>>,
}

impl Stats {
    /// An empty book that sums up at most so many apps.
    pub(crate) fn new(max_apps: usize) -> Self {
        Self {
            book: Arc::new(Mutex::new(Book::new(max_apps))),
            rounds: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Looks or writes. To be done with soon: nobody else can meanwhile.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Book) -> T) -> T {
        act(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Figures for people: after a panic they are as good as before.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A round is complete.
    pub(crate) fn round_done(&self) {
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    /// Changes with every round.
    pub(crate) fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }
}
