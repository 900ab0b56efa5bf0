//! Turns an app version and a place into the task that the master is asked to launch.
//!
//! Pure. The environment is Marathon's: PORT, PORT0…, PORTS, HOST, MARATHON_APP_…, MESOS_TASK_ID; what the app itself
//! sets wins. Of a pod's instance the tasks are several: [`pod`].

pub mod pod;

use std::collections::BTreeMap;
use std::time::Duration;

use mezzo_api::model::{
    CheckKind, ContainerInfo, EnvVar, HealthCheck, Offer, PortMapping, PortProtocol, Resources,
    Scalar, TaskId, TaskInfo, TaskLimits,
};

use crate::app::spec::{AppHealthCheck, AssignedPort, CheckPort, Limit, Protocol, Run};
use crate::app::{AppId, AppVersion, memory};

/// The task for one instance.
#[must_use]
pub fn task_info(
    version: &AppVersion,
    task_id: &TaskId,
    offer: &Offer,
    ports: &[u16],
    resources: Resources,
) -> TaskInfo {
    let app = &version.app;
    let (memory_limit_mb, memory_unlimited) = memory(app.mem_limit);
    let ports = &app.assigned_ports(ports);
    let (command, args) = match &app.run {
        Run::Image => (Vec::new(), Vec::new()),
        Run::Shell(line) => (shell(line), Vec::new()),
        Run::Args(args) => (Vec::new(), args.clone()),
    };
    TaskInfo {
        revocable: app.revocable,
        task_id: task_id.clone(),
        name: task_name(&app.id),
        agent_id: offer.agent_id.clone(),
        resources,
        cpu_limit: match app.cpu_limit {
            Some(Limit::Of(limit)) => Some(limit),
            Some(Limit::Unlimited) | None => None,
        },
        memory_limit_mb,
        pids_limit: app.pids_limit,
        container: ContainerInfo {
            image: app.container.image.clone(),
            force_pull: app.container.force_pull,
            command,
            args,
            env: environment(version, task_id, &offer.hostname, ports)
                .into_iter()
                .map(|(name, value)| EnvVar { name, value })
                .collect(),
            user: app.user.clone(),
            tty: app.tty,
            working_dir: None,
            read_only_rootfs: app.container.confinement.read_only_rootfs,
            capabilities: app.container.confinement.capabilities.clone(),
            privileged: app.container.privileged,
            network: app.container.network,
            volumes: app.volumes(),
            secret_env: app.secret_variables(),
            pull_secret: app.pull_secret().cloned(),
            host_users: app.container.host_users,
            seccomp_profile: app.container.seccomp_profile.clone(),
            apparmor_profile: app.container.apparmor_profile.clone(),
            port_mappings: app
                .ports
                .iter()
                .zip(ports)
                .filter(|(definition, _)| definition.target.is_some())
                .map(|(definition, assigned)| PortMapping {
                    container_port: assigned.inside,
                    host_port: assigned.host,
                    protocol: protocol(&definition.protocol),
                    name: definition.name.clone().unwrap_or_default(),
                })
                .collect(),
            network_name: app.container.network_name.clone(),
            network_labels: app.container.network_labels.clone(),
            fetch: app.fetch.clone(),
        },
        kill_grace: app.kill_grace_ms.map(Duration::from_millis),
        health_checks: app
            .health_checks
            .iter()
            .map(|check| health_check(check, ports, app.patience_ms(check).is_some()))
            .collect(),
        max_completion: None,
        labels: app.labels.clone(),
        data: Vec::new(),
        limits: TaskLimits {
            memory_unlimited,
            ..app.limits.clone()
        },
        group: None,
        reserved: Vec::new(),
        persistent: Vec::new(),
        readiness_check: app
            .readiness_check
            .as_ref()
            .and_then(|check| check.for_task(app, ports))
            .map(Box::new),
        check: app
            .check
            .as_ref()
            .and_then(|check| check.for_task(ports))
            .map(Box::new),
    }
}

/// Whatever is not udp goes over tcp.
fn protocol(names: &str) -> PortProtocol {
    let is_udp = |name: &str| name.eq_ignore_ascii_case("udp");
    let (udp, others): (Vec<&str>, Vec<&str>) = names.split(',').partition(|name| is_udp(name));
    match (udp.is_empty(), others.is_empty()) {
        (true, _) => PortProtocol::Tcp,
        (false, true) => PortProtocol::Udp,
        (false, false) => PortProtocol::TcpUdp,
    }
}

/// What runs a line.
pub(crate) fn shell(line: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()]
}

/// As a host name would say it: `/shop/cart` is `cart.shop`.
fn task_name(id: &AppId) -> String {
    let mut parts: Vec<&str> = id
        .as_str()
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    parts.reverse();
    parts.join(".")
}

fn environment(
    version: &AppVersion,
    task_id: &TaskId,
    host: &str,
    ports: &[AssignedPort],
) -> BTreeMap<String, String> {
    let app = &version.app;
    let mut env = BTreeMap::new();
    let mut put = |name: String, value: String| {
        env.insert(name, value);
    };
    put("HOST".into(), host.to_owned());
    put("MESOS_TASK_ID".into(), task_id.to_string());
    put("MARATHON_APP_ID".into(), app.id.to_string());
    put("MARATHON_APP_VERSION".into(), version.version.to_string());
    put(
        "MARATHON_APP_DOCKER_IMAGE".into(),
        app.container.image.clone(),
    );
    for (name, amount) in [
        ("CPUS", app.cpus),
        ("MEM", app.mem),
        ("DISK", app.disk),
        ("GPUS", app.gpus),
    ] {
        put(
            format!("MARATHON_APP_RESOURCE_{name}"),
            with_point(name, amount),
        );
    }
    let labels: Vec<String> = app.labels.keys().map(|name| variable_name(name)).collect();
    put("MARATHON_APP_LABELS".into(), labels.join(" "));
    for (name, value) in &app.labels {
        put(
            format!("MARATHON_APP_LABEL_{}", variable_name(name)),
            value.clone(),
        );
    }
    // As others reach it: by the machine's port, or where there is none by its own.
    let reached: Vec<u16> = ports
        .iter()
        .map(|port| port.host.unwrap_or(port.inside))
        .collect();
    if let Some(first) = reached.first() {
        put("PORT".into(), first.to_string());
        let all: Vec<String> = reached.iter().map(u16::to_string).collect();
        put("PORTS".into(), all.join(","));
    }
    for (i, ((port, assigned), definition)) in reached.iter().zip(ports).zip(&app.ports).enumerate()
    {
        put(format!("PORT{i}"), port.to_string());
        let known_as = match definition.target {
            None => definition.port,
            Some(_) => assigned.inside,
        };
        if known_as != 0 {
            put(format!("PORT_{known_as}"), port.to_string());
        }
        if let Some(name) = &definition.name {
            put(format!("PORT_{}", variable_name(name)), port.to_string());
        }
    }
    env.extend(app.env.clone());
    env
}

/// Marathon writes these as Java writes doubles, but gpus as a whole number.
fn with_point(name: &str, amount: Scalar) -> String {
    let text = amount.to_string();
    if name == "GPUS" || text.contains('.') {
        text
    } else {
        format!("{text}.0")
    }
}

fn variable_name(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect()
}

/// `replaced_first`: the agent only tells; the end comes from here, after a replacement.
fn health_check(
    check: &AppHealthCheck,
    ports: &[AssignedPort],
    replaced_first: bool,
) -> HealthCheck {
    // Checks run in the task's own network, where it listens on its own ports.
    let port = match check.port {
        CheckPort::Fixed(port) => port,
        CheckPort::Index(index) => ports.get(index as usize).map_or(0, |port| port.inside),
    };
    let max_consecutive_failures = if replaced_first {
        0
    } else {
        check.max_failures().unwrap_or(0)
    };
    HealthCheck {
        kind: match check.protocol {
            Protocol::Http | Protocol::MesosHttp => CheckKind::Http,
            Protocol::Https | Protocol::MesosHttps => CheckKind::Https,
            Protocol::Tcp | Protocol::MesosTcp => CheckKind::Tcp,
            Protocol::Command => CheckKind::Command,
            Protocol::Grpc => CheckKind::Grpc,
        },
        path: if check.protocol.needs_path() || check.protocol == Protocol::Grpc {
            check.path.clone()
        } else {
            String::new()
        },
        port: if check.protocol.needs_port() { port } else { 0 },
        command: check.command.as_deref().map(shell).unwrap_or_default(),
        grace_period: Duration::from_millis(check.grace_period_ms),
        interval: Duration::from_millis(check.interval_ms),
        timeout: Duration::from_millis(check.timeout_ms),
        max_consecutive_failures,
        delay: Duration::from_millis(check.delay_ms),
        ipv6: check.ipv6,
    }
}
