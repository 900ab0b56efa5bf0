//! What the master does with a scheduler's calls.

use mezzo_api::model::VolumeSource;
use mezzo_scheduler::core::Call;

use super::*;

impl World {
    /// What the master does with a call. Kills take effect at once when `prompt`, else some time later.
    pub(crate) fn perform(&mut self, call: Call, now: u64, prompt_kills: bool) {
        match call {
            Call::Accept {
                offer,
                changes,
                tasks,
                refuse,
            } => {
                let found = self.agents.iter().find_map(|(id, agent)| {
                    let at = agent.offers.iter().position(|held| held.id == offer)?;
                    Some((id.clone(), at))
                });
                let Some((agent_id, at)) = found else {
                    for info in tasks {
                        assert!(
                            self.ever.insert(info.task_id.clone()),
                            "a task id is used twice"
                        );
                        let id = &info.task_id;
                        self.master_says(id, None, TaskState::Dropped, Reason::InvalidOffers);
                    }
                    return;
                };
                let agent = self.agents.get_mut(&agent_id).expect("there");
                let Offered {
                    role,
                    pools: mut hand,
                    ..
                } = agent.offers.remove(at);
                let refused = std::mem::take(&mut self.refuse_changes) && !changes.is_empty();
                for change in changes.iter().filter(|_| !refused) {
                    assert_eq!(*change.role(), role, "changes are for the offer's role");
                    let conversion = hand.conversion(change).expect("changes fit the offer");
                    hand = hand.converted(&conversion).expect("just checked");
                    agent.free = agent
                        .free
                        .converted(&conversion)
                        .expect("offers are of what is free");
                }
                for mut info in tasks {
                    let id = info.task_id.clone();
                    assert!(self.ever.insert(id.clone()), "task id {id} is used twice");
                    for mount in &info.container.volumes {
                        if let VolumeSource::Persistent(volume) = &mount.source {
                            // What a member of its group holds, it shares.
                            let group = info.group.as_mut();
                            let held = group.and_then(|group| {
                                let mut beside = self.tasks.values().filter(|task| {
                                    let of = task.info.group.as_ref();
                                    of.is_some_and(|of| of.id == group.id)
                                });
                                let held = beside.find_map(|task| task.pools.volumes().next());
                                let held = held.filter(|held| held.id == *volume)?.clone();
                                group.shares.push(volume.clone());
                                Some(held)
                            });
                            let found = hand.volume_for(&role, volume.as_str());
                            info.persistent.extend(held.or(found.cloned()));
                        }
                    }
                    let pools = match info.reserved.is_empty() {
                        true => hand
                            .pick(&info.resources)
                            .expect("takes only what is offered"),
                        false => info.pools().expect("reserved is part of it"),
                    };
                    let whole = info.persistent.len() == info.container.volumes.len();
                    if !whole || !hand.contains(&pools) {
                        assert!(refused, "takes only what is offered");
                        let agent = Some(agent_id.clone());
                        self.master_says(&id, agent, TaskState::Error, Reason::TaskInvalid);
                        continue;
                    }
                    let agent = self.agents.get_mut(&agent_id).expect("there");
                    hand = hand.checked_sub(&pools).expect("contains it");
                    agent.free = agent
                        .free
                        .checked_sub(&pools)
                        .expect("offers are of what is free");
                    let health = vec![None; info.health_checks.len()];
                    let task = Task {
                        info,
                        pools,
                        state: TaskState::Staging,
                        health,
                        ready: None,
                        unacknowledged: VecDeque::new(),
                    };
                    self.tasks.insert(id, task);
                }
                let agent = self.agents.get_mut(&agent_id).expect("there");
                agent.refuse(role, hand, now + refuse.as_millis() as u64);
            }
            Call::Decline { offers, refuse } => {
                for agent in self.agents.values_mut() {
                    let (gone, kept) = std::mem::take(&mut agent.offers)
                        .into_iter()
                        .partition(|offer| offers.contains(&offer.id));
                    agent.offers = kept;
                    let gone: Vec<Offered> = gone;
                    for offer in gone {
                        agent.refuse(offer.role, offer.pools, now + refuse.as_millis() as u64);
                    }
                }
            }
            Call::Kill { task, agent } => match self.tasks.get(&task) {
                Some(entry) if entry.lives() => {
                    if self.agents[&entry.info.agent_id].reachable {
                        let state = if prompt_kills {
                            TaskState::Killed
                        } else {
                            TaskState::Killing
                        };
                        self.move_task(&task, state);
                    }
                }
                Some(entry) => {
                    let state = entry.state;
                    self.master_says(&task, agent, state, Reason::Reconciliation);
                }
                None if agent
                    .as_ref()
                    .is_some_and(|agent| self.agents[agent].recovering) => {}
                None => self.master_says(&task, agent, TaskState::Unknown, Reason::Reconciliation),
            },
            Call::Acknowledge {
                task,
                update,
                agent,
            } => {
                let reachable = self.agents[&agent].reachable;
                let Some(entry) = self.tasks.get_mut(&task) else {
                    return;
                };
                if !reachable
                    || entry
                        .unacknowledged
                        .front()
                        .and_then(|s| s.update_id.as_ref())
                        != Some(&update)
                {
                    return;
                }
                entry.unacknowledged.pop_front();
                if entry.unacknowledged.is_empty() && !entry.lives() {
                    self.tasks.remove(&task);
                } else {
                    self.repeat(&task);
                }
            }
            Call::Reconcile { tasks } => {
                let asked: Vec<(TaskId, Option<AgentId>)> = if tasks.is_empty() {
                    let live = self.tasks.iter().filter(|(_, task)| task.lives());
                    live.map(|(id, _)| (id.clone(), None)).collect()
                } else {
                    tasks
                        .into_iter()
                        .map(|(task, agent)| (task, Some(agent)))
                        .collect()
                };
                for (id, agent) in asked {
                    let place = self
                        .tasks
                        .get(&id)
                        .map(|task| &task.info.agent_id)
                        .or(agent.as_ref());
                    if place.is_some_and(|place| self.agents[place].recovering) {
                        continue;
                    }
                    let state = match self.tasks.get(&id) {
                        Some(task) if !self.agents[&task.info.agent_id].reachable => {
                            TaskState::Unreachable
                        }
                        Some(task) => task.state,
                        None => TaskState::Unknown,
                    };
                    self.master_says(&id, agent, state, Reason::Reconciliation);
                }
            }
            Call::Revive(role) => {
                let wanted = self.roles.get_mut(&role);
                *wanted.unwrap_or_else(|| panic!("{role} is revived without being subscribed")) =
                    true;
                for agent in self.agents.values_mut() {
                    agent.refused.retain(|(of, ..)| *of != role);
                }
            }
            Call::Suppress(role) => {
                let wanted = self.roles.get_mut(&role);
                *wanted
                    .unwrap_or_else(|| panic!("{role} is suppressed without being subscribed")) =
                    false;
            }
            Call::Roles { roles, suppressed } => self.set_roles(&roles, &suppressed),
            Call::Survey if !self.surveys => {}
            Call::Survey => {
                let machines = self
                    .agents
                    .iter()
                    .filter(|(_, agent)| agent.reachable || agent.recovering);
                let machines = machines.map(|(id, agent)| {
                    let machine = Machine {
                        hostname: id.to_string(),
                        total: agent.total.clone(),
                        held: agent.reachable.then(|| self.held_on(id)),
                        ..Machine::default()
                    };
                    (id.clone(), machine)
                });
                let machines = machines.collect();
                self.to_core.push_back(Message::Machines(machines));
            }
        }
    }
}
