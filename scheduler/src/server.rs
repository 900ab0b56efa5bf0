//! Puts the parts together: state, line to the master, event loop, REST API; and takes them down again in order.
//!
//! Edge. Everything spawned here is awaited here. A scheduler among several is `elected`'s.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use mezzo_api::credential::Credential;
use mezzo_api::masters::Masters;
use mezzo_etcd::election::Order;
use mezzo_etcd::{Fence, StoreAddress};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, InvalidConfig, NewGroups};
use crate::core::state::State;
use crate::core::{Core, Settings};
use crate::driver::{Driver, now_ms};
use crate::elected;
use crate::events::hub::{CAPACITY, Hub};
use crate::front::{Bound, Duty, Front};
use crate::http::{About, Context, router};
use crate::link::{self, LinkConfig};
use crate::store::{Keep, Store, StoreError};

/// Requests under way have so long to end.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// Events of the master that may wait for the loop.
const EVENT_QUEUE: usize = 16_384;

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
    /// Its settings.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// etcd's address.
    #[error(transparent)]
    Etcd(#[from] mezzo_etcd::Error),
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
    /// A bug.
    #[error("the REST API ended unexpectedly")]
    Front(#[source] JoinError),
}

/// Runs a scheduler until `shutdown`.
///
/// # Errors
///
/// When the state, the port or the master's address cannot be used, or the disk fails on the way.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    run_reloading(config, shutdown, Arc::default()).await
}

/// The same; each time `again` is notified the credential is read again. The subscription stays.
///
/// # Errors
///
/// When the state, the port or the master's address cannot be used, or the disk fails on the way.
pub async fn run_reloading(
    config: Config,
    shutdown: CancellationToken,
    again: Arc<Notify>,
) -> Result<(), Error> {
    let masters = config.check()?;
    let credential = Credential::read(config.credential.as_deref())?;
    tokio::select! {
        result = run_all(config, (masters, credential.clone()), shutdown) => result,
        () = credential.keep_current(&again) => Ok(()),
    }
}

async fn run_all(
    config: Config,
    (masters, credential): (Masters, Credential),
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let directory = match &config.store {
        StoreAddress::Etcd(address) => {
            let address = address.beside("scheduler");
            return elected::run(config, (masters, credential), address, shutdown).await;
        }
        StoreAddress::StateDir => config.state_dir.clone(),
        StoreAddress::Folder(folder) => folder.clone(),
    };
    let (store, state) = Store::open(&directory)?;
    let bound = Bound::listen(config.listen).await?;
    let address = bound.address;
    tracing::info!(%address, master = config.master, apps = state.apps.len(), "scheduler starts");
    let me = config.advertised(address);
    let fence = Fence::always_open();
    let kept = (Keep::File(Arc::new(store)), state);
    let mut reign = Reign::begin(
        &config,
        (masters, credential),
        kept,
        &me,
        fence.clone(),
        None,
    );
    let duty = Duty::Lead(reign.router(), fence);
    let mut front = match bound.open(&config.state_dir, &me, duty) {
        Ok(front) => front,
        Err(error) => {
            reign.end().await?;
            return Err(error);
        }
    };
    let ended = tokio::select! {
        ended = reign.ended() => ended,
        served = front.ended() => served,
        () = shutdown.cancelled() => drain(&mut front, &mut reign).await,
    };
    let closed = front.close(Duration::ZERO).await;
    let reigned = reign.end().await;
    tracing::info!("scheduler ends");
    ended.and(closed).and(reigned)
}

/// The front stops first, so that no accepted request is left without an answer, and requests under way need the loop.
pub(crate) async fn drain(front: &mut Front, reign: &mut Reign) -> Result<(), Error> {
    front.stop();
    reign.streams.cancel();
    let drained = async {
        tokio::select! {
            ended = reign.ended() => ended,
            served = front.ended() => served,
        }
    };
    tokio::time::timeout(DRAIN, drained).await.unwrap_or(Ok(()))
}

type Driving = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// One leadership: the event loop, the line to the master, and the routes to them.
pub(crate) struct Reign {
    /// Turned by whoever awaits [`Reign::ended`] or [`Reign::end`]: with its owner it is gone, and the store is free. `None`
    /// once its end was told.
    driving: Option<Driving>,
    link: JoinSet<()>,
    router: Router,
    /// Of events: who reads them asks again, and then the next leader.
    streams: CancellationToken,
    stop: CancellationToken,
    _whatever_happens: DropGuard,
}

impl Reign {
    /// Goes on from what is kept. `me` is the `host:port` by which others know this scheduler; `orders` go to the election
    /// where there is one.
    pub(crate) fn begin(
        config: &Config,
        (masters, credential): (Masters, Credential),
        (keep, state): (Keep, State),
        me: &str,
        fence: Fence,
        orders: Option<mpsc::Sender<Order>>,
    ) -> Self {
        let settings = Settings {
            launch_timeout: Duration::from_secs(config.task_launch_timeout_secs),
            reconcile_interval: Duration::from_secs(config.reconcile_interval_secs.max(1)),
            refuse: Duration::from_secs(config.decline_secs),
            max_deployments: config.max_running_deployments,
            resident_role: config.resident_role.clone(),
            default_role: config.role.clone(),
            new_groups_enforce_role: config.new_group_enforce_role == NewGroups::Top,
            ..Settings::default()
        };
        let (to_events, events) = mpsc::channel(EVENT_QUEUE);
        let streams = CancellationToken::new();
        let hub = Hub::new(now_ms(), CAPACITY, streams.clone());
        let core = Core::new(state, settings);
        let (driver, handle) = Driver::new(core, keep, events, Arc::clone(&hub));
        let about = About {
            framework_name: config.framework_name.clone(),
            master: config.master.clone(),
            address: me.to_owned(),
            failover_timeout_s: config.failover_timeout_secs,
            role: config.role.clone(),
            new_group_enforce_role: config.new_group_enforce_role,
            started: Instant::now(),
            orders,
        };
        let router = router(Context {
            handle,
            hub,
            about: Arc::new(about),
        });
        let link = LinkConfig {
            masters,
            credential,
            framework_name: config.framework_name.clone(),
            own_roles: [config.role.clone(), config.resident_role.clone()].into(),
            failover_timeout: Duration::from_secs(config.failover_timeout_secs),
            webui_url: format!("http://{me}"),
            fence,
        };
        let stop = CancellationToken::new();
        let mut background = JoinSet::new();
        background.spawn(link::run(link, to_events, stop.clone()));
        Self {
            driving: Some(Box::pin(driver.run(stop.clone()))),
            link: background,
            router,
            streams,
            _whatever_happens: stop.clone().drop_guard(),
            stop,
        }
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Until the event loop was told to stop, or fails.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        let Some(driving) = &mut self.driving else {
            return Ok(());
        };
        let result = driving.await;
        self.driving = None;
        Ok(result?)
    }

    /// Stops it and waits for it.
    pub(crate) async fn end(mut self) -> Result<(), Error> {
        self.streams.cancel();
        self.stop.cancel();
        let result = self.ended().await;
        while self.link.join_next().await.is_some() {}
        result
    }
}
