//! `GET /v2/events`: what happens, as server-sent events.
//!
//! Each event has an id; a reader that comes back with its last one (`Last-Event-ID`, or `lastEventId` in the query
//! where no header can be set) goes on after it. What is lost to it is told by an `event_stream_gap` first.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};

use super::answer::error;
use super::filter::Params;
use super::{About, Context};
use crate::driver::now_ms;
use crate::events::event::GAP;
use crate::events::hub::{Lost, Reader};
use crate::events::ring::{EventId, Gap};
use crate::events::{EVENT_TYPES, to_json};
use crate::forwarded;
use crate::time::Timestamp;

/// A comment is sent when nothing else was for so long, so that nobody between takes the line for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After a break a reader is to wait so long.
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn stream(
    State(context): State<Context>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(pairs): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    if !accepts_events(&headers) {
        let hint = "this is a stream of events: ask with `Accept: text/event-stream`";
        return error(StatusCode::METHOD_NOT_ALLOWED, hint);
    }
    let params = Params(pairs);
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .or_else(|| params.get("lastEventId"))
        .filter(|id| !id.is_empty());
    let last = match last.map(str::parse::<EventId>).transpose() {
        Ok(last) => last,
        Err(problem) => return error(StatusCode::BAD_REQUEST, &problem.to_string()),
    };
    let wanted: BTreeSet<String> = params.all("event_type").map(str::to_owned).collect();
    let unknown: Vec<&String> = wanted
        .iter()
        .filter(|name| !EVENT_TYPES.contains(&name.as_str()))
        .collect();
    let (reader, lost) = match context
        .hub
        .attach(forwarded::client(&headers, peer.ip()), last)
    {
        Ok(attached) => attached,
        Err(full) => return error(StatusCode::SERVICE_UNAVAILABLE, &full.to_string()),
    };
    let telling = Telling {
        ready: lost.iter().map(gap).collect(),
        reader,
        wanted: wanted.clone(),
        about: Arc::clone(&context.about),
    };
    let messages = stream::unfold(telling, |mut telling| async move {
        let message = telling.next().await?;
        Some((Ok::<_, Infallible>(message), telling))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(messages).keep_alive(keep_alive).into_response();
    // For proxies that would gather an answer before they pass it on.
    response.headers_mut().insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    for name in unknown.iter().take(5) {
        let name: String = name
            .chars()
            .filter(char::is_ascii_graphic)
            .take(60)
            .collect();
        let text = format!(
            "299 mezzo \"no event has the type {}\"",
            name.replace(['"', '\\'], "?")
        );
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// Also with no word on it, or `*/*`: curl says that.
fn accepts_events(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(header::ACCEPT) else {
        return true;
    };
    accept.to_str().is_ok_and(|accept| {
        accept.split(',').any(|one| {
            let kind = one.split(';').next().unwrap_or_default().trim();
            matches!(kind, "text/event-stream" | "text/*" | "*/*")
        })
    })
}

/// One reader's stream, event by event.
struct Telling {
    reader: Reader,
    ready: VecDeque<Message>,
    wanted: BTreeSet<String>,
    about: Arc<About>,
}

impl Telling {
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            for (id, event) in self.reader.read().await? {
                let name = event.kind.name();
                if self.wanted.is_empty() || self.wanted.contains(name) {
                    let data = to_json(&event, &self.about.master);
                    self.ready.push_back(message(Some(id), name, &data));
                }
            }
        }
    }
}

fn message(id: Option<EventId>, name: &str, data: &Value) -> Message {
    let message = Message::default().event(name).data(data.to_string());
    match id {
        Some(id) => message.id(id.to_string()),
        None => message.retry(RETRY),
    }
}

/// Told whatever types are asked for. Without an id: a reader that breaks off right here is told again.
fn gap(lost: &Lost) -> Message {
    let reason = match lost.gap {
        Gap::TooOld => "the events after it are not kept any more",
        Gap::OtherRun => "it is of another run of the scheduler, or of another scheduler",
    };
    let data = json!({
        "eventType": GAP,
        "timestamp": Timestamp::from_millis(now_ms()).to_string(),
        "lastEventId": lost.last.to_string(),
        "nextEventId": lost.oldest.to_string(),
        "reason": reason,
        "message": format!("events after {} are missing: {reason}; read the state anew", lost.last),
    });
    message(None, GAP, &data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_something_else_gets_no_stream() {
        for (accept, want) in [
            (None, true),
            (Some("text/event-stream"), true),
            (Some("text/event-stream;q=0.9, application/json"), true),
            (Some("*/*"), true),
            (Some("application/json"), false),
            (Some("text/plain"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(accepts_events(&headers), want, "{accept:?}");
        }
    }
}
