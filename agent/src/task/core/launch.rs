//! From the order to the running process: what is refused, what is recorded, what follows each step. Pure.

use mezzo_api::model::{
    ContainerStatus, FrameworkId, Reason, RoleName, StatusSource, TaskInfo, TaskState, TaskStatus,
};

use super::Core;
use crate::{
    node::{ContainerId, Started},
    recovery::checkpoint::Checkpoint,
    resources::grant::Grant,
    task::{
        Context, TaskKey,
        entry::{Entry, Gate, Interest, Next, Phase},
        event::{Effect, LaunchFailure},
        limits, spec,
        status::{KillCause, Outcome},
        updates::UpdateQueue,
    },
};

impl Core {
    pub(super) fn launch(
        &mut self,
        framework: FrameworkId,
        role: RoleName,
        info: TaskInfo,
        holder: Option<ContainerId>,
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
        let refusal = self
            .refuse(&info)
            .or_else(|| self.refuse_pools(&info, holder.as_ref()));
        let refusal = refusal.or_else(|| self.reserve(&container, &info).err());
        let granted = match &refusal {
            Some(_) => Ok(Grant::default()),
            None => self.grants.take(&container, &info),
        };
        let (refusal, grant) = match granted {
            Ok(grant) => (refusal, grant),
            Err(message) => {
                self.give_back(&container);
                let reason = Reason::ResourcesUnavailable;
                let outcome = Outcome::new(TaskState::Error, reason, message);
                (Some(outcome), Grant::default())
            }
        };
        let checkpoint = Checkpoint {
            container: container.clone(),
            framework: key.framework.clone(),
            role: role.clone(),
            boot_id: self.settings.boot_id.clone(),
            created_at_ms: ctx.now.unix_ms,
            info: info.clone(),
            grant: grant.clone(),
            holder: holder.clone(),
        };
        let health = vec![None; info.health_checks.len()];
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
            health_results: health.clone(),
            container: None,
            readiness: None,
            check_result: None,
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
                disk_bytes: None,
                disk_that_counts: 0,
                health,
                readiness: None,
                check_result: None,
                grant,
                created_at_ms: ctx.now.unix_ms,
                told_limits: None,
                gate: match &holder {
                    Some(_) => Gate::Pulling,
                    None => Gate::Open,
                },
                holder,
                changing: None,
            },
        );
        effects.push(Effect::Create(Box::new(checkpoint)));
    }

    pub(super) fn refuse(&self, info: &TaskInfo) -> Option<Outcome> {
        if let Some(outcome) = self.refuse_draining() {
            return Some(outcome);
        }
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
            &spec::Switches {
                privileged: self.settings.allow_privileged,
                host_users: self.settings.allow_host_users,
                capabilities: &self.settings.allow_capabilities,
            },
            &self.settings.host_path_allow,
        )
        .or_else(|| limits::refuse(info, self.settings.cgroup_mode))
    }

    pub(super) fn created(
        &mut self,
        id: &ContainerId,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let limits = self.wanted_limits(id);
        let volumes = self.volume_folders(id);
        let Some(entry) = self.entry(id) else { return };
        let Phase::Creating(next) = &entry.phase else {
            return;
        };
        match next.clone() {
            Next::Launch => {
                entry.phase = Phase::Launching { kill: None };
                entry.told_limits.clone_from(&limits);
                effects.push(Effect::Launch {
                    container: id.clone(),
                    framework: entry.key.framework.clone(),
                    info: Box::new(entry.info.clone()),
                    limits: Box::new(limits.unwrap_or_default()),
                    grant: entry.grant.clone(),
                    volumes,
                    holder: entry.holder.clone(),
                });
                // The others make room before it runs.
                if !entry.grant.cpus.is_empty() {
                    self.tell_all_limits(effects);
                }
            }
            Next::End(outcome) => self.end(id, outcome, None, None, ctx, effects),
        }
    }

    /// Without a checkpoint nothing may start, and the end cannot be made durable either: it is told as long as this
    /// process lives; after that the master misses the task in the registration.
    pub(super) fn create_failed(
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
        self.give_back(id);
        effects.push(Effect::DropSnapshot(id.clone()));
        if self.grants.release(id) {
            self.tell_all_limits(effects);
        }
    }

    pub(super) fn progress(
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

    pub(super) fn launched(
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
        entry.container_status = Some(Box::new(ContainerStatus {
            ip_addresses: started.addresses.clone(),
            container_id: id.to_string(),
            pid: started.pid,
            cgroup_path: started.cgroup,
            image_digest,
        }));
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
        entry.checks(effects);
        // Others may have got processors of their own while it was being made.
        self.tell_new_limits(id, effects);
        let running = Outcome {
            state: TaskState::Running,
            reason: None,
            message: String::new(),
        };
        self.tell(id, running, ctx, effects);
    }

    pub(super) fn launch_failed(
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
}
