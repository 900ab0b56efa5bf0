//! What the two ends of a guest's line say to each other: frames of a request's number, a kind and some bytes.
//!
//! The host asks, the guest (`mezzo-guest`) answers with the same number; many requests are under way at once. Pure
//! but for the two functions that read and write one frame.

use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The name of the port that the guest looks for.
pub const PORT: &str = "mezzo.guest";
/// More than any frame holds: what is longer is noise on the line.
const MAX_PAYLOAD: usize = 1 << 20;
/// How much of a stream goes into one frame.
pub const CHUNK: usize = 64 << 10;

/// What a frame means. The first group goes to the guest, the second to the host, the third both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Start a command: [`Order`] as JSON.
    Run,
    /// Send a signal (one byte) to the command's process group.
    Signal,
    /// Make a file: path and mode as JSON; [`Kind::Data`] and [`Kind::End`] follow.
    Put,
    /// Read a file: its path.
    Get,
    /// Speak to a server: its address; [`Kind::Data`] and [`Kind::End`] follow, and come back.
    Call,

    /// The guest is up: the release of its kernel.
    Hello,
    /// Bytes that the command wrote to stdout.
    Stdout,
    /// Bytes that the command wrote to stderr.
    Stderr,
    /// The command ended, and both its streams are at their ends: [`Exit`] as text.
    Exited,
    /// The request failed: one line.
    Failed,

    /// A piece of a file.
    Data,
    /// The file is complete; from the guest also: it is written.
    End,
}

const KINDS: [(Kind, u8); 12] = [
    (Kind::Run, 1),
    (Kind::Signal, 2),
    (Kind::Put, 3),
    (Kind::Get, 4),
    (Kind::Call, 5),
    (Kind::Hello, 16),
    (Kind::Stdout, 17),
    (Kind::Stderr, 18),
    (Kind::Exited, 19),
    (Kind::Failed, 20),
    (Kind::Data, 32),
    (Kind::End, 33),
];

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The request that it belongs to; 0 for [`Kind::Hello`].
    pub request: u32,
    /// What it means.
    pub kind: Kind,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// Writes a frame in one piece.
pub fn write(to: &mut impl Write, request: u32, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let code = KINDS.iter().find(|(known, _)| *known == kind);
    let (_, code) = code.ok_or_else(|| io::Error::other("a kind without a code"))?;
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(payload.len() + 9);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&request.to_be_bytes());
    bytes.push(*code);
    bytes.extend_from_slice(payload);
    to.write_all(&bytes)
}

/// Reads the next frame.
pub fn read(from: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let [a, b, c, d, e, f, g, h, code] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let kind = KINDS.iter().find(|(_, known)| *known == code);
    let Some((kind, _)) = kind.filter(|_| length <= MAX_PAYLOAD) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of kind {code} and {length} bytes"),
        ));
    };
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Frame {
        request: u32::from_be_bytes([e, f, g, h]),
        kind: *kind,
        payload,
    })
}

/// A command to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Variables on top of the guest's own.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub cwd: String,
}

impl Order {
    /// As the payload of [`Kind::Run`].
    pub fn encode(&self) -> Vec<u8> {
        let env: Vec<Value> = self.env.iter().map(|(k, v)| json!([k, v])).collect();
        json!({ "args": self.args, "env": env, "cwd": self.cwd })
            .to_string()
            .into_bytes()
    }

    /// From the payload of [`Kind::Run`].
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(payload).context("an order that is no JSON")?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("not a string");
        let list = |name: &str| {
            let list = value[name].as_array();
            list.with_context(|| format!("an order without {name}"))
        };
        let pair = |pair: &Value| Ok((text(&pair[0])?, text(&pair[1])?));
        let order = Self {
            args: list("args")?.iter().map(text).collect::<Result<_>>()?,
            env: list("env")?.iter().map(pair).collect::<Result<_>>()?,
            cwd: text(&value["cwd"])?,
        };
        if order.args.is_empty() {
            bail!("an order without a program");
        }
        Ok(order)
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned.
    Code(i32),
    /// It was ended.
    Signal(i32),
}

impl Exit {
    /// As the payload of [`Kind::Exited`].
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Code(code) => format!("code {code}"),
            Self::Signal(signal) => format!("signal {signal}"),
        }
        .into_bytes()
    }

    /// From the payload of [`Kind::Exited`].
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(payload);
        let (what, number) = text.split_once(' ').unwrap_or((&text, ""));
        let number = number.parse();
        match (what, number) {
            ("code", Ok(code)) => Ok(Self::Code(code)),
            ("signal", Ok(signal)) => Ok(Self::Signal(signal)),
            _ => bail!("a command ended with {text:?}"),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// The payload of [`Kind::Put`].
pub fn encode_put(path: &str, mode: u32) -> Vec<u8> {
    json!({ "path": path, "mode": mode })
        .to_string()
        .into_bytes()
}

/// Path and mode of [`Kind::Put`].
pub fn decode_put(payload: &[u8]) -> Result<(String, u32)> {
    let value: Value = serde_json::from_slice(payload).context("a file that is no JSON")?;
    let path = value["path"].as_str().context("a file without a path")?;
    let mode = value["mode"].as_u64().and_then(|m| u32::try_from(m).ok());
    Ok((path.to_owned(), mode.context("a file without a mode")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut line = Vec::new();
        for (number, (kind, _)) in (0..).zip(KINDS) {
            write(&mut line, number, kind, b"some bytes").expect("write");
        }
        let mut line = line.as_slice();
        for (number, (kind, _)) in (0..).zip(KINDS) {
            let frame = read(&mut line).expect("read");
            assert_eq!((frame.request, frame.kind), (number, kind));
            assert_eq!(frame.payload, b"some bytes");
        }
        assert!(line.is_empty());
    }

    #[test]
    fn noise_and_a_cut_line_are_errors() {
        let noise = read(&mut b"\xff\xff\xff\xff\0\0\0\0\x01".as_slice());
        let noise = noise.expect_err("too long").to_string();
        assert_eq!(noise, "a frame of kind 1 and 4294967295 bytes");
        assert!(read(&mut b"\0\0\0\0\0\0\0\0\x63".as_slice()).is_err());
        assert!(read(&mut b"\0\0\0\x05\0\0\0\0\x01abc".as_slice()).is_err());
    }

    #[test]
    fn orders_and_ends_survive_the_line() {
        let order = Order {
            args: vec!["/bin/echo".to_owned(), "a \"b\"".to_owned()],
            env: vec![("A".to_owned(), "b=c".to_owned())],
            cwd: "/tmp".to_owned(),
        };
        assert_eq!(Order::decode(&order.encode()).expect("order"), order);
        assert!(Order::decode(br#"{"args":[],"env":[],"cwd":"/"}"#).is_err());
        for exit in [Exit::Code(0), Exit::Code(137), Exit::Signal(9)] {
            assert_eq!(Exit::decode(&exit.encode()).expect("exit"), exit);
        }
        assert!(Exit::decode(b"code x").is_err());
        assert_eq!(
            decode_put(&encode_put("/a/b", 0o755)).expect("put"),
            ("/a/b".to_owned(), 0o755)
        );
    }
}
