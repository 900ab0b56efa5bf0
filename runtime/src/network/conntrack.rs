//! Forgetting what the kernel remembers of a port: a stream of UDP packets that began before a port was mapped, or
//! while it led to another container, would go the old way for as long as it does not pause.
//!
//! TCP needs none of it: a new connection begins with a packet of its own kind.

use std::fs;
use std::io;

use super::netlink::{ACK, Message, Socket};

const DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
/// Which parts of the tuple count: the protocol, and the port that was asked for.
const BY_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;

/// Forgets streams of UDP to that port of the machine. Kernels that take a filter for looking but not for deleting
/// (6.1 among them) refuse, and the caller says so.
pub(super) fn forget_udp(port: u16) -> io::Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !knows_filters(&release) {
        return Ok(());
    }
    let mut socket = Socket::netfilter()?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        match socket.transact(&[message(family as u8, port)]) {
            // Nothing is remembered, or this kernel remembers nothing.
            Err(refused) if matches!(refused.errno(), libc::ENOENT | libc::EOPNOTSUPP) => {}
            done => done?,
        }
    }
    Ok(())
}

fn message(family: u8, port: u16) -> Message {
    // With version 1 the family counts.
    let mut message = Message::new(DELETE, ACK, &[family, 1, 0, 0]);
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

/// Since Linux 5.8. An older kernel would not see the filter and forget everything. Pure.
fn knows_filters(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_not_asked() {
        for (release, knows) in [
            ("6.18.44-x\n", true),
            ("5.8.0", true),
            ("5.7.19", false),
            ("4.19.0-amd64", false),
            ("", false),
        ] {
            assert_eq!(knows_filters(release), knows, "{release}");
        }
    }
}
