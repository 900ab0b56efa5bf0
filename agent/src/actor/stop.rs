//! The owner's last steps when the agent is told to stop: with its tasks, if they go along, and with what is being
//! written. Whether to go on waiting is [`Patience`], which is pure.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};

use super::{Actor, Command};
use crate::task::event::Event;

/// Longest wait for pending writes.
const FLUSH: Duration = Duration::from_secs(5);
/// Longest wait for the next task to end, beyond the grace periods.
const NEXT_END: Duration = Duration::from_secs(15);

/// How long the ends of tasks are waited for: not so long for all of them, because a thousand take longer than one, but so
/// long for each next one.
#[derive(Debug)]
struct Patience {
    left: usize,
    until: Instant,
}

impl Patience {
    fn new(now: Instant, grace: Duration) -> Self {
        Self {
            left: usize::MAX,
            until: now + grace + NEXT_END,
        }
    }

    /// Until when to wait while so many are left; `None` when there is nothing to wait for.
    fn until(&mut self, left: usize, now: Instant) -> Option<Instant> {
        if left < self.left {
            self.left = left;
            self.until = self.until.max(now + NEXT_END);
        }
        (left > 0).then_some(self.until)
    }
}

impl Actor {
    /// Ends every task, for as long as one after the other ends.
    pub(super) async fn kill_all(&mut self, commands: &mut mpsc::Receiver<Command>) {
        self.handle(Event::KillAll);
        let alive = self.core.entries().filter(|e| e.ended_at().is_none());
        let grace = alive.filter_map(|entry| entry.info.kill_grace).max();
        let mut patience = Patience::new(Instant::now(), grace.unwrap_or_default());
        loop {
            let alive = self.core.entries().filter(|e| e.ended_at().is_none());
            let left = alive.count() + usize::from(self.core.has_groups());
            let Some(until) = patience.until(left, Instant::now()) else {
                break;
            };
            if tokio::time::timeout_at(until, self.turn(commands))
                .await
                .is_err()
            {
                tracing::error!(
                    left,
                    "not every task ended in time: the rest is killed with the runtime"
                );
                break;
            }
            // A launch that was in the queue must not outlive the others.
            self.handle(Event::KillAll);
        }
        for token in self.health.values() {
            token.cancel();
        }
    }

    /// Finishes what is being written.
    pub(super) async fn flush(&mut self, commands: &mut mpsc::Receiver<Command>) {
        self.outbound = None;
        let deadline = Instant::now() + FLUSH;
        while !self.disk_busy.is_empty() || self.writing_book {
            if tokio::time::timeout_at(deadline, self.turn(commands))
                .await
                .is_err()
            {
                tracing::error!("not everything could be written in time");
                break;
            }
        }
        self.jobs.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_tasks_are_waited_for_as_long_as_one_after_the_other_ends() {
        let begin = Instant::now();
        let mut patience = Patience::new(begin, Duration::from_secs(3));
        let mut now = begin;
        assert_eq!(
            patience.until(1000, now),
            Some(begin + Duration::from_secs(18)),
            "the grace period counts once"
        );
        for left in (1..1000).rev() {
            now += Duration::from_secs(14);
            let until = patience.until(left, now).unwrap();
            assert!(until > now, "{left} are left");
        }
        assert_eq!(patience.until(0, now), None);
    }

    #[test]
    fn who_does_not_end_is_given_up() {
        let begin = Instant::now();
        let mut patience = Patience::new(begin, Duration::ZERO);
        let until = patience.until(7, begin);
        assert_eq!(until, Some(begin + NEXT_END));
        // Others that come late (a group's holder) give nobody more time.
        for left in [7, 9, 7] {
            assert_eq!(patience.until(left, begin + NEXT_END), until);
        }
    }
}
