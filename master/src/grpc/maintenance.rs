//! Maintenance windows, as operators read and write them.

use std::collections::BTreeSet;

use mezzo_api::proto;
use tonic::Status;

use super::{
    events::window_stage,
    status::{bounded, invalid, parse, storable},
};
use crate::{
    state::{Operation, WindowView},
    store::WindowRecord,
};

/// More than any window takes; the core says how many it does.
const MOST_AGENTS: usize = 100_000;

/// Checks a wish for planned work.
pub(super) fn window(request: proto::ScheduleMaintenanceRequest) -> Result<Operation, Status> {
    let Some(window) = request.window else {
        return Err(invalid("window", "is missing"));
    };
    bounded("window.agent_ids", window.agent_ids.len(), MOST_AGENTS)?;
    let mut agents = BTreeSet::new();
    for (i, id) in window.agent_ids.into_iter().enumerate() {
        agents.insert(parse(&format!("window.agent_ids[{i}]"), id)?);
    }
    let record = WindowRecord {
        name: parse("window.name", window.name)?,
        agents,
        starts_at_ms: window.starts_at_ms,
        drains_at_ms: window.drains_at_ms,
        ends_at_ms: window.ends_at_ms,
        drained: BTreeSet::new(),
    };
    storable("window", &record)?;
    Ok(Operation::ScheduleWindow(Box::new(record)))
}

pub(super) fn told(view: &WindowView) -> proto::MaintenanceWindow {
    let record = &view.record;
    let answers =
        view.answers.iter().map(
            |((framework_id, agent_id), accepted)| proto::MaintenanceAnswer {
                framework_id: framework_id.to_string(),
                agent_id: agent_id.to_string(),
                accepted: *accepted,
            },
        );
    proto::MaintenanceWindow {
        name: record.name.to_string(),
        agent_ids: record.agents.iter().map(ToString::to_string).collect(),
        starts_at_ms: record.starts_at_ms,
        drains_at_ms: record.drains_at_ms,
        ends_at_ms: record.ends_at_ms,
        stage: window_stage(view.stage).into(),
        answers: answers.collect(),
    }
}
