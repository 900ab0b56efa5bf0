//! Connections: what travels on them, how they are opened, and how they break.
//!
//! Each delivers in order, in both directions, until it breaks; what was under way then is lost. The two ends learn of
//! the break at different times.

use std::collections::VecDeque;

use super::World;
use crate::state::{ConnId, Event, ToAgent, ToFramework};

/// Both directions of a connection.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) to_master: VecDeque<Event>,
    pub(super) to_agent: VecDeque<ToAgent>,
    pub(super) to_framework: VecDeque<ToFramework>,
    pub(super) closed_by_master: bool,
}

impl World {
    pub(super) fn deliver_all(&mut self) -> Result<(), String> {
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

    pub(super) fn deliver(&mut self, conn: ConnId) -> Result<(), String> {
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

    pub(super) fn report(&mut self, at: usize, statuses: Vec<mezzo_api::model::TaskStatus>) {
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

    pub(super) fn call(&mut self, at: usize, call: crate::state::Call) -> Result<(), String> {
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

    pub(super) fn connect_machine(&mut self, at: usize) -> Result<(), String> {
        if self.machines[at].conn.is_some() || self.machines[at].refused {
            return Ok(());
        }
        let registration = self.machines[at].registration();
        let conn = self.open(|conn| Event::AgentAttached { conn, registration });
        (self.machines[at].conn, self.machines[at].registered) = (Some(conn), false);
        Ok(())
    }

    pub(super) fn connect_author(&mut self, at: usize) -> Result<(), String> {
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

    pub(super) fn connect_everybody(&mut self) -> Result<(), String> {
        (0..self.machines.len()).try_for_each(|at| self.connect_machine(at))?;
        (0..self.authors.len()).try_for_each(|at| self.connect_author(at))
    }

    /// The agent's end breaks now; the master learns it when it comes to that.
    pub(super) fn break_machine(&mut self, at: usize) {
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

    pub(super) fn break_author(&mut self, at: usize) {
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
}
