//! The world: one core, some machines and authors, their connections, a clock, and what goes wrong.
//!
//! A connection delivers in order, in both directions, until it breaks; what was under way then is lost. The two ends
//! learn of the break at different times.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mezzo_api::model::{AgentId, FrameworkId, OfferId, OperationId, Scalar, StreamId};

use super::{Dice, any_change, author::Author, machine::Machine};
use crate::{
    allocator::{Minimum, Quota},
    state::{
        ConnId, Core, Effect, Event, Holder, Operation, Pass, Refusal, Settings, Source, ToAgent,
        ToFramework,
    },
    store::memory::MemoryStore,
};

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

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Wire {
    to_master: VecDeque<Event>,
    to_agent: VecDeque<ToAgent>,
    to_framework: VecDeque<ToFramework>,
    closed_by_master: bool,
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
    n_borrowed: usize,
    /// Of a replay.
    log: Option<VecDeque<String>>,
}

fn settings() -> Settings {
    Settings {
        agent_timeout_ms: 3000,
        recovery_timeout_ms: 4000,
        offer_timeout_ms: Some(20_000),
        orphan_timeout_ms: 3_600_000,
        task_history: 50,
        minimum: Minimum {
            cpus: "0.01".parse().unwrap(),
            mem: "32".parse().unwrap(),
        },
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(1));
        let store = MemoryStore::default();
        Self {
            core: Core::restore(settings(), store.saved(), 1_000_000),
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
            n_borrowed: 0,
            log: None,
            dice,
        }
    }

    /// Of them, on what machines lend.
    pub(super) fn n_borrowed(&self) -> usize {
        self.n_borrowed
    }

    pub(super) fn n_launched(&self) -> usize {
        self.launched.len()
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

    fn rest(&self) -> Result<(), String> {
        for author in self.authors.iter().filter(|author| !author.gone) {
            if let Some((task_id, _)) = author.unfinished().first() {
                return Err(format!("author {} still waits for {task_id}", author.name));
            }
            if let Some((id, _)) = author.unsettled().first() {
                return Err(format!(
                    "author {} still waits for operation {id}",
                    author.name
                ));
            }
        }
        for machine in self.machines.iter().filter(|machine| !machine.refused) {
            if let Some(((framework_id, task_id), process)) = machine.processes.iter().next() {
                return Err(format!(
                    "machine {} still has {task_id} of {framework_id}: {process:?}",
                    machine.name
                ));
            }
        }
        let ledgers: BTreeMap<_, _> = self.core.ledgers().collect();
        for machine in self.machines.iter().filter(|machine| !machine.refused) {
            let Some(ledger) = machine.id.as_ref().and_then(|id| ledgers.get(id)) else {
                continue;
            };
            if *ledger.total() != machine.pools {
                return Err(format!(
                    "machine {} has {}, the master believes {}",
                    machine.name,
                    machine.pools,
                    ledger.total()
                ));
            }
        }
        for (id, ledger) in self.core.ledgers().chain(self.core.lent_ledgers()) {
            if !ledger.allocated().is_empty() {
                return Err(format!(
                    "agent {id} still has {} booked",
                    ledger.allocated()
                ));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        self.core.audit()?;
        let ledgers: BTreeMap<_, _> = self.core.ledgers().collect();
        let lent: BTreeMap<_, _> = self.core.lent_ledgers().collect();
        for machine in self
            .machines
            .iter()
            .filter(|machine| machine.registered && !machine.refused)
        {
            let id = machine.id.as_ref();
            let Some((ledger, lent)) = id.and_then(|id| ledgers.get(id).zip(lent.get(id))) else {
                continue;
            };
            for (holder, info) in machine.running() {
                let ledger = if info.revocable { lent } else { ledger };
                if !ledger.holds(holder) {
                    return Err(format!(
                        "machine {} runs {holder:?}, the master books nothing",
                        machine.name
                    ));
                }
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let machine = self.dice.below(self.machines.len());
        let author = self.dice.below(self.authors.len());
        match self.dice.below(100) {
            0..56 => {
                let conns: Vec<ConnId> = self.wires.keys().copied().collect();
                match conns.get(self.dice.below(conns.len())) {
                    Some(conn) => self.deliver(*conn),
                    None => Ok(()),
                }
            }
            56..61 => {
                let status = self.machines[machine].progress(&mut self.dice, self.now);
                self.report(machine, status.into_iter().collect());
                Ok(())
            }
            61..63 => {
                let statuses = self.machines[machine].repeat();
                self.report(machine, statuses);
                Ok(())
            }
            63..77 => match self.authors[author].act(&mut self.dice) {
                Some(call) => self.call(author, call),
                None => Ok(()),
            },
            77..80 => self.connect_machine(machine),
            80..83 => self.connect_author(author),
            83 => {
                self.break_machine(machine);
                // Often back before the master has heard of the break, or even of the former Register.
                if self.dice.one_in(2) {
                    self.connect_machine(machine)
                } else {
                    Ok(())
                }
            }
            84 if self.dice.one_in(3) => {
                self.break_machine(machine);
                self.machines[machine].reboot(self.now);
                Ok(())
            }
            85 if self.dice.one_in(2) => {
                self.break_author(author);
                Ok(())
            }
            86 if self.dice.one_in(6) => {
                self.break_machine(machine);
                self.machines[machine].lose_disk();
                self.note(|| format!("machine {machine} lost its disk, but not its id"));
                Ok(())
            }
            87 if self.dice.one_in(4) => self.restart_master(),
            88 if self.dice.one_in(6) => match self.machines[machine].id.clone() {
                Some(id) => self.feed(Event::Operate(Operation::RemoveAgent(id))),
                None => Ok(()),
            },
            89 if self.dice.one_in(2) => match self.machines[machine].id.clone() {
                Some(id) => {
                    let operation = if self.dice.one_in(3) {
                        Operation::DrainAgent {
                            agent_id: id,
                            deadline: None,
                            mark_gone: self.dice.one_in(10),
                        }
                    } else {
                        Operation::ActivateAgent(id)
                    };
                    self.feed(Event::Operate(operation))
                }
                None => Ok(()),
            },
            89 if self.dice.one_in(2) => match self.machines[machine].id.clone() {
                Some(agent_id) => {
                    let id = self.ids.operation_id();
                    let change =
                        Box::new(any_change(&self.machines[machine].pools, &mut self.dice));
                    self.feed(Event::Operate(Operation::ChangePools {
                        agent_id,
                        id,
                        change,
                    }))
                }
                None => Ok(()),
            },
            89 => {
                let weights = vec![("a".parse().unwrap(), 1 + self.dice.roll() % 5000)];
                self.feed(Event::Operate(Operation::UpdateWeights(weights)))
            }
            90 if self.dice.one_in(2) => {
                let operation = self.any_quotas();
                self.feed(Event::Operate(operation))
            }
            91 => {
                self.lend(machine);
                Ok(())
            }
            90..93 => {
                self.now += self.dice.roll() % 2000;
                self.feed(Event::Tick)
            }
            93..96 => self.feed(Event::Allocate(Pass::All)),
            _ => self.feed(Event::Allocate(Pass::Changed)),
        }
    }

    /// The machine says how much it lends.
    fn lend(&mut self, at: usize) {
        let (tenths, mem) = (self.dice.below(30), self.dice.below(1024));
        let total = format!("cpus:{}.{};mem:{mem}", tenths / 10, tenths % 10);
        let machine = &self.machines[at];
        let Some(conn) = machine.conn.filter(|_| machine.registered) else {
            return;
        };
        if let Some(wire) = self.wires.get_mut(&conn) {
            let total = total.parse().unwrap();
            wire.to_master.push_back(Event::AgentSlack { conn, total });
        }
    }

    /// Sets or removes the quotas of one or two roles; often such as cannot be.
    fn any_quotas(&mut self) -> Operation {
        let dice = &mut self.dice;
        let mut amounts = |most: usize| -> BTreeMap<String, Scalar> {
            if dice.one_in(2) {
                return BTreeMap::new();
            }
            let tenths = i64::try_from(dice.below(most)).unwrap_or(0);
            [("cpus".to_owned(), Scalar::from_millis(tenths * 100))].into()
        };
        let quotas = ["a", "b", "b/c"].map(|role| {
            let quota = Quota {
                guarantees: amounts(40),
                limits: amounts(60),
            };
            (role.parse().unwrap(), quota)
        });
        let first = self.dice.below(3);
        Operation::UpdateQuotas {
            quotas: quotas[first..].to_vec(),
            force: self.dice.one_in(2),
        }
    }

    fn deliver_all(&mut self) -> Result<(), String> {
        for _ in 0..100_000 {
            let busy = self.wires.iter().find(|(_, wire)| {
                !(wire.to_master.is_empty()
                    && wire.to_agent.is_empty()
                    && wire.to_framework.is_empty())
                    || wire.closed_by_master
            });
            let Some((conn, _)) = busy else {
                let mut idle = true;
                for at in 0..self.authors.len() {
                    while let Some(call) = self.authors[at].next_acknowledgement() {
                        idle = false;
                        self.call(at, call)?;
                    }
                }
                if idle {
                    return Ok(());
                }
                continue;
            };
            self.deliver(*conn)?;
        }
        Err("messages beget messages without end".to_owned())
    }

    fn deliver(&mut self, conn: ConnId) -> Result<(), String> {
        let Some(wire) = self.wires.get_mut(&conn) else {
            return Ok(());
        };
        if let Some(event) = wire.to_master.pop_front() {
            let over = matches!(
                event,
                Event::AgentDetached { .. } | Event::FrameworkDetached { .. }
            );
            self.feed(event)?;
            if over {
                self.wires.remove(&conn);
            }
        } else if let Some(message) = wire.to_agent.pop_front() {
            if let Some(at) = self
                .machines
                .iter()
                .position(|machine| machine.conn == Some(conn))
            {
                self.note(|| format!("machine {at} hears {message:?}"));
                let hello = matches!(message, ToAgent::Registered(_));
                let statuses = self.machines[at].hear(message, self.now);
                let answers = std::mem::take(&mut self.machines[at].answers);
                if let Some(wire) = self.wires.get_mut(&conn) {
                    wire.to_master
                        .extend(
                            answers
                                .into_iter()
                                .map(|(status, pools)| Event::AgentPools {
                                    conn,
                                    status,
                                    reserved: pools.pool_list(),
                                    volumes: pools.volumes().cloned().collect(),
                                }),
                        );
                }
                if let Some(wire) = self.wires.get_mut(&conn).filter(|_| hello) {
                    wire.to_master.push_back(Event::AgentHeard { conn });
                }
                self.report(at, statuses);
                if hello && self.dice.one_in(2) {
                    self.lend(at);
                }
            }
        } else if let Some(event) = wire.to_framework.pop_front() {
            if let Some(at) = self
                .authors
                .iter()
                .position(|author| author.conn == Some(conn))
            {
                self.note(|| format!("author {at} hears {event:?}"));
                self.authors[at].hear(event)?;
            }
        } else if wire.closed_by_master {
            self.wires.remove(&conn);
            for machine in self
                .machines
                .iter_mut()
                .filter(|machine| machine.conn == Some(conn))
            {
                (machine.conn, machine.registered) = (None, false);
            }
            for author in self
                .authors
                .iter_mut()
                .filter(|author| author.conn == Some(conn))
            {
                author.disconnect();
            }
        }
        Ok(())
    }

    fn report(&mut self, at: usize, statuses: Vec<mezzo_api::model::TaskStatus>) {
        let machine = &self.machines[at];
        let Some(conn) = machine.conn.filter(|_| machine.registered) else {
            return;
        };
        if let Some(wire) = self.wires.get_mut(&conn) {
            wire.to_master
                .extend(statuses.into_iter().map(|status| Event::AgentStatus {
                    conn,
                    status: Box::new(status),
                }));
        }
    }

    fn call(&mut self, at: usize, call: crate::state::Call) -> Result<(), String> {
        match self.authors[at].caller() {
            Some(caller) => self.feed(Event::Call { caller, call }),
            None => Ok(()),
        }
    }

    fn open(&mut self, first: impl FnOnce(ConnId) -> Event) -> ConnId {
        self.n_conns += 1;
        let conn = ConnId(self.n_conns);
        let wire = Wire {
            to_master: VecDeque::from([first(conn)]),
            ..Wire::default()
        };
        self.wires.insert(conn, wire);
        conn
    }

    fn connect_machine(&mut self, at: usize) -> Result<(), String> {
        if self.machines[at].conn.is_some() || self.machines[at].refused {
            return Ok(());
        }
        let registration = self.machines[at].registration();
        let conn = self.open(|conn| Event::AgentAttached { conn, registration });
        (self.machines[at].conn, self.machines[at].registered) = (Some(conn), false);
        Ok(())
    }

    fn connect_author(&mut self, at: usize) -> Result<(), String> {
        if self.authors[at].conn.is_some() || self.authors[at].gone {
            return Ok(());
        }
        let info = self.authors[at].info();
        let conn = self.open(|conn| Event::Subscribe {
            conn,
            info,
            suppressed: Vec::new(),
        });
        self.authors[at].conn = Some(conn);
        Ok(())
    }

    fn connect_everybody(&mut self) -> Result<(), String> {
        (0..self.machines.len()).try_for_each(|at| self.connect_machine(at))?;
        (0..self.authors.len()).try_for_each(|at| self.connect_author(at))
    }

    /// The agent's end breaks now; the master learns it when it comes to that.
    fn break_machine(&mut self, at: usize) {
        let Some(conn) = self.machines[at].conn.take() else {
            return;
        };
        self.machines[at].registered = false;
        self.note(|| format!("machine {at} is cut off"));
        if let Some(wire) = self.wires.get_mut(&conn) {
            let arrived = self.dice.below(wire.to_master.len() + 1);
            wire.to_master.truncate(arrived);
            wire.to_master.push_back(Event::AgentDetached { conn });
            wire.to_agent.clear();
        }
    }

    fn break_author(&mut self, at: usize) {
        let Some(conn) = self.authors[at].conn else {
            return;
        };
        self.authors[at].disconnect();
        self.note(|| format!("author {at} is cut off"));
        if let Some(wire) = self.wires.get_mut(&conn) {
            wire.to_master.push_back(Event::FrameworkDetached { conn });
            wire.to_framework.clear();
        }
    }

    fn restart_master(&mut self) -> Result<(), String> {
        self.note(|| "the master restarts".to_owned());
        self.wires.clear();
        for machine in &mut self.machines {
            (machine.conn, machine.registered) = (None, false);
        }
        self.authors.iter_mut().for_each(Author::disconnect);
        self.now += self.dice.roll() % 10_000;
        if self.core.quotas() != self.store.saved().quotas {
            return Err("the quotas in the store are not those in force".to_owned());
        }
        self.core = Core::restore(settings(), self.store.saved(), self.now);
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
                        self.n_borrowed += usize::from(task.info.revocable);
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
                Effect::Reply(_) => {}
            }
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
