//! The scheduler's stream of events, with a way back in when the line breaks.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde_json::Value;

use super::{CALL_DEADLINE, CONNECT_DEADLINE, root_cause};
use crate::failure::{Failure, chain};

/// The scheduler says something at least every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// Between two attempts to come back.
const PAUSE: Duration = Duration::from_secs(1);
/// More than any event has.
const LARGEST_EVENT: usize = 64 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

/// A stream that is open, or will be again.
#[derive(Debug)]
pub(crate) struct Events {
    url: String,
    client: reqwest::Client,
    answer: Response,
    parser: Parser,
    ready: VecDeque<Event>,
    last: Option<String>,
}

impl Events {
    /// Opens the stream at the scheduler's `url`, for these types or all of them, after an event or from now on.
    pub(crate) async fn open(
        url: &str,
        types: &[String],
        after: Option<&str>,
    ) -> Result<Self, Failure> {
        // reqwest is built without a crypto provider of its own; a second installation is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_DEADLINE)
            .read_timeout(SILENCE);
        if url.starts_with("http://") {
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| {
            Failure::failed(format!("cannot make an HTTP client: {}", chain(&error)))
        })?;
        let mut target = format!("{url}/v2/events?plan-format=light");
        for kind in types {
            if !kind
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            {
                return Err(Failure::usage(format!(
                    "--type: `{kind}` is not the type of an event; known are {}",
                    mezzo_scheduler::events::EVENT_TYPES.join(", ")
                )));
            }
            target.push_str(&format!("&event_type={kind}"));
        }
        let last = after.map(str::to_owned);
        let answer = connect(&client, &target, last.as_deref()).await?;
        Ok(Self {
            url: target,
            client,
            answer,
            parser: Parser::default(),
            ready: VecDeque::new(),
            last,
        })
    }

    /// The next event. Comes back by itself where the scheduler can be reached again; the first failure to do so ends it.
    pub(crate) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if event.id.is_some() {
                    self.last.clone_from(&event.id);
                }
                return Ok(event);
            }
            match self.answer.chunk().await {
                Ok(Some(bytes)) => self.ready.extend(self.parser.take(&bytes)?),
                Ok(None) | Err(_) => {
                    // Half an event is sent again as a whole.
                    self.parser = Parser::default();
                    tokio::time::sleep(PAUSE).await;
                    self.answer = connect(&self.client, &self.url, self.last.as_deref()).await?;
                }
            }
        }
    }
}

async fn connect(
    client: &reqwest::Client,
    url: &str,
    last: Option<&str>,
) -> Result<Response, Failure> {
    let mut request = client.get(url).header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let sent = tokio::time::timeout(CALL_DEADLINE, request.send()).await;
    let unreachable = |why: String| {
        let base = url.split("/v2/").next().unwrap_or(url);
        Failure::Unreachable(format!(
            "cannot read events of the scheduler at {base}: {why}; start one with `mezzo dev` or `mezzo scheduler`, or name it with --scheduler or MEZZO_SCHEDULER"
        ))
    };
    let answer = match sent {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(root_cause(&error))),
        Err(_) => return Err(unreachable("no answer in time".to_owned())),
    };
    match answer.status() {
        StatusCode::OK => Ok(answer),
        StatusCode::BAD_REQUEST => Err(Failure::usage(format!(
            "--after: `{}` is not the id of an event",
            last.unwrap_or_default()
        ))),
        other => Err(Failure::failed(format!(
            "the scheduler tells no events: HTTP {}",
            other.as_u16()
        ))),
    }
}

/// Server-sent events from bytes as they come.
#[derive(Debug, Default)]
struct Parser {
    rest: Vec<u8>,
    id: Option<String>,
    data: String,
}

impl Parser {
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Failure> {
        self.rest.extend_from_slice(bytes);
        if self.rest.len() + self.data.len() > LARGEST_EVENT {
            return Err(Failure::failed(
                "the scheduler sends an event without an end".to_owned(),
            ));
        }
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            events.extend(self.line(line.trim_end_matches(['\r', '\n']))?);
        }
        Ok(events)
    }

    fn line(&mut self, line: &str) -> Result<Option<Event>, Failure> {
        if line.is_empty() {
            let id = self.id.take();
            let data = std::mem::take(&mut self.data);
            if data.is_empty() {
                return Ok(None);
            }
            let data = serde_json::from_str(&data).map_err(|error| {
                Failure::failed(format!(
                    "the scheduler sent an event that is not JSON: {error}"
                ))
            })?;
            return Ok(Some(Event { id, data }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments, which keep the line open, have no name; the type is in the data as well.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_put_together_however_they_are_cut() {
        let text = ":\n\nevent: a\nid: 7-1\ndata: {\"eventType\":\"a\"}\n\nevent: b\r\ndata: {\"eventType\":\ndata: \"b\"}\r\n\r\n";
        let want = [
            Event {
                id: Some("7-1".to_owned()),
                data: json!({"eventType": "a"}),
            },
            Event {
                id: None,
                data: json!({"eventType": "b"}),
            },
        ];
        for cut in 0..text.len() {
            let mut parser = Parser::default();
            let mut events = parser.take(&text.as_bytes()[..cut]).unwrap();
            events.extend(parser.take(&text.as_bytes()[cut..]).unwrap());
            assert_eq!(events, want, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_json_is_told() {
        assert!(Parser::default().take(b"data: x\n\n").is_err());
    }
}
