//! Lists of persistent volumes for operators, from the published snapshot.

use std::collections::BTreeMap;

use super::operator::agent_state;
use crate::state::Snapshot;
use mezzo_api::{
    model::{AgentId, RoleName, VolumeId, VolumeKey},
    proto,
};

/// The last one of a page.
pub(super) type After = (AgentId, VolumeKey);

/// From the key in a page's token.
pub(super) fn after(key: &str) -> Option<After> {
    // Roles have slashes, agents and volumes have none.
    let (agent, rest) = key.split_once('/')?;
    let (role, id) = rest.rsplit_once('/')?;
    let role: RoleName = role.parse().ok()?;
    let id: VolumeId = id.parse().ok()?;
    Some((agent.parse().ok()?, VolumeKey { role, id }))
}

/// By agent, role and id.
pub(super) fn list(
    snapshot: &Snapshot,
    wanted: Option<&AgentId>,
    after: Option<&After>,
    most: usize,
) -> proto::ListVolumesResponse {
    let mut users: BTreeMap<After, Vec<proto::VolumeUser>> = BTreeMap::new();
    let tasks = snapshot
        .frameworks
        .values()
        .flat_map(|view| view.tasks.values());
    for task in tasks
        .filter(|entry| !entry.state.is_terminal())
        .map(|entry| &entry.task)
    {
        for volume in &task.info.persistent {
            let key = (task.info.agent_id.clone(), volume.key());
            users.entry(key).or_default().push(proto::VolumeUser {
                framework_id: task.framework_id.to_string(),
                task_id: task.info.task_id.to_string(),
                read_only: !task.info.writes(&volume.id),
            });
        }
    }
    let mut found = Vec::new();
    let mut next_page_token = String::new();
    for (agent_id, view) in snapshot.agents.iter() {
        if wanted.is_some_and(|wanted| wanted != agent_id) {
            continue;
        }
        let mut volumes: Vec<_> = view.info.volumes.iter().collect();
        volumes.sort_by_key(|volume| volume.key());
        for volume in volumes {
            let key = (agent_id.clone(), volume.key());
            if after.is_some_and(|after| key <= *after) {
                continue;
            }
            if found.len() == most {
                return proto::ListVolumesResponse {
                    volumes: found,
                    next_page_token,
                };
            }
            next_page_token = format!("{agent_id}/{}/{}", volume.stack.role(), volume.id);
            found.push(proto::VolumeOnAgent {
                agent_id: agent_id.to_string(),
                hostname: view.info.hostname.clone(),
                agent_state: agent_state(view.state).into(),
                volume: Some(volume.clone().into()),
                users: users.remove(&key).unwrap_or_default(),
            });
        }
    }
    proto::ListVolumesResponse {
        volumes: found,
        next_page_token: String::new(),
    }
}
