//! Versions: makes what a command wants the current version of its apps, and gives service ports.
//!
//! Pure. Versions and configurations are told apart here: scaling keeps the configuration, an earlier configuration is
//! known again, so that a roll back leaves alone what already runs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Core;
use super::record::Key;
use super::state::AppState;
use crate::app::spec::PortDefinition;
use crate::app::{App, AppId, AppVersion};
use crate::backoff::Backoff;
use crate::time::Timestamp;

/// Marathon's range of service ports.
const SERVICE_PORTS: std::ops::RangeInclusive<u16> = 10_000..=20_000;

impl Core {
    /// The version record for `app`: the current one if nothing changes, the configuration of an earlier one if it is
    /// the same (so that a roll back keeps what already runs it).
    pub(super) fn next_version(
        &mut self,
        mut app: App,
        anew: bool,
        version: Timestamp,
    ) -> Arc<AppVersion> {
        let state = self.state.apps.get(&app.id).cloned();
        let before = state.as_ref().map(|state| &state.current);
        // Endpoints of pods have none, as in Marathon.
        if app.pod.is_none() {
            self.assign_service_ports(
                &mut app.ports,
                before.map(|before| before.app.ports.as_slice()),
            );
        }
        let Some(before) = before else {
            return Arc::new(AppVersion {
                version,
                config: version,
                last_scaling_at: version,
                last_config_change_at: version,
                app,
                written: Default::default(),
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
                written: Default::default(),
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
            written: Default::default(),
        })
    }

    pub(super) fn set_current(&mut self, id: AppId, to: Arc<AppVersion>) {
        let before = self
            .state
            .apps
            .get(&id)
            .map(|app| app.current.app.ports.clone());
        self.count_service_ports(&before.unwrap_or_default(), false);
        self.count_service_ports(&to.app.ports, true);
        let max_versions = self.settings.max_versions;
        let is_new = !self.state.apps.contains_key(&id);
        if is_new {
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
        let before = Arc::clone(&app.current);
        app.versions.insert(to.version, Arc::clone(&to));
        self.dirty.insert(Key::Version(id.clone(), to.version));
        app.current = Arc::clone(&to);
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
        self.tell_checks((!is_new).then_some(before), &to);
    }

    /// A new app takes over what an earlier one of its name left on lost machines: all of it is sentenced already.
    fn begin_app(&mut self, id: &AppId, version: &Arc<AppVersion>) {
        let mut app = AppState::new(Arc::clone(version));
        let orphans = std::mem::take(&mut self.state.orphans);
        for (task, instance) in orphans {
            if instance.app == *id {
                for name in instance.names() {
                    self.tasks.insert(name.clone(), id.clone());
                }
                app.instances.insert(task, instance);
            } else {
                self.state.orphans.insert(task, instance);
            }
        }
        self.books.remove(id);
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
