//! A scheduler among several: listens at once, leads when it is elected, hands requests to the leader otherwise.
//!
//! ```text
//! election (etcd) ──Standing──► reigns: one event loop per seat ──► front
//!        ▲                          │
//!        └──── Deposed, Resign ─────┘
//! ```
//!
//! Edge. Each reign reads the state from etcd and subscribes with the framework id that is there: the master cuts off the
//! stream of the former leader, and answers nothing more that came over it. So what a deposed scheduler had under way
//! comes before the new one asks how its tasks are, or not at all.

use std::time::Duration;

use mezzo_api::credential::Credential;
use mezzo_api::masters::Masters;
use mezzo_etcd::election::{self, Candidate, Order, Seat, Standing, Times};
use mezzo_etcd::{Address, Client, Fence};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::Config;
use crate::front::{Bound, Duty, Front};
use crate::server::{DRAIN, Error, Reign, drain};
use crate::store::{EtcdStore, Keep, StoreError};

/// For a graceful leader to give its lease back. Otherwise the lease runs out.
const RESIGN: Duration = Duration::from_secs(3);

/// Runs until `shutdown`.
pub(crate) async fn run(
    config: Config,
    line: (Masters, Credential),
    address: Address,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let client = Client::new(&address)?;
    let bound = Bound::listen(config.listen).await?;
    let listens = bound.address;
    let me = Candidate {
        id: Uuid::now_v7().to_string(),
        address: config.advertised(listens),
    };
    let mut front = bound.open(&config.state_dir, &me.address, Duty::Follow(None))?;
    tracing::info!(address = %listens, advertised = me.address, store = %address, "scheduler listens and follows");
    let (orders, to_election) = mpsc::channel(4);
    let (told, standing) = watch::channel(Standing::Following(None));
    let mut election = JoinSet::new();
    election.spawn(election::run(
        client.clone(),
        address.clone(),
        me.clone(),
        Times::of_lease(config.lease_secs),
        to_election,
        told,
    ));
    let mut reigns = Reigns {
        config,
        line,
        me: me.address,
        client,
        address,
        orders: orders.clone(),
        standing,
        shutdown,
        ending: JoinSet::new(),
    };
    let result = reigns.run(&mut front).await;
    // It may have ended by itself.
    let _ = orders.send(Order::Resign).await;
    if timeout(RESIGN, election.join_next()).await.is_err() {
        tracing::warn!("the lease could not be given back in time; it runs out");
    }
    while reigns.ending.join_next().await.is_some() {}
    let closed = front.close(DRAIN).await;
    tracing::info!(address = %listens, "scheduler ends");
    result.and(closed)
}

struct Reigns {
    config: Config,
    line: (Masters, Credential),
    me: String,
    client: Client,
    address: Address,
    orders: mpsc::Sender<Order>,
    standing: watch::Receiver<Standing>,
    shutdown: CancellationToken,
    /// Reigns that are over and stop.
    ending: JoinSet<()>,
}

impl Reigns {
    async fn run(&mut self, front: &mut Front) -> Result<(), Error> {
        let duty = front.duty();
        loop {
            let elected = tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                ended = front.ended() => return ended,
                elected = elected(&mut self.standing, &duty) => elected,
            };
            let Some((seat, fence)) = elected else {
                return Ok(());
            };
            match self.reign(front, seat, fence).await {
                Ok(()) => {}
                Err(Error::Store(StoreError::Deposed)) => {
                    tracing::warn!(term = seat.term, "deposed");
                    // The election may know it already.
                    let _ = self.orders.send(Order::Deposed).await;
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                () = unseated(&mut self.standing, seat) => {}
            }
        }
    }

    /// One, to its end.
    async fn reign(&mut self, front: &mut Front, seat: Seat, fence: Fence) -> Result<(), Error> {
        let (client, address) = (self.client.clone(), self.address.clone());
        let (store, state) = EtcdStore::open(client, address, seat, fence.clone()).await?;
        tracing::info!(term = seat.term, apps = state.apps.len(), "scheduler leads");
        let mut reign = Reign::begin(
            &self.config,
            self.line.clone(),
            (Keep::Etcd(store.into()), state),
            &self.me,
            fence.clone(),
            Some(self.orders.clone()),
        );
        let duty = front.duty();
        duty.send_replace(Duty::Lead(reign.router(), fence));
        let ended = tokio::select! {
            ended = reign.ended() => Some(ended),
            // The election's end is the end of this, too.
            () = unseated(&mut self.standing, seat) => None,
            () = self.shutdown.cancelled() => Some(drain(front, &mut reign).await),
            ended = front.ended() => Some(ended),
        };
        duty.send_replace(Duty::Follow(None));
        if let Some(ended) = ended {
            let stopped = reign.end().await;
            return ended.and(stopped);
        }
        // This scheduler may be elected again while the former reign waits for the last answer of etcd or the master.
        while self.ending.try_join_next().is_some() {}
        self.ending.spawn(async move {
            if let Err(error) = reign.end().await {
                tracing::info!(%error, term = seat.term, "a reign that was over has ended");
            }
        });
        Ok(())
    }
}

/// Until this seat is another's or nobody's, or there is no election any more.
async fn unseated(standing: &mut watch::Receiver<Standing>, seat: Seat) {
    let over = |standing: &Standing| match standing {
        Standing::Leading(now, _) => *now != seat,
        Standing::Following(_) => true,
    };
    // Whether it was taken, or the election has ended, comes to the same.
    drop(standing.wait_for(over).await);
}

/// Waits for a seat, and tells the front meanwhile who leads. `None`: there is no election any more.
async fn elected(
    standing: &mut watch::Receiver<Standing>,
    duty: &watch::Sender<Duty>,
) -> Option<(Seat, Fence)> {
    loop {
        match standing.borrow_and_update().clone() {
            Standing::Leading(seat, fence) => return Some((seat, fence)),
            Standing::Following(leader) => {
                duty.send_replace(Duty::Follow(leader));
            }
        }
        standing.changed().await.ok()?;
    }
}
