//! The statuses of one task that wait for their acknowledgement. Pure.
//!
//! Only the oldest is ever under way, only once it is durable, again and again with growing pauses until it is
//! acknowledged. Driven by `task::core`; tests with a model below.

use std::collections::VecDeque;

use mezzo_api::model::{TaskStatus, UpdateId};

/// Pauses between repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retry {
    /// After the first sending.
    pub(crate) first_ms: u64,
    /// Never longer.
    pub(crate) max_ms: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Pending {
    status: TaskStatus,
    durable: bool,
}

/// When the oldest goes out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sending {
    attempts: u32,
    due_ms: u64,
}

/// What an acknowledgement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// The oldest is done with.
    Accepted,
    /// It names none that waits, or not the oldest: a repetition, or nonsense.
    Ignored,
}

/// The queue.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UpdateQueue {
    retry: Retry,
    pending: VecDeque<Pending>,
    sending: Sending,
}

impl UpdateQueue {
    /// An empty one.
    pub(crate) fn new(retry: Retry) -> Self {
        Self {
            retry,
            pending: VecDeque::new(),
            sending: Sending {
                attempts: 0,
                due_ms: 0,
            },
        }
    }

    /// Adds a status that is being made durable.
    pub(crate) fn push(&mut self, status: TaskStatus) {
        debug_assert!(
            status.update_id.is_some(),
            "an update without an id can never be acknowledged"
        );
        self.pending.push_back(Pending {
            status,
            durable: false,
        });
    }

    /// Adds a status that is durable already, or cannot be made so.
    pub(crate) fn push_durable(&mut self, status: TaskStatus) {
        self.pending.push_back(Pending {
            status,
            durable: true,
        });
    }

    /// A status is on disk.
    pub(crate) fn durable(&mut self, id: &UpdateId) {
        for pending in &mut self.pending {
            if pending.status.update_id.as_ref() == Some(id) {
                pending.durable = true;
            }
        }
    }

    /// The oldest, if it is to be sent now. Counts as sent.
    pub(crate) fn take_due(&mut self, now_ms: u64) -> Option<&TaskStatus> {
        let oldest = self.pending.front()?;
        if !oldest.durable || now_ms < self.sending.due_ms {
            return None;
        }
        let pause = self
            .retry
            .first_ms
            .saturating_mul(1_u64.checked_shl(self.sending.attempts).unwrap_or(u64::MAX))
            .min(self.retry.max_ms);
        self.sending.attempts = self.sending.attempts.saturating_add(1);
        self.sending.due_ms = now_ms.saturating_add(pause);
        Some(&oldest.status)
    }

    /// When [`Self::take_due`] has something next.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.pending
            .front()
            .filter(|oldest| oldest.durable)
            .map(|_| self.sending.due_ms)
    }

    /// Ends the repetition of the oldest if it is the one named.
    pub(crate) fn acknowledge(&mut self, id: &UpdateId) -> Acknowledged {
        match self.pending.front() {
            Some(oldest) if oldest.status.update_id.as_ref() == Some(id) => {
                self.pending.pop_front();
                self.restart();
                Acknowledged::Accepted
            }
            Some(_) | None => Acknowledged::Ignored,
        }
    }

    /// The oldest is due at once and its pauses begin anew: after an acknowledgement, on a new stream.
    pub(crate) fn restart(&mut self) {
        self.sending = Sending {
            attempts: 0,
            due_ms: 0,
        };
    }

    /// How often the oldest was sent since the last [`Self::restart`].
    pub(crate) fn attempts(&self) -> u32 {
        self.sending.attempts
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Gives up on all.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::status::tests::a_status;

    const RETRY: Retry = Retry {
        first_ms: 1_000,
        max_ms: 30_000,
    };

    fn numbered(n: usize) -> TaskStatus {
        TaskStatus {
            update_id: Some(format!("u{n}").parse().unwrap()),
            ..a_status()
        }
    }

    fn id(n: usize) -> UpdateId {
        format!("u{n}").parse().unwrap()
    }

    #[test]
    fn nothing_is_sent_before_it_is_durable() {
        let mut queue = UpdateQueue::new(RETRY);
        queue.push(numbered(0));
        assert_eq!(queue.take_due(0), None);
        assert_eq!(queue.due_ms(), None);
        queue.durable(&id(0));
        assert_eq!(queue.take_due(0), Some(&numbered(0)));
    }

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let mut queue = UpdateQueue::new(RETRY);
        queue.push_durable(numbered(0));
        let mut pauses = Vec::new();
        let mut now = 0;
        for _ in 0..8 {
            assert!(queue.take_due(now).is_some());
            let due = queue.due_ms().unwrap();
            pauses.push(due - now);
            assert_eq!(queue.take_due(due - 1), None);
            now = due;
        }
        assert_eq!(
            pauses,
            [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
        );
        queue.restart();
        assert!(queue.take_due(now).is_some(), "a new stream sends at once");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push,
        Durable(usize),
        Acknowledge(usize),
        Advance(u64),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Push),
            (0_usize..12).prop_map(Step::Durable),
            (0_usize..12).prop_map(Step::Acknowledge),
            (0_u64..40_000).prop_map(Step::Advance),
            Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn updates_go_out_in_order_and_none_is_skipped(steps in prop::collection::vec(step(), 0..80)) {
            let mut queue = UpdateQueue::new(RETRY);
            let (mut pushed, mut acknowledged, mut now) = (0, 0, 0);
            let mut durable = [false; 100];
            for step in steps {
                match step {
                    Step::Push => { queue.push(numbered(pushed)); pushed += 1; }
                    Step::Durable(n) => if n < pushed { durable[n] = true; queue.durable(&id(n)); },
                    Step::Acknowledge(n) => {
                        let accepted = queue.acknowledge(&id(n)) == Acknowledged::Accepted;
                        prop_assert_eq!(accepted, n == acknowledged && n < pushed);
                        if accepted { acknowledged += 1; }
                    }
                    Step::Advance(by) => now += by,
                    Step::Restart => queue.restart(),
                }
                prop_assert_eq!(queue.len(), pushed - acknowledged);
                if let Some(sent) = queue.take_due(now) {
                    prop_assert_eq!(sent, &numbered(acknowledged), "only the oldest");
                    prop_assert!(durable[acknowledged], "only what is on disk");
                    let again = queue.due_ms().unwrap();
                    prop_assert!(again > now && again <= now + RETRY.max_ms);
                }
            }
        }
    }
}
