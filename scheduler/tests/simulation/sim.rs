//! The core, its disk and its world, moved on step by step; what goes wrong is drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{AgentId, RoleName, TaskId, TaskState};
use mezzo_scheduler::core::command::{Command, Refusal};
use mezzo_scheduler::core::record::{Key, decode};
use mezzo_scheduler::core::state::State;
use mezzo_scheduler::core::{Call, Core, Ids, Settings};
use mezzo_scheduler::deployment::course;
use uuid::Uuid;

use super::roles;
use super::rules::{Planted, Trials};
use super::sick;
use super::world::{Message, Rng, World, framework};

pub(crate) struct Counter(u128);

impl Ids for Counter {
    fn unique(&mut self) -> Uuid {
        self.0 += 1;
        Uuid::from_u128(self.0)
    }
}

/// What may go wrong.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) crashes: bool,
    pub(crate) breaks: bool,
    pub(crate) failures: bool,
    pub(crate) lost_agents: bool,
}

pub(crate) struct Sim {
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) core: Core,
    pub(crate) disk: BTreeMap<Key, Vec<u8>>,
    pub(crate) world: World,
    pub(crate) ids: Counter,
    pub(crate) faults: Faults,
    pub(crate) wake_at: Option<u64>,
    pub(crate) crashes: u32,
    pub(crate) trials: Trials,
    pub(crate) planted: Option<Planted>,
    pub(crate) is_quiet: bool,
    pub(crate) roles_met: BTreeSet<RoleName>,
}

impl Sim {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = Rng(seed);
        let n_agents = 2 + rng.below(3);
        let mut sim = Self {
            rng,
            now: 1_000_000,
            core: Core::new(State::default(), Settings::default()),
            disk: BTreeMap::new(),
            world: World::new(n_agents),
            ids: Counter(u128::from(seed) << 64),
            faults,
            wake_at: None,
            crashes: 0,
            trials: Trials::default(),
            planted: None,
            is_quiet: false,
            roles_met: BTreeSet::new(),
        };
        sim.turn();
        sim
    }

    /// `kill -9`: memory is gone, the disk is not.
    pub(crate) fn crash(&mut self) {
        self.crashes += 1;
        self.world.disconnect();
        let mut state = decode(self.disk.clone()).expect("what was committed can be read");
        if self.planted == Some(Planted::TrialForgotten) {
            for deployment in state.deployments.values_mut() {
                for course in std::sync::Arc::make_mut(deployment).courses.values_mut() {
                    *course = course.promoted(self.now);
                }
            }
        }
        self.core = Core::new(state, Settings::default());
        self.wake_at = Some(self.now);
    }

    pub(crate) fn maybe_crash(&mut self, one_in: u64) -> bool {
        let crash = self.faults.crashes && self.rng.one_in(one_in);
        if crash {
            self.crash();
        }
        crash
    }

    pub(crate) fn turn(&mut self) {
        let before = self.core.state().clone();
        let effects = self.core.turn(self.now, &mut self.ids);
        let mut after = self.core.state().clone();
        if self.planted == Some(Planted::Silent) {
            for app in after.apps.values_mut() {
                std::sync::Arc::make_mut(app).waiting_for.clear();
            }
        }
        if self.planted == Some(Planted::Unreplaced) {
            sick::end_one(&mut after, self.now);
        }
        self.trials.check(&before, &after, self.now, self.is_quiet);
        if self.maybe_crash(100) {
            return;
        }
        for write in effects.writes {
            let is_instance = matches!(write.key, Key::Instance(_));
            if is_instance && self.planted == Some(Planted::Unwritten) {
                continue;
            }
            match write.value {
                Some(value) => self.disk.insert(write.key, value),
                None => self.disk.remove(&write.key),
            };
        }
        if self.planted == Some(Planted::Rash) {
            sick::kill_all(&mut self.world, &after, self.now);
        }
        if self.rng.one_in(50) {
            self.check_disk();
        }
        self.wake_at = effects.wake_at;
        for call in effects.calls {
            if self.maybe_crash(200) {
                return;
            }
            if !self.world.connected {
                break;
            }
            let prompt = self.rng.one_in(2);
            if self.planted == Some(Planted::Twice) && matches!(call, Call::Accept { .. }) {
                self.world.perform(call.clone(), self.now, prompt);
            }
            if self.planted == Some(Planted::Unkilled) && matches!(call, Call::Kill { .. }) {
                continue;
            }
            self.check_destroyed(&call);
            roles::check_launched(self, &call);
            self.world.refuse_changes = self.faults.failures && self.rng.one_in(10);
            self.world.perform(call, self.now, prompt);
        }
    }
    pub(crate) fn connect(&mut self) {
        if !self.world.connected {
            self.core.disconnected();
            let suppressed = self.core.suppressed_roles();
            self.world.connect(self.core.roles(), &suppressed);
            self.core.subscribed(&framework(), self.now);
            self.turn();
        }
    }

    pub(crate) fn deliver(&mut self) -> bool {
        let Some(message) = self.world.to_core.pop_front() else {
            return false;
        };
        match message {
            Message::Offers(mut offers) => {
                if self.planted == Some(Planted::WrongRole) {
                    for offer in &mut offers {
                        offer.role = RoleName::any();
                    }
                }
                self.core.offered(offers);
            }
            Message::Rescind(offer) => self.core.rescinded(&offer),
            Message::Status(status) => self.core.status(&status, self.now),
            Message::Machines(machines) => self.core.surveyed(machines),
        }
        // Sometimes several in one turn.
        if !self.rng.one_in(3) {
            self.turn();
        }
        true
    }

    pub(crate) fn command(&mut self, command: Command) -> Result<(), Refusal> {
        let result = self
            .core
            .command(command, self.now, &mut self.ids)
            .map(drop);
        self.turn();
        result
    }

    pub(crate) fn task(&mut self) -> Option<TaskId> {
        let live: Vec<TaskId> = self
            .world
            .tasks
            .iter()
            .filter(|(_, t)| t.lives())
            .map(|(id, _)| id.clone())
            .collect();
        let at = self.rng.below(live.len() as u64) as usize;
        live.get(at).cloned()
    }

    /// An agent does something with one of its tasks.
    pub(crate) fn progress(&mut self, may_fail: bool) {
        let Some(id) = self.task() else { return };
        let state = self.world.tasks[&id].state;
        let fails = may_fail && self.rng.one_in(6);
        let next = match state {
            TaskState::Killing => TaskState::Killed,
            _ if fails => {
                let ends = [
                    TaskState::Failed,
                    TaskState::Finished,
                    TaskState::Killed,
                    TaskState::Gone,
                    TaskState::Error,
                ];
                ends[self.rng.below(ends.len() as u64) as usize]
            }
            TaskState::Staging => TaskState::Starting,
            TaskState::Starting
            | TaskState::Running
            | TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Unreachable
            | TaskState::Gone
            | TaskState::Unknown => TaskState::Running,
        };
        self.world.move_task(&id, next);
    }

    /// A running task ends by a call that the core never made.
    pub(crate) fn kill_one(&mut self) {
        let tasks = self.world.tasks.iter();
        let running = tasks.filter(|(_, task)| task.state == TaskState::Running);
        let all: Vec<TaskId> = running.map(|(id, _)| id.clone()).collect();
        for id in all {
            self.world.move_task(&id, TaskState::Killing);
        }
    }

    pub(crate) fn agent(&mut self) -> AgentId {
        let at = self.rng.below(self.world.agents.len() as u64) as usize;
        self.world
            .agents
            .keys()
            .nth(at)
            .cloned()
            .expect("there are agents")
    }

    pub(crate) fn step(&mut self) {
        match self.rng.below(20) {
            0..=7 => {
                self.deliver();
            }
            8..=11 => self.progress(self.faults.failures),
            12 | 13 => {
                self.world.make_offers(self.now);
            }
            14 | 15 => {
                self.now += self.rng.below(3000);
                self.turn();
            }
            16 => {
                if self.faults.breaks && self.rng.one_in(4) {
                    if self.faults.lost_agents && self.rng.one_in(2) {
                        self.world.restart_master();
                    } else {
                        self.world.disconnect();
                    }
                    self.core.disconnected();
                    self.turn();
                } else {
                    self.connect();
                }
            }
            17 => {
                let id = self.agent();
                if self.faults.lost_agents && self.rng.one_in(4) {
                    self.world.lose_agent(&id);
                } else {
                    self.world.return_agent(&id);
                }
            }
            18 => {
                if let Some(id) = self.task() {
                    self.world.repeat(&id);
                }
                if self.rng.one_in(8) {
                    self.promote();
                }
            }
            _ => {
                self.maybe_crash(10);
                self.connect();
            }
        }
    }

    /// Somebody looks at what is on trial, and likes it.
    pub(crate) fn promote(&mut self) {
        let state = self.core.state();
        let on_trial: Vec<_> = state
            .deployments
            .values()
            .filter(|plan| {
                plan.courses
                    .values()
                    .any(|one| one.stage == course::Stage::Holding)
            })
            .map(|plan| plan.id)
            .collect();
        for id in on_trial {
            self.trials.promoted.insert(id);
            self.command(Command::Promote { id })
                .expect("it is on trial");
        }
    }
}
