//! All tasks of this machine: event + now → new state + effects. Pure; driven by `actor`, rebuilt by `recovery`.
//!
//! What holds at any time: a task id is launched at most once; nothing is done for a task before its checkpoint is
//! on disk, nothing is told before it is on disk; resources are held until the last process is gone.

mod change;
mod disk;
mod drain;
mod group;
mod group_limits;
mod kill;
mod launch;
mod lend;
mod pools;
mod time;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    time::Duration,
};

use mezzo_api::model::{
    AgentId, CgroupMode, CheckResult, ExitInfo, LinuxCapability, ReadinessStatus, StatusSource,
    Task, TaskStatus, UpdateId, Usage,
};

use super::{
    Context, TaskKey,
    change::Refused,
    entry::{Entry, Gate, Phase},
    event::{Effect, Event, Verdict},
    group::Group,
    status::{KillCause, Outcome, ended},
    updates::{Acknowledged, Retry},
};
use crate::{
    node::{ContainerId, ExitRecord},
    resources::{
        book::{Book, Saved},
        grant::Grants,
        ledger::Ledger,
    },
};

/// A container that survived a kill is killed again after this.
const KILL_AGAIN_MS: u64 = 5_000;
/// Health changes wait when this many statuses of the task wait already.
const HEALTH_QUEUE: usize = 4;
/// Sent this often without an answer, the statuses of a removed framework's task are given up.
const FORGOTTEN_ATTEMPTS: u32 = 5;
/// Longest message of a status, in bytes.
const MAX_MESSAGE: usize = 4_096;
/// Ids of collected tasks that are remembered, so that a late launch does not run them again.
const TOMBSTONES: usize = 4_096;

/// What the operator decided.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) retry: Retry,
    pub(crate) kill_grace: Duration,
    /// Ended tasks whose folder and logs are kept.
    pub(crate) retain_ended: usize,
    pub(crate) retain_ms: u64,
    pub(crate) allow_privileged: bool,
    pub(crate) allow_host_users: bool,
    /// The default set, and what tasks may add to it.
    pub(crate) allow_capabilities: Vec<LinuxCapability>,
    pub(crate) host_path_allow: Vec<PathBuf>,
    pub(crate) boot_id: String,
    /// Processes and threads of a task that does not say.
    pub(crate) default_pids: u64,
    /// Tasks that take more of the disk than they hold are killed.
    pub(crate) enforce_disk: bool,
    /// What the machine can limit.
    pub(crate) cgroup_mode: CgroupMode,
}

/// The state.
#[derive(Debug)]
pub(crate) struct Core {
    settings: Settings,
    agent_id: Option<AgentId>,
    connected: bool,
    ledger: Ledger,
    lent: lend::Lent,
    grants: Grants,
    book: Book,
    /// The next one, until it is on disk.
    writing: Option<pools::Writing>,
    tasks: BTreeMap<TaskKey, Entry>,
    by_container: HashMap<ContainerId, TaskKey>,
    groups: BTreeMap<ContainerId, Group>,
    tombstones: HashMap<TaskKey, TaskStatus>,
    tombstone_order: VecDeque<TaskKey>,
    /// Monotonic; when ended tasks are looked through again.
    next_collection_ms: u64,
    service: drain::Service,
}

impl Core {
    /// Without tasks.
    pub(crate) fn new(
        settings: Settings,
        agent_id: Option<AgentId>,
        total: mezzo_api::model::Resources,
        grants: Grants,
    ) -> Self {
        Self {
            settings,
            agent_id,
            connected: false,
            book: Book::open(total.clone().into(), Saved::default()).unwrap_or_default(),
            writing: None,
            ledger: Ledger::new(total),
            lent: lend::Lent::default(),
            grants,
            tasks: BTreeMap::new(),
            by_container: HashMap::new(),
            groups: BTreeMap::new(),
            tombstones: HashMap::new(),
            tombstone_order: VecDeque::new(),
            next_collection_ms: 0,
            service: drain::Service::default(),
        }
    }

    /// Takes one event in.
    pub(crate) fn handle(&mut self, event: Event, ctx: &mut Context<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Launch {
                framework,
                role,
                info,
            } => self.launch(framework, role, *info, None, ctx, &mut effects),
            Event::LaunchGroup {
                framework,
                role,
                infos,
            } => self.launch_group(&framework, &role, infos, ctx, &mut effects),
            Event::Ready(id) => {
                if let Some(entry) = self.entry(&id)
                    && entry.gate == Gate::Pulling
                {
                    entry.gate = Gate::Ready;
                }
            }
            Event::Held(holder, held) => self.held(&holder, held, &mut effects),
            Event::LetGo(holder) => {
                self.groups.remove(&holder);
            }
            Event::Kill { key, grace } => self.kill_requested(&key, grace, ctx, &mut effects),
            Event::Acknowledge { key, update } => self.acknowledge(&key, &update, &mut effects),
            Event::ShutdownFramework(framework) => {
                self.shutdown_framework(&framework, ctx, &mut effects)
            }
            Event::Registered(agent_id) => {
                self.agent_id = Some(agent_id);
                self.connected = true;
                self.activate();
                for entry in self.tasks.values_mut() {
                    entry.updates.restart();
                }
            }
            Event::Drain { max_grace } => self.drain(max_grace, ctx, &mut effects),
            Event::Activate => self.activate(),
            Event::Operate(operation) => self.operate(&operation, ctx, &mut effects),
            Event::AcknowledgeOperation {
                framework,
                operation,
            } => self.acknowledge_operation(framework.as_ref(), &operation, &mut effects),
            Event::BookWritten(result) => self.book_written(result, &mut effects),
            Event::Purged(folder) => self.book.purged(&folder),
            Event::Disconnected => self.connected = false,
            Event::KillAll => {
                let all: Vec<_> = self.tasks.keys().cloned().collect();
                for key in all {
                    self.kill(&key, None, KillCause::AgentShutdown, ctx, &mut effects);
                }
            }
            Event::Created(id) => self.created(&id, ctx, &mut effects),
            Event::CreateFailed(id, error) => self.create_failed(&id, &error, ctx, &mut effects),
            Event::Written(id, update) => {
                if let Some(entry) = self.entry(&id) {
                    entry.updates.durable(&update);
                    if entry.ended_at().is_some() {
                        effects.push(Effect::DropSnapshot(id));
                    }
                }
            }
            Event::Progress(id, message) => self.progress(&id, message, ctx, &mut effects),
            Event::Launched {
                container,
                started,
                image_digest,
            } => {
                self.launched(&container, started, image_digest, ctx, &mut effects);
            }
            Event::LaunchFailed(id, failure) => self.launch_failed(&id, failure, ctx, &mut effects),
            Event::Exited(id, record) => {
                self.holder_lost(&id);
                self.exited(&id, &record, ctx, &mut effects);
            }
            Event::Usage(samples) => {
                for (id, usage) in samples {
                    if let Some(entry) = self.entry(&id).filter(|entry| entry.is_alive()) {
                        entry.usage = Some(Usage {
                            disk_bytes: entry.disk_bytes,
                            ..usage
                        });
                    }
                }
            }
            Event::Disk(found) => {
                for (id, used) in found {
                    self.disk(&id, used, ctx, &mut effects);
                }
            }
            Event::Lend(total) => self.lend(total),
            Event::HoldBack(throttle) => self.hold_back(throttle, &mut effects),
            Event::Preempt {
                container,
                scarce,
                message,
            } => self.preempt(&container, scarce, message, ctx, &mut effects),
            Event::Limited {
                container,
                limits,
                result,
            } => self.limited(&container, &limits, result, &mut effects),
            Event::Rewritten(written, result) => self.rewritten(&written, result, &mut effects),
            Event::Readiness(id, status) => self.readiness(&id, status),
            Event::Check(id, result) => self.checked(&id, result),
            Event::Health(id, number, verdict) => {
                self.health(&id, number, verdict, ctx, &mut effects);
            }
            Event::Tick => {}
        }
        self.keep_groups(ctx, &mut effects);
        self.keep_time(ctx, &mut effects);
        effects
    }

    /// When the next [`Event::Tick`] is due, in monotonic milliseconds.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let tasks = self.tasks.values().flat_map(|entry| {
            let phase = match &entry.phase {
                Phase::Running { complete_by_ms } => *complete_by_ms,
                Phase::Killing { kill_at_ms, .. } => Some(*kill_at_ms),
                Phase::Creating(_) | Phase::Launching { .. } | Phase::Ended { .. } => None,
            };
            let update = if self.connected {
                entry.updates.due_ms()
            } else {
                None
            };
            [phase, update].into_iter().flatten()
        });
        let collection = self
            .tasks
            .values()
            .any(Entry::is_settled)
            .then_some(self.next_collection_ms);
        tasks.chain(collection).min()
    }

    /// For a registration: every task but those that ended and are acknowledged.
    pub(crate) fn snapshot(&self) -> Vec<Task> {
        self.tasks
            .values()
            .filter(|entry| !entry.is_settled())
            .map(Entry::task)
            .collect()
    }

    /// All tasks, also those that only their logs are kept of.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.tasks.values()
    }

    /// The newest task of that id, whosever it is; one that runs goes first.
    pub(crate) fn find(&self, task_id: &str) -> Option<&Entry> {
        self.tasks
            .values()
            .filter(|entry| entry.key.task.as_str() == task_id)
            .max_by_key(|entry| (entry.ended_at().is_none(), entry.latest.timestamp_ms))
    }

    /// The task of a container.
    pub(crate) fn by_container(&self, id: &ContainerId) -> Option<&Entry> {
        self.tasks.get(self.by_container.get(id)?)
    }

    /// One task.
    pub(crate) fn get(&self, key: &TaskKey) -> Option<&Entry> {
        self.tasks.get(key)
    }

    /// The ledger.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether a master listens.
    pub(crate) fn connected(&self) -> bool {
        self.connected
    }

    /// Once registered.
    pub(crate) fn agent_id(&self) -> Option<&AgentId> {
        self.agent_id.as_ref()
    }

    /// How many statuses wait for an acknowledgement.
    pub(crate) fn n_unacknowledged(&self) -> usize {
        self.tasks.values().map(|entry| entry.updates.len()).sum()
    }

    /// Takes a task in that recovery found. Its resources are held if it has not ended.
    pub(crate) fn adopt(&mut self, entry: Entry) {
        if entry.ended_at().is_none() {
            self.hold(&entry.container, &entry.info);
            self.grants.adopt(&entry.container, &entry.grant);
        }
        self.by_container
            .insert(entry.container.clone(), entry.key.clone());
        self.tasks.insert(entry.key.clone(), entry);
    }

    /// Tells of a task that recovery found: as if it had just happened.
    pub(crate) fn report(
        &mut self,
        container: &ContainerId,
        outcome: Outcome,
        exit: Option<ExitInfo>,
        usage: Option<Usage>,
        ctx: &mut Context<'_>,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if outcome.state.is_terminal() {
            self.end(container, outcome, exit, usage, ctx, &mut effects);
        } else {
            self.tell(container, outcome, ctx, &mut effects);
        }
        effects
    }

    fn entry(&mut self, id: &ContainerId) -> Option<&mut Entry> {
        self.tasks.get_mut(self.by_container.get(id)?)
    }

    /// Sends the latest status once more, unless an older one is still to be acknowledged: then that one.
    fn tell_again(&mut self, key: &TaskKey, effects: &mut Vec<Effect>) {
        if let Some(entry) = self.tasks.get_mut(key) {
            if entry.updates.is_empty() {
                effects.push(Effect::Send(Box::new(entry.latest.clone())));
            } else {
                entry.updates.restart();
            }
        } else if let Some(latest) = self.tombstones.get(key) {
            effects.push(Effect::Send(Box::new(latest.clone())));
        }
    }

    fn acknowledge(&mut self, key: &TaskKey, update: &UpdateId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.tasks.get_mut(key) else {
            tracing::debug!(task = %key, %update, "acknowledgement for a task that is not here");
            return;
        };
        match entry.updates.acknowledge(update) {
            Acknowledged::Accepted => {
                effects.push(Effect::AppendAcknowledged(
                    entry.container.clone(),
                    update.clone(),
                ));
                if entry.is_settled() {
                    self.next_collection_ms = 0;
                }
            }
            Acknowledged::Ignored => {
                tracing::debug!(task = %key, %update, "acknowledgement of a status that does not wait for one");
            }
        }
    }

    fn exited(
        &mut self,
        id: &ContainerId,
        record: &ExitRecord,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.entry(id) else { return };
        let cause = match &entry.phase {
            Phase::Killing { cause, .. } => Some(cause.clone()),
            Phase::Running { .. } => None,
            Phase::Creating(_) | Phase::Launching { .. } | Phase::Ended { .. } => return,
        };
        let (outcome, exit) = ended(record, cause.as_ref());
        let usage = Usage {
            disk_bytes: record.usage.disk_bytes.or(entry.disk_bytes),
            ..record.usage.clone()
        };
        effects.push(Effect::StopHealth(id.clone()));
        self.end(id, outcome, exit, Some(usage), ctx, effects);
    }

    /// `keep_time` tells of it.
    fn health(
        &mut self,
        id: &ContainerId,
        number: usize,
        verdict: Verdict,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.entry(id) else { return };
        if !matches!(entry.phase, Phase::Running { .. }) {
            return;
        }
        let Some(word) = entry.health.get_mut(number) else {
            return;
        };
        *word = Some(verdict == Verdict::Healthy);
        if let Verdict::Kill(message) = verdict {
            let cause = KillCause::Unhealthy(entry.with_check(number, message));
            let key = entry.key.clone();
            self.kill(&key, None, cause, ctx, effects);
        }
    }

    /// `keep_time` tells of it.
    fn readiness(&mut self, id: &ContainerId, status: Box<ReadinessStatus>) {
        if let Some(entry) = self.entry(id)
            && matches!(entry.phase, Phase::Running { .. })
            && entry.readiness.as_ref().is_none_or(|last| !last.ready)
        {
            entry.readiness = Some(status);
        }
    }

    /// `keep_time` tells of it. The next agent asks anew, and may find what was told already.
    fn checked(&mut self, id: &ContainerId, result: CheckResult) {
        if let Some(entry) = self.entry(id)
            && matches!(entry.phase, Phase::Running { .. })
            && entry
                .check_result
                .as_ref()
                .is_none_or(|last| !last.says_the_same(&result))
        {
            entry.check_result = Some(Box::new(result));
        }
    }

    /// Records and tells a state that is not terminal.
    fn tell(
        &mut self,
        id: &ContainerId,
        outcome: Outcome,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.entry(id) else { return };
        let status = entry.status(outcome, None, entry.usage.clone(), ctx);
        entry.latest = status.clone();
        entry.updates.push(status.clone());
        effects.push(Effect::Append(id.clone(), Box::new(status)));
    }

    /// Records and tells the end, and frees what the task held.
    fn end(
        &mut self,
        id: &ContainerId,
        outcome: Outcome,
        exit: Option<ExitInfo>,
        usage: Option<Usage>,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        self.give_back(id);
        let more_to_share = self.grants.release(id);
        let Some(entry) = self.entry(id) else { return };
        tracing::info!(
            task = %entry.key, container = %id, state = %outcome.state, reason = ?outcome.reason,
            message = outcome.message, "task ended"
        );
        if entry.changing.take().is_some() {
            effects.push(Effect::Answer(id.clone(), Err(Refused::ended())));
        }
        let status = entry.status(outcome, exit, usage, ctx);
        entry.latest = status.clone();
        entry.usage = status.usage.as_deref().cloned();
        entry.updates.push(status.clone());
        entry.phase = Phase::Ended {
            at_ms: ctx.now.mono_ms,
        };
        effects.push(Effect::Append(id.clone(), Box::new(status)));
        if more_to_share {
            self.tell_all_limits(effects);
        }
    }
}

impl Entry {
    /// A status that is kept until it is acknowledged.
    fn status(
        &self,
        outcome: Outcome,
        exit: Option<ExitInfo>,
        usage: Option<Usage>,
        ctx: &mut Context<'_>,
    ) -> TaskStatus {
        let id = uuid::Builder::from_random_bytes((ctx.random)().to_ne_bytes()).into_uuid();
        TaskStatus {
            task_id: self.key.task.clone(),
            framework_id: self.key.framework.clone(),
            agent_id: Some(self.info.agent_id.clone()),
            state: outcome.state,
            reason: outcome.reason,
            source: StatusSource::Agent,
            message: bounded(outcome.message),
            timestamp_ms: ctx.now.unix_ms,
            update_id: Some(
                id.to_string()
                    .parse()
                    .expect("a UUID in text form is a valid id"),
            ),
            healthy: self.healthy(),
            health_results: self.health.clone(),
            container: self.container_status.clone(),
            exit: exit.map(Box::new),
            usage: usage.map(Box::new),
            readiness: self.readiness.clone(),
            check_result: self.check_result.clone(),
        }
    }
}

/// Words of images, runtimes and kernels end up here; a status stays small whatever they say.
fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let mut end = MAX_MESSAGE;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}
