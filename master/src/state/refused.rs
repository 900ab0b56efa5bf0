//! Launches that the master itself refused (TASK_DROPPED, TASK_ERROR): remembered, so that a framework that kills or
//! reconciles such a task hears of the same end again and not of another. Bounded: the oldest are forgotten.

use std::collections::{BTreeMap, VecDeque};

use mezzo_api::model::{Reason, StatusSource, TaskId, TaskStatus};

use super::Core;

/// By task id.
#[derive(Debug, Default)]
pub(super) struct Refused {
    by_task: BTreeMap<TaskId, TaskStatus>,
    order: VecDeque<TaskId>,
}

impl Refused {
    pub(super) fn get(&self, task_id: &TaskId) -> Option<&TaskStatus> {
        self.by_task.get(task_id)
    }

    fn insert(&mut self, status: TaskStatus, most: usize) {
        let task_id = status.task_id.clone();
        if self.by_task.insert(task_id.clone(), status).is_none() {
            self.order.push_back(task_id);
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.by_task.remove(&oldest);
            }
        }
    }
}

impl Core {
    /// Keeps an end that the master tells of a task that it never had.
    pub(super) fn remember_refusal(&mut self, status: &TaskStatus) {
        let is_refusal = status.source == StatusSource::Master
            && status.state.is_terminal()
            && status.reason != Some(Reason::Reconciliation);
        if !is_refusal {
            return;
        }
        let most = self.settings.task_history;
        if let Some(framework) = self.frameworks.get_mut(&status.framework_id)
            && !framework.tasks.contains_key(&status.task_id)
            && !framework.ended.contains_key(&status.task_id)
        {
            framework.refused.insert(status.clone(), most);
        }
    }
}
