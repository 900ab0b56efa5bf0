//! Which network the app's containers see, in Marathon's three ways of saying it: `networks` (since 1.5), and before that
//! `container.docker.network` and `ipAddress`; and which ports of the machine lead to them.
//!
//! Pure.

use std::collections::BTreeMap;

use mezzo_api::model::NetworkMode;
use serde_json::Value;

use super::parts;
use crate::app::read::{Fields, Report, expected};
use crate::app::spec::{HostPort, PortDefinition, PortTarget};

/// What the app says about its network, taken together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) mode: NetworkMode,
    /// For [`NetworkMode::Container`].
    pub(super) name: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
}

/// Reads all three.
pub(super) fn read(fields: &Fields<'_>, report: &mut Report) -> Network {
    let new = networks(fields, report);
    let named = ip_address(fields, report);
    let docker = fields
        .get("container")
        .and_then(|container| container.get("docker"))
        .and_then(|docker| docker.get("network"))
        .and_then(Value::as_str);
    let path = "/container/docker/network";
    let old = match docker {
        None => named.map(|(name, labels)| Network {
            mode: NetworkMode::Container,
            name: Some(name),
            labels,
        }),
        Some("HOST") => Some(Network::default()),
        Some("NONE") => Some(Network {
            mode: NetworkMode::None,
            ..Network::default()
        }),
        Some("BRIDGE") => Some(Network {
            mode: NetworkMode::Bridge,
            ..Network::default()
        }),
        Some("USER") => match named {
            Some((name, labels)) => Some(Network {
                mode: NetworkMode::Container,
                name: Some(name),
                labels,
            }),
            None => {
                report.value_problem(
                    path,
                    "USER needs the network's name in /ipAddress/networkName",
                );
                None
            }
        },
        Some(other) => {
            report.value_problem(
                path,
                format!("got {other:?}, must be one of HOST, NONE, BRIDGE, USER"),
            );
            None
        }
    };
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            report.value_problem(
                "/networks",
                "says something else than /container/docker/network or /ipAddress; give only networks",
            );
            new
        }
        (Some(network), _) | (None, Some(network)) => network,
        (None, None) => Network::default(),
    }
}

/// `networks`: none said, or one.
pub(super) fn networks(fields: &Fields<'_>, report: &mut Report) -> Option<Network> {
    let mut found = None;
    for (path, item) in fields.list("networks", report).unwrap_or_default() {
        let Some(network) = Fields::open(item, path.clone(), &["mode", "name", "labels"], report)
        else {
            continue;
        };
        let name = network
            .string("name", report)
            .filter(|name| !name.is_empty());
        let labels = network.string_map("labels", report).unwrap_or_default();
        let read = match network.string("mode", report).as_deref() {
            Some("host") => Network::default(),
            Some("container/bridge") => Network {
                mode: NetworkMode::Bridge,
                ..Network::default()
            },
            // As Marathon: a network of the container's own unless it says otherwise.
            None | Some("container") => {
                if name.is_none() {
                    report.value_problem(
                        network.path_of("name"),
                        "is missing: the mode container needs the name of one of the agents' networks",
                    );
                }
                Network {
                    mode: NetworkMode::Container,
                    name: name.clone(),
                    labels,
                }
            }
            Some(other) => {
                report.value_problem(
                    network.path_of("mode"),
                    format!("got {other:?}, must be one of host, container/bridge, container"),
                );
                continue;
            }
        };
        if read.mode != NetworkMode::Container && name.is_some() {
            report.value_problem(network.path_of("name"), "is only for the mode container");
        }
        if let Some(name) = &read.name {
            check_name(name, network.path_of("name"), report);
        }
        if found.is_some() {
            report.value_problem(path, "not supported yet: more than one network");
        } else {
            found = Some(read);
        }
    }
    found
}

fn check_name(name: &str, path: String, report: &mut Report) {
    let clean = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if !clean || name.len() > 255 || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        report.value_problem(
            path,
            format!("{name:?} is no name of a network: 1 to 255 of a-z A-Z 0-9 . _ -"),
        );
    }
}

/// `ipAddress`: the name and the labels in it.
fn ip_address(
    fields: &Fields<'_>,
    report: &mut Report,
) -> Option<(String, BTreeMap<String, String>)> {
    let value = fields.get("ipAddress")?;
    let known = ["networkName", "labels", "groups", "discovery"];
    let read = Fields::open(value, fields.path_of("ipAddress"), &known, report)?;
    read.unsupported("groups", "", report);
    read.unsupported("discovery", "use portMappings", report);
    let labels = read.string_map("labels", report).unwrap_or_default();
    let Some(name) = read.string("networkName", report).filter(|n| !n.is_empty()) else {
        report.value_problem(
            read.path_of("networkName"),
            "is missing: the name of one of the agents' networks",
        );
        return None;
    };
    check_name(&name, read.path_of("networkName"), report);
    Some((name, labels))
}

/// The app's ports: those of the machine that it gets, or those of its own that are mapped.
pub(super) fn ports(
    fields: &Fields<'_>,
    network: &Network,
    report: &mut Report,
) -> Vec<PortDefinition> {
    let new = fields.get("container").and_then(|c| c.get("portMappings"));
    let old = fields
        .get("container")
        .and_then(|c| c.get("docker"))
        .and_then(|docker| docker.get("portMappings"));
    let says = |value: Option<&Value>| {
        value.is_some_and(|value| value.as_array().is_none_or(|items| !items.is_empty()))
    };
    if !network.mode.is_own() {
        for (value, path) in [
            (new, "/container/portMappings"),
            (old, "/container/docker/portMappings"),
        ] {
            if says(value.filter(|value| !value.is_null())) {
                report.value_problem(
                    path,
                    "needs a network of the container's own: {\"mode\": \"container/bridge\"} in networks; in the machine's network use portDefinitions",
                );
            }
        }
        // Marathon gives an app in the machine's network a port; a revocable one can have none.
        let revocable = fields.get("revocable") == Some(&Value::Bool(true));
        let by_default = network.mode == NetworkMode::Host && !revocable;
        return parts::ports(fields, by_default, report);
    }
    let maps = says(new) || says(old);
    for name in ["portDefinitions", "ports"] {
        if says(fields.get(name)) && !(maps && name == "ports") {
            report.value_problem(
                fields.path_of(name),
                "is for the machine's network; with a network of the container's own use container.portMappings",
            );
        }
    }
    let (given, path) = match (new.filter(|v| !v.is_null()), old.filter(|v| !v.is_null())) {
        (Some(new), Some(old)) if says(Some(new)) && says(Some(old)) && new != old => {
            report.value_problem(
                "/container/docker/portMappings",
                "exclude each other: container.portMappings and container.docker.portMappings; give the former",
            );
            (Some(new), "/container/portMappings")
        }
        (Some(new), _) if says(Some(new)) || old.is_none() => {
            (Some(new), "/container/portMappings")
        }
        (_, Some(old)) => (Some(old), "/container/docker/portMappings"),
        (new, None) => (new, "/container/portMappings"),
    };
    let Some(given) = given else {
        // As Marathon: a bridge without a word about ports maps one.
        return if network.mode == NetworkMode::Bridge {
            vec![PortDefinition {
                port: 0,
                protocol: "tcp".to_owned(),
                name: None,
                labels: BTreeMap::new(),
                target: Some(PortTarget {
                    container_port: 0,
                    host: HostPort::Any,
                }),
            }]
        } else {
            Vec::new()
        };
    };
    let Some(items) = given.as_array() else {
        report.type_problem(path, expected("a list", given));
        return Vec::new();
    };
    let mut mappings: Vec<PortDefinition> = items
        .iter()
        .enumerate()
        .filter_map(|(i, item)| mapping(item, format!("{path}({i})"), network.mode, report))
        .collect();
    service_ports(fields, &mut mappings, report);
    refuse_doubles(&mappings, path, report);
    mappings
}

/// Beside mappings `ports` are their service ports, as Marathon's answers had them up to 1.4.
fn service_ports(fields: &Fields<'_>, mappings: &mut [PortDefinition], report: &mut Report) {
    let Some(given) = fields.get("ports").and_then(Value::as_array) else {
        return;
    };
    if given.len() > mappings.len() {
        report.value_problem(
            "/ports",
            "more than there are portMappings, of which they are the service ports",
        );
    }
    for (i, (given, mapping)) in given.iter().zip(mappings).enumerate() {
        let port = given.as_u64().and_then(|port| u16::try_from(port).ok());
        match port {
            Some(port) if mapping.port == 0 => mapping.port = port,
            Some(_) => {}
            None => report.type_problem(format!("/ports({i})"), expected("a port", given)),
        }
    }
}

fn mapping(
    item: &Value,
    path: String,
    mode: NetworkMode,
    report: &mut Report,
) -> Option<PortDefinition> {
    let known = [
        "containerPort",
        "hostPort",
        "servicePort",
        "protocol",
        "name",
        "labels",
        "networkNames",
    ];
    let read = Fields::open(item, path, &known, report)?;
    let number = |name: &str, report: &mut Report| {
        let number = read.integer(name, 0, 65_535, report)?;
        u16::try_from(number).ok()
    };
    let container_port = number("containerPort", report).unwrap_or(0);
    let host = match number("hostPort", report) {
        Some(0) => HostPort::Any,
        Some(port) => HostPort::Fixed(port),
        None if mode == NetworkMode::Bridge => HostPort::Any,
        None => HostPort::None,
    };
    if container_port == 0 && host == HostPort::None {
        report.value_problem(
            read.path_of("containerPort"),
            "must not be 0 without a hostPort: 0 means the port of the machine that was given",
        );
    }
    // One network is all there is: a list that names it says nothing new.
    let _ = read.strings("networkNames", report);
    Some(PortDefinition {
        port: number("servicePort", report).unwrap_or(0),
        protocol: parts::protocol(&read, report),
        name: read.string("name", report).filter(|name| !name.is_empty()),
        labels: read.string_map("labels", report).unwrap_or_default(),
        target: Some(PortTarget {
            container_port,
            host,
        }),
    })
}

fn refuse_doubles(mappings: &[PortDefinition], path: &str, report: &mut Report) {
    let fixed = |definition: &PortDefinition| match definition.target {
        Some(PortTarget {
            host: HostPort::Fixed(port),
            ..
        }) => Some(port),
        Some(PortTarget {
            host: HostPort::Any | HostPort::None,
            ..
        })
        | None => None,
    };
    for (i, mapping) in mappings.iter().enumerate() {
        let before = &mappings[..i];
        if let Some(port) = fixed(mapping)
            && before.iter().any(|earlier| fixed(earlier) == Some(port))
        {
            report.value_problem(
                format!("{path}({i})/hostPort"),
                format!("port {port} is there twice; one mapping may have the protocol udp,tcp"),
            );
        }
        if mapping.port != 0 && before.iter().any(|earlier| earlier.port == mapping.port) {
            report.value_problem(
                format!("{path}({i})/servicePort"),
                format!("port {} is there twice", mapping.port),
            );
        }
        if let Some(name) = &mapping.name
            && before
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
