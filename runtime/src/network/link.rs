//! Links, addresses and routes over netlink: the few requests that a bridge and its containers need, each a message
//! (pure) and a call that sends it. Who asks for what, and in which order, is the business of `bridge`.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{
    ACK, CREATE, DUMP, EXCL, Message, REPLACE, Refused, Socket, attribute, attributes,
};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const BRPORT_MODE: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const LINK_HEADER: usize = 16;

/// A link's hardware address.
pub(super) type Mac = [u8; 6];

/// What is known of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    /// "bridge", "veth" and so on; empty for hardware.
    pub(super) kind: String,
    /// The note that whoever made it left.
    pub(super) alias: String,
    /// The index of the bridge that it belongs to.
    pub(super) master: Option<u32>,
}

/// `struct ifinfomsg`.
fn link_header(index: u32, up: bool) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        let flag = (libc::IFF_UP as u32).to_ne_bytes();
        header[8..12].copy_from_slice(&flag);
        header[12..16].copy_from_slice(&flag);
    }
    header
}

/// No address of its own making: a link that only forwards needs none, and a container without IPv6 is to have none.
fn no_ipv6_of_its_own(message: &mut Message) {
    message.nest(IFLA_AF_SPEC, |families| {
        families.nest(libc::AF_INET6 as u16, |inet6| {
            inet6.attr(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
        });
    });
}

/// Makes a bridge.
pub(super) fn new_bridge(name: &str, mac: Mac, mtu: u32) -> Message {
    let mut message = Message::new(NEWLINK, ACK | CREATE | EXCL, &link_header(0, false));
    message.text(IFLA_IFNAME, name);
    message
        .attr(IFLA_ADDRESS, &mac)
        .u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "bridge");
        });
    message
}

/// Leaves a note on a link.
pub(super) fn set_alias(name: &str, alias: &str) -> Message {
    let mut message = Message::new(NEWLINK, ACK, &link_header(0, false));
    // Not a C string: the kernel takes the attribute's length.
    message
        .text(IFLA_IFNAME, name)
        .attr(IFLA_IFALIAS, alias.as_bytes());
    message
}

/// Brings a link up, with the greatest packet that it takes.
pub(super) fn set_up(index: u32, mtu: u32) -> Message {
    let mut message = Message::new(NEWLINK, ACK, &link_header(index, true));
    message.u32(IFLA_MTU, mtu);
    no_ipv6_of_its_own(&mut message);
    message
}

/// Brings a container's link up, as it is.
pub(super) fn open(index: u32) -> Message {
    Message::new(NEWLINK, ACK, &link_header(index, true))
}

/// One container's pair of links.
#[derive(Clone, Debug)]
pub(super) struct Pair<'a> {
    /// On this side, below the bridge.
    pub(super) name: &'a str,
    pub(super) master: u32,
    pub(super) mtu: u32,
    /// The other end's name, address and namespace.
    pub(super) peer: &'a str,
    pub(super) mac: Mac,
    pub(super) namespace: BorrowedFd<'a>,
}

/// Makes a pair of links, the other end already in the container's namespace.
pub(super) fn new_pair(pair: &Pair<'_>) -> Message {
    let mut message = Message::new(NEWLINK, ACK | CREATE | EXCL, &link_header(0, false));
    message
        .text(IFLA_IFNAME, pair.name)
        .u32(IFLA_MTU, pair.mtu)
        .nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    // Not up: the kernel opens no end before both are there.
                    peer.raw(&link_header(0, false));
                    peer.text(IFLA_IFNAME, pair.peer)
                        .u32(IFLA_MTU, pair.mtu)
                        .attr(IFLA_ADDRESS, &pair.mac)
                        .attr(IFLA_NET_NS_FD, &pair.namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
    message
}

/// Puts our end of the pair below the bridge and brings it up. Attributes of address families count only here, not
/// when a link is made.
pub(super) fn join_bridge(pair: &Pair<'_>) -> Message {
    let mut message = Message::new(NEWLINK, ACK, &link_header(0, true));
    message
        .text(IFLA_IFNAME, pair.name)
        .u32(IFLA_MASTER, pair.master);
    no_ipv6_of_its_own(&mut message);
    message
}

/// Lets the bridge send a frame back through the port that it came from: where the packet filter sees bridged frames
/// (`br_netfilter`), a container that talks to itself through the machine's port needs it.
pub(super) fn set_hairpin(name: &str) -> Message {
    let mut message = Message::new(NEWLINK, ACK, &link_header(0, false));
    message.text(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |info| {
        info.text(INFO_SLAVE_KIND, "bridge")
            .nest(INFO_SLAVE_DATA, |data| {
                data.attr(BRPORT_MODE, &[1]);
            });
    });
    message
}

/// Removes a link, by name; with it goes the other end of a pair.
pub(super) fn delete(name: &str) -> Message {
    let mut message = Message::new(DELLINK, ACK, &link_header(0, false));
    message.text(IFLA_IFNAME, name);
    message
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// Gives a link an address. IPv6 ones are in use at once: nobody else gives them out on that bridge.
pub(super) fn add_address(index: u32, address: IpAddr, prefix: u8) -> Message {
    let mut header = [family(address), prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(NEWADDR, ACK | CREATE | REPLACE, &header);
    message
        .attr(IFA_LOCAL, &bytes(address))
        .attr(IFA_ADDRESS, &bytes(address));
    if address.is_ipv6() {
        message.u32(IFA_FLAGS, IFA_F_NODAD);
    }
    message
}

/// The default route.
pub(super) fn add_default_route(index: u32, gateway: IpAddr) -> Message {
    const TABLE_MAIN: u8 = 254;
    const BY_BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    let header = [
        family(gateway),
        0,
        0,
        0,
        TABLE_MAIN,
        BY_BOOT,
        0,
        UNICAST,
        0,
        0,
        0,
        0,
    ];
    let mut message = Message::new(NEWROUTE, ACK | CREATE, &header);
    message
        .attr(RTA_GATEWAY, &bytes(gateway))
        .u32(RTA_OIF, index);
    message
}

/// The link of that name, if there is one.
pub(super) fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let mut question = Message::new(GETLINK, ACK, &link_header(0, false));
    question.text(IFLA_IFNAME, name);
    match socket.ask(&question) {
        Ok(answers) => Ok(answers.iter().find_map(|answer| parse(answer))),
        Err(refused) if refused.errno() == libc::ENODEV => Ok(None),
        Err(refused) => Err(refused.into()),
    }
}

/// All links.
pub(super) fn all(socket: &mut Socket) -> Result<Vec<Link>, Refused> {
    let answers = socket.ask(&Message::new(GETLINK, DUMP, &link_header(0, false)))?;
    Ok(answers.iter().filter_map(|answer| parse(answer)).collect())
}

/// A link out of the kernel's answer. Pure.
fn parse(body: &[u8]) -> Option<Link> {
    let number = |value: &[u8]| value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let text = |value: &[u8]| {
        let end = value.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
    };
    let mut link = Link {
        index: number(body.get(4..8)?)?,
        name: String::new(),
        mtu: 0,
        kind: String::new(),
        alias: String::new(),
        master: None,
    };
    for (kind, value) in attributes(body, LINK_HEADER) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_MASTER => link.master = number(value),
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_LINKINFO => link.kind = attribute(value, 0, INFO_KIND).map_or(String::new(), text),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// A hardware address that belongs to an IPv4 address alone: whoever gets the address later has the same one, so that
/// no neighbour's memory of it is wrong. Pure.
pub(super) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    // Locally administered, for one station.
    [0x02, 0x4d, a, b, c, d]
}

/// The uplink's name: that of the default route with the lowest metric, in the text of `/proc/net/route`, else in
/// that of `/proc/net/ipv6_route`. Pure.
pub(super) fn uplink(route: &str, ipv6_route: &str) -> Option<String> {
    let v4 = route.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_default = *fields.get(1)? == "00000000" && *fields.get(7)? == "00000000";
        let metric: u32 = fields.get(6)?.parse().ok()?;
        is_default.then(|| (metric, fields[0].to_owned()))
    });
    let v6 = ipv6_route.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_default =
            fields.first()?.bytes().all(|digit| digit == b'0') && *fields.get(1)? == "00";
        let metric = u32::from_str_radix(fields.get(5)?, 16).ok()?;
        let name = *fields.get(9)?;
        (is_default && name != "lo").then(|| (metric, name.to_owned()))
    });
    v4.min().or_else(|| v6.min()).map(|(_, name)| name)
}

/// The link over which the machine already reaches a part of the subnet, other than `own`. Pure.
pub(super) fn overlapping(
    route: &str,
    network: Ipv4Addr,
    prefix: u8,
    own: &str,
) -> Option<(String, Ipv4Addr, u8)> {
    let mask = |prefix: u8| u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    route.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let of = |at: usize| {
            let number = u32::from_str_radix(fields.get(at)?, 16).ok()?;
            // The kernel prints the bytes as the machine holds them.
            Some(Ipv4Addr::from(number.to_ne_bytes()))
        };
        let (destination, theirs) = (of(1)?, u8::try_from(u32::from(of(7)?).count_ones()).ok()?);
        let name = *fields.first()?;
        let common = mask(prefix.min(theirs));
        let meets = u32::from(destination) & common == u32::from(network) & common;
        (theirs > 0 && name != own && meets).then(|| (name.to_owned(), destination, theirs))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eth0\t0000000A\t00000000\t0001\t0\t0\t100\t0000FFFF\t0\t0\t0\n\
        docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

    #[test]
    fn the_uplink_is_the_best_default_route() {
        assert_eq!(uplink(ROUTES, "").as_deref(), Some("eth0"));
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth1\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        assert_eq!(uplink("head\n", v6).as_deref(), Some("eth1"));
        assert_eq!(uplink("", ""), None);
        assert_eq!(uplink("head\nnonsense\n", "x y z"), None);
    }

    #[test]
    fn a_subnet_that_is_in_use_is_found() {
        let check = |network: &str, prefix, own: &str| {
            overlapping(ROUTES, network.parse().unwrap(), prefix, own).map(|(name, ..)| name)
        };
        assert_eq!(check("172.28.0.0", 16, "mezzo0"), None);
        assert_eq!(
            check("172.17.4.0", 24, "mezzo0").as_deref(),
            Some("docker0")
        );
        assert_eq!(check("172.17.4.0", 24, "docker0"), None);
        assert_eq!(
            check("172.16.0.0", 12, "mezzo0").as_deref(),
            Some("docker0")
        );
        assert_eq!(check("10.0.9.0", 24, "mezzo0").as_deref(), Some("eth0"));
        assert_eq!(check("10.1.0.0", 16, "mezzo0"), None);
    }
}
