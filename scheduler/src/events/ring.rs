//! The latest events with an id each, oldest first, in bounded room.
//!
//! Pure. An id is the run of the scheduler and a number that grows by one per event: `1764230400000-42`. So an id from
//! an earlier run, or from another scheduler that led before, is known as such and never taken for a number of this
//! one.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Event;

/// Where an event stands in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    /// Which run of the scheduler, by its start in Unix milliseconds.
    pub run: u64,
    /// Counted from 0 in that run.
    pub number: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.run, self.number)
    }
}

/// Not `RUN-NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the id of an event")]
pub struct NotAnId(String);

impl FromStr for EventId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotAnId(text.chars().take(80).collect());
        let (run, number) = text.split_once('-').ok_or_else(wrong)?;
        Ok(Self {
            run: run.parse().map_err(|_| wrong())?,
            number: number.parse().map_err(|_| wrong())?,
        })
    }
}

/// Why events are missing between a reader's last one and the next it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The ring holds only later ones.
    TooOld,
    /// Its id is of another run of the scheduler.
    OtherRun,
}

/// Where a reader goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// The number of the first event it gets.
    pub from: u64,
    /// What it has lost.
    pub gap: Option<Gap>,
}

/// A reader asked for events that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged;

/// The events.
#[derive(Debug)]
pub struct Ring {
    run: u64,
    capacity: usize,
    next: u64,
    events: VecDeque<Arc<Event>>,
}

impl Ring {
    /// Without events. It keeps at least one.
    #[must_use]
    pub fn new(run: u64, capacity: usize) -> Self {
        Self {
            run,
            capacity: capacity.max(1),
            next: 0,
            events: VecDeque::new(),
        }
    }

    /// Takes an event, drops the oldest if there is no room, and says the new one's number.
    pub fn push(&mut self, event: Event) -> u64 {
        if self.events.len() >= self.capacity {
            self.events.pop_front();
        }
        self.events.push_back(Arc::new(event));
        let number = self.next;
        self.next += 1;
        number
    }

    /// The number of the event that comes next.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The number of the oldest event that is kept.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    /// The id of a number of this run.
    #[must_use]
    pub fn id(&self, number: u64) -> EventId {
        EventId {
            run: self.run,
            number,
        }
    }

    /// Where a reader goes on whose last event was `last`: after it, or from the oldest kept with what it missed.
    #[must_use]
    pub fn resume(&self, last: EventId) -> Resume {
        let gap = if last.run != self.run || last.number >= self.next {
            Some(Gap::OtherRun)
        } else if last.number + 1 < self.first() {
            Some(Gap::TooOld)
        } else {
            None
        };
        Resume {
            from: gap.map_or(last.number + 1, |_| self.first()),
            gap,
        }
    }

    /// At most `max` events from number `from` on.
    ///
    /// # Errors
    ///
    /// When the first of them is not kept any more.
    pub fn read(&self, from: u64, max: usize) -> Result<Vec<(EventId, Arc<Event>)>, Lagged> {
        let Some(skip) = from.checked_sub(self.first()) else {
            return Err(Lagged);
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let events = self.events.iter().skip(skip).take(max);
        Ok((from..)
            .map(|number| self.id(number))
            .zip(events.cloned())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::EventKind;

    fn event(at: u64) -> Event {
        Event {
            at,
            kind: EventKind::SchedulerReregistered,
        }
    }

    fn filled(capacity: usize, n: u64) -> Ring {
        let mut ring = Ring::new(7, capacity);
        for at in 0..n {
            ring.push(event(at));
        }
        ring
    }

    #[test]
    fn ids_are_written_and_read_back() {
        let id = EventId { run: 7, number: 42 };
        assert_eq!(id.to_string(), "7-42");
        assert_eq!("7-42".parse(), Ok(id));
        for wrong in ["", "7", "7-", "-42", "7-x", "7-4-2", "a-1"] {
            assert!(wrong.parse::<EventId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_reader_goes_on_after_its_last_event() {
        let ring = filled(4, 10);
        let resume = |number| ring.resume(EventId { run: 7, number });
        assert_eq!(
            resume(9),
            Resume {
                from: 10,
                gap: None
            }
        );
        assert_eq!(resume(5), Resume { from: 6, gap: None });
        let lost = Some(Gap::TooOld);
        assert_eq!(resume(4), Resume { from: 6, gap: lost });
        let other = Some(Gap::OtherRun);
        assert_eq!(
            resume(10),
            Resume {
                from: 6,
                gap: other
            }
        );
        let earlier = ring.resume(EventId { run: 6, number: 9 });
        assert_eq!(
            earlier,
            Resume {
                from: 6,
                gap: other
            }
        );
    }

    proptest! {
        /// Whatever the sizes: a reader that keeps up gets every number once, in order; one that does not is told.
        #[test]
        fn nothing_is_lost_without_a_word(capacity in 1usize..20, steps in prop::collection::vec((0u64..30, 1usize..10), 1..40)) {
            let mut ring = Ring::new(7, capacity);
            let mut at = 0;
            for (pushes, reads) in steps {
                for n in 0..pushes {
                    let number = ring.push(event(n));
                    prop_assert_eq!(number + 1, ring.next());
                }
                match ring.read(at, reads) {
                    Ok(events) => {
                        for (id, _) in events {
                            prop_assert_eq!(id.number, at);
                            at += 1;
                        }
                    }
                    Err(Lagged) => {
                        prop_assert!(at < ring.first());
                        let before = at.checked_sub(1).map(|number| ring.resume(EventId { run: 7, number }));
                        if let Some(resume) = before {
                            prop_assert_eq!(resume.gap, Some(Gap::TooOld));
                        }
                        at = ring.first();
                    }
                }
                prop_assert!(ring.next() - ring.first() <= capacity as u64);
            }
        }
    }
}
