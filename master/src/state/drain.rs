//! Out of service and back: an operator drains or deactivates an agent, and activates it again.
//!
//! A deactivated one is not offered, and its tasks run on. That is all, and it is independent of a drain: one may follow the
//! other, a maintenance window ends its own drain and no deactivation, an activation ends both.
//!
//! While it drains nothing of it is offered, and the agent is told to end every task (it cuts their grace periods to what
//! is left of the deadline). What is durable is the wish ([`DrainRecord`], in the agent's own record); how far it has come
//! is seen from the tasks: it is drained when none is left, that is, when every end is acknowledged.

use std::time::Duration;

use mezzo_api::model::AgentId;

use super::{
    AgentChange, Core, Effect, Ending, Refusal, ToAgent, Turn,
    agents::{AgentEntry, AgentLink},
};
use crate::{
    config::to_millis,
    planted::{Bug, planted},
    store::{Change, DrainRecord},
};

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainStage {
    /// Tasks are left, or nobody knows yet after the master's start.
    Draining,
    /// None is left.
    Drained,
}

impl AgentEntry {
    /// No operator wants it out of service; of windows it knows nothing.
    pub(super) fn is_in_service(&self) -> bool {
        self.drain.is_none() && self.deactivated_since_ms.is_none()
    }

    /// `None` when it is in service.
    pub(super) fn drain_stage(&self) -> Option<DrainStage> {
        self.drain?;
        let known = match self.link {
            AgentLink::Recovering { .. } | AgentLink::Missing => false,
            AgentLink::Introduced { .. }
            | AgentLink::Connected { .. }
            | AgentLink::Disconnected { .. }
            | AgentLink::Unreachable => true,
        };
        Some(if known && self.tasks.is_empty() {
            DrainStage::Drained
        } else {
            DrainStage::Draining
        })
    }
}

impl Core {
    pub(super) fn drain_agent(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        deadline: Option<Duration>,
        mark_gone: bool,
    ) -> Result<(), Refusal> {
        let Some(entry) = self.agents.get(agent_id) else {
            return Err(Refusal::UnknownAgent(agent_id.clone()));
        };
        let drain = DrainRecord {
            since_ms: entry.drain.map_or(turn.now, |before| before.since_ms),
            deadline_at_ms: deadline.map(|left| turn.now.saturating_add(to_millis(left))),
            mark_gone,
        };
        self.set_drain(turn, agent_id, Some(drain));
        self.claim_drain(turn, agent_id);
        if !planted(Bug::DrainingAndOffered) {
            self.rescind_agent_offers(turn, agent_id);
        }
        self.tell_drain(turn, agent_id);
        Ok(())
    }

    pub(super) fn activate_agent(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
    ) -> Result<(), Refusal> {
        if !self.agents.contains_key(agent_id) {
            return Err(Refusal::UnknownAgent(agent_id.clone()));
        }
        if self.windows.is_closed(agent_id) {
            self.leave_window(turn, agent_id);
        }
        let Some(entry) = self.agents.get_mut(agent_id) else {
            return Ok(());
        };
        let drains = entry.drain.is_some();
        let was_deactivated = entry.deactivated_since_ms.take().is_some();
        self.end_drain(turn, agent_id);
        if was_deactivated && !drains {
            self.store_agent(turn, agent_id);
            self.note_agent(agent_id, AgentChange::Activated);
            self.reconsider(agent_id);
        }
        Ok(())
    }

    /// What was asked already stays as it is, with its time.
    pub(super) fn deactivate_agent(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
    ) -> Result<(), Refusal> {
        let Some(entry) = self.agents.get_mut(agent_id) else {
            return Err(Refusal::UnknownAgent(agent_id.clone()));
        };
        if entry.deactivated_since_ms.is_some() {
            return Ok(());
        }
        entry.deactivated_since_ms = Some(turn.now);
        if !planted(Bug::DeactivationNotStored) {
            self.store_agent(turn, agent_id);
        }
        if !planted(Bug::DeactivatedAndOffered) {
            self.rescind_agent_offers(turn, agent_id);
        }
        self.note_agent(agent_id, AgentChange::Deactivated);
        Ok(())
    }

    fn store_agent(&mut self, turn: &mut Turn<'_>, agent_id: &AgentId) {
        if let Some(entry) = self.agents.get(agent_id) {
            turn.push(Effect::Store(Change::PutAgent(entry.record(agent_id))));
            self.view.touch_agent(agent_id);
        }
    }

    pub(super) fn set_drain(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        drain: Option<DrainRecord>,
    ) {
        let Some(entry) = self.agents.get_mut(agent_id) else {
            return;
        };
        entry.drain = drain;
        if drain.is_some() || !planted(Bug::DrainEndNotStored) {
            self.store_agent(turn, agent_id);
        }
        if drain.is_some_and(|drain| drain.mark_gone) {
            self.leaving.insert(agent_id.clone());
        } else {
            self.leaving.remove(agent_id);
        }
        if drain.is_some() {
            self.note_agent(agent_id, AgentChange::Draining);
        }
    }

    /// Tells the agent of its drain, if it has one and can hear: at its beginning, and after every registration.
    pub(super) fn tell_drain(&self, turn: &mut Turn<'_>, agent_id: &AgentId) {
        let Some(entry) = self.agents.get(agent_id) else {
            return;
        };
        if let (Some(drain), Some(conn)) = (entry.drain, entry.conn()) {
            let left = |at: u64| Duration::from_millis(at.saturating_sub(turn.now));
            let max_grace = drain.deadline_at_ms.map(left);
            turn.push(Effect::ToAgent(conn, ToAgent::Drain { max_grace }));
        }
    }

    /// Removes the agents that were to go once they are drained.
    pub(super) fn finish_drains(&mut self, turn: &mut Turn<'_>) {
        let done = |id: &&AgentId| match self.agents.get(*id) {
            Some(entry) => entry.drain_stage() == Some(DrainStage::Drained),
            None => true,
        };
        let done: Vec<AgentId> = self.leaving.iter().filter(done).cloned().collect();
        for agent_id in done {
            self.leaving.remove(&agent_id);
            let Some(conn) = self.agents.get(&agent_id).map(AgentEntry::conn) else {
                continue;
            };
            if let Some(conn) = conn {
                let message = format!(
                    "agent {agent_id} is drained and was marked as gone; delete its state to register anew"
                );
                turn.push(Effect::ToAgent(conn, ToAgent::Refused(message)));
                turn.push(Effect::CloseAgent(conn, Ending::Refused));
                self.agent_conns.remove(&conn);
            }
            self.forget_agent(turn, &agent_id);
        }
    }
}
