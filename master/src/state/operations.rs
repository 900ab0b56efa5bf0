//! Changes of reservations and volumes: asked by frameworks within an accept, and by operators.
//!
//! The agent has the truth. The master makes a change in its own books at once, so that what follows in the same accept can
//! use it, sends it, and remembers it until it is answered. Where the agent refuses, its word replaces the books, and
//! what is still under way is made upon it again.
//!
//! ```text
//! asked ──► pending ──► finished, failed            told until acknowledged; an operator reads it in the snapshot
//!               └─────► dropped: the agent came back without it, or was away
//! ```
//!
//! Here is how a change is asked, checked and sent; `ends` has what becomes of it, `parts` which volumes a task gets.

mod ends;
mod parts;

use std::{collections::BTreeSet, sync::Arc};

use mezzo_api::model::{
    AgentId, Capability, FrameworkId, OperationId, OperationState, OperationStatus,
    PersistentVolume, Pool, PoolChange, PoolOperation, Pools, Reservation, ReservationKind,
    VolumeKey,
};

use super::{
    ConnId, Core, Effect, Refusal, Supply, ToAgent, Turn, agents::AgentLink, offers::Hand,
};
use ends::MOST_OPERATIONS;
pub(super) use {ends::Asked, parts::Beside};

use crate::{
    planted::{Bug, planted},
    store::Change,
};

/// Names in a sentence.
const MOST_NAMED: usize = 5;

impl Core {
    /// The tasks that mount a volume, and those of them that write to it.
    fn users_of(&self, agent_id: &AgentId, key: &VolumeKey) -> (Vec<String>, Vec<String>) {
        let (mut users, mut writers) = (Vec::new(), Vec::new());
        let Some(agent) = self.agents.get(agent_id) else {
            return (users, writers);
        };
        for ((framework, task), _) in agent.ledger.holders() {
            let entry = self.frameworks.get(framework);
            let Some(entry) = entry.and_then(|entry| entry.tasks.get(task)) else {
                continue;
            };
            let info = &entry.task.info;
            if !info.persistent.iter().any(|volume| volume.key() == *key) {
                continue;
            }
            users.push(task.to_string());
            if info.writes(&key.id) {
                writers.push(task.to_string());
            }
        }
        (users, writers)
    }

    /// One operation of an accept, on what the offers hold at this point.
    pub(super) fn change_for_framework(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        hand: &mut Hand,
        id: Option<OperationId>,
        mut change: PoolChange,
    ) {
        let Some(framework) = self.frameworks.get(framework_id) else {
            return;
        };
        if let Some(known) = id.as_ref().and_then(|id| framework.operations.get(id)) {
            let status = known.clone();
            self.tell_operation(turn, status);
            return;
        }
        let full = framework.operations.len() >= MOST_OPERATIONS;
        let principal = framework.info.principal.clone();
        let shares = framework.shares();
        let done = if full {
            Err(format!(
                "{MOST_OPERATIONS} operations are under way or not acknowledged"
            ))
        } else if !shares && matches!(&change, PoolChange::Create(volume) if volume.shared) {
            Err(format!(
                "a shared volume needs a framework with the capability {}",
                Capability::SharedResources.name()
            ))
        } else {
            sign(&mut change, &principal, hand)
                .and_then(|()| self.change_in_hand(turn, framework_id, hand, id.as_ref(), &change))
        };
        let Some(id) = id else {
            if let Err(problem) = done {
                tracing::info!(framework = %framework_id, %change, problem, "operation without an id refused");
            }
            return;
        };
        let (state, message) = match done {
            Ok(()) => (OperationState::Pending, String::new()),
            Err(problem) => (
                OperationState::Failed,
                format!("cannot {change}: {problem}"),
            ),
        };
        let status = OperationStatus {
            id,
            framework: Some(framework_id.clone()),
            agent_id: Some(hand.agent_id.clone()),
            state,
            message,
            keep: false,
        };
        match state {
            OperationState::Pending => self.remember_operation(status),
            OperationState::Finished
            | OperationState::Failed
            | OperationState::Dropped
            | OperationState::Recovering
            | OperationState::Unknown => self.settle(turn, status),
        }
    }

    fn change_in_hand(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        hand: &mut Hand,
        id: Option<&OperationId>,
        change: &PoolChange,
    ) -> Result<(), String> {
        let conversion = hand
            .left
            .conversion(change)
            .map_err(|problem| problem.to_string())?;
        self.check_there(&hand.agent_id, change)?;
        let agent = self.agents.get(&hand.agent_id);
        if let Some(Err(problem)) = agent.map(|agent| agent.ledger.total().room_for(&conversion)) {
            return Err(problem.to_string());
        }
        self.take_back_what_ends(turn, &hand.agent_id, change);
        let left = hand.left.converted(&conversion);
        let booked = self.with_ledger(&hand.agent_id, Supply::Ordinary, |ledger| {
            ledger.convert(&conversion)
        });
        let (Some(left), Some(true)) = (left, booked) else {
            return Err(format!("agent {} no longer has it free", hand.agent_id));
        };
        hand.left = left;
        let operation = PoolOperation {
            id: id.cloned().unwrap_or_else(|| turn.source.operation_id()),
            framework: Some(framework_id.clone()),
            keep: id.is_some(),
            change: change.clone(),
        };
        self.send_change(turn, &hand.agent_id, hand.conn, operation);
        Ok(())
    }

    /// What the pools in hand do not show: names in use beside them, and readers.
    fn check_there(&self, agent_id: &AgentId, change: &PoolChange) -> Result<(), String> {
        let Some(agent) = self.agents.get(agent_id) else {
            return Err(format!("agent {agent_id} is not known"));
        };
        match change {
            PoolChange::Create(volume) if agent.ledger.total().volume(&volume.key()).is_some() => {
                Err(format!("volume {} exists already", volume.key()))
            }
            PoolChange::Destroy(key) => match self.users_of(agent_id, key).0 {
                users if users.is_empty() => Ok(()),
                users => Err(format!("volume {key} is in use by {}", named_tasks(&users))),
            },
            PoolChange::Create(_) | PoolChange::Reserve { .. } | PoolChange::Unreserve { .. } => {
                Ok(())
            }
        }
    }

    /// A shared volume is free while others are offered it, too; nobody has one in use here.
    fn take_back_what_ends(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        change: &PoolChange,
    ) {
        match change {
            PoolChange::Destroy(key) if !planted(Bug::EndedAndOffered) => {
                self.rescind_offers_with(turn, agent_id, key);
            }
            PoolChange::Destroy(_)
            | PoolChange::Create(_)
            | PoolChange::Reserve { .. }
            | PoolChange::Unreserve { .. } => {}
        }
    }

    /// For an operator: what offers hold is taken back, what tasks hold is not.
    pub(super) fn change_pools(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        id: OperationId,
        change: PoolChange,
    ) -> Result<(), Refusal> {
        let Some(agent) = self.agents.get(agent_id) else {
            return Err(Refusal::UnknownAgent(agent_id.clone()));
        };
        let AgentLink::Connected { conn } = agent.link else {
            return Err(Refusal::AgentAway(agent_id.clone()));
        };
        let in_use = |holders: String| Refusal::InUse {
            agent_id: agent_id.clone(),
            change: change.to_string(),
            holders,
        };
        let total = agent.ledger.total();
        let conversion = total
            .conversion(&change)
            .and_then(|conversion| total.room_for(&conversion).map(|()| conversion))
            .map_err(|problem| match volumes_of(total, &change) {
                Some(volumes) => in_use(volumes),
                None => Refusal::Change {
                    agent_id: agent_id.clone(),
                    change: change.to_string(),
                    problem,
                },
            })?;
        self.check_there(agent_id, &change).map_err(in_use)?;
        let is_free = |core: &Self| {
            let agent = core.agents.get(agent_id);
            agent.is_some_and(|agent| agent.ledger.free().contains(&conversion.consumed))
        };
        self.take_back_what_ends(turn, agent_id, &change);
        if !is_free(self) {
            self.rescind_offers_of(turn, agent_id, Supply::Ordinary);
        }
        if !is_free(self) {
            return Err(in_use(self.holders_of(agent_id, &conversion.consumed)));
        }
        self.with_ledger(agent_id, Supply::Ordinary, |ledger| {
            ledger.convert(&conversion)
        });
        self.operations.note(OperationStatus {
            id: id.clone(),
            framework: None,
            agent_id: Some(agent_id.clone()),
            state: OperationState::Pending,
            message: String::new(),
            keep: false,
        });
        let operation = PoolOperation {
            id,
            framework: None,
            keep: true,
            change,
        };
        self.send_change(turn, agent_id, conn, operation);
        Ok(())
    }

    /// The tasks that hold something of the same reservations, or of what is open to all.
    fn holders_of(&self, agent_id: &AgentId, wanted: &Pools) -> String {
        let Some(agent) = self.agents.get(agent_id) else {
            return String::new();
        };
        let shares = |held: &Pools| {
            let names = |resources: &mezzo_api::model::Resources| {
                let names = resources.iter().map(|(name, _)| name.to_owned());
                names.collect::<BTreeSet<_>>()
            };
            let open = names(held.open());
            !open.is_disjoint(&names(wanted.open()))
                || held.reserved().any(|(stack, _)| {
                    let mut of = wanted.reserved().map(|(other, _)| other);
                    of.any(|other| other == stack)
                })
                || held
                    .volumes()
                    .any(|volume| wanted.volume(&volume.key()).is_some())
        };
        let tasks: Vec<String> = agent
            .ledger
            .holders()
            .filter(|(_, held)| shares(held))
            .map(|((_, task), _)| task.to_string())
            .collect();
        format!(
            "it takes {wanted}, of which only {} is free; in use by {}",
            agent.ledger.free(),
            named_tasks(&tasks)
        )
    }

    fn send_change(
        &mut self,
        turn: &mut Turn<'_>,
        agent_id: &AgentId,
        conn: ConnId,
        operation: PoolOperation,
    ) {
        if let Some(agent) = self.agents.get_mut(agent_id) {
            agent.changes.push_back(operation.clone());
        }
        self.pools_changed(turn, agent_id);
        let message = ToAgent::Operation(Box::new(operation));
        turn.push(Effect::ToAgent(conn, message));
    }

    /// The description of the agent says what the books say, also in the store.
    fn pools_changed(&mut self, turn: &mut Turn<'_>, agent_id: &AgentId) {
        let Some(agent) = self.agents.get_mut(agent_id) else {
            return;
        };
        let total = agent.ledger.total();
        let info = Arc::make_mut(&mut agent.info);
        info.reserved = total.pool_list();
        info.volumes = total.volumes().cloned().collect();
        turn.push(Effect::Store(Change::PutAgent(agent.record(agent_id))));
        self.view.touch_agent(agent_id);
        self.reconsider(agent_id);
    }

    /// An agent answers a change.
    pub(super) fn agent_pools(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        mut status: OperationStatus,
        reserved: &[Pool],
        volumes: &[PersistentVolume],
    ) {
        let Some(agent_id) = self.agent_conns.get(&conn).cloned() else {
            return;
        };
        let Some(agent) = self.agents.get_mut(&agent_id) else {
            return;
        };
        let is_it = |operation: &PoolOperation| {
            operation.id == status.id && operation.framework == status.framework
        };
        agent.changes.retain(|operation| !is_it(operation));
        match Pools::divided(&agent.info.resources, reserved, volumes) {
            Ok(there) => {
                // What the agent will make of it, as far as it is known.
                let changes = agent.changes.iter();
                let then = changes.fold(there, |pools, operation| {
                    let conversion = pools.conversion(&operation.change);
                    let next = conversion.ok().and_then(|c| pools.converted(&c));
                    next.unwrap_or(pools)
                });
                if then != *agent.ledger.total() && !planted(Bug::RefusalIgnored) {
                    self.rescind_offers_of(turn, &agent_id, Supply::Ordinary);
                    self.with_ledger(&agent_id, Supply::Ordinary, |ledger| ledger.declare(then));
                    self.pools_changed(turn, &agent_id);
                }
            }
            Err(error) => {
                tracing::error!(agent = %agent_id, %error, "the agent's reservations do not add up")
            }
        }
        // One without an id of the framework's own: nobody is to be told.
        if status.keep {
            status.agent_id = Some(agent_id);
            self.settle(turn, status);
        }
    }
}

/// A framework changes what is its role's, under its own name.
fn sign(change: &mut PoolChange, principal: &str, hand: &Hand) -> Result<(), String> {
    if hand.supply == Supply::Revocable {
        return Err(
            "the offers are revocable: what can be taken back is reserved for nobody".to_owned(),
        );
    }
    if *change.role() != hand.role {
        return Err(format!(
            "the offers are for role {}, and it is about role {}",
            hand.role,
            change.role()
        ));
    }
    let sign_for = |reservation: &mut Reservation| {
        reservation.kind = ReservationKind::Dynamic;
        principal.clone_into(&mut reservation.principal);
    };
    match change {
        PoolChange::Reserve { with, .. } => sign_for(with),
        PoolChange::Create(volume) => principal.clone_into(&mut volume.principal),
        PoolChange::Unreserve { .. } | PoolChange::Destroy(_) => {}
    }
    Ok(())
}

/// The volumes that keep a reservation from being taken away.
fn volumes_of(total: &Pools, change: &PoolChange) -> Option<String> {
    let PoolChange::Unreserve { stack, resources } = change else {
        return None;
    };
    let volumes: Vec<String> = total
        .volumes()
        .filter(|volume| volume.stack == *stack)
        .map(|volume| volume.id.to_string())
        .collect();
    (!volumes.is_empty() && !resources.disk().is_zero()).then(|| {
        format!(
            "its disk holds volume {}; destroy that first",
            volumes.join(", ")
        )
    })
}

fn named_tasks(tasks: &[String]) -> String {
    let shown = tasks.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>();
    let more = tasks.len().saturating_sub(MOST_NAMED);
    match (shown.is_empty(), more) {
        (true, _) => "what the agent reported".to_owned(),
        (false, 0) => format!("task {}", shown.join(", ")),
        (false, more) => format!("task {} and {more} more", shown.join(", ")),
    }
}
