//! Writes an app as Marathon does; a pod in `pod`.
//!
//! Pure. What is written here is accepted by [`super::parse`] and means the same; a property test says so.

mod limits;
mod pod;

use std::collections::BTreeMap;

use mezzo_api::model::{FetchUri, NetworkMode, Scalar, SecretSource, VolumeSource};
use serde_json::{Map, Value, json};

use super::constraint::Constraint;
use super::read::decimal_to_json;
use super::spec::{
    App, AppHealthCheck, CheckPort, Engine, HostPort, KillSelection, Placing, PortDefinition,
    Protocol, Run, Trial, UnreachableStrategy, UpgradeStrategy,
};

/// A resource amount as a JSON number.
#[must_use]
pub fn scalar(value: Scalar) -> Value {
    decimal_to_json(value.millis().unsigned_abs(), 3)
}

/// Milliseconds as a JSON number of seconds.
#[must_use]
pub fn seconds(millis: u64) -> Value {
    decimal_to_json(millis, 3)
}

impl App {
    /// The app as an object, without what only the server knows (versions, tasks).
    #[must_use]
    pub fn to_json(&self) -> Value {
        if let Some(pod) = &self.pod {
            return pod::pod(self, pod);
        }
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| {
            out.insert(name.to_owned(), value);
        };
        put("id", self.id.as_str().into());
        match &self.run {
            Run::Image => {}
            Run::Shell(line) => put("cmd", line.as_str().into()),
            Run::Args(args) => put("args", args.clone().into()),
        }
        put("cpus", scalar(self.cpus));
        put("mem", scalar(self.mem));
        put("disk", scalar(self.disk));
        put("gpus", scalar(self.gpus));
        if self.revocable {
            put("revocable", true.into());
        }
        put("instances", self.instances.into());
        put("container", self.container_json());
        let mut env: Map<String, Value> = Map::new();
        for (name, value) in &self.env {
            env.insert(name.clone(), value.as_str().into());
        }
        for (name, secret) in &self.secret_env {
            env.insert(name.clone(), json!({"secret": secret}));
        }
        put("env", Value::Object(env));
        put("labels", json!(self.labels));
        if !self.container.network.is_own() {
            put(
                "portDefinitions",
                self.ports.iter().map(port_json).collect::<Vec<_>>().into(),
            );
        }
        put(
            "networks",
            match self.container.network {
                NetworkMode::Host => json!([{"mode": "host"}]),
                NetworkMode::None => json!([]),
                NetworkMode::Bridge => json!([{"mode": "container/bridge"}]),
                NetworkMode::Container => json!([{
                    "mode": "container",
                    "name": self.container.network_name,
                    "labels": self.container.network_labels,
                }]),
            },
        );
        put("requirePorts", self.require_ports.into());
        put(
            "healthChecks",
            self.health_checks
                .iter()
                .map(health_check)
                .collect::<Vec<_>>()
                .into(),
        );
        if let Some(check) = &self.readiness_check {
            put("readinessChecks", json!([check.to_json()]));
        }
        if let Some(check) = &self.check {
            put("check", check.to_json());
        }
        put("upgradeStrategy", upgrade_json(self.upgrade));
        put("backoffSeconds", seconds(self.backoff.initial_ms));
        put("backoffFactor", decimal_to_json(self.backoff.factor_ppm, 6));
        put("maxLaunchDelaySeconds", seconds(self.backoff.max_ms));
        if let Some(grace) = self.kill_grace_ms {
            put("taskKillGracePeriodSeconds", seconds(grace));
        }
        put(
            "killSelection",
            match self.kill_selection {
                KillSelection::YoungestFirst => "YOUNGEST_FIRST",
                KillSelection::OldestFirst => "OLDEST_FIRST",
            }
            .into(),
        );
        put("unreachableStrategy", unreachable_json(self.unreachable));
        if let Some(limits) = limits::limits(self) {
            put("resourceLimits", limits);
        }
        if let Some(user) = &self.user {
            put("user", user.as_str().into());
        }
        if self.tty {
            put("tty", true.into());
        }
        if !self.secrets.is_empty() {
            put("secrets", secrets_json(&self.secrets));
        }
        put("role", self.role.as_str().into());
        put("acceptedResourceRoles", self.accepts.to_json(&self.role));
        let constraints = self.constraints.iter().map(Constraint::to_json);
        put("constraints", Value::Array(constraints.collect()));
        if self.placing == Placing::BestFit {
            put("placement", "bestFit".into());
        }
        put("dependencies", json!(self.dependencies));
        if let Some(residency) = self.residency {
            put("residency", residency.to_json());
        }
        let fetch = self.fetch.iter().map(fetch_json);
        put("fetch", Value::Array(fetch.collect()));
        Value::Object(out)
    }

    fn container_json(&self) -> Value {
        let container = &self.container;
        let mut docker = Map::new();
        docker.insert("image".into(), container.image.as_str().into());
        docker.insert("forcePullImage".into(), container.force_pull.into());
        docker.insert("privileged".into(), container.privileged.into());
        let parameters = container.confinement.parameters();
        if !parameters.is_empty() {
            docker.insert("parameters".into(), parameters.into());
        }
        if let Some(secret) = &container.pull_secret {
            docker.insert("pullConfig".into(), json!({"secret": secret}));
        }
        if container.network == NetworkMode::None {
            docker.insert("network".into(), "NONE".into());
        }
        let secrets = container
            .secret_volumes
            .iter()
            .map(|(path, secret)| json!({"containerPath": path, "secret": secret}));
        let kept = container.persistent.iter().map(|mount| {
            json!({
                "containerPath": mount.container_path,
                "mode": "RW",
                "persistent": persistent(mount.size_mb),
            })
        });
        let volumes: Vec<Value> = container
            .volumes
            .iter()
            .filter_map(|volume| match &volume.source {
                VolumeSource::HostPath(path) => Some(json!({
                    "containerPath": volume.container_path,
                    "hostPath": path,
                    "mode": if volume.read_only { "RO" } else { "RW" },
                })),
                // No app field makes one; those with secrets are listed beside them.
                VolumeSource::Tmpfs(_)
                | VolumeSource::Secret(_)
                | VolumeSource::Group(_)
                | VolumeSource::Persistent(_) => None,
            })
            .chain(kept)
            .chain(secrets)
            .collect();
        let mut out = json!({
            "type": match container.engine {
                Engine::Docker => "DOCKER",
                Engine::Mesos => "MESOS",
            },
            "docker": docker,
            "volumes": volumes,
        });
        if container.host_users
            && let Some(fields) = out.as_object_mut()
        {
            fields.insert("hostUsers".into(), true.into());
        }
        if let Some(fields) = out.as_object_mut() {
            if let Some(name) = &container.seccomp_profile {
                let seccomp = json!({ "profileName": name.as_str(), "unconfined": false });
                fields.insert("linuxInfo".into(), json!({ "seccomp": seccomp }));
            }
            if let Some(name) = &container.apparmor_profile {
                fields.insert("apparmorProfile".into(), name.as_str().into());
            }
            fields.extend(container.confinement.fields());
        }
        if container.network.is_own()
            && let Some(fields) = out.as_object_mut()
        {
            let mappings: Vec<Value> = self.ports.iter().map(mapping_json).collect();
            fields.insert("portMappings".into(), mappings.into());
        }
        out
    }
}

fn persistent(size_mb: u64) -> Value {
    json!({"type": "root", "size": size_mb, "constraints": []})
}

pub(crate) fn secrets_json(secrets: &BTreeMap<String, SecretSource>) -> Value {
    let secrets = secrets.iter();
    let secrets = secrets.map(|(name, source)| (name.clone(), json!({"source": source.as_str()})));
    Value::Object(secrets.collect())
}

pub(crate) fn fetch_json(uri: &FetchUri) -> Value {
    let mut out = json!({
        "uri": uri.uri,
        "extract": uri.extract,
        "executable": uri.executable,
        "cache": uri.cache,
    });
    if let Some(path) = &uri.dest_path {
        out["destPath"] = path.as_str().into();
    }
    out
}

fn port_json(port: &PortDefinition) -> Value {
    let mut out = Map::new();
    out.insert("port".into(), port.port.into());
    out.insert("protocol".into(), port.protocol.as_str().into());
    if let Some(name) = &port.name {
        out.insert("name".into(), name.as_str().into());
    }
    out.insert("labels".into(), json!(port.labels));
    Value::Object(out)
}

fn mapping_json(port: &PortDefinition) -> Value {
    let mut out = Map::new();
    if let Some(target) = port.target {
        out.insert("containerPort".into(), target.container_port.into());
        match target.host {
            HostPort::None => {}
            HostPort::Any => {
                out.insert("hostPort".into(), 0.into());
            }
            HostPort::Fixed(host) => {
                out.insert("hostPort".into(), host.into());
            }
        }
    }
    out.insert("servicePort".into(), port.port.into());
    out.insert("protocol".into(), port.protocol.as_str().into());
    if let Some(name) = &port.name {
        out.insert("name".into(), name.as_str().into());
    }
    out.insert("labels".into(), json!(port.labels));
    Value::Object(out)
}

pub(crate) fn health_check(check: &AppHealthCheck) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    put("protocol", check.protocol.name().into());
    if check.protocol.needs_path() || (check.protocol == Protocol::Grpc && !check.path.is_empty()) {
        put("path", check.path.as_str().into());
    }
    if check.ipv6 {
        put("ipProtocol", "IPv6".into());
    }
    if check.protocol.needs_port() {
        match check.port {
            CheckPort::Index(index) => put("portIndex", index.into()),
            CheckPort::Fixed(port) => put("port", port.into()),
        }
    }
    if let Some(command) = &check.command {
        put("command", json!({"value": command}));
    }
    put("gracePeriodSeconds", seconds(check.grace_period_ms));
    put("intervalSeconds", seconds(check.interval_ms));
    put("timeoutSeconds", seconds(check.timeout_ms));
    put("delaySeconds", seconds(check.delay_ms));
    put(
        "maxConsecutiveFailures",
        check.max_consecutive_failures.into(),
    );
    Value::Object(out)
}

fn unreachable_json(strategy: UnreachableStrategy) -> Value {
    match strategy {
        UnreachableStrategy::Disabled => "disabled".into(),
        UnreachableStrategy::After {
            inactive_ms,
            expunge_ms,
        } => json!({
            "inactiveAfterSeconds": seconds(inactive_ms),
            "expungeAfterSeconds": seconds(expunge_ms),
        }),
    }
}

/// What nobody chose is left out, so that Marathon's clients see Marathon's two fields.
fn upgrade_json(upgrade: UpgradeStrategy) -> Value {
    let mut out = json!({
        "minimumHealthCapacity": decimal_to_json(upgrade.minimum_health_ppm, 6),
        "maximumOverCapacity": decimal_to_json(upgrade.maximum_over_ppm, 6),
    });
    let with_hold = |mut trial: Value, hold_ms: Option<u64>| {
        if let Some(hold) = hold_ms {
            trial["holdSeconds"] = seconds(hold);
        }
        trial
    };
    match upgrade.trial {
        Trial::None => {}
        Trial::Canary { instances, hold_ms } => {
            out["canary"] = with_hold(json!({"instances": instances}), hold_ms);
        }
        Trial::BlueGreen { hold_ms } => out["blueGreen"] = with_hold(json!({}), hold_ms),
    }
    if let Some(after) = upgrade.rollback_after_ms {
        out["rollbackAfterSeconds"] = seconds(after);
    }
    out
}
