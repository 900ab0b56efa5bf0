//! Puts the parts together: state, line to the master, event loop, REST API; and takes them down again in order.
//!
//! Edge. Everything spawned here is awaited here.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::serve::ListenerExt as _;
use mezzo_api::masters::{InvalidMasters, Masters};
use mezzo_api::model::RoleName;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::core::{Core, Settings};
use crate::driver::{Driver, now_ms};
use crate::events::hub::{CAPACITY, Hub};
use crate::http::{About, Context, router};
use crate::link::{self, LinkConfig};
use crate::store::{Store, StoreError};

/// Requests under way have so long to end.
const DRAIN: Duration = Duration::from_secs(5);
/// A connection whose other end takes nothing for so long is closed.
const STUCK: Duration = Duration::from_secs(60);
/// Events of the master that may wait for the loop.
const EVENT_QUEUE: usize = 4096;

/// Why a scheduler cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// Nothing can be reserved for it.
    #[error(
        "`resident_role`: nothing can be reserved for `*`, which is everybody: name another role"
    )]
    ResidentRole,
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
    if config.resident_role == RoleName::any() {
        return Err(Error::ResidentRole);
    }
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
        resident_role: config.resident_role.clone(),
        ..Settings::default()
    };
    tracing::info!(%address, master = config.master, apps = state.apps.len(), "scheduler starts");
    let (to_events, events) = mpsc::channel(EVENT_QUEUE);
    // The front stops first, so that no accepted request is left without an answer.
    let stop_front = shutdown.child_token();
    let hub = Hub::new(now_ms(), CAPACITY, stop_front.clone());
    let core = Core::new(state, settings);
    let (driver, handle) = Driver::new(core, store, events, Arc::clone(&hub));
    let about = About {
        framework_name: config.framework_name.clone(),
        master: config.master.clone(),
        address: address.to_string(),
        failover_timeout_s: config.failover_timeout_secs,
        started: Instant::now(),
    };
    let app = router(Context {
        handle,
        hub,
        about: Arc::new(about),
    });
    let link = LinkConfig {
        masters,
        framework_name: config.framework_name,
        resident_role: config.resident_role,
        failover_timeout: Duration::from_secs(config.failover_timeout_secs),
        webui_url: format!("http://{address}"),
    };
    let stop_loop = CancellationToken::new();
    let _whatever_happens = stop_loop.clone().drop_guard();
    let mut background = JoinSet::new();
    background.spawn(link::run(link, to_events, stop_loop.clone()));
    let driving = driver.run(stop_loop.clone());
    let serving = {
        let graceful = stop_front.clone();
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let listener = listener.tap_io(|stream| {
            // A reader of events that takes nothing any more is cut off by the kernel.
            let stuck = u32::try_from(STUCK.as_millis()).unwrap_or(u32::MAX);
            if let Err(problem) = setsockopt(&*stream, TcpUserTimeout, &stuck) {
                tracing::debug!(%problem, "a connection without a timeout for what is not taken");
            }
        });
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
