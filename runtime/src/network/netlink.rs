//! Netlink, as far as containers' networks need it: messages built attribute by attribute, sent together in one
//! packet, and their answers. No process is forked and nothing is parsed but what is asked for.
//!
//! Each socket belongs to the network namespace of the thread that made it, for as long as it lives; that is how links
//! inside a container's namespace are set up without entering it again. Blocking, with a deadline.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Longest wait for an answer of the kernel.
const TIMEOUT_SECS: i64 = 10;
const HEADER: usize = 16;
/// How often all there is is asked for while it keeps changing.
const ATTEMPTS: usize = 10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// In an answer: what was asked for changed meanwhile, and some of it may be left out.
const DUMP_TORN: u16 = 0x10;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Wants an answer even when all is well.
pub(super) const ACK: u16 = 4;
pub(super) const REQUEST: u16 = 1;
pub(super) const DUMP: u16 = 0x300;
pub(super) const EXCL: u16 = 0x200;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

/// One message being built.
#[derive(Clone, Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    flags: u16,
}

impl Message {
    /// A message with the fixed part that its kind begins with.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let flags = flags | REQUEST;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        let mut message = Self { bytes, flags };
        message.raw(fixed);
        message
    }

    /// As built so far, header included; length and number are put in when it is sent.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same message, wanting an answer even when all is well.
    pub(super) fn acknowledged(mut self) -> Self {
        self.flags |= ACK;
        self.bytes[6..8].copy_from_slice(&self.flags.to_ne_bytes());
        self
    }

    /// Bytes as they are, filled up to a multiple of four.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// One attribute. Its length is 16 bits wide: callers give names, addresses and the like.
    pub(super) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }

    /// A string with its end.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// A number in the machine's order, as routing wants it.
    pub(super) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in the network's order, as the packet filter wants it.
    pub(super) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes
            .extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

/// What came back for a question: the fixed part and the attributes of one message.
pub(super) type Answer = Vec<u8>;

/// A netlink socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// A message of several was refused.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(super) struct Refused {
    /// Which, in the order of sending; `None` when no single one is to blame.
    pub(super) index: Option<usize>,
    #[source]
    pub(super) source: io::Error,
}

impl Refused {
    /// The kernel's number for it.
    pub(super) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

impl From<io::Error> for Refused {
    fn from(source: io::Error) -> Self {
        Self {
            index: None,
            source,
        }
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        refused.source
    }
}

impl Socket {
    /// For links, addresses and routes, of the calling thread's network namespace.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For the packet filter of the calling thread's network namespace.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        nix::sys::socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT_SECS, 0))?;
        Ok(Self { fd, sequence: 1 })
    }

    /// Sends the messages in one packet and waits until every one that wants an acknowledgement has it. The first
    /// refusal ends the wait; what the others became depends on the kind (links: all are tried; packet filter: none
    /// counts).
    pub(super) fn transact(&mut self, messages: &[Message]) -> Result<(), Refused> {
        self.exchange(messages, |_| {}).map(|_| ())
    }

    /// Asks one question and gives all answers. Where the kernel says that what it tells has changed while it told it, it is
    /// asked again; one that never has the time tells what it can.
    pub(super) fn ask(&mut self, question: &Message) -> Result<Vec<Answer>, Refused> {
        let mut answers = Vec::new();
        for _ in 0..ATTEMPTS {
            answers.clear();
            let told = self.exchange(std::slice::from_ref(question), |body| {
                answers.push(body.to_vec());
            })?;
            if told == Told::Whole {
                break;
            }
        }
        Ok(answers)
    }

    /// Asks one question and shows each answer as it comes.
    pub(super) fn each(
        &mut self,
        question: &Message,
        answer: impl FnMut(&[u8]),
    ) -> Result<(), Refused> {
        self.exchange(std::slice::from_ref(question), answer)
            .map(|_| ())
    }

    fn exchange(
        &mut self,
        messages: &[Message],
        mut answer: impl FnMut(&[u8]),
    ) -> Result<Told, Refused> {
        let mut told = Told::Whole;
        let first = self.sequence;
        let mut packet = Vec::with_capacity(messages.iter().map(|m| m.bytes.len()).sum());
        let mut open = 0_usize;
        for message in messages {
            let start = packet.len();
            packet.extend_from_slice(&message.bytes);
            let length = u32::try_from(message.bytes.len()).map_err(io::Error::other)?;
            packet[start..start + 4].copy_from_slice(&length.to_ne_bytes());
            packet[start + 8..start + 12].copy_from_slice(&self.sequence.to_ne_bytes());
            self.sequence = self.sequence.wrapping_add(1);
            // Half of DUMP's bits mean something else in requests for changes.
            let is_answered = message.flags & ACK != 0 || message.flags & DUMP == DUMP;
            open += usize::from(is_answered);
        }
        send(self.fd.as_raw_fd(), &packet, MsgFlags::empty()).map_err(io::Error::from)?;
        let mut buffer = vec![0_u8; 64 * 1024];
        while open > 0 {
            let length = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::EAGAIN) => {
                    let text = format!("no answer of the kernel within {TIMEOUT_SECS} s");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text).into());
                }
                Err(error) => return Err(io::Error::from(error).into()),
            };
            let mut rest = &buffer[..length];
            while let Some((kind, sequence, body, after)) = split_message(rest) {
                told = told.and(rest);
                rest = after;
                // What is left over of an exchange that ended with a refusal.
                let index = sequence.wrapping_sub(first) as usize;
                if index >= messages.len() {
                    continue;
                }
                match kind {
                    NLMSG_ERROR => {
                        let code = body
                            .first_chunk::<4>()
                            .map_or(-libc::EIO, |code| i32::from_ne_bytes(*code));
                        if code != 0 {
                            return Err(Refused {
                                index: Some(index),
                                source: io::Error::from_raw_os_error(-code),
                            });
                        }
                        open -= 1;
                    }
                    NLMSG_DONE => open -= 1,
                    _ => answer(body),
                }
            }
        }
        Ok(told)
    }
}

/// Whether answers are of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Whole,
    /// Something changed between them.
    Torn,
}

impl Told {
    /// With the message that `packet` begins with. Pure.
    fn and(self, packet: &[u8]) -> Self {
        let flags = packet
            .first_chunk::<8>()
            .map_or(0, |header| u16::from_ne_bytes([header[6], header[7]]));
        if flags & DUMP_TORN == 0 {
            self
        } else {
            Self::Torn
        }
    }
}

/// The first message of a packet: its kind, number and body, and what follows. Pure.
fn split_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let header = bytes.first_chunk::<HEADER>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, sequence, body, after))
}

/// The attributes after a fixed part of `skip` bytes. Pure; ends at the first one that is damaged.
pub(super) fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that kind. Pure.
pub(super) fn attribute(body: &[u8], skip: usize, wanted: u16) -> Option<&[u8]> {
    attributes(body, skip).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again_and_damage_ends_the_list() {
        let mut message = Message::new(7, ACK, &[1, 2, 3, 4]);
        message.text(3, "lo").nest(18, |inner| {
            inner.text(1, "veth");
        });
        let body = &message.bytes[HEADER..];
        assert_eq!(attribute(body, 4, 3), Some(&b"lo\0"[..]));
        let nested = attribute(body, 4, 18).unwrap();
        assert_eq!(attribute(nested, 0, 1), Some(&b"veth\0"[..]));
        assert_eq!(attribute(body, 4, 9), None);
        for end in 0..body.len() {
            // Cut anywhere: no panic, no value that reaches beyond.
            let _ = attributes(&body[..end], 4).count();
        }
        assert_eq!(attributes(&[255; 64], 0).count(), 0);
        assert_eq!(attributes(&[0; 64], 0).count(), 0);
    }

    #[test]
    fn answers_are_torn_when_one_of_them_is() {
        let whole = Message::new(16, DUMP, &[]);
        let torn = Message::new(16, DUMP_TORN, &[]);
        let told = |messages: &[&Message]| {
            let packets = messages.iter().map(|message| &message.bytes);
            packets.fold(Told::Whole, |told, packet| told.and(packet))
        };
        assert_eq!(told(&[]), Told::Whole);
        assert_eq!(told(&[&whole, &whole]), Told::Whole);
        assert_eq!(told(&[&torn, &whole]), Told::Torn);
        assert_eq!(Told::Whole.and(&[0; 7]), Told::Whole);
    }

    #[test]
    fn packets_are_split_and_damage_ends_them() {
        let mut packet = Vec::new();
        for kind in [NLMSG_DONE, 20] {
            let message = Message::new(kind, 0, &[9; 5]);
            let start = packet.len();
            packet.extend_from_slice(&message.bytes);
            packet[start..start + 4].copy_from_slice(&21_u32.to_ne_bytes());
        }
        let (kind, _, body, rest) = split_message(&packet).unwrap();
        assert_eq!((kind, body), (NLMSG_DONE, &[9; 5][..]));
        assert_eq!(split_message(rest).unwrap().0, 20);
        for end in 0..packet.len() {
            let _ = split_message(&packet[..end]);
        }
        assert!(split_message(&[0; 15]).is_none());
        assert!(split_message(&[0; 64]).is_none(), "a length of nothing");
    }
}
