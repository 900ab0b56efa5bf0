//! Asking what became of tasks until each has been answered. Pure: the author asks, this says for which.
//!
//! A master that has just begun to lead gives no answer for a task whose agent it still expects back. So a question is
//! asked again, with growing pauses, and only for what is still open.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mezzo_api::model::{AgentId, TaskId, TaskStatus};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Tasks of which no word has come yet.
///
/// ```
/// use std::time::{Duration, Instant};
/// use mezzo_framework::Reconciliation;
///
/// let mut now = Instant::now();
/// let mut open = Reconciliation::of([("task-1".parse()?, Some("agent-1".parse()?))]);
/// // After Subscribed, and then at each tick of the author's timer:
/// assert_eq!(open.due(now).len(), 1);   // calls.reconcile(open.due(now)).await?
/// assert!(open.due(now).is_empty());    // asked a moment ago
/// now += Duration::from_secs(1);
/// assert_eq!(open.due(now).len(), 1);   // no answer: again, the next time after two seconds
/// // At each update: open.answered(&status);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Reconciliation {
    open: BTreeMap<TaskId, Option<AgentId>>,
    next: Option<Instant>,
    pause: Duration,
}

impl Reconciliation {
    /// All tasks that the author believes to run, with the agent where it is known.
    #[must_use]
    pub fn of(tasks: impl IntoIterator<Item = (TaskId, Option<AgentId>)>) -> Self {
        Self {
            open: tasks.into_iter().collect(),
            next: None,
            pause: FIRST,
        }
    }

    /// What to ask for now; empty when it is not time yet, or everything is answered.
    pub fn due(&mut self, now: Instant) -> Vec<(TaskId, Option<AgentId>)> {
        if self.open.is_empty() || self.next.is_some_and(|next| now < next) {
            return Vec::new();
        }
        self.next = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST);
        self.open
            .iter()
            .map(|(task, agent)| (task.clone(), agent.clone()))
            .collect()
    }

    /// Any word of a task is an answer.
    pub fn answered(&mut self, status: &TaskStatus) {
        self.open.remove(&status.task_id);
    }

    /// Whether a word of every task has come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.open.is_empty()
    }
}
