//! What becomes of changes: what agents and this master say of their ends is told until it is acknowledged, to frameworks in
//! events, to operators in the snapshot.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use mezzo_api::model::{AgentId, FrameworkId, OperationId, OperationState, OperationStatus};

use super::super::{
    Core, Effect, ToAgent, ToFramework, Turn, agents::AgentEntry, frameworks::FrameworkEntry,
};
use crate::planted::{Bug, planted};

/// Of a framework, under way or not acknowledged.
pub(super) const MOST_OPERATIONS: usize = 10_000;
/// Answers to operators that are remembered.
const MOST_ASKED: usize = 1_000;

/// What operators asked for lately.
#[derive(Debug, Clone, Default)]
pub(in crate::state) struct Asked {
    statuses: Arc<BTreeMap<OperationId, OperationStatus>>,
    order: VecDeque<OperationId>,
}

impl Asked {
    pub(in crate::state) fn shared(&self) -> Arc<BTreeMap<OperationId, OperationStatus>> {
        Arc::clone(&self.statuses)
    }

    pub(super) fn note(&mut self, status: OperationStatus) {
        let statuses = Arc::make_mut(&mut self.statuses);
        if statuses.insert(status.id.clone(), status.clone()).is_none() {
            self.order.push_back(status.id);
        }
        while self.order.len() > MOST_ASKED {
            if let Some(oldest) = self.order.pop_front() {
                statuses.remove(&oldest);
            }
        }
    }
}

impl Core {
    /// What a returning agent knows of changes, against what was sent to it. Its registration said what is reserved now.
    pub(in crate::state) fn take_operations(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        reported: Vec<OperationStatus>,
    ) {
        let Some(agent) = self.agents.get_mut(agent_id) else {
            return;
        };
        let sent = std::mem::take(&mut agent.changes);
        for operation in sent.into_iter().filter(|operation| operation.keep) {
            let is_it = |status: &&OperationStatus| {
                operation.id == status.id && operation.framework == status.framework
            };
            if reported.iter().any(|status| is_it(&status)) && !planted(Bug::SecondOperationEnd) {
                continue;
            }
            self.settle(
                turn,
                OperationStatus {
                    id: operation.id,
                    framework: operation.framework,
                    agent_id: Some(agent_id.clone()),
                    state: OperationState::Dropped,
                    message: "the agent was away before it had it".to_owned(),
                    keep: false,
                },
            );
        }
        for status in reported {
            let agent_id = Some(agent_id.clone());
            self.settle(turn, OperationStatus { agent_id, ..status });
        }
    }

    /// What was sent to an agent that is gone for good.
    pub(in crate::state) fn drop_changes(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        why: &str,
    ) {
        let agent = self.agents.get_mut(agent_id);
        let changes = agent.map(|agent| std::mem::take(&mut agent.changes));
        for operation in changes.into_iter().flatten().filter(|change| change.keep) {
            self.settle(
                turn,
                OperationStatus {
                    id: operation.id,
                    framework: operation.framework,
                    agent_id: Some(agent_id.clone()),
                    state: OperationState::Dropped,
                    message: why.to_owned(),
                    keep: false,
                },
            );
        }
    }

    /// An operation whose offers could not be used.
    pub(in crate::state) fn drop_change(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        id: &OperationId,
        why: &str,
    ) {
        let framework = self.frameworks.get(framework_id);
        let known = framework.and_then(|framework| framework.operations.get(id));
        let status = known.cloned().unwrap_or_else(|| OperationStatus {
            id: id.clone(),
            framework: Some(framework_id.clone()),
            agent_id: None,
            state: OperationState::Dropped,
            message: why.to_owned(),
            keep: false,
        });
        self.settle(turn, status);
    }

    pub(super) fn remember_operation(&mut self, status: OperationStatus) {
        let framework = status.framework.as_ref();
        if let Some(entry) = framework.and_then(|id| self.frameworks.get_mut(id))
            && entry.operations.len() < MOST_OPERATIONS
        {
            entry.operations.insert(status.id.clone(), status);
        }
    }

    /// Tells what became of a change. `keep` is set in the word of an agent that repeats it.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>, status: OperationStatus) {
        let Some(framework_id) = &status.framework else {
            self.acknowledge_unkept(turn, &status);
            self.operations.note(status);
            return;
        };
        match self.frameworks.get(framework_id) {
            Some(entry) if !entry.is_removed() => {
                self.remember_operation(status.clone());
                self.tell_operation(turn, status);
            }
            // Nobody is left to acknowledge it.
            Some(_) | None => self.acknowledge_unkept(turn, &status),
        }
    }

    fn acknowledge_unkept(&mut self, turn: &mut Turn<'_>, status: &OperationStatus) {
        let agent = status.agent_id.as_ref().and_then(|id| self.agents.get(id));
        if let Some(conn) = agent.and_then(AgentEntry::conn).filter(|_| status.keep) {
            let message = ToAgent::AcknowledgeOperation {
                framework_id: status.framework.clone(),
                operation_id: status.id.clone(),
            };
            turn.push(Effect::ToAgent(conn, message));
        }
    }

    pub(super) fn tell_operation(&self, turn: &mut Turn<'_>, status: OperationStatus) {
        if status.state.is_terminal() && planted(Bug::OperationEndNotTold) {
            return;
        }
        let framework = status.framework.as_ref();
        let entry = framework.and_then(|id| self.frameworks.get(id));
        if let Some(conn) = entry.and_then(FrameworkEntry::conn) {
            let event = ToFramework::Operation(Box::new(status));
            turn.push(Effect::ToFramework(conn, event));
        }
    }

    /// To a framework that subscribed: the ends that it has not acknowledged.
    pub(in crate::state) fn retell_operations(
        &self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
    ) {
        let Some(entry) = self.frameworks.get(framework_id) else {
            return;
        };
        let ended = entry
            .operations
            .values()
            .filter(|status| status.state.is_terminal());
        for status in ended.cloned() {
            self.tell_operation(turn, status);
        }
    }

    pub(in crate::state) fn acknowledge_operation(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        agent_id: &AgentId,
        operation_id: &OperationId,
    ) {
        if let Some(entry) = self.frameworks.get_mut(framework_id)
            && let Some(status) = entry.operations.get(operation_id)
            && status.state.is_terminal()
        {
            entry.operations.remove(operation_id);
        }
        if let Some(conn) = self.agents.get(agent_id).and_then(AgentEntry::conn) {
            let message = ToAgent::AcknowledgeOperation {
                framework_id: Some(framework_id.clone()),
                operation_id: operation_id.clone(),
            };
            turn.push(Effect::ToAgent(conn, message));
        }
    }

    pub(in crate::state) fn reconcile_operations(
        &self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        asked: &[(OperationId, Option<AgentId>)],
    ) {
        let Some(entry) = self.frameworks.get(framework_id) else {
            return;
        };
        if asked.is_empty() {
            for status in entry.operations.values().cloned() {
                self.tell_operation(turn, status);
            }
            return;
        }
        for (id, agent_id) in asked {
            let known = entry.operations.get(id).cloned();
            let status = known.unwrap_or_else(|| OperationStatus {
                id: id.clone(),
                framework: Some(framework_id.clone()),
                agent_id: agent_id.clone(),
                state: if self.may_come_back(agent_id.as_ref()) {
                    OperationState::Recovering
                } else {
                    OperationState::Unknown
                },
                message: String::new(),
                keep: false,
            });
            self.tell_operation(turn, status);
        }
    }
}
