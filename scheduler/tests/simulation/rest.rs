//! Rest after the storm: until everything is as wanted and stays so; and what is compared with what.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{PoolChange, TaskId, TaskState};
use mezzo_scheduler::app::AppId;
use mezzo_scheduler::core::Call;
use mezzo_scheduler::core::record::decode;
use mezzo_scheduler::core::state::AppState;
use mezzo_scheduler::resident::Stage;

use super::sim::{Faults, Sim};

impl Sim {
    /// Nothing goes wrong any more: until everything is as wanted and stays so.
    pub(crate) fn quiet(&mut self, seed: u64) {
        self.faults = Faults {
            crashes: false,
            breaks: false,
            failures: false,
            lost_agents: false,
        };
        self.is_quiet = true;
        let end = self.now + 3 * 3600 * 1000;
        let mut calm_since = None;
        while self.now < end {
            self.connect();
            for id in self.world.agents.keys().cloned().collect::<Vec<_>>() {
                self.world.return_agent(&id);
            }
            while self.deliver() {}
            self.turn();
            self.promote();
            let tasks: Vec<TaskId> = self.world.tasks.keys().cloned().collect();
            for id in tasks {
                let next = match self.world.tasks[&id].state {
                    TaskState::Staging => Some(TaskState::Starting),
                    TaskState::Starting => Some(TaskState::Running),
                    TaskState::Killing => Some(TaskState::Killed),
                    TaskState::Running
                    | TaskState::Finished
                    | TaskState::Failed
                    | TaskState::Killed
                    | TaskState::Error
                    | TaskState::Dropped
                    | TaskState::Unreachable
                    | TaskState::Gone
                    | TaskState::Unknown => None,
                };
                if let Some(next) = next {
                    self.world.move_task(&id, next);
                }
                for number in 0..self.world.tasks[&id].health.len() {
                    self.world.check(&id, number, true);
                }
                self.world.probe(&id, true);
                self.world.repeat(&id);
            }
            self.world.make_offers(self.now);
            let busy = !self.world.to_core.is_empty();
            let wanted = self.is_as_wanted();
            match (!wanted, calm_since) {
                (true, _) => calm_since = None,
                (false, None) => calm_since = Some(self.now),
                (false, Some(since)) if self.now > since + 20 * 60 * 1000 => {
                    self.is_quiet = false;
                    return;
                }
                (false, Some(_)) => {}
            }
            if !busy {
                let next = self.wake_at.unwrap_or(self.now + 1000);
                self.now = next.clamp(self.now + 1, self.now + 30_000);
            }
        }
        panic!(
            "seed {seed} never comes to rest after {} crashes: {:#?}",
            self.crashes,
            self.core.state()
        );
    }

    pub(crate) fn is_as_wanted(&self) -> bool {
        let state = self.core.state();
        let mut running: BTreeMap<AppId, BTreeSet<TaskId>> = BTreeMap::new();
        for (id, task) in &self.world.tasks {
            // Of a pod's instance each container is a task.
            let of = |app: &AppState| {
                let mut all = app.instances.values();
                let one = all.find(|one| one.names().any(|name| name == id))?;
                Some(one.task_id.clone())
            };
            let found = state.apps.values().find_map(|app| Some((app, of(app)?)));
            let Some((app, instance)) = found else {
                return false;
            };
            if task.state != TaskState::Running {
                return false;
            }
            running
                .entry(app.current.app.id.clone())
                .or_default()
                .insert(instance);
        }
        let lives = |id: &TaskId| self.world.tasks.contains_key(id);
        let mut instances = state.apps.values().flat_map(|app| app.instances.values());
        if !instances.all(|one| one.live_tasks().all(lives)) {
            return false;
        }
        let kept: BTreeSet<_> = state
            .apps
            .values()
            .flat_map(|app| app.holdings.values())
            .map(|one| (one.agent_id.clone(), one.id))
            .collect();
        let there: BTreeSet<_> = self
            .world
            .agents
            .keys()
            .flat_map(|agent| {
                let held = self.world.held_on(agent).into_iter();
                held.map(|id| (agent.clone(), id))
            })
            .collect();
        state.deployments.is_empty()
            && state.releasing.is_empty()
            && kept == there
            && state.orphans.is_empty()
            && state.apps.iter().all(|(id, app)| {
                let n = running.get(id).map_or(0, BTreeSet::len);
                n == app.current.app.instances as usize
                    && app.instances.len() == n
                    && app.queue.is_none()
            })
    }

    /// Nothing is destroyed that an app still wants, in memory or on disk.
    pub(crate) fn check_destroyed(&self, call: &Call) {
        let Call::Accept { changes, .. } = call else {
            return;
        };
        let destroys = changes.iter().filter_map(|change| match change {
            PoolChange::Destroy(key) => Some(key),
            PoolChange::Reserve { .. } | PoolChange::Unreserve { .. } | PoolChange::Create(_) => {
                None
            }
        });
        for key in destroys {
            let durable = decode(self.disk.clone()).expect("what was committed can be read");
            for state in [self.core.state(), &durable] {
                let mut holdings = state.apps.values().flat_map(|app| app.holdings.values());
                let wanted = holdings.any(|one| {
                    let mut volumes = one.volumes.iter();
                    one.stage == Stage::Kept && volumes.any(|held| held.volume.id == key.id)
                });
                assert!(!wanted, "{key} is destroyed although it is wanted");
            }
        }
    }

    pub(crate) fn check_disk(&self) {
        let durable = decode(self.disk.clone()).expect("what was committed can be read");
        let state = self.core.state();
        assert_eq!(durable.framework_id, state.framework_id);
        assert_eq!(durable.deployments, state.deployments);
        assert_eq!(durable.locks, state.locks);
        assert_eq!(durable.orphans, state.orphans);
        assert_eq!(
            durable.apps.keys().collect::<Vec<_>>(),
            state.apps.keys().collect::<Vec<_>>()
        );
        for (id, app) in &state.apps {
            let durable = &durable.apps[id];
            assert_eq!(durable.current, app.current);
            assert_eq!(durable.versions, app.versions);
            assert_eq!(durable.instances, app.instances);
            for (id, holding) in &app.holdings {
                assert_eq!(durable.holdings[id], *holding);
            }
            assert_eq!(durable.backoff, app.backoff);
            assert_eq!(durable.last_failure, app.last_failure);
            assert_eq!(durable.ended_sick_at, app.ended_sick_at);
        }
    }
}
