//! Pods: several containers that run on one machine as one instance, share its network and volumes, and live and end
//! together.
//!
//! Pure. A pod is one more kind of what can be deployed: to deployments, back-off, constraints, groups and placing it is an
//! [`App`] whose amounts and ports are the sums of its containers'. What differs is here, in how it is read
//! (`parse/pod.rs`) and written (`json/pod.rs`), in the tasks that one instance is (`crate::task::pod`) and in how the
//! instance stands by how these do (`crate::core::members`).

use std::collections::BTreeMap;

use mezzo_api::model::{Scalar, SharedVolume, Volume, VolumeSource};

use super::App;
use super::residency::PersistentMount;
use crate::resident::SANDBOX;

/// What an [`App`] that is a pod has beyond the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// At least one; started in this order.
    pub containers: Vec<PodContainer>,
    /// By name, for mounts.
    pub volumes: BTreeMap<String, PodVolume>,
    /// What Marathon reserved for its executor. Kept for who reads it; there is no executor here, so it costs nothing.
    pub executor_resources: Option<ExecutorResources>,
}

/// cpus, mem and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutorResources {
    /// Processors.
    pub cpus: Scalar,
    /// MiB.
    pub mem: Scalar,
    /// MiB.
    pub disk: Scalar,
}

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodContainer {
    /// Unique in the pod.
    pub name: String,
    /// What an app says of one task: image, command, amounts, ports, limits, health check, and what of environment, labels
    /// and user is its own. Id, network and secrets are the pod's.
    pub spec: App,
    /// Takes the place of the image's entrypoint, too.
    pub entrypoint: Option<Vec<String>>,
    /// The command of a health check that no shell runs.
    pub check_argv: Option<Vec<String>>,
    /// Volumes of the pod.
    pub mounts: Vec<Mount>,
}

/// Where a container sees a volume of its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Of the volume.
    pub name: String,
    /// In the container: absolute, or relative to the sandbox.
    pub path: String,
    /// It cannot write there.
    pub read_only: bool,
}

/// What containers can mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodVolume {
    /// A folder that comes and goes with the instance.
    Ephemeral,
    /// A path of the machine.
    Host(String),
    /// A file with one of the pod's secrets, by the name that the pod gives it.
    Secret(String),
    /// So many MiB that the instance keeps for the next one ([`super::residency`]).
    Persistent(u64),
}

impl Pod {
    /// The volumes that come and go with an instance.
    #[must_use]
    pub fn shared_volumes(&self) -> Vec<SharedVolume> {
        self.volumes
            .iter()
            .filter(|(_, volume)| **volume == PodVolume::Ephemeral)
            .map(|(name, _)| SharedVolume {
                name: name.clone(),
                tmpfs_bytes: None,
            })
            .collect()
    }

    /// Those that its instances keep, as an app has them; by their names in place of paths.
    #[must_use]
    pub fn persistent(&self) -> Vec<PersistentMount> {
        let volumes = self.volumes.iter();
        let kept = volumes.filter_map(|(name, volume)| match volume {
            PodVolume::Persistent(size_mb) => Some(PersistentMount {
                container_path: name.clone(),
                size_mb: *size_mb,
            }),
            PodVolume::Ephemeral | PodVolume::Host(_) | PodVolume::Secret(_) => None,
        });
        kept.collect()
    }

    /// What the container mounts; files with secrets are told by [`App::volumes`], persistent volumes by what the instance
    /// keeps.
    #[must_use]
    pub fn mounts_of(&self, container: &PodContainer) -> Vec<Volume> {
        container
            .mounts
            .iter()
            .filter_map(|mount| {
                let source = match self.volumes.get(&mount.name)? {
                    PodVolume::Ephemeral => VolumeSource::Group(mount.name.clone()),
                    PodVolume::Host(path) => VolumeSource::HostPath(path.clone()),
                    PodVolume::Secret(_) | PodVolume::Persistent(_) => return None,
                };
                Some(Volume {
                    container_path: mount.absolute(),
                    read_only: mount.read_only,
                    source,
                })
            })
            .collect()
    }
}

impl Mount {
    /// Where it is in the container.
    #[must_use]
    pub fn absolute(&self) -> String {
        if self.path.starts_with('/') {
            self.path.clone()
        } else {
            format!("{SANDBOX}/{}", self.path)
        }
    }
}

impl PodContainer {
    /// As an app of this container alone: with what the pod says for all of them.
    #[must_use]
    pub fn whole(&self, of: &App, pod: &Pod) -> App {
        let mut app = self.spec.clone();
        app.id = of.id.clone();
        app.secrets.clone_from(&of.secrets);
        app.user = app.user.or_else(|| of.user.clone());
        for (name, value) in &of.env {
            if !app.secret_env.contains_key(name) {
                app.env.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        for (name, secret) in &of.secret_env {
            if !app.env.contains_key(name) {
                let own = app.secret_env.entry(name.clone());
                own.or_insert_with(|| secret.clone());
            }
        }
        for (name, value) in &of.labels {
            let own = app.labels.entry(name.clone());
            own.or_insert_with(|| value.clone());
        }
        let container = &mut app.container;
        container.network = of.container.network;
        container
            .network_name
            .clone_from(&of.container.network_name);
        container
            .network_labels
            .clone_from(&of.container.network_labels);
        container.volumes = pod.mounts_of(self);
        // So that it is known to keep something; where it mounts that is the holding's to say.
        container.persistent.clone_from(&of.container.persistent);
        let secrets =
            self.mounts
                .iter()
                .filter_map(|mount| match pod.volumes.get(&mount.name)? {
                    PodVolume::Secret(secret) => Some((mount.absolute(), secret.clone())),
                    PodVolume::Ephemeral | PodVolume::Host(_) | PodVolume::Persistent(_) => None,
                });
        container.secret_volumes = secrets.collect();
        app
    }
}
