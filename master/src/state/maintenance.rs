//! Planned work on machines: windows, each with some agents and three moments.
//!
//! ```text
//! Scheduled ──starts──► Vacating ──drains──► Draining ──ends, or cancelled──► (gone)
//!                       nothing offered       each agent is drained,           what the window drained
//!                       inverse offers        as by an operator                is in service again
//! ```
//!
//! Durable is the wish and which agents this window drained ([`WindowRecord`]): an agent that an operator drained stays drained
//! when the window ends, and one that an operator activated in the middle leaves the window. Everything else follows from the
//! clock: [`Core::turn_windows`] compares what should be with what is, on each tick, and changes nothing when nothing is due.
//!
//! An inverse offer asks a framework to run its tasks elsewhere before the drain. Its answer is advice for the operator.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{AgentId, FrameworkId, OfferId, Unavailability, WindowName};

use super::{
    ConnId, Core, Effect, Notice, Refusal, ToAgent, ToFramework, Turn, agents::AgentEntry,
    frameworks::FrameworkEntry, notice::AgentChange,
};
use crate::planted::{Bug, planted};
use crate::store::{Change, DrainRecord, WindowRecord};

/// Windows at a time.
const MOST_WINDOWS: usize = 1000;
/// Of one window: its record stays below what any store takes.
const MOST_AGENTS: usize = 5000;

/// How far a window has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WindowStage {
    /// Its start is to come.
    Scheduled,
    /// Frameworks are asked to leave.
    Vacating,
    /// What is left is ended.
    Draining,
    /// It is over. Not seen by readers: the next tick removes it.
    Over,
}

impl WindowStage {
    /// By the clock.
    #[must_use]
    pub fn at(record: &WindowRecord, now: u64) -> Self {
        if record.ends_at_ms.is_some_and(|end| now >= end) {
            Self::Over
        } else if now >= record.drains_at_ms {
            Self::Draining
        } else if now >= record.starts_at_ms {
            Self::Vacating
        } else {
            Self::Scheduled
        }
    }
}

/// Why a window cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowProblem {
    /// Nothing to work on.
    #[error("it names no agent")]
    NoAgents,
    /// One after the other.
    #[error("its moments are not in order: `starts_at_ms`, `drains_at_ms`, `ends_at_ms`")]
    Order,
    /// Too late.
    #[error("it is over already")]
    Over,
    /// An agent is in one window at most.
    #[error("agent {agent_id} is in window {other} already; cancel that one first")]
    InAnother {
        /// Which.
        agent_id: AgentId,
        /// Which window.
        other: WindowName,
    },
    /// More than anybody plans.
    #[error("at most {most} {what} are taken")]
    TooMany {
        /// "windows" or "agents in one window".
        what: &'static str,
        /// The bound.
        most: usize,
    },
}

/// Asks a framework to run its tasks elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InverseOffer {
    /// For the answer.
    pub id: OfferId,
    /// Which agent.
    pub agent_id: AgentId,
    /// Its host's name.
    pub hostname: String,
    /// Why.
    pub window: WindowName,
    /// When what is left is ended, Unix milliseconds.
    pub drains_at_ms: u64,
    /// When the agent is back in service, Unix milliseconds; `None`: nobody knows yet.
    pub ends_at_ms: Option<u64>,
}

/// One that is outstanding.
#[derive(Debug)]
struct Asked {
    id: OfferId,
    /// Where it was told last.
    told_on: Option<ConnId>,
    accepted: Option<bool>,
}

/// One window.
#[derive(Debug)]
pub(super) struct WindowEntry {
    record: WindowRecord,
    /// The last that was acted on.
    stage: WindowStage,
    asked: BTreeMap<(FrameworkId, AgentId), Asked>,
}

/// One window for readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowView {
    /// As it was asked for.
    pub record: WindowRecord,
    /// How far it has come.
    pub stage: WindowStage,
    /// What frameworks said, as far as they were asked.
    pub answers: BTreeMap<(FrameworkId, AgentId), Option<bool>>,
}

/// All windows, and what follows from them for offers.
#[derive(Debug, Default)]
pub(super) struct Windows {
    by_name: BTreeMap<WindowName, WindowEntry>,
    /// Nothing of these is offered.
    closed: BTreeSet<AgentId>,
    /// When each agent that is in a window is out of service: what offers tell.
    planned: BTreeMap<AgentId, Unavailability>,
}

impl Windows {
    pub(super) fn restore(saved: Vec<WindowRecord>, now: u64) -> Self {
        let mut windows = Self::default();
        for record in saved {
            let stage = WindowStage::at(&record, now);
            if stage != WindowStage::Scheduled {
                windows.closed.extend(record.agents.iter().cloned());
            }
            windows.plan(&record);
            // What the stage asks for is done on the first tick.
            let entry = WindowEntry {
                stage: WindowStage::Scheduled,
                asked: BTreeMap::new(),
                record,
            };
            windows.by_name.insert(entry.record.name.clone(), entry);
        }
        windows
    }

    /// Whether nothing of that agent is offered.
    pub(super) fn is_closed(&self, agent_id: &AgentId) -> bool {
        !self.closed.is_empty() && self.closed.contains(agent_id) && !planted(Bug::OfferedInWindow)
    }

    /// From now on offers of its agents tell of it.
    fn plan(&mut self, record: &WindowRecord) {
        let planned = Unavailability {
            window: record.name.clone(),
            starts_at_ms: record.starts_at_ms,
            drains_at_ms: record.drains_at_ms,
            ends_at_ms: record.ends_at_ms,
        };
        let agents = record.agents.iter();
        self.planned
            .extend(agents.map(|id| (id.clone(), planned.clone())));
    }

    /// What an offer of that agent tells.
    pub(super) fn planned(&self, agent_id: &AgentId) -> Option<Box<Unavailability>> {
        self.planned.get(agent_id).cloned().map(Box::new)
    }

    /// The window that an agent is in.
    pub(super) fn of(&self, agent_id: &AgentId) -> Option<&WindowName> {
        let entry = self.by_name.values();
        let found = entry
            .map(|entry| &entry.record)
            .find(|record| record.agents.contains(agent_id));
        found.map(|record| &record.name)
    }

    pub(super) fn views(&self, now: u64) -> BTreeMap<WindowName, WindowView> {
        let view = |entry: &WindowEntry| WindowView {
            record: entry.record.clone(),
            stage: WindowStage::at(&entry.record, now).min(WindowStage::Draining),
            answers: (entry.asked.iter())
                .map(|(key, asked)| (key.clone(), asked.accepted))
                .collect(),
        };
        let views = self.by_name.iter();
        views
            .map(|(name, entry)| (name.clone(), view(entry)))
            .collect()
    }
}

impl Core {
    pub(super) fn schedule_window(
        &mut self,
        turn: &mut Turn<'_>,
        mut record: WindowRecord,
    ) -> Result<(), Refusal> {
        self.check_window(turn.now, &record)?;
        let stage = WindowStage::at(&record, turn.now);
        if let Some(former) = self.windows.by_name.remove(&record.name) {
            let mut drained = former.record.drained;
            // What stays drained needs no second word.
            if stage == WindowStage::Draining {
                let stays = |id: &AgentId| record.agents.contains(id);
                record.drained = drained.iter().filter(|id| stays(id)).cloned().collect();
                drained.retain(|id| !record.drained.contains(id));
            }
            self.withdraw_inverse_offers(turn, former.asked);
            self.reopen(turn, &former.record.agents, &drained);
        }
        turn.push(Effect::Store(Change::PutWindow {
            name: record.name.clone(),
            window: Some(Box::new(record.clone())),
        }));
        self.touch_window(&record);
        self.note(Notice::Window {
            name: record.name.clone(),
            stage: Some(stage),
        });
        self.windows.plan(&record);
        self.offer_anew(turn, &record.agents);
        let entry = WindowEntry {
            stage: WindowStage::Scheduled,
            asked: BTreeMap::new(),
            record,
        };
        self.windows
            .by_name
            .insert(entry.record.name.clone(), entry);
        self.turn_windows(turn);
        Ok(())
    }

    fn check_window(&self, now: u64, record: &WindowRecord) -> Result<(), Refusal> {
        let problem = |problem| Refusal::Window(record.name.clone(), problem);
        if record.agents.is_empty() {
            return Err(problem(WindowProblem::NoAgents));
        }
        if record.agents.len() > MOST_AGENTS {
            return Err(problem(WindowProblem::TooMany {
                what: "agents in one window",
                most: MOST_AGENTS,
            }));
        }
        let others = self
            .windows
            .by_name
            .values()
            .filter(|entry| entry.record.name != record.name);
        if others.clone().count() >= MOST_WINDOWS {
            return Err(problem(WindowProblem::TooMany {
                what: "windows",
                most: MOST_WINDOWS,
            }));
        }
        let ends = record.ends_at_ms.unwrap_or(u64::MAX);
        if record.starts_at_ms > record.drains_at_ms || record.drains_at_ms >= ends {
            return Err(problem(WindowProblem::Order));
        }
        if WindowStage::at(record, now) == WindowStage::Over {
            return Err(problem(WindowProblem::Over));
        }
        let known = |id: &&AgentId| self.agents.contains_key(*id);
        if let Some(unknown) = record.agents.iter().find(|id| !known(id)) {
            return Err(Refusal::UnknownAgent(unknown.clone()));
        }
        for other in others {
            if let Some(agent_id) = record.agents.intersection(&other.record.agents).next() {
                return Err(problem(WindowProblem::InAnother {
                    agent_id: agent_id.clone(),
                    other: other.record.name.clone(),
                }));
            }
        }
        Ok(())
    }

    pub(super) fn cancel_window(
        &mut self,
        turn: &mut Turn<'_>,
        name: &WindowName,
    ) -> Result<(), Refusal> {
        if self.windows.by_name.contains_key(name) {
            self.end_window(turn, name);
            Ok(())
        } else {
            Err(Refusal::UnknownWindow(name.clone()))
        }
    }

    /// What it drained is in service again, and it is no more.
    fn end_window(&mut self, turn: &mut Turn<'_>, name: &WindowName) {
        let Some(entry) = self.windows.by_name.remove(name) else {
            return;
        };
        self.withdraw_inverse_offers(turn, entry.asked);
        self.reopen(turn, &entry.record.agents, &entry.record.drained);
        self.offer_anew(turn, &entry.record.agents);
        turn.push(Effect::Store(Change::PutWindow {
            name: name.clone(),
            window: None,
        }));
        self.touch_window(&entry.record);
        self.note(Notice::Window {
            name: name.clone(),
            stage: None,
        });
    }

    /// What is offered of these tells of a plan that is none any more, or not of the one that is.
    fn offer_anew(&mut self, turn: &mut Turn<'_>, agents: &BTreeSet<AgentId>) {
        for id in agents {
            self.rescind_agent_offers(turn, id);
            self.reconsider(id);
        }
    }

    /// These are in no window any more; those that a window drained are in service again.
    fn reopen(
        &mut self,
        turn: &mut Turn<'_>,
        agents: &BTreeSet<AgentId>,
        drained: &BTreeSet<AgentId>,
    ) {
        for id in agents {
            self.windows.closed.remove(id);
            self.windows.planned.remove(id);
            if drained.contains(id) {
                self.end_drain(turn, id);
            }
            self.reconsider(id);
            self.view.touch_agent(id);
        }
    }

    /// Does what is due. Nothing when nothing is.
    pub(super) fn turn_windows(&mut self, turn: &mut Turn<'_>) {
        let names: Vec<WindowName> = self.windows.by_name.keys().cloned().collect();
        for name in names {
            let Some(entry) = self.windows.by_name.get_mut(&name) else {
                continue;
            };
            let stage = WindowStage::at(&entry.record, turn.now);
            let entered = entry.stage != stage;
            entry.stage = stage;
            let agents: Vec<AgentId> = entry.record.agents.iter().cloned().collect();
            if entered && stage != WindowStage::Over {
                self.note(Notice::Window {
                    name: name.clone(),
                    stage: Some(stage),
                });
                self.view.touch_windows();
            }
            match stage {
                WindowStage::Scheduled => {}
                WindowStage::Vacating => {
                    if entered {
                        self.close_agents(turn, &agents);
                    }
                    self.ask_to_leave(turn, &name, &agents);
                }
                WindowStage::Draining => {
                    if entered {
                        self.close_agents(turn, &agents);
                        self.take_asked(turn, &name);
                    }
                    self.drain_for_window(turn, &name, &agents);
                }
                WindowStage::Over => self.end_window(turn, &name),
            }
        }
    }

    fn close_agents(&mut self, turn: &mut Turn<'_>, agents: &[AgentId]) {
        for id in agents {
            self.windows.closed.insert(id.clone());
            self.rescind_agent_offers(turn, id);
            self.view.touch_agent(id);
        }
    }

    /// The drain has begun: nobody needs to be asked any more.
    fn take_asked(&mut self, turn: &mut Turn<'_>, name: &WindowName) {
        let entry = self.windows.by_name.get_mut(name);
        let asked = entry.map(|entry| std::mem::take(&mut entry.asked));
        self.withdraw_inverse_offers(turn, asked.unwrap_or_default());
    }

    fn drain_for_window(&mut self, turn: &mut Turn<'_>, name: &WindowName, agents: &[AgentId]) {
        let mut changed = false;
        for id in agents {
            let Some(entry) = self.windows.by_name.get_mut(name) else {
                return;
            };
            if planted(Bug::WindowNotDrained) {
                return;
            }
            let in_service = (self.agents.get(id)).is_some_and(|agent| agent.drain.is_none());
            if !in_service || !entry.record.drained.insert(id.clone()) {
                continue;
            }
            changed = true;
            let drain = DrainRecord {
                since_ms: turn.now,
                deadline_at_ms: None,
                mark_gone: false,
            };
            self.set_drain(turn, id, Some(drain));
            self.rescind_agent_offers(turn, id);
            self.tell_drain(turn, id);
        }
        if changed {
            self.store_window(turn, name);
        }
    }

    fn store_window(&mut self, turn: &mut Turn<'_>, name: &WindowName) {
        if planted(Bug::WindowNotStored) {
            return;
        }
        if let Some(entry) = self.windows.by_name.get(name) {
            turn.push(Effect::Store(Change::PutWindow {
                name: name.clone(),
                window: Some(Box::new(entry.record.clone())),
            }));
            self.view.touch_windows();
        }
    }

    /// Inverse offers for who has tasks there, once on each subscription; none for who has none any more.
    fn ask_to_leave(&mut self, turn: &mut Turn<'_>, name: &WindowName, agents: &[AgentId]) {
        let mut wanted: BTreeSet<(FrameworkId, AgentId)> = BTreeSet::new();
        for id in agents {
            let holders = self
                .agents
                .get(id)
                .into_iter()
                .flat_map(|entry| &entry.tasks);
            for (framework_id, task_id) in holders {
                let framework = self.frameworks.get(framework_id);
                let runs = framework.is_some_and(|framework| {
                    let task = framework.tasks.get(task_id);
                    let ended =
                        |entry: &super::tasks::TaskEntry| entry.task.status.state.is_terminal();
                    !framework.is_removed() && task.is_some_and(|entry| !ended(entry))
                });
                if runs {
                    wanted.insert((framework_id.clone(), id.clone()));
                }
            }
        }
        let Some(entry) = self.windows.by_name.get_mut(name) else {
            return;
        };
        let (mut asked, record) = (std::mem::take(&mut entry.asked), entry.record.clone());
        let over: Vec<_> = asked
            .keys()
            .filter(|key| !wanted.contains(*key))
            .cloned()
            .collect();
        let over: BTreeMap<_, _> = over
            .into_iter()
            .filter_map(|key| Some((key.clone(), asked.remove(&key)?)))
            .collect();
        let mut changed = !over.is_empty();
        self.withdraw_inverse_offers(turn, over);
        let mut told: BTreeMap<ConnId, Vec<InverseOffer>> = BTreeMap::new();
        for key in wanted {
            let (framework_id, agent_id) = key.clone();
            let one = asked.entry(key).or_insert_with(|| {
                changed = true;
                Asked {
                    id: turn.source.offer_id(),
                    told_on: None,
                    accepted: None,
                }
            });
            let conn = (self.frameworks.get(&framework_id)).and_then(FrameworkEntry::conn);
            let Some(conn) = conn.filter(|conn| one.told_on != Some(*conn)) else {
                continue;
            };
            one.told_on = Some(conn);
            let agent = self.agents.get(&agent_id);
            told.entry(conn).or_default().push(InverseOffer {
                id: one.id.clone(),
                hostname: agent.map_or_else(String::new, |agent| agent.info.hostname.clone()),
                agent_id,
                window: name.clone(),
                drains_at_ms: record.drains_at_ms,
                ends_at_ms: record.ends_at_ms,
            });
        }
        for (conn, offers) in told {
            turn.push(Effect::ToFramework(
                conn,
                ToFramework::InverseOffers(offers),
            ));
        }
        if let Some(entry) = self.windows.by_name.get_mut(name) {
            entry.asked = asked;
        }
        if changed {
            self.view.touch_windows();
        }
    }

    fn withdraw_inverse_offers(
        &self,
        turn: &mut Turn<'_>,
        asked: BTreeMap<(FrameworkId, AgentId), Asked>,
    ) {
        for ((framework_id, _), one) in asked {
            let conn = (self.frameworks.get(&framework_id)).and_then(FrameworkEntry::conn);
            if let Some(conn) = conn.filter(|conn| one.told_on == Some(*conn)) {
                let event = ToFramework::RescindInverseOffer(one.id);
                turn.push(Effect::ToFramework(conn, event));
            }
        }
    }

    /// Notes what a framework says. Of offers that are not outstanding any more: nothing.
    pub(super) fn answer_inverse_offers(
        &mut self,
        framework_id: &FrameworkId,
        ids: &[OfferId],
        accept: bool,
    ) {
        for entry in self.windows.by_name.values_mut() {
            for ((whose, _), asked) in &mut entry.asked {
                if whose == framework_id && ids.contains(&asked.id) {
                    asked.accepted = Some(accept);
                    self.view.touch_windows();
                }
            }
        }
    }

    /// An operator put it into service, or it is no more: its window has no say any more.
    pub(super) fn leave_window(&mut self, turn: &mut Turn<'_>, agent_id: &AgentId) {
        let Some(name) = self.windows.of(agent_id).cloned() else {
            return;
        };
        self.windows.closed.remove(agent_id);
        self.windows.planned.remove(agent_id);
        let Some(entry) = self.windows.by_name.get_mut(&name) else {
            return;
        };
        entry.record.agents.remove(agent_id);
        entry.record.drained.remove(agent_id);
        let keys = entry.asked.keys().filter(|(_, id)| id == agent_id);
        let keys: Vec<(FrameworkId, AgentId)> = keys.cloned().collect();
        let gone = keys
            .into_iter()
            .filter_map(|key| Some((key.clone(), entry.asked.remove(&key)?)))
            .collect();
        let empty = entry.record.agents.is_empty();
        self.withdraw_inverse_offers(turn, gone);
        if empty {
            self.end_window(turn, &name);
        } else {
            self.store_window(turn, &name);
        }
        self.offer_anew(turn, &BTreeSet::from([agent_id.clone()]));
    }

    /// An operator drains it: it stays drained when its window ends.
    pub(super) fn claim_drain(&mut self, turn: &mut Turn<'_>, agent_id: &AgentId) {
        let Some(name) = self.windows.of(agent_id).cloned() else {
            return;
        };
        let entry = self.windows.by_name.get_mut(&name);
        if entry.is_some_and(|entry| entry.record.drained.remove(agent_id)) {
            self.store_window(turn, &name);
        }
    }

    fn touch_window(&mut self, record: &WindowRecord) {
        self.view.touch_windows();
        for id in &record.agents {
            self.view.touch_agent(id);
        }
    }

    /// The agent is in service again, whoever took it out, unless it is deactivated.
    pub(super) fn end_drain(&mut self, turn: &mut Turn<'_>, agent_id: &AgentId) {
        let Some(entry) = self.agents.get(agent_id) else {
            return;
        };
        let conn = AgentEntry::conn(entry);
        if entry.drain.is_some() {
            self.set_drain(turn, agent_id, None);
            if let Some(conn) = conn {
                turn.push(Effect::ToAgent(conn, ToAgent::Activate));
            }
            if self
                .agents
                .get(agent_id)
                .is_some_and(AgentEntry::is_in_service)
            {
                self.note_agent(agent_id, AgentChange::Activated);
            }
            self.reconsider(agent_id);
        }
    }
}

#[cfg(test)]
impl Core {
    /// What the simulation holds against the world: what must not be offered, and whether a window drained what it should.
    pub(crate) fn audit_windows(&self, now: u64) -> Result<(), String> {
        for offer in self.offers.values() {
            if self.windows.closed.contains(&offer.agent_id) {
                return Err(format!("agent {} is offered in its window", offer.agent_id));
            }
        }
        let agents = self.windows.by_name.values();
        let n_agents: usize = agents.map(|entry| entry.record.agents.len()).sum();
        if self.windows.planned.len() != n_agents {
            return Err("offers tell of windows that are none".to_owned());
        }
        for entry in self.windows.by_name.values() {
            let stage = WindowStage::at(&entry.record, now);
            if entry.stage != stage {
                // The next tick comes.
                continue;
            }
            for id in &entry.record.agents {
                let Some(agent) = self.agents.get(id) else {
                    return Err(format!("agent {id} is in a window and does not exist"));
                };
                if (stage == WindowStage::Draining) && agent.drain.is_none() {
                    return Err(format!("agent {id} is not drained in its window"));
                }
                if self.windows.planned.get(id).map(|planned| &planned.window)
                    != Some(&entry.record.name)
                {
                    return Err(format!("offers of agent {id} do not tell of its window"));
                }
                if self.windows.closed.contains(id) != (stage != WindowStage::Scheduled) {
                    return Err(format!("agent {id} is closed or not against its window"));
                }
            }
        }
        Ok(())
    }

    /// As they would be stored.
    pub(crate) fn window_records(&self) -> Vec<WindowRecord> {
        let entries = self.windows.by_name.values();
        entries.map(|entry| entry.record.clone()).collect()
    }
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;
