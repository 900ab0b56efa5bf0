//! The world: one core, some machines and authors, their connections, a clock, and what goes wrong.
//!
//! Here are its parts and its life; `steps` is what happens in it, `wires` are the connections, `rules` what must hold.

mod rules;
mod steps;
mod wires;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mezzo_api::model::{AgentId, FrameworkId, OfferId, OperationId, StreamId, TaskState};

use super::{Counts, Dice, author::Author, machine::Machine};
use crate::{
    allocator::Minimum,
    state::{
        AgentChange, ConnId, Core, Effect, Event, Holder, LossLimit, Notice, Refusal, Settings,
        Source, ToAgent,
    },
    store::memory::MemoryStore,
};

use wires::Wire;

/// Ids in order, chance from the dice.
#[derive(Debug)]
struct Ids {
    n: u64,
    dice: Dice,
}

impl Ids {
    fn next<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self, kind: &str) -> T {
        self.n += 1;
        format!("{kind}{:06}", self.n).parse().unwrap()
    }
}

impl Source for Ids {
    fn agent_id(&mut self) -> AgentId {
        self.next("agent-")
    }
    fn framework_id(&mut self) -> FrameworkId {
        self.next("framework-")
    }
    fn offer_id(&mut self) -> OfferId {
        self.next("offer-")
    }
    fn stream_id(&mut self) -> StreamId {
        self.next("stream-")
    }
    fn operation_id(&mut self) -> OperationId {
        self.next("operation-")
    }
    fn random(&mut self) -> u64 {
        self.dice.roll()
    }
}

pub(super) struct World {
    core: Core,
    store: MemoryStore,
    ids: Ids,
    dice: Dice,
    now: u64,
    n_conns: u64,
    wires: BTreeMap<ConnId, Wire>,
    machines: Vec<Machine>,
    authors: Vec<Author>,
    launched: BTreeSet<Holder>,
    counts: Counts,
    /// What a watcher knows of tasks, from notices alone.
    replica: BTreeMap<Holder, TaskState>,
    /// When agents were given up, the newest last.
    losses: VecDeque<u64>,
    loss_limit: Option<LossLimit>,
    /// Of a replay.
    log: Option<VecDeque<String>>,
}

fn settings(loss_limit: Option<LossLimit>) -> Settings {
    Settings {
        agent_timeout_ms: 3000,
        recovery_timeout_ms: 4000,
        offer_timeout_ms: Some(20_000),
        orphan_timeout_ms: 3_600_000,
        task_history: 50,
        minimum: Minimum::default(),
        loss_limit,
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(1));
        let store = MemoryStore::default();
        let loss_limit = LossLimit {
            count: 1,
            per_ms: 2500,
        };
        let loss_limit = (seed % 2 == 1).then_some(loss_limit);
        Self {
            core: Core::restore(settings(loss_limit), store.saved(), 1_000_000),
            store,
            ids: Ids {
                n: 0,
                dice: Dice(dice.roll()),
            },
            now: 1_000_000,
            n_conns: 0,
            wires: BTreeMap::new(),
            machines: (0..1 + dice.below(4))
                .map(|name| Machine::new(name, &mut dice))
                .collect(),
            authors: (0..1 + dice.below(3))
                .map(|name| Author::new(name, &mut dice))
                .collect(),
            launched: BTreeSet::new(),
            counts: Counts::default(),
            replica: BTreeMap::new(),
            losses: VecDeque::new(),
            loss_limit,
            log: None,
            dice,
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let sharing = self.machines.iter().map(|machine| machine.n_sharing).sum();
        Counts {
            launched: self.launched.len(),
            sharing,
            ..self.counts
        }
    }

    /// Lives it all and says what broke; with the last events when it is a replay.
    pub(super) fn run(&mut self) -> Result<(), String> {
        self.live(1000)
            .and_then(|()| self.heal())
            .map_err(|broken| {
                let log = self.log.iter().flatten();
                log.fold(broken, |text, line| text + "\n" + line)
            })
    }

    /// Remembers events from now on.
    pub(super) fn record(mut self) -> Self {
        self.log = Some(VecDeque::new());
        self
    }

    /// A life with faults.
    fn live(&mut self, n_steps: usize) -> Result<(), String> {
        for _ in 0..n_steps {
            self.step()?;
            self.check()?;
        }
        Ok(())
    }

    /// No more faults, no more launches: everything must come to rest.
    fn heal(&mut self) -> Result<(), String> {
        self.authors
            .iter_mut()
            .for_each(|author| author.quiet = true);
        for round in 0..60 {
            self.now += 1000;
            self.feed(Event::Tick)?;
            self.connect_everybody()?;
            self.deliver_all()?;
            for at in 0..self.authors.len() {
                let unfinished = self.authors[at].unfinished();
                for (task_id, agent_id) in unfinished.clone() {
                    self.call(
                        at,
                        crate::state::Call::Kill {
                            task_id,
                            agent_id,
                            grace: None,
                        },
                    )?;
                }
                if !unfinished.is_empty() {
                    self.call(at, crate::state::Call::Reconcile(unfinished))?;
                }
                let asked = self.authors[at].unsettled();
                if !asked.is_empty() {
                    self.call(at, crate::state::Call::ReconcileOperations(asked))?;
                }
            }
            for at in 0..self.machines.len() {
                let statuses = self.machines[at].repeat();
                self.report(at, statuses);
            }
            self.deliver_all()?;
            self.check()?;
            if round > 10 && self.rest().is_ok() {
                return Ok(());
            }
        }
        self.rest()
    }

    fn restart_master(&mut self) -> Result<(), String> {
        self.note(|| "the master restarts".to_owned());
        self.wires.clear();
        for machine in &mut self.machines {
            (machine.conn, machine.registered) = (None, false);
        }
        self.authors.iter_mut().for_each(Author::disconnect);
        self.now += self.dice.roll() % 10_000;
        self.core.audit_store(&self.store.saved())?;
        self.replica.clear();
        self.losses.clear();
        self.core = Core::restore(settings(self.loss_limit), self.store.saved(), self.now);
        Ok(())
    }

    fn feed(&mut self, event: Event) -> Result<(), String> {
        let now = self.now;
        self.note(|| format!("{now} {event:?}"));
        let subscriber = if let Event::Subscribe { conn, .. } = &event {
            Some(*conn)
        } else {
            None
        };
        let is_pass = matches!(event, Event::Allocate(_));
        let held = if is_pass {
            self.core.held_against_limits()
        } else {
            Vec::new()
        };
        let effects = self.core.handle(event, self.now, &mut self.ids);
        for (before, (what, limit, after)) in held.iter().zip(self.core.held_against_limits()) {
            if after > before.2 && after > limit {
                return Err(format!(
                    "a pass brought {what} to {after}, the limit is {limit}"
                ));
            }
        }
        for effect in effects {
            match effect {
                Effect::Store(change) => self.store.write(change),
                Effect::ToAgent(conn, message) => {
                    let launched = match &message {
                        ToAgent::Launch(task) => std::slice::from_ref(task),
                        ToAgent::LaunchGroup(tasks) => tasks.as_slice(),
                        ToAgent::Registered(_)
                        | ToAgent::Refused(_)
                        | ToAgent::Kill { .. }
                        | ToAgent::Acknowledge { .. }
                        | ToAgent::TaskMessage { .. }
                        | ToAgent::Drain { .. }
                        | ToAgent::Operation(_)
                        | ToAgent::AcknowledgeOperation { .. }
                        | ToAgent::Activate
                        | ToAgent::ShutdownFramework(_) => &[],
                    };
                    for task in launched {
                        let holder = (task.framework_id.clone(), task.info.task_id.clone());
                        self.counts.borrowed += usize::from(task.info.revocable);
                        if !self.launched.insert(holder.clone()) {
                            return Err(format!("{holder:?} is launched twice"));
                        }
                    }
                    // A broken wire swallows it.
                    let alive = self
                        .machines
                        .iter()
                        .any(|machine| machine.conn == Some(conn));
                    if let Some(wire) = self.wires.get_mut(&conn).filter(|_| alive) {
                        wire.to_agent.push_back(message);
                    }
                }
                Effect::ToFramework(conn, event) => {
                    let alive = self.authors.iter().any(|author| author.conn == Some(conn));
                    if let Some(wire) = self.wires.get_mut(&conn).filter(|_| alive) {
                        wire.to_framework.push_back(event);
                    }
                }
                Effect::CloseAgent(conn, _) | Effect::CloseFramework(conn, _) => {
                    if let Some(wire) = self.wires.get_mut(&conn) {
                        wire.to_master.clear();
                        wire.closed_by_master = true;
                    }
                }
                Effect::Reply(Err(Refusal::RemovedFramework(id))) => {
                    for author in self
                        .authors
                        .iter_mut()
                        .filter(|author| author.id.as_ref() == Some(&id))
                    {
                        author.gone = true;
                        author.disconnect();
                    }
                    if let Some(conn) = subscriber {
                        self.wires.remove(&conn);
                    }
                }
                Effect::Note(notice) => self.hear(notice)?,
                Effect::Reply(_) => {}
            }
        }
        Ok(())
    }

    /// What a watcher makes of it.
    fn hear(&mut self, notice: Notice) -> Result<(), String> {
        match notice {
            Notice::Task {
                framework_id,
                task_id,
                state,
                ..
            } => {
                self.replica.insert((framework_id, task_id), state);
            }
            Notice::Agent {
                change: AgentChange::Unreachable,
                ..
            } => {
                self.losses.push_back(self.now);
                if let Some(limit) = self.loss_limit {
                    let within = |at: &&u64| self.now < **at + limit.per_ms;
                    let n = self.losses.iter().filter(within).count();
                    if n > limit.count {
                        return Err(format!(
                            "{n} agents are given up within {} ms",
                            limit.per_ms
                        ));
                    }
                }
            }
            Notice::Agent { .. }
            | Notice::Framework { .. }
            | Notice::Role(_)
            | Notice::Window { .. } => {}
        }
        Ok(())
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            if log.len() == 400 {
                log.pop_front();
            }
            log.push_back(line());
        }
    }
}
