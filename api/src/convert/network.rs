//! Networks of containers and their mapped ports.

use super::{Invalid, Problems};
use crate::{
    model::{ContainerInfo, NetworkMode, PortMapping, PortProtocol},
    proto,
};

/// The mode behind a number of the wire.
pub(super) fn mode(number: i32) -> Result<NetworkMode, Invalid> {
    proto::NetworkMode::try_from(number)
        .map(NetworkMode::from)
        .map_err(|_| Invalid::new("", format!("{number} is no mode that this version knows")))
}

impl From<proto::NetworkMode> for NetworkMode {
    fn from(mode: proto::NetworkMode) -> Self {
        match mode {
            proto::NetworkMode::Unspecified | proto::NetworkMode::Host => Self::Host,
            proto::NetworkMode::None => Self::None,
            proto::NetworkMode::Bridge => Self::Bridge,
            proto::NetworkMode::Container => Self::Container,
        }
    }
}

impl From<NetworkMode> for proto::NetworkMode {
    fn from(mode: NetworkMode) -> Self {
        match mode {
            NetworkMode::Host => Self::Host,
            NetworkMode::None => Self::None,
            NetworkMode::Bridge => Self::Bridge,
            NetworkMode::Container => Self::Container,
        }
    }
}

fn port(problems: &mut Problems, field: &str, number: u32) -> Option<u16> {
    problems.take(
        field,
        u16::try_from(number).map_err(|_| Invalid::new("", format!("{number} is beyond 65535"))),
    )
}

impl TryFrom<proto::PortMapping> for PortMapping {
    type Error = Invalid;

    fn try_from(mapping: proto::PortMapping) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let protocol = match proto::PortProtocol::try_from(mapping.protocol) {
            Ok(proto::PortProtocol::Unspecified | proto::PortProtocol::Tcp) => PortProtocol::Tcp,
            Ok(proto::PortProtocol::Udp) => PortProtocol::Udp,
            Ok(proto::PortProtocol::TcpUdp) => PortProtocol::TcpUdp,
            Err(_) => {
                let text = format!("{} is none that this version knows", mapping.protocol);
                problems.note("protocol", text);
                PortProtocol::Tcp
            }
        };
        if mapping.container_port == 0 {
            problems.note("container_port", "is missing");
        }
        problems.bound("name", &mapping.name, 255);
        let container_port = port(&mut problems, "container_port", mapping.container_port);
        let host_port = port(&mut problems, "host_port", mapping.host_port);
        problems.finish(
            container_port
                .zip(host_port)
                .map(|(container_port, host_port)| Self {
                    container_port,
                    host_port: (host_port > 0).then_some(host_port),
                    protocol,
                    name: mapping.name,
                }),
        )
    }
}

impl From<PortMapping> for proto::PortMapping {
    fn from(mapping: PortMapping) -> Self {
        Self {
            container_port: mapping.container_port.into(),
            host_port: mapping.host_port.unwrap_or(0).into(),
            protocol: match mapping.protocol {
                PortProtocol::Tcp => proto::PortProtocol::Tcp,
                PortProtocol::Udp => proto::PortProtocol::Udp,
                PortProtocol::TcpUdp => proto::PortProtocol::TcpUdp,
            }
            .into(),
            name: mapping.name,
        }
    }
}

/// What mode, name and mappings say together.
pub(super) fn check(problems: &mut Problems, container: &ContainerInfo) {
    match (container.network, &container.network_name) {
        (NetworkMode::Container, None) => problems.note(
            "network_name",
            "is missing: which of the agent's networks the container joins",
        ),
        (NetworkMode::Host | NetworkMode::None | NetworkMode::Bridge, Some(_)) => {
            problems.note("network_name", "is only for the mode CONTAINER");
        }
        (NetworkMode::Container, Some(name)) => {
            let clean = name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            if !clean || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || name.len() > 255
            {
                problems.note(
                    "network_name",
                    format!("{name:?} is no name of a network: 1 to 255 of a-z A-Z 0-9 . _ -"),
                );
            }
        }
        (NetworkMode::Host | NetworkMode::None | NetworkMode::Bridge, None) => {}
    }
    if !container.network.is_own() && !container.port_mappings.is_empty() {
        problems.note(
            "port_mappings",
            "are only for the modes BRIDGE and CONTAINER; in the machine's network a task listens on its `ports`",
        );
    }
    for (i, mapping) in container.port_mappings.iter().enumerate() {
        let taken = container.port_mappings[..i].iter().any(|earlier| {
            earlier.host_port.is_some()
                && earlier.host_port == mapping.host_port
                && (earlier.protocol.has_tcp() && mapping.protocol.has_tcp()
                    || earlier.protocol.has_udp() && mapping.protocol.has_udp())
        });
        if taken {
            problems.note(
                &format!("port_mappings[{i}].host_port"),
                format!("{} is there twice", mapping.host_port.unwrap_or(0)),
            );
        }
    }
}
