//! A follower's part in a request: it hands it to the leader and the answer back, as Marathon's followers do.
//!
//! Edge, thin. Bodies pass through as they come. What the request says of its way, and when it goes no further (two
//! schedulers that take each other for the leader do not keep it going round), is in [`crate::forwarded`].

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::header::{
    CONNECTION, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::response::Response;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use crate::forwarded::note;
use crate::http::error;
use crate::link::chain;

/// Marathon's, for a leader that does not take the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longer than a leader lets a request wait.
const ANSWER: Duration = Duration::from_secs(40);
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
        let client = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let client = client.map(|ConnectInfo(client)| client.ip());
        if let Err(astray) = note(&mut parts.headers, &self.me, client) {
            let told =
                format!("{astray}: the schedulers do not agree that {leader} leads; try again");
            return error(StatusCode::BAD_GATEWAY, &told);
        }
        strip(&mut parts.headers);
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

fn target(uri: Uri, leader: &str) -> Option<Uri> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(leader.parse::<Authority>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::body::to_bytes;
    use axum::http::HeaderValue;
    use tokio::task::JoinSet;

    use super::*;
    use crate::forwarded::client;

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
        strip(&mut headers);
        assert_eq!(headers.len(), 1, "{headers:?}");
        assert_eq!(headers["content-type"], "application/json");
    }

    /// As a follower serves it, before a leader that only says what it was asked.
    #[tokio::test]
    async fn the_leader_learns_whom_a_request_is_from() {
        let listen = || tokio::net::TcpListener::bind("127.0.0.1:0");
        let (leading, following) = (
            listen().await.expect("a port"),
            listen().await.expect("a port"),
        );
        let leader = leading.local_addr().expect("bound").to_string();
        let follower = following.local_addr().expect("bound").to_string();
        let routes = Router::new().fallback(|request: Request| async move {
            let headers = request.headers();
            let peer = "192.0.2.1".parse().expect("an address");
            let name = |name: &str| headers[name].to_str().expect("text").to_owned();
            format!(
                "{} {} {} {}",
                client(headers, peer),
                name("x-forwarded-host"),
                name("x-forwarded-proto"),
                name("x-marathon-via"),
            )
        });
        let mut servers = JoinSet::new();
        servers.spawn(axum::serve(leading, routes).into_future());
        let proxy = Arc::new(Proxy::new(follower.clone()));
        let routes = Router::new().fallback(move |request: Request| {
            let (proxy, leader) = (Arc::clone(&proxy), leader.clone());
            async move { proxy.forward(request, &leader).await }
        });
        let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
        servers.spawn(axum::serve(following, routes).into_future());
        let asked = Request::get(format!("http://{follower}/v2/apps"));
        let asked = asked.body(Body::empty()).expect("a request");
        let answer = Proxy::new(String::new()).client.request(asked).await;
        let body = Body::new(answer.expect("an answer").into_body());
        let body = to_bytes(body, 1000).await.expect("short");
        let want = format!("127.0.0.1 {follower} http 1.1 {follower}");
        assert_eq!(body, want.as_bytes());
    }

    #[tokio::test]
    async fn a_request_that_was_handed_on_by_this_one_is_a_bad_gateway() {
        let request = Request::get("/v2/apps").header("x-marathon-via", "1.1 me:1");
        let request = request.body(Body::empty()).expect("a request");
        let proxy = Proxy::new("me:1".to_owned());
        let answer = proxy.forward(request, "127.0.0.1:1").await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let body = to_bytes(answer.into_body(), 1000).await.expect("short");
        assert!(
            String::from_utf8_lossy(&body).contains("in a circle"),
            "{body:?}"
        );
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
