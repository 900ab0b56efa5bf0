//! One simulated agent. Pure: message or time in, messages out.
//!
//! ```text
//! Launch ──► Starting ──start_delay──► Running ──run_for or Kill──► Finished, Failed, Killed ──acknowledged──► gone
//! ```
//!
//! Here is what it holds and what it does with a message of the master; `life` is a task from launch to end, `told` what the
//! master hears of it and how often.

mod life;
#[cfg(test)]
mod tests;
mod told;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
};

use mezzo_api::proto::{
    self, AgentMessage, Reason, TaskState, agent_message::Message as Out,
    master_message::Message as In,
};

use prost::{Message as _, bytes::Bytes};

use crate::{
    Config,
    counts::{Shared, add},
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
    info: Bytes,
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
                self.launch(
                    &launch.framework_id,
                    &launch.role,
                    launch.task,
                    now,
                    &mut out,
                );
            }
            In::LaunchGroup(launch) => {
                for task in launch.tasks {
                    let task = task.encode_to_vec();
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
}

fn message(message: Out) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

fn key(framework: &str, task: &str) -> Key {
    format!("{framework}/{task}").into()
}

fn task_id(key: &str) -> &str {
    key.split_once('/').map_or(key, |(_, task)| task)
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
