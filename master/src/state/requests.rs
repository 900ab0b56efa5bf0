//! What frameworks and operators ask about tasks: kill, message, reconcile.
//!
//! Right after the master's start it does not know what agents run. What is asked about a task that may be on an agent
//! still expected back gets no answer (the framework asks again), and a kill of such a task waits for its agent.

use std::time::Duration;

use mezzo_api::model::{AgentId, FrameworkId, Reason, TaskId, TaskState, TaskStatus};

use crate::planted::{Bug, planted};

use super::{
    Core, Effect, Refusal, ToAgent, Turn,
    agents::{AgentEntry, AgentLink},
    tasks::{KillRequest, master_status, retold},
};

/// Kills that may wait for agents that are not back yet, per framework.
const MOST_EARLY_KILLS: usize = 10_000;

impl Core {
    pub(super) fn kill(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        task_id: &TaskId,
        agent_id: Option<&AgentId>,
        grace: Option<Duration>,
    ) {
        self.counters.kills += 1;
        let holder = (framework_id.clone(), task_id.clone());
        match self.task_mut(&holder) {
            Some(entry) if !entry.task.status.state.is_terminal() => {
                entry.kill = Some(KillRequest { grace });
                let agent_id = entry.agent_id().clone();
                if let Some(conn) = self.agents.get(&agent_id).and_then(AgentEntry::conn) {
                    let message = ToAgent::Kill {
                        framework_id: framework_id.clone(),
                        task_id: task_id.clone(),
                        grace,
                    };
                    if !planted(Bug::KillSwallowed) {
                        turn.push(Effect::ToAgent(conn, message));
                    }
                }
            }
            Some(_) => self.reconcile_one(turn, framework_id, task_id, agent_id),
            None => {
                let recovering = self.may_come_back(agent_id);
                if recovering
                    && let Some(framework) = self.frameworks.get_mut(framework_id)
                    && !framework.ended.contains_key(task_id)
                    && framework.early_kills.len() < MOST_EARLY_KILLS
                {
                    framework
                        .early_kills
                        .insert(task_id.clone(), KillRequest { grace });
                }
                self.reconcile_one(turn, framework_id, task_id, agent_id);
            }
        }
    }

    pub(super) fn kill_for_operator(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        task_id: &TaskId,
        grace: Option<Duration>,
    ) -> Result<(), Refusal> {
        let Some(framework) = self.frameworks.get(framework_id) else {
            return Err(Refusal::UnknownFramework(framework_id.clone()));
        };
        if framework
            .tasks
            .get(task_id)
            .is_none_or(|entry| entry.task.status.state.is_terminal())
        {
            return Err(Refusal::UnknownTask {
                framework_id: framework_id.clone(),
                task_id: task_id.clone(),
            });
        }
        self.kill(turn, framework_id, task_id, None, grace);
        Ok(())
    }

    pub(super) fn send_message(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        agent_id: &AgentId,
        task_id: TaskId,
        data: Vec<u8>,
    ) -> Result<(), Refusal> {
        let known = self
            .frameworks
            .get(framework_id)
            .is_some_and(|framework| framework.tasks.contains_key(&task_id));
        if !known {
            return Err(Refusal::UnknownTask {
                framework_id: framework_id.clone(),
                task_id,
            });
        }
        let Some(agent) = self.agents.get(agent_id) else {
            return Err(Refusal::UnknownAgent(agent_id.clone()));
        };
        if let Some(conn) = agent.conn() {
            let framework_id = framework_id.clone();
            turn.push(Effect::ToAgent(
                conn,
                ToAgent::TaskMessage {
                    framework_id,
                    task_id,
                    data,
                },
            ));
        }
        Ok(())
    }

    pub(super) fn reconcile(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        tasks: Vec<(TaskId, Option<AgentId>)>,
    ) {
        self.counters.reconciliations += 1;
        if !tasks.is_empty() {
            for (task_id, agent_id) in tasks {
                self.reconcile_one(turn, framework_id, &task_id, agent_id.as_ref());
            }
            return;
        }
        let Some(framework) = self.frameworks.get(framework_id) else {
            return;
        };
        let statuses: Vec<TaskStatus> = framework
            .tasks
            .values()
            .filter(|entry| !entry.task.status.state.is_terminal())
            .map(|entry| retold(&entry.task, Reason::Reconciliation))
            .collect();
        for status in statuses {
            self.tell(turn, status);
        }
    }

    fn reconcile_one(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        task_id: &TaskId,
        agent_id: Option<&AgentId>,
    ) {
        let Some(framework) = self.frameworks.get(framework_id) else {
            return;
        };
        let known = framework
            .tasks
            .get(task_id)
            .map(|entry| &entry.task)
            .or_else(|| framework.ended.get(task_id));
        let status = match known {
            Some(task) => retold(task, Reason::Reconciliation),
            None if let Some(refused) = framework.refused.get(task_id) => TaskStatus {
                reason: Some(Reason::Reconciliation),
                ..refused.clone()
            },
            None if self.may_come_back(agent_id) => return,
            None => {
                let (state, message) = match agent_id
                    .and_then(|id| self.agents.get(id))
                    .map(|entry| entry.link)
                {
                    Some(
                        AgentLink::Introduced { .. }
                        | AgentLink::Connected { .. }
                        | AgentLink::Disconnected { .. }
                        | AgentLink::Unreachable,
                    ) => (TaskState::Gone, "the agent does not have the task"),
                    Some(AgentLink::Missing) => (
                        TaskState::Unreachable,
                        "the agent did not come back after the master's start",
                    ),
                    Some(AgentLink::Recovering { .. }) => return,
                    None if agent_id.is_some_and(|id| self.removed_agents.contains(id)) => {
                        (TaskState::Gone, "the agent was removed")
                    }
                    None => (TaskState::Unknown, "the master has no record of the task"),
                };
                let agent_id = agent_id.cloned();
                master_status(
                    framework_id,
                    task_id,
                    agent_id,
                    state,
                    Reason::Reconciliation,
                    message,
                    turn.now,
                )
            }
        };
        self.tell(turn, status);
    }

    /// Whether a task unknown here may be on an agent that is still expected back after the master's start.
    pub(super) fn may_come_back(&self, agent_id: Option<&AgentId>) -> bool {
        match agent_id.and_then(|id| self.agents.get(id)) {
            Some(entry) => matches!(entry.link, AgentLink::Recovering { .. }),
            None if agent_id.is_some_and(|id| self.removed_agents.contains(id)) => false,
            None => self
                .agents
                .values()
                .any(|entry| matches!(entry.link, AgentLink::Recovering { .. })),
        }
    }
}
