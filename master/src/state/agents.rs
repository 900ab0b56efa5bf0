//! Machines: they attach, fall silent, come back with their own list of tasks (which is the truth), are removed.
//!
//! Whether a peer still answers is watched by the front, which cuts a silent stream; here only streams begin and end.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use mezzo_api::model::{
    AgentId, AgentInfo, NodeUsage, OfferId, PoolOperation, Reason, Resources, TaskState, TaskUsage,
};

use super::{
    AgentChange, ConnId, Core, Effect, Ending, HeldTask, Holder, Ledger, Refusal, Registration,
    Supply, ToAgent, ToFramework, Turn, lent::Lent,
};
use crate::{
    allocator::AgentFilters,
    planted::{Bug, planted},
    store::{AgentRecord, Change, DrainRecord},
};

/// Whether an agent can be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AgentLink {
    /// Known from before the master's start, not seen since.
    Recovering { since_ms: u64 },
    /// The same, and it is too late.
    Missing,
    /// It was given a new id on this stream and has not shown that it knows it. Nothing is offered: were the stream
    /// to break now, it would come back as another agent, and nobody could say what became of tasks on this one.
    Introduced { conn: ConnId },
    /// Its stream is open.
    Connected { conn: ConnId },
    /// Its stream broke; its tasks are still believed.
    Disconnected { since_ms: u64 },
    /// It broke too long ago.
    Unreachable,
}

/// One machine.
#[derive(Debug)]
pub(super) struct AgentEntry {
    /// Readers hold it, too.
    pub(super) info: Arc<AgentInfo>,
    pub(super) registered_at_ms: u64,
    pub(super) link: AgentLink,
    /// The last connection that it registered on.
    pub(super) newest: Option<ConnId>,
    pub(super) ledger: Ledger,
    pub(super) filters: AgentFilters,
    /// What it lends.
    pub(super) lent: Lent,
    pub(super) offers: BTreeSet<OfferId>,
    /// All tasks in the tables that are there, also ended ones that are not acknowledged.
    pub(super) tasks: BTreeSet<Holder>,
    pub(super) usage: Option<NodeUsage>,
    /// Changes of its reservations and volumes that it has not answered, in the order in which they were sent. The books
    /// and `info` are as if they were done.
    pub(super) changes: VecDeque<PoolOperation>,
    /// Out of service; see `drain`.
    pub(super) drain: Option<DrainRecord>,
    /// Nothing of it is offered since then; see `drain`.
    pub(super) deactivated_since_ms: Option<u64>,
    /// Since then it would be given up, but for the limit of losses.
    pub(super) loss_waits_since_ms: Option<u64>,
}

impl AgentEntry {
    pub(super) fn recovering(record: AgentRecord, now: u64) -> Self {
        Self {
            ledger: Ledger::new(record.info.pools()),
            info: Arc::new(record.info),
            registered_at_ms: record.registered_at_ms,
            link: AgentLink::Recovering { since_ms: now },
            newest: None,
            filters: AgentFilters::default(),
            lent: Lent::default(),
            offers: BTreeSet::new(),
            tasks: BTreeSet::new(),
            usage: None,
            changes: VecDeque::new(),
            drain: record.drain.map(|drain| *drain),
            deactivated_since_ms: record.deactivated_since_ms,
            loss_waits_since_ms: None,
        }
    }

    /// As it is stored.
    pub(super) fn record(&self, agent_id: &AgentId) -> Box<AgentRecord> {
        Box::new(AgentRecord {
            agent_id: agent_id.clone(),
            info: AgentInfo::clone(&self.info),
            registered_at_ms: self.registered_at_ms,
            drain: self.drain.map(Box::new),
            deactivated_since_ms: self.deactivated_since_ms,
        })
    }

    pub(super) fn conn(&self) -> Option<ConnId> {
        match self.link {
            AgentLink::Introduced { conn } | AgentLink::Connected { conn } => Some(conn),
            AgentLink::Recovering { .. }
            | AgentLink::Missing
            | AgentLink::Disconnected { .. }
            | AgentLink::Unreachable => None,
        }
    }
}

impl Core {
    pub(super) fn agent_attached(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        registration: Registration,
    ) {
        let Registration {
            agent_id,
            info,
            tasks,
            operations,
            boot_id: _,
        } = registration;
        let knows_its_id = agent_id.is_some();
        let agent_id = agent_id.unwrap_or_else(|| turn.source.agent_id());
        if self.removed_agents.contains(&agent_id) {
            let message = format!(
                "agent {agent_id} was removed by an operator; delete its state to register anew"
            );
            turn.push(Effect::ToAgent(conn, ToAgent::Refused(message)));
            turn.push(Effect::CloseAgent(conn, Ending::Refused));
            return;
        }
        if self
            .agents
            .get(&agent_id)
            .is_some_and(|entry| entry.newest > Some(conn))
        {
            // A Register that was long under way: the agent gave that stream up for a newer one, and what it says is
            // older than what is known.
            turn.push(Effect::CloseAgent(conn, Ending::Superseded));
            return;
        }
        if let Some(old) = self.agents.get(&agent_id).and_then(AgentEntry::conn) {
            self.agent_conns.remove(&old);
            turn.push(Effect::CloseAgent(old, Ending::Superseded));
            self.rescind_agent_offers(turn, &agent_id);
        }
        let link = if knows_its_id {
            AgentLink::Connected { conn }
        } else {
            AgentLink::Introduced { conn }
        };
        self.admit_agent(turn, &agent_id, conn, link, info);
        turn.push(Effect::ToAgent(conn, ToAgent::Registered(agent_id.clone())));
        self.counters.agent_registrations += 1;
        self.note_agent(&agent_id, AgentChange::Registered);
        self.take_operations(turn, &agent_id, operations);
        self.take_inventory(turn, &agent_id, conn, tasks);
        self.tell_drain(turn, &agent_id);
        self.reconsider(&agent_id);
    }

    fn admit_agent(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        conn: ConnId,
        link: AgentLink,
        info: AgentInfo,
    ) {
        let known = self.agents.get(agent_id);
        let record = AgentRecord {
            agent_id: agent_id.clone(),
            registered_at_ms: known.map_or(turn.now, |entry| entry.registered_at_ms),
            info,
            drain: known.and_then(|entry| entry.drain.map(Box::new)),
            deactivated_since_ms: known.and_then(|entry| entry.deactivated_since_ms),
        };
        let former = known.map(|entry| &*entry.info);
        if former != Some(&record.info) {
            turn.push(Effect::Store(Change::PutAgent(Box::new(record.clone()))));
            if let Some(former) = former {
                self.total.sub(&former.resources);
            }
            self.total.add(&record.info.resources);
        }
        if !self.agents.contains_key(agent_id) {
            let entry = AgentEntry::recovering(record.clone(), turn.now);
            self.shift_idle(super::books::idle(&entry.ledger), 1);
            self.agents.insert(agent_id.clone(), entry);
        }
        self.with_ledger(agent_id, Supply::Ordinary, |ledger| {
            ledger.declare(record.info.pools());
        });
        let Some(entry) = self.agents.get_mut(agent_id) else {
            return;
        };
        if *entry.info != record.info {
            entry.info = Arc::new(record.info);
        }
        entry.link = link;
        entry.newest = Some(conn);
        entry.loss_waits_since_ms = None;
        entry.filters.clear();
        // It says so again, if it still does.
        entry.declare_lent(&mut self.lent, Resources::new());
        entry.lent.filters.clear();
        self.agent_conns.insert(conn, agent_id.clone());
        self.view.touch_agent(agent_id);
    }

    /// Compares what the agent holds with what the master believed.
    fn take_inventory(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        conn: ConnId,
        tasks: Vec<HeldTask>,
    ) {
        let entry = self.agents.get(agent_id);
        let mut missed = entry.map_or_else(BTreeSet::new, |entry| entry.tasks.clone());
        let mut learnt = Vec::new();
        for held in tasks {
            let task = &held.task;
            let holder = (task.framework_id.clone(), task.info.task_id.clone());
            if missed.remove(&holder) {
                let status = Arc::unwrap_or_clone(held.task).status;
                self.task_found(turn, agent_id, &holder, status);
            } else {
                learnt.push((holder, held));
            }
        }
        for holder in missed {
            self.task_not_found(turn, &holder);
        }
        self.tasks_learnt(turn, agent_id, learnt);
        self.repeat_wishes(turn, agent_id, conn);
    }

    /// Tells an agent that attached what is to end there and does not yet.
    fn repeat_wishes(&mut self, turn: &mut Turn<'_>, agent_id: &AgentId, conn: ConnId) {
        let entry = self.agents.get(agent_id);
        let mut shut_down = BTreeSet::new();
        for holder in entry.iter().flat_map(|entry| &entry.tasks) {
            let Some(framework) = self.frameworks.get_mut(&holder.0) else {
                continue;
            };
            if framework.is_removed() {
                if shut_down.insert(&holder.0) {
                    let removed = ToAgent::ShutdownFramework(holder.0.clone());
                    turn.push(Effect::ToAgent(conn, removed));
                }
                continue;
            }
            if let Some(kill) = framework.early_kills.remove(&holder.1)
                && let Some(entry) = framework.tasks.get_mut(&holder.1)
            {
                entry.kill = Some(kill);
            }
            let Some(entry) = framework.tasks.get(&holder.1) else {
                continue;
            };
            if let Some(kill) = entry.kill
                && !entry.task.status.state.is_terminal()
            {
                let (framework_id, task_id) = holder.clone();
                turn.push(Effect::ToAgent(
                    conn,
                    ToAgent::Kill {
                        framework_id,
                        task_id,
                        grace: kill.grace,
                    },
                ));
            }
        }
    }

    pub(super) fn agent_detached(&mut self, turn: &mut Turn<'_>, conn: ConnId) {
        let Some(agent_id) = self.agent_conns.remove(&conn) else {
            return;
        };
        if !planted(Bug::AwayAndOffered) {
            self.rescind_agent_offers(turn, &agent_id);
        }
        let Some(entry) = self.agents.get_mut(&agent_id) else {
            return;
        };
        self.view.touch_agent(&agent_id);
        if entry.link == (AgentLink::Introduced { conn }) && entry.tasks.is_empty() {
            turn.push(Effect::Store(Change::ForgetAgent(agent_id.clone())));
            self.note_agent(&agent_id, AgentChange::Removed);
            self.leave_window(turn, &agent_id);
            self.drop_agent(&agent_id);
            return;
        }
        entry.link = AgentLink::Disconnected { since_ms: turn.now };
        self.note_agent(&agent_id, AgentChange::Disconnected);
    }

    pub(super) fn agent_heard(&mut self, conn: ConnId) {
        let Some(agent_id) = self.agent_conns.get(&conn).cloned() else {
            return;
        };
        if let Some(entry) = self.agents.get_mut(&agent_id) {
            entry.link = AgentLink::Connected { conn };
        }
        self.reconsider(&agent_id);
    }

    pub(super) fn agent_usage(
        &mut self,
        conn: ConnId,
        node: Option<NodeUsage>,
        tasks: Vec<TaskUsage>,
    ) {
        let Some(agent_id) = self.agent_conns.get(&conn).cloned() else {
            return;
        };
        if let (Some(entry), Some(node)) = (self.agents.get_mut(&agent_id), node) {
            entry.usage = Some(node);
            self.view.touch_agent(&agent_id);
        }
        for TaskUsage {
            framework_id,
            task_id,
            usage,
        } in tasks
        {
            let Some(framework) = self.frameworks.get_mut(&framework_id) else {
                continue;
            };
            let Some(entry) = framework.tasks.get_mut(&task_id) else {
                continue;
            };
            if *entry.agent_id() == agent_id && !entry.task.status.state.is_terminal() {
                Arc::make_mut(&mut entry.task).status.usage = Some(Box::new(usage));
                self.view.touch_framework(&framework_id);
            }
        }
    }

    pub(super) fn time_out_agents(&mut self, turn: &mut Turn<'_>) {
        let settings = &self.settings;
        let mut late: Vec<(u64, AgentId, AgentLink)> = self
            .agents
            .iter()
            .filter_map(|(id, entry)| {
                let (since_ms, next) = match entry.link {
                    AgentLink::Recovering { since_ms }
                        if turn.now >= since_ms.saturating_add(settings.recovery_timeout_ms) =>
                    {
                        (since_ms, AgentLink::Missing)
                    }
                    AgentLink::Disconnected { since_ms }
                        if turn.now >= since_ms.saturating_add(settings.agent_timeout_ms) =>
                    {
                        (since_ms, AgentLink::Unreachable)
                    }
                    AgentLink::Recovering { .. }
                    | AgentLink::Disconnected { .. }
                    | AgentLink::Missing
                    | AgentLink::Introduced { .. }
                    | AgentLink::Connected { .. }
                    | AgentLink::Unreachable => return None,
                };
                Some((since_ms, id.clone(), next))
            })
            .collect();
        late.sort_by_key(|(since_ms, ..)| *since_ms);
        let limit = self.settings.loss_limit;
        for (_, agent_id, next) in late {
            let admitted = self.losses.admit(limit, turn.now);
            let Some(entry) = self.agents.get_mut(&agent_id) else {
                continue;
            };
            if !admitted {
                if entry.loss_waits_since_ms.is_none() {
                    entry.loss_waits_since_ms = Some(turn.now);
                    self.view.touch_agent(&agent_id);
                }
                continue;
            }
            entry.loss_waits_since_ms = None;
            entry.link = next;
            self.view.touch_agent(&agent_id);
            self.counters.agents_lost += 1;
            let tasks: Vec<Holder> = entry.tasks.iter().cloned().collect();
            for holder in tasks {
                self.task_away(turn, &holder);
            }
            self.note_agent(&agent_id, AgentChange::Unreachable);
            self.announce_loss(turn, &agent_id);
        }
        if !self
            .agents
            .values()
            .any(|entry| matches!(entry.link, AgentLink::Recovering { .. }))
        {
            self.frameworks
                .values_mut()
                .for_each(|framework| framework.early_kills.clear());
        }
    }

    pub(super) fn remove_agent(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
    ) -> Result<(), Refusal> {
        let Some(entry) = self.agents.get(agent_id) else {
            return Err(Refusal::UnknownAgent(agent_id.clone()));
        };
        if entry.conn().is_some() {
            return Err(Refusal::AgentConnected(agent_id.clone()));
        }
        self.forget_agent(turn, agent_id);
        Ok(())
    }

    /// It is no more, and its id must not come back.
    pub(super) fn forget_agent(&mut self, turn: &mut Turn<'_>, agent_id: &AgentId) {
        self.rescind_agent_offers(turn, agent_id);
        self.leave_window(turn, agent_id);
        turn.push(Effect::Store(Change::RemoveAgent {
            agent_id: agent_id.clone(),
            at_ms: turn.now,
        }));
        if let Some(oldest) = self.removed_agents.insert(agent_id.clone(), turn.now) {
            turn.push(Effect::Store(Change::ForgetRemovedAgent(oldest)));
        }
        let tasks: Vec<Holder> = self
            .agents
            .get(agent_id)
            .map(|entry| entry.tasks.iter().cloned().collect())
            .unwrap_or_default();
        for holder in tasks {
            let message = format!("agent {agent_id} was removed by an operator");
            self.task_lost(
                turn,
                &holder,
                TaskState::Gone,
                Reason::AgentRemoved,
                &message,
            );
        }
        self.drop_changes(turn, agent_id, "the agent was removed by an operator");
        self.note_agent(agent_id, AgentChange::Removed);
        self.drop_agent(agent_id);
        self.view.touch_agent(agent_id);
        self.announce_loss(turn, agent_id);
    }

    fn drop_agent(&mut self, agent_id: &AgentId) {
        if let Some(entry) = self.agents.swap_remove(agent_id) {
            self.total.sub_pools(entry.ledger.total());
            self.shift_idle(super::books::idle(&entry.ledger), -1);
            self.lent.total.sub_pools(entry.lent.ledger.total());
        }
    }

    fn announce_loss(&mut self, turn: &mut Turn<'_>, agent_id: &AgentId) {
        for conn in self.framework_conns.keys() {
            turn.push(Effect::ToFramework(
                *conn,
                ToFramework::AgentLost(agent_id.clone()),
            ));
        }
    }
}
