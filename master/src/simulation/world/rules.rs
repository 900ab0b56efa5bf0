//! What must hold after every step, and when the world has come to rest.

use std::collections::BTreeMap;

use super::{super::machine::Machine, World};
use crate::state::Ledger;

impl World {
    pub(super) fn rest(&self) -> Result<(), String> {
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
            agrees(machine, ledger)?;
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

    pub(super) fn check(&self) -> Result<(), String> {
        self.core.audit()?;
        self.core.audit_windows(self.now)?;
        for (holder, state) in self.core.task_states() {
            let told = self.replica.get(&holder);
            if told != Some(&state) {
                return Err(format!("{holder:?} is {state}, watchers believe {told:?}"));
            }
        }
        if let Some(fault) = self
            .machines
            .iter()
            .find_map(|machine| machine.fault.clone())
        {
            return Err(fault);
        }
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
            if self.is_all_said(machine) {
                agrees(machine, ledger)?;
            }
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

    /// Nothing is under way between that machine and the master.
    fn is_all_said(&self, machine: &Machine) -> bool {
        let wire = machine.conn.and_then(|conn| self.wires.get(&conn));
        wire.is_some_and(|wire| {
            wire.to_master.is_empty() && wire.to_agent.is_empty() && !wire.closed_by_master
        })
    }
}

/// What is reserved on the machine is what the master has in its books.
fn agrees(machine: &Machine, ledger: &Ledger) -> Result<(), String> {
    if *ledger.total() == machine.pools {
        return Ok(());
    }
    Err(format!(
        "machine {} has {}, the master believes {}",
        machine.name,
        machine.pools,
        ledger.total()
    ))
}
