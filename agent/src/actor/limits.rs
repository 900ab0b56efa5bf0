//! One telling at a time of each container's limits, and the newest wins: a change that comes while another is being
//! told waits, and takes the place of one that waits already. Pure.

use std::collections::HashMap;

use crate::node::{ContainerId, Limits};

/// Containers that are being told, with what they are to be told next.
#[derive(Debug, Default)]
pub(super) struct Latest(HashMap<ContainerId, Option<Limits>>);

impl Latest {
    /// What to tell now; `None` when the one before is still being told.
    pub(super) fn push(&mut self, container: &ContainerId, limits: Limits) -> Option<Limits> {
        match self.0.get_mut(container) {
            Some(next) => {
                *next = Some(limits);
                None
            }
            None => {
                self.0.insert(container.clone(), None);
                Some(limits)
            }
        }
    }

    /// A telling is over; what to tell next.
    pub(super) fn done(&mut self, container: &ContainerId) -> Option<Limits> {
        let next = self.0.get_mut(container).and_then(Option::take);
        if next.is_none() {
            self.0.remove(container);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_at_a_time_and_the_newest_wins() {
        let id = ContainerId::derive("t", 1);
        let limits = |pids| Limits {
            pids: Some(pids),
            ..Limits::default()
        };
        let mut latest = Latest::default();
        assert_eq!(latest.push(&id, limits(1)), Some(limits(1)));
        assert_eq!(latest.push(&id, limits(2)), None);
        assert_eq!(latest.push(&id, limits(3)), None);
        assert_eq!(latest.done(&id), Some(limits(3)));
        assert_eq!(latest.push(&id, limits(4)), None);
        assert_eq!(latest.done(&id), Some(limits(4)));
        assert_eq!(latest.done(&id), None);
        assert!(latest.0.is_empty());
        assert_eq!(latest.push(&id, limits(5)), Some(limits(5)));
    }
}
