//! A follower's part in a request: it hands it to the leader and the answer back, as Marathon's followers do.
//!
//! Edge, thin. Bodies pass through as they come. A request that comes back to one that has handed it on before is refused:
//! two schedulers that take each other for the leader do not keep it going round.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CONNECTION, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use crate::http::error;
use crate::link::chain;

/// Marathon's, for a leader that does not take the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longer than a leader lets a request wait.
const ANSWER: Duration = Duration::from_secs(40);
/// Who handed the request on.
const VIA: HeaderName = HeaderName::from_static("x-marathon-via");
/// Of one connection, not of the request.
const HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HOST,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Connections to the leader, kept for the next request.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// `host:port`, as others know this one.
    me: String,
    client: Client<HttpConnector, Body>,
}

impl Proxy {
    pub(crate) fn new(me: String) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        Self {
            me,
            client: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// To the scheduler at `leader` (`host:port`).
    pub(crate) async fn forward(&self, request: Request, leader: &str) -> Response {
        let (mut parts, body) = request.into_parts();
        if !hand_on(&mut parts.headers, &self.me) {
            let told = format!("the request went in a circle: {leader} does not lead either");
            return error(StatusCode::BAD_GATEWAY, &told);
        }
        let Some(uri) = target(parts.uri, leader) else {
            let told = format!("the leader gives {leader:?} as its address, which is none");
            return error(StatusCode::BAD_GATEWAY, &told);
        };
        parts.uri = uri;
        let asked = self.client.request(Request::from_parts(parts, body));
        match timeout(ANSWER, asked).await {
            Err(_) => error(
                StatusCode::GATEWAY_TIMEOUT,
                &format!("the leader {leader} does not answer; it may have done it"),
            ),
            Ok(Err(problem)) => {
                let told = format!(
                    "the leader {leader} cannot be reached ({}); try again",
                    chain(&problem)
                );
                error(StatusCode::BAD_GATEWAY, &told)
            }
            Ok(Ok(answer)) => {
                let mut answer = answer.map(Body::new);
                strip(answer.headers_mut());
                answer
            }
        }
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in &HOP {
        headers.remove(name);
    }
}

/// Prepares a request's headers. `false`: this one has handed it on before.
fn hand_on(headers: &mut HeaderMap, me: &str) -> bool {
    let mine = format!("1.1 {me}");
    if headers
        .get_all(VIA)
        .iter()
        .any(|via| via.as_bytes() == mine.as_bytes())
    {
        return false;
    }
    strip(headers);
    if let Ok(value) = HeaderValue::try_from(mine) {
        headers.append(VIA, value);
    }
    true
}

fn target(uri: Uri, leader: &str) -> Option<Uri> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(leader.parse::<Authority>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_path_and_headers_and_loses_those_of_the_connection() {
        let uri = "/v2/apps//web?force=true".parse().expect("a URI");
        let to = target(uri, "10.0.0.1:8080").expect("a URI");
        assert_eq!(
            to.to_string(),
            "http://10.0.0.1:8080/v2/apps//web?force=true"
        );
        assert_eq!(target("/".parse().expect("a URI"), "no address"), None);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("follower:8080"));
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        assert!(hand_on(&mut headers, "follower:8080"));
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!(headers[VIA], "1.1 follower:8080");
    }

    #[test]
    fn a_request_that_comes_back_goes_no_further() {
        let mut headers = HeaderMap::new();
        assert!(hand_on(&mut headers, "a:1"));
        assert!(hand_on(&mut headers, "b:1"));
        assert!(!hand_on(&mut headers, "a:1"));
    }

    #[tokio::test]
    async fn a_leader_that_is_not_there_is_a_bad_gateway() {
        let request = Request::get("/v2/apps")
            .body(Body::empty())
            .expect("a request");
        // Port 1 of loopback: nobody listens.
        let answer = Proxy::new("me:1".to_owned())
            .forward(request, "127.0.0.1:1")
            .await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    }
}
