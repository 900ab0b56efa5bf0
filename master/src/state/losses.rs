//! How many agents may be given up in a span of time. The rest wait, and are shown as waiting.
//!
//! A switch that fails takes a whole rack away at once; frameworks that replace all of its tasks in one moment do more harm than
//! the switch. Off unless the operator sets it. An agent that comes back while it waits was never lost.

use std::collections::VecDeque;

use crate::planted::{Bug, planted};

/// So many within so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossLimit {
    /// At least 1.
    pub count: usize,
    /// Milliseconds.
    pub per_ms: u64,
}

/// When agents were given up, the newest last; never more than the limit's count.
#[derive(Debug, Default)]
pub(super) struct Losses(VecDeque<u64>);

impl Losses {
    /// Whether one more may be given up now; it is counted if so.
    pub(super) fn admit(&mut self, limit: Option<LossLimit>, now: u64) -> bool {
        let Some(limit) = limit else { return true };
        while (self.0.front()).is_some_and(|at| now >= at.saturating_add(limit.per_ms)) {
            self.0.pop_front();
        }
        if self.0.len() >= limit.count && !planted(Bug::LossesUnlimited) {
            return false;
        }
        self.0.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_span_of_time_sees_more_than_the_limit(
            steps in prop::collection::vec(0_u64..300, 1..200),
            count in 1_usize..5,
            per_ms in 1_u64..1000,
        ) {
            let limit = LossLimit { count, per_ms };
            let (mut losses, mut now, mut admitted) = (Losses::default(), 0, Vec::new());
            for step in steps {
                now += step;
                let within = admitted.iter().filter(|at| now < **at + per_ms).count();
                let admits = losses.admit(Some(limit), now);
                prop_assert_eq!(admits, within < count);
                if admits {
                    admitted.push(now);
                }
            }
        }
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let mut losses = Losses::default();
        assert!((0..1000).all(|_| losses.admit(None, 0)));
    }
}
