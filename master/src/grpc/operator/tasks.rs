//! Tasks, as operators filter and read them: by framework and id, those that run and those that ended as one list.

use std::{collections::BTreeSet, ops::Bound};

use mezzo_api::{
    convert::{EncodedTasks, ListedTask, TaskWriter},
    model::{AgentId, FrameworkId, RoleName, TaskId, TaskState},
    proto,
};
use tonic::Status;

use super::super::status::{invalid, parse_optional};
use crate::state::{KnownTask, Snapshot};

/// Which tasks to list.
pub(super) struct TaskFilter {
    framework_id: Option<FrameworkId>,
    agent_id: Option<AgentId>,
    task_id: Option<TaskId>,
    include_ended: bool,
    /// Empty: any.
    states: BTreeSet<TaskState>,
    role: Option<RoleName>,
}

impl TaskFilter {
    pub(super) fn new(request: proto::ListTasksRequest) -> Result<Self, Status> {
        Ok(Self {
            states: states("states", &request.states)?,
            role: parse_optional("role", request.role)?,
            framework_id: parse_optional("framework_id", request.framework_id)?,
            agent_id: parse_optional("agent_id", request.agent_id)?,
            task_id: parse_optional("task_id", request.task_id)?,
            include_ended: request.include_ended,
        })
    }
}

/// The last one of a page.
pub(super) type TaskKey = (FrameworkId, TaskId);

/// From the key in a page's token.
pub(super) fn after(key: &str) -> Option<TaskKey> {
    let (framework, task) = key.split_once('/')?;
    Some((framework.parse().ok()?, task.parse().ok()?))
}

/// A page of them, and the last one if there are more.
pub(super) fn list(
    snapshot: &Snapshot,
    wanted: &TaskFilter,
    after: Option<TaskKey>,
    size: usize,
) -> (EncodedTasks, Option<TaskKey>) {
    let mut page = TaskWriter::default();
    let mut n_found = 0;
    let mut last: Option<&KnownTask> = None;
    let from = after
        .as_ref()
        .map(|(framework, _)| framework)
        .or(wanted.framework_id.as_ref());
    let start = from.map_or(Bound::Unbounded, Bound::Included);
    for (framework_id, view) in snapshot
        .frameworks
        .range::<FrameworkId, _>((start, Bound::Unbounded))
    {
        if wanted
            .framework_id
            .as_ref()
            .is_some_and(|id| id != framework_id)
        {
            continue;
        }
        let past = after
            .as_ref()
            .filter(|(framework, _)| framework == framework_id)
            .map(|(_, task)| task);
        let active = view.tasks.after(past);
        let mut active = active.map(|(id, entry)| (id, &entry.task)).peekable();
        let mut ended = view.ended.after(past).peekable();
        loop {
            // Two sorted lists as one; a task that runs hides an ended one of the same id.
            let task = match (active.peek(), ended.peek()) {
                (Some((a, _)), Some((e, _))) if e < a => ended.next(),
                (Some((a, _)), Some((e, _))) => {
                    if a == e {
                        ended.next();
                    }
                    active.next()
                }
                (Some(_), None) => active.next(),
                (None, Some(_)) => ended.next(),
                (None, None) => break,
            };
            let Some((task_id, task)) = task else { break };
            let fits = (wanted.include_ended || !task.status.state.is_terminal())
                && wanted
                    .agent_id
                    .as_ref()
                    .is_none_or(|id| task.info.agent_id == *id)
                && wanted.task_id.as_ref().is_none_or(|id| id == task_id)
                && (wanted.states.is_empty() || wanted.states.contains(&task.status.state))
                && wanted.role.as_ref().is_none_or(|role| task.role == *role);
            if !fits {
                continue;
            }
            if n_found == size {
                let key = |task: &KnownTask| (task.framework_id.clone(), task.info.task_id.clone());
                return (page.finish(), last.map(key));
            }
            page.push(told(task));
            n_found += 1;
            last = Some(task);
        }
    }
    (page.finish(), None)
}

fn told(task: &KnownTask) -> ListedTask<'_> {
    ListedTask {
        info: &task.info,
        framework_id: &task.framework_id,
        role: &task.role,
        status: &task.status,
        started_at_ms: task.started_at_ms,
    }
}

fn states(field: &str, asked: &[i32]) -> Result<BTreeSet<TaskState>, Status> {
    let read = |(i, number): (usize, &i32)| {
        let known = proto::TaskState::try_from(*number).ok();
        let known = known.and_then(|state| TaskState::try_from(state).ok());
        known.ok_or_else(|| invalid(&format!("{field}[{i}]"), "is no state"))
    };
    asked.iter().enumerate().map(read).collect()
}
