//! What one candidate does next. Pure: event and time in, at most one request to etcd out.
//!
//! A request is answered by one event, or superseded by the next request: then its answer is not heard, though it may
//! still have its effect. Time is any clock that never goes back. A leader's time is counted from when the request
//! *left* that etcd then granted, so it is over here before it is over there.

use std::time::Duration;

use super::{Leader, Seat, Times};

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// What a [`Command::Look`] found; `None`: etcd did not answer.
    Seen(Option<Sight>),
    /// The key may have changed.
    Nudged,
    /// The lease of a [`Command::Grant`]; `None`: no answer.
    Granted(Option<i64>),
    /// What a [`Command::Run`] came to; `None`: nobody knows.
    Ran(Option<Verdict>),
    /// The answer to a [`Command::KeepAlive`].
    KeptAlive(Kept),
    /// A [`Command::Return`] was tried.
    Returned,
    /// Somebody found that we do not lead.
    Deposed,
    /// Lead no more, and do not run again.
    Resign,
    /// Time passed.
    Tick,
}

/// Of the leader's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sight {
    Nobody,
    Other(Leader),
    /// Put there by this candidate when it did not know that it had won: nobody keeps its lease alive.
    Ours {
        lease: i64,
    },
}

/// Of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Now, or by an earlier try on the same lease.
    Won(Seat),
    Lost(Option<Leader>),
    /// etcd does not take it: the lease is gone, say.
    Refused,
}

/// Of a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Alive,
    Unanswered,
    Gone,
}

/// To ask of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Who leads?
    Look,
    /// A lease.
    Grant,
    /// Put the key on this lease, if there is none.
    Run { lease: i64 },
    /// A sign of life.
    KeepAlive { lease: i64 },
    /// The lease back, and the key with it.
    Return { lease: i64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Look,
    Rest,
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// `again`: the key may have changed since the request was read.
    Looking {
        again: bool,
    },
    Resting {
        until: Duration,
    },
    Granting {
        sent: Duration,
    },
    Running {
        lease: i64,
        good_until: Duration,
    },
    Leading {
        seat: Seat,
        lease: i64,
        good_until: Duration,
        sign: Sign,
    },
    Leaving {
        then: Then,
    },
    Over,
}

/// Of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    DueAt(Duration),
    SentAt(Duration),
}

/// One candidate.
#[derive(Debug)]
pub(crate) struct Core {
    times: Times,
    state: State,
    leader: Option<Leader>,
}

impl Core {
    /// A candidate that knows nothing yet, and its first request.
    pub(crate) fn start(times: Times) -> (Self, Command) {
        let core = Self {
            times,
            state: State::Looking { again: false },
            leader: None,
        };
        (core, Command::Look)
    }

    /// Takes an event, and says what to ask of etcd.
    pub(crate) fn handle(&mut self, event: Event, now: Duration) -> Option<Command> {
        match event {
            Event::Seen(seen) => self.seen(seen, now),
            Event::Nudged => match &mut self.state {
                State::Resting { .. } => self.look(),
                State::Looking { again } => {
                    *again = true;
                    None
                }
                State::Granting { .. }
                | State::Running { .. }
                | State::Leading { .. }
                | State::Leaving { .. }
                | State::Over => None,
            },
            Event::Granted(lease) => self.granted(lease, now),
            Event::Ran(verdict) => self.ran(verdict, now),
            Event::KeptAlive(kept) => self.kept_alive(kept, now),
            Event::Returned => match self.state {
                State::Leaving { then: Then::Look } => self.look(),
                State::Leaving { then: Then::Rest } => self.rest(now + self.times.retry),
                State::Leaving { then: Then::End } => {
                    self.state = State::Over;
                    None
                }
                State::Looking { .. }
                | State::Resting { .. }
                | State::Granting { .. }
                | State::Running { .. }
                | State::Leading { .. }
                | State::Over => None,
            },
            Event::Deposed => match self.state {
                State::Leading { lease, .. } => self.leave(lease, Then::Look),
                State::Looking { .. }
                | State::Resting { .. }
                | State::Granting { .. }
                | State::Running { .. }
                | State::Leaving { .. }
                | State::Over => None,
            },
            Event::Resign => self.resign(),
            Event::Tick => self.tick(now),
        }
    }

    /// When a [`Event::Tick`] is due.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        match &self.state {
            State::Resting { until } => Some(*until),
            State::Leading {
                good_until, sign, ..
            } => Some(match sign {
                Sign::DueAt(due) => (*due).min(*good_until),
                Sign::SentAt(_) => *good_until,
            }),
            State::Looking { .. }
            | State::Granting { .. }
            | State::Running { .. }
            | State::Leaving { .. }
            | State::Over => None,
        }
    }

    /// The seat, and until when the leader may act.
    pub(crate) fn leads(&self) -> Option<(Seat, Duration)> {
        match self.state {
            State::Leading {
                seat, good_until, ..
            } => Some((seat, good_until)),
            State::Looking { .. }
            | State::Resting { .. }
            | State::Granting { .. }
            | State::Running { .. }
            | State::Leaving { .. }
            | State::Over => None,
        }
    }

    /// Whom it last saw leading; not itself.
    pub(crate) fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// It has resigned.
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn look(&mut self) -> Option<Command> {
        self.state = State::Looking { again: false };
        Some(Command::Look)
    }

    fn rest(&mut self, until: Duration) -> Option<Command> {
        self.state = State::Resting { until };
        None
    }

    fn leave(&mut self, lease: i64, then: Then) -> Option<Command> {
        self.state = State::Leaving { then };
        Some(Command::Return { lease })
    }

    fn seen(&mut self, seen: Option<Sight>, now: Duration) -> Option<Command> {
        let State::Looking { again } = self.state else {
            return None;
        };
        match seen {
            None => self.rest(now + self.times.retry),
            Some(Sight::Other(leader)) => {
                self.leader = Some(leader);
                if again {
                    return self.look();
                }
                self.rest(now + self.times.look)
            }
            Some(Sight::Ours { lease }) => {
                self.leader = None;
                self.leave(lease, Then::Rest)
            }
            Some(Sight::Nobody) => {
                self.leader = None;
                self.state = State::Granting { sent: now };
                Some(Command::Grant)
            }
        }
    }

    fn granted(&mut self, lease: Option<i64>, now: Duration) -> Option<Command> {
        let State::Granting { sent } = self.state else {
            return None;
        };
        let Some(lease) = lease else {
            return self.rest(now + self.times.retry);
        };
        let good_until = self.good_until(sent);
        if now >= good_until {
            return self.leave(lease, Then::Look);
        }
        self.state = State::Running { lease, good_until };
        Some(Command::Run { lease })
    }

    fn ran(&mut self, verdict: Option<Verdict>, now: Duration) -> Option<Command> {
        let State::Running { lease, good_until } = self.state else {
            return None;
        };
        match verdict {
            Some(Verdict::Won(seat)) if now < good_until => {
                self.leader = None;
                self.state = State::Leading {
                    seat,
                    lease,
                    good_until,
                    sign: Sign::SentAt(now),
                };
                Some(Command::KeepAlive { lease })
            }
            Some(Verdict::Lost(leader)) => {
                self.leader = leader;
                self.leave(lease, Then::Look)
            }
            // Perhaps it was won. Whoever gives up now may leave a key that stands for as long as the lease: so it is asked
            // again, which does no harm, and the answer tells.
            None if now < good_until => Some(Command::Run { lease }),
            // Too late: what came of it goes with the lease.
            Some(Verdict::Won(_) | Verdict::Refused) | None => self.leave(lease, Then::Look),
        }
    }

    fn kept_alive(&mut self, kept: Kept, now: Duration) -> Option<Command> {
        let State::Leading {
            lease,
            good_until,
            sign: Sign::SentAt(sent),
            seat,
        } = self.state
        else {
            return None;
        };
        if now >= good_until || kept == Kept::Gone {
            return self.leave(lease, Then::Look);
        }
        let (good_until, due) = match kept {
            Kept::Alive => (
                good_until.max(self.good_until(sent)),
                (sent + self.times.every).max(now),
            ),
            Kept::Unanswered | Kept::Gone => (good_until, now + self.times.retry),
        };
        self.state = State::Leading {
            seat,
            lease,
            good_until,
            sign: Sign::DueAt(due),
        };
        None
    }

    fn tick(&mut self, now: Duration) -> Option<Command> {
        match &mut self.state {
            State::Resting { until } if now >= *until => self.look(),
            State::Leading {
                lease, good_until, ..
            } if now >= *good_until => {
                let lease = *lease;
                self.leave(lease, Then::Look)
            }
            State::Leading { lease, sign, .. } => match *sign {
                Sign::DueAt(due) if now >= due => {
                    *sign = Sign::SentAt(now);
                    Some(Command::KeepAlive { lease: *lease })
                }
                Sign::DueAt(_) | Sign::SentAt(_) => None,
            },
            State::Looking { .. }
            | State::Resting { .. }
            | State::Granting { .. }
            | State::Running { .. }
            | State::Leaving { .. }
            | State::Over => None,
        }
    }

    fn resign(&mut self) -> Option<Command> {
        match &mut self.state {
            State::Running { lease, .. } | State::Leading { lease, .. } => {
                let lease = *lease;
                self.leave(lease, Then::End)
            }
            State::Leaving { then } => {
                *then = Then::End;
                None
            }
            // A lease that is just being granted has no key, and runs out.
            State::Looking { .. }
            | State::Resting { .. }
            | State::Granting { .. }
            | State::Over => {
                self.state = State::Over;
                None
            }
        }
    }

    fn good_until(&self, sent: Duration) -> Duration {
        sent + self.times.lease.saturating_sub(self.times.margin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const SEAT: Seat = Seat {
        term: 7,
        revision: 3,
    };

    fn leader() -> Leader {
        Leader {
            id: "x".into(),
            address: "x:1".into(),
            term: 6,
        }
    }

    /// Leads since its grant at 1000 ms, with a lease of 3 s.
    fn leading() -> Core {
        let (mut core, first) = Core::start(Times::of_lease(3));
        assert_eq!(first, Command::Look);
        let grant = core.handle(Event::Seen(Some(Sight::Nobody)), ms(1000));
        assert_eq!(grant, Some(Command::Grant));
        let run = core.handle(Event::Granted(Some(5)), ms(1010));
        assert_eq!(run, Some(Command::Run { lease: 5 }));
        let sign = core.handle(Event::Ran(Some(Verdict::Won(SEAT))), ms(1020));
        assert_eq!(sign, Some(Command::KeepAlive { lease: 5 }));
        core
    }

    #[test]
    fn a_leaders_time_counts_from_what_it_sent() {
        let mut core = leading();
        assert_eq!(core.leads(), Some((SEAT, ms(3500))));
        core.handle(Event::KeptAlive(Kept::Alive), ms(1400));
        assert_eq!(core.leads(), Some((SEAT, ms(1020 + 2500))));
        assert_eq!(core.wakes_at(), Some(ms(1520)));
        assert_eq!(core.handle(Event::Tick, ms(1519)), None);
        assert_eq!(
            core.handle(Event::Tick, ms(1520)),
            Some(Command::KeepAlive { lease: 5 })
        );
    }

    #[test]
    fn without_an_answer_it_asks_again_and_then_leaves() {
        let mut core = leading();
        assert_eq!(
            core.handle(Event::KeptAlive(Kept::Unanswered), ms(2000)),
            None
        );
        assert_eq!(
            core.handle(Event::Tick, ms(2100)),
            Some(Command::KeepAlive { lease: 5 })
        );
        assert_eq!(core.wakes_at(), Some(ms(3500)));
        let back = Some(Command::Return { lease: 5 });
        assert_eq!(core.handle(Event::Tick, ms(3500)), back);
        assert_eq!(core.leads(), None);
        assert_eq!(core.handle(Event::KeptAlive(Kept::Alive), ms(3501)), None);
        assert_eq!(core.handle(Event::Returned, ms(3600)), Some(Command::Look));
    }

    #[test]
    fn one_that_thaws_too_late_leaves_though_its_lease_is_alive() {
        let mut core = leading();
        let back = Some(Command::Return { lease: 5 });
        assert_eq!(core.handle(Event::KeptAlive(Kept::Alive), ms(9000)), back);
    }

    #[test]
    fn who_resigns_gives_the_lease_back_and_never_runs_again() {
        let mut core = leading();
        let back = Some(Command::Return { lease: 5 });
        assert_eq!(core.handle(Event::Resign, ms(1100)), back);
        assert_eq!(core.leads(), None);
        assert!(!core.is_over());
        assert_eq!(core.handle(Event::Returned, ms(1200)), None);
        assert!(core.is_over());
        assert_eq!(core.handle(Event::Nudged, ms(1300)), None);
        assert_eq!(core.handle(Event::Tick, ms(9000)), None);
    }

    #[test]
    fn who_follows_looks_when_nudged_and_after_a_while() {
        let (mut core, _) = Core::start(Times::of_lease(3));
        assert_eq!(
            core.handle(Event::Seen(Some(Sight::Other(leader()))), ms(10)),
            None
        );
        assert_eq!(core.leader(), Some(&leader()));
        assert_eq!(core.wakes_at(), Some(ms(510)));
        assert_eq!(core.handle(Event::Nudged, ms(20)), Some(Command::Look));
        // etcd is away: what was seen is still the best guess.
        assert_eq!(core.handle(Event::Seen(None), ms(30)), None);
        assert_eq!(core.leader(), Some(&leader()));
        assert_eq!(core.handle(Event::Tick, ms(130)), Some(Command::Look));
    }

    #[test]
    fn a_nudge_while_it_looks_makes_it_look_once_more() {
        let (mut core, _) = Core::start(Times::of_lease(3));
        assert_eq!(core.handle(Event::Nudged, ms(5)), None);
        // What it sees may be older than the nudge.
        let seen = Event::Seen(Some(Sight::Other(leader())));
        assert_eq!(core.handle(seen.clone(), ms(10)), Some(Command::Look));
        assert_eq!(core.handle(seen, ms(20)), None);
        assert_eq!(core.wakes_at(), Some(ms(520)));
    }

    /// Has asked for the lead with a lease of 3 s, granted at 1 ms.
    fn running() -> Core {
        let (mut core, _) = Core::start(Times::of_lease(3));
        core.handle(Event::Seen(Some(Sight::Nobody)), ms(0));
        let run = core.handle(Event::Granted(Some(5)), ms(1));
        assert_eq!(run, Some(Command::Run { lease: 5 }));
        core
    }

    #[test]
    fn an_election_of_unknown_outcome_is_asked_about_on_the_same_lease() {
        let mut core = running();
        let again = Some(Command::Run { lease: 5 });
        assert_eq!(core.handle(Event::Ran(None), ms(1001)), again);
        assert_eq!(core.handle(Event::Ran(None), ms(2001)), again);
        // The first try was done, and the third tells.
        core.handle(Event::Ran(Some(Verdict::Won(SEAT))), ms(2100));
        assert_eq!(core.leads(), Some((SEAT, ms(2500))));
    }

    #[test]
    fn an_election_is_undone_when_the_lease_is_nearly_over_or_gone() {
        let back = Some(Command::Return { lease: 5 });
        assert_eq!(running().handle(Event::Ran(None), ms(2500)), back);
        let refused = Event::Ran(Some(Verdict::Refused));
        assert_eq!(running().handle(refused, ms(2)), back);
    }

    #[test]
    fn a_key_of_ours_that_nobody_keeps_alive_is_taken_away() {
        let (mut core, _) = Core::start(Times::of_lease(3));
        let ours = Event::Seen(Some(Sight::Ours { lease: 9 }));
        let back = Some(Command::Return { lease: 9 });
        assert_eq!(core.handle(ours, ms(10)), back);
        // Not at once: etcd may refuse at once, too.
        assert_eq!(core.handle(Event::Returned, ms(20)), None);
        assert_eq!(core.handle(Event::Tick, ms(120)), Some(Command::Look));
    }
}
