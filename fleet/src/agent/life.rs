//! A task from launch to end: timers, what it holds of the agent, how it goes.

use std::{cmp::Reverse, collections::VecDeque, sync::Arc};

use mezzo_api::{
    model::{Scalar, Value},
    proto::{self, AgentMessage, Reason, TaskState},
};
use prost::Message as _;

use super::{Agent, Held, Key, Timer, is_over, key};
use crate::{
    Happened, Record,
    counts::{add, sub},
    wire,
};

impl Agent {
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

    pub(super) fn launch(
        &mut self,
        framework: &str,
        role: &str,
        info: Vec<u8>,
        now: u64,
        out: &mut Vec<AgentMessage>,
    ) {
        let Ok(task) = wire::Wanted::decode(&*info) else {
            tracing::error!(
                agent = self.id,
                "the master sent a launch that does not parse"
            );
            return;
        };
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
            info: info.into(),
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

    pub(super) fn end(
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

    pub(super) fn forget(&mut self, key: &Key) {
        let Some(held) = self.tasks.remove(key) else {
            return;
        };
        self.release(&held.taken);
        self.n_unacknowledged -= held.statuses.len();
        sub(&self.counts.tasks);
    }
}
