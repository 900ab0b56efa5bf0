//! Tasks: what agents say of them, and what follows from an agent's coming and going.
//!
//! A task is in its framework's table from launch until its end is acknowledged, and then, for a while, among the
//! ended. The agent's word counts; within one task states only go forward (`rank`), so that repeated statuses change
//! nothing. Statuses of agents are passed on as they come, also repeated ones: the agent repeats until acknowledged.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use mezzo_api::{
    convert::Description,
    model::{
        AgentId, FrameworkId, Reason, RoleName, StatusSource, Task, TaskId, TaskState, TaskStatus,
    },
};

use crate::planted::{Bug, planted};

use super::{
    Acknowledgement, Core, Effect, HeldTask, Holder, Supply, ToAgent, ToFramework, Turn,
    agents::AgentEntry, books::Held, frameworks::FrameworkEntry, notice::task_notice,
};

/// A wish to end a task, kept until it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KillRequest {
    pub(super) grace: Option<Duration>,
}

/// What is known of a task. A copy shares the description, which never changes: statuses come often, and readers hold
/// the former one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTask {
    /// What was asked for.
    pub info: Description,
    /// By whom.
    pub framework_id: FrameworkId,
    /// The role of the offer.
    pub role: RoleName,
    /// The latest.
    pub status: TaskStatus,
    /// When it reached `TASK_RUNNING`, Unix milliseconds.
    pub started_at_ms: Option<u64>,
}

impl From<Task> for KnownTask {
    fn from(task: Task) -> Self {
        Self {
            info: task.info.into(),
            framework_id: task.framework_id,
            role: task.role,
            status: task.status,
            started_at_ms: task.started_at_ms,
        }
    }
}

/// One task, in the table of its framework.
#[derive(Debug, Clone)]
pub struct TaskEntry {
    /// As readers see it.
    pub task: Arc<KnownTask>,
    /// Of its status, once more: whoever counts tasks by state looks at all.
    pub state: TaskState,
    /// The last state that its agent told of; staging before.
    pub(super) reached: TaskState,
    pub(super) kill: Option<KillRequest>,
}

impl TaskEntry {
    pub(super) fn new(task: impl Into<Arc<KnownTask>>) -> Self {
        let task = task.into();
        let state = task.status.state;
        Self {
            task,
            state,
            reached: state,
            kill: None,
        }
    }

    pub(super) fn set_status(&mut self, status: TaskStatus) {
        self.state = status.state;
        Arc::make_mut(&mut self.task).status = status;
    }

    pub(super) fn agent_id(&self) -> &AgentId {
        &self.task.info.agent_id
    }
}

/// A status of the master's own: not kept, not repeated, not to be acknowledged.
pub(super) fn master_status(
    framework_id: &FrameworkId,
    task_id: &TaskId,
    agent_id: Option<AgentId>,
    state: TaskState,
    reason: Reason,
    message: &str,
    now: u64,
) -> TaskStatus {
    TaskStatus {
        task_id: task_id.clone(),
        framework_id: framework_id.clone(),
        agent_id,
        state,
        reason: Some(reason),
        source: StatusSource::Master,
        message: message.to_owned(),
        timestamp_ms: now,
        update_id: None,
        healthy: None,
        health_results: Vec::new(),
        container: None,
        readiness: None,
        check_result: None,
        exit: None,
        usage: None,
    }
}

/// What is already known, said again by the master.
pub(super) fn retold(task: &KnownTask, reason: Reason) -> TaskStatus {
    TaskStatus {
        reason: Some(reason),
        source: StatusSource::Master,
        update_id: None,
        ..task.status.clone()
    }
}

/// States of one task only ever go up.
fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Staging | TaskState::Unknown | TaskState::Unreachable => 0,
        TaskState::Starting => 1,
        TaskState::Running => 2,
        TaskState::Killing => 3,
        TaskState::Finished
        | TaskState::Failed
        | TaskState::Killed
        | TaskState::Error
        | TaskState::Dropped
        | TaskState::Gone => 4,
    }
}

impl Core {
    pub(super) fn tell(&mut self, turn: &mut Turn<'_>, status: TaskStatus) {
        self.counters.updates_sent += 1;
        self.remember_refusal(&status);
        if let Some(conn) = self
            .frameworks
            .get(&status.framework_id)
            .and_then(FrameworkEntry::conn)
        {
            turn.push(Effect::ToFramework(
                conn,
                ToFramework::Update(Box::new(status)),
            ));
        }
    }

    /// Whether a task id is in use.
    pub(super) fn is_known(&self, framework_id: &FrameworkId, task_id: &TaskId) -> bool {
        let framework = self.frameworks.get(framework_id);
        framework.is_some_and(|framework| framework.tasks.contains_key(task_id))
    }

    /// A task id that is in use is answered with the state of the task that has it: a second launch must neither run
    /// nor make the framework believe that the first one ended.
    pub(super) fn tell_if_known(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        task_id: &TaskId,
    ) -> bool {
        let entry = self
            .frameworks
            .get(framework_id)
            .and_then(|framework| framework.tasks.get(task_id));
        let Some(entry) = entry else { return false };
        let mut status = retold(&entry.task, Reason::TaskInvalid);
        status.message =
            format!("task id {task_id} is in use; this is the state of the task that has it");
        self.tell(turn, status);
        true
    }

    pub(super) fn agent_status(
        &mut self,
        turn: &mut Turn<'_>,
        conn: super::ConnId,
        mut status: TaskStatus,
    ) {
        let Some(agent_id) = self.agent_conns.get(&conn).cloned() else {
            return;
        };
        status.agent_id = Some(agent_id.clone());
        self.counters.statuses_received += 1;
        let holder = (status.framework_id.clone(), status.task_id.clone());
        let Some(framework) = self.frameworks.get(&holder.0) else {
            if self.removed_frameworks.contains(&holder.0) {
                self.acknowledge_unasked(turn, conn, &status);
                turn.push(Effect::ToAgent(conn, ToAgent::ShutdownFramework(holder.0)));
            }
            return;
        };
        let removed = framework.is_removed();
        if framework
            .tasks
            .get(&holder.1)
            .is_some_and(|entry| *entry.agent_id() != agent_id)
        {
            return;
        }
        self.absorb(&holder, status.clone());
        if removed {
            self.acknowledge_unasked(turn, conn, &status);
            if status.state.is_terminal() {
                self.forget_task(&holder);
                self.drop_if_drained(&holder.0);
            }
        } else if !(status.state.is_terminal() && planted(Bug::EndNotTold)) {
            self.tell(turn, status);
        }
    }

    /// Nobody is left to acknowledge it.
    fn acknowledge_unasked(
        &mut self,
        turn: &mut Turn<'_>,
        conn: super::ConnId,
        status: &TaskStatus,
    ) {
        if let Some(update_id) = status.update_id.clone() {
            let (framework_id, task_id) = (status.framework_id.clone(), status.task_id.clone());
            turn.push(Effect::ToAgent(
                conn,
                ToAgent::Acknowledge {
                    framework_id,
                    task_id,
                    update_id,
                },
            ));
        }
    }

    /// Takes an agent's status over, unless more is known already.
    fn absorb(&mut self, holder: &Holder, mut status: TaskStatus) {
        let Some(entry) = self.task_mut(holder) else {
            return;
        };
        let known = &entry.task.status;
        let newer = match rank(status.state).cmp(&rank(entry.reached)) {
            Ordering::Less => known.state == TaskState::Unreachable,
            Ordering::Equal if known.state == TaskState::Unreachable => true,
            Ordering::Equal => {
                !known.state.is_terminal() && status.timestamp_ms >= known.timestamp_ms
            }
            Ordering::Greater => !known.state.is_terminal(),
        };
        if !newer {
            return;
        }
        entry.reached = status.state;
        let state = status.state;
        let task = Arc::make_mut(&mut entry.task);
        if status.state == TaskState::Running && task.started_at_ms.is_none() {
            task.started_at_ms = Some(status.timestamp_ms);
        }
        // The texts of its ids are here already.
        status.task_id = task.status.task_id.clone();
        status.framework_id = task.framework_id.clone();
        status.agent_id = Some(task.info.agent_id.clone());
        status.usage = status.usage.or_else(|| task.status.usage.take());
        status.container = status.container.or_else(|| task.status.container.take());
        let terminal = status.state.is_terminal();
        let final_word = terminal && status.update_id.is_none();
        let moved = task.status.state != status.state;
        task.status = status;
        entry.state = state;
        let (agent_id, role) = (entry.agent_id().clone(), entry.task.role.clone());
        self.view.touch_framework(&holder.0);
        if moved {
            self.note_task(holder);
        }
        if terminal {
            if !planted(Bug::EndNotReleased) {
                self.release(&agent_id, holder, &role);
            }
            self.counters.tasks_ended += 1;
        }
        if final_word {
            self.forget_task(holder);
        }
    }

    pub(super) fn task(&self, (framework_id, task_id): &Holder) -> Option<&TaskEntry> {
        self.frameworks.get(framework_id)?.tasks.get(task_id)
    }

    /// For changes alone: what readers share is copied.
    pub(super) fn task_mut(&mut self, (framework_id, task_id): &Holder) -> Option<&mut TaskEntry> {
        self.frameworks
            .get_mut(framework_id)?
            .tasks
            .get_mut(task_id)
    }

    /// Out of the tables and among the ended.
    pub(super) fn forget_task(&mut self, holder: &Holder) {
        let most = self.settings.task_history;
        let Some(framework) = self.frameworks.get_mut(&holder.0) else {
            return;
        };
        let Some(entry) = framework.tasks.remove(&holder.1) else {
            return;
        };
        let (agent_id, role) = (entry.agent_id().clone(), entry.task.role.clone());
        framework.remember(entry.task, most);
        self.view.touch_framework(&holder.0);
        self.release(&agent_id, holder, &role);
        if let Some(agent) = self.agents.get_mut(&agent_id) {
            agent.tasks.remove(holder);
            self.view.touch_agent(&agent_id);
        }
    }

    /// The master itself declares a task ended.
    pub(super) fn task_lost(
        &mut self,
        turn: &mut Turn<'_>,
        holder: &Holder,
        state: TaskState,
        reason: Reason,
        message: &str,
    ) {
        let now = turn.now;
        let Some(entry) = self.task_mut(holder) else {
            return;
        };
        if !entry.task.status.state.is_terminal() || planted(Bug::SecondEnd) {
            let former = &entry.task.status;
            let mut status = master_status(
                &holder.0,
                &holder.1,
                Some(entry.agent_id().clone()),
                state,
                reason,
                message,
                now,
            );
            (status.usage, status.container) = (former.usage.clone(), former.container.clone());
            entry.set_status(status.clone());
            self.counters.tasks_ended += 1;
            if !planted(Bug::NoticeMissing) {
                self.note_task(holder);
            }
            self.tell(turn, status);
        }
        self.forget_task(holder);
        self.drop_if_drained(&holder.0);
    }

    /// Its agent is away for too long.
    pub(super) fn task_away(&mut self, turn: &mut Turn<'_>, holder: &Holder) {
        let now = turn.now;
        let Some(entry) = self.task_mut(holder) else {
            return;
        };
        if entry.task.status.state.is_terminal() {
            return;
        }
        let message = format!("agent {} cannot be reached", entry.agent_id());
        let status = TaskStatus {
            state: TaskState::Unreachable,
            message,
            timestamp_ms: now,
            ..retold(&entry.task, Reason::AgentDisconnected)
        };
        entry.set_status(status.clone());
        self.view.touch_framework(&holder.0);
        self.note_task(holder);
        self.tell(turn, status);
    }

    /// A returning agent reports a task that the master believed there.
    pub(super) fn task_found(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        holder: &Holder,
        mut status: TaskStatus,
    ) {
        let Some(entry) = self.task(holder) else {
            return;
        };
        let was = entry.task.status.state;
        status.agent_id = Some(agent_id.clone());
        let terminal = status.state.is_terminal();
        // The end itself is told by the agent's own status, which waits for its acknowledgement.
        self.absorb(holder, status);
        let Some(entry) = self.task(holder) else {
            return;
        };
        if !terminal && entry.task.status.state != was && !entry.task.status.state.is_terminal() {
            let status = retold(&entry.task, Reason::AgentReregistered);
            self.tell(turn, status);
        }
    }

    /// A returning agent does not report a task that the master believed there.
    pub(super) fn task_not_found(&mut self, turn: &mut Turn<'_>, holder: &Holder) {
        let Some(entry) = self.task(holder) else {
            return;
        };
        let (state, reason, message) = match entry.reached {
            TaskState::Staging => (
                TaskState::Dropped,
                Reason::AgentDisconnected,
                "the agent was away before it had the task",
            ),
            TaskState::Starting
            | TaskState::Running
            | TaskState::Killing
            | TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Unreachable
            | TaskState::Gone
            | TaskState::Unknown => (
                TaskState::Gone,
                Reason::AgentReregistered,
                "the agent came back without the task",
            ),
        };
        self.task_lost(turn, holder, state, reason, message);
    }

    /// An agent reports tasks that the master does not know: they were launched by a former master.
    pub(super) fn tasks_learnt(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        learnt: Vec<(Holder, HeldTask)>,
    ) {
        let mut listed = Vec::with_capacity(learnt.len());
        let mut booked = Vec::with_capacity(learnt.len());
        for (holder, held) in learnt {
            let HeldTask { mut task, pools } = held;
            if task.status.agent_id.as_ref() != Some(agent_id) || task.info.agent_id != *agent_id {
                let task = Arc::make_mut(&mut task);
                task.status.agent_id = Some(agent_id.clone());
                task.info.agent_id = agent_id.clone();
            }
            let terminal = task.status.state.is_terminal();
            self.adopt_framework(turn, &holder.0, &task.role);
            let Some(framework) = self.frameworks.get_mut(&holder.0) else {
                continue;
            };
            if terminal && framework.ended.contains_key(&holder.1) {
                continue;
            }
            if terminal && framework.is_removed() {
                // Its status comes next and is acknowledged then.
                self.drop_if_drained(&holder.0);
                continue;
            }
            let role = task.role.clone();
            let supply = Supply::of(task.info.revocable);
            let entry = TaskEntry::new(task);
            let task = Arc::clone(&entry.task);
            if let Some(former) = framework.tasks.insert(holder.1.clone(), entry) {
                // On another agent, or it stands twice.
                framework.tasks.insert(holder.1, former);
                continue;
            }
            self.view.touch_framework(&holder.0);
            self.note(task_notice(&task));
            if !terminal {
                if !planted(Bug::LearntNotBooked) {
                    booked.push(Held {
                        holder: holder.clone(),
                        role,
                        supply,
                        pools,
                    });
                }
                self.tell(turn, retold(&task, Reason::AgentReregistered));
            }
            listed.push(holder);
        }
        if let Some(agent) = self.agents.get_mut(agent_id) {
            agent.tasks.extend(listed);
        }
        self.admit(agent_id, booked);
    }

    pub(super) fn acknowledge(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        acknowledgement: Acknowledgement,
    ) {
        let Acknowledgement {
            agent_id,
            task_id,
            update_id,
        } = acknowledgement;
        self.counters.acknowledgements += 1;
        if let Some(conn) = self.agents.get(&agent_id).and_then(AgentEntry::conn) {
            let message = ToAgent::Acknowledge {
                framework_id: framework_id.clone(),
                task_id: task_id.clone(),
                update_id: update_id.clone(),
            };
            if !planted(Bug::AcknowledgementSwallowed) {
                turn.push(Effect::ToAgent(conn, message));
            }
        }
        let holder = (framework_id.clone(), task_id);
        let over = self.task(&holder).is_some_and(|entry| {
            let status = &entry.task.status;
            status.state.is_terminal() && status.update_id.as_ref() == Some(&update_id)
        });
        if over {
            self.forget_task(&holder);
        }
    }
}
