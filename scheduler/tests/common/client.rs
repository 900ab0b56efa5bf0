//! One HTTP/1.1 request per connection: all that the tests need.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Option<String>,
) -> Answer {
    ask(address, method, path, body, "application/json").await
}

/// A GET of something else than JSON.
pub(crate) async fn accepting(address: SocketAddr, path: &str, accept: &str) -> Answer {
    ask(address, "GET", path, None, accept).await
}

async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Option<String>,
    accept: &str,
) -> Answer {
    let body = body.unwrap_or_default();
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: {accept}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream.write_all(body.as_bytes()).await.expect("writes");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("reads");
    let text = String::from_utf8(bytes).expect("text");
    let (head, text) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .expect("a status");
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Answer {
        status,
        headers,
        text: text.to_owned(),
    }
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// A reader of `/v2/events`.
#[derive(Debug)]
pub(crate) struct Events {
    lines: tokio::io::Lines<tokio::io::BufReader<TcpStream>>,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Events {
    /// Asks by HTTP/1.0, so that the answer comes without chunks.
    pub(crate) async fn open(address: SocketAddr, query: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let head = format!(
            "GET /v2/events{query} HTTP/1.0\r\nHost: {address}\r\nAccept: text/event-stream\r\n{last}\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("writes");
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stream));
        let status = lines.next_line().await.expect("reads").expect("a status");
        assert!(status.contains(" 200 "), "{status}");
        let mut headers = BTreeMap::new();
        while let Some(line) = lines.next_line().await.expect("reads")
            && let Some((name, value)) = line.split_once(": ")
        {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        Self { lines, headers }
    }

    /// The next event; `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        let (mut id, mut name, mut data) = (None, String::new(), String::new());
        loop {
            let line = tokio::time::timeout(super::PATIENCE, self.lines.next_line())
                .await
                .expect("an event in time")
                .ok()??;
            match line.split_once(": ") {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("event", value)) => value.clone_into(&mut name),
                Some(("data", value)) => data.push_str(value),
                Some(_) | None if line.is_empty() && !name.is_empty() => {
                    let data = serde_json::from_str(&data).expect("JSON");
                    return Some(Told { id, name, data });
                }
                Some(_) | None => {}
            }
        }
    }

    /// All events up to and with the first of which `holds` says so.
    pub(crate) async fn until(&mut self, holds: impl Fn(&Told) -> bool) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let told = self.next().await.expect("the stream goes on");
            let found = holds(&told);
            all.push(told);
            if found {
                return all;
            }
        }
    }
}
