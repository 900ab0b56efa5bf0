//! One container of a pod: what it runs, what it takes, where it is reached, how it is asked for its health.
//!
//! Pure.

use mezzo_api::model::{NetworkMode, Scalar};
use serde_json::Value;

use super::super::confinement::confinement;
use super::super::container::{pull_secret, seccomp_profile};
use super::super::{MAX_SECONDS_MS, MAX_UNITS, check, fetch, limits, read_env};
use super::{MAX_NAMES, Shared, name, no_container, nothing};
use crate::app::pod::{Mount, PodContainer};
use crate::app::read::{Fields, Report, expected};
use crate::app::spec::{
    App, AppHealthCheck, CheckPort, Container, HostPort, PortDefinition, PortTarget, Protocol, Run,
};

const FIELDS: [&str; 19] = [
    "name",
    "exec",
    "resources",
    "resourceLimits",
    "endpoints",
    "image",
    "environment",
    "user",
    "tty",
    "healthCheck",
    "check",
    "volumeMounts",
    "labels",
    "lifecycle",
    "linuxInfo",
    "readOnlyRootfs",
    "capabilities",
    "artifacts",
    // Refused with a word unless they say nothing.
    "readinessCheck",
];

const NO_IMAGE: &str = "is missing: mezzo runs container images; name one, such as {\"kind\": \"DOCKER\", \"id\": \
                        \"busybox:1.36\"}, here";

pub(super) fn read(
    value: &Value,
    path: String,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<PodContainer> {
    let fields = Fields::open(value, path, &FIELDS, report)?;
    fields.unsupported("readinessCheck", "use healthCheck", report);
    let name = name(&fields, report);
    if let Some(name) = &name
        && name.len() + shared.id.as_str().len() > MAX_NAMES
    {
        let problem = format!("with the id of the pod it is longer than {MAX_NAMES} bytes");
        report.value_problem(fields.path_of("name"), problem);
    }
    let (run, entrypoint) = exec(&fields, report);
    let container = image(&fields, report);
    let (cpus, mem, disk, gpus) = resources(&fields, report);
    let limits = limits::limits(&fields, cpus, mem, report);
    let ports = endpoints(&fields, shared.network, report);
    let (health_check, check_argv) = health_check(&fields, &ports, report).unzip();
    let check = check::check(&fields, check::Named::ByEndpoint(&ports), report);
    let (env, secret_env) = read_env(&fields, "environment", report);
    let mounts = mounts(&fields, shared, report);
    let kill_grace_ms = fields.get("lifecycle").and_then(|value| {
        let known = ["killGracePeriodSeconds"];
        let read = Fields::open(value, fields.path_of("lifecycle"), &known, report)?;
        read.decimal("killGracePeriodSeconds", 3, 0, MAX_SECONDS_MS, report)
    });
    let spec = App {
        run,
        cpus,
        mem,
        disk,
        gpus,
        env,
        secret_env,
        labels: fields.string_map("labels", report).unwrap_or_default(),
        ports,
        health_checks: health_check.into_iter().collect(),
        check,
        kill_grace_ms,
        cpu_limit: limits.cpus,
        mem_limit: limits.mem,
        pids_limit: limits.pids,
        limits: limits.more,
        fetch: fetch::list(&fields, "artifacts", report),
        user: fields
            .string("user", report)
            .filter(|user| !user.is_empty()),
        tty: fields.boolean("tty", report).unwrap_or(false),
        ..nothing(shared.id.clone(), container?)
    };
    Some(PodContainer {
        name: name?,
        spec,
        entrypoint,
        check_argv: check_argv.flatten(),
        mounts,
    })
}

/// `exec`: what runs, and what takes the place of the image's entrypoint, too.
fn exec(fields: &Fields<'_>, report: &mut Report) -> (Run, Option<Vec<String>>) {
    let nothing = (Run::Image, None);
    let Some(value) = fields.get("exec") else {
        return nothing;
    };
    let known = ["command", "overrideEntrypoint"];
    let Some(exec) = Fields::open(value, fields.path_of("exec"), &known, report) else {
        return nothing;
    };
    let overrides = exec.boolean("overrideEntrypoint", report);
    match command(&exec, report) {
        None => nothing,
        Some(Command::Shell(line)) => {
            if overrides == Some(false) {
                report.value_problem(
                    exec.path_of("overrideEntrypoint"),
                    "cannot be false with a shell's command, which takes the entrypoint's place",
                );
            }
            (Run::Shell(line), None)
        }
        Some(Command::Argv(argv)) if overrides == Some(true) => (Run::Image, Some(argv)),
        Some(Command::Argv(argv)) => (Run::Args(argv), None),
    }
}

/// What is run, and whether a shell runs it.
pub(in super::super) enum Command {
    Shell(String),
    Argv(Vec<String>),
}

/// `command`: `{"shell": "a line"}` or `{"argv": ["a", "b"]}`.
pub(in super::super) fn command(fields: &Fields<'_>, report: &mut Report) -> Option<Command> {
    let at = fields.path_of("command");
    let Some(value) = fields.get("command") else {
        report.value_problem(
            at,
            "is missing: {\"shell\": \"a line\"} or {\"argv\": [\"a\"]}",
        );
        return None;
    };
    let read = Fields::open(value, at.clone(), &["shell", "argv"], report)?;
    let shell = read.string("shell", report).filter(|line| !line.is_empty());
    let argv = read.strings("argv", report).filter(|argv| !argv.is_empty());
    match (shell, argv) {
        (Some(line), None) => Some(Command::Shell(line)),
        (None, Some(argv)) => Some(Command::Argv(argv)),
        (Some(_), Some(_)) => {
            report.value_problem(at, "exclude each other: shell and argv; give one of them");
            None
        }
        (None, None) => {
            report.value_problem(at, "says nothing: give shell or argv");
            None
        }
    }
}

fn image(fields: &Fields<'_>, report: &mut Report) -> Option<Container> {
    let at = fields.path_of("image");
    let Some(value) = fields.get("image") else {
        report.value_problem(at, NO_IMAGE);
        return None;
    };
    let known = ["kind", "id", "forcePull", "pullConfig", "labels"];
    let read = Fields::open(value, at, &known, report)?;
    match read.string("kind", report).as_deref() {
        Some("DOCKER") | None => {}
        Some(other) => {
            let problem = format!("got {other:?}, must be DOCKER, which any OCI image is");
            report.value_problem(read.path_of("kind"), problem);
        }
    }
    read.unsupported("labels", "they are for the kind APPC", report);
    let id = read.string("id", report).unwrap_or_default();
    if id.is_empty() {
        report.value_problem(read.path_of("id"), "is missing");
    } else if id.len() > 1024 || id.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let problem = format!("{id:?} is not an image reference");
        report.value_problem(read.path_of("id"), problem);
    }
    Some(Container {
        image: id,
        force_pull: read.boolean("forcePull", report).unwrap_or(false),
        pull_secret: pull_secret(&read, report),
        confinement: confinement(fields, None, report),
        seccomp_profile: seccomp_profile(fields, report),
        ..no_container()
    })
}

/// cpus, mem, disk and gpus: Marathon's 1, 128, 0 and 0 where the container says nothing.
fn resources(fields: &Fields<'_>, report: &mut Report) -> (Scalar, Scalar, Scalar, Scalar) {
    let given = fields.get("resources").and_then(|value| {
        let known = ["cpus", "mem", "disk", "gpus"];
        Fields::open(value, fields.path_of("resources"), &known, report)
    });
    let mut amount = |name: &str, min: u64, default: u64| {
        let read = given.as_ref();
        let millis = read.and_then(|read| read.decimal(name, 3, min, MAX_UNITS * 1000, report));
        let millis = millis.unwrap_or(default);
        Scalar::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    };
    let amounts = (
        amount("cpus", 1, 1000),
        amount("mem", 1000, 128_000),
        amount("disk", 0, 0),
    );
    let gpus = given.and_then(|read| read.integer("gpus", 0, 1_000_000, report));
    let gpus = Scalar::from_units(i64::try_from(gpus.unwrap_or(0)).unwrap_or(0));
    (amounts.0, amounts.1, amounts.2, gpus)
}

fn endpoints(
    fields: &Fields<'_>,
    network: NetworkMode,
    report: &mut Report,
) -> Vec<PortDefinition> {
    let items = fields.list("endpoints", report).unwrap_or_default();
    let read = items
        .into_iter()
        .filter_map(|(path, item)| endpoint(item, path, network, report));
    read.collect()
}

fn endpoint(
    item: &Value,
    path: String,
    network: NetworkMode,
    report: &mut Report,
) -> Option<PortDefinition> {
    let known = [
        "name",
        "containerPort",
        "hostPort",
        "protocol",
        "labels",
        "networkNames",
    ];
    let read = Fields::open(item, path, &known, report)?;
    let number = |name: &str, report: &mut Report| {
        let number = read.integer(name, 0, 65_535, report)?;
        u16::try_from(number).ok()
    };
    let container_port = number("containerPort", report);
    let host_port = number("hostPort", report);
    let name = name(&read, report);
    // One network is all there is: a list that names it says nothing new.
    let _ = read.strings("networkNames", report);
    let (port, target) = if network.is_own() {
        let host = match host_port {
            Some(0) => HostPort::Any,
            Some(port) => HostPort::Fixed(port),
            None => HostPort::None,
        };
        if container_port.unwrap_or(0) == 0 && host == HostPort::None {
            report.value_problem(
                read.path_of("containerPort"),
                "is missing: where the container listens (0, with a hostPort: the same number as that)",
            );
        }
        let container_port = container_port.unwrap_or(0);
        (
            0,
            Some(PortTarget {
                container_port,
                host,
            }),
        )
    } else {
        if container_port.is_some_and(|port| port != 0) {
            report.value_problem(
                read.path_of("containerPort"),
                "has no meaning in the machine's network: give hostPort, or another network",
            );
        }
        if host_port.is_none() {
            report.value_problem(
                read.path_of("hostPort"),
                "is missing: in the machine's network an endpoint is a port of the machine (0: any)",
            );
        }
        (host_port.unwrap_or(0), None)
    };
    Some(PortDefinition {
        port,
        protocol: protocol(&read, report),
        name: Some(name?),
        labels: read.string_map("labels", report).unwrap_or_default(),
        target,
    })
}

/// The port of the machine that an endpoint insists on.
pub(super) fn host_port(port: &PortDefinition) -> Option<u16> {
    match port.target {
        None => Some(port.port).filter(|port| *port != 0),
        Some(target) => match target.host {
            HostPort::Fixed(port) => Some(port),
            HostPort::Any | HostPort::None => None,
        },
    }
}

/// A list of names, or one; tcp unless it says. Marathon takes any name and hands it on: what is neither `tcp` nor `udp`
/// (`http`, say) goes over tcp.
fn protocol(read: &Fields<'_>, report: &mut Report) -> String {
    let words = match read.get("protocol") {
        Some(Value::String(word)) => word.split(',').map(str::to_owned).collect(),
        Some(_) => read.strings("protocol", report).unwrap_or_default(),
        None => Vec::new(),
    };
    let is_name = |word: &String| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if let Some(word) = words.iter().find(|word| !is_name(word)) {
        let problem = format!("{word:?} is no name of a protocol, such as tcp, udp or http");
        report.value_problem(read.path_of("protocol"), problem);
    }
    if words.is_empty() {
        return "tcp".to_owned();
    }
    words.join(",")
}

/// `healthCheck`, and its command where no shell runs it.
fn health_check(
    fields: &Fields<'_>,
    ports: &[PortDefinition],
    report: &mut Report,
) -> Option<(AppHealthCheck, Option<Vec<String>>)> {
    let value = fields.get("healthCheck")?;
    let known = [
        "http",
        "tcp",
        "exec",
        "gracePeriodSeconds",
        "intervalSeconds",
        "maxConsecutiveFailures",
        "timeoutSeconds",
        "delaySeconds",
    ];
    let read = Fields::open(value, fields.path_of("healthCheck"), &known, report)?;
    let seconds = |name: &str, default: u64, report: &mut Report| {
        read.decimal(name, 3, 0, MAX_SECONDS_MS, report)
            .unwrap_or(default * 1000)
    };
    let mut check = AppHealthCheck {
        protocol: Protocol::MesosTcp,
        path: "/".to_owned(),
        port: CheckPort::Index(0),
        command: None,
        grace_period_ms: seconds("gracePeriodSeconds", 300, report),
        interval_ms: seconds("intervalSeconds", 60, report),
        timeout_ms: seconds("timeoutSeconds", 20, report),
        delay_ms: seconds("delaySeconds", 15, report),
        max_consecutive_failures: u32::try_from(
            read.integer("maxConsecutiveFailures", 0, u64::from(u32::MAX), report)
                .unwrap_or(3),
        )
        .unwrap_or(u32::MAX),
        ipv6: false,
    };
    for (name, value) in [
        ("intervalSeconds", check.interval_ms),
        ("timeoutSeconds", check.timeout_ms),
    ] {
        if value == 0 {
            report.value_problem(read.path_of(name), "must be more than 0");
        }
    }
    let ways: Vec<&str> = ["http", "tcp", "exec"]
        .into_iter()
        .filter(|way| read.get(way).is_some())
        .collect();
    let [way] = ways.as_slice() else {
        report.value_problem(
            fields.path_of("healthCheck"),
            "must have one of http, tcp and exec",
        );
        return None;
    };
    let value = read.get(way)?;
    let path = read.path_of(way);
    if *way == "exec" {
        let exec = Fields::open(value, path, &["command"], report)?;
        check.protocol = Protocol::Command;
        let argv = match command(&exec, report)? {
            Command::Shell(line) => {
                check.command = Some(line);
                None
            }
            Command::Argv(argv) => Some(argv),
        };
        return Some((check, argv));
    }
    let known: &[&str] = if *way == "http" {
        &["endpoint", "path", "scheme"]
    } else {
        &["endpoint"]
    };
    let asked = Fields::open(value, path, known, report)?;
    if *way == "http" {
        let schemes = [
            ("HTTP", Protocol::MesosHttp),
            ("HTTPS", Protocol::MesosHttps),
            ("http", Protocol::MesosHttp),
            ("https", Protocol::MesosHttps),
        ];
        check.protocol = asked
            .choice("scheme", &schemes, report)
            .unwrap_or(Protocol::MesosHttp);
        check.path = asked
            .string("path", report)
            .unwrap_or_else(|| "/".to_owned());
        if !check.path.starts_with('/') || check.path.chars().any(char::is_control) {
            let problem = format!("got {:?}, must begin with `/`", check.path);
            report.value_problem(asked.path_of("path"), problem);
        }
    }
    check.port = CheckPort::Index(endpoint_index(&asked, ports, report)?);
    Some((check, None))
}

/// Which of the container's endpoints is named by `endpoint`.
pub(in super::super) fn endpoint_index(
    asked: &Fields<'_>,
    ports: &[PortDefinition],
    report: &mut Report,
) -> Option<u32> {
    let name = match asked.get("endpoint") {
        Some(Value::String(name)) => name.as_str(),
        Some(other) => {
            report.type_problem(asked.path_of("endpoint"), expected("a string", other));
            return None;
        }
        None => "",
    };
    let index = ports
        .iter()
        .position(|port| port.name.as_deref() == Some(name));
    let Some(index) = index.and_then(|index| u32::try_from(index).ok()) else {
        let names: Vec<&str> = ports
            .iter()
            .filter_map(|port| port.name.as_deref())
            .collect();
        report.value_problem(
            asked.path_of("endpoint"),
            format!(
                "{name:?} is none of the container's endpoints ({})",
                names.join(", ")
            ),
        );
        return None;
    };
    Some(index)
}

fn mounts(fields: &Fields<'_>, shared: &Shared<'_>, report: &mut Report) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for (path, item) in fields.list("volumeMounts", report).unwrap_or_default() {
        let Some(read) = Fields::open(item, path, &["name", "mountPath", "readOnly"], report)
        else {
            continue;
        };
        let Some(name) = name(&read, report) else {
            continue;
        };
        if !shared.volumes.contains_key(&name) {
            let problem = format!("{name:?} is none of the pod's volumes");
            report.value_problem(read.path_of("name"), problem);
        }
        let path = read.string("mountPath", report).unwrap_or_default();
        let mut parts = path.split('/').skip(usize::from(path.starts_with('/')));
        if parts.any(|part| matches!(part, "" | "." | "..")) {
            report.value_problem(
                read.path_of("mountPath"),
                "must be an absolute path, or one relative to the sandbox, without \".\" and \"..\"",
            );
        }
        mounts.push(Mount {
            name,
            path,
            read_only: read.boolean("readOnly", report).unwrap_or(false),
        });
    }
    mounts
}
