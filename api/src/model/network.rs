//! How a container is connected: which network it sees, and which ports of the machine lead to it.

use serde::{Deserialize, Serialize};

/// Which network the container sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The machine's own.
    #[default]
    Host,
    /// Loopback only.
    None,
    /// An address of its own behind the machine's bridge.
    Bridge,
    /// One of the networks that the agent's operator set up with CNI plug-ins, by name.
    Container,
}

impl NetworkMode {
    /// It has a network of its own that others can reach.
    #[must_use]
    pub const fn is_own(self) -> bool {
        match self {
            Self::Bridge | Self::Container => true,
            Self::Host | Self::None => false,
        }
    }
}

/// Protocols of a mapped port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// Both.
    TcpUdp,
}

impl PortProtocol {
    /// TCP belongs to it.
    #[must_use]
    pub const fn has_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::TcpUdp)
    }

    /// UDP belongs to it.
    #[must_use]
    pub const fn has_udp(self) -> bool {
        matches!(self, Self::Udp | Self::TcpUdp)
    }
}

/// A port of the machine that leads to a port of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Where the container listens; never 0.
    pub container_port: u16,
    /// One of the task's `ports`; `None`: the container's port is told, but not reachable through the machine.
    pub host_port: Option<u16>,
    /// Which protocols.
    pub protocol: PortProtocol,
    /// For people and for discovery; may be empty.
    pub name: String,
}
