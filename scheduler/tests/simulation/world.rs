//! A master with its agents in plain data: what really runs, what was said of it, what is on the way.
//!
//! Everything random comes from one seed, so a failing seed replays exactly.

#[path = "world/calls.rs"]
mod calls;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mezzo_api::model::{
    AgentId, FrameworkId, Offer, OfferId, Pools, ReadinessStatus, Reason, Reservation, Resources,
    RoleName, Stack, StatusSource, TaskId, TaskInfo, TaskState, TaskStatus, health_of_all,
};
use mezzo_scheduler::core::state::Machine;
use mezzo_scheduler::resident::HoldingId;

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
    Machines(BTreeMap<AgentId, Machine>),
}

/// One of the groups of the apps here, for which a machine has resources reserved.
pub(crate) fn group_role() -> RoleName {
    "b".parse().expect("valid")
}

#[derive(Debug)]
struct Offered {
    id: OfferId,
    role: RoleName,
    pools: Pools,
}

#[derive(Debug)]
pub(crate) struct Agent {
    total: Resources,
    /// What no task holds, offered or not.
    free: Pools,
    pub(crate) reachable: bool,
    /// The master was restarted and expects the agent back: it says nothing of its tasks.
    recovering: bool,
    offers: Vec<Offered>,
    /// No offer within these resources until then.
    refused: Vec<(RoleName, Pools, u64)>,
}

impl Agent {
    /// What could be offered.
    fn unoffered(&self) -> Pools {
        self.offers.iter().fold(self.free.clone(), |rest, offer| {
            rest.checked_sub(&offer.pools)
                .expect("offers are of what is free")
        })
    }

    fn refuse(&mut self, role: RoleName, pools: Pools, until: u64) {
        self.refused.retain(|(of, ..)| *of != role);
        self.refused.push((role, pools, until));
    }
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) info: TaskInfo,
    pub(crate) pools: Pools,
    pub(crate) state: TaskState,
    /// The latest word of each of its health checks.
    pub(crate) health: Vec<Option<bool>>,
    /// Its readiness check's.
    pub(crate) ready: Option<bool>,
    /// Made by the agent, not yet acknowledged, oldest first.
    pub(crate) unacknowledged: VecDeque<TaskStatus>,
}

impl Task {
    /// Takes note of what its checks say.
    fn tell_health(&self, status: &mut TaskStatus) {
        status.health_results.clone_from(&self.health);
        status.healthy = health_of_all(self.health.iter().copied());
        status.healthy = status.healthy.filter(|_| !self.health.is_empty());
    }

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
    /// The scheduler's, and whether it wants offers of each.
    roles: BTreeMap<RoleName, bool>,
    /// Agents refuse the next changes of reservations and volumes.
    pub(crate) refuse_changes: bool,
    /// Whether it is told what the machines have.
    pub(crate) surveys: bool,
    next: u64,
}

pub(crate) fn framework() -> FrameworkId {
    "framework-1".parse().expect("valid")
}

impl World {
    pub(crate) fn new(n_agents: u64) -> Self {
        let agents = (0..n_agents)
            .map(|i| {
                let open: Resources = "cpus:8;mem:2048;disk:2000;ports:[31000-31040]"
                    .parse()
                    .expect("valid");
                let mut free = Pools::open_to_all(open);
                if i == 0 {
                    let stack = Stack::single(Reservation::fixed(group_role())).expect("a role");
                    let part = "cpus:24;mem:6144;ports:[32000-32100]"
                        .parse()
                        .expect("valid");
                    free = free.with_reserved(&stack, part);
                }
                let total = free.flat();
                let agent = Agent {
                    free,
                    total,
                    reachable: true,
                    recovering: false,
                    offers: Vec::new(),
                    refused: Vec::new(),
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
            roles: BTreeMap::new(),
            refuse_changes: false,
            surveys: true,
            next: 0,
        }
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.to_core.clear();
        for agent in self.agents.values_mut() {
            agent.offers.clear();
        }
    }

    /// The master is killed and started again: what it had not yet sent to an agent is lost, without a word.
    pub(crate) fn restart_master(&mut self) {
        self.disconnect();
        for agent in self.agents.values_mut() {
            agent.reachable = false;
            agent.recovering = true;
            agent.refused.clear();
        }
        // A group reaches its agent as a whole or not at all.
        let there: std::collections::BTreeSet<_> = self
            .tasks
            .values()
            .filter(|task| task.state != TaskState::Staging)
            .filter_map(|task| Some(task.info.group.as_ref()?.id.clone()))
            .collect();
        let arrived = |task: &Task| {
            let group = task.info.group.as_ref();
            group.is_some_and(|group| there.contains(&group.id))
        };
        let lost: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.state == TaskState::Staging && !arrived(task))
            .map(|(id, _)| id.clone())
            .collect();
        for id in lost {
            let task = self.tasks.remove(&id).expect("just seen");
            let agent = self
                .agents
                .get_mut(&task.info.agent_id)
                .expect("tasks are on agents");
            agent.free = agent.free.checked_add(&task.pools).expect("small");
        }
    }

    /// The scheduler subscribes; the agents say again what was not acknowledged.
    pub(crate) fn connect(&mut self, roles: &BTreeSet<RoleName>, suppressed: &BTreeSet<RoleName>) {
        self.connected = true;
        self.roles.clear();
        self.set_roles(roles, suppressed);
        for agent in self.agents.values_mut() {
            agent.refused.clear();
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

    /// Offers of roles that it leaves are taken back.
    fn set_roles(&mut self, roles: &BTreeSet<RoleName>, suppressed: &BTreeSet<RoleName>) {
        let wants = |role: &RoleName| (role.clone(), !suppressed.contains(role));
        self.roles = roles.iter().map(wants).collect();
        for agent in self.agents.values_mut() {
            let offers = std::mem::take(&mut agent.offers).into_iter();
            let (kept, left) = offers.partition(|offer: &Offered| roles.contains(&offer.role));
            agent.offers = kept;
            let left: Vec<Offered> = left;
            self.to_core
                .extend(left.into_iter().map(|offer| Message::Rescind(offer.id)));
        }
    }

    /// Of which role an offer is.
    pub(crate) fn role_of(&self, offer: &OfferId) -> Option<&RoleName> {
        let mut offers = self.agents.values().flat_map(|agent| &agent.offers);
        let found = offers.find(|held| held.id == *offer)?;
        Some(&found.role)
    }

    /// As the master's allocation pass.
    pub(crate) fn make_offers(&mut self, now: u64) {
        if !self.connected {
            return;
        }
        let wanted = self.roles.iter().filter(|(_, wanted)| **wanted);
        let mut order: Vec<RoleName> = wanted.map(|(role, _)| role.clone()).collect();
        let n_roles = order.len().max(1);
        order.rotate_left(usize::try_from(self.next).expect("small") % n_roles);
        let mut offers = Vec::new();
        for role in order {
            for (id, agent) in &mut self.agents {
                let rest = agent.unoffered();
                let part = rest.visible_to(&role).into_owned();
                if !agent.reachable || part.is_empty() {
                    continue;
                }
                let hides = |(of, pools, until): &(RoleName, Pools, u64)| {
                    *of == role && now < *until && pools.contains(&part)
                };
                if agent.refused.iter().any(hides) {
                    continue;
                }
                self.next += 1;
                let offer_id: OfferId = format!("offer-{}", self.next).parse().expect("valid");
                offers.push(Offer {
                    offer_id: offer_id.clone(),
                    framework_id: framework(),
                    agent_id: id.clone(),
                    hostname: id.to_string(),
                    role: role.clone(),
                    resources: part.plain(),
                    attributes: Vec::new(),
                    region: String::new(),
                    zone: String::new(),
                    address: String::new(),
                    reserved: part.pool_list(),
                    volumes: part.volumes().cloned().collect(),
                    revocable: false,
                    unavailability: None,
                });
                agent.offers.push(Offered {
                    id: offer_id,
                    role: role.clone(),
                    pools: part,
                });
            }
        }
        if !offers.is_empty() {
            self.to_core.push_back(Message::Offers(offers));
        }
    }

    /// All there is on an agent, in use or not.
    fn pools_of(&self, id: &AgentId) -> Pools {
        let live = self.tasks.values().filter(|task| task.lives());
        live.filter(|task| task.info.agent_id == *id)
            .fold(self.agents[id].free.clone(), |sum, task| {
                sum.checked_add(&task.pools).expect("small")
            })
    }

    /// What is kept on an agent for instances.
    pub(crate) fn held_on(&self, id: &AgentId) -> std::collections::BTreeSet<HoldingId> {
        let pools = self.pools_of(id);
        let stacks = pools.reserved().map(|(stack, _)| stack);
        stacks
            .chain(pools.volumes().map(|volume| &volume.stack))
            .filter_map(HoldingId::of)
            .collect()
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
            health_results: Vec::new(),
            container: None,
            readiness: None,
            check_result: None,
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
        let mut status = self.status(task, agent, state, Some(reason));
        // Some answers leave the health out.
        if self.next.is_multiple_of(2)
            && state == TaskState::Running
            && let Some(task) = self.tasks.get(task)
        {
            task.tell_health(&mut status);
        }
        self.to_core.push_back(Message::Status(Box::new(status)));
    }

    /// The agent moves a task on.
    pub(crate) fn move_task(&mut self, id: &TaskId, state: TaskState) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if !task.lives() || task.state == state {
            return;
        }
        let agent_id = &task.info.agent_id;
        let agent = self.agents.get_mut(agent_id).expect("tasks are on agents");
        if state.is_terminal() {
            agent.free = agent.free.checked_add(&task.pools).expect("small");
            assert!(
                agent.total.contains(&agent.free.flat()),
                "more is free than there is"
            );
        }
        self.tasks.get_mut(id).expect("just seen").state = state;
        self.agent_says(id, None);
    }

    /// The agent's word of how a task is; it waits behind earlier ones.
    pub(crate) fn agent_says(&mut self, id: &TaskId, reason: Option<Reason>) {
        let task = &self.tasks[id];
        let (state, ready) = (task.state, task.ready);
        let agent_id = task.info.agent_id.clone();
        let mut status = self.status(id, Some(agent_id.clone()), state, reason);
        status.source = StatusSource::Agent;
        status.update_id = Some(format!("update-{}", self.next).parse().expect("valid"));
        if state == TaskState::Running {
            self.tasks[id].tell_health(&mut status);
            status.readiness = ready.map(|ready| {
                Box::new(ReadinessStatus {
                    name: "up".to_owned(),
                    ready,
                    last_response: None,
                    problem: String::new(),
                })
            });
        }
        let agent = &self.agents[&agent_id];
        let task = self.tasks.get_mut(id).expect("just seen");
        task.unacknowledged.push_back(status.clone());
        let group = task.info.group.as_ref().map(|group| group.id.clone());
        if task.unacknowledged.len() == 1 && agent.reachable && self.connected {
            self.to_core.push_back(Message::Status(Box::new(status)));
        }
        if let Some(group) = group
            && state.is_terminal()
            && state != TaskState::Finished
        {
            self.end_group(&group);
        }
    }

    /// The agent's policy: one member's end is the others' end.
    fn end_group(&mut self, group: &mezzo_api::model::GroupId) {
        let members: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.lives())
            .filter(|(_, task)| task.info.group.as_ref().is_some_and(|of| of.id == *group))
            .map(|(id, _)| id.clone())
            .collect();
        for member in members {
            self.move_task(&member, TaskState::Killing);
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

    pub(crate) fn lose_agent(&mut self, id: &AgentId) {
        let agent = self.agents.get_mut(id).expect("there");
        if !agent.reachable {
            return;
        }
        agent.reachable = false;
        for offer in agent.offers.drain(..) {
            self.to_core.push_back(Message::Rescind(offer.id));
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
}
