//! A master with its agents in plain data: what really runs, what was said of it, what is on the way.
//!
//! Everything random comes from one seed, so a failing seed replays exactly.

use std::collections::{BTreeMap, VecDeque};

use mezzo_api::model::{
    AgentId, FrameworkId, Offer, OfferId, Reason, Resources, StatusSource, TaskId, TaskInfo,
    TaskState, TaskStatus,
};
use mezzo_scheduler::core::Call;

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// On its way to the scheduler.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Offers(Vec<Offer>),
    Rescind(OfferId),
    Status(Box<TaskStatus>),
}

#[derive(Debug)]
pub(crate) struct Agent {
    total: Resources,
    free: Resources,
    pub(crate) reachable: bool,
    /// The master was restarted and expects the agent back: it says nothing of its tasks.
    recovering: bool,
    offer: Option<OfferId>,
    /// No offer within these resources until then.
    refused: Option<(Resources, u64)>,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) info: TaskInfo,
    pub(crate) state: TaskState,
    /// Made by the agent, not yet acknowledged, oldest first.
    unacknowledged: VecDeque<TaskStatus>,
}

impl Task {
    pub(crate) fn lives(&self) -> bool {
        !self.state.is_terminal()
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) ever: std::collections::BTreeSet<TaskId>,
    pub(crate) connected: bool,
    pub(crate) to_core: VecDeque<Message>,
    suppressed: bool,
    next: u64,
}

pub(crate) fn framework() -> FrameworkId {
    "framework-1".parse().expect("valid")
}

impl World {
    pub(crate) fn new(n_agents: u64) -> Self {
        let agents = (0..n_agents)
            .map(|i| {
                let total: Resources = "cpus:4;mem:1024;ports:[31000-31020]"
                    .parse()
                    .expect("valid");
                let agent = Agent {
                    free: total.clone(),
                    total,
                    reachable: true,
                    recovering: false,
                    offer: None,
                    refused: None,
                };
                (format!("agent-{i}").parse().expect("valid"), agent)
            })
            .collect();
        Self {
            agents,
            tasks: BTreeMap::new(),
            ever: Default::default(),
            connected: false,
            to_core: VecDeque::new(),
            suppressed: true,
            next: 0,
        }
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.to_core.clear();
        for agent in self.agents.values_mut() {
            agent.offer = None;
        }
    }

    /// The master is killed and started again: what it had not yet sent to an agent is lost, without a word.
    pub(crate) fn restart_master(&mut self) {
        self.disconnect();
        for agent in self.agents.values_mut() {
            agent.reachable = false;
            agent.recovering = true;
            agent.refused = None;
        }
        let lost: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.state == TaskState::Staging)
            .map(|(id, _)| id.clone())
            .collect();
        for id in lost {
            let task = self.tasks.remove(&id).expect("just seen");
            let agent = self
                .agents
                .get_mut(&task.info.agent_id)
                .expect("tasks are on agents");
            agent.free.add(&task.info.resources);
        }
    }

    /// The scheduler subscribes; the agents say again what was not acknowledged.
    pub(crate) fn connect(&mut self, suppressed: bool) {
        self.connected = true;
        self.suppressed = suppressed;
        for agent in self.agents.values_mut() {
            agent.refused = None;
        }
        let heads: Vec<TaskStatus> = self
            .tasks
            .values()
            .filter(|task| self.agents[&task.info.agent_id].reachable)
            .filter_map(|task| task.unacknowledged.front().cloned())
            .collect();
        self.to_core.extend(
            heads
                .into_iter()
                .map(|status| Message::Status(Box::new(status))),
        );
    }

    /// As the master's allocation pass.
    pub(crate) fn make_offers(&mut self, now: u64) {
        if !self.connected || self.suppressed {
            return;
        }
        let mut offers = Vec::new();
        for (id, agent) in &mut self.agents {
            if !agent.reachable || agent.offer.is_some() || agent.free.is_empty() {
                continue;
            }
            if let Some((resources, until)) = &agent.refused
                && now < *until
                && resources.contains(&agent.free)
            {
                continue;
            }
            self.next += 1;
            let offer_id: OfferId = format!("offer-{}", self.next).parse().expect("valid");
            agent.offer = Some(offer_id.clone());
            offers.push(Offer {
                offer_id,
                framework_id: framework(),
                agent_id: id.clone(),
                hostname: id.to_string(),
                role: Default::default(),
                resources: agent.free.clone(),
                attributes: Vec::new(),
                region: String::new(),
                zone: String::new(),
                address: String::new(),
                revocable: false,
            });
        }
        if !offers.is_empty() {
            self.to_core.push_back(Message::Offers(offers));
        }
    }

    fn status(
        &mut self,
        task: &TaskId,
        agent: Option<AgentId>,
        state: TaskState,
        reason: Option<Reason>,
    ) -> TaskStatus {
        self.next += 1;
        TaskStatus {
            task_id: task.clone(),
            framework_id: framework(),
            agent_id: agent,
            state,
            reason,
            source: StatusSource::Master,
            message: format!("message {}", self.next),
            timestamp_ms: self.next,
            update_id: None,
            healthy: None,
            container: None,
            readiness: None,
            exit: None,
            usage: None,
        }
    }

    fn master_says(
        &mut self,
        task: &TaskId,
        agent: Option<AgentId>,
        state: TaskState,
        reason: Reason,
    ) {
        let status = self.status(task, agent, state, Some(reason));
        self.to_core.push_back(Message::Status(Box::new(status)));
    }

    /// The agent moves a task on; the word waits behind earlier ones.
    pub(crate) fn move_task(&mut self, id: &TaskId, state: TaskState) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if !task.lives() || task.state == state {
            return;
        }
        let agent_id = task.info.agent_id.clone();
        let mut status = self.status(id, Some(agent_id.clone()), state, None);
        status.source = StatusSource::Agent;
        status.update_id = Some(format!("update-{}", self.next).parse().expect("valid"));
        let agent = self.agents.get_mut(&agent_id).expect("tasks are on agents");
        let task = self.tasks.get_mut(id).expect("just seen");
        task.state = state;
        if state.is_terminal() {
            agent.free.add(&task.info.resources);
            assert!(
                agent.total.contains(&agent.free),
                "more is free than there is"
            );
        }
        task.unacknowledged.push_back(status.clone());
        if task.unacknowledged.len() == 1 && agent.reachable && self.connected {
            self.to_core.push_back(Message::Status(Box::new(status)));
        }
    }

    /// Not acknowledged for long: said again.
    pub(crate) fn repeat(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if let Some(head) = task.unacknowledged.front()
            && self.connected
            && self.agents[&task.info.agent_id].reachable
        {
            self.to_core
                .push_back(Message::Status(Box::new(head.clone())));
        }
    }

    /// A bug: tasks that nobody asked for, until so many live.
    pub(crate) fn add_twins(&mut self, n: u32) {
        let Some(info) = self.tasks.values().next().map(|task| task.info.clone()) else {
            return;
        };
        for i in self.tasks.len()..n as usize {
            let id: TaskId = format!("twin-{i}").parse().expect("valid");
            let task = Task {
                info: TaskInfo {
                    task_id: id.clone(),
                    resources: Resources::new(),
                    ..info.clone()
                },
                state: TaskState::Running,
                unacknowledged: VecDeque::new(),
            };
            self.tasks.insert(id, task);
        }
    }

    pub(crate) fn lose_agent(&mut self, id: &AgentId) {
        let agent = self.agents.get_mut(id).expect("there");
        if !agent.reachable {
            return;
        }
        agent.reachable = false;
        if let Some(offer) = agent.offer.take() {
            self.to_core.push_back(Message::Rescind(offer));
        }
        for task in self.tasks_on(id) {
            if self.connected {
                self.master_says(
                    &task,
                    Some(id.clone()),
                    TaskState::Unreachable,
                    Reason::AgentDisconnected,
                );
            }
        }
    }

    pub(crate) fn return_agent(&mut self, id: &AgentId) {
        let agent = self.agents.get_mut(id).expect("there");
        if agent.reachable {
            return;
        }
        agent.reachable = true;
        agent.recovering = false;
        if !self.connected {
            return;
        }
        for task in self.tasks_on(id) {
            let state = self.tasks[&task].state;
            self.master_says(&task, Some(id.clone()), state, Reason::AgentReregistered);
            self.repeat(&task);
        }
        // Ended meanwhile: only the agent's own word is sent.
        let ended: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.info.agent_id == *id && !task.lives())
            .map(|(id, _)| id.clone())
            .collect();
        for task in ended {
            self.repeat(&task);
        }
    }

    fn tasks_on(&self, id: &AgentId) -> Vec<TaskId> {
        self.tasks
            .iter()
            .filter(|(_, task)| task.info.agent_id == *id && task.lives())
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// What the master does with a call. Kills take effect at once when `prompt`, else some time later.
    pub(crate) fn perform(&mut self, call: Call, now: u64, prompt_kills: bool) {
        match call {
            Call::Accept {
                offer,
                tasks,
                refuse,
            } => {
                let agent_id = tasks[0].agent_id.clone();
                let agent = self.agents.get_mut(&agent_id).expect("offers name agents");
                let valid = agent.offer.take_if(|held| *held == offer).is_some();
                for info in tasks {
                    let id = info.task_id.clone();
                    assert!(self.ever.insert(id.clone()), "task id {id} is used twice");
                    if !valid {
                        self.master_says(&id, None, TaskState::Dropped, Reason::InvalidOffers);
                        continue;
                    }
                    let agent = self.agents.get_mut(&agent_id).expect("there");
                    agent.free = agent
                        .free
                        .checked_sub(&info.resources)
                        .expect("takes only what is offered");
                    let task = Task {
                        info,
                        state: TaskState::Staging,
                        unacknowledged: VecDeque::new(),
                    };
                    self.tasks.insert(id, task);
                }
                let agent = self.agents.get_mut(&agent_id).expect("there");
                agent.refused = Some((agent.free.clone(), now + refuse.as_millis() as u64));
            }
            Call::Decline { offers, refuse } => {
                for agent in self.agents.values_mut() {
                    if agent.offer.take_if(|held| offers.contains(held)).is_some() {
                        agent.refused = Some((agent.free.clone(), now + refuse.as_millis() as u64));
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
            Call::Revive => {
                self.suppressed = false;
                for agent in self.agents.values_mut() {
                    agent.refused = None;
                }
            }
            Call::Suppress => self.suppressed = true,
            Call::Survey => {}
        }
    }
}
