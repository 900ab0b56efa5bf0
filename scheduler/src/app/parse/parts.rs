//! The lists inside an app: ports, health checks, volumes.
//!
//! Pure.

use mezzo_api::model::{MOST_HEALTH_CHECKS, Volume, VolumeSource, is_path_in_sandbox};
use serde_json::Value;

use super::{MAX_SECONDS_MS, residency};
use crate::app::read::{Fields, Report, expected};
use crate::app::residency::PersistentMount;
use crate::app::spec::{AppHealthCheck, CheckPort, PortDefinition, Protocol};

/// `portDefinitions`, or the deprecated `ports`; on the host's network one port unless the app says otherwise.
pub(super) fn ports(
    fields: &Fields<'_>,
    on_host: bool,
    report: &mut Report,
) -> Vec<PortDefinition> {
    let any = |port| PortDefinition {
        port,
        protocol: "tcp".to_owned(),
        name: None,
        labels: Default::default(),
        target: None,
    };
    let old = fields.list("ports", report);
    let Some(items) = fields.list("portDefinitions", report) else {
        let Some(old) = old else {
            return if on_host { vec![any(0)] } else { Vec::new() };
        };
        let ports: Vec<PortDefinition> = old
            .into_iter()
            .filter_map(|(path, item)| {
                let port = item.as_u64().and_then(|port| u16::try_from(port).ok());
                if port.is_none() {
                    if item.is_number() {
                        report.value_problem(
                            path,
                            format!("got {item}, must be between 0 and 65535"),
                        );
                    } else {
                        report.type_problem(path, expected("a number", item));
                    }
                }
                port.map(any)
            })
            .collect();
        refuse_doubles(&ports, "/ports", report);
        return ports;
    };
    if old.is_some_and(|old| !old.is_empty()) {
        report.value_problem(
            "/ports",
            "exclude each other: ports and portDefinitions; give the latter",
        );
    }
    let mut ports = Vec::new();
    for (path, item) in items {
        let Some(read) = Fields::open(item, path, &["port", "protocol", "name", "labels"], report)
        else {
            continue;
        };
        ports.push(PortDefinition {
            port: u16::try_from(read.integer("port", 0, 65_535, report).unwrap_or(0)).unwrap_or(0),
            protocol: protocol(&read, report),
            name: read.string("name", report).filter(|name| !name.is_empty()),
            labels: read.string_map("labels", report).unwrap_or_default(),
            target: None,
        });
    }
    refuse_doubles(&ports, "/portDefinitions", report);
    ports
}

/// `tcp`, `udp` or both; tcp unless it says.
pub(super) fn protocol(read: &Fields<'_>, report: &mut Report) -> String {
    read.choice(
        "protocol",
        &[
            ("tcp", "tcp"),
            ("udp", "udp"),
            ("udp,tcp", "udp,tcp"),
            ("tcp,udp", "udp,tcp"),
        ],
        report,
    )
    .unwrap_or("tcp")
    .to_owned()
}

fn refuse_doubles(ports: &[PortDefinition], path: &str, report: &mut Report) {
    for (i, port) in ports.iter().enumerate() {
        if port.port != 0 && ports[..i].iter().any(|earlier| earlier.port == port.port) {
            report.value_problem(
                format!("{path}({i})/port"),
                format!("port {} is there twice", port.port),
            );
        }
        if let Some(name) = &port.name
            && ports[..i]
                .iter()
                .any(|earlier| earlier.name.as_ref() == Some(name))
        {
            report.value_problem(
                format!("{path}({i})/name"),
                format!("name {name:?} is there twice"),
            );
        }
    }
}

/// `healthChecks`.
pub(super) fn health_checks(
    fields: &Fields<'_>,
    n_ports: usize,
    report: &mut Report,
) -> Vec<AppHealthCheck> {
    let items = fields.list("healthChecks", report).unwrap_or_default();
    if items.len() > MOST_HEALTH_CHECKS {
        let problem = format!(
            "has {} entries; at most {MOST_HEALTH_CHECKS} are allowed",
            items.len()
        );
        report.value_problem(fields.path_of("healthChecks"), problem);
        return Vec::new();
    }
    let items = items.into_iter();
    items
        .filter_map(|(path, item)| health_check(item, path, n_ports, report))
        .collect()
}

/// One of them.
fn health_check(
    item: &Value,
    path: String,
    n_ports: usize,
    report: &mut Report,
) -> Option<AppHealthCheck> {
    let known = [
        "protocol",
        "path",
        "portIndex",
        "port",
        "command",
        "gracePeriodSeconds",
        "intervalSeconds",
        "timeoutSeconds",
        "maxConsecutiveFailures",
        "delaySeconds",
        "ignoreHttp1xx",
        "ipProtocol",
    ];
    let read = Fields::open(item, path, &known, report)?;
    let protocol = read
        .choice("protocol", &Protocol::NAMES, report)
        .unwrap_or(Protocol::Http);
    let seconds = |name: &str, default: u64, report: &mut Report| {
        read.decimal(name, 3, 0, MAX_SECONDS_MS, report)
            .unwrap_or(default * 1000)
    };
    let default_delay = if protocol.was_run_by_marathon() {
        0
    } else {
        15
    };
    let grace_period_ms = seconds("gracePeriodSeconds", 300, report);
    let interval_ms = seconds("intervalSeconds", 60, report);
    let timeout_ms = seconds("timeoutSeconds", 20, report);
    let delay_ms = seconds("delaySeconds", default_delay, report);
    for (name, value) in [
        ("intervalSeconds", interval_ms),
        ("timeoutSeconds", timeout_ms),
    ] {
        if value == 0 {
            report.value_problem(read.path_of(name), "must be more than 0");
        }
    }
    let failures = read
        .integer("maxConsecutiveFailures", 0, u64::from(u32::MAX), report)
        .unwrap_or(3);
    // Whether it is said or not, no check of mezzo's takes a 1xx answer for a result.
    let _ = read.boolean("ignoreHttp1xx", report);
    let ipv6 = read
        .choice("ipProtocol", &[("IPv4", false), ("IPv6", true)], report)
        .unwrap_or(false);
    let no_path = if protocol == Protocol::Grpc { "" } else { "/" };
    let http_path = read
        .string("path", report)
        .unwrap_or_else(|| no_path.to_owned());
    if protocol.needs_path()
        && (!http_path.starts_with('/') || http_path.chars().any(char::is_control))
    {
        report.value_problem(
            read.path_of("path"),
            format!("got {http_path:?}, must begin with `/`"),
        );
    }
    // Of a command the index means nothing, whatever it is.
    let n_ports = if protocol.needs_port() {
        n_ports
    } else {
        usize::MAX
    };
    let port = check_port(&read, n_ports, report)?;
    let command = command(&read, report);
    match (protocol, &command) {
        (Protocol::Command, None) if read.get("command").is_none() => {
            report.value_problem(
                read.path_of("command"),
                "is missing: {\"value\": \"a shell line\"}",
            );
        }
        (Protocol::Command, _) | (_, None) => {}
        (_, Some(_)) => {
            report.value_problem(read.path_of("command"), "is only for the protocol COMMAND")
        }
    }
    Some(AppHealthCheck {
        protocol,
        path: http_path,
        port,
        command,
        grace_period_ms,
        interval_ms,
        timeout_ms,
        delay_ms,
        max_consecutive_failures: u32::try_from(failures).ok()?,
        ipv6,
    })
}

/// `port`, or `portIndex` among the app's `n_ports`: 0 where neither is given.
pub(super) fn check_port(
    read: &Fields<'_>,
    n_ports: usize,
    report: &mut Report,
) -> Option<CheckPort> {
    let fixed = read.integer("port", 1, 65_535, report);
    let index = read.integer("portIndex", 0, u64::from(u32::MAX), report);
    match (fixed, index) {
        (Some(_), Some(_)) => {
            report.value_problem(
                read.path_of("port"),
                "exclude each other: port and portIndex; give one of them",
            );
            Some(CheckPort::Index(0))
        }
        (Some(port), None) => Some(CheckPort::Fixed(u16::try_from(port).ok()?)),
        (None, index) => {
            let index = index.unwrap_or(0);
            if index >= n_ports as u64 {
                report.value_problem(
                    read.path_of("portIndex"),
                    format!("is {index}, but the app has {n_ports} port(s)"),
                );
            }
            Some(CheckPort::Index(u32::try_from(index).ok()?))
        }
    }
}

fn command(read: &Fields<'_>, report: &mut Report) -> Option<String> {
    let value = read.get("command")?;
    let command = Fields::open(value, read.path_of("command"), &["value"], report)?;
    let line = command
        .string("value", report)
        .filter(|line| !line.is_empty());
    if line.is_none() {
        report.value_problem(command.path_of("value"), "is missing");
    }
    line
}

/// `container.volumes`, by kind.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    /// Host paths, absolute or in the sandbox.
    pub(crate) host: Vec<Volume>,
    /// Files with secrets, by path and the name that the app gives the secret.
    pub(crate) secrets: Vec<(String, String)>,
    /// With content that outlives tasks.
    pub(crate) persistent: Vec<PersistentMount>,
}

/// `container.volumes`.
pub(crate) fn volumes(container: &Fields<'_>, report: &mut Report) -> Volumes {
    let mut volumes = Volumes::default();
    let mut in_sandbox = Vec::new();
    for (path, item) in container.list("volumes", report).unwrap_or_default() {
        let known = [
            "containerPath",
            "hostPath",
            "mode",
            "persistent",
            "external",
            "secret",
        ];
        let Some(read) = Fields::open(item, path, &known, report) else {
            continue;
        };
        if read.get("external").is_some() {
            report.value_problem(
                read.path_of("external"),
                "not supported yet: only host and persistent volumes, and secrets",
            );
        }
        let container_path = read.string("containerPath", report).unwrap_or_default();
        if read.get("persistent").is_some() {
            let volume = residency::volume(&read, container_path, report);
            volumes.persistent.extend(volume);
            continue;
        }
        if !container_path.starts_with('/') {
            report.value_problem(read.path_of("containerPath"), "must be an absolute path");
        }
        if read.get("secret").is_some() {
            for name in ["hostPath", "mode"] {
                if read.get(name).is_some() {
                    report.value_problem(read.path_of(name), "a file with a secret has none");
                }
            }
            if let Some(name) = read.string("secret", report) {
                volumes.secrets.push((container_path, name));
            }
            continue;
        }
        let Some(host_path) = read.string("hostPath", report) else {
            if read.get("external").is_none() {
                report.value_problem(read.path_of("hostPath"), "is missing");
            }
            continue;
        };
        if !host_path.starts_with('/') {
            in_sandbox.push((read.path_of("hostPath"), host_path.clone()));
        }
        volumes.host.push(Volume {
            container_path,
            read_only: read
                .choice("mode", &[("RO", true), ("RW", false)], report)
                .unwrap_or(false),
            source: VolumeSource::HostPath(host_path),
        });
    }
    for (path, wanted) in in_sandbox {
        if !is_path_in_sandbox(&wanted) {
            report.value_problem(
                path,
                "must be an absolute path, or a relative one in the sandbox without \".\", \"..\" and empty names",
            );
            continue;
        }
        // There the volume is mounted, not a directory of the sandbox.
        let mut persistent = volumes.persistent.iter().map(|mount| &mount.container_path);
        let above = persistent.find(|kept| {
            let rest = wanted.strip_prefix(kept.as_str());
            rest.is_some_and(|rest| rest.starts_with('/'))
        });
        if let Some(kept) = above {
            let problem = format!("lies in the persistent volume {kept:?}: mount that as a whole");
            report.value_problem(path, problem);
        }
    }
    volumes
}
