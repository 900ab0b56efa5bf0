//! Forgetting what the kernel remembers of a port: a stream of UDP packets that began before a port was mapped, or
//! while it led to another container, would go the old way for as long as it does not pause. After the container's end
//! that is the way to its address, which somebody else may have by then.
//!
//! TCP needs none of it: a new connection begins with a packet of its own kind.
//!
//! The streams are looked for, and each is deleted by all that is known of it. (Put aside: one request that deletes by
//! a filter. Kernels before 6.12 take that filter for looking and refuse it for deleting; this way is the same for all.)

use std::io;

use super::PortMap;
use super::netlink::{ACK, DUMP, Message, Socket, attribute};
use super::nftables::PortProtocol;

/// `NFNL_SUBSYS_CTNETLINK`, and its `IPCTNL_MSG_CT_GET` and `_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// Of `struct nfgenmsg`, before the attributes.
const HEADER: usize = 4;
// `enum ctattr_type`, `ctattr_tuple`, `ctattr_l4proto`, `ctattr_filter` of linux/netfilter/nfnetlink_conntrack.h.
const TUPLE_ORIG: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const FILTER_ORIG_FLAGS: u16 = 1;
/// Which parts of the tuple count: the protocol, and the port that was asked for.
const BY_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;

/// Forgets streams to those of the ports that are UDP's. What cannot be forgotten is told in the log: nothing else
/// depends on it.
pub(super) fn forget_streams(ports: &[PortMap]) {
    for map in ports {
        if map.protocol == PortProtocol::Udp
            && let Err(error) = forget_udp(map.host_port)
        {
            tracing::warn!(
                port = map.host_port, %error,
                "earlier streams of UDP to this port may go on to where they went"
            );
        }
    }
}

/// Forgets streams of UDP to that port of the machine. As many are looked at as the kernel remembers at most
/// (`nf_conntrack_max`).
fn forget_udp(port: u16) -> io::Result<()> {
    let mut socket = Socket::netfilter()?;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let mut streams = Vec::new();
        let looked = socket.each(&question(family, port), |answer| {
            // Kernels before 5.8 know no filter and tell all.
            if is_udp_to(answer, port) {
                streams.extend(deletion(family, answer));
            }
        });
        match looked {
            // This kernel remembers nothing of that family.
            Err(refused) if refused.errno() == libc::EOPNOTSUPP => continue,
            done => done?,
        }
        for stream in streams {
            match socket.transact(&[stream]) {
                // It has ended.
                Err(refused) if refused.errno() == libc::ENOENT => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// Which streams there are to that port. Pure, as are those below.
fn question(family: u8, port: u16) -> Message {
    let mut message = Message::new(GET, DUMP, &[family, 0, 0, 0]);
    message
        .nest(TUPLE_ORIG, |tuple| {
            tuple.nest(TUPLE_PROTO, |protocol| {
                protocol
                    .attr(PROTO_NUM, &[libc::IPPROTO_UDP as u8])
                    .attr(PROTO_DST_PORT, &port.to_be_bytes());
            });
        })
        .nest(FILTER, |filter| {
            filter.u32(FILTER_ORIG_FLAGS, BY_PROTOCOL_AND_PORT);
        });
    message
}

fn is_udp_to(answer: &[u8], port: u16) -> bool {
    let protocol =
        attribute(answer, HEADER, TUPLE_ORIG).and_then(|tuple| attribute(tuple, 0, TUPLE_PROTO));
    protocol.is_some_and(|protocol| {
        attribute(protocol, 0, PROTO_NUM) == Some(&[libc::IPPROTO_UDP as u8][..])
            && attribute(protocol, 0, PROTO_DST_PORT) == Some(&port.to_be_bytes()[..])
    })
}

/// The end of a stream that was told, and of no other that has its addresses by then.
fn deletion(family: u8, answer: &[u8]) -> Option<Message> {
    let tuple = attribute(answer, HEADER, TUPLE_ORIG)?;
    let id = attribute(answer, HEADER, ID)?;
    let mut message = Message::new(DELETE, ACK, &[family, 0, 0, 0]);
    message.nest(TUPLE_ORIG, |same| {
        same.raw(tuple);
    });
    message.attr(ID, id);
    if let Some(zone) = attribute(answer, HEADER, ZONE) {
        message.attr(ZONE, zone);
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE_HEADER: usize = 16;

    #[test]
    fn a_stream_is_deleted_by_all_that_was_told_of_it_and_by_nothing_less() {
        // As the kernel tells it: 10.99.0.2:4444 to 10.99.0.1:31001 by UDP.
        let mut told = Message::new(0, 0, &[libc::AF_INET as u8, 0, 0, 0]);
        told.nest(TUPLE_ORIG, |tuple| {
            tuple
                .nest(1, |ip| {
                    ip.attr(1, &[10, 99, 0, 2]).attr(2, &[10, 99, 0, 1]);
                })
                .nest(TUPLE_PROTO, |protocol| {
                    protocol
                        .attr(PROTO_NUM, &[17])
                        .attr(2, &4444_u16.to_be_bytes())
                        .attr(PROTO_DST_PORT, &31_001_u16.to_be_bytes());
                });
        });
        let nameless = told.bytes()[MESSAGE_HEADER..].to_vec();
        told.attr(ID, &[1, 2, 3, 4]).attr(ZONE, &[0, 7]);
        let told = &told.bytes()[MESSAGE_HEADER..];
        assert!(is_udp_to(told, 31_001));
        assert!(!is_udp_to(told, 31_002));
        let deletion_of = |told: &[u8]| deletion(libc::AF_INET as u8, told);
        let message = deletion_of(told).unwrap();
        let body = &message.bytes()[MESSAGE_HEADER..];
        for kind in [TUPLE_ORIG, ID, ZONE] {
            assert_eq!(
                attribute(body, HEADER, kind),
                attribute(told, HEADER, kind),
                "{kind}"
            );
        }
        assert!(deletion_of(&nameless).is_none());
        for end in 0..told.len() {
            // Cut anywhere: no panic.
            let _ = (is_udp_to(&told[..end], 1), deletion_of(&told[..end]));
        }
    }
}
