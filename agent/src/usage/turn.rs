//! Whose turn it is to be sampled: all, as long as that costs less than a share of one processor, else so many as fit,
//! one after the other in the order of their names. Pure.

use std::time::Duration;

use crate::node::ContainerId;

/// Of the interval, in thousandths: what samples of tasks may cost in processor time.
const SHARE_PERMILLE: u32 = 11;
/// So many are sampled in each round, whatever they cost.
const AT_LEAST: usize = 50;

/// Whose turn it is.
#[derive(Debug)]
pub(crate) struct Turn {
    budget: Duration,
    /// Of one sample, as the last rounds had it.
    cost: Duration,
    /// The last one that was sampled in a round that could not take all.
    last: Option<ContainerId>,
}

impl Turn {
    /// With that much time between rounds.
    pub(crate) fn new(interval: Duration) -> Self {
        Self::with_share(interval, SHARE_PERMILLE)
    }

    /// The same with so many thousandths of a processor.
    pub(crate) fn with_share(interval: Duration, permille: u32) -> Self {
        Self {
            budget: interval * permille / 1000,
            cost: Duration::ZERO,
            last: None,
        }
    }

    /// Those to be sampled now.
    pub(crate) fn choose(
        &mut self,
        running: impl Iterator<Item = ContainerId>,
    ) -> Vec<ContainerId> {
        let mut all: Vec<ContainerId> = running.collect();
        let fit = self
            .budget
            .as_nanos()
            .checked_div(self.cost.as_nanos())
            .map_or(usize::MAX, |fit| usize::try_from(fit).unwrap_or(usize::MAX));
        let fit = fit.max(AT_LEAST);
        if all.len() <= fit {
            self.last = None;
            return all;
        }
        all.sort_unstable();
        let begin = match &self.last {
            Some(last) => all.partition_point(|id| id <= last),
            None => 0,
        };
        let begin = if begin == all.len() { 0 } else { begin };
        all.rotate_left(begin);
        all.truncate(fit);
        self.last = all.last().cloned();
        all
    }

    /// What that many samples cost.
    pub(crate) fn learned(&mut self, samples: usize, took: Duration) {
        let Ok(samples @ 1..) = u32::try_from(samples) else {
            return;
        };
        let one = took / samples;
        // The first figure as it is, later ones smoothed: one slow round is no reason to skip tasks.
        self.cost = if self.cost.is_zero() {
            one
        } else {
            (self.cost * 3 + one) / 4
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn ids(n: u64) -> Vec<ContainerId> {
        (0..n).map(|n| ContainerId::derive("t", n)).collect()
    }

    #[test]
    fn all_are_sampled_while_it_is_cheap() {
        let mut turn = Turn::with_share(Duration::from_secs(2), 15);
        assert_eq!(turn.choose(ids(1000).into_iter()).len(), 1000);
        turn.learned(1000, Duration::from_millis(29));
        assert_eq!(turn.choose(ids(1000).into_iter()).len(), 1000);
    }

    #[test]
    fn when_it_is_dear_each_has_its_turn_as_often_as_any_other() {
        let mut turn = Turn::with_share(Duration::from_secs(2), 15);
        turn.choose(ids(1000).into_iter());
        // 100 us each: 300 of them cost the 30 ms of a round.
        turn.learned(1000, Duration::from_millis(100));
        let mut times: HashMap<ContainerId, u32> = HashMap::new();
        for _ in 0..100 {
            let chosen = turn.choose(ids(1000).into_iter());
            assert_eq!(chosen.len(), 300);
            for id in chosen {
                *times.entry(id).or_default() += 1;
            }
        }
        assert_eq!(times.len(), 1000);
        assert!(times.values().all(|n| *n == 30), "{:?}", times.values());
    }

    #[test]
    fn some_are_sampled_whatever_they_cost_and_the_one_before_may_be_gone() {
        let mut turn = Turn::new(Duration::from_millis(100));
        turn.learned(1, Duration::from_secs(1));
        assert_eq!(turn.choose(ids(200).into_iter()).len(), 50);
        let others = (1000..1200).map(|n| ContainerId::derive("u", n));
        assert_eq!(turn.choose(others).len(), 50);
        assert_eq!(turn.choose(std::iter::empty()).len(), 0);
    }
}
