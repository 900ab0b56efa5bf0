//! Writes a pod as Marathon does.
//!
//! Pure. What is written here is accepted by [`crate::app::parse_pod`] and means the same.

use mezzo_api::model::NetworkMode;
use serde_json::{Map, Value, json};

use super::{fetch_json, limits, persistent, scalar, seconds, unreachable_json, upgrade_json};
use crate::app::pod::{Mount, Pod, PodContainer, PodVolume};
use crate::app::read::decimal_to_json;
use crate::app::spec::{
    App, AppHealthCheck, CheckPort, HostPort, KillSelection, PortDefinition, Protocol, Run,
};

/// The pod as an object, without what only the server knows.
pub(super) fn pod(app: &App, pod: &Pod) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    put("id", app.id.as_str().into());
    put("labels", json!(app.labels));
    if let Some(user) = &app.user {
        put("user", user.as_str().into());
    }
    put("environment", environment(app));
    put("containers", pod.containers.iter().map(container).collect());
    let secrets = app.secrets.iter();
    let secrets = secrets.map(|(name, source)| (name.clone(), json!({"source": source.as_str()})));
    put("secrets", Value::Object(secrets.collect()));
    put("volumes", pod.volumes.iter().map(volume).collect());
    put(
        "networks",
        match app.container.network {
            NetworkMode::Host | NetworkMode::None => json!([{"mode": "host"}]),
            NetworkMode::Bridge => json!([{"mode": "container/bridge"}]),
            NetworkMode::Container => json!([{
                "mode": "container",
                "name": app.container.network_name,
                "labels": app.container.network_labels,
            }]),
        },
    );
    put(
        "scaling",
        json!({"kind": "fixed", "instances": app.instances}),
    );
    put("scheduling", scheduling(app));
    put("role", app.role.as_str().into());
    if let Some(executor) = pod.executor_resources {
        put(
            "executorResources",
            json!({
                "cpus": scalar(executor.cpus),
                "mem": scalar(executor.mem),
                "disk": scalar(executor.disk),
            }),
        );
    }
    Value::Object(out)
}

fn scheduling(app: &App) -> Value {
    let constraints = app.constraints.iter().map(|constraint| {
        let parts = constraint.to_json();
        let names = ["fieldName", "operator", "value"];
        let parts = parts.as_array().cloned().unwrap_or_default();
        let named = names.into_iter().map(str::to_owned).zip(parts);
        Value::Object(named.collect())
    });
    json!({
        "backoff": {
            "backoff": seconds(app.backoff.initial_ms),
            "backoffFactor": decimal_to_json(app.backoff.factor_ppm, 6),
            "maxLaunchDelay": seconds(app.backoff.max_ms),
        },
        "upgrade": upgrade_json(app.upgrade),
        "placement": {
            "constraints": constraints.collect::<Vec<Value>>(),
            "acceptedResourceRoles": app.accepts.to_json(&app.role),
        },
        "killSelection": match app.kill_selection {
            KillSelection::YoungestFirst => "YOUNGEST_FIRST",
            KillSelection::OldestFirst => "OLDEST_FIRST",
        },
        "unreachableStrategy": unreachable_json(app.unreachable),
    })
}

fn environment(app: &App) -> Value {
    let mut env: Map<String, Value> = Map::new();
    for (name, value) in &app.env {
        env.insert(name.clone(), value.as_str().into());
    }
    for (name, secret) in &app.secret_env {
        env.insert(name.clone(), json!({"secret": secret}));
    }
    Value::Object(env)
}

fn volume((name, volume): (&String, &PodVolume)) -> Value {
    match volume {
        PodVolume::Ephemeral => json!({"name": name}),
        PodVolume::Host(path) => json!({"name": name, "host": path}),
        PodVolume::Secret(secret) => json!({"name": name, "secret": secret}),
        PodVolume::Persistent(size_mb) => {
            json!({"name": name, "persistent": persistent(*size_mb)})
        }
    }
}

fn container(one: &PodContainer) -> Value {
    let spec = &one.spec;
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    put("name", one.name.as_str().into());
    match (&spec.run, &one.entrypoint) {
        (_, Some(argv)) => put(
            "exec",
            json!({"command": {"argv": argv}, "overrideEntrypoint": true}),
        ),
        (Run::Image, None) => {}
        (Run::Shell(line), None) => put("exec", json!({"command": {"shell": line}})),
        (Run::Args(argv), None) => put("exec", json!({"command": {"argv": argv}})),
    }
    put(
        "resources",
        json!({
            "cpus": scalar(spec.cpus),
            "mem": scalar(spec.mem),
            "disk": scalar(spec.disk),
            "gpus": scalar(spec.gpus),
        }),
    );
    if let Some(limits) = limits::limits(spec) {
        put("resourceLimits", limits);
    }
    put("endpoints", spec.ports.iter().map(endpoint).collect());
    let mut image = json!({
        "kind": "DOCKER",
        "id": spec.container.image,
        "forcePull": spec.container.force_pull,
    });
    if let Some(secret) = &spec.container.pull_secret {
        image["pullConfig"] = json!({ "secret": secret });
    }
    put("image", image);
    if let Some(name) = &spec.container.seccomp_profile {
        let seccomp = json!({ "profileName": name.as_str(), "unconfined": false });
        put("linuxInfo", json!({ "seccomp": seccomp }));
    }
    for (name, value) in spec.container.confinement.fields() {
        put(&name, value);
    }
    put("environment", environment(spec));
    if let Some(user) = &spec.user {
        put("user", user.as_str().into());
    }
    if spec.tty {
        put("tty", true.into());
    }
    if let Some(check) = spec.health_checks.first() {
        put("healthCheck", health_check(check, one));
    }
    if let Some(check) = &spec.check {
        put("check", check.to_pod_json(&spec.ports));
    }
    put("volumeMounts", one.mounts.iter().map(mount).collect());
    put("artifacts", spec.fetch.iter().map(fetch_json).collect());
    put("labels", json!(spec.labels));
    if let Some(grace) = spec.kill_grace_ms {
        put(
            "lifecycle",
            json!({"killGracePeriodSeconds": seconds(grace)}),
        );
    }
    Value::Object(out)
}

fn mount(mount: &Mount) -> Value {
    json!({"name": mount.name, "mountPath": mount.path, "readOnly": mount.read_only})
}

fn endpoint(port: &PortDefinition) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    put("name", json!(port.name));
    match port.target {
        None => put("hostPort", port.port.into()),
        Some(target) => {
            put("containerPort", target.container_port.into());
            match target.host {
                HostPort::None => {}
                HostPort::Any => put("hostPort", 0.into()),
                HostPort::Fixed(port) => put("hostPort", port.into()),
            }
        }
    }
    put(
        "protocol",
        port.protocol.split(',').collect::<Vec<&str>>().into(),
    );
    put("labels", json!(port.labels));
    Value::Object(out)
}

fn health_check(check: &AppHealthCheck, one: &PodContainer) -> Value {
    let CheckPort::Index(index) = check.port else {
        return Value::Null;
    };
    let endpoint = one.spec.ports.get(index as usize);
    let endpoint = endpoint.and_then(|port| port.name.as_deref());
    let mut out = json!({
        "gracePeriodSeconds": seconds(check.grace_period_ms),
        "intervalSeconds": seconds(check.interval_ms),
        "maxConsecutiveFailures": check.max_consecutive_failures,
        "timeoutSeconds": seconds(check.timeout_ms),
        "delaySeconds": seconds(check.delay_ms),
    });
    let http = |scheme: &str| json!({"endpoint": endpoint, "path": check.path, "scheme": scheme});
    match check.protocol {
        Protocol::Command => {
            let command = match (&one.check_argv, &check.command) {
                (Some(argv), _) => json!({ "argv": argv }),
                (None, line) => json!({ "shell": line }),
            };
            out["exec"] = json!({ "command": command });
        }
        Protocol::Http | Protocol::MesosHttp => out["http"] = http("HTTP"),
        Protocol::Https | Protocol::MesosHttps => out["http"] = http("HTTPS"),
        Protocol::Tcp | Protocol::MesosTcp | Protocol::Grpc => {
            out["tcp"] = json!({ "endpoint": endpoint });
        }
    }
    out
}
