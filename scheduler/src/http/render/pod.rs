//! How a pod and its instances stand, as `/v2/pods/{id}::status` says it (`podStatus.raml` at 90619da7).
//!
//! Pure.

use std::collections::VecDeque;

use mezzo_api::model::TaskState;
use serde_json::{Value, json};

use super::version;
use crate::app::check::result_json;
use crate::app::json::scalar;
use crate::app::pod::{Pod, PodContainer};
use crate::app::spec::{App, AssignedPort};
use crate::core::members::Member;
use crate::core::state::{AppState, Condition, Instance, State, TaskFailure};
use crate::place::Ask;
use crate::resident::{HeldVolume, Holding};
use crate::time::Timestamp;
use crate::why;

/// A pod with all its instances.
pub(crate) fn status(state: &State, pod: &AppState, now: u64) -> Value {
    let wanted = pod.current.app.instances as usize;
    let instances: Vec<Value> = pod
        .instances
        .values()
        .map(|one| instance(pod, one, now))
        .collect();
    let stable = instances.iter().filter(|one| one["status"] == "STABLE");
    let status = if stable.count() >= wanted {
        "STABLE"
    } else {
        "DEGRADED"
    };
    // The latest of what made it so: there is no record of the moment itself.
    let moved = pod.instances.values().map(|one| since(one));
    let last_moved = moved.max().unwrap_or(0);
    let last_moved = last_moved.max(pod.current.version.millis());
    let failures = pod.last_failure.iter();
    let mut out = json!({
        "id": pod.current.app.id.as_str(),
        "spec": version(&pod.current),
        "status": status,
        "statusSince": time(last_moved),
        "instances": instances,
        "terminationHistory": failures.map(ended).collect::<Vec<Value>>(),
        "lastUpdated": time(now),
        "lastChanged": time(last_moved),
    });
    let waits = why::waiting_for(state, pod, now);
    if !waits.is_empty() {
        out["message"] = waits.into();
    }
    out
}

/// One instance with its containers.
pub(crate) fn instance(pod: &AppState, instance: &Instance, now: u64) -> Value {
    let own = pod.versions.get(&instance.version).unwrap_or(&pod.current);
    let app = &own.app;
    let containers: Vec<Value> = app
        .pod
        .iter()
        .flat_map(|pod| containers(app, pod, instance, now))
        .collect();
    let since = since(instance);
    let mut out = json!({
        "id": instance.task_id.as_str(),
        "status": state_of(instance),
        "statusSince": time(since),
        "conditions": [],
        "agentHostname": instance.hostname,
        "agentId": instance.agent_id.as_str(),
        "role": instance.role.as_str(),
        "resources": resources(app),
        "networks": [{
            "name": app.container.network_name,
            "addresses": instance.addresses.iter().map(ToString::to_string).collect::<Vec<String>>(),
        }],
        "containers": containers,
        "specReference": format!("/v2/pods{}::versions/{}", app.id, instance.version),
        "lastUpdated": time(now),
        "lastChanged": time(since),
    });
    if let Some(holding) = instance.holding.and_then(|id| pod.holdings.get(&id)) {
        out["role"] = holding.stack.role().as_str().into();
        let volumes = holding.volumes.iter();
        out["localVolumes"] = volumes.map(|held| local_volume(holding, held)).collect();
    }
    if !instance.message.is_empty() {
        out["message"] = instance.message.as_str().into();
    }
    out
}

/// A volume that an instance keeps, in place of a path by its name in the pod.
fn local_volume(holding: &Holding, held: &HeldVolume) -> Value {
    json!({
        "runSpecId": holding.app.as_str(),
        "containerPath": held.container_path,
        "uuid": holding.id.to_string(),
        "persistenceId": held.volume.id.as_str(),
    })
}

/// Marathon's five words for how an instance stands.
fn state_of(instance: &Instance) -> &'static str {
    match (instance.condition, instance.sentence) {
        (_, Some(_)) | (Condition::Killing, None) => "TERMINAL",
        (Condition::Provisioned, None) => "PENDING",
        (Condition::Staging | Condition::Starting, None) => "STAGING",
        (Condition::Running, None) if instance.is_healthy() => "STABLE",
        (Condition::Running | Condition::Unreachable { .. }, None) => "DEGRADED",
    }
}

fn since(instance: &Instance) -> u64 {
    let moved = instance.members.iter().map(|member| member.since);
    moved.max().unwrap_or(instance.staged_at)
}

fn containers(app: &App, pod: &Pod, instance: &Instance, now: u64) -> Vec<Value> {
    let mut assigned: VecDeque<AssignedPort> = app.assigned_ports(&instance.ports).into();
    let all = pod.containers.iter().map(|container| {
        let n = container.spec.ports.len().min(assigned.len());
        let ports: Vec<AssignedPort> = assigned.drain(..n).collect();
        let member = instance
            .members
            .iter()
            .find(|member| member.name == container.name)?;
        Some(one(container, member, &ports, now))
    });
    all.flatten().collect()
}

fn one(container: &PodContainer, member: &Member, ports: &[AssignedPort], now: u64) -> Value {
    let healthy = member.healthy.filter(|_| member.checked);
    let endpoints = container.spec.ports.iter().zip(ports);
    let endpoints = endpoints.map(|(port, assigned)| {
        let mut out = json!({"name": port.name});
        if let Some(host) = assigned.host {
            out["allocatedHostPort"] = host.into();
        }
        if let Some(healthy) = healthy {
            out["healthy"] = healthy.into();
        }
        out
    });
    let conditions = healthy.map(|healthy| {
        json!({
            "name": "healthy",
            "value": healthy.to_string(),
            "reason": "health-reported-by-mesos",
            "lastUpdated": time(member.since),
            "lastChanged": time(member.since),
        })
    });
    let mut out = json!({
        "name": container.name,
        "status": member.state.name(),
        "statusSince": time(member.since),
        "conditions": conditions.into_iter().collect::<Vec<Value>>(),
        "containerId": member.task_id.as_str(),
        "endpoints": endpoints.collect::<Vec<Value>>(),
        "resources": resources(&container.spec),
        "lastUpdated": time(now),
        "lastChanged": time(member.since),
    });
    if !member.message.is_empty() {
        out["message"] = member.message.as_str().into();
    }
    if let Some(result) = member.check_result.as_deref().and_then(result_json) {
        out["checkResult"] = result;
    }
    let ended = matches!(
        member.state,
        TaskState::Finished | TaskState::Failed | TaskState::Killed | TaskState::Error
    );
    if ended {
        out["termination"] = json!({"exitCode": member.exit_code, "message": member.message});
    }
    out
}

fn resources(app: &App) -> Value {
    let amounts = Ask::scalars_of(app);
    json!({
        "cpus": scalar(amounts.scalar("cpus")),
        "mem": scalar(amounts.scalar("mem")),
        "disk": scalar(amounts.scalar("disk")),
        "gpus": scalar(amounts.scalar("gpus")),
    })
}

fn ended(failure: &TaskFailure) -> Value {
    json!({
        "instanceID": failure.task_id.as_str(),
        "terminatedAt": failure.timestamp.to_string(),
        "message": failure.message,
        "status": failure.state.name(),
    })
}

fn time(millis: u64) -> String {
    Timestamp::from_millis(millis).to_string()
}
