//! What the core tells operators who watch: small, in the order in which it happened, never asked for.
//!
//! A [`Notice`] says what changed and to what; whoever began with a list and hears all that follows knows what the core
//! knows of agents, frameworks and tasks (the simulation holds a replica against it). Usage and health make none.

use mezzo_api::model::{AgentId, FrameworkId, RoleName, TaskId, TaskState, WindowName};

use super::{Core, Effect, Holder, KnownTask, Turn, maintenance::WindowStage};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// To a machine.
    Agent {
        /// Which.
        agent_id: AgentId,
        /// Its host's name.
        hostname: String,
        /// What.
        change: AgentChange,
    },
    /// To a framework.
    Framework {
        /// Which.
        framework_id: FrameworkId,
        /// As it calls itself.
        name: String,
        /// What.
        change: FrameworkChange,
    },
    /// A task has another state.
    Task {
        /// Whose.
        framework_id: FrameworkId,
        /// Which.
        task_id: TaskId,
        /// Where.
        agent_id: AgentId,
        /// The new one.
        state: TaskState,
        /// For people.
        message: String,
    },
    /// It has another weight or quota.
    Role(RoleName),
    /// Planned work has come further.
    Window {
        /// Which.
        name: WindowName,
        /// `None`: it is no more.
        stage: Option<WindowStage>,
    },
}

/// What happened to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentChange {
    /// It attached, for the first time or again.
    Registered,
    /// Its stream broke.
    Disconnected,
    /// For too long.
    Unreachable,
    /// It is no more.
    Removed,
    /// It is taken out of service.
    Draining,
    /// It is in service again.
    Activated,
    /// Nothing of it is offered any more.
    Deactivated,
}

/// What happened to a framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameworkChange {
    /// For the first time or again.
    Subscribed,
    /// Its stream broke.
    Disconnected,
    /// It is no more.
    Removed,
}

impl Core {
    pub(super) fn note(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    pub(super) fn note_agent(&mut self, agent_id: &AgentId, change: AgentChange) {
        let entry = self.agents.get(agent_id);
        let hostname = entry.map(|entry| entry.info.hostname.clone());
        self.note(Notice::Agent {
            agent_id: agent_id.clone(),
            hostname: hostname.unwrap_or_default(),
            change,
        });
    }

    pub(super) fn note_framework(&mut self, framework_id: &FrameworkId, change: FrameworkChange) {
        let entry = self.frameworks.get(framework_id);
        let name = entry.map(|entry| entry.info.name.clone());
        self.note(Notice::Framework {
            framework_id: framework_id.clone(),
            name: name.unwrap_or_default(),
            change,
        });
    }

    /// Of a task in the tables.
    pub(super) fn note_task(&mut self, holder: &Holder) {
        let framework = self.frameworks.get(&holder.0);
        let Some(entry) = framework.and_then(|framework| framework.tasks.get(&holder.1)) else {
            return;
        };
        let notice = task_notice(&entry.task);
        self.note(notice);
    }

    /// All that one event led to.
    pub(super) fn tell_notices(&mut self, turn: &mut Turn<'_>) {
        for notice in self.notices.drain(..) {
            turn.push(Effect::Note(notice));
        }
    }
}

pub(super) fn task_notice(task: &KnownTask) -> Notice {
    Notice::Task {
        framework_id: task.framework_id.clone(),
        task_id: task.info.task_id.clone(),
        agent_id: task.info.agent_id.clone(),
        state: task.status.state,
        message: task.status.message.clone(),
    }
}

#[cfg(test)]
impl Core {
    /// Every task in the tables and every ended one that is remembered, with its state: for a replica made of notices.
    pub(crate) fn task_states(&self) -> impl Iterator<Item = (Holder, TaskState)> + '_ {
        self.frameworks.iter().flat_map(|(id, framework)| {
            let active = framework.tasks.iter();
            let active = active.map(|(task, entry)| (task, entry.task.status.state));
            // A task that runs hides an ended one of the same id.
            let ended = (framework.ended.iter())
                .filter(|(task, _)| !framework.tasks.contains_key(*task))
                .map(|(task, ended)| (task, ended.status.state));
            let all = active.chain(ended);
            all.map(|(task, state)| ((id.clone(), task.clone()), state))
        })
    }
}
