//! A simulated agent: tasks are state machines, statuses are kept until acknowledged, as a real agent does.

use std::collections::{BTreeMap, VecDeque};

use mezzo_api::model::{
    AgentId, AgentInfo, CgroupMode, OperationState, OperationStatus, PoolChange, PoolOperation,
    Pools, Resources, StatusSource, Task, TaskInfo, TaskState, TaskStatus, VolumeKey,
};

use super::Dice;
use crate::state::{ConnId, Holder, KnownTask, Registration, ToAgent};

/// One task that this machine has.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) task: Task,
    unacknowledged: VecDeque<TaskStatus>,
}

/// One machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: usize,
    pub(super) id: Option<AgentId>,
    pub(super) conn: Option<ConnId>,
    /// On the present connection.
    pub(super) registered: bool,
    pub(super) refused: bool,
    pub(super) processes: BTreeMap<Holder, Process>,
    draining: bool,
    resources: Resources,
    /// By its settings.
    declared: Pools,
    n_updates: u64,
    /// Its resources, with what is reserved of them.
    pub(super) pools: Pools,
    /// Ends of changes that nobody has acknowledged.
    kept: Vec<OperationStatus>,
    n_changes: u64,
    /// Tasks that it began on a volume that another one had.
    pub(super) n_sharing: usize,
    /// What no master may ask for.
    pub(super) fault: Option<String>,
    /// To be sent.
    pub(super) answers: Vec<(OperationStatus, Pools)>,
}

impl Machine {
    pub(super) fn new(name: usize, dice: &mut Dice) -> Self {
        let fixed = ["", ";cpus(a):1", ";cpus(b):1;ports(b):[31020-31021]"][dice.below(3)];
        let text = format!(
            "cpus:{};mem:1024;disk:100;ports:[31000-31009]{fixed}",
            1 + dice.below(4)
        );
        let declared: Pools = text.parse().unwrap();
        Self {
            name,
            id: None,
            conn: None,
            registered: false,
            refused: false,
            processes: BTreeMap::new(),
            draining: false,
            resources: declared.flat(),
            declared: declared.clone(),
            n_updates: 0,
            pools: declared,
            kept: Vec::new(),
            n_changes: 0,
            n_sharing: 0,
            fault: None,
            answers: Vec::new(),
        }
    }

    pub(super) fn registration(&self) -> Registration {
        Registration {
            agent_id: self.id.clone(),
            info: AgentInfo {
                hostname: format!("machine-{}", self.name),
                address: "127.0.0.1:5051".to_owned(),
                resources: self.resources.clone(),
                attributes: Vec::new(),
                region: String::new(),
                zone: String::new(),
                version: String::new(),
                kernel: String::new(),
                architecture: String::new(),
                cgroup_mode: CgroupMode::V2,
                reserved: self.pools.pool_list(),
                volumes: self.pools.volumes().cloned().collect(),
            },
            boot_id: String::new(),
            operations: self.kept.clone(),
            tasks: self
                .processes
                .values()
                .map(|process| process.task.clone().into())
                .collect(),
        }
    }

    pub(super) fn hear(&mut self, message: ToAgent, now: u64) -> Vec<TaskStatus> {
        match message {
            ToAgent::Registered(id) => {
                assert!(
                    self.id.as_ref().is_none_or(|mine| *mine == id),
                    "an agent's id changed"
                );
                self.id = Some(id);
                self.registered = true;
                self.draining = false;
                self.repeat()
            }
            ToAgent::Refused(_) => {
                self.refused = true;
                Vec::new()
            }
            ToAgent::Launch(task) => self.launch(described(&task), now),
            ToAgent::LaunchGroup(tasks) => {
                let launched = tasks
                    .into_iter()
                    .map(|task| self.launch(described(&task), now));
                launched.flatten().collect()
            }
            ToAgent::Kill {
                framework_id,
                task_id,
                ..
            } => self
                .advance_to(&(framework_id, task_id), TaskState::Killed, now)
                .into_iter()
                .collect(),
            ToAgent::Acknowledge {
                framework_id,
                task_id,
                update_id,
            } => {
                let holder = (framework_id, task_id);
                if let Some(process) = self.processes.get_mut(&holder) {
                    process
                        .unacknowledged
                        .retain(|status| status.update_id.as_ref() != Some(&update_id));
                    if process.unacknowledged.is_empty() && process.task.status.state.is_terminal()
                    {
                        self.processes.remove(&holder);
                    }
                }
                Vec::new()
            }
            ToAgent::Operation(operation) => {
                self.change(*operation);
                Vec::new()
            }
            ToAgent::AcknowledgeOperation {
                framework_id,
                operation_id,
            } => {
                let is_it = |status: &OperationStatus| {
                    status.id == operation_id && status.framework == framework_id
                };
                self.kept.retain(|status| !is_it(status));
                Vec::new()
            }
            ToAgent::TaskMessage { .. } => Vec::new(),
            ToAgent::Drain { .. } => {
                self.draining = true;
                let holders: Vec<Holder> = self.processes.keys().cloned().collect();
                holders
                    .iter()
                    .filter_map(|holder| self.advance_to(holder, TaskState::Killed, now))
                    .collect()
            }
            ToAgent::Activate => {
                self.draining = false;
                Vec::new()
            }
            ToAgent::ShutdownFramework(framework_id) => {
                let owner = Some(framework_id.clone());
                self.kept.retain(|status| status.framework != owner);
                let holders: Vec<Holder> = self
                    .processes
                    .keys()
                    .filter(|(framework, _)| *framework == framework_id)
                    .cloned()
                    .collect();
                holders
                    .iter()
                    .filter_map(|holder| self.advance_to(holder, TaskState::Killed, now))
                    .collect()
            }
        }
    }

    fn launch(&mut self, task: Task, now: u64) -> Vec<TaskStatus> {
        let holder = (task.framework_id.clone(), task.info.task_id.clone());
        if let Some(process) = self.processes.get(&holder) {
            return process.unacknowledged.iter().cloned().collect();
        }
        let part = task.info.pools();
        let overbooked =
            !task.info.revocable && part.map_or(true, |part| !self.free().contains(&part));
        self.processes.insert(
            holder.clone(),
            Process {
                task,
                unacknowledged: VecDeque::new(),
            },
        );
        let first = if self.draining || overbooked {
            TaskState::Dropped
        } else {
            self.n_sharing += usize::from(self.shares(&holder));
            TaskState::Starting
        };
        self.advance_to(&holder, first, now).into_iter().collect()
    }

    /// Who mounts that volume now.
    fn users_of(&self, key: &VolumeKey) -> impl Iterator<Item = &Holder> {
        let mounts = move |info: &TaskInfo| info.persistent.iter().any(|one| one.key() == *key);
        let users = self.running().filter(move |(_, info)| mounts(info));
        users.map(|(holder, _)| holder)
    }

    /// Whether it has a shared volume that another task has, too.
    fn shares(&self, holder: &Holder) -> bool {
        let Some(process) = self.processes.get(holder) else {
            return false;
        };
        let volumes = process.task.info.persistent.iter();
        let mut keys = volumes.filter(|one| one.shared).map(|one| one.key());
        keys.any(|key| self.users_of(&key).any(|user| user != holder))
    }

    /// What no task holds; nothing where that cannot be.
    fn free(&self) -> Pools {
        let mut free = self.pools.clone();
        for (_, info) in self.running().filter(|(_, info)| !info.revocable) {
            free = info
                .pools()
                .ok()
                .and_then(|held| free.without(&held))
                .unwrap_or_default();
        }
        free
    }

    fn change(&mut self, operation: PoolOperation) {
        self.n_changes += 1;
        if let PoolChange::Destroy(key) = &operation.change {
            let user = self.users_of(key).next().map(|(_, task)| task.clone());
            if let Some(task) = user {
                self.fault = Some(format!(
                    "machine {} is to destroy volume {key}, which {task} mounts",
                    self.name
                ));
            }
        }
        let conversion = self.free().conversion(&operation.change);
        // Now and then the disk is full.
        let next = conversion
            .ok()
            .filter(|_| !self.n_changes.is_multiple_of(5));
        let next = next.and_then(|conversion| self.pools.converted(&conversion));
        let state = match next {
            Some(next) => {
                self.pools = next;
                OperationState::Finished
            }
            None => OperationState::Failed,
        };
        let status = OperationStatus {
            id: operation.id,
            framework: operation.framework,
            agent_id: None,
            state,
            message: String::new(),
            keep: operation.keep,
        };
        if operation.keep {
            self.kept.push(status.clone());
        }
        self.answers.push((status, self.pools.clone()));
    }

    /// All that it had is gone, but for its id.
    pub(super) fn lose_disk(&mut self) {
        self.processes.clear();
        self.pools = self.declared.clone();
    }

    /// What is not acknowledged, again, in order per task.
    pub(super) fn repeat(&self) -> Vec<TaskStatus> {
        self.processes
            .values()
            .flat_map(|process| process.unacknowledged.iter().cloned())
            .collect()
    }

    /// Some task goes on by itself.
    pub(super) fn progress(&mut self, dice: &mut Dice, now: u64) -> Option<TaskStatus> {
        let holders: Vec<Holder> = self.processes.keys().cloned().collect();
        let holder = holders.get(dice.below(holders.len()))?;
        let next = match self.processes.get(holder)?.task.status.state {
            TaskState::Staging => TaskState::Starting,
            TaskState::Starting => {
                [TaskState::Running, TaskState::Running, TaskState::Failed][dice.below(3)]
            }
            TaskState::Running | TaskState::Killing => {
                [TaskState::Finished, TaskState::Failed][dice.below(2)]
            }
            TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Unreachable
            | TaskState::Gone
            | TaskState::Unknown => return None,
        };
        self.advance_to(holder, next, now)
    }

    /// The machine was rebooted: nothing runs any more, and it says so.
    pub(super) fn reboot(&mut self, now: u64) {
        let holders: Vec<Holder> = self.processes.keys().cloned().collect();
        for holder in holders {
            self.advance_to(&holder, TaskState::Failed, now);
        }
    }

    fn advance_to(&mut self, holder: &Holder, state: TaskState, now: u64) -> Option<TaskStatus> {
        let process = self.processes.get_mut(holder)?;
        if process.task.status.state.is_terminal() {
            return None;
        }
        self.n_updates += 1;
        let status = TaskStatus {
            state,
            reason: None,
            source: StatusSource::Agent,
            timestamp_ms: now,
            agent_id: self.id.clone(),
            update_id: Some(
                format!("m{}-u{}", self.name, self.n_updates)
                    .parse()
                    .unwrap(),
            ),
            ..process.task.status.clone()
        };
        process.task.status = status.clone();
        process.unacknowledged.push_back(status.clone());
        Some(status)
    }

    /// What really runs here.
    pub(super) fn running(&self) -> impl Iterator<Item = (&Holder, &TaskInfo)> {
        self.processes
            .iter()
            .filter(|(_, process)| !process.task.status.state.is_terminal())
            .map(|(holder, process)| (holder, &process.task.info))
    }
}

/// As an agent reads it from the wire.
fn described(task: &KnownTask) -> Task {
    Task {
        info: (&task.info)
            .try_into()
            .expect("what a master passes on was checked"),
        framework_id: task.framework_id.clone(),
        role: task.role.clone(),
        status: task.status.clone(),
        started_at_ms: task.started_at_ms,
    }
}
