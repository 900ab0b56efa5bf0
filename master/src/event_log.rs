//! What happened last, for operators who watch: a bounded ring that the actor fills and any number of readers follow.
//!
//! The actor never waits for a reader, and no reader has a queue of its own: each has a place in the ring. Who falls so far
//! behind that the ring has passed it is cut off; who comes back with a token that is still in the ring misses nothing. A
//! token names the leadership, for another master has another ring.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::sync::watch;

use crate::state::Notice;

/// One event with its number; numbers have no gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) number: u64,
    pub(crate) at_ms: u64,
    pub(crate) notice: Notice,
}

/// The ring. Cheap to share.
#[derive(Debug)]
pub(crate) struct EventLog {
    term: u64,
    capacity: usize,
    ring: Mutex<Ring>,
    /// The newest number.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Noted>>,
    /// The newest, also when the ring is empty.
    newest: u64,
}

/// Events after that number were there and are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) missed: u64,
}

/// Why a token cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadToken {
    /// No master wrote it.
    Foreign,
    /// Of another leadership, or one that this ring has not come to.
    OtherTerm,
}

impl EventLog {
    pub(crate) fn new(term: u64, capacity: usize) -> Self {
        Self {
            term,
            capacity,
            ring: Mutex::default(),
            news: watch::Sender::new(0),
        }
    }

    /// Adds what happened, in this order.
    pub(crate) fn add(&self, at_ms: u64, notices: Vec<Notice>) {
        if notices.is_empty() {
            return;
        }
        let newest = {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            for notice in notices {
                ring.newest += 1;
                let number = ring.newest;
                if ring.events.len() == self.capacity {
                    ring.events.pop_front();
                }
                ring.events.push_back(Arc::new(Noted {
                    number,
                    at_ms,
                    notice,
                }));
            }
            ring.newest
        };
        self.news.send_replace(newest);
    }

    /// At most `most` events after that number, oldest first.
    pub(crate) fn after(&self, number: u64, most: usize) -> Result<Vec<Arc<Noted>>, Passed> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let held = u64::try_from(ring.events.len()).unwrap_or(u64::MAX);
        let before_oldest = ring.newest - held;
        if number < before_oldest {
            let missed = before_oldest - number;
            return Err(Passed { missed });
        }
        let skip = usize::try_from(number - before_oldest).unwrap_or(usize::MAX);
        Ok(ring.events.iter().skip(skip).take(most).cloned().collect())
    }

    pub(crate) fn newest(&self) -> u64 {
        *self.news.borrow()
    }

    /// Tells when there is something newer.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Those who follow now.
    pub(crate) fn n_readers(&self) -> usize {
        self.news.receiver_count()
    }

    /// To go on after that event.
    pub(crate) fn token(&self, number: u64) -> String {
        URL_SAFE_NO_PAD.encode(format!("e1.{}.{number}", self.term))
    }

    /// The other way round.
    pub(crate) fn read_token(&self, token: &str) -> Result<u64, BadToken> {
        let bytes = (URL_SAFE_NO_PAD.decode(token)).map_err(|_| BadToken::Foreign)?;
        let text = String::from_utf8(bytes).map_err(|_| BadToken::Foreign)?;
        let mut parts = text.split('.');
        let (version, term, number) = (parts.next(), parts.next(), parts.next());
        let (Some("e1"), Some(term), Some(number), None) = (version, term, number, parts.next())
        else {
            return Err(BadToken::Foreign);
        };
        let read = |text: &str| text.parse::<u64>().map_err(|_| BadToken::Foreign);
        let (term, number) = (read(term)?, read(number)?);
        if term != self.term || number > self.newest() {
            return Err(BadToken::OtherTerm);
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notices(n: usize) -> Vec<Notice> {
        let role = |i: usize| Notice::Role(format!("r{i}").parse().unwrap());
        (0..n).map(role).collect()
    }

    proptest! {
        /// Readers of any speed see every number once and in order, until they are told what they missed.
        #[test]
        fn a_reader_misses_nothing_without_being_told(
            steps in prop::collection::vec((0_usize..12, 0_usize..12), 1..60),
            capacity in 1_usize..20,
        ) {
            let log = EventLog::new(7, capacity);
            let (mut cursor, mut added) = (0_u64, 0_u64);
            for (add, read) in steps {
                log.add(1, notices(add));
                added += add as u64;
                prop_assert_eq!(log.newest(), added);
                match log.after(cursor, read) {
                    Ok(events) => {
                        prop_assert!(events.len() <= read);
                        for event in events {
                            cursor += 1;
                            prop_assert_eq!(event.number, cursor);
                        }
                    }
                    Err(Passed { missed }) => {
                        prop_assert!(added - cursor > capacity as u64);
                        cursor += missed;
                        prop_assert!(log.after(cursor, 1).is_ok());
                    }
                }
            }
        }
    }

    #[test]
    fn tokens_are_of_one_leadership() {
        let log = EventLog::new(3, 10);
        log.add(1, notices(5));
        assert_eq!(log.read_token(&log.token(4)), Ok(4));
        assert_eq!(log.read_token(&log.token(6)), Err(BadToken::OtherTerm));
        let other = EventLog::new(4, 10);
        assert_eq!(other.read_token(&log.token(0)), Err(BadToken::OtherTerm));
        for nonsense in ["", "x", "ZTEuMy4", "ZTEuMy40LjU"] {
            assert_eq!(
                log.read_token(nonsense),
                Err(BadToken::Foreign),
                "{nonsense}"
            );
        }
    }
}
