//! Why containers do not get their networks: each names the thing, and the setting that cures it where there is one.

use std::io;

use super::cni::{ConfError, PlugInError};
use crate::id::ContainerId;

/// Why a container cannot have its network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A link of that name is there, and somebody else made it.
    #[error(
        "bridge {bridge} has {note}: another agent or program made it; give this agent another bridge (network.bridge and network.ipv4)"
    )]
    NotOurs {
        /// The bridge's name.
        bridge: String,
        /// What is written on it.
        note: String,
    },
    /// The machine reaches addresses of the subnet over another link.
    #[error(
        "subnet {subnet} overlaps {theirs}, which this machine reaches over {link}; choose another (network.ipv4)"
    )]
    SubnetTaken {
        /// Ours.
        subnet: String,
        /// Where the others are.
        link: String,
        /// Theirs.
        theirs: String,
    },
    /// The system refused.
    #[error("cannot {operation} bridge {bridge}")]
    Bridge {
        /// The bridge's name.
        bridge: String,
        /// What was tried.
        operation: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// All addresses are taken.
    #[error("no free address in {subnet}: {taken} containers have one")]
    NoAddress {
        /// Of which subnet.
        subnet: String,
        /// How many are taken.
        taken: usize,
    },
    /// Another container has the port of the machine.
    #[error("port {port} of this machine leads to container {holder} already")]
    PortTaken {
        /// Which.
        port: u16,
        /// Whose it is.
        holder: ContainerId,
    },
    /// The container has a network already.
    #[error("container {id} has a network already")]
    AlreadyPrepared {
        /// Which.
        id: ContainerId,
    },
    /// No configuration for the network that was named.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// A plug-in did not do what it should.
    #[error(transparent)]
    PlugIn(#[from] PlugInError),
    /// The system refused.
    #[error("cannot connect container {id}: {operation}")]
    Container {
        /// Which.
        id: ContainerId,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}
