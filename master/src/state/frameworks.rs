//! Frameworks: they subscribe, fall silent, come back before their deadline, or are removed.
//!
//! A removed framework stays in the table until its last task is known to have ended: what still runs is never
//! offered to others.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use indexmap::IndexSet;
use mezzo_api::model::{
    FrameworkId, FrameworkInfo, OfferId, OperationId, OperationStatus, RoleName, StreamId, TaskId,
};

use super::{
    Caller, ConnId, Core, Effect, Ending, FrameworkChange, KnownTask, Notice, Refusal, Table,
    ToAgent, ToFramework, Turn,
    refused::Refused,
    tasks::{KillRequest, TaskEntry},
};
use crate::{
    allocator::{ClaimantKey, Constraints, InvalidPattern, PassRecord, Quantities},
    config::to_millis,
    planted::{Bug, planted},
    store::{Change, FrameworkRecord},
};

/// Whether a framework can be talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FrameworkLink {
    /// Its stream is open.
    Connected { conn: ConnId, stream_id: StreamId },
    /// Its tasks are kept until then.
    Disconnected { expires_at_ms: u64 },
    /// Its tasks are being killed.
    Removed,
}

/// Whether a framework takes offers for a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Yes.
    Wants,
    /// Not now.
    Suppressed,
    /// It is not subscribed to the role, but may still hold something.
    Left,
}

/// Passes of which is remembered why they gave what they gave.
const MOST_RECORDS: usize = 10;

/// A framework in one role.
#[derive(Debug)]
pub(super) struct RoleEntry {
    pub(super) key: ClaimantKey,
    pub(super) interest: Interest,
    /// Filters of another epoch do not count.
    pub(super) epoch: u64,
    /// Offers included.
    pub(super) held: Quantities,
    /// The same of what agents lend.
    pub(super) held_revocable: Quantities,
    /// Of passes over all agents, the newest last.
    pub(super) records: VecDeque<PassRecord>,
}

impl RoleEntry {
    pub(super) fn record(&mut self, record: PassRecord) {
        if self.records.len() == MOST_RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }
}

/// One framework.
#[derive(Debug)]
pub(super) struct FrameworkEntry {
    pub(super) info: FrameworkInfo,
    /// Among all that this master met.
    pub(super) number: u32,
    /// Roles that it ever had.
    n_roles: u32,
    /// The offer filters of `info`.
    pub(super) constraints: BTreeMap<RoleName, Constraints>,
    pub(super) registered_at_ms: u64,
    pub(super) link: FrameworkLink,
    pub(super) roles: BTreeMap<RoleName, RoleEntry>,
    pub(super) offers: IndexSet<OfferId>,
    /// What is in them, and what of that agents lend.
    pub(super) in_offers: (Quantities, Quantities),
    /// Not ended, or ended and not acknowledged.
    pub(super) tasks: Table<TaskId, TaskEntry>,
    /// Ended; the newest per id.
    pub(super) ended: Table<TaskId, Arc<KnownTask>>,
    pub(super) ended_order: VecDeque<TaskId>,
    /// Kills of tasks whose agent is not back yet.
    pub(super) early_kills: BTreeMap<TaskId, KillRequest>,
    /// The master's own last word on launches that it refused: asked again, it says the same.
    pub(super) refused: Refused,
    /// Changes of reservations and volumes that are under way or whose end is not acknowledged.
    pub(super) operations: BTreeMap<OperationId, OperationStatus>,
}

impl FrameworkEntry {
    fn new(number: u32, info: FrameworkInfo, registered_at_ms: u64, link: FrameworkLink) -> Self {
        let mut entry = Self {
            info,
            number,
            n_roles: 0,
            // It brings them again when it subscribes; until then it gets no offers.
            constraints: BTreeMap::new(),
            registered_at_ms,
            link,
            roles: BTreeMap::new(),
            offers: IndexSet::new(),
            in_offers: Default::default(),
            tasks: Table::default(),
            ended: Table::default(),
            ended_order: VecDeque::new(),
            early_kills: BTreeMap::new(),
            refused: Refused::default(),
            operations: BTreeMap::new(),
        };
        entry.set_roles(&[]);
        entry
    }

    /// From before the master's start; kept at least until `earliest`, for it had no one to subscribe to.
    pub(super) fn waiting(number: u32, record: FrameworkRecord, earliest: u64) -> Self {
        let timeout = to_millis(record.info.failover_timeout);
        let expires_at_ms = record
            .expires_at_ms
            .unwrap_or_else(|| earliest.saturating_add(timeout))
            .max(earliest);
        Self::new(
            number,
            record.info,
            record.registered_at_ms,
            FrameworkLink::Disconnected { expires_at_ms },
        )
    }

    pub(super) fn is_removed(&self) -> bool {
        self.link == FrameworkLink::Removed
    }

    pub(super) fn conn(&self) -> Option<ConnId> {
        match self.link {
            FrameworkLink::Connected { conn, .. } => Some(conn),
            FrameworkLink::Disconnected { .. } | FrameworkLink::Removed => None,
        }
    }

    pub(super) fn role_mut(&mut self, role: &RoleName, otherwise: Interest) -> &mut RoleEntry {
        self.roles.entry(role.clone()).or_insert_with(|| {
            self.n_roles += 1;
            RoleEntry {
                key: ClaimantKey::new(self.number, self.n_roles),
                interest: otherwise,
                epoch: 0,
                held: Quantities::default(),
                held_revocable: Quantities::default(),
                records: VecDeque::new(),
            }
        })
    }

    /// Forgets roles that it neither has nor holds anything for.
    pub(super) fn drop_left_roles(&mut self) {
        self.roles.retain(|_, role| {
            role.interest != Interest::Left
                || role.held != Quantities::default()
                || role.held_revocable != Quantities::default()
        });
    }

    fn set_roles(&mut self, suppressed: &[RoleName]) {
        self.roles
            .values_mut()
            .for_each(|role| role.interest = Interest::Left);
        for role in self.info.roles.clone() {
            let interest = if suppressed.contains(&role) {
                Interest::Suppressed
            } else {
                Interest::Wants
            };
            self.role_mut(&role, interest).interest = interest;
        }
        self.drop_left_roles();
    }

    fn record(&self, framework_id: &FrameworkId) -> Box<FrameworkRecord> {
        Box::new(FrameworkRecord {
            framework_id: framework_id.clone(),
            info: self.info.clone(),
            registered_at_ms: self.registered_at_ms,
            expires_at_ms: match self.link {
                FrameworkLink::Disconnected { expires_at_ms } => Some(expires_at_ms),
                FrameworkLink::Connected { .. } | FrameworkLink::Removed => None,
            },
        })
    }

    /// Remembers an ended task, at most `most` of them.
    pub(super) fn remember(&mut self, task: Arc<KnownTask>, most: usize) {
        let task_id = task.info.task_id.clone();
        if self.ended.insert(task_id.clone(), task).is_none() {
            self.ended_order.push_back(task_id);
        }
        while self.ended_order.len() > most {
            if let Some(oldest) = self.ended_order.pop_front() {
                self.ended.remove(&oldest);
            }
        }
    }
}

fn compile(info: &FrameworkInfo) -> Result<BTreeMap<RoleName, Constraints>, InvalidPattern> {
    info.offer_filters
        .iter()
        .map(|(role, filter)| Ok((role.clone(), Constraints::new(filter)?)))
        .collect()
}

impl Core {
    pub(super) fn subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        mut info: FrameworkInfo,
        suppressed: &[RoleName],
    ) -> Result<(), Refusal> {
        let framework_id = match info.framework_id.clone() {
            Some(id) if self.removed_frameworks.contains(&id) => {
                return Err(Refusal::RemovedFramework(id));
            }
            Some(id) => id,
            None => turn.source.framework_id(),
        };
        info.framework_id = Some(framework_id.clone());
        let constraints = compile(&info)?;
        if let Some(old) = self
            .frameworks
            .get(&framework_id)
            .and_then(FrameworkEntry::conn)
        {
            self.framework_conns.remove(&old);
            turn.push(Effect::CloseFramework(old, Ending::Superseded));
        }
        self.withdraw_framework_offers(&framework_id);
        let stream_id = turn.source.stream_id();
        let link = FrameworkLink::Connected {
            conn,
            stream_id: stream_id.clone(),
        };
        let former = self
            .frameworks
            .get(&framework_id)
            .map(|entry| entry.record(&framework_id));
        let number = self.number_framework();
        let entry = self
            .frameworks
            .entry(framework_id.clone())
            .or_insert_with(|| FrameworkEntry::new(number, info.clone(), turn.now, link.clone()));
        (entry.info, entry.link, entry.constraints) = (info, link, constraints);
        entry.set_roles(suppressed);
        entry.roles.values_mut().for_each(|role| role.epoch += 1);
        let record = entry.record(&framework_id);
        let forgotten = former.is_some() && planted(Bug::ReturnNotStored);
        if former.as_ref() != Some(&record) && !forgotten {
            turn.push(Effect::Store(Change::PutFramework(record)));
        }
        self.framework_conns.insert(conn, framework_id.clone());
        self.view.touch_framework(&framework_id);
        self.counters.subscriptions += 1;
        self.note_framework(&framework_id, FrameworkChange::Subscribed);
        turn.push(Effect::ToFramework(
            conn,
            ToFramework::Subscribed {
                framework_id: framework_id.clone(),
                stream_id,
            },
        ));
        self.retell_operations(turn, &framework_id);
        self.reconsider_all();
        Ok(())
    }

    /// A number for a framework that was not met before.
    pub(super) fn number_framework(&mut self) -> u32 {
        self.n_frameworks += 1;
        self.n_frameworks
    }

    pub(super) fn framework_detached(&mut self, turn: &mut Turn<'_>, conn: ConnId) {
        let Some(framework_id) = self.framework_conns.remove(&conn) else {
            return;
        };
        self.withdraw_framework_offers(&framework_id);
        let Some(entry) = self.frameworks.get_mut(&framework_id) else {
            return;
        };
        let timeout = to_millis(entry.info.failover_timeout);
        if timeout == 0 {
            self.remove_framework(turn, &framework_id);
            return;
        }
        entry.link = FrameworkLink::Disconnected {
            expires_at_ms: turn.now.saturating_add(timeout),
        };
        turn.push(Effect::Store(Change::PutFramework(
            entry.record(&framework_id),
        )));
        self.note_framework(&framework_id, FrameworkChange::Disconnected);
        self.view.touch_framework(&framework_id);
    }

    pub(super) fn time_out_frameworks(&mut self, turn: &mut Turn<'_>) {
        let late: Vec<FrameworkId> = self
            .frameworks
            .iter()
            .filter(|(_, entry)| match entry.link {
                FrameworkLink::Disconnected { expires_at_ms } => turn.now >= expires_at_ms,
                FrameworkLink::Connected { .. } | FrameworkLink::Removed => false,
            })
            .map(|(id, _)| id.clone())
            .collect();
        for framework_id in late {
            self.remove_framework(turn, &framework_id);
        }
    }

    /// Kills its tasks and forgets it; what still runs stays booked until its agent says that it ended.
    pub(super) fn remove_framework(&mut self, turn: &mut Turn<'_>, framework_id: &FrameworkId) {
        self.withdraw_framework_offers(framework_id);
        let Some(entry) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        if let Some(conn) = entry.conn() {
            self.framework_conns.remove(&conn);
            turn.push(Effect::CloseFramework(conn, Ending::Removed));
        }
        entry.link = FrameworkLink::Removed;
        entry.early_kills.clear();
        turn.push(Effect::Store(Change::RemoveFramework {
            framework_id: framework_id.clone(),
            at_ms: turn.now,
        }));
        if let Some(oldest) = self
            .removed_frameworks
            .insert(framework_id.clone(), turn.now)
        {
            turn.push(Effect::Store(Change::ForgetRemovedFramework(oldest)));
        }
        for agent in self.agents.values() {
            if let Some(conn) = agent.conn() {
                turn.push(Effect::ToAgent(
                    conn,
                    ToAgent::ShutdownFramework(framework_id.clone()),
                ));
            }
        }
        let ended: Vec<TaskId> = entry
            .tasks
            .iter()
            .filter(|(_, task)| task.task.status.state.is_terminal())
            .map(|(id, _)| id.clone())
            .collect();
        for task_id in ended {
            self.forget_task(&(framework_id.clone(), task_id));
        }
        self.note_framework(framework_id, FrameworkChange::Removed);
        self.view.touch_framework(framework_id);
        self.drop_if_drained(framework_id);
    }

    /// The last trace of a removed framework goes with its last task.
    pub(super) fn drop_if_drained(&mut self, framework_id: &FrameworkId) {
        if self
            .frameworks
            .get(framework_id)
            .is_some_and(|entry| entry.is_removed() && entry.tasks.is_empty())
        {
            let number = self
                .frameworks
                .remove(framework_id)
                .map_or(0, |entry| entry.number);
            self.agents.values_mut().for_each(|agent| {
                agent.filters.forget(number);
                agent.lent.filters.forget(number);
            });
            self.view.touch_framework(framework_id);
        }
    }

    /// The entry for tasks of a framework that this master has not met: waited for, unless it was removed.
    pub(super) fn adopt_framework(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        role: &RoleName,
    ) {
        if self.frameworks.contains_key(framework_id) {
            return;
        }
        let info = FrameworkInfo {
            framework_id: Some(framework_id.clone()),
            name: "(not subscribed)".to_owned(),
            user: String::new(),
            roles: vec![role.clone()],
            failover_timeout: std::time::Duration::from_millis(self.settings.orphan_timeout_ms),
            hostname: String::new(),
            principal: String::new(),
            webui_url: String::new(),
            labels: BTreeMap::new(),
            offer_filters: BTreeMap::new(),
            capabilities: BTreeSet::new(),
        };
        let expires_at_ms = turn.now.saturating_add(self.settings.orphan_timeout_ms);
        let removed = self.removed_frameworks.contains(framework_id);
        let link = if removed {
            FrameworkLink::Removed
        } else {
            FrameworkLink::Disconnected { expires_at_ms }
        };
        let entry = FrameworkEntry::new(self.number_framework(), info, turn.now, link);
        if !removed {
            turn.push(Effect::Store(Change::PutFramework(
                entry.record(framework_id),
            )));
        }
        self.frameworks.insert(framework_id.clone(), entry);
        self.view.touch_framework(framework_id);
    }

    pub(super) fn check_caller(&self, caller: &Caller) -> Result<(), Refusal> {
        let id = &caller.framework_id;
        match self.frameworks.get(id).map(|entry| &entry.link) {
            Some(FrameworkLink::Connected { stream_id, .. }) if *stream_id == caller.stream_id => {
                Ok(())
            }
            Some(FrameworkLink::Connected { .. } | FrameworkLink::Disconnected { .. }) => {
                Err(Refusal::StaleStream {
                    framework_id: id.clone(),
                    stream_id: caller.stream_id.clone(),
                })
            }
            Some(FrameworkLink::Removed) => Err(Refusal::RemovedFramework(id.clone())),
            None if self.removed_frameworks.contains(id) => {
                Err(Refusal::RemovedFramework(id.clone()))
            }
            None => Err(Refusal::UnknownFramework(id.clone())),
        }
    }

    pub(super) fn revive(
        &mut self,
        framework_id: &FrameworkId,
        roles: &[RoleName],
    ) -> Result<(), Refusal> {
        self.set_interest(framework_id, roles, Interest::Wants)?;
        self.reconsider_all();
        Ok(())
    }

    pub(super) fn suppress(
        &mut self,
        framework_id: &FrameworkId,
        roles: &[RoleName],
    ) -> Result<(), Refusal> {
        self.set_interest(framework_id, roles, Interest::Suppressed)
    }

    fn set_interest(
        &mut self,
        framework_id: &FrameworkId,
        roles: &[RoleName],
        interest: Interest,
    ) -> Result<(), Refusal> {
        let Some(entry) = self.frameworks.get_mut(framework_id) else {
            return Ok(());
        };
        let roles = if roles.is_empty() {
            entry.info.roles.clone()
        } else {
            roles.to_vec()
        };
        if let Some(role) = roles.iter().find(|role| !entry.info.roles.contains(role)) {
            return Err(Refusal::NotInRole {
                framework_id: framework_id.clone(),
                role: role.clone(),
            });
        }
        for role in &roles {
            let state = entry.role_mut(role, interest);
            state.interest = interest;
            match interest {
                Interest::Wants => state.epoch += 1,
                Interest::Suppressed | Interest::Left => {}
            }
        }
        self.view.touch_framework(framework_id);
        Ok(())
    }

    pub(super) fn update_framework(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        mut info: FrameworkInfo,
        suppressed: &[RoleName],
    ) -> Result<(), Refusal> {
        let Some(entry) = self.frameworks.get_mut(framework_id) else {
            return Ok(());
        };
        let changed = if info
            .framework_id
            .as_ref()
            .is_some_and(|id| id != framework_id)
        {
            Some("framework_id")
        } else if info.principal != entry.info.principal {
            Some("principal")
        } else if info.user != entry.info.user {
            Some("user")
        } else {
            None
        };
        if let Some(field) = changed {
            return Err(Refusal::Immutable {
                framework_id: framework_id.clone(),
                field,
            });
        }
        info.framework_id = Some(framework_id.clone());
        entry.constraints = compile(&info)?;
        entry.info = info;
        entry.set_roles(suppressed);
        turn.push(Effect::Store(Change::PutFramework(
            entry.record(framework_id),
        )));
        let left: Vec<OfferId> = entry
            .offers
            .iter()
            .filter(|id| {
                self.offers.get(*id).is_some_and(|offer| {
                    let has_shared = offer.resources.volumes().any(|volume| volume.shared);
                    !entry.info.roles.contains(&offer.role)
                        || !entry.takes(offer.supply)
                        || (has_shared && !entry.shares())
                })
            })
            .cloned()
            .collect();
        for offer_id in left {
            self.rescind(turn, &offer_id);
        }
        self.view.touch_framework(framework_id);
        self.reconsider_all();
        Ok(())
    }

    pub(super) fn update_weights(&mut self, turn: &mut Turn<'_>, weights: Vec<(RoleName, u64)>) {
        for (role, weight_millis) in weights {
            if !planted(Bug::WeightNotStored) {
                turn.push(Effect::Store(Change::PutWeight {
                    role: role.clone(),
                    weight_millis,
                }));
            }
            self.note(Notice::Role(role.clone()));
            self.weights.insert(role, weight_millis);
        }
        self.reconsider_all();
    }

    /// Offers of a framework that does not listen any more: given to others, without a word.
    fn withdraw_framework_offers(&mut self, framework_id: &FrameworkId) {
        let offers: Vec<OfferId> = self
            .frameworks
            .get(framework_id)
            .map(|entry| entry.offers.iter().cloned().collect())
            .unwrap_or_default();
        for offer_id in offers {
            self.withdraw_offer(&offer_id);
        }
    }
}
