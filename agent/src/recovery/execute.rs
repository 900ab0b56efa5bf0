//! Carries the recovery plan out: reads folders and containers, fills the core, removes what nobody knows.
//!
//! Runs once, before the agent talks to anybody. One broken task or container never keeps the agent from starting.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mezzo_api::model::{ContainerStatus, Reason, StatusSource, TaskState, TaskStatus};

use super::{
    checkpoint::Log,
    fit,
    plan::{Action, Recovered, plan},
};
use crate::{
    Error,
    node::{
        Container, ContainerId, ContainerState, IMAGE_DIGEST_LABEL, Images, Runtime, RuntimeError,
        Started,
    },
    store::Store,
    task::{
        Context, TaskKey,
        core::{Core, Settings},
        entry::{Entry, Gate, Interest, Phase},
        event::Effect,
        status::{KillCause, NEVER_RAN, Outcome, ended},
        updates::UpdateQueue,
    },
};

/// How long containers that are just being made are waited for.
const SETTLE: Duration = Duration::from_secs(20);
const REMOVE_DEADLINE: Duration = Duration::from_secs(20);

/// Looks, plans and acts; gives what the owner task has to do next.
pub(crate) async fn recover(
    core: &mut Core,
    settings: &Settings,
    store: &Store,
    runtime: &Arc<dyn Runtime>,
    images: &Arc<dyn Images>,
    ctx: &mut Context<'_>,
) -> Result<Vec<Effect>, Error> {
    let recovered = {
        let store = store.clone();
        tokio::task::spawn_blocking(move || store.load())
            .await
            .map_err(|error| Error::Runtime(error.to_string()))?
            .map_err(|error| Error::Runtime(format!("cannot read the task folders: {error}")))?
    };
    let recovered = without_duplicates(recovered, store);
    let containers = settled(runtime)
        .await
        .map_err(|error| Error::Runtime(error.to_string()))?;
    let snapshots = match images.list_snapshots().await {
        Ok(list) => list,
        Err(error) => {
            tracing::warn!(%error, "cannot list root file systems: left-over ones stay until the next start");
            Vec::new()
        }
    };
    let actions = plan(&recovered, &containers, &snapshots, &settings.boot_id);
    let runs = |folder: &&Recovered| {
        let id = &folder.checkpoint.container;
        let adopts = |action: &Action| matches!(action, Action::Adopt(other, _) if other == id);
        actions.iter().any(adopts)
    };
    let ordinary = |folder: &&Recovered| !folder.checkpoint.info.revocable;
    let running = recovered.iter().filter(runs).filter(ordinary);
    let running = running.map(|folder| {
        let info = &folder.checkpoint.info;
        (&info.task_id, &info.resources)
    });
    fit::check(core.ledger().total(), running).map_err(Error::TasksDoNotFit)?;
    let known = !recovered.is_empty() || !containers.is_empty();
    if known {
        tracing::info!(
            tasks = recovered.len(),
            containers = containers.len(),
            "recovering"
        );
    }
    let containers: BTreeMap<_, _> = containers.into_iter().map(|c| (c.id.clone(), c)).collect();
    let mut folders: BTreeMap<_, _> = recovered
        .into_iter()
        .map(|folder| (folder.checkpoint.container.clone(), folder))
        .collect();
    let mut effects = Vec::new();
    for action in actions {
        let mut gone = |id: &ContainerId, state, reason, message: &str| {
            let outcome = Outcome::new(state, reason, message);
            report_gone(core, settings, &mut folders, id, outcome, ctx, &mut effects);
        };
        match action {
            Action::Adopt(id, started) => {
                let Some(folder) = folders.remove(&id) else {
                    continue;
                };
                adopt(
                    core,
                    settings,
                    folder,
                    &started,
                    containers.get(&id),
                    ctx,
                    &mut effects,
                );
            }
            Action::ReportExit(id, record) => {
                let Some(folder) = folders.remove(&id) else {
                    continue;
                };
                let cause = kill_cause(&folder.log);
                let mut entry = entry(
                    &folder,
                    settings,
                    Phase::Running {
                        complete_by_ms: None,
                    },
                );
                entry.started_at_ms = record.started_at_ms;
                core.adopt(entry);
                let (outcome, exit) = ended(&record, cause.as_ref());
                effects.extend(core.report(&id, outcome, exit, Some(record.usage.clone()), ctx));
            }
            Action::ReportLostAtReboot(id) => gone(
                &id,
                TaskState::Gone,
                Reason::ContainerLost,
                "its machine was booted anew under it",
            ),
            Action::ReportDropped(id) => {
                gone(&id, TaskState::Dropped, Reason::AgentRestarted, NEVER_RAN)
            }
            Action::ReportVanished(id) => gone(
                &id,
                TaskState::Gone,
                Reason::AgentRestarted,
                "the agent was restarted and found no trace of the container",
            ),
            Action::KeepEnded(id) => {
                let Some(folder) = folders.remove(&id) else {
                    continue;
                };
                let told_at = folder.log.latest().map_or(0, |status| status.timestamp_ms);
                // Monotonic time begins at the Unix time of the start, so the age carries over.
                let age = ctx.now.unix_ms.saturating_sub(told_at);
                let at_ms = ctx.now.mono_ms.saturating_sub(age);
                core.adopt(entry(&folder, settings, Phase::Ended { at_ms }));
            }
            Action::RemoveContainer(id) => remove_container(runtime, &id).await,
            Action::RemoveSnapshot(key) => {
                if let Err(error) = images.remove_snapshot(&key).await {
                    tracing::warn!(key, %error, "cannot remove a left-over root file system");
                }
            }
        }
    }
    // The agent before may have died between the kernel and the checkpoint: what is on record holds. Only now, because
    // who may use which processors depends on all.
    core.tell_all_limits(&mut effects);
    core.rebuild_groups(&mut effects);
    store.sweep_groups(|holder| core.has_group(holder));
    Ok(effects)
}

/// Two folders for one task id cannot both be right: the one that has not ended, else the newer, stays.
fn without_duplicates(recovered: Vec<Recovered>, store: &Store) -> Vec<Recovered> {
    let mut kept: BTreeMap<TaskKey, Recovered> = BTreeMap::new();
    for folder in recovered {
        let key = key(&folder);
        let has_ended = |folder: &Recovered| {
            folder
                .log
                .latest()
                .is_some_and(|status| status.state.is_terminal())
        };
        let loser = match kept.remove(&key) {
            Some(other) if has_ended(&folder) && !has_ended(&other) => {
                kept.insert(key, other);
                Some(folder)
            }
            other => {
                kept.insert(key, folder);
                other
            }
        };
        if let Some(loser) = loser {
            let id = &loser.checkpoint.container;
            store.set_aside(
                &store.folder(id),
                id.as_str(),
                "another folder is of the same task",
            );
        }
    }
    kept.into_values().collect()
}

/// The containers, once none is in the middle of being made.
async fn settled(runtime: &Arc<dyn Runtime>) -> Result<Vec<Container>, RuntimeError> {
    let deadline = tokio::time::Instant::now() + SETTLE;
    loop {
        let containers = runtime.list().await?;
        let busy = containers
            .iter()
            .any(|container| container.state == ContainerState::Starting);
        if !busy || tokio::time::Instant::now() >= deadline {
            return Ok(containers);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn key(folder: &Recovered) -> TaskKey {
    TaskKey {
        framework: folder.checkpoint.framework.clone(),
        task: folder.checkpoint.info.task_id.clone(),
    }
}

fn kill_cause(log: &Log) -> Option<KillCause> {
    let latest = log
        .latest()
        .filter(|status| status.state == TaskState::Killing)?;
    Some(KillCause::from_killing(latest.reason, &latest.message))
}

fn entry(folder: &Recovered, settings: &Settings, phase: Phase) -> Entry {
    let checkpoint = &folder.checkpoint;
    let mut updates = UpdateQueue::new(settings.retry);
    for status in folder.log.unacknowledged() {
        updates.push_durable(status.clone());
    }
    let mut latest = folder.log.latest().cloned().unwrap_or_else(|| TaskStatus {
        task_id: checkpoint.info.task_id.clone(),
        framework_id: checkpoint.framework.clone(),
        agent_id: Some(checkpoint.info.agent_id.clone()),
        state: TaskState::Staging,
        reason: None,
        source: StatusSource::Agent,
        message: String::new(),
        timestamp_ms: checkpoint.created_at_ms,
        update_id: None,
        healthy: None,
        health_results: Vec::new(),
        container: None,
        readiness: None,
        check_result: None,
        exit: None,
        usage: None,
    });
    let health = folder.log.health(checkpoint.info.health_checks.len());
    latest.health_results.clone_from(&health);
    let running = folder
        .log
        .updates
        .iter()
        .find(|status| status.state == TaskState::Running);
    Entry {
        key: key(folder),
        role: checkpoint.role.clone(),
        info: checkpoint.info.clone(),
        container: checkpoint.container.clone(),
        phase,
        updates,
        interest: if folder.log.forgotten {
            Interest::Nobody
        } else {
            Interest::Framework
        },
        container_status: folder
            .log
            .updates
            .iter()
            .rev()
            .find_map(|status| status.container.clone()),
        started_at_ms: running.map(|status| status.timestamp_ms),
        usage: latest.usage.as_deref().cloned(),
        disk_bytes: latest.usage.as_ref().and_then(|usage| usage.disk_bytes),
        disk_that_counts: 0,
        health,
        readiness: latest.readiness.clone(),
        check_result: latest.check_result.clone(),
        grant: checkpoint.grant.clone(),
        created_at_ms: checkpoint.created_at_ms,
        told_limits: None,
        holder: checkpoint.holder.clone(),
        gate: Gate::Open,
        changing: None,
        latest,
    }
}

fn adopt(
    core: &mut Core,
    settings: &Settings,
    folder: Recovered,
    started: &Started,
    container: Option<&Container>,
    ctx: &mut Context<'_>,
    effects: &mut Vec<Effect>,
) {
    let id = folder.checkpoint.container.clone();
    let info = &folder.checkpoint.info;
    let image_digest = container
        .and_then(|container| container.labels.get(IMAGE_DIGEST_LABEL).cloned())
        .unwrap_or_default();
    let was_told = folder
        .log
        .updates
        .iter()
        .any(|status| status.state == TaskState::Running);
    let phase = match kill_cause(&folder.log) {
        Some(cause) => {
            let grace = info.kill_grace.unwrap_or(settings.kill_grace);
            effects.push(Effect::Terminate(id.clone()));
            Phase::Killing {
                cause,
                kill_at_ms: ctx.now.mono_ms.saturating_add(millis(grace)),
            }
        }
        None => Phase::Running {
            complete_by_ms: info.max_completion.map(|limit| {
                let ran = ctx.now.unix_ms.saturating_sub(started.started_at_ms);
                ctx.now
                    .mono_ms
                    .saturating_add(millis(limit).saturating_sub(ran))
            }),
        },
    };
    let mut adopted = entry(&folder, settings, phase);
    if matches!(adopted.phase, Phase::Running { .. }) {
        adopted.checks(effects);
    }
    adopted.started_at_ms = Some(started.started_at_ms);
    adopted.container_status = Some(Box::new(ContainerStatus {
        ip_addresses: started.addresses.clone(),
        container_id: id.to_string(),
        pid: started.pid,
        cgroup_path: started.cgroup.clone(),
        image_digest,
    }));
    let is_killing = matches!(adopted.phase, Phase::Killing { .. });
    core.adopt(adopted);
    effects.push(Effect::Watch(id.clone()));

    if !was_told && !is_killing {
        let running = Outcome {
            state: TaskState::Running,
            reason: None,
            message: String::new(),
        };
        effects.extend(core.report(&id, running, None, None, ctx));
    }
}

fn report_gone(
    core: &mut Core,
    settings: &Settings,
    folders: &mut BTreeMap<ContainerId, Recovered>,
    id: &ContainerId,
    outcome: Outcome,
    ctx: &mut Context<'_>,
    effects: &mut Vec<Effect>,
) {
    let Some(folder) = folders.remove(id) else {
        return;
    };
    // A task that was being killed anyway is killed: that is what its framework waits for.
    let outcome = match kill_cause(&folder.log) {
        Some(cause) if outcome.reason == Some(Reason::AgentRestarted) => {
            cause.outcome(&outcome.message)
        }
        _ => outcome,
    };
    core.adopt(entry(
        &folder,
        settings,
        Phase::Running {
            complete_by_ms: None,
        },
    ));
    effects.extend(core.report(id, outcome, None, None, ctx));
}

async fn remove_container(runtime: &Arc<dyn Runtime>, id: &ContainerId) {
    tracing::warn!(container = %id, "removing a container that belongs to no task");
    let removal = async {
        if let Err(error) = runtime.kill(id).await {
            tracing::debug!(container = %id, %error, "kill before removal");
        }
        let _ = runtime.wait(id).await;
        runtime.remove(id).await
    };
    match tokio::time::timeout(REMOVE_DEADLINE, removal).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(container = %id, %error, "cannot remove a left-over container")
        }
        Err(_) => tracing::error!(container = %id, "a left-over container does not end"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
