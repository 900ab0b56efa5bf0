//! One simulated agent. Pure: message or time in, messages out.
//!
//! ```text
//! Launch ──► Starting ──start_delay──► Running ──run_for or Kill──► Finished, Failed, Killed ──acknowledged──► gone
//! ```
//!
//! Statuses of a task queue up; the first is sent, again and again, until it is acknowledged, then the next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
};

use mezzo_api::{
    model::{AgentInfo, Attribute, AttributeValue, CgroupMode, Scalar, Value},
    proto::{
        self, AgentMessage, Reason, TaskState, agent_message::Message as Out, exit_info::How,
        master_message::Message as In,
    },
};
use prost::Message as _;

use crate::{
    Config, Happened, Record,
    counts::{Shared, add, sub},
};

/// What came of a message.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// To be sent, in order.
    Send(Vec<AgentMessage>),
    /// The master has given it this id and is ready for its statuses.
    Registered,
    /// The master wants it to stop.
    Refused(String),
}

/// `framework/task`: neither has a slash in it.
type Key = Arc<str>;

#[derive(Debug)]
struct Held {
    framework_id: Arc<str>,
    role: Arc<str>,
    /// The encoded TaskInfo: a tenth of the size of the message.
    info: Box<[u8]>,
    state: TaskState,
    started_at_ms: Option<u64>,
    /// Not acknowledged, the oldest first.
    statuses: VecDeque<proto::TaskStatus>,
    /// When the first of them was last sent.
    sent_at_ms: u64,
    taken: Vec<(Arc<str>, i64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Start,
    End,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Agent {
    config: Arc<Config>,
    counts: Arc<Shared>,
    number: usize,
    id: String,
    /// Of the master that it is registered with.
    term: u64,
    tasks: BTreeMap<Key, Held>,
    timers: BinaryHeap<Reverse<(u64, Timer, Key)>>,
    /// Thousandths that tasks hold, by resource.
    held: BTreeMap<Arc<str>, i64>,
    n_unacknowledged: usize,
    n_updates: u64,
    draining: bool,
    chance: u64,
}

impl Agent {
    pub(crate) fn new(number: usize, config: Arc<Config>, counts: Arc<Shared>) -> Self {
        let chance = config.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            config,
            counts,
            number,
            id: String::new(),
            term: 0,
            tasks: BTreeMap::new(),
            timers: BinaryHeap::new(),
            held: BTreeMap::new(),
            n_unacknowledged: 0,
            n_updates: 0,
            draining: false,
            chance: chance | 1,
        }
    }

    /// Uniform; xorshift, which is enough for spreading times.
    pub(crate) fn random(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }

    /// The first message of a stream: everything that it holds.
    pub(crate) fn register(&self) -> AgentMessage {
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
        let tasks = self.tasks.values().map(|held| {
            // It was encoded here.
            let info = proto::TaskInfo::decode(&*held.info).unwrap_or_default();
            let status = held
                .statuses
                .back()
                .cloned()
                .unwrap_or_else(|| proto::TaskStatus {
                    task_id: info.task_id.clone(),
                    framework_id: held.framework_id.to_string(),
                    agent_id: self.id.clone(),
                    state: held.state.into(),
                    source: proto::StatusSource::Agent.into(),
                    timestamp_ms: held.started_at_ms.unwrap_or_default(),
                    ..proto::TaskStatus::default()
                });
            proto::Task {
                info: Some(info),
                framework_id: held.framework_id.to_string(),
                role: held.role.to_string(),
                status: Some(status),
                started_at_ms: held.started_at_ms,
            }
        });
        message(Out::Register(Box::new(proto::agent_message::Register {
            agent_id: self.id.clone(),
            info: Some(info.into()),
            boot_id: "simulated".to_owned(),
            tasks: tasks.collect(),
            operations: Vec::new(),
        })))
    }

    /// When [`Agent::due`] has something to do.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Whether a status waits for its acknowledgement.
    pub(crate) fn is_waiting(&self) -> bool {
        self.n_unacknowledged > 0
    }

    /// Takes a message of the master.
    pub(crate) fn handle(&mut self, incoming: In, now: u64) -> Outcome {
        let mut out = Vec::new();
        match incoming {
            In::Registered(registered) => {
                self.id = registered.agent_id;
                self.term = registered.term;
                // A Drain follows at once where it still holds.
                self.draining = false;
                return Outcome::Registered;
            }
            In::Refused(refused) => return Outcome::Refused(refused.message),
            In::Ping(ping) => out.push(message(Out::Pong(proto::agent_message::Pong {
                sequence: ping.sequence,
            }))),
            In::Launch(launch) => {
                if let Some(task) = launch.task {
                    self.launch(&launch.framework_id, &launch.role, task, now, &mut out);
                }
            }
            In::LaunchGroup(launch) => {
                for task in launch.tasks {
                    self.launch(&launch.framework_id, &launch.role, task, now, &mut out);
                }
            }
            In::Kill(kill) => {
                add(&self.counts.kills);
                let key = key(&kill.framework_id, &kill.task_id);
                self.end(
                    &key,
                    TaskState::TaskKilled,
                    Reason::KillRequested,
                    now,
                    &mut out,
                );
            }
            In::Acknowledge(acknowledge) => {
                let key = key(&acknowledge.framework_id, &acknowledge.task_id);
                self.acknowledged(&key, &acknowledge.update_id, now, &mut out);
            }
            In::ShutdownFramework(shutdown) => {
                let of_it = |held: &Held| *held.framework_id == *shutdown.framework_id;
                let keys: Vec<Key> = self
                    .tasks
                    .iter()
                    .filter(|(_, held)| of_it(held))
                    .map(|(key, _)| key.clone())
                    .collect();
                keys.iter().for_each(|key| self.forget(key));
            }
            In::Drain(_) => {
                self.draining = true;
                let keys: Vec<Key> = self.tasks.keys().cloned().collect();
                for key in keys {
                    self.end(
                        &key,
                        TaskState::TaskKilled,
                        Reason::AgentDraining,
                        now,
                        &mut out,
                    );
                }
            }
            In::Activate(_) => self.draining = false,
            In::Operation(operation) => out.push(refused(*operation)),
            In::TaskMessage(_) | In::AcknowledgeOperation(_) => {}
        }
        Outcome::Send(out)
    }

    /// Tasks that start or end by now.
    pub(crate) fn due(&mut self, now: u64) -> Vec<AgentMessage> {
        let mut out = Vec::new();
        while self.next_due().is_some_and(|at| at <= now) {
            let Some(Reverse((_, timer, key))) = self.timers.pop() else {
                break;
            };
            match timer {
                Timer::Start => self.start(&key, now, &mut out),
                Timer::End => {
                    let fails = self.random() % 1000 < u64::from(self.config.failures_per_mille);
                    let state = if fails {
                        TaskState::TaskFailed
                    } else {
                        TaskState::TaskFinished
                    };
                    self.end(&key, state, Reason::CommandExited, now, &mut out);
                }
            }
        }
        out
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

    fn launch(
        &mut self,
        framework: &str,
        role: &str,
        task: proto::TaskInfo,
        now: u64,
        out: &mut Vec<AgentMessage>,
    ) {
        let key = key(framework, &task.task_id);
        if self.tasks.contains_key(&key) {
            return;
        }
        add(&self.counts.launches);
        if self.config.keep_records {
            self.counts.records().push(Record {
                at_ms: now,
                agent: self.number,
                what: Happened::Launched {
                    task_id: task.task_id.clone(),
                    term: self.term,
                },
            });
        }
        let taken: Vec<(Arc<str>, i64)> = task
            .resources
            .iter()
            .filter_map(|resource| match &resource.value {
                Some(proto::resource::Value::Scalar(scalar)) => {
                    Some((resource.name.as_str().into(), scalar.millis))
                }
                Some(_) | None => None,
            })
            .collect();
        let fits = taken.iter().all(|(name, millis)| {
            let there = match self.config.resources.get(name) {
                Some(Value::Scalar(there)) => *there,
                Some(Value::Ranges(_) | Value::Set(_)) | None => Scalar::ZERO,
            };
            self.held.get(name).copied().unwrap_or(0) + millis <= there.millis()
        });
        let held = Held {
            framework_id: framework.into(),
            role: role.into(),
            info: task.encode_to_vec().into(),
            state: TaskState::TaskStarting,
            started_at_ms: None,
            statuses: VecDeque::new(),
            sent_at_ms: 0,
            taken,
        };
        for (name, millis) in &held.taken {
            *self.held.entry(name.clone()).or_default() += millis;
        }
        self.tasks.insert(key.clone(), held);
        add(&self.counts.tasks);
        if !fits {
            add(&self.counts.overcommitted);
            tracing::error!(
                agent = self.id,
                task = task.task_id,
                "launched beyond what this agent has"
            );
            self.end(
                &key,
                TaskState::TaskDropped,
                Reason::ResourcesUnavailable,
                now,
                out,
            );
        } else if self.draining {
            self.end(
                &key,
                TaskState::TaskDropped,
                Reason::AgentDraining,
                now,
                out,
            );
        } else {
            if self.config.tell_starting {
                self.tell(&key, TaskState::TaskStarting, Reason::Unspecified, now, out);
            }
            if self.config.start_delay.is_zero() {
                self.start(&key, now, out);
            } else {
                self.at(now, self.config.start_delay, Timer::Start, key);
            }
        }
    }

    fn at(&mut self, now: u64, after: std::time::Duration, timer: Timer, key: Key) {
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.timers
            .push(Reverse((now.saturating_add(after), timer, key)));
    }

    fn start(&mut self, key: &Key, now: u64, out: &mut Vec<AgentMessage>) {
        let Some(held) = self.tasks.get_mut(key) else {
            return;
        };
        if held.state != TaskState::TaskStarting {
            return;
        }
        held.state = TaskState::TaskRunning;
        held.started_at_ms = Some(now);
        self.tell(key, TaskState::TaskRunning, Reason::Unspecified, now, out);
        if let Some((shortest, longest)) = self.config.run_for {
            let share = (self.random() % 1001) as f64 / 1000.0;
            self.at(
                now,
                shortest + (longest - shortest).mul_f64(share),
                Timer::End,
                key.clone(),
            );
        }
    }

    fn end(
        &mut self,
        key: &Key,
        state: TaskState,
        reason: Reason,
        now: u64,
        out: &mut Vec<AgentMessage>,
    ) {
        let Some(held) = self.tasks.get_mut(key) else {
            return;
        };
        if is_over(held.state) {
            return;
        }
        held.state = state;
        // What a task had is free with its end, as with a true agent, however long the word of it takes.
        let taken = std::mem::take(&mut held.taken);
        self.release(&taken);
        add(&self.counts.ended);
        self.tell(key, state, reason, now, out);
    }

    fn release(&mut self, taken: &[(Arc<str>, i64)]) {
        for (name, millis) in taken {
            if let Some(sum) = self.held.get_mut(name) {
                *sum -= millis;
            }
        }
    }

    /// Queues a status, and sends it where none waits before it.
    fn tell(
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
            task_id: key
                .split_once('/')
                .map_or(&**key, |(_, task)| task)
                .to_owned(),
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

    fn acknowledged(&mut self, key: &Key, update_id: &str, now: u64, out: &mut Vec<AgentMessage>) {
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

    fn forget(&mut self, key: &Key) {
        let Some(held) = self.tasks.remove(key) else {
            return;
        };
        self.release(&held.taken);
        self.n_unacknowledged -= held.statuses.len();
        sub(&self.counts.tasks);
    }
}

fn message(message: Out) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

fn key(framework: &str, task: &str) -> Key {
    format!("{framework}/{task}").into()
}

fn is_over(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::TaskFinished
            | TaskState::TaskFailed
            | TaskState::TaskKilled
            | TaskState::TaskDropped
    )
}

/// Nothing is reserved here, and there are no volumes.
fn refused(operation: proto::PoolOperation) -> AgentMessage {
    let status = proto::OperationStatus {
        operation_id: operation.operation_id,
        framework_id: operation.framework_id,
        agent_id: String::new(),
        state: proto::OperationState::OperationFailed.into(),
        message: "a simulated agent has no reservations and no volumes".to_owned(),
        keep: operation.keep,
    };
    message(Out::Pools(Box::new(proto::agent_message::PoolReport {
        status: Some(status),
        reserved: Vec::new(),
        volumes: Vec::new(),
    })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mezzo_api::proto::master_message::{Acknowledge, Drain, Kill, Launch};

    use super::*;

    fn agent(change: impl FnOnce(&mut Config)) -> Agent {
        let mut config = Config::default();
        change(&mut config);
        Agent::new(7, Arc::new(config), Arc::default())
    }

    fn launch(task: &str, cpus: i64) -> In {
        let scalar = proto::resource::Value::Scalar(proto::Scalar {
            millis: cpus * 1000,
        });
        In::Launch(Box::new(Launch {
            framework_id: "f".into(),
            role: "*".into(),
            task: Some(proto::TaskInfo {
                task_id: task.into(),
                resources: vec![proto::Resource {
                    name: "cpus".into(),
                    value: Some(scalar),
                }],
                ..proto::TaskInfo::default()
            }),
        }))
    }

    fn statuses(outcome: Outcome) -> Vec<proto::TaskStatus> {
        let Outcome::Send(out) = outcome else {
            panic!("{outcome:?}")
        };
        out.into_iter()
            .filter_map(|message| {
                let Some(Out::Status(status)) = message.message else {
                    return None;
                };
                Some(*status)
            })
            .collect()
    }

    fn states(statuses: &[proto::TaskStatus]) -> Vec<TaskState> {
        statuses.iter().map(proto::TaskStatus::state).collect()
    }

    fn acknowledge(status: &proto::TaskStatus) -> In {
        In::Acknowledge(Acknowledge {
            framework_id: "f".into(),
            task_id: status.task_id.clone(),
            update_id: status.update_id.clone(),
        })
    }

    #[test]
    fn statuses_go_one_by_one_and_are_repeated_until_acknowledged() {
        let mut agent = agent(|config| config.tell_starting = true);
        let first = statuses(agent.handle(launch("t", 1), 0));
        assert_eq!(states(&first), [TaskState::TaskStarting]);
        assert!(agent.repeat(9_999, false).is_empty());
        assert_eq!(agent.repeat(10_000, false).len(), 1);
        let next = statuses(agent.handle(acknowledge(&first[0]), 1));
        assert_eq!(states(&next), [TaskState::TaskRunning]);
        assert!(
            statuses(agent.handle(acknowledge(&first[0]), 2)).is_empty(),
            "it was acknowledged before"
        );
        assert!(agent.is_waiting());
        assert!(statuses(agent.handle(acknowledge(&next[0]), 3)).is_empty());
        assert!(!agent.is_waiting() && agent.tasks.len() == 1);
    }

    #[test]
    fn tasks_end_by_themselves_and_are_gone_when_that_is_acknowledged() {
        let mut agent = agent(|config| {
            config.start_delay = Duration::from_millis(5);
            config.run_for = Some((Duration::from_secs(1), Duration::from_secs(2)));
            config.failures_per_mille = 1000;
        });
        assert!(statuses(agent.handle(launch("t", 1), 0)).is_empty());
        let running = statuses(Outcome::Send(agent.due(5)));
        assert_eq!(states(&running), [TaskState::TaskRunning]);
        assert!((1005..=2005).contains(&agent.next_due().unwrap()));
        assert!(
            agent.due(2005).is_empty(),
            "TASK_RUNNING is not acknowledged yet"
        );
        let failed = statuses(agent.handle(acknowledge(&running[0]), 2006));
        assert_eq!(states(&failed), [TaskState::TaskFailed]);
        agent.handle(acknowledge(&failed[0]), 2007);
        assert!(agent.tasks.is_empty() && agent.held["cpus"] == 0);
    }

    #[test]
    fn what_it_holds_is_told_at_the_next_registration() {
        let mut agent = agent(|_| {});
        agent.handle(launch("t", 1), 0);
        let Some(Out::Register(register)) = agent.register().message else {
            panic!()
        };
        let task = &register.tasks[0];
        assert_eq!(task.info.as_ref().unwrap().task_id, "t");
        assert_eq!(
            task.status.as_ref().unwrap().state(),
            TaskState::TaskRunning
        );
        assert_eq!(agent.repeat(1, true).len(), 1, "and its status again");
    }

    #[test]
    fn more_than_it_has_is_refused_and_counted() {
        let mut agent = agent(|_| {});
        agent.handle(launch("a", 7), 0);
        let told = statuses(agent.handle(launch("b", 2), 0));
        assert_eq!(states(&told), [TaskState::TaskDropped]);
        assert_eq!(agent.counts.read().overcommitted, 1);
    }

    #[test]
    fn a_kill_and_a_drain_end_tasks() {
        let mut agent = agent(|_| {});
        for task in ["a", "b"] {
            let running = statuses(agent.handle(launch(task, 1), 0));
            agent.handle(acknowledge(&running[0]), 0);
        }
        let kill = In::Kill(Kill {
            framework_id: "f".into(),
            task_id: "a".into(),
            grace_ms: None,
        });
        assert_eq!(
            states(&statuses(agent.handle(kill, 1))),
            [TaskState::TaskKilled]
        );
        let drained = statuses(agent.handle(In::Drain(Drain { max_grace_ms: None }), 2));
        assert_eq!(drained[0].reason(), Reason::AgentDraining);
        assert_eq!(
            states(&statuses(agent.handle(launch("c", 1), 3))),
            [TaskState::TaskDropped]
        );
    }
}
