//! One telling at a time of each container's limits, and the newest wins: a change that comes while another is being
//! told waits, and takes the place of one that waits already.

use std::{collections::HashMap, sync::Arc};

use mezzo_api::model::{FrameworkId, LimitChange};

use super::{Actor, Asker, Done, STEP_DEADLINE};
use crate::{
    node::{ContainerId, LimitError, Limits},
    task::event::Event,
};

impl Actor {
    /// Begins a change that somebody asked for, or tells them at once why not.
    pub(super) fn change_limits(
        &mut self,
        framework: Option<&FrameworkId>,
        task: &str,
        change: &LimitChange,
        reply: Asker,
    ) {
        match self.core.change_limits(framework, task, change) {
            Err(refused) => {
                let _ = reply.send(Err(refused));
            }
            Ok((container, effects)) => {
                self.askers.insert(container, reply);
                self.perform(effects);
            }
        }
    }

    /// Tells the runtime a container's limits, once those before are told.
    pub(super) fn limit(&mut self, container: ContainerId, limits: Limits) {
        if let Some(limits) = self.limits.push(&container, limits) {
            self.spawn_limit(container, limits);
        }
    }

    /// Limits are told: the next ones, and the news.
    pub(super) fn limited(
        &mut self,
        container: ContainerId,
        limits: Limits,
        result: Result<(), LimitError>,
    ) {
        if let Some(next) = self.limits.done(&container) {
            self.spawn_limit(container.clone(), next);
        }
        let limits = Box::new(limits);
        self.handle(Event::Limited {
            container,
            limits,
            result,
        });
    }

    fn spawn_limit(&mut self, container: ContainerId, limits: Limits) {
        let runtime = Arc::clone(&self.runtime);
        self.jobs.spawn(async move {
            let told = runtime.limit(&container, limits.clone());
            let result = tokio::time::timeout(STEP_DEADLINE, told)
                .await
                .unwrap_or_else(|_| {
                    let seconds = STEP_DEADLINE.as_secs();
                    Err(LimitError::Failed(format!("took longer than {seconds} s")))
                });
            Done::Limited(container, limits, result)
        });
    }
}

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
