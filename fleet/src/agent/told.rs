//! What the master hears: everything at a registration, statuses one by one, each until it is acknowledged.
//!
//! Statuses of a task queue up; the first is sent, again and again, until it is acknowledged, then the next.

use mezzo_api::{
    model::{AgentInfo, Attribute, AttributeValue, CgroupMode},
    proto::{self, AgentMessage, Reason, TaskState, agent_message::Message as Out, exit_info::How},
};

use super::{Agent, Key, is_over, message, task_id};
use crate::{
    Happened, Record,
    counts::add,
    wire::{self, Outgoing},
};

impl Agent {
    /// The first message of a stream: everything that it holds.
    pub(crate) fn register(&self) -> Outgoing {
        let name = format!("sim-{:06}", self.number);
        let attribute = |name: &str, value: String| Attribute {
            name: name.to_owned(),
            value: AttributeValue::Text(value),
        };
        let racks = (self.config.racks > 0)
            .then(|| attribute("rack", format!("r{}", self.number % self.config.racks)));
        let zone = |zones| format!("z{}", self.number % zones);
        let info = AgentInfo {
            address: format!("{name}.invalid:5051"),
            hostname: name,
            resources: self.config.resources.clone(),
            attributes: racks.into_iter().collect(),
            region: if self.config.zones > 0 {
                "sim".to_owned()
            } else {
                String::new()
            },
            zone: if self.config.zones > 0 {
                zone(self.config.zones)
            } else {
                String::new()
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: "simulated".to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            cgroup_mode: CgroupMode::V2,
            reserved: Vec::new(),
            volumes: Vec::new(),
        };
        let tasks = self.tasks.iter().map(|(key, held)| {
            let status = held.statuses.back().cloned();
            let status = status.unwrap_or_else(|| proto::TaskStatus {
                task_id: task_id(key).to_owned(),
                framework_id: held.framework_id.to_string(),
                agent_id: self.id.clone(),
                state: held.state.into(),
                source: proto::StatusSource::Agent.into(),
                timestamp_ms: held.started_at_ms.unwrap_or_default(),
                ..proto::TaskStatus::default()
            });
            wire::Task {
                info: held.info.clone(),
                framework_id: held.framework_id.to_string(),
                role: held.role.to_string(),
                status: Some(status),
                started_at_ms: held.started_at_ms,
            }
        });
        let register = wire::Register {
            agent_id: self.id.clone(),
            info: Some(info.into()),
            boot_id: "simulated".to_owned(),
            tasks: tasks.collect(),
        };
        Outgoing::Register(wire::Attachment {
            register: Some(register),
        })
    }

    /// Statuses that have waited for too long; after a registration, all that wait.
    pub(crate) fn repeat(&mut self, now: u64, all: bool) -> Vec<AgentMessage> {
        if self.n_unacknowledged == 0 {
            return Vec::new();
        }
        let late = u64::try_from(self.config.repeat_after.as_millis()).unwrap_or(u64::MAX);
        let mut out = Vec::new();
        for held in self.tasks.values_mut() {
            if let Some(status) = held.statuses.front()
                && (all || now >= held.sent_at_ms.saturating_add(late))
            {
                held.sent_at_ms = now;
                add(&self.counts.statuses_sent);
                add(&self.counts.repeats);
                out.push(message(Out::Status(Box::new(status.clone()))));
            }
        }
        out
    }

    /// Queues a status, and sends it where none waits before it.
    pub(super) fn tell(
        &mut self,
        key: &Key,
        state: TaskState,
        reason: Reason,
        now: u64,
        out: &mut Vec<AgentMessage>,
    ) {
        self.n_updates += 1;
        let Some(held) = self.tasks.get_mut(key) else {
            return;
        };
        let how = match state {
            TaskState::TaskFinished => Some(How::Code(0)),
            TaskState::TaskFailed => Some(How::Code(1)),
            TaskState::TaskKilled => Some(How::Signal(15)),
            TaskState::Unspecified
            | TaskState::TaskStaging
            | TaskState::TaskStarting
            | TaskState::TaskRunning
            | TaskState::TaskKilling
            | TaskState::TaskError
            | TaskState::TaskDropped
            | TaskState::TaskUnreachable
            | TaskState::TaskGone
            | TaskState::TaskUnknown => None,
        };
        let status = proto::TaskStatus {
            task_id: task_id(key).to_owned(),
            framework_id: held.framework_id.to_string(),
            agent_id: self.id.clone(),
            state: state.into(),
            reason: reason.into(),
            source: proto::StatusSource::Agent.into(),
            timestamp_ms: now,
            // With the time: another process may have been this agent before.
            update_id: format!("{now:x}-{:x}", self.n_updates),
            exit: how.map(|how| proto::ExitInfo {
                how: Some(how),
                ..proto::ExitInfo::default()
            }),
            ..proto::TaskStatus::default()
        };
        if self.config.keep_records {
            self.counts.records().push(Record {
                at_ms: now,
                agent: self.number,
                what: Happened::Status {
                    task_id: status.task_id.clone(),
                    state,
                    update_id: status.update_id.clone(),
                },
            });
        }
        if held.statuses.is_empty() {
            held.sent_at_ms = now;
            add(&self.counts.statuses_sent);
            out.push(message(Out::Status(Box::new(status.clone()))));
        }
        held.statuses.push_back(status);
        self.n_unacknowledged += 1;
    }

    pub(super) fn acknowledged(
        &mut self,
        key: &Key,
        update_id: &str,
        now: u64,
        out: &mut Vec<AgentMessage>,
    ) {
        let Some(held) = self.tasks.get_mut(key) else {
            return;
        };
        if held
            .statuses
            .front()
            .is_none_or(|status| status.update_id != update_id)
        {
            return;
        }
        add(&self.counts.acknowledgements);
        held.statuses.pop_front();
        self.n_unacknowledged -= 1;
        if let Some(next) = held.statuses.front() {
            held.sent_at_ms = now;
            add(&self.counts.statuses_sent);
            out.push(message(Out::Status(Box::new(next.clone()))));
        } else {
            held.statuses.shrink_to_fit();
            if is_over(held.state) {
                self.forget(key);
            }
        }
    }
}
