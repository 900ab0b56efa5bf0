//! One step of a life with faults: what happens next, as the dice say.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::Scalar;

use super::{super::any_change, World};
use crate::{
    allocator::Quota,
    state::{ConnId, Event, Operation, Pass, Source as _},
    store::WindowRecord,
};

impl World {
    pub(super) fn step(&mut self) -> Result<(), String> {
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
            86 if self.dice.one_in(2) => {
                let operation = self.any_window();
                self.feed(Event::Operate(operation))
            }
            87 if self.dice.one_in(4) => self.restart_master(),
            88 if self.dice.one_in(6) => match self.machines[machine].id.clone() {
                Some(id) => self.feed(Event::Operate(Operation::RemoveAgent(id))),
                None => Ok(()),
            },
            89 if self.dice.one_in(2) => match self.machines[machine].id.clone() {
                Some(id) => {
                    let operation = match self.dice.below(6) {
                        0 | 1 => Operation::DrainAgent {
                            agent_id: id,
                            deadline: None,
                            mark_gone: self.dice.one_in(10),
                        },
                        2 => Operation::DeactivateAgent(id),
                        _ => Operation::ActivateAgent(id),
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
    pub(super) fn lend(&mut self, at: usize) {
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

    /// Plans or cancels work on one or two machines; often such as cannot be.
    fn any_window(&mut self) -> Operation {
        let dice = &mut self.dice;
        let name = ["w", "v"][dice.below(2)].parse().unwrap();
        if dice.one_in(4) {
            return Operation::CancelWindow(name);
        }
        let mut agents = BTreeSet::new();
        for _ in 0..1 + dice.below(2) {
            agents.extend(self.machines[dice.below(self.machines.len())].id.clone());
        }
        let starts_at_ms = self.now + dice.roll() % 3000;
        let drains_at_ms = starts_at_ms + dice.roll() % 3000;
        let ends = drains_at_ms + 1 + dice.roll() % 4000;
        Operation::ScheduleWindow(Box::new(WindowRecord {
            name,
            agents,
            starts_at_ms,
            drains_at_ms,
            ends_at_ms: (!dice.one_in(4)).then_some(ends),
            drained: BTreeSet::new(),
        }))
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
}
