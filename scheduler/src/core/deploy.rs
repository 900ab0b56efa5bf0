//! Makes what a command wants the current version of its apps and begins the deployment that takes them there.
//!
//! Pure. Versions and configurations are told apart here: scaling keeps the configuration, an earlier configuration is
//! known again, so that a roll back leaves alone what already runs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::command::{Refusal, Reply};
use super::record::Key;
use super::state::AppState;
use super::{Core, Ids};
use crate::app::spec::PortDefinition;
use crate::app::{App, AppId, AppVersion, Unknown};
use crate::backoff::Backoff;
use crate::deployment::DeploymentId;
use crate::deployment::plan::{Change, plan};
use crate::time::Timestamp;
use crate::why;

/// Marathon's range of service ports.
const SERVICE_PORTS: std::ops::RangeInclusive<u16> = 10_000..=20_000;

/// What an app is to become. `to` without a value: it goes.
pub(super) struct Target {
    pub(super) id: AppId,
    pub(super) to: Option<App>,
    /// A new configuration although nothing differs.
    pub(super) anew: bool,
    /// The way there starts from a plan that was broken off.
    pub(super) resumed: bool,
}

impl Target {
    pub(super) fn app(app: App) -> Self {
        Self {
            id: app.id.clone(),
            to: Some(app),
            anew: false,
            resumed: false,
        }
    }
}

impl Core {
    /// Makes the targets the current versions of their apps and begins the deployment that takes them there.
    pub(super) fn deploy(
        &mut self,
        targets: Vec<Target>,
        force: bool,
        unknown: Vec<Unknown>,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        let locking: BTreeSet<DeploymentId> = targets
            .iter()
            .filter_map(|target| self.state.locks.get(&target.id).copied())
            .collect();
        if !locking.is_empty() && !force {
            return Err(Refusal::Locked(locking.into_iter().collect()));
        }
        let under_way = self.state.deployments.len() - locking.len();
        if under_way >= self.settings.max_deployments {
            return Err(Refusal::TooManyDeployments(under_way));
        }
        if !force {
            self.refuse_impossible(&targets)?;
        }
        for id in &locking {
            tracing::info!(deployment = %id, "deployment broken off by force");
            self.drop_deployment(*id);
        }
        let version = Timestamp::from_millis(now.max(self.last_version.millis() + 1));
        self.last_version = version;
        let mut changes = Vec::new();
        for target in targets {
            let from = self
                .state
                .apps
                .get(&target.id)
                .map(|app| Arc::clone(&app.current));
            let to = target
                .to
                .map(|app| self.next_version(app, target.anew, version));
            let config = to.as_ref().or(from.as_ref()).map(|version| version.config);
            let mixed = self.state.apps.get(&target.id).is_some_and(|app| {
                app.instances
                    .values()
                    .any(|instance| Some(instance.config) != config)
            });
            changes.push(Change {
                resumed: target.resumed || !locking.is_empty(),
                app: target.id,
                from,
                to,
                mixed,
            });
        }
        let id = DeploymentId(ids.unique());
        let plan = plan(id, version, &changes);
        for change in changes {
            if let Some(to) = change.to {
                self.set_current(change.app, to);
            }
        }
        tracing::info!(deployment = %id, version = %version, apps = plan.original.len(), "deployment begun");
        for app in plan.apps() {
            self.state.locks.insert(app.clone(), id);
            self.touched.insert(app.clone());
            // What it was is no word on what it is to be.
            if let Some(state) = self.state.apps.get_mut(app) {
                Arc::make_mut(state).reached = false;
            }
        }
        let is_empty = plan.steps.is_empty();
        self.state.deployments.insert(id, Arc::new(plan));
        self.state.counters.deployments += 1;
        self.changed = true;
        if is_empty {
            self.drop_deployment(id);
        } else {
            self.dirty.insert(Key::Deployment(id));
        }
        Ok(Reply::Deployed {
            id,
            version,
            unknown,
        })
    }

    /// What no machine of the cluster could ever run is refused at once, as far as the cluster is known. Only what is
    /// new is looked at: machines that went away are no reason to refuse to scale or restart.
    fn refuse_impossible(&self, targets: &[Target]) -> Result<(), Refusal> {
        for app in targets.iter().filter_map(|target| target.to.as_ref()) {
            let known = self.state.apps.get(&app.id);
            let is_new = known.is_none_or(|known| !known.current.app.same_config(app));
            if is_new
                && app.instances > 0
                && self.state.connected
                && let Some(problem) = why::impossible(&self.state, app)
            {
                return Err(Refusal::Impossible {
                    app: app.id.clone(),
                    problem,
                });
            }
        }
        Ok(())
    }

    /// The version record for `app`: the current one if nothing changes, the configuration of an earlier one if it is
    /// the same (so that a roll back keeps what already runs it).
    fn next_version(&mut self, mut app: App, anew: bool, version: Timestamp) -> Arc<AppVersion> {
        let state = self.state.apps.get(&app.id).cloned();
        let before = state.as_ref().map(|state| &state.current);
        self.assign_service_ports(
            &mut app.ports,
            before.map(|before| before.app.ports.as_slice()),
        );
        let Some(before) = before else {
            return Arc::new(AppVersion {
                version,
                config: version,
                last_scaling_at: version,
                last_config_change_at: version,
                app,
            });
        };
        if before.app.same_config(&app) && !anew {
            if before.app.instances == app.instances {
                return Arc::clone(before);
            }
            return Arc::new(AppVersion {
                version,
                config: before.config,
                last_scaling_at: version,
                last_config_change_at: before.last_config_change_at,
                app,
            });
        }
        let earlier = state
            .iter()
            .flat_map(|state| state.versions.values().rev())
            .find(|earlier| earlier.app.same_config(&app))
            .map(|earlier| earlier.config);
        Arc::new(AppVersion {
            version,
            config: earlier.filter(|_| !anew).unwrap_or(version),
            last_scaling_at: version,
            last_config_change_at: version,
            app,
        })
    }

    fn set_current(&mut self, id: AppId, to: Arc<AppVersion>) {
        let before = self
            .state
            .apps
            .get(&id)
            .map(|app| app.current.app.ports.clone());
        self.count_service_ports(&before.unwrap_or_default(), false);
        self.count_service_ports(&to.app.ports, true);
        let max_versions = self.settings.max_versions;
        if !self.state.apps.contains_key(&id) {
            self.begin_app(&id, &to);
        }
        let Some(app) = self.state.apps.get_mut(&id) else {
            return;
        };
        let app = Arc::make_mut(app);
        if app.current.config != to.config
            || app.current.last_config_change_at != to.last_config_change_at
        {
            app.backoff = Backoff::default();
        }
        app.versions.insert(to.version, Arc::clone(&to));
        self.dirty.insert(Key::Version(id.clone(), to.version));
        app.current = to;
        while app.versions.len() > max_versions.max(1) {
            let oldest = app
                .versions
                .keys()
                .find(|version| **version != app.current.version)
                .copied();
            let Some(oldest) = oldest else { break };
            app.versions.remove(&oldest);
            self.dirty.insert(Key::Version(id.clone(), oldest));
        }
        self.dirty.insert(Key::App(id.clone()));
        self.touched.insert(id);
        self.changed = true;
    }

    /// A new app takes over what an earlier one of its name left on lost machines: all of it is sentenced already.
    fn begin_app(&mut self, id: &AppId, version: &Arc<AppVersion>) {
        let mut app = AppState::new(Arc::clone(version));
        let orphans = std::mem::take(&mut self.state.orphans);
        for (task, instance) in orphans {
            if instance.app == *id {
                self.tasks.insert(task.clone(), id.clone());
                app.instances.insert(task, instance);
            } else {
                self.state.orphans.insert(task, instance);
            }
        }
        self.state.apps.insert(id.clone(), Arc::new(app));
    }

    /// Gives every port 0 a number of its own in the cluster: that of before if there was one.
    fn assign_service_ports(
        &mut self,
        ports: &mut [PortDefinition],
        before: Option<&[PortDefinition]>,
    ) {
        let mut given: BTreeSet<u16> = ports.iter().map(|port| port.port).collect();
        for (index, port) in ports.iter_mut().enumerate() {
            if port.port != 0 {
                continue;
            }
            let earlier = before
                .and_then(|before| before.get(index))
                .map(|earlier| earlier.port)
                .filter(|earlier| SERVICE_PORTS.contains(earlier) && !given.contains(earlier));
            let chosen = earlier.or_else(|| self.free_service_port(&given));
            // With all of them taken it stays 0: any port will do for the task itself.
            if let Some(chosen) = chosen {
                port.port = chosen;
                given.insert(chosen);
            }
        }
    }

    /// The next one that nobody has, going round so that finding it does not take longer with every app.
    fn free_service_port(&mut self, given: &BTreeSet<u16>) -> Option<u16> {
        let from = self
            .last_service_port
            .saturating_add(1)
            .max(*SERVICE_PORTS.start());
        let is_free = |port: &u16| !given.contains(port) && !self.service_ports.contains_key(port);
        let found = (from..=*SERVICE_PORTS.end())
            .find(is_free)
            .or_else(|| (*SERVICE_PORTS.start()..from).find(is_free))?;
        self.last_service_port = found;
        Some(found)
    }

    pub(super) fn count_service_ports(&mut self, ports: &[PortDefinition], more: bool) {
        for port in ports {
            let count = self.service_ports.entry(port.port).or_default();
            *count = if more {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
            if *count == 0 {
                self.service_ports.remove(&port.port);
            }
        }
    }
}
