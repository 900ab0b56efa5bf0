//! Wiring: store, actor, fronts and listener, from start to an orderly end.
//!
//! Order matters at the start (the store is the lock, so nothing listens before it is ours) and at the end (streams
//! are told why they end, then connections get a grace period, then everything goes).

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mezzo_api::proto::{
    self, agent_service_server::AgentServiceServer,
    framework_service_server::FrameworkServiceServer,
    operator_service_server::OperatorServiceServer,
};
use thiserror::Error;
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

use crate::{
    actor::{self, Context},
    config::{Config, InvalidConfig},
    grpc::{AgentFront, FrameworkFront, MAX_INVENTORY_BYTES, MAX_MESSAGE_BYTES, OperatorFront},
    http,
    listener::Listener,
    metrics::Metrics,
    store::{EmbeddedStore, Store, StoreError},
};

/// A connection that does not answer HTTP/2 pings is dropped.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Calls and streams on one connection.
const MOST_STREAMS: u32 = 1024;

/// Why a master does not run.
#[derive(Debug, Error)]
pub enum Error {
    /// See there.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// See there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The port is taken, or the address is not this machine's.
    #[error("master cannot listen on {address}; choose another address with `listen`")]
    Listen {
        /// The one asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file that tells others where the master listens.
    #[error("cannot write {path}")]
    Address {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The API's own descriptors are unreadable.
    #[error("cannot build the reflection service")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The HTTP server gave up.
    #[error("the server on {address} failed")]
    Serve {
        /// Where it listened.
        address: SocketAddr,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// A bug.
    #[error("the master's event loop ended unexpectedly")]
    Actor(#[source] tokio::task::JoinError),
}

/// Runs a master until `shutdown`.
///
/// # Errors
///
/// When it cannot start, or cannot keep what it promised.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    run_and_tell(config, shutdown, None).await
}

/// As [`run`]; `ready` gets the address once it listens.
///
/// # Errors
///
/// When it cannot start, or cannot keep what it promised.
pub async fn run_and_tell(
    config: Config,
    shutdown: CancellationToken,
    ready: Option<oneshot::Sender<SocketAddr>>,
) -> Result<(), Error> {
    config.check()?;
    let state_dir = config.state_dir.clone();
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(&state_dir))
        .await
        .map_err(Error::Actor)??;
    run_on(config, Arc::new(store), shutdown, ready).await
}

/// As [`run_and_tell`], on a store of the caller's.
///
/// # Errors
///
/// When it cannot start, or cannot keep what it promised.
pub async fn run_on(
    config: Config,
    store: Arc<dyn Store>,
    shutdown: CancellationToken,
    ready: Option<oneshot::Sender<SocketAddr>>,
) -> Result<(), Error> {
    config.check()?;
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new());
    // Ends everything of this master, whether the caller asks or something fails.
    let stop = shutdown.child_token();
    let (actor, context) = actor::start(
        Arc::clone(&config),
        store,
        Arc::clone(&metrics),
        stop.clone(),
    )
    .await?;
    let listen_error = |source| Error::Listen {
        address: config.listen,
        source,
    };
    let listener = Listener::bind(config.listen, config.greeting_timeout)
        .await
        .map_err(listen_error)?;
    let address = listener.address().map_err(listen_error)?;
    let routes = routes(&context, &metrics).await?;
    write_address(&config.state_dir, address)?;

    let mut actor = tokio::spawn(actor.run(stop.clone()));
    tracing::info!(%address, master = %context.master_id, "master listens");
    if let Some(ready) = ready {
        // Whoever asked may have gone.
        let _ = ready.send(address);
    }
    let server = Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(MOST_STREAMS)
        .add_routes(routes)
        .serve_with_incoming_shutdown(listener, stop.clone().cancelled_owned());
    tokio::pin!(server);
    let (mut served, mut acted) = (None, None);
    tokio::select! {
        result = &mut server => served = Some(result),
        result = &mut actor => acted = Some(result),
        () = stop.cancelled() => {}
    }
    stop.cancel();
    context.tasks.close();
    if served.is_none() {
        served = timeout(config.shutdown_grace, &mut server).await.ok();
    }
    if acted.is_none() {
        acted = Some(actor.await);
    }
    // They end with the token; the bound is for a bug.
    drop(timeout(config.shutdown_grace, context.tasks.wait()).await);
    tracing::info!(%address, "master stopped");
    match acted {
        Some(Ok(result)) => result?,
        Some(Err(error)) => return Err(Error::Actor(error)),
        None => {}
    }
    match served {
        Some(Err(source)) => Err(Error::Serve { address, source }),
        Some(Ok(())) | None => Ok(()),
    }
}

async fn routes(context: &Context, metrics: &Metrics) -> Result<Routes, Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let agents = AgentServiceServer::new(AgentFront::new(context.clone()))
        .max_decoding_message_size(MAX_INVENTORY_BYTES);
    let frameworks = FrameworkServiceServer::new(FrameworkFront::new(context.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let operators = OperatorServiceServer::new(OperatorFront::new(context.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServiceServer<AgentFront>>().await;
    health
        .set_serving::<FrameworkServiceServer<FrameworkFront>>()
        .await;
    health
        .set_serving::<OperatorServiceServer<OperatorFront>>()
        .await;
    let grpc = Routes::new(agents)
        .add_service(frameworks)
        .add_service(operators)
        .add_service(health_service)
        .add_service(reflection);
    let http = http::router(context.clone(), metrics.registry(context.clone()));
    Ok(Routes::from(
        grpc.into_axum_router().merge(http).fallback(http::unknown),
    ))
}

/// Whole or not at all: readers poll for the file.
fn write_address(state_dir: &Path, address: SocketAddr) -> Result<(), Error> {
    let path = state_dir.join("address");
    let temporary = state_dir.join("address.new");
    std::fs::create_dir_all(state_dir)
        .and_then(|()| std::fs::write(&temporary, format!("{address}\n")))
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|source| Error::Address {
            path: path.clone(),
            source,
        })
}
