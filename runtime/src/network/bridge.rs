//! The machine's bridge and what hangs on it: made lazily, recognised by the note on it, connected to containers by one
//! pair of links each. Does what it is told; who has which address is decided by `manager`.
//!
//! The packet filter is in `nftables`. What is switched on for the machine: forwarding (`ip_forward`), because
//! containers' packets go through it, and `route_localnet` on the bridge alone, so that mapped ports answer on 127.0.0.1.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;

use super::error::NetworkError;
use super::lease::{LINK_PREFIX, Lease};
use super::link::{self, Pair};
use super::namespace::Namespace;
use super::netlink::Socket;
use super::nftables::{Filter, Forward, Rules};
use super::subnet::{Ipv4Subnet, Ipv6Subnet};

/// What a container calls its link.
const INSIDE: &str = "eth0";
/// The bridge's own, which the kernel would make up and try out for a second.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Where there is no uplink to learn it from.
const DEFAULT_MTU: u32 = 1500;

/// One bridge, as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) name: String,
    pub(super) ipv4: Ipv4Subnet,
    pub(super) ipv6: Option<Ipv6Subnet>,
    pub(super) mtu: Option<u32>,
    /// The note on it: whose it is.
    pub(super) owner: String,
}

/// The bridge, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) index: u32,
    pub(super) mtu: u32,
}

impl Bridge {
    fn rules(&self) -> Rules<'_> {
        Rules {
            bridge: &self.name,
            ipv4: (self.ipv4.network(), self.ipv4.prefix()),
            ipv6: self.ipv6.map(|subnet| (subnet.network(), subnet.prefix())),
        }
    }

    fn failed<'a>(&'a self, what: &'a str) -> impl Fn(io::Error) -> NetworkError + 'a {
        move |source| NetworkError::Bridge {
            bridge: self.name.clone(),
            operation: what.to_owned(),
            source,
        }
    }

    /// The bridge of that name if it is ours; `None` if there is none.
    fn find(&self, socket: &mut Socket) -> Result<Option<link::Link>, NetworkError> {
        let found = link::find(socket, &self.name).map_err(self.failed("look for"))?;
        match found {
            Some(found) if found.kind == "bridge" && found.alias == self.owner => Ok(Some(found)),
            Some(found) => Err(NetworkError::NotOurs {
                bridge: self.name.clone(),
                note: if found.alias.is_empty() {
                    "nobody's note".to_owned()
                } else {
                    format!("the note {:?}", found.alias)
                },
            }),
            None => Ok(None),
        }
    }

    /// Whether there is one, and ours.
    pub(super) fn exists(&self) -> Result<bool, NetworkError> {
        let mut socket = Socket::route().map_err(self.failed("look for"))?;
        Ok(self.find(&mut socket)?.is_some())
    }

    /// Makes what is missing: bridge, addresses, forwarding, rules with these lines. Idempotent.
    pub(super) fn ensure(
        &self,
        filter: &Filter,
        forwards: &[Forward],
    ) -> Result<Made, NetworkError> {
        let mut socket = Socket::route().map_err(self.failed("open a socket for"))?;
        let found = match self.find(&mut socket)? {
            Some(found) => found,
            None => self.make(&mut socket)?,
        };
        let mtu = self.mtu.unwrap_or_else(|| uplink_mtu(&mut socket));
        let gateways = [
            Some((IpAddr::V4(self.ipv4.gateway()), self.ipv4.prefix())),
            self.ipv6
                .map(|subnet| (IpAddr::V6(subnet.gateway()), subnet.prefix())),
        ];
        let mut messages = vec![link::set_up(found.index, mtu)];
        if self.ipv6.is_some() {
            // Neighbours are asked from it, whatever is forwarded to them.
            messages.push(link::add_address(found.index, LINK_LOCAL.into(), 64));
        }
        for (address, prefix) in gateways.into_iter().flatten() {
            messages.push(link::add_address(found.index, address, prefix));
        }
        socket
            .transact(&messages)
            .map_err(|refused| self.failed("set up")(refused.into()))?;
        self.forward().map_err(self.failed("forward packets of"))?;
        filter
            .rebuild(&self.rules(), forwards)
            .map_err(|refused| self.failed("make the packet filter of")(refused.into()))?;
        Ok(Made {
            index: found.index,
            mtu,
        })
    }

    fn make(&self, socket: &mut Socket) -> Result<link::Link, NetworkError> {
        let routes = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
        let (network, prefix) = (self.ipv4.network(), self.ipv4.prefix());
        if let Some((name, theirs, length)) =
            link::overlapping(&routes, network, prefix, &self.name)
        {
            return Err(NetworkError::SubnetTaken {
                subnet: self.ipv4.to_string(),
                link: name,
                theirs: format!("{theirs}/{length}"),
            });
        }
        let mac = link::mac_of(self.ipv4.gateway());
        let mtu = self.mtu.unwrap_or_else(|| uplink_mtu(socket));
        // In one packet: no bridge without its note, whatever happens to this process.
        let made = socket.transact(&[
            link::new_bridge(&self.name, mac, mtu),
            link::set_alias(&self.name, &self.owner),
        ]);
        match made {
            Err(refused) if refused.errno() == libc::EOPNOTSUPP => {
                let source = io::Error::new(
                    io::ErrorKind::Unsupported,
                    "this kernel has no bridges; load the module bridge",
                );
                return Err(self.failed("make")(source));
            }
            made => made.map_err(|refused| self.failed("make")(refused.into()))?,
        }
        tracing::info!(bridge = self.name, subnet = %self.ipv4, mtu, "made the bridge for containers");
        let gone = || self.failed("make")(io::Error::other("it is gone again"));
        self.find(socket)?.ok_or_else(gone)
    }

    fn forward(&self) -> io::Result<()> {
        fs::write(
            format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.name),
            "1",
        )?;
        switch_on("/proc/sys/net/ipv4/ip_forward")?;
        if self.ipv6.is_some() {
            keep_router_advertisements()?;
            switch_on("/proc/sys/net/ipv6/conf/all/forwarding")?;
        }
        Ok(())
    }

    /// Connects a namespace as the lease says.
    pub(super) fn attach(
        &self,
        made: Made,
        lease: &Lease,
        namespace: &mut Namespace,
    ) -> Result<(), io::Error> {
        let mut socket = Socket::route()?;
        let pair = Pair {
            name: &lease.link,
            master: made.index,
            mtu: made.mtu,
            peer: INSIDE,
            mac: link::mac_of(lease.ipv4),
            namespace: namespace.descriptor.as_fd(),
        };
        let mut messages = vec![link::new_pair(&pair), link::join_bridge(&pair)];
        if sees_bridged_frames() {
            messages.push(link::set_hairpin(&lease.link));
        }
        socket.transact(&messages)?;
        let inside = link::find(&mut namespace.route, INSIDE)?
            .ok_or_else(|| io::Error::other("the container's link is gone"))?
            .index;
        let mut messages = vec![link::open(inside)];
        let four = (IpAddr::V4(lease.ipv4), lease.subnet4.prefix());
        messages.push(link::add_address(inside, four.0, four.1));
        messages.push(link::add_default_route(
            inside,
            IpAddr::V4(lease.subnet4.gateway()),
        ));
        if let (Some(address), Some(subnet)) = (lease.ipv6, lease.subnet6) {
            messages.push(link::add_address(
                inside,
                IpAddr::V6(address),
                subnet.prefix(),
            ));
            messages.push(link::add_default_route(
                inside,
                IpAddr::V6(subnet.gateway()),
            ));
        }
        namespace.route.transact(&messages)?;
        Ok(())
    }

    /// Removes links of containers that have no lease.
    pub(super) fn sweep_links(&self, keep: impl Fn(&str) -> bool) -> io::Result<()> {
        let mut socket = Socket::route()?;
        let links = link::all(&mut socket)?;
        let Some(bridge) = links.iter().find(|link| link.name == self.name) else {
            return Ok(());
        };
        for link in &links {
            let orphan = link.master == Some(bridge.index)
                && link.kind == "veth"
                && link.name.starts_with(LINK_PREFIX)
                && !keep(&link.name);
            if orphan {
                tracing::warn!(link = link.name, "link without a container, removed");
                remove_link(&mut socket, &link.name)?;
            }
        }
        Ok(())
    }

    /// Removes the bridge and its table, if it is ours.
    pub(super) fn remove(&self, filter: &Filter) -> Result<(), NetworkError> {
        let mut socket = Socket::route().map_err(self.failed("remove"))?;
        if self.find(&mut socket)?.is_none() {
            return Ok(());
        }
        filter
            .remove_table(&self.name)
            .map_err(|refused| self.failed("remove the packet filter of")(refused.into()))?;
        remove_link(&mut socket, &self.name).map_err(self.failed("remove"))
    }
}

/// Removes a container's pair of links, if the end of its namespace has not done so.
pub(super) fn detach(lease: &Lease) -> io::Result<()> {
    remove_link(&mut Socket::route()?, &lease.link)
}

fn remove_link(socket: &mut Socket, name: &str) -> io::Result<()> {
    match socket.transact(&[link::delete(name)]) {
        Err(refused) if refused.errno() == libc::ENODEV => Ok(()),
        done => done.map_err(io::Error::from),
    }
}

/// Whether the packet filter sees frames that a bridge passes on (`br_netfilter`).
fn sees_bridged_frames() -> bool {
    ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"]
        .iter()
        .any(|name| {
            fs::read(format!("/proc/sys/net/bridge/{name}"))
                .is_ok_and(|value| value.first() == Some(&b'1'))
        })
}

/// The MTU of the link that leads out.
fn uplink_mtu(socket: &mut Socket) -> u32 {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
    };
    link::uplink(&read("route"), &read("ipv6_route"))
        .and_then(|name| link::find(socket, &name).ok().flatten())
        .map_or(DEFAULT_MTU, |link| link.mtu.clamp(576, 65_535))
}

/// Switches a setting of the machine on, and says so.
fn switch_on(path: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    if fs::read_to_string(path).map_err(named)?.trim() == "0" {
        fs::write(path, "1").map_err(named)?;
        tracing::warn!(
            path,
            "switched on for containers' networks; it stays on when the agent ends"
        );
    }
    Ok(())
}

/// A machine that forwards IPv6 no longer listens to routers, unless told that it still should: links that did
/// listen go on, or the machine would lose its way out.
fn keep_router_advertisements() -> io::Result<()> {
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf")?.flatten() {
        let path = entry.path().join("accept_ra");
        let is_one = fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1");
        if is_one && entry.file_name() != "all" && entry.file_name() != "default" {
            fs::write(&path, "2")?;
        }
    }
    Ok(())
}
