//! The allocator tried as a whole: `properties` on random clusters, `scenarios` on those that `docs/sharing.md` shows.

mod properties;
mod scenarios;

use std::collections::BTreeMap;

use mezzo_api::model::{
    AgentId, AgentInfo, CgroupMode, FrameworkId, PersistentVolume, Pools, Reservation, RoleName,
    Scalar, Stack,
};

use super::{
    AgentFilters, Candidate, Claimant, ClaimantKey, Constraints, Minimum, Outcome, Quantities,
    Quota, Request, allocate,
};

pub(super) fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(super) fn amounts(text: &str) -> BTreeMap<String, Scalar> {
    let parts = text.split(';').filter(|part| !part.is_empty());
    parts
        .map(|part| part.split_once(':').unwrap())
        .map(|(name, value)| (name.to_owned(), id(value)))
        .collect()
}

/// A framework in one role.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) framework: FrameworkId,
    pub(super) role: RoleName,
    pub(super) held: Quantities,
    pub(super) wants: bool,
    pub(super) shares: bool,
    pub(super) constraints: Option<Constraints>,
}

/// A machine.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) info: AgentInfo,
    pub(super) free: Pools,
    pub(super) filters: AgentFilters,
}

/// A cluster in which offers stay with whom they were made to.
#[derive(Debug, Clone, Default)]
pub(super) struct Cluster {
    pub(super) agents: Vec<Agent>,
    pub(super) clients: Vec<Client>,
    pub(super) weights: BTreeMap<RoleName, u64>,
    pub(super) quotas: BTreeMap<RoleName, Quota>,
    pub(super) total: Quantities,
}

impl Cluster {
    pub(super) fn new(n_agents: usize, each: &str) -> Self {
        let mut cluster = Self::default();
        (0..n_agents).for_each(|_| cluster.add_agent(each));
        cluster
    }

    pub(super) fn add_agent(&mut self, free: &str) {
        let free: Pools = id(free);
        self.total.add_pools(&free);
        let name = format!("a{:04}", self.agents.len());
        self.agents.push(Agent {
            id: id(&name),
            info: AgentInfo {
                hostname: name,
                address: String::new(),
                resources: free.flat(),
                attributes: Vec::new(),
                region: String::new(),
                zone: String::new(),
                version: String::new(),
                kernel: String::new(),
                architecture: String::new(),
                cgroup_mode: CgroupMode::V2,
                reserved: free.pool_list(),
                volumes: Vec::new(),
            },
            free,
            filters: AgentFilters::default(),
        });
    }

    /// The newest agent has a volume for all tasks of that role.
    pub(super) fn add_shared(&mut self, role: &str, size_mb: u64) {
        let volume = PersistentVolume {
            id: id("corpus"),
            stack: Stack::single(Reservation::dynamic(id(role), "")).unwrap(),
            size_mb,
            principal: String::new(),
            shared: true,
        };
        self.total.add_volume(&volume);
        let agent = self.agents.last_mut().unwrap();
        agent.free = agent.free.clone().with_volume(volume);
    }

    pub(super) fn with_clients(mut self, clients: &[(&str, &str)]) -> Self {
        for (framework, role) in clients {
            self.clients.push(Client {
                framework: id(framework),
                role: id(role),
                held: Quantities::default(),
                wants: true,
                shares: false,
                constraints: None,
            });
        }
        self
    }

    pub(super) fn with_weights(mut self, weights: &[(&str, u64)]) -> Self {
        self.weights = weights.iter().map(|(role, w)| (id(role), *w)).collect();
        self
    }

    pub(super) fn with_quotas(mut self, quotas: &[(&str, &str, &str)]) -> Self {
        for (role, guarantees, limits) in quotas {
            let (guarantees, limits) = (amounts(guarantees), amounts(limits));
            self.quotas.insert(id(role), Quota { guarantees, limits });
        }
        self
    }

    pub(super) fn key(at: usize) -> ClaimantKey {
        ClaimantKey::new(u32::try_from(at).unwrap(), 0)
    }

    pub(super) fn roles(&self) -> BTreeMap<RoleName, Quantities> {
        let mut roles: BTreeMap<RoleName, Quantities> = BTreeMap::new();
        for client in &self.clients {
            roles
                .entry(client.role.clone())
                .or_default()
                .merge(&client.held);
        }
        // What is reserved counts for its role while it is idle too.
        for agent in &self.agents {
            for (stack, idle) in agent.free.reserved() {
                roles.entry(stack.role().clone()).or_default().add(idle);
            }
            for volume in agent.free.volumes() {
                let role = volume.stack.role().clone();
                roles.entry(role).or_default().add_volume(volume);
            }
        }
        roles
    }

    pub(super) fn unallocated(&self) -> Quantities {
        let mut sum = Quantities::default();
        self.agents
            .iter()
            .for_each(|agent| sum.add(agent.free.open()));
        sum
    }

    /// One pass, without carrying it out.
    pub(super) fn plan(&self, now_ms: u64) -> Outcome {
        let (roles, unallocated) = (self.roles(), self.unallocated());
        let request = Request {
            candidates: self
                .agents
                .iter()
                .map(|agent| Candidate {
                    agent: &agent.id,
                    info: &agent.info,
                    free: &agent.free,
                    filters: &agent.filters,
                })
                .collect(),
            claimants: self
                .clients
                .iter()
                .enumerate()
                .filter(|(_, client)| client.wants)
                .map(|(at, client)| Claimant {
                    framework: &client.framework,
                    role: &client.role,
                    key: Self::key(at),
                    held: &client.held,
                    epoch: 0,
                    shares: client.shares,
                    constraints: client.constraints.as_ref(),
                })
                .collect(),
            roles: &roles,
            weights: &self.weights,
            quotas: &self.quotas,
            total: &self.total,
            unallocated: &unallocated,
            minimum: &Minimum::default(),
        };
        allocate(&request, now_ms)
    }

    /// One pass, and everybody keeps what is offered.
    pub(super) fn pass(&mut self) -> Outcome {
        let outcome = self.plan(0);
        for plan in &outcome.plans {
            let agent = self
                .agents
                .iter_mut()
                .find(|agent| agent.id == plan.agent)
                .unwrap();
            agent.free = agent
                .free
                .without(&plan.resources)
                .expect("only what is free is offered");
            let client = self
                .clients
                .iter_mut()
                .find(|client| client.framework == plan.framework && client.role == plan.role)
                .unwrap();
            client.held.add_pools(&plan.resources.exclusive());
        }
        outcome
    }

    /// What the role holds with all below it, and what is reserved for them.
    pub(super) fn held(&self, role: &str, name: &str) -> i128 {
        self.roles()
            .iter()
            .filter(|(other, _)| super::quota::is_within(other.as_str(), role))
            .map(|(_, held)| held.get(name))
            .sum()
    }
}
