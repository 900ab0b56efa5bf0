//! All tasks of this machine: event + now → new state + effects. Pure; driven by `actor`, rebuilt by `recovery`.
//!
//! What holds at any time: a task id is launched at most once; nothing is done for a task before its checkpoint is
//! on disk, nothing is told before it is on disk; resources are held until the last process is gone.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    time::Duration,
};

use mezzo_api::model::{
    AgentId, ContainerStatus, ExitInfo, FrameworkId, Reason, RoleName, StatusSource, Task,
    TaskInfo, TaskState, TaskStatus, UpdateId, Usage,
};

use super::{
    Context, TaskKey,
    entry::{Entry, Interest, Next, Phase},
    event::{Effect, Event, LaunchFailure, Verdict},
    spec,
    status::{KillCause, Outcome, ended},
    updates::{Acknowledged, Retry, UpdateQueue},
};
use crate::{
    node::{ContainerId, ExitRecord, Started},
    recovery::checkpoint::Checkpoint,
    resources::ledger::Ledger,
};

/// A container that survived a kill is killed again after this.
const KILL_AGAIN_MS: u64 = 5_000;
/// Health changes wait when this many statuses of the task wait already.
const HEALTH_QUEUE: usize = 4;
/// Sent this often without an answer, the statuses of a removed framework's task are given up.
const FORGOTTEN_ATTEMPTS: u32 = 5;
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
    pub(crate) host_path_allow: Vec<PathBuf>,
    pub(crate) boot_id: String,
}

/// The state.
#[derive(Debug)]
pub(crate) struct Core {
    settings: Settings,
    agent_id: Option<AgentId>,
    connected: bool,
    ledger: Ledger,
    tasks: BTreeMap<TaskKey, Entry>,
    by_container: HashMap<ContainerId, TaskKey>,
    tombstones: HashMap<TaskKey, TaskStatus>,
    tombstone_order: VecDeque<TaskKey>,
    /// Monotonic; when ended tasks are looked through again.
    next_collection_ms: u64,
}

impl Core {
    /// Without tasks.
    pub(crate) fn new(
        settings: Settings,
        agent_id: Option<AgentId>,
        total: mezzo_api::model::Resources,
    ) -> Self {
        Self {
            settings,
            agent_id,
            connected: false,
            ledger: Ledger::new(total),
            tasks: BTreeMap::new(),
            by_container: HashMap::new(),
            tombstones: HashMap::new(),
            tombstone_order: VecDeque::new(),
            next_collection_ms: 0,
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
            } => self.launch(framework, role, *info, ctx, &mut effects),
            Event::Kill { key, grace } => self.kill_requested(&key, grace, ctx, &mut effects),
            Event::Acknowledge { key, update } => self.acknowledge(&key, &update, &mut effects),
            Event::ShutdownFramework(framework) => {
                self.shutdown_framework(&framework, ctx, &mut effects)
            }
            Event::Registered(agent_id) => {
                self.agent_id = Some(agent_id);
                self.connected = true;
                for entry in self.tasks.values_mut() {
                    entry.updates.restart();
                }
            }
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
            Event::Exited(id, record) => self.exited(&id, &record, ctx, &mut effects),
            Event::Usage(samples) => {
                for (id, usage) in samples {
                    if let Some(entry) = self.entry(&id).filter(|entry| entry.is_alive()) {
                        entry.usage = Some(usage);
                    }
                }
            }
            Event::Health(id, verdict) => self.health(&id, verdict, ctx, &mut effects),
            Event::Tick => {}
        }
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
            self.ledger.adopt(&entry.container, &entry.info.resources);
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

    fn launch(
        &mut self,
        framework: FrameworkId,
        role: RoleName,
        info: TaskInfo,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let key = TaskKey {
            framework,
            task: info.task_id.clone(),
        };
        if self.tasks.contains_key(&key) || self.tombstones.contains_key(&key) {
            tracing::info!(task = %key, "asked to launch a task that is known: its latest status is sent again");
            self.tell_again(&key, effects);
            return;
        }
        let container = ContainerId::derive(key.task.as_str(), (ctx.random)() as u64);
        let refusal = self.refuse(&info).or_else(|| {
            self.ledger
                .reserve(&container, &info.resources)
                .err()
                .map(|error| {
                    Outcome::new(
                        TaskState::Error,
                        Reason::ResourcesUnavailable,
                        error.to_string(),
                    )
                })
        });
        let checkpoint = Checkpoint {
            container: container.clone(),
            framework: key.framework.clone(),
            role: role.clone(),
            boot_id: self.settings.boot_id.clone(),
            created_at_ms: ctx.now.unix_ms,
            info: info.clone(),
        };
        let latest = TaskStatus {
            task_id: key.task.clone(),
            framework_id: key.framework.clone(),
            agent_id: Some(info.agent_id.clone()),
            state: TaskState::Staging,
            reason: None,
            source: StatusSource::Agent,
            message: String::new(),
            timestamp_ms: ctx.now.unix_ms,
            update_id: None,
            healthy: None,
            container: None,
            exit: None,
            usage: None,
        };
        self.by_container.insert(container.clone(), key.clone());
        self.tasks.insert(
            key.clone(),
            Entry {
                key,
                role,
                info,
                container,
                phase: Phase::Creating(refusal.map_or(Next::Launch, Next::End)),
                updates: UpdateQueue::new(self.settings.retry),
                interest: Interest::Framework,
                latest,
                container_status: None,
                started_at_ms: None,
                usage: None,
                healthy: None,
            },
        );
        effects.push(Effect::Create(Box::new(checkpoint)));
    }

    fn refuse(&self, info: &TaskInfo) -> Option<Outcome> {
        if let Some(own) = &self.agent_id
            && *own != info.agent_id
        {
            let message = format!(
                "the task is meant for agent {}, but this is {own}",
                info.agent_id
            );
            return Some(Outcome::new(TaskState::Error, Reason::TaskInvalid, message));
        }
        spec::refuse(
            info,
            self.settings.allow_privileged,
            &self.settings.host_path_allow,
        )
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

    fn kill_requested(
        &mut self,
        key: &TaskKey,
        grace: Option<Duration>,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        match self.tasks.get(key) {
            Some(entry) if entry.ended_at().is_none() => {
                self.kill(key, grace, KillCause::Requested, ctx, effects);
            }
            Some(_) => self.tell_again(key, effects),
            None if self.tombstones.contains_key(key) => self.tell_again(key, effects),
            None => tracing::info!(task = %key, "asked to kill a task that is not here"),
        }
    }

    fn kill(
        &mut self,
        key: &TaskKey,
        grace: Option<Duration>,
        cause: KillCause,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let default_grace = self.settings.kill_grace;
        let Some(entry) = self.tasks.get_mut(key) else {
            return;
        };
        let during_launch = || match &cause {
            KillCause::Requested => KillCause::DuringLaunch,
            other => other.clone(),
        };
        match &mut entry.phase {
            Phase::Creating(next) => {
                if *next == Next::Launch {
                    *next = Next::End(during_launch().outcome("it never ran"));
                }
            }
            Phase::Launching { kill } => {
                if kill.is_none() {
                    *kill = Some(during_launch());
                    effects.push(Effect::CancelLaunch(entry.container.clone()));
                }
            }
            Phase::Running { .. } => {
                let grace = grace.or(entry.info.kill_grace).unwrap_or(default_grace);
                let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                let outcome = cause.killing(grace_ms);
                entry.phase = Phase::Killing {
                    cause,
                    kill_at_ms: ctx.now.mono_ms.saturating_add(grace_ms),
                };
                let container = entry.container.clone();
                effects.push(Effect::StopHealth(container.clone()));
                effects.push(Effect::Terminate(container.clone()));
                self.tell(&container, outcome, ctx, effects);
            }
            Phase::Killing { kill_at_ms, .. } => {
                // May shorten a grace period that runs, never lengthen it.
                if let Some(grace) = grace {
                    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                    *kill_at_ms = (*kill_at_ms).min(ctx.now.mono_ms.saturating_add(grace_ms));
                }
            }
            Phase::Ended { .. } => {}
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

    fn shutdown_framework(
        &mut self,
        framework: &FrameworkId,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let theirs: Vec<_> = self
            .tasks
            .keys()
            .filter(|key| key.framework == *framework)
            .cloned()
            .collect();
        for key in theirs {
            if let Some(entry) = self.tasks.get_mut(&key)
                && entry.interest == Interest::Framework
            {
                entry.interest = Interest::Nobody;
                effects.push(Effect::AppendForgotten(entry.container.clone()));
            }
            self.kill(&key, None, KillCause::FrameworkRemoved, ctx, effects);
        }
    }

    fn created(&mut self, id: &ContainerId, ctx: &mut Context<'_>, effects: &mut Vec<Effect>) {
        let Some(entry) = self.entry(id) else { return };
        let Phase::Creating(next) = &entry.phase else {
            return;
        };
        match next.clone() {
            Next::Launch => {
                entry.phase = Phase::Launching { kill: None };
                effects.push(Effect::Launch {
                    container: id.clone(),
                    framework: entry.key.framework.clone(),
                    info: Box::new(entry.info.clone()),
                });
            }
            Next::End(outcome) => self.end(id, outcome, None, None, ctx, effects),
        }
    }

    /// Without a checkpoint nothing may start, and the end cannot be made durable either: it is told as long as this
    /// process lives; after that the master misses the task in the registration.
    fn create_failed(
        &mut self,
        id: &ContainerId,
        error: &str,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.entry(id) else { return };
        let Phase::Creating(next) = &entry.phase else {
            return;
        };
        let outcome = match next.clone() {
            Next::Launch => Outcome::new(
                TaskState::Dropped,
                Reason::ContainerLaunchFailed,
                format!("the agent cannot write the task's checkpoint: {error}"),
            ),
            Next::End(outcome) => outcome,
        };
        let status = entry.status(outcome, None, None, ctx);
        entry.latest = status.clone();
        entry.updates.push_durable(status);
        entry.phase = Phase::Ended {
            at_ms: ctx.now.mono_ms,
        };
        self.ledger.release(id);
        effects.push(Effect::DropSnapshot(id.clone()));
    }

    fn progress(
        &mut self,
        id: &ContainerId,
        message: String,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        // Told only when the one before has arrived: a slow framework gets fewer, not more.
        let wanted = self.entry(id).is_some_and(|entry| {
            entry.phase == Phase::Launching { kill: None }
                && entry.updates.is_empty()
                && entry.latest.message != message
        });
        if wanted {
            self.tell(
                id,
                Outcome {
                    state: TaskState::Starting,
                    reason: None,
                    message,
                },
                ctx,
                effects,
            );
        }
    }

    fn launched(
        &mut self,
        id: &ContainerId,
        started: Started,
        image_digest: String,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.entry(id) else { return };
        let Phase::Launching { kill } = entry.phase.clone() else {
            return;
        };
        entry.started_at_ms = Some(started.started_at_ms);
        entry.container_status = Some(ContainerStatus {
            container_id: id.to_string(),
            pid: started.pid,
            cgroup_path: started.cgroup,
            image_digest,
        });
        effects.push(Effect::Watch(id.clone()));
        if let Some(cause) = kill {
            entry.phase = Phase::Killing {
                cause,
                kill_at_ms: ctx.now.mono_ms,
            };
            return;
        }
        entry.phase = Phase::Running {
            complete_by_ms: entry.info.max_completion.map(|limit| {
                ctx.now
                    .mono_ms
                    .saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
            }),
        };
        if let Some(check) = &entry.info.health_check {
            effects.push(Effect::StartHealth(id.clone(), Box::new(check.clone())));
        }
        let running = Outcome {
            state: TaskState::Running,
            reason: None,
            message: String::new(),
        };
        self.tell(id, running, ctx, effects);
    }

    fn launch_failed(
        &mut self,
        id: &ContainerId,
        failure: LaunchFailure,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.entry(id) else { return };
        let Phase::Launching { kill } = &entry.phase else {
            return;
        };
        let outcome = match (kill, failure) {
            (Some(cause), _) => cause.outcome("it never ran"),
            (None, LaunchFailure::Cancelled) => KillCause::DuringLaunch.outcome("it never ran"),
            (None, LaunchFailure::Failed(outcome)) => outcome,
        };
        self.end(id, outcome, None, None, ctx, effects);
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
        effects.push(Effect::StopHealth(id.clone()));
        self.end(id, outcome, exit, Some(record.usage.clone()), ctx, effects);
    }

    fn health(
        &mut self,
        id: &ContainerId,
        verdict: Verdict,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.entry(id) else { return };
        if !matches!(entry.phase, Phase::Running { .. }) {
            return;
        }
        match verdict {
            Verdict::Healthy => entry.healthy = Some(true),
            Verdict::Unhealthy => entry.healthy = Some(false),
            Verdict::Kill(message) => {
                entry.healthy = Some(false);
                let key = entry.key.clone();
                self.kill(&key, None, KillCause::Unhealthy(message), ctx, effects);
            }
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
        self.ledger.release(id);
        let Some(entry) = self.entry(id) else { return };
        tracing::info!(
            task = %entry.key, container = %id, state = %outcome.state, reason = ?outcome.reason,
            message = outcome.message, "task ended"
        );
        let status = entry.status(outcome, exit, usage, ctx);
        entry.latest = status.clone();
        entry.usage.clone_from(&status.usage);
        entry.updates.push(status.clone());
        entry.phase = Phase::Ended {
            at_ms: ctx.now.mono_ms,
        };
        effects.push(Effect::Append(id.clone(), Box::new(status)));
    }

    /// Everything that the time, not an event, brings about.
    fn keep_time(&mut self, ctx: &mut Context<'_>, effects: &mut Vec<Effect>) {
        let now_ms = ctx.now.mono_ms;
        let mut too_long = Vec::new();
        let mut health = Vec::new();
        for entry in self.tasks.values_mut() {
            match &mut entry.phase {
                Phase::Running {
                    complete_by_ms: Some(by),
                } if now_ms >= *by => {
                    too_long.push(entry.key.clone());
                }
                Phase::Killing { kill_at_ms, .. } if now_ms >= *kill_at_ms => {
                    *kill_at_ms = now_ms.saturating_add(KILL_AGAIN_MS);
                    effects.push(Effect::Kill(entry.container.clone()));
                }
                Phase::Running { .. }
                    if entry.healthy != entry.latest.healthy
                        && entry.updates.len() < HEALTH_QUEUE =>
                {
                    health.push(entry.container.clone());
                }
                Phase::Creating(_)
                | Phase::Launching { .. }
                | Phase::Running { .. }
                | Phase::Killing { .. }
                | Phase::Ended { .. } => {}
            }
            if !self.connected {
                continue;
            }
            if entry.interest == Interest::Nobody && entry.updates.attempts() >= FORGOTTEN_ATTEMPTS
            {
                entry.updates.clear();
                self.next_collection_ms = 0;
            }
            if let Some(status) = entry.updates.take_due(now_ms) {
                effects.push(Effect::Send(Box::new(status.clone())));
            }
        }
        for key in too_long {
            let limit = self
                .tasks
                .get(&key)
                .and_then(|entry| entry.info.max_completion)
                .unwrap_or_default();
            let cause =
                KillCause::MaxCompletion(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            self.kill(&key, None, cause, ctx, effects);
        }
        for id in health {
            let outcome = Outcome::new(
                TaskState::Running,
                Reason::HealthCheckStatusUpdated,
                String::new(),
            );
            self.tell(&id, outcome, ctx, effects);
        }
        if now_ms >= self.next_collection_ms {
            self.collect(now_ms, effects);
        }
    }

    /// Gives up what is kept only to be looked at: beyond the number to retain, or too old.
    fn collect(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        self.next_collection_ms = now_ms.saturating_add(30_000);
        let mut settled: Vec<_> = self
            .tasks
            .values()
            .filter(|entry| entry.updates.is_empty())
            .filter_map(|entry| Some((entry.ended_at()?, entry.key.clone())))
            .collect();
        settled.sort();
        let surplus = settled.len().saturating_sub(self.settings.retain_ended);
        for (n, (at_ms, key)) in settled.into_iter().enumerate() {
            if n >= surplus && now_ms.saturating_sub(at_ms) < self.settings.retain_ms {
                continue;
            }
            if let Some(entry) = self.tasks.remove(&key) {
                self.by_container.remove(&entry.container);
                effects.push(Effect::Collect(entry.container));
                self.tombstone_order.push_back(key.clone());
                self.tombstones.insert(key, entry.latest);
                if self.tombstone_order.len() > TOMBSTONES
                    && let Some(oldest) = self.tombstone_order.pop_front()
                {
                    self.tombstones.remove(&oldest);
                }
            }
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
            message: outcome.message,
            timestamp_ms: ctx.now.unix_ms,
            update_id: Some(
                id.to_string()
                    .parse()
                    .expect("a UUID in text form is a valid id"),
            ),
            healthy: self.healthy,
            container: self.container_status.clone(),
            exit,
            usage,
        }
    }
}
