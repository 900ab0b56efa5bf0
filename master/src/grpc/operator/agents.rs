//! Agents, as operators find, filter and read them.

use std::{collections::BTreeSet, sync::Arc};

use mezzo_api::{
    model::{AgentInfo, AttributeValue},
    proto,
};
use tonic::Status;

use super::{super::status::invalid, count};
use crate::state::{AgentState, AgentView, DrainStage, Snapshot};

/// Which agents to list.
pub(super) struct AgentFilter {
    /// Empty: any.
    states: BTreeSet<AgentState>,
    hostname: String,
    /// A name, and a value if that counts.
    attribute: Option<(String, Option<String>)>,
    draining: Option<bool>,
    deactivated: Option<bool>,
}

impl AgentFilter {
    pub(super) fn new(request: proto::ListAgentsRequest) -> Result<Self, Status> {
        let mut states = BTreeSet::new();
        for (i, number) in request.states.iter().enumerate() {
            states.insert(match proto::AgentState::try_from(*number) {
                Ok(proto::AgentState::AgentConnected) => AgentState::Connected,
                Ok(proto::AgentState::AgentDisconnected) => AgentState::Disconnected,
                Ok(proto::AgentState::AgentUnreachable) => AgentState::Unreachable,
                Ok(proto::AgentState::AgentRecovering) => AgentState::Recovering,
                Ok(proto::AgentState::Unspecified) | Err(_) => {
                    return Err(invalid(&format!("states[{i}]"), "is no state"));
                }
            });
        }
        let attribute = match request.attribute.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), Some(value.to_owned()))),
            None if request.attribute.is_empty() => None,
            None => Some((request.attribute, None)),
        };
        Ok(Self {
            states,
            hostname: request.hostname,
            attribute,
            draining: request.draining,
            deactivated: request.deactivated,
        })
    }

    pub(super) fn admits(&self, view: &AgentView) -> bool {
        let has = |(name, value): &(String, Option<String>)| {
            view.info.attributes.iter().any(|attribute| {
                let text = match &attribute.value {
                    AttributeValue::Scalar(scalar) => scalar.to_string(),
                    AttributeValue::Text(text) => text.clone(),
                };
                attribute.name == *name && value.as_ref().is_none_or(|value| *value == text)
            })
        };
        (self.states.is_empty() || self.states.contains(&view.state))
            && (self.hostname.is_empty() || view.info.hostname == self.hostname)
            && self.attribute.as_ref().is_none_or(has)
            && self.draining.is_none_or(|is| view.drain.is_some() == is)
            && (self.deactivated).is_none_or(|is| view.deactivated_since_ms.is_some() == is)
    }
}

/// The one with that id, prefix of an id, or hostname.
///
/// # Errors
///
/// When it fits none, or several.
pub(super) fn find<'a>(snapshot: &'a Snapshot, wanted: &str) -> Result<&'a AgentView, Status> {
    if wanted.is_empty() {
        return Err(invalid(
            "agent",
            "is empty: an id, a prefix of one, or a hostname is needed",
        ));
    }
    let exact = snapshot
        .agents
        .values()
        .find(|view| view.agent_id.as_str() == wanted);
    let matches: Vec<_> = match exact {
        Some(view) => vec![view],
        None => {
            let fits = |view: &&Arc<AgentView>| {
                view.agent_id.as_str().starts_with(wanted) || view.info.hostname == wanted
            };
            snapshot.agents.values().filter(fits).collect()
        }
    };
    // A machine that registered anew left its former id behind.
    let connected: Vec<_> = matches
        .iter()
        .copied()
        .filter(|view| view.state == AgentState::Connected)
        .collect();
    match (matches.as_slice(), connected.as_slice()) {
        ([view], _) | (_, [view]) => Ok(view),
        ([], _) => Err(Status::not_found(format!(
            "no agent has the id, prefix or hostname {wanted:?}"
        ))),
        (several, _) => {
            let ids: Vec<_> = several
                .iter()
                .take(5)
                .map(|view| view.agent_id.as_str())
                .collect();
            Err(invalid(
                "agent",
                format!(
                    "{wanted:?} fits {} agents: {}",
                    several.len(),
                    ids.join(", ")
                ),
            ))
        }
    }
}

pub(in crate::grpc) fn agent_state(state: AgentState) -> proto::AgentState {
    match state {
        AgentState::Connected => proto::AgentState::AgentConnected,
        AgentState::Disconnected => proto::AgentState::AgentDisconnected,
        AgentState::Unreachable => proto::AgentState::AgentUnreachable,
        AgentState::Recovering => proto::AgentState::AgentRecovering,
    }
}

/// One agent on the wire.
pub(super) fn told(view: &AgentView) -> proto::Agent {
    let state = agent_state(view.state);
    proto::Agent {
        agent_id: view.agent_id.to_string(),
        info: Some(AgentInfo::clone(&view.info).into()),
        state: state.into(),
        registered_at_ms: view.registered_at_ms,
        allocated: view.allocated.flat().into(),
        offered: view.offered.flat().into(),
        allocated_reserved: view
            .allocated
            .pool_list()
            .into_iter()
            .map(Into::into)
            .collect(),
        usage: view.usage.clone().map(Into::into),
        tasks: count(view.n_tasks),
        loss_waits_since_ms: view.loss_waits_since_ms,
        maintenance: (view.window.as_ref()).map_or_else(String::new, ToString::to_string),
        deactivated_since_ms: view.deactivated_since_ms,
        drain: view.drain.map(|(stage, drain)| proto::Drain {
            state: match stage {
                DrainStage::Draining => proto::DrainState::Draining,
                DrainStage::Drained => proto::DrainState::Drained,
            }
            .into(),
            since_ms: drain.since_ms,
            deadline_at_ms: drain.deadline_at_ms,
            mark_gone: drain.mark_gone,
        }),
        revocable: view.lent.as_ref().map(|(total, allocated, offered)| {
            proto::RevocableResources {
                total: total.into(),
                allocated: allocated.into(),
                offered: offered.into(),
            }
        }),
    }
}
