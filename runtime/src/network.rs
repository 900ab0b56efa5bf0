//! Containers' networks: namespaces with an address of their own behind a bridge of the machine (`bridge`, built
//! here), or with whatever a CNI plug-in gives them (`cni`). What a network is *for* nobody here knows.
//!
//! ```text
//! prepare(id) ─► lease on disk ─► namespace from the pool ─► pair of links, addresses, routes ─► ports in the map
//!     start(id): the namespace goes with the request to the keeper; the container's first process keeps it alive
//! release(id) ◄─ the container's end, a failed start, recovery: map, links, lease
//! ```
//!
//! A namespace is held by descriptors and processes alone, never by a mount: when the agent dies before the start, or the
//! container ends, the kernel removes the namespace and the links in it. What the kernel does not remove by itself
//! (elements of the map, addresses) is in the lease, which was written first; recovery releases leases without container.
//! [`manager`] is the only file with state; `bridge` and `namespace` do, `pool`, `link` and `nftables` decide.

mod bridge;
mod cni;
mod conntrack;
mod error;
mod lease;
mod link;
mod manager;
mod namespace;
mod netlink;
mod nftables;
mod pool;
mod subnet;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use cni::{CniConfig, ConfError, PlugInError};
pub use error::NetworkError;
pub(crate) use manager::Networks;
pub(crate) use namespace::tcp_socket_in;
pub use nftables::{PortMap, PortProtocol};
pub use subnet::{InvalidSubnet, Ipv4Subnet, Ipv6Subnet};

/// How containers are connected; all of it has defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Name of the bridge and of its table in the packet filter, 1 to 11 characters; one instance at a time may use it.
    pub bridge: String,
    /// Addresses of containers; the first belongs to the machine.
    pub ipv4: Ipv4Subnet,
    /// The same for IPv6; none unless given.
    pub ipv6: Option<Ipv6Subnet>,
    /// Largest packet; that of the uplink unless given.
    pub mtu: Option<u32>,
    /// Networks by plug-ins; none unless given.
    pub cni: Option<CniConfig>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bridge: "mezzo0".to_owned(),
            ipv4: Ipv4Subnet::DEFAULT,
            ipv6: None,
            mtu: None,
            cni: None,
        }
    }
}

impl NetworkConfig {
    /// What is wrong with it: the field and the problem.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let name = &self.bridge;
        let clean = (1..=11).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !clean {
            let text = format!(
                "{name:?} is no name for a link: 1 to 11 of a-z A-Z 0-9 - _, beginning with a letter"
            );
            return Err(("bridge", text));
        }
        if self.mtu.is_some_and(|mtu| !(576..=65_535).contains(&mtu)) {
            let text = format!("{} is not within 576 to 65535", self.mtu.unwrap_or(0));
            return Err(("mtu", text));
        }
        if self.ipv6.is_some() && self.mtu.is_some_and(|mtu| mtu < 1280) {
            return Err(("mtu", "IPv6 needs at least 1280".to_owned()));
        }
        Ok(())
    }
}

/// What a container wants of its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkRequest {
    /// An address behind the machine's bridge.
    Bridge {
        /// Ports of the machine that lead to it; no port of the machine twice.
        ports: Vec<PortMap>,
    },
    /// What the plug-ins of a network give it.
    Cni {
        /// The network's name, as in its configuration.
        network: String,
        /// For plug-ins that map ports.
        ports: Vec<PortMap>,
        /// For plug-ins that look at them.
        labels: BTreeMap<String, String>,
    },
}

/// What a container was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Name servers that its network told.
    pub dns: Vec<IpAddr>,
}
