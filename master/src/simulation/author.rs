//! A simulated framework: takes offers, launches, declines, acknowledges, reconciles, and remembers every end it saw.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use mezzo_api::model::{
    AgentId, AttributeConstraint, Capability, ContainerInfo, FrameworkId, FrameworkInfo,
    GroupPolicy, Offer, OfferFilter, OfferId, OperationId, OperationState, OperationStatus,
    PersistentVolume, PoolChange, Pools, Predicate, Reservation, RoleName, Selector, Stack,
    StreamId, TaskGroup, TaskId, TaskInfo, TaskState, TaskStatus, Volume, VolumeSource,
};

use super::{Dice, any_change};
use crate::state::{Accept, Acknowledgement, Call, Caller, ConnId, Launch, ToFramework};

/// One framework.
#[derive(Debug)]
pub(super) struct Author {
    pub(super) name: usize,
    pub(super) id: Option<FrameworkId>,
    pub(super) conn: Option<ConnId>,
    stream_id: Option<StreamId>,
    pub(super) gone: bool,
    pub(super) quiet: bool,
    role: RoleName,
    /// Wants to hear of these machines only.
    machines: Option<&'static str>,
    /// It takes what agents lend, too.
    borrows: bool,
    /// It can deal with volumes that several tasks have.
    shares: bool,
    failover_timeout: Duration,
    pub(super) offers: BTreeMap<String, Offer>,
    /// Launched, with the agent and the last state heard.
    pub(super) tasks: BTreeMap<TaskId, (AgentId, TaskState)>,
    ends: BTreeMap<TaskId, TaskState>,
    /// Asked for, with the agent and the end that was told.
    operations: BTreeMap<OperationId, (AgentId, Option<OperationState>)>,
    acknowledgements: VecDeque<Call>,
    used: BTreeSet<String>,
    /// Inverse offers to answer.
    asked: Vec<OfferId>,
    n_tasks: usize,
}

impl Author {
    pub(super) fn new(name: usize, dice: &mut Dice) -> Self {
        Self {
            name,
            id: None,
            conn: None,
            stream_id: None,
            gone: false,
            quiet: false,
            role: ["*", "a", "b", "b/c", "b/c/d"][dice.below(5)]
                .parse()
                .unwrap(),
            machines: dice.one_in(3).then_some("machine-[02]"),
            borrows: dice.one_in(2),
            shares: name.is_multiple_of(2),
            failover_timeout: Duration::from_secs([5, 60, 3600][dice.below(3)]),
            offers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            ends: BTreeMap::new(),
            operations: BTreeMap::new(),
            acknowledgements: VecDeque::new(),
            used: BTreeSet::new(),
            asked: Vec::new(),
            n_tasks: 0,
        }
    }

    pub(super) fn info(&self) -> FrameworkInfo {
        FrameworkInfo {
            framework_id: self.id.clone(),
            name: format!("author-{}", self.name),
            user: String::new(),
            roles: vec![self.role.clone()],
            failover_timeout: self.failover_timeout,
            hostname: String::new(),
            principal: String::new(),
            webui_url: String::new(),
            labels: BTreeMap::new(),
            offer_filters: self
                .machines
                .map(|pattern| {
                    let constraint = AttributeConstraint {
                        selector: Selector::Hostname,
                        predicate: Predicate::TextMatches(pattern.to_owned()),
                    };
                    let filter = OfferFilter {
                        groups: vec![vec![constraint]],
                        minimum: Vec::new(),
                    };
                    (self.role.clone(), filter)
                })
                .into_iter()
                .collect(),
            capabilities: self
                .borrows
                .then_some(Capability::RevocableResources)
                .into_iter()
                .chain(self.shares.then_some(Capability::SharedResources))
                .collect(),
        }
    }

    pub(super) fn caller(&self) -> Option<Caller> {
        self.conn?;
        Some(Caller {
            framework_id: self.id.clone()?,
            stream_id: self.stream_id.clone()?,
        })
    }

    pub(super) fn disconnect(&mut self) {
        self.conn = None;
        self.stream_id = None;
        self.offers.clear();
        self.acknowledgements.clear();
    }

    pub(super) fn hear(&mut self, event: ToFramework) -> Result<(), String> {
        match event {
            ToFramework::Subscribed {
                framework_id,
                stream_id,
            } => {
                if self.id.as_ref().is_some_and(|id| *id != framework_id) {
                    return Err(format!("author {} got another id", self.name));
                }
                (self.id, self.stream_id) = (Some(framework_id), Some(stream_id));
            }
            ToFramework::Offers(offers) => {
                for offer in offers.into_iter().map(Offer::from) {
                    let wanted = ["machine-0", "machine-2"].contains(&&*offer.hostname);
                    if self.machines.is_some() && !wanted {
                        return Err(format!(
                            "author {} hears of {}, which it does not want",
                            self.name, offer.hostname
                        ));
                    }
                    if offer.revocable && !self.borrows {
                        return Err(format!("author {} cannot borrow", self.name));
                    }
                    if offer.volumes.iter().any(|volume| volume.shared) && !self.shares {
                        return Err(format!("author {} cannot share", self.name));
                    }
                    self.offers.insert(offer.offer_id.to_string(), offer);
                }
            }
            ToFramework::Rescind(offer_id) => {
                self.offers.remove(offer_id.as_str());
            }
            ToFramework::Update(status) => return self.update(*status),
            ToFramework::Operation(status) => return self.settled(*status),
            ToFramework::AgentLost(_) | ToFramework::RescindInverseOffer(_) => {}
            ToFramework::InverseOffers(asked) => {
                self.asked.extend(asked.into_iter().map(|offer| offer.id));
            }
        }
        Ok(())
    }

    fn settled(&mut self, status: OperationStatus) -> Result<(), String> {
        let Some((_, known)) = self.operations.get_mut(&status.id) else {
            return Err(format!(
                "author {} hears of operation {}, which it never asked for",
                self.name, status.id
            ));
        };
        match status.state {
            OperationState::Pending | OperationState::Recovering => {}
            OperationState::Finished
            | OperationState::Failed
            | OperationState::Dropped
            | OperationState::Unknown => {
                if *known.get_or_insert(status.state) != status.state {
                    return Err(format!(
                        "operation {} has two ends: {known:?}, then {status:?}",
                        status.id
                    ));
                }
                if let Some(agent_id) = status.agent_id {
                    self.acknowledgements.push_back(Call::AcknowledgeOperation {
                        agent_id,
                        operation_id: status.id,
                    });
                }
            }
        }
        Ok(())
    }

    /// Operations of which it knows no end.
    pub(super) fn unsettled(&self) -> Vec<(OperationId, Option<AgentId>)> {
        self.operations
            .iter()
            .filter(|(_, (_, end))| end.is_none())
            .map(|(id, (agent, _))| (id.clone(), Some(agent.clone())))
            .collect()
    }

    /// A change that it may often make, of what an offer holds.
    fn change(&mut self, offer: &Offer, dice: &mut Dice) -> Launch {
        let pools = offer.reserved.iter().fold(Pools::default(), |pools, pool| {
            pools.with_reserved(&pool.stack, pool.resources.clone())
        });
        let volumes = offer.volumes.iter().cloned();
        let pools = volumes.fold(pools, Pools::with_volume);
        let mut change = any_change(&pools, dice);
        if let (PoolChange::Reserve { with, .. }, false) = (&mut change, dice.one_in(5)) {
            with.role = self.role.clone();
        }
        self.ask(offer, change, dice)
    }

    /// A volume that several tasks may have, of what is open to all.
    fn corpus(&mut self, offer: &Offer, dice: &mut Dice) -> (PersistentVolume, [Launch; 2]) {
        let with = Reservation::dynamic(self.role.clone(), "");
        let volume = PersistentVolume {
            id: ["x", "y"][dice.below(2)].parse().unwrap(),
            stack: Stack::single(with.clone()).unwrap(),
            size_mb: 10,
            principal: String::new(),
            shared: true,
        };
        let reserve = PoolChange::Reserve {
            from: None,
            with,
            resources: volume.resources(),
        };
        let create = PoolChange::Create(volume.clone());
        let asked = [reserve, create].map(|change| self.ask(offer, change, dice));
        (volume, asked)
    }

    fn ask(&mut self, offer: &Offer, change: PoolChange, dice: &mut Dice) -> Launch {
        self.n_tasks += 1;
        let id: OperationId = format!("f{}-o{}", self.name, self.n_tasks).parse().unwrap();
        let keep = !dice.one_in(4);
        if keep {
            self.operations
                .insert(id.clone(), (offer.agent_id.clone(), None));
        }
        Launch::Change {
            id: keep.then_some(id),
            change: Box::new(change),
        }
    }

    fn update(&mut self, status: TaskStatus) -> Result<(), String> {
        let (task_id, state) = (status.task_id.clone(), status.state);
        if let (Some(update_id), Some(agent_id)) =
            (status.update_id.clone(), status.agent_id.clone())
        {
            self.acknowledgements
                .push_back(Call::Acknowledge(vec![Acknowledgement {
                    agent_id,
                    task_id: task_id.clone(),
                    update_id,
                }]));
        }
        let Some((_, known)) = self.tasks.get_mut(&task_id) else {
            return Err(format!(
                "author {} hears of {task_id}, which it never launched",
                self.name
            ));
        };
        if state.is_terminal() {
            let first = *self.ends.entry(task_id.clone()).or_insert(state);
            // The master does not remember what it refused: asked again, it says in other words that nothing runs.
            let never_ran = [TaskState::Dropped, TaskState::Error, TaskState::Gone];
            if first != state && !(never_ran.contains(&first) && never_ran.contains(&state)) {
                return Err(format!(
                    "{task_id} ended as {first}, and then as {state}: {}",
                    status.message
                ));
            }
            *known = state;
        } else if !known.is_terminal() {
            *known = state;
        }
        Ok(())
    }

    /// The next thing this framework asks for.
    pub(super) fn act(&mut self, dice: &mut Dice) -> Option<Call> {
        self.caller()?;
        if let Some(call) = self.acknowledgements.pop_front() {
            // Some are lost; the agent repeats.
            if !dice.one_in(8) {
                return Some(call);
            }
        }
        if let Some(id) = self.asked.pop() {
            return Some(Call::AnswerInverseOffers {
                ids: vec![id],
                accept: dice.one_in(2),
            });
        }
        match dice.below(if self.quiet { 3 } else { 12 }) {
            0 => self.kill(dice),
            1 => Some(Call::Reconcile(Vec::new())),
            2 => Some(Call::Reconcile(self.unfinished())),
            3 if dice.one_in(4) => Some(Call::Suppress(Vec::new())),
            4 => Some(Call::Revive(Vec::new())),
            5 => self.decline(dice),
            6 if dice.one_in(20) => {
                self.gone = true;
                Some(Call::Teardown)
            }
            // What came in several events is sometimes answered in one call.
            _ => {
                let mut accepts = vec![self.accept(dice)?];
                while dice.one_in(6) {
                    accepts.extend(self.accept(dice));
                }
                Some(Call::Accept(accepts))
            }
        }
    }

    pub(super) fn unfinished(&self) -> Vec<(TaskId, Option<AgentId>)> {
        self.tasks
            .iter()
            .filter(|(_, (_, state))| !state.is_terminal())
            .map(|(id, (agent, _))| (id.clone(), Some(agent.clone())))
            .collect()
    }

    pub(super) fn next_acknowledgement(&mut self) -> Option<Call> {
        self.acknowledgements.pop_front()
    }

    fn kill(&self, dice: &mut Dice) -> Option<Call> {
        let unfinished = self.unfinished();
        let (task_id, agent_id) = unfinished.get(dice.below(unfinished.len()))?.clone();
        let agent_id = if dice.one_in(2) { agent_id } else { None };
        Some(Call::Kill {
            task_id,
            agent_id,
            grace: None,
        })
    }

    fn decline(&mut self, dice: &mut Dice) -> Option<Call> {
        let (_, offer) = self.offers.pop_first()?;
        let refuse = Duration::from_millis([0, 500, 5000][dice.below(3)]);
        Some(Call::Decline {
            offers: vec![offer.offer_id],
            refuse,
        })
    }

    fn accept(&mut self, dice: &mut Dice) -> Option<Accept> {
        let (_, first) = self.offers.pop_first()?;
        let mut offers = vec![first.offer_id.clone()];
        // Both kinds together cannot be used.
        let mixes = dice.one_in(10);
        let more: Vec<String> = self
            .offers
            .iter()
            .filter(|(_, offer)| {
                let same = offer.revocable == first.revocable;
                offer.agent_id == first.agent_id && (same || mixes)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in more {
            offers.extend(self.offers.remove(&id).map(|offer| offer.offer_id));
        }
        if dice.one_in(10) {
            // Named again: used before.
            offers.extend(self.used.first().and_then(|id| id.parse().ok()));
        }
        self.used.extend(offers.iter().map(ToString::to_string));
        let mut infos = Vec::new();
        for _ in 0..dice.below(5) {
            self.n_tasks += 1;
            let task_id: TaskId = format!("f{}-t{}", self.name, self.n_tasks).parse().unwrap();
            let port = 31_000 + dice.below(10);
            let ports = if first.revocable {
                String::new()
            } else {
                format!(";ports:[{port}-{port}]")
            };
            let taken = format!(
                "cpus:0.{};mem:{}{ports}",
                1 + dice.below(9),
                10 + dice.below(200)
            );
            self.tasks.insert(
                task_id.clone(),
                (first.agent_id.clone(), TaskState::Staging),
            );
            infos.push(TaskInfo {
                task_id,
                name: String::new(),
                agent_id: first.agent_id.clone(),
                resources: taken.parse().unwrap(),
                cpu_limit: None,
                memory_limit_mb: None,
                pids_limit: None,
                container: ContainerInfo {
                    image: "sleep:1".to_owned(),
                    ..ContainerInfo::default()
                },
                kill_grace: None,
                health_checks: Vec::new(),
                max_completion: None,
                labels: BTreeMap::new(),
                data: Vec::new(),
                limits: mezzo_api::model::TaskLimits::default(),
                group: None,
                readiness_check: None,
                check: None,
                reserved: Vec::new(),
                persistent: Vec::new(),
                // Sometimes it is mistaken.
                revocable: first.revocable != dice.one_in(20),
            });
        }
        // Together or one by one.
        let mut changes = Vec::new();
        while dice.one_in(3) {
            changes.push(self.change(&first, dice));
        }
        let mut volume = first.volumes.first().cloned();
        let could = volume.is_none() && !first.revocable && self.role != RoleName::any();
        if self.shares && could && dice.one_in(3) {
            let (corpus, asked) = self.corpus(&first, dice);
            changes.extend(asked);
            volume = Some(corpus);
        }
        if let Some(volume) = volume {
            // Two of a group may have one that is not shared, two tasks may not.
            let n_users = if volume.shared {
                infos.len()
            } else {
                1 + dice.below(2)
            };
            for info in infos.iter_mut().take(n_users) {
                info.container.volumes.push(Volume {
                    container_path: "/data".to_owned(),
                    read_only: dice.one_in(3),
                    source: VolumeSource::Persistent(volume.id.clone()),
                });
            }
        }
        // No description of a revocable group gets past the border.
        let ordinary = infos.iter().all(|info| !info.revocable);
        let launches = if infos.len() > 1 && ordinary && dice.one_in(3) {
            vec![Launch::Group(as_group(infos, self.n_tasks))]
        } else {
            let each = infos.into_iter().map(|info| Launch::Valid(Box::new(info)));
            each.collect()
        };
        let refuse = Duration::from_millis([0, 1000][dice.below(2)]);
        changes.extend(launches);
        Some(Accept {
            offers,
            launches: changes,
            refuse,
        })
    }
}

fn as_group(mut infos: Vec<TaskInfo>, number: usize) -> Vec<TaskInfo> {
    let n_members = u32::try_from(infos.len()).unwrap();
    for (position, info) in (0..).zip(&mut infos) {
        info.group = Some(Box::new(TaskGroup {
            id: format!("g{number}").parse().unwrap(),
            n_members,
            position,
            init: false,
            policy: GroupPolicy::KillGroup,
            volumes: Vec::new(),
            shares: Vec::new(),
        }));
    }
    infos
}
