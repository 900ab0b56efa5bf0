//! Lists of persistent volumes for operators, from the published snapshot.

use std::collections::BTreeMap;

use mezzo_api::{
    model::{AgentId, RoleName, VolumeId, VolumeKey},
    proto,
};
use tonic::Status;

use super::{operator::agent_state, status::parse};
use crate::state::Snapshot;

/// The last one of a page.
pub(super) type After = (AgentId, VolumeKey);

/// From a token that this master gave; empty on the first page.
pub(super) fn after(token: &str) -> Result<Option<After>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    // Roles have slashes, agents and volumes have none.
    let parts = token
        .split_once('/')
        .and_then(|(agent, rest)| Some((agent, rest.rsplit_once('/')?)));
    let Some((agent, (role, id))) = parts else {
        return Err(super::status::invalid(
            "page_token",
            "is not one that this master gave",
        ));
    };
    let role: RoleName = parse("page_token", role.to_owned())?;
    let id: VolumeId = parse("page_token", id.to_owned())?;
    let agent = parse("page_token", agent.to_owned())?;
    Ok(Some((agent, VolumeKey { role, id })))
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
