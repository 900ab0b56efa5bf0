//! The stream of events for operators: read from the ring as fast as the reader takes them, never ahead of it.

use std::{collections::BTreeSet, pin::Pin};

use futures::{Stream, stream};
use mezzo_api::{
    model::{AgentId, FrameworkId},
    proto::{self, operator_event::Event},
};
use tokio::{sync::watch, time::timeout};
use tonic::Status;

use super::status::{invalid, parse_optional};
use crate::{
    actor::Context,
    config::to_millis,
    event_log::{BadToken, Noted},
    state::{AgentChange, Ending, FrameworkChange, Notice, WindowStage},
};

pub(super) type EventStream =
    Pin<Box<dyn Stream<Item = Result<proto::OperatorEvent, Status>> + Send>>;

/// Events taken from the ring at once.
const BATCH: usize = 256;

/// What a watcher wants to hear of.
#[derive(Debug, Default)]
struct Wanted {
    /// Empty: all.
    kinds: BTreeSet<i32>,
    framework_id: Option<FrameworkId>,
    agent_id: Option<AgentId>,
}

impl Wanted {
    fn admits(&self, notice: &Notice) -> bool {
        let (kind, framework, agent) = match notice {
            Notice::Agent { agent_id, .. } => (proto::EventKind::Agent, None, Some(agent_id)),
            Notice::Framework { framework_id, .. } => {
                (proto::EventKind::Framework, Some(framework_id), None)
            }
            Notice::Task {
                framework_id,
                agent_id,
                ..
            } => (proto::EventKind::Task, Some(framework_id), Some(agent_id)),
            Notice::Role(_) => (proto::EventKind::Role, None, None),
            Notice::Window { .. } => (proto::EventKind::Maintenance, None, None),
        };
        (self.kinds.is_empty() || self.kinds.contains(&i32::from(kind)))
            && (self.framework_id.as_ref()).is_none_or(|id| framework == Some(id))
            && self.agent_id.as_ref().is_none_or(|id| agent == Some(id))
    }
}

/// Where one watcher stands.
struct Watch {
    context: Context,
    wanted: Wanted,
    news: watch::Receiver<u64>,
    /// The last number that was looked at.
    seen: u64,
    stage: Stage,
    ready: std::vec::IntoIter<std::sync::Arc<Noted>>,
}

enum Stage {
    Begin,
    Follow,
    Over,
}

/// A stream from that token on, or from now.
pub(super) fn watch(
    context: &Context,
    request: proto::WatchEventsRequest,
) -> Result<EventStream, Status> {
    let kinds: BTreeSet<i32> = request.kinds.into_iter().collect();
    let known = |kind: &i32| {
        proto::EventKind::try_from(*kind).is_ok_and(|kind| kind != proto::EventKind::Unspecified)
    };
    if let Some(unknown) = kinds.iter().find(|kind| !known(kind)) {
        return Err(invalid(
            "kinds",
            format!("{unknown} is not known to this master"),
        ));
    }
    let wanted = Wanted {
        kinds,
        framework_id: parse_optional("framework_id", request.framework_id)?,
        agent_id: parse_optional("agent_id", request.agent_id)?,
    };
    let log = &context.events;
    let news = log.follow();
    let seen = if request.resume_token.is_empty() {
        log.newest()
    } else {
        let number = log.read_token(&request.resume_token);
        let number = number.map_err(|bad| match bad {
            BadToken::Foreign => invalid("resume_token", "is not one that a master gave"),
            BadToken::OtherTerm => too_old(
                "it is of another leadership, and each master remembers its own events only",
            ),
        })?;
        if let Err(passed) = log.after(number, 1) {
            return Err(too_old(&format!(
                "{} events that followed it are forgotten (`event_history` is {})",
                passed.missed, context.config.event_history
            )));
        }
        number
    };
    let state = Watch {
        context: context.clone(),
        wanted,
        news,
        seen,
        stage: Stage::Begin,
        ready: Vec::new().into_iter(),
    };
    Ok(Box::pin(stream::unfold(state, |mut state| async {
        let next = state.next().await?;
        if next.is_err() {
            state.stage = Stage::Over;
        }
        Some((next, state))
    })))
}

fn too_old(why: &str) -> Status {
    Status::out_of_range(format!(
        "resume_token: {why}; list anew, and watch without a token"
    ))
}

impl Watch {
    async fn next(&mut self) -> Option<Result<proto::OperatorEvent, Status>> {
        match self.stage {
            Stage::Over => return None,
            Stage::Begin => {
                self.stage = Stage::Follow;
                let started = proto::operator_event::Started {
                    master_id: self.context.master_id.to_string(),
                    term: self.context.term,
                    heartbeat_interval_ms: to_millis(
                        self.context.config.framework_heartbeat_interval,
                    ),
                };
                return Some(Ok(self.own(Event::Started(started))));
            }
            Stage::Follow => {}
        }
        loop {
            if !self.context.fence.is_open() {
                return Some(Err(Ending::Deposed.into()));
            }
            for noted in self.ready.by_ref() {
                self.seen = noted.number;
                if self.wanted.admits(&noted.notice) {
                    return Some(Ok(self.encode(&noted)));
                }
            }
            self.news.mark_unchanged();
            match self.context.events.after(self.seen, BATCH) {
                Ok(more) if !more.is_empty() => {
                    self.ready = more.into_iter();
                    continue;
                }
                Ok(_) => {}
                Err(passed) => {
                    return Some(Err(Status::resource_exhausted(format!(
                        "events were not read fast enough: {} are forgotten; list anew, and watch without a token",
                        passed.missed
                    ))));
                }
            }
            let patience = self.context.config.framework_heartbeat_interval;
            tokio::select! {
                () = self.context.shutdown.cancelled() => {
                    return Some(Err(Ending::ShuttingDown.into()));
                }
                // The log lives as long as the context.
                changed = timeout(patience, self.news.changed()) => if changed.is_err() {
                    let heartbeat = proto::operator_event::Heartbeat {};
                    return Some(Ok(self.own(Event::Heartbeat(heartbeat))));
                }
            }
        }
    }

    fn own(&self, event: Event) -> proto::OperatorEvent {
        proto::OperatorEvent {
            resume_token: self.context.events.token(self.seen),
            at_ms: self.context.now_ms(),
            event: Some(event),
        }
    }

    fn encode(&self, noted: &Noted) -> proto::OperatorEvent {
        proto::OperatorEvent {
            resume_token: self.context.events.token(noted.number),
            at_ms: noted.at_ms,
            event: Some(told(&noted.notice)),
        }
    }
}

fn told(notice: &Notice) -> Event {
    match notice {
        Notice::Agent {
            agent_id,
            hostname,
            change,
        } => Event::Agent(proto::AgentEvent {
            agent_id: agent_id.to_string(),
            hostname: hostname.clone(),
            change: agent_change(*change).into(),
        }),
        Notice::Framework {
            framework_id,
            name,
            change,
        } => Event::Framework(proto::FrameworkEvent {
            framework_id: framework_id.to_string(),
            name: name.clone(),
            change: framework_change(*change).into(),
        }),
        Notice::Task {
            framework_id,
            task_id,
            agent_id,
            state,
            message,
        } => Event::Task(proto::TaskEvent {
            framework_id: framework_id.to_string(),
            task_id: task_id.to_string(),
            agent_id: agent_id.to_string(),
            state: proto::TaskState::from(*state).into(),
            message: message.clone(),
        }),
        Notice::Role(role) => Event::Role(proto::RoleEvent {
            role: role.to_string(),
        }),
        Notice::Window { name, stage } => Event::Maintenance(proto::MaintenanceEvent {
            name: name.to_string(),
            stage: stage
                .map_or(proto::MaintenanceStage::Unspecified, window_stage)
                .into(),
        }),
    }
}

pub(super) fn window_stage(stage: WindowStage) -> proto::MaintenanceStage {
    match stage {
        WindowStage::Scheduled => proto::MaintenanceStage::Scheduled,
        WindowStage::Vacating => proto::MaintenanceStage::Vacating,
        WindowStage::Draining | WindowStage::Over => proto::MaintenanceStage::Draining,
    }
}

fn agent_change(change: AgentChange) -> proto::agent_event::Change {
    use proto::agent_event::Change;
    match change {
        AgentChange::Registered => Change::Registered,
        AgentChange::Disconnected => Change::Disconnected,
        AgentChange::Unreachable => Change::Unreachable,
        AgentChange::Removed => Change::Removed,
        AgentChange::Draining => Change::Draining,
        AgentChange::Activated => Change::Activated,
        AgentChange::Deactivated => Change::Deactivated,
    }
}

fn framework_change(change: FrameworkChange) -> proto::framework_event::Change {
    use proto::framework_event::Change;
    match change {
        FrameworkChange::Subscribed => Change::Subscribed,
        FrameworkChange::Disconnected => Change::Disconnected,
        FrameworkChange::Removed => Change::Removed,
    }
}
