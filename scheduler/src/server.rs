//! Puts the parts together: state, line to the master, event loop, REST API; and takes them down again in order.
//!
//! Edge. Everything spawned here is awaited here.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mezzo_api::credential::Credential;
use mezzo_api::masters::{InvalidMasters, Masters};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::core::{Core, Settings};
use crate::driver::Driver;
use crate::http::{About, Context, router};
use crate::link::{self, LinkConfig};
use crate::store::{Store, StoreError};

/// Requests under way have so long to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Events of the master that may wait for the loop.
const EVENT_QUEUE: usize = 4096;

/// Why a scheduler cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it would show to the master.
    #[error(transparent)]
    Credential(#[from] mezzo_api::credential::InvalidCredential),
    /// Its state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its address.
    #[error("cannot listen on {address}: is another program using the port?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The masters' addresses.
    #[error("`master`: {0}")]
    Master(#[from] InvalidMasters),
    /// The file that says where it listens.
    #[error("cannot write {}", path.display())]
    Address {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server ended by itself.
    #[error("the REST API stopped")]
    Serve(#[source] io::Error),
}

/// Runs a scheduler until `shutdown`.
///
/// # Errors
///
/// When the state, the port or the master's address cannot be used, or the disk fails on the way.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let masters = Masters::parse(&config.master)?;
    let credential = Credential::read(config.credential.as_deref())?;
    let (store, state) = Store::open(&config.state_dir)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| Error::Listen {
            address: config.listen,
            source,
        })?;
    let address = listener.local_addr().map_err(Error::Serve)?;
    write_address(&config.state_dir, address)?;
    let settings = Settings {
        launch_timeout: Duration::from_secs(config.task_launch_timeout_secs),
        reconcile_interval: Duration::from_secs(config.reconcile_interval_secs.max(1)),
        refuse: Duration::from_secs(config.decline_secs),
        max_deployments: config.max_running_deployments,
        ..Settings::default()
    };
    tracing::info!(%address, master = config.master, apps = state.apps.len(), "scheduler starts");
    let (to_events, events) = mpsc::channel(EVENT_QUEUE);
    let (driver, handle) = Driver::new(Core::new(state, settings), store, events);
    let about = About {
        framework_name: config.framework_name.clone(),
        master: config.master.clone(),
        address: address.to_string(),
        failover_timeout_s: config.failover_timeout_secs,
        started: Instant::now(),
    };
    let app = router(Context {
        handle,
        about: Arc::new(about),
    });
    let link = LinkConfig {
        masters,
        credential,
        framework_name: config.framework_name,
        failover_timeout: Duration::from_secs(config.failover_timeout_secs),
        webui_url: format!("http://{address}"),
    };
    // The front stops first, so that no accepted request is left without an answer.
    let stop_front = shutdown.child_token();
    let stop_loop = CancellationToken::new();
    let _whatever_happens = stop_loop.clone().drop_guard();
    let mut background = JoinSet::new();
    background.spawn(link::run(link, to_events, stop_loop.clone()));
    let driving = driver.run(stop_loop.clone());
    let serving = {
        let graceful = stop_front.clone();
        axum::serve(listener, app)
            .with_graceful_shutdown(async move { graceful.cancelled().await })
            .into_future()
    };
    let mut driving = std::pin::pin!(driving);
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        ended = &mut driving => ended.map_err(Error::from),
        served = &mut serving => served.map_err(Error::Serve),
        () = shutdown.cancelled() => {
            // Requests under way need the loop for their answers.
            let drained = async {
                tokio::select! {
                    ended = &mut driving => ended.map_err(Error::from),
                    served = &mut serving => served.map_err(Error::Serve),
                }
            };
            tokio::time::timeout(DRAIN, drained).await.unwrap_or(Ok(()))
        }
    };
    stop_front.cancel();
    stop_loop.cancel();
    while background.join_next().await.is_some() {}
    tracing::info!("scheduler ends");
    result
}

/// `<state_dir>/address`, whole or not at all.
fn write_address(state_dir: &Path, address: SocketAddr) -> Result<(), Error> {
    let path = state_dir.join("address");
    let temporary = state_dir.join("address.new");
    std::fs::write(&temporary, format!("{address}\n"))
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|source| Error::Address { path, source })
}
