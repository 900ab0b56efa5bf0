//! The listening side: one socket for gRPC and HTTP, and who answers on it now.
//!
//! A master that leads answers through its routes, while its fence is open; one that stands by tells who leads
//! (`standby`). The socket and its connections outlive changes of that. Streams of a leader end by themselves.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{Router, extract::Request, response::Response};
use mezzo_etcd::{Fence, election::Leader};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    codegen::Service as _,
    service::Routes,
    transport::{self, Server},
};

use crate::{Error, config::Config, listener::Listener, metrics::Metrics, standby};

/// A connection that does not answer HTTP/2 pings is dropped.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Calls and streams on one connection.
const MOST_STREAMS: u32 = 1024;

/// Who answers.
#[derive(Debug, Clone)]
pub(crate) enum Duty {
    /// Another leads, or nobody that is known.
    StandBy(Option<Leader>),
    /// This one, while the fence is open.
    Lead(Router, Fence),
}

/// A socket that is served.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    duty: watch::Sender<Duty>,
    /// Until its end was told.
    server: Option<JoinHandle<Result<(), transport::Error>>>,
}

impl Front {
    /// Listens, and writes the address into the state directory.
    pub(crate) async fn open(
        config: &Config,
        duty: Duty,
        metrics: &Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let listen_error = |source| Error::Listen {
            address: config.listen,
            source,
        };
        let listener = Listener::bind(config.listen, config.greeting_timeout)
            .await
            .map_err(listen_error)?;
        let address = listener.address().map_err(listen_error)?;
        write_address(&config.state_dir, address)?;
        let (duty, on_duty) = watch::channel(duty);
        let routes = Routes::from(dispatch(on_duty, Arc::clone(metrics)));
        let server = Server::builder()
            .accept_http1(true)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .max_concurrent_streams(MOST_STREAMS)
            .add_routes(routes)
            .serve_with_incoming_shutdown(listener, stop.cancelled_owned());
        Ok(Self {
            address,
            duty,
            server: Some(tokio::spawn(server)),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is put there is from now on.
    pub(crate) fn duty(&self) -> watch::Sender<Duty> {
        self.duty.clone()
    }

    /// Until the server gives up, or was told to stop.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        let result = server.await;
        self.server = None;
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(Error::Serve {
                address: self.address,
                source,
            }),
            Err(error) => Err(Error::Actor(error)),
        }
    }

    /// After the stop: calls that are open have so long to end.
    pub(crate) async fn close(mut self, grace: Duration) -> Result<(), Error> {
        if let Ok(ended) = timeout(grace, self.ended()).await {
            return ended;
        }
        if let Some(server) = self.server {
            server.abort();
        }
        Ok(())
    }
}

fn dispatch(duty: watch::Receiver<Duty>, metrics: Arc<Metrics>) -> Router {
    Router::new().fallback(move |request: Request| {
        let duty = duty.borrow().clone();
        let metrics = Arc::clone(&metrics);
        async move { answer(duty, &metrics, request).await }
    })
}

async fn answer(duty: Duty, metrics: &Metrics, request: Request) -> Response {
    match duty {
        Duty::Lead(mut router, fence) if fence.is_open() => match router.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Duty::Lead(..) => standby::answer(&request, None, metrics),
        Duty::StandBy(leader) => standby::answer(&request, leader.as_ref(), metrics),
    }
}

/// Whole or not at all: readers poll for the file.
fn write_address(state_dir: &Path, address: SocketAddr) -> Result<(), Error> {
    let path = state_dir.join("address");
    let temporary = state_dir.join("address.new");
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(state_dir)?;
        std::fs::write(&temporary, format!("{address}\n"))?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|source| Error::Address {
        path: path.clone(),
        source,
    })
}
