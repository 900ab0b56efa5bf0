//! The master's pure core: state + event + now = new state + effects.
//!
//! No tokio, no clock, no file, no socket, nothing of the protocol: the actor is the only caller, tests and the
//! simulation are the others. Ids and randomness come from a [`Source`]. One file per thing: `agents` (attach, time
//! out, remove), `drain` (out of service and back), `frameworks` (subscribe, expire, tear down), `pass` (what the allocator
//! is asked, and the offers that come of it), `offers` (accept, decline, rescind), `operations` (reservations and volumes),
//! `tasks` (status), `requests` (kill, reconcile), `refused`, `quotas`, `lent` (what can be taken back), `books` (who holds
//! what), `maintenance` (planned work on machines), `losses` (how many may be given up at once), `notice` (what watchers
//! hear), `view` (what readers see), `durable` (what the store must have, for the simulation).
//!
//! ```text
//! agent:      Recovering ──► Missing          framework:  Connected ◄──► Disconnected ──► Removed
//!                 │             │                             └───────── teardown ──────────▲
//!                 ▼             ▼
//! Introduced ──► Connected ◄──► Disconnected ──► Unreachable ──► Connected
//! ```

mod agents;
mod books;
mod drain;
#[cfg(test)]
mod durable;
mod effect;
mod event;
mod frameworks;
mod groups;
mod ledger;
mod lent;
mod losses;
mod maintenance;
mod notice;
#[cfg(test)]
mod numbers;
mod offers;
mod operations;
mod pass;
mod quotas;
mod refused;
mod removed;
mod requests;
mod tasks;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use mezzo_api::model::{AgentId, FrameworkId, OfferId, OperationId, RoleName, StreamId};

use self::{agents::AgentEntry, frameworks::FrameworkEntry, offers::OfferEntry, removed::Removed};
use crate::{
    allocator::{Minimum, Quantities, Quota},
    config::{Config, to_millis},
    store::Saved,
};

pub use drain::DrainStage;
pub use effect::{Effect, Ending, MadeOffer, Refusal, ToAgent, ToFramework};
pub use event::{
    Accept, Acknowledgement, Call, Caller, ConnId, Event, HeldTask, Launch, Operation, Pass,
    Registration,
};
pub use ledger::{Holder, Ledger};
pub use lent::Supply;
pub use losses::LossLimit;
pub use maintenance::{InverseOffer, WindowProblem, WindowStage, WindowView};
pub use mezzo_api::table::Table;
pub use notice::{AgentChange, FrameworkChange, Notice};
pub use tasks::{KnownTask, TaskEntry};
pub use view::{AgentState, AgentView, Counters, FrameworkView, PassRecords, RoleView, Snapshot};

/// Where ids and chance come from.
pub trait Source {
    /// A new one.
    fn agent_id(&mut self) -> AgentId;
    /// A new one.
    fn framework_id(&mut self) -> FrameworkId;
    /// A new one.
    fn offer_id(&mut self) -> OfferId;
    /// A new one.
    fn stream_id(&mut self) -> StreamId;
    /// A new one.
    fn operation_id(&mut self) -> OperationId;
    /// Uniform.
    fn random(&mut self) -> u64;
}

/// The part of [`Config`] that decisions depend on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// See [`Config::agent_timeout`].
    pub agent_timeout_ms: u64,
    /// See [`Config::recovery_timeout`].
    pub recovery_timeout_ms: u64,
    /// See [`Config::offer_timeout`].
    pub offer_timeout_ms: Option<u64>,
    /// See [`Config::orphan_timeout`].
    pub orphan_timeout_ms: u64,
    /// See [`Config::task_history`].
    pub task_history: usize,
    /// See [`Config::min_allocatable`].
    pub minimum: Minimum,
    /// See [`Config::agent_loss_limit`].
    pub loss_limit: Option<LossLimit>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            agent_timeout_ms: to_millis(config.agent_timeout),
            recovery_timeout_ms: to_millis(config.recovery_timeout),
            offer_timeout_ms: config.offer_timeout.map(to_millis),
            orphan_timeout_ms: to_millis(config.orphan_timeout),
            task_history: config.task_history,
            minimum: config.min_allocatable.clone(),
            loss_limit: config.agent_loss_limit.map(|count| LossLimit {
                count,
                per_ms: to_millis(config.agent_loss_interval),
            }),
        }
    }
}

/// Which agents the next pass must look at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pending {
    /// Something came free there.
    Agents(BTreeSet<AgentId>),
    /// Somebody new wants offers.
    All,
}

/// What one event may draw on, and what it leads to.
struct Turn<'a> {
    now: u64,
    source: &'a mut dyn Source,
    effects: Vec<Effect>,
}

impl Turn<'_> {
    fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

/// All that the master knows.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    /// Looked up by hash, a dozen times for each that registers: of an ordered map most of that were comparisons of texts. In
    /// an order that comes of what happened, not of the hashes, so that histories repeat.
    agents: IndexMap<AgentId, AgentEntry>,
    agent_conns: BTreeMap<ConnId, AgentId>,
    frameworks: BTreeMap<FrameworkId, FrameworkEntry>,
    framework_conns: BTreeMap<ConnId, FrameworkId>,
    offers: IndexMap<OfferId, OfferEntry>,
    removed_agents: Removed<AgentId>,
    /// Draining, and to be removed after that.
    leaving: BTreeSet<AgentId>,
    removed_frameworks: Removed<FrameworkId>,
    weights: BTreeMap<RoleName, u64>,
    quotas: BTreeMap<RoleName, Quota>,
    /// What each role holds itself, offers included, and what is reserved for it and free; what is below it not.
    roles: BTreeMap<RoleName, Quantities>,
    total: Quantities,
    lent: lent::LentSums,
    pending: Pending,
    /// Counts what may make somebody want an offer that nobody wanted before.
    generation: u64,
    /// Frameworks met since the start.
    n_frameworks: u32,
    /// What operators asked for, and what became of it.
    operations: operations::Asked,
    counters: Counters,
    windows: maintenance::Windows,
    losses: losses::Losses,
    /// Of the event at hand.
    notices: Vec<Notice>,
    view: view::Cache,
}

impl Core {
    /// What a starting master knows: agents are expected back, frameworks too.
    #[must_use]
    pub fn restore(settings: Settings, saved: Saved, now: u64) -> Self {
        let mut core = Self {
            settings,
            agents: IndexMap::new(),
            agent_conns: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            framework_conns: BTreeMap::new(),
            offers: IndexMap::new(),
            removed_agents: Removed::restore(saved.removed_agents),
            leaving: BTreeSet::new(),
            removed_frameworks: Removed::restore(saved.removed_frameworks),
            weights: saved.weights.into_iter().collect(),
            quotas: saved.quotas.into_iter().collect(),
            roles: BTreeMap::new(),
            total: Quantities::default(),
            lent: lent::LentSums::default(),
            pending: Pending::Agents(BTreeSet::new()),
            generation: 0,
            n_frameworks: 0,
            operations: operations::Asked::default(),
            counters: Counters::default(),
            windows: maintenance::Windows::restore(saved.windows, now),
            losses: losses::Losses::default(),
            notices: Vec::new(),
            view: view::Cache::restore(),
        };
        for record in saved.agents {
            core.total.add(&record.info.resources);
            core.view.touch_agent(&record.agent_id);
            if record.drain.as_ref().is_some_and(|drain| drain.mark_gone) {
                core.leaving.insert(record.agent_id.clone());
            }
            let agent_id = record.agent_id.clone();
            let entry = AgentEntry::recovering(record, now);
            core.shift_idle(books::idle(&entry.ledger), 1);
            core.agents.insert(agent_id, entry);
        }
        let earliest = now.saturating_add(core.settings.recovery_timeout_ms);
        for record in saved.frameworks {
            core.view.touch_framework(&record.framework_id);
            let number = core.number_framework();
            core.frameworks.insert(
                record.framework_id.clone(),
                FrameworkEntry::waiting(number, record, earliest),
            );
        }
        core
    }

    /// Takes one event and says what is to be done.
    pub fn handle(&mut self, event: Event, now: u64, source: &mut dyn Source) -> Vec<Effect> {
        let mut turn = Turn {
            now,
            source,
            effects: Vec::new(),
        };
        let turn_ref = &mut turn;
        self.counters.events += 1;
        match event {
            Event::AgentAttached { conn, registration } => {
                self.agent_attached(turn_ref, conn, registration);
                turn_ref.push(Effect::Reply(Ok(())));
            }
            Event::AgentHeard { conn } => self.agent_heard(conn),
            Event::AgentDetached { conn } => self.agent_detached(turn_ref, conn),
            Event::AgentStatus { conn, status } => self.agent_status(turn_ref, conn, *status),
            Event::AgentUsage { conn, node, tasks } => self.agent_usage(conn, node, tasks),
            Event::AgentPools {
                conn,
                status,
                reserved,
                volumes,
            } => self.agent_pools(turn_ref, conn, status, &reserved, &volumes),
            Event::AgentSlack { conn, total } => self.agent_slack(turn_ref, conn, total),
            Event::Subscribe {
                conn,
                info,
                suppressed,
            } => {
                let result = self.subscribe(turn_ref, conn, info, &suppressed);
                turn_ref.push(Effect::Reply(result));
            }
            Event::FrameworkDetached { conn } => self.framework_detached(turn_ref, conn),
            Event::Call { caller, call } => {
                let result = self.call(turn_ref, &caller, call);
                turn_ref.push(Effect::Reply(result));
            }
            Event::Operate(operation) => {
                let result = self.operate(turn_ref, operation);
                turn_ref.push(Effect::Reply(result));
            }
            Event::Tick => self.tick(turn_ref),
            Event::Allocate(pass) => self.allocate(turn_ref, pass),
        }
        self.finish_drains(turn_ref);
        self.tell_notices(turn_ref);
        turn.effects
    }

    /// Whether a pass over what changed would have something to look at.
    #[must_use]
    pub fn wants_pass(&self) -> bool {
        match &self.pending {
            Pending::Agents(agents) => !agents.is_empty(),
            Pending::All => true,
        }
    }

    /// What readers may see now. Cheap when little changed since the last call.
    pub fn snapshot(&mut self, now: u64) -> Snapshot {
        view::snapshot(self, now)
    }

    /// The books of every agent, for checkers.
    pub fn ledgers(&self) -> impl Iterator<Item = (&AgentId, &Ledger)> {
        self.agents.iter().map(|(id, entry)| (id, &entry.ledger))
    }

    /// The same of what agents lend.
    pub fn lent_ledgers(&self) -> impl Iterator<Item = (&AgentId, &Ledger)> {
        self.agents
            .iter()
            .map(|(id, entry)| (id, &entry.lent.ledger))
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        self.time_out_agents(turn);
        self.time_out_frameworks(turn);
        self.time_out_offers(turn);
        self.turn_windows(turn);
    }

    fn call(&mut self, turn: &mut Turn<'_>, caller: &Caller, call: Call) -> Result<(), Refusal> {
        self.check_caller(caller)?;
        let id = &caller.framework_id;
        match call {
            Call::Accept(accepts) => {
                for accept in accepts {
                    self.accept(turn, id, accept);
                }
            }
            Call::Decline { offers, refuse } => self.decline(turn, id, &offers, refuse),
            Call::Revive(roles) => self.revive(id, &roles)?,
            Call::Suppress(roles) => self.suppress(id, &roles)?,
            Call::Kill {
                task_id,
                agent_id,
                grace,
            } => self.kill(turn, id, &task_id, agent_id.as_ref(), grace),
            Call::Acknowledge(acknowledgements) => {
                for acknowledgement in acknowledgements {
                    self.acknowledge(turn, id, acknowledgement);
                }
            }
            Call::Reconcile(tasks) => self.reconcile(turn, id, tasks),
            Call::AcknowledgeOperation {
                agent_id,
                operation_id,
            } => self.acknowledge_operation(turn, id, &agent_id, &operation_id),
            Call::ReconcileOperations(operations) => {
                self.reconcile_operations(turn, id, &operations);
            }
            Call::SendMessage {
                agent_id,
                task_id,
                data,
            } => self.send_message(turn, id, &agent_id, task_id, data)?,
            Call::UpdateFramework { info, suppressed } => {
                self.update_framework(turn, id, *info, &suppressed)?
            }
            Call::AnswerInverseOffers { ids, accept } => {
                self.answer_inverse_offers(id, &ids, accept);
            }
            Call::Teardown => self.remove_framework(turn, id),
        }
        Ok(())
    }

    fn operate(&mut self, turn: &mut Turn<'_>, operation: Operation) -> Result<(), Refusal> {
        match operation {
            Operation::UpdateWeights(weights) => self.update_weights(turn, weights),
            Operation::UpdateQuotas { quotas, force } => self.update_quotas(turn, quotas, force)?,
            Operation::KillTask {
                framework_id,
                task_id,
                grace,
            } => {
                self.kill_for_operator(turn, &framework_id, &task_id, grace)?;
            }
            Operation::TeardownFramework(framework_id) => {
                match self.frameworks.get(&framework_id) {
                    Some(entry) if !entry.is_removed() => {
                        self.remove_framework(turn, &framework_id)
                    }
                    Some(_) => return Err(Refusal::RemovedFramework(framework_id)),
                    None => return Err(Refusal::UnknownFramework(framework_id)),
                }
            }
            Operation::RemoveAgent(agent_id) => self.remove_agent(turn, &agent_id)?,
            Operation::DrainAgent {
                agent_id,
                deadline,
                mark_gone,
            } => self.drain_agent(turn, &agent_id, deadline, mark_gone)?,
            Operation::DeactivateAgent(agent_id) => self.deactivate_agent(turn, &agent_id)?,
            Operation::ActivateAgent(agent_id) => self.activate_agent(turn, &agent_id)?,
            Operation::ScheduleWindow(record) => self.schedule_window(turn, *record)?,
            Operation::CancelWindow(name) => self.cancel_window(turn, &name)?,
            Operation::ChangePools {
                agent_id,
                id,
                change,
            } => self.change_pools(turn, &agent_id, id, *change)?,
        }
        Ok(())
    }
}
