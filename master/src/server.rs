//! Wiring: store, actor, fronts and listener, from start to an orderly end.
//!
//! Order matters at the start (the embedded store is the lock, so nothing listens before it is ours) and at the end
//! (streams are told why they end, then connections get a grace period, then everything goes). A master among several
//! is `elected`'s.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use mezzo_api::proto::{
    self, agent_service_server::AgentServiceServer,
    framework_service_server::FrameworkServiceServer,
    operator_service_server::OperatorServiceServer,
};
use mezzo_etcd::Fence;
use thiserror::Error;
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    actor::{self, Context},
    auth::{self, CredentialsError, Guard},
    config::{Config, InvalidConfig, StoreAddress},
    elected,
    front::{Duty, Front},
    grpc::{AgentFront, FrameworkFront, MAX_INVENTORY_BYTES, MAX_MESSAGE_BYTES, OperatorFront},
    http,
    metrics::Metrics,
    store::{EmbeddedStore, Store, StoreError},
};

/// Why a master does not run.
#[derive(Debug, Error)]
pub enum Error {
    /// See there.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// See there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// See there.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// etcd's address cannot be used.
    #[error(transparent)]
    Etcd(#[from] mezzo_etcd::Error),
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

/// As [`run`]; each time `again` is notified the credentials are read again. Streams stay; who is not in the file any more is
/// refused from the next call on.
///
/// # Errors
///
/// When it cannot start, or cannot keep what it promised.
pub async fn run_reloading(
    config: Config,
    shutdown: CancellationToken,
    again: Arc<Notify>,
) -> Result<(), Error> {
    run_all(config, shutdown, None, again).await
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
    run_all(config, shutdown, ready, Arc::default()).await
}

async fn run_all(
    config: Config,
    shutdown: CancellationToken,
    ready: Option<oneshot::Sender<SocketAddr>>,
    again: Arc<Notify>,
) -> Result<(), Error> {
    config.check()?;
    let state_dir = match &config.store {
        StoreAddress::Etcd(address) => {
            let address = address.clone();
            return elected::run(config, address, shutdown, ready, &again).await;
        }
        StoreAddress::StateDir => config.state_dir.clone(),
        StoreAddress::Folder(folder) => folder.clone(),
    };
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(&state_dir))
        .await
        .map_err(Error::Actor)??;
    run_alone(config, Arc::new(store), shutdown, ready, &again).await
}

/// As [`run_and_tell`], the only master, on a store of the caller's.
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
    run_alone(config, store, shutdown, ready, &Notify::new()).await
}

async fn run_alone(
    config: Config,
    store: Arc<dyn Store>,
    shutdown: CancellationToken,
    ready: Option<oneshot::Sender<SocketAddr>>,
    again: &Notify,
) -> Result<(), Error> {
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new());
    // Ends everything of this master, whether the caller asks or something fails.
    let stop = shutdown.child_token();
    let fence = Fence::always_open();
    let guard = Arc::new(Guard::open(&config)?);
    let mut reign = Reign::begin(
        &config,
        store,
        &metrics,
        &guard,
        fence.clone(),
        stop.clone(),
    )
    .await?;
    let duty = Duty::Lead(reign.router(), fence);
    let mut front = match Front::open(&config, duty, &metrics, stop.clone()).await {
        Ok(front) => front,
        Err(error) => {
            // The store is free when this returns.
            stop.cancel();
            reign.end(config.shutdown_grace).await?;
            return Err(error);
        }
    };
    let address = front.address();
    tracing::info!(%address, "master listens");
    if let Some(ready) = ready {
        // Whoever asked may have gone.
        let _ = ready.send(address);
    }
    let ended = tokio::select! {
        ended = reign.ended() => ended,
        ended = front.ended() => ended,
        () = stop.cancelled() => Ok(()),
        () = guard.keep_current(again, &metrics) => Ok(()),
    };
    stop.cancel();
    let reigned = reign.end(config.shutdown_grace).await;
    let closed = front.close(config.shutdown_grace).await;
    tracing::info!(%address, "master stopped");
    ended.and(reigned).and(closed)
}

/// One leadership: an actor, and the routes to it.
#[derive(Debug)]
pub(crate) struct Reign {
    actor: JoinHandle<Result<(), StoreError>>,
    context: Context,
    router: Router,
    ended: bool,
}

impl Reign {
    /// Begins a term in the store, loads what is there and turns the actor until `stop`.
    pub(crate) async fn begin(
        config: &Arc<Config>,
        store: Arc<dyn Store>,
        metrics: &Arc<Metrics>,
        guard: &Arc<Guard>,
        fence: Fence,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let (actor, context) = actor::start(
            Arc::clone(config),
            store,
            Arc::clone(metrics),
            Arc::clone(guard),
            fence,
            stop.clone(),
        )
        .await?;
        let router = routes(&context, metrics).await?;
        metrics.leads(context.term);
        tracing::info!(master = %context.master_id, term = context.term, "master leads");
        Ok(Self {
            actor: tokio::spawn(actor.run(stop)),
            context,
            router,
            ended: false,
        })
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Until the actor is told to stop, or fails.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        let result = (&mut self.actor).await;
        self.ended = true;
        Ok(result.map_err(Error::Actor)??)
    }

    /// After the stop: waits for the actor, and for the tasks of connections within the grace period.
    pub(crate) async fn end(mut self, grace: Duration) -> Result<(), Error> {
        self.context.tasks.close();
        let result = if self.ended {
            Ok(())
        } else {
            self.ended().await
        };
        // They end with the token; the bound is for a bug.
        drop(timeout(grace, self.context.tasks.wait()).await);
        result
    }
}

async fn routes(context: &Context, metrics: &Metrics) -> Result<Router, Error> {
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
    let guarded = axum::middleware::from_fn_with_state(Arc::new(context.clone()), auth::check);
    let routes = grpc.into_axum_router().merge(http);
    Ok(routes.fallback(http::unknown).layer(guarded))
}
