//! The packet filter of one bridge: one table of the family `inet`, named after the bridge and owned whole, with two
//! maps (IPv4, IPv6) from a port of the machine to a port of a container. A launch adds elements to a map and
//! touches no rule; its cost does not grow with the number of containers.
//!
//! ```text
//! raw prerouting     from the bridge, from or to 127.0.0.0/8: dropped (the bridge routes loopback, see below)
//! dstnat prerouting  to an address of the machine: map @ports4 / @ports6
//! dstnat output      the same for the machine's own processes, 127.0.0.1 included (route_localnet on the bridge)
//! srcnat postrouting out of the bridge's subnet to elsewhere: masquerade
//!                    into the bridge after a translation, from the subnet or from loopback: masquerade (hairpin)
//! filter forward     into the bridge from elsewhere: answers and mapped ports only
//! ```
//!
//! Messages are made here (pure) and sent as one transaction: the kernel takes all of it or nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::netlink::{APPEND, CREATE, EXCL, Message, Refused, Socket};

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl PortProtocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP as u8,
            Self::Udp => libc::IPPROTO_UDP as u8,
        }
    }
}

/// A port of the machine that leads to a port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMap {
    /// Which protocol.
    pub protocol: PortProtocol,
    /// Of the machine; 1 to 65535.
    pub host_port: u16,
    /// Of the container; 1 to 65535.
    pub container_port: u16,
}

/// One line of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) map: PortMap,
    pub(super) to: IpAddr,
    /// Shown beside it by `nft list`.
    pub(super) comment: String,
}

/// What the rules must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules<'a> {
    pub(super) bridge: &'a str,
    pub(super) ipv4: (Ipv4Addr, u8),
    pub(super) ipv6: Option<(Ipv6Addr, u8)>,
}

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;

const INET: u8 = 1;
const NAMES: [&str; 2] = ["ports4", "ports6"];
const LIST_ELEM: u16 = 1;
/// Registers: 1 to 4 hold 16 bytes each, 8 and up 4 bytes each of the same memory.
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const REG32_01: u32 = 9;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// The states of a connection, and what has happened to it.
const STATE_ESTABLISHED_RELATED: u32 = 2 | 4;
const STATUS_DNAT: u32 = 1 << 5;
/// An address of the machine itself.
const LOCAL: u32 = 2;
/// Elements in one transaction.
const CHUNK: usize = 500;

/// The way to the packet filter: one socket, kept, because closing one waits until the kernel has cleaned up after
/// earlier transactions (10 ms and more).
#[derive(Debug, Default)]
pub(super) struct Filter {
    socket: Mutex<Option<Socket>>,
}

impl Filter {
    /// Everything anew, in one transaction; connections that are under way go on.
    pub(super) fn rebuild(&self, rules: &Rules<'_>, forwards: &[Forward]) -> Result<(), Refused> {
        let table = rules.bridge;
        let mut messages = vec![table_message(NEWTABLE, CREATE, table), delete_table(table)];
        messages.extend(skeleton(rules));
        let (first, rest) = forwards.split_at(forwards.len().min(CHUNK));
        messages.extend(elements(NEWSETELEM, table, first));
        self.commit(messages)?;
        for chunk in rest.chunks(CHUNK) {
            self.commit(elements(NEWSETELEM, table, chunk))?;
        }
        Ok(())
    }

    /// Adds lines; nothing is added when one of its ports is taken already.
    pub(super) fn add(&self, table: &str, forwards: &[Forward]) -> Result<(), Refused> {
        self.commit(elements(NEWSETELEM, table, forwards))
    }

    /// Removes lines; fine when some are not there. Only the port is looked at: callers know whose it is.
    pub(super) fn remove(&self, table: &str, forwards: &[Forward]) -> Result<(), Refused> {
        match self.commit(elements(DELSETELEM, table, forwards)) {
            Err(refused) if refused.errno() == libc::ENOENT && forwards.len() > 1 => {
                for forward in forwards {
                    self.remove(table, std::slice::from_ref(forward))?;
                }
                Ok(())
            }
            Err(refused) if refused.errno() == libc::ENOENT => Ok(()),
            done => done,
        }
    }

    /// Removes the whole table; fine when there is none.
    pub(super) fn remove_table(&self, table: &str) -> Result<(), Refused> {
        match self.commit(vec![delete_table(table)]) {
            Err(refused) if refused.errno() == libc::ENOENT => Ok(()),
            done => done,
        }
    }

    /// Sends one transaction.
    fn commit(&self, mut messages: Vec<Message>) -> Result<(), Refused> {
        // Refusals are always told; of what went well the last word is enough.
        let Some(last) = messages.pop() else {
            return Ok(());
        };
        messages.push(last.acknowledged());
        // The subsystem, in the order of the network.
        let bracket = |kind| Message::new(kind, 0, &[0, 0, 0, 10]);
        messages.insert(0, bracket(BATCH_BEGIN));
        messages.push(bracket(BATCH_END));
        let mut kept = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut socket = match kept.take() {
            Some(socket) => socket,
            None => Socket::netfilter().map_err(|error| match error.raw_os_error() {
                Some(libc::EPROTONOSUPPORT) => io::Error::new(
                    io::ErrorKind::Unsupported,
                    "this kernel has no nf_tables; load the module nf_tables",
                ),
                _ => error,
            })?,
        };
        let done = socket.transact(&messages);
        // After a silence nobody knows what is still to come.
        if !matches!(&done, Err(refused) if refused.index.is_none()) {
            *kept = Some(socket);
        }
        done
    }
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags, &[INET, 0, 0, 0])
}

fn table_message(kind: u16, flags: u16, table: &str) -> Message {
    let mut message = message(kind, flags);
    message.text(1, table);
    message
}

fn delete_table(table: &str) -> Message {
    table_message(DELTABLE, 0, table)
}

/// Table, maps, chains and rules.
fn skeleton(rules: &Rules<'_>) -> Vec<Message> {
    let table = rules.bridge;
    let mut messages = vec![
        table_message(NEWTABLE, CREATE, table),
        map(table, 0),
        map(table, 1),
    ];
    // Hook numbers and priorities as the kernel has them: prerouting 0, forward 2, output 3, postrouting 4.
    for (name, kind, hook, priority) in [
        ("raw", "filter", 0, -300),
        ("dstnat", "nat", 0, -100),
        ("dstnat_output", "nat", 3, -100),
        ("srcnat", "nat", 4, 100),
        ("forward", "filter", 2, 0),
    ] {
        messages.push(chain(table, name, kind, hook, priority));
    }
    let mut rule = |chain: &str, fill: &dyn Fn(&mut Expressions<'_>)| {
        messages.push(self::rule(table, chain, fill));
    };
    let loopback = (Ipv4Addr::new(127, 0, 0, 0), 8);
    let (bridge, ipv4) = (rules.bridge, rules.ipv4);
    for side in [Side::Source, Side::Destination] {
        rule("raw", &|e| {
            e.input_is(bridge, true)
                .ipv4_in(side, loopback)
                .verdict(DROP)
        });
    }
    for chain in ["dstnat", "dstnat_output"] {
        rule(chain, &|e| e.for_this_machine().translate(0));
        if rules.ipv6.is_some() {
            rule(chain, &|e| e.for_this_machine().translate(1));
        }
    }
    rule("srcnat", &|e| {
        e.ipv4_in(Side::Source, ipv4)
            .output_is(bridge, false)
            .masquerade()
    });
    rule("srcnat", &|e| {
        e.output_is(bridge, true)
            .ipv4_in(Side::Source, ipv4)
            .ct_has(Ct::Status, STATUS_DNAT)
            .masquerade()
    });
    rule("srcnat", &|e| {
        e.output_is(bridge, true)
            .ipv4_in(Side::Source, loopback)
            .masquerade()
    });
    if let Some(ipv6) = rules.ipv6 {
        rule("srcnat", &|e| {
            e.ipv6_in(Side::Source, ipv6)
                .output_is(bridge, false)
                .masquerade()
        });
        rule("srcnat", &|e| {
            e.output_is(bridge, true)
                .ipv6_in(Side::Source, ipv6)
                .ct_has(Ct::Status, STATUS_DNAT)
                .masquerade()
        });
    }
    rule("forward", &|e| e.input_is(bridge, true).verdict(ACCEPT));
    rule("forward", &|e| {
        e.output_is(bridge, true)
            .ct_has(Ct::State, STATE_ESTABLISHED_RELATED)
            .verdict(ACCEPT)
    });
    rule("forward", &|e| {
        e.output_is(bridge, true)
            .ct_has(Ct::Status, STATUS_DNAT)
            .verdict(ACCEPT)
    });
    rule("forward", &|e| e.output_is(bridge, true).verdict(DROP));
    messages
}

/// A map from (protocol, port) to (address, port). The type numbers are `nft`'s own, so that it shows them well.
fn map(table: &str, version: usize) -> Message {
    const FLAG_MAP: u32 = 8;
    const PROTOCOL_AND_PORT: u32 = 12 << 6 | 13;
    let (data_type, data_length) = [(7 << 6 | 13, 8), (8 << 6 | 13, 20)][version];
    let mut message = message(NEWSET, CREATE | EXCL);
    message
        .text(1, table)
        .text(2, NAMES[version])
        .be32(3, FLAG_MAP)
        .be32(4, PROTOCOL_AND_PORT)
        .be32(5, 8)
        .be32(6, data_type)
        .be32(7, data_length)
        .be32(10, version as u32 + 1);
    message
}

fn chain(table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
    let mut message = message(NEWCHAIN, CREATE | EXCL);
    message
        .text(1, table)
        .text(3, name)
        .nest(4, |to| {
            to.be32(1, hook).be32(2, priority as u32);
        })
        .be32(5, ACCEPT)
        .text(7, kind);
    message
}

fn rule(table: &str, chain: &str, fill: &dyn Fn(&mut Expressions<'_>)) -> Message {
    let mut message = message(NEWRULE, CREATE | APPEND);
    message.text(1, table).text(2, chain).nest(4, |list| {
        fill(&mut Expressions(list));
    });
    message
}

/// Lines of the maps: one message per map that has any.
fn elements(kind: u16, table: &str, forwards: &[Forward]) -> Vec<Message> {
    let mut messages = Vec::new();
    for (version, name) in NAMES.into_iter().enumerate() {
        let of_version: Vec<&Forward> = forwards
            .iter()
            .filter(|forward| forward.to.is_ipv6() == (version == 1))
            .collect();
        // An attribute's length is 16 bits wide.
        for forwards in of_version.chunks(200) {
            let flags = if kind == NEWSETELEM { CREATE | EXCL } else { 0 };
            let mut message = message(kind, flags);
            message.text(1, table).text(2, name).nest(3, |list| {
                for forward in forwards {
                    list.nest(LIST_ELEM, |element| fill_element(element, forward));
                }
            });
            messages.push(message);
        }
    }
    messages
}

fn fill_element(element: &mut Message, forward: &Forward) {
    let map = forward.map;
    let [high, low] = map.host_port.to_be_bytes();
    let key = [map.protocol.number(), 0, 0, 0, high, low, 0, 0];
    let mut data = match forward.to {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    data.extend(map.container_port.to_be_bytes());
    data.extend([0, 0]);
    element.nest(1, |value| {
        value.attr(1, &key);
    });
    element.nest(2, |value| {
        value.attr(1, &data);
    });
    // As `nft` keeps comments: type 0, length, text with its end.
    let text: Vec<u8> = forward.comment.bytes().take(120).chain([0]).collect();
    let mut note = vec![0, u8::try_from(text.len()).unwrap_or(u8::MAX)];
    note.extend(text);
    element.attr(6, &note);
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

#[derive(Clone, Copy)]
enum Ct {
    State,
    Status,
}

/// The expressions of one rule, in order; each narrows what the rule is for, the last one says what happens.
struct Expressions<'a>(&'a mut Message);

impl Expressions<'_> {
    fn one(&mut self, name: &str, fill: impl FnOnce(&mut Message)) -> &mut Self {
        self.0.nest(LIST_ELEM, |element| {
            element.text(1, name).nest(2, fill);
        });
        self
    }

    fn load_meta(&mut self, key: u32) -> &mut Self {
        self.one("meta", |e| {
            e.be32(1, REG_1).be32(2, key);
        })
    }

    fn compare(&mut self, equal: bool, value: &[u8]) -> &mut Self {
        self.one("cmp", |e| {
            e.be32(1, REG_1).be32(2, u32::from(!equal)).nest(3, |data| {
                data.attr(1, value);
            });
        })
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        self.one("bitwise", |e| {
            e.be32(1, REG_1)
                .be32(2, REG_1)
                .be32(3, u32::try_from(mask.len()).unwrap_or(0))
                .nest(4, |data| {
                    data.attr(1, mask);
                })
                .nest(5, |data| {
                    data.attr(1, &vec![0; mask.len()]);
                });
        })
    }

    fn link_is(&mut self, key: u32, name: &str, equal: bool) -> &mut Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        self.load_meta(key).compare(equal, &bytes)
    }

    fn input_is(&mut self, name: &str, equal: bool) -> &mut Self {
        self.link_is(6, name, equal)
    }

    fn output_is(&mut self, name: &str, equal: bool) -> &mut Self {
        self.link_is(7, name, equal)
    }

    fn family_is(&mut self, family: i32) -> &mut Self {
        self.load_meta(15).compare(true, &[family as u8])
    }

    fn network_header(&mut self, offset: u32, length: u32) -> &mut Self {
        self.one("payload", |e| {
            e.be32(1, REG_1).be32(2, 1).be32(3, offset).be32(4, length);
        })
    }

    fn ipv4_in(&mut self, side: Side, (network, prefix): (Ipv4Addr, u8)) -> &mut Self {
        let offset = match side {
            Side::Source => 12,
            Side::Destination => 16,
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        self.family_is(libc::NFPROTO_IPV4)
            .network_header(offset, 4)
            .mask(&mask.to_be_bytes())
            .compare(true, &network.octets())
    }

    fn ipv6_in(&mut self, side: Side, (network, prefix): (Ipv6Addr, u8)) -> &mut Self {
        let offset = match side {
            Side::Source => 8,
            Side::Destination => 24,
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        self.family_is(libc::NFPROTO_IPV6)
            .network_header(offset, 16)
            .mask(&mask.to_be_bytes())
            .compare(true, &network.octets())
    }

    fn for_this_machine(&mut self) -> &mut Self {
        const BY_DESTINATION: u32 = 2;
        const ADDRESS_TYPE: u32 = 3;
        self.one("fib", |e| {
            e.be32(1, REG_1)
                .be32(2, ADDRESS_TYPE)
                .be32(3, BY_DESTINATION);
        })
        .compare(true, &LOCAL.to_ne_bytes())
    }

    fn ct_has(&mut self, what: Ct, bits: u32) -> &mut Self {
        let key = match what {
            Ct::State => 0,
            Ct::Status => 2,
        };
        self.one("ct", |e| {
            e.be32(1, REG_1).be32(2, key);
        })
        .mask(&bits.to_ne_bytes())
        .compare(false, &[0; 4])
    }

    /// To where the map of that version of IP says; on with the next rule if it says nothing.
    fn translate(&mut self, version: usize) {
        const DNAT: u32 = 1;
        let (family, port_register) =
            [(libc::NFPROTO_IPV4, REG32_01), (libc::NFPROTO_IPV6, REG_2)][version];
        self.family_is(family)
            .load_meta(16)
            .one("payload", |e| {
                e.be32(1, REG32_01).be32(2, 2).be32(3, 2).be32(4, 2);
            })
            .one("lookup", |e| {
                e.text(1, NAMES[version])
                    .be32(2, REG_1)
                    .be32(3, REG_1)
                    .be32(4, version as u32 + 1);
            })
            .one("nat", |e| {
                e.be32(1, DNAT)
                    .be32(2, family as u32)
                    .be32(3, REG_1)
                    .be32(5, port_register);
            });
    }

    fn masquerade(&mut self) {
        self.one("masq", |_| {});
    }

    fn verdict(&mut self, code: u32) {
        self.one("immediate", |e| {
            e.be32(1, REG_VERDICT).nest(2, |data| {
                data.nest(2, |verdict| {
                    verdict.be32(1, code);
                });
            });
        });
    }
}
