//! The listening side: one socket, and who answers on it now.
//!
//! A scheduler that leads answers through its routes while its fence is open; one that follows hands everything to the
//! leader, but for `/ping`, `/healthz` and `/metrics`, which speak of this process. The socket outlives changes of that.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt as _;
use mezzo_etcd::Fence;
use mezzo_etcd::election::Leader;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service as _;

use crate::http::{error, json_answer};
use crate::proxy::Proxy;
use crate::server::Error;

/// A connection whose other end takes nothing for so long is closed.
const STUCK: Duration = Duration::from_secs(60);

/// Who answers.
#[derive(Debug, Clone)]
pub(crate) enum Duty {
    /// Another leads, or nobody that is known.
    Follow(Option<Leader>),
    /// This one, while the fence is open.
    Lead(Router, Fence),
}

/// A socket that is not served yet.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Bound {
    pub(crate) async fn listen(address: SocketAddr) -> Result<Self, Error> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })?;
        let address = listener.local_addr().map_err(Error::Serve)?;
        Ok(Self { listener, address })
    }

    /// Serves it, and writes the address into the state directory. `me` is what others know it by.
    pub(crate) fn open(self, state_dir: &Path, me: &str, duty: Duty) -> Result<Front, Error> {
        write_address(state_dir, self.address)?;
        let (duty, on_duty) = watch::channel(duty);
        let proxy = Arc::new(Proxy::new(me.to_owned()));
        let routes = Router::new().fallback(move |request: Request| {
            let duty = on_duty.borrow().clone();
            let proxy = Arc::clone(&proxy);
            async move { answer(duty, &proxy, request).await }
        });
        let stop = CancellationToken::new();
        let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
        let listener = self.listener.tap_io(|stream| {
            // A reader of events that takes nothing any more is cut off by the kernel.
            let stuck = u32::try_from(STUCK.as_millis()).unwrap_or(u32::MAX);
            if let Err(problem) = setsockopt(&*stream, TcpUserTimeout, &stuck) {
                tracing::debug!(%problem, "a connection without a timeout for what is not taken");
            }
        });
        let serving =
            axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
        Ok(Front {
            duty,
            stop,
            server: Some(tokio::spawn(serving.into_future())),
        })
    }
}

/// A socket that is served.
#[derive(Debug)]
pub(crate) struct Front {
    duty: watch::Sender<Duty>,
    stop: CancellationToken,
    /// Until its end was told.
    server: Option<JoinHandle<io::Result<()>>>,
}

impl Front {
    /// What is put there is from now on.
    pub(crate) fn duty(&self) -> watch::Sender<Duty> {
        self.duty.clone()
    }

    /// No more connections; requests under way end.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Until the server gives up, or was told to stop and has.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        let result = server.await;
        self.server = None;
        match result {
            Ok(served) => served.map_err(Error::Serve),
            Err(error) => Err(Error::Front(error)),
        }
    }

    /// Requests that are under way have so long to end.
    pub(crate) async fn close(mut self, grace: Duration) -> Result<(), Error> {
        self.stop();
        let ended = tokio::time::timeout(grace, self.ended()).await;
        ended.unwrap_or(Ok(()))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

async fn answer(duty: Duty, proxy: &Proxy, request: Request) -> Response {
    let leader = match duty {
        Duty::Lead(mut router, fence) if fence.is_open() => {
            return match router.call(request).await {
                Ok(answer) => answer,
                Err(never) => match never {},
            };
        }
        Duty::Lead(..) => None,
        Duty::Follow(leader) => leader,
    };
    match (own(request.uri().path(), leader.as_ref()), leader) {
        (Some(answer), _) => answer,
        (None, Some(leader)) => proxy.forward(request, &leader.address).await,
        (None, None) => error(
            StatusCode::SERVICE_UNAVAILABLE,
            "no scheduler leads now; try again",
        ),
    }
}

/// What a follower answers by itself.
fn own(path: &str, leader: Option<&Leader>) -> Option<Response> {
    let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Some(match path {
        "/ping" => ([(header::CONTENT_TYPE, "text/plain")], "pong").into_response(),
        "/metrics" | "/metrics/prometheus" => (
            text,
            "# HELP mezzo_scheduler_leader Whether this one leads.\n# TYPE mezzo_scheduler_leader gauge\n\
             mezzo_scheduler_leader 0\n",
        )
            .into_response(),
        "/healthz" => match leader {
            Some(leader) => json_answer(
                StatusCode::OK,
                &json!({"status": "follows", "leader": leader.address, "term": leader.term}),
            ),
            None => json_answer(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"status": "follows", "leader": null}),
            ),
        },
        _ => return None,
    })
}

/// `<state_dir>/address`, whole or not at all.
fn write_address(state_dir: &Path, address: SocketAddr) -> Result<(), Error> {
    let path = state_dir.join("address");
    let temporary = state_dir.join("address.new");
    std::fs::create_dir_all(state_dir)
        .and_then(|()| std::fs::write(&temporary, format!("{address}\n")))
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|source| Error::Address { path, source })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    async fn status(duty: Duty, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let proxy = Proxy::new("me:1".to_owned());
        answer(duty, &proxy, request).await.status()
    }

    #[tokio::test]
    async fn a_leader_whose_time_is_over_answers_nothing() {
        let routes = || Router::new().fallback(|| async { "done" });
        let lead = |fence| Duty::Lead(routes(), fence);
        let open = Fence::always_open();
        assert_eq!(status(lead(open.clone()), "/v2/apps").await, StatusCode::OK);
        open.close();
        let over = status(lead(open), "/v2/apps").await;
        assert_eq!(over, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_follower_speaks_for_itself_about_itself() {
        let leader = Leader {
            id: "x".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            term: 7,
        };
        let follow = || Duty::Follow(Some(leader.clone()));
        for path in ["/ping", "/healthz", "/metrics"] {
            assert_eq!(status(follow(), path).await, StatusCode::OK, "{path}");
        }
        let nobody = status(Duty::Follow(None), "/healthz").await;
        assert_eq!(nobody, StatusCode::SERVICE_UNAVAILABLE);
        // All else is the leader's, which is not there.
        assert_eq!(status(follow(), "/v2/apps").await, StatusCode::BAD_GATEWAY);
    }
}
