//! What tables read from the scheduler's JSON of pods: their status with instances and containers.
//!
//! Pure and forgiving, as `view/app.rs` is.

use serde::Deserialize;
use serde_json::Value;

/// `GET /v2/pods/{id}::status`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodStatus {
    pub(crate) id: String,
    pub(crate) status: String,
    pub(crate) message: String,
    pub(crate) spec: Spec,
    pub(crate) instances: Vec<Instance>,
    pub(crate) termination_history: Vec<Termination>,
}

/// The little of a pod's description that a table shows.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    pub(crate) version: String,
    pub(crate) containers: Vec<Value>,
    pub(crate) scaling: Scaling,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Scaling {
    pub(crate) instances: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) status: String,
    pub(crate) agent_hostname: String,
    pub(crate) containers: Vec<Container>,
    pub(crate) local_volumes: Vec<LocalVolume>,
}

/// A volume that an instance keeps.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LocalVolume {
    /// Its name in the pod.
    pub(crate) container_path: String,
    pub(crate) persistence_id: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) message: String,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) allocated_host_port: Option<u16>,
    pub(crate) healthy: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Termination {
    #[serde(rename = "instanceID")]
    pub(crate) instance_id: String,
    pub(crate) terminated_at: String,
    pub(crate) message: String,
}

impl PodStatus {
    /// A status that cannot be read is that of nothing.
    pub(crate) fn of(value: &Value) -> Self {
        Self::deserialize(value).unwrap_or_default()
    }

    /// Instances of which every container runs and is healthy.
    pub(crate) fn stable(&self) -> usize {
        let stable = |one: &&Instance| one.status == "STABLE";
        self.instances.iter().filter(stable).count()
    }

    /// All that are asked for are stable, and there is no other.
    pub(crate) fn is_settled(&self) -> bool {
        self.status == "STABLE"
            && self.stable() == self.spec.scaling.instances
            && self.instances.len() == self.spec.scaling.instances
    }
}
