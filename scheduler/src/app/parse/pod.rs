//! Makes a pod from JSON, as Marathon 1.11 describes it: what all its containers share here, each of them in `container`.
//!
//! Pure. As with apps: every problem with its path, every unknown field by name, nothing ignored that has a meaning.

mod container;

pub(super) use container::{Command, command, endpoint_index};

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{NetworkMode, RoleName, Scalar};
use serde_json::{Value, json};

use super::{
    MAX_INSTANCES, MAX_SECONDS_MS, MAX_UNITS, kill_selection, network, read_env, read_id,
    read_secrets, read_unreachable, residency, upgrade,
};
use crate::app::confinement::Confinement;
use crate::app::constraint::{self, Constraint};
use crate::app::pod::{ExecutorResources, Pod, PodContainer, PodVolume};
use crate::app::read::{Fields, Report, expected};
use crate::app::role::{self, Accepts};
use crate::app::spec::{
    App, BackoffStrategy, Container, Engine, KillSelection, PPM, Placing, Run, UnreachableStrategy,
    UpgradeStrategy,
};
use crate::app::{AppId, parse_app};

/// As many as a task group may have.
const MAX_CONTAINERS: usize = 64;
/// The same of volumes.
const MAX_VOLUMES: usize = 64;
/// With the id of the pod, so that a task id has at most 255 bytes.
const MAX_NAMES: usize = 205;

/// Fields of a pod.
pub(crate) const FIELDS: &[&str] = &[
    "id",
    "labels",
    "user",
    "environment",
    "containers",
    "secrets",
    "volumes",
    "networks",
    "scaling",
    "scheduling",
    "executorResources",
    "role",
    "linuxInfo",
    "legacySharedCgroups",
    // The server's answer, accepted back.
    "version",
];

/// What is wrong with a pod file, and which of its fields no pod has.
#[must_use]
pub fn check_pod_json(value: &Value) -> Report {
    parse_pod(&role::guessed(value), None).1
}

/// Whether it describes a pod rather than an app.
#[must_use]
pub fn is_pod_json(value: &Value) -> bool {
    value.get("containers").is_some()
}

/// Reads an app or a pod, whichever it is.
#[must_use]
pub fn parse_app_or_pod(value: &Value) -> (Option<App>, Report) {
    if is_pod_json(value) {
        parse_pod(value, None)
    } else {
        parse_app(value, None)
    }
}

/// Reads a pod. `id` is the path of the request, for bodies without an id. The pod is there if the report has no errors.
#[must_use]
pub fn parse_pod(value: &Value, id: Option<&AppId>) -> (Option<App>, Report) {
    let mut report = Report::default();
    let pod = read_pod(value, id, &mut report);
    (pod.filter(|_| report.errors.is_empty()), report)
}

fn read_pod(value: &Value, id: Option<&AppId>, report: &mut Report) -> Option<App> {
    let fields = Fields::open(value, String::new(), FIELDS, report)?;
    let id = read_id(&fields, id, report);
    for (name, advice) in [
        ("linuxInfo", "each container has its own"),
        (
            "legacySharedCgroups",
            "each container has limits of its own",
        ),
    ] {
        fields.unsupported(name, advice, report);
    }
    let network = network::networks(&fields, report).unwrap_or_default();
    let secrets = read_secrets(&fields, report);
    let (env, secret_env) = read_env(&fields, "environment", report);
    let volumes = volumes(&fields, report);
    let scheduling = scheduling(&fields, report);
    let (role, accepts) = roles(&fields, report);
    let instances = scaling(&fields, report);
    let executor_resources = executor_resources(&fields, report);
    let id = id?;
    let shared = Shared {
        id: &id,
        network: network.mode,
        volumes: &volumes,
    };
    let pod = Pod {
        containers: containers(&fields, &shared, report),
        volumes,
        executor_resources,
    };
    let labels = fields.string_map("labels", report).unwrap_or_default();
    let user = fields
        .string("user", report)
        .filter(|user| !user.is_empty());
    let container = Container {
        network: network.mode,
        network_name: network.name,
        network_labels: network.labels,
        persistent: pod.persistent(),
        ..no_container()
    };
    let sum = |amount: fn(&App) -> Scalar| {
        let millis = pod.containers.iter().map(|one| amount(&one.spec).millis());
        Scalar::from_millis(millis.fold(0, i64::saturating_add))
    };
    let mut app = App {
        cpus: sum(|app| app.cpus),
        mem: sum(|app| app.mem),
        disk: sum(|app| app.disk),
        gpus: sum(|app| app.gpus),
        instances,
        env,
        secret_env,
        labels,
        user,
        secrets,
        // Ports of the machine are the very ones that endpoints name.
        require_ports: true,
        ports: pod
            .containers
            .iter()
            .flat_map(|one| one.spec.ports.iter().cloned())
            .collect(),
        upgrade: scheduling.upgrade,
        backoff: scheduling.backoff,
        kill_selection: scheduling.kill_selection,
        constraints: scheduling.constraints,
        unreachable: scheduling.unreachable,
        role,
        accepts,
        pod: Some(Box::new(pod)),
        ..nothing(id, container)
    };
    let said = fields.get("scheduling").unwrap_or(&Value::Null);
    residency::defaults(said, "upgrade", &mut app);
    residency::check_pod(&app, report);
    check_secrets(&app, report);
    Some(app)
}

/// What a container needs to know of its pod.
struct Shared<'a> {
    id: &'a AppId,
    network: NetworkMode,
    volumes: &'a BTreeMap<String, PodVolume>,
}

/// An app that says nothing.
fn nothing(id: AppId, container: Container) -> App {
    let zero = Scalar::from_millis(0);
    App {
        id,
        run: Run::Image,
        cpus: zero,
        mem: zero,
        disk: zero,
        gpus: zero,
        instances: 1,
        container,
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        labels: BTreeMap::new(),
        ports: Vec::new(),
        require_ports: true,
        health_checks: Vec::new(),
        readiness_check: None,
        check: None,
        upgrade: UpgradeStrategy::default(),
        backoff: BackoffStrategy::default(),
        kill_grace_ms: None,
        kill_selection: KillSelection::default(),
        constraints: Vec::new(),
        placing: Placing::default(),
        dependencies: BTreeSet::new(),
        unreachable: UnreachableStrategy::default(),
        cpu_limit: None,
        mem_limit: None,
        pids_limit: None,
        limits: Default::default(),
        user: None,
        tty: false,
        secrets: BTreeMap::new(),
        revocable: false,
        residency: None,
        fetch: Vec::new(),
        role: RoleName::any(),
        accepts: Accepts::default(),
        pod: None,
    }
}

fn no_container() -> Container {
    Container {
        engine: Engine::Mesos,
        image: String::new(),
        force_pull: false,
        privileged: false,
        confinement: Confinement::default(),
        host_users: false,
        seccomp_profile: None,
        apparmor_profile: None,
        network: NetworkMode::Host,
        network_name: None,
        network_labels: BTreeMap::new(),
        volumes: Vec::new(),
        persistent: Vec::new(),
        secret_volumes: Vec::new(),
        pull_secret: None,
    }
}

fn containers(fields: &Fields<'_>, shared: &Shared<'_>, report: &mut Report) -> Vec<PodContainer> {
    let path = fields.path_of("containers");
    let items = fields.list("containers", report).unwrap_or_default();
    if items.is_empty() || items.len() > MAX_CONTAINERS {
        report.value_problem(
            &path,
            format!(
                "a pod has 1 to {MAX_CONTAINERS} containers, this one {}",
                items.len()
            ),
        );
    }
    let mut containers: Vec<PodContainer> = Vec::new();
    let mut endpoints = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for (path, item) in items {
        let Some(read) = container::read(item, path.clone(), shared, report) else {
            continue;
        };
        if containers.iter().any(|one| one.name == read.name) {
            let problem = format!("name {:?} is there twice", read.name);
            report.value_problem(format!("{path}/name"), problem);
        }
        for (i, port) in read.spec.ports.iter().enumerate() {
            let name = port.name.clone().unwrap_or_default();
            if !endpoints.insert(name.clone()) {
                let problem = format!("endpoint {name:?} is there twice in the pod");
                report.value_problem(format!("{path}/endpoints({i})/name"), problem);
            }
            if let Some(host) = container::host_port(port)
                && !host_ports.insert(host)
            {
                let problem = format!("port {host} is there twice in the pod");
                report.value_problem(format!("{path}/endpoints({i})/hostPort"), problem);
            }
        }
        containers.push(read);
    }
    containers
}

/// `{"kind": "fixed", "instances": 3}`; up to Marathon 1.4 `{"fixed": {"instances": 3}}`.
fn scaling(fields: &Fields<'_>, report: &mut Report) -> u32 {
    let Some(value) = fields.get("scaling") else {
        return 1;
    };
    let known = ["kind", "instances", "fixed"];
    let Some(read) = Fields::open(value, fields.path_of("scaling"), &known, report) else {
        return 1;
    };
    let _ = read.choice("kind", &[("fixed", ())], report);
    let instances = match read.get("fixed") {
        None => read.integer("instances", 0, MAX_INSTANCES, report),
        Some(value) => {
            let old = Fields::open(value, read.path_of("fixed"), &["instances"], report);
            old.and_then(|old| old.integer("instances", 0, MAX_INSTANCES, report))
        }
    };
    u32::try_from(instances.unwrap_or(1)).unwrap_or(u32::MAX)
}

#[derive(Default)]
struct Scheduling {
    upgrade: UpgradeStrategy,
    backoff: BackoffStrategy,
    kill_selection: KillSelection,
    constraints: Vec<Constraint>,
    unreachable: UnreachableStrategy,
}

fn scheduling(fields: &Fields<'_>, report: &mut Report) -> Scheduling {
    let known = [
        "backoff",
        "upgrade",
        "placement",
        "killSelection",
        "unreachableStrategy",
    ];
    let path = fields.path_of("scheduling");
    let Some(read) = fields
        .get("scheduling")
        .and_then(|value| Fields::open(value, path, &known, report))
    else {
        return Scheduling::default();
    };
    Scheduling {
        upgrade: upgrade::read(&read, "upgrade", report),
        backoff: backoff(&read, report),
        kill_selection: kill_selection(&read, report),
        constraints: placement(&read, report),
        unreachable: read_unreachable(&read, report),
    }
}

fn backoff(scheduling: &Fields<'_>, report: &mut Report) -> BackoffStrategy {
    let default = BackoffStrategy::default();
    let known = ["backoff", "backoffFactor", "maxLaunchDelay"];
    let path = scheduling.path_of("backoff");
    let Some(read) = scheduling
        .get("backoff")
        .and_then(|value| Fields::open(value, path, &known, report))
    else {
        return default;
    };
    BackoffStrategy {
        initial_ms: read
            .decimal("backoff", 3, 0, MAX_SECONDS_MS, report)
            .unwrap_or(default.initial_ms),
        factor_ppm: read
            .decimal("backoffFactor", 6, PPM, 1000 * PPM, report)
            .unwrap_or(default.factor_ppm),
        max_ms: read
            .decimal("maxLaunchDelay", 3, 0, MAX_SECONDS_MS, report)
            .unwrap_or(default.max_ms),
    }
}

/// `role`, and what the placement accepts of it; what else is wrong with that is told where the rest is read.
fn roles(fields: &Fields<'_>, report: &mut Report) -> (RoleName, Accepts) {
    let placement = fields
        .get("scheduling")
        .and_then(|value| value.get("placement"));
    let path = fields.path_of("scheduling/placement");
    let known = ["constraints", "acceptedResourceRoles"];
    let placement = placement.filter(|value| value.is_object());
    let placement =
        placement.and_then(|value| Fields::open(value, path, &known, &mut Report::default()));
    let (role, accepts) = role::read(fields, placement.as_ref(), report);
    (role, accepts.unwrap_or_default())
}

/// Constraints are objects here, `{"fieldName", "operator", "value"}`; lists as apps have them are taken, too.
fn placement(scheduling: &Fields<'_>, report: &mut Report) -> Vec<Constraint> {
    let known = ["constraints", "acceptedResourceRoles"];
    let path = scheduling.path_of("placement");
    let Some(read) = scheduling
        .get("placement")
        .and_then(|value| Fields::open(value, path.clone(), &known, report))
    else {
        return Vec::new();
    };
    let items = read.list("constraints", report).unwrap_or_default();
    let as_lists = items.into_iter().map(|(path, item)| {
        if !item.is_object() {
            return item.clone();
        }
        let known = ["fieldName", "operator", "value"];
        let parts = Fields::open(item, path, &known, report);
        let parts = parts.into_iter().flat_map(|parts| {
            let values = known.map(|name| parts.get(name).cloned());
            values.into_iter().flatten()
        });
        Value::Array(parts.collect())
    });
    let lists = json!({ "constraints": as_lists.collect::<Vec<Value>>() });
    let lists = Fields::open(&lists, path, &["constraints"], report);
    lists.map_or_else(Vec::new, |lists| constraint::read(&lists, report))
}

fn executor_resources(fields: &Fields<'_>, report: &mut Report) -> Option<ExecutorResources> {
    let value = fields.get("executorResources")?;
    let known = ["cpus", "mem", "disk"];
    let read = Fields::open(value, fields.path_of("executorResources"), &known, report)?;
    let amount = |name: &str, default: i64, report: &mut Report| {
        let millis = read.decimal(name, 3, 0, MAX_UNITS * 1000, report);
        let millis = millis.and_then(|millis| i64::try_from(millis).ok());
        Scalar::from_millis(millis.unwrap_or(default))
    };
    Some(ExecutorResources {
        cpus: amount("cpus", 100, report),
        mem: amount("mem", 32_000, report),
        disk: amount("disk", 10_000, report),
    })
}

fn volumes(fields: &Fields<'_>, report: &mut Report) -> BTreeMap<String, PodVolume> {
    let mut volumes = BTreeMap::new();
    let items = fields.list("volumes", report).unwrap_or_default();
    if items.len() > MAX_VOLUMES {
        let problem = format!(
            "a pod has at most {MAX_VOLUMES} volumes, this one {}",
            items.len()
        );
        report.value_problem(fields.path_of("volumes"), problem);
    }
    for (path, item) in items {
        let known = ["name", "host", "secret", "persistent"];
        let Some(read) = Fields::open(item, path, &known, report) else {
            continue;
        };
        let Some(name) = name(&read, report) else {
            continue;
        };
        let Some(volume) = volume(&read, report) else {
            continue;
        };
        if volumes.insert(name.clone(), volume).is_some() {
            let problem = format!("name {name:?} is there twice");
            report.value_problem(read.path_of("name"), problem);
        }
    }
    volumes
}

/// Which of the four kinds it is.
fn volume(read: &Fields<'_>, report: &mut Report) -> Option<PodVolume> {
    let kinds = ["host", "secret", "persistent"];
    let given: Vec<&str> = kinds
        .into_iter()
        .filter(|kind| read.get(kind).is_some())
        .collect();
    match given.as_slice() {
        [] => Some(PodVolume::Ephemeral),
        ["host"] => {
            let host = read.string("host", report)?;
            if !host.starts_with('/') {
                report.value_problem(read.path_of("host"), "must be an absolute path");
            }
            Some(PodVolume::Host(host))
        }
        ["secret"] => read.string("secret", report).map(PodVolume::Secret),
        ["persistent"] => residency::size(read, report).map(PodVolume::Persistent),
        [.., last] => {
            let problem = format!("exclude each other: {}", given.join(" and "));
            report.value_problem(read.path_of(last), problem);
            None
        }
    }
}

/// `name`: 1 to 63 of a-z, 0-9 and, in between, `-`, as Marathon has it for containers, volumes and endpoints.
fn name(read: &Fields<'_>, report: &mut Report) -> Option<String> {
    let at = read.path_of("name");
    let Some(value) = read.get("name") else {
        report.value_problem(at, "is missing");
        return None;
    };
    let Some(name) = value.as_str() else {
        report.type_problem(at, expected("a string", value));
        return None;
    };
    let clean = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let edges = !name.starts_with('-') && !name.ends_with('-');
    if !clean || !edges || name.is_empty() || name.len() > 63 {
        report.value_problem(
            at,
            format!(
                "{name:?} is no name: 1 to 63 lower-case letters, digits, and `-` between them"
            ),
        );
        return None;
    }
    Some(name.to_owned())
}

/// Every secret that is used is one of the pod's.
fn check_secrets(app: &App, report: &mut Report) {
    let Some(pod) = &app.pod else { return };
    let mut check = |path: String, name: &String| {
        if !app.secrets.contains_key(name) {
            let problem =
                format!("the pod has no secret {name:?}; add it to /secrets with its source");
            report.value_problem(path, problem);
        }
    };
    for (variable, name) in &app.secret_env {
        check(format!("/environment/{variable}/secret"), name);
    }
    for (volume, kept) in &pod.volumes {
        if let PodVolume::Secret(name) = kept {
            check(format!("/volumes/{volume}/secret"), name);
        }
    }
    for (i, container) in pod.containers.iter().enumerate() {
        for (variable, name) in &container.spec.secret_env {
            let path = format!("/containers({i})/environment/{variable}/secret");
            check(path, name);
        }
        if let Some(name) = &container.spec.container.pull_secret {
            check(format!("/containers({i})/image/pullConfig/secret"), name);
        }
    }
}
