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
use mezzo_etcd::election::{Candidate, Seat};
use mezzo_etcd::{Address, Candidacy, Client, Fence};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::Config;
use crate::front::{Bound, Duty, Front};
use crate::server::{DRAIN, Error, Reign, drain};
use crate::store::{EtcdStore, Keep, StoreError};

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
    let own = me.address.clone();
    let candidacy = Candidacy::stand(client.clone(), address.clone(), me, config.lease_secs);
    let every = Duration::from_secs(config.etcd_compaction_secs);
    let candidacy = candidacy.compacting(client.clone(), &address, every);
    let mut reigns = Reigns {
        config,
        line,
        me: own,
        client,
        address,
        candidacy,
        shutdown,
        ending: JoinSet::new(),
    };
    let result = reigns.run(&mut front).await;
    reigns.candidacy.resign().await;
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
    candidacy: Candidacy,
    shutdown: CancellationToken,
    /// Reigns that are over and stop.
    ending: JoinSet<()>,
}

impl Reigns {
    async fn run(&mut self, front: &mut Front) -> Result<(), Error> {
        let duty = front.duty();
        loop {
            let follow = |leader| {
                duty.send_replace(Duty::Follow(leader));
            };
            let elected = tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                ended = front.ended() => return ended,
                elected = self.candidacy.elected(follow) => elected,
            };
            let Some((seat, fence)) = elected else {
                return Ok(());
            };
            match self.reign(front, seat, fence).await {
                Ok(()) => {}
                Err(Error::Store(StoreError::Deposed)) => {
                    tracing::warn!(term = seat.term, "deposed");
                    self.candidacy.deposed().await;
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                () = self.candidacy.unseated(seat) => {}
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
            Some(self.candidacy.orders()),
        );
        let duty = front.duty();
        duty.send_replace(Duty::Lead(reign.router(), fence));
        let ended = tokio::select! {
            ended = reign.ended() => Some(ended),
            // The election's end is the end of this, too.
            () = self.candidacy.unseated(seat) => None,
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
