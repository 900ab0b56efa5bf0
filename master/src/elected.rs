//! A master among several: listens at once, leads when it is elected, stands by otherwise.
//!
//! ```text
//! election (etcd) ──Standing──► reigns: one actor per seat ──► front
//!        ▲                          │
//!        └──── Deposed, Resign ─────┘
//! ```
//!
//! A reign ends when the election says so, when the store finds that another leads, or when this master is told to
//! stop. Then it acts no more before the lease goes back, so that the next leader finds nobody else. What is left of a
//! reign that was deposed (streams whose peers do not read) goes beside: this master may be elected again meanwhile.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mezzo_etcd::{
    Address, Candidacy, Client, Fence,
    election::{Candidate, Seat},
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    auth::Guard,
    config::Config,
    front::{Duty, Front},
    metrics::Metrics,
    server::{Error, Reign},
    store::{EtcdStore, StoreError},
};

/// Runs until `shutdown`.
pub(crate) async fn run(
    config: Config,
    address: Address,
    shutdown: CancellationToken,
    ready: Option<oneshot::Sender<SocketAddr>>,
    again: &Notify,
) -> Result<(), Error> {
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new());
    let guard = Arc::new(Guard::open(&config)?);
    let stop = shutdown.child_token();
    let client = Client::new(&address)?;
    let mut front = Front::open(&config, Duty::StandBy(None), &metrics, stop.clone()).await?;
    let listens = front.address();
    let me = Candidate {
        id: Uuid::now_v7().to_string(),
        address: config.advertised(listens),
    };
    tracing::info!(address = %listens, advertised = me.address, store = %address, "master listens and stands by");
    if let Some(ready) = ready {
        // Whoever asked may have gone.
        let _ = ready.send(listens);
    }
    let candidacy = Candidacy::stand(client.clone(), address.clone(), me, config.lease_secs);
    let every = Duration::from_secs(config.etcd_compaction_secs);
    let candidacy = candidacy.compacting(client.clone(), &address, every);
    let mut reigns = Reigns {
        config: Arc::clone(&config),
        metrics: Arc::clone(&metrics),
        guard: Arc::clone(&guard),
        client,
        address,
        candidacy,
        stop: stop.clone(),
        ending: JoinSet::new(),
    };
    let result = tokio::select! {
        result = reigns.run(&mut front) => result,
        () = guard.keep_current(again, &metrics) => Ok(()),
    };
    stop.cancel();
    reigns.candidacy.resign().await;
    // What is left of former reigns; each has its grace period.
    while reigns.ending.join_next().await.is_some() {}
    let closed = front.close(config.shutdown_grace).await;
    tracing::info!(address = %listens, "master stopped");
    result.and(closed)
}

struct Reigns {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    guard: Arc<Guard>,
    client: Client,
    address: Address,
    candidacy: Candidacy,
    stop: CancellationToken,
    /// Reigns that are over and close their streams.
    ending: JoinSet<()>,
}

impl Reigns {
    async fn run(&mut self, front: &mut Front) -> Result<(), Error> {
        let duty = front.duty();
        loop {
            let follow = |leader| {
                duty.send_replace(Duty::StandBy(leader));
            };
            let elected = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                ended = front.ended() => return ended,
                elected = self.candidacy.elected(follow) => elected,
            };
            let Some((seat, fence)) = elected else {
                return Ok(());
            };
            let result = self.reign(front, seat, fence.clone()).await;
            self.metrics.stands_by();
            match result {
                Ok(()) => {}
                Err(Error::Store(StoreError::Deposed)) => {
                    tracing::warn!(term = seat.term, "deposed");
                    self.candidacy.deposed().await;
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = self.candidacy.unseated(seat) => {}
            }
        }
    }

    /// One, to its end.
    async fn reign(&mut self, front: &mut Front, seat: Seat, fence: Fence) -> Result<(), Error> {
        let stop = self.stop.child_token();
        let store = EtcdStore::new(
            self.client.clone(),
            self.address.clone(),
            seat,
            fence.clone(),
        );
        let mut reign = Reign::begin(
            &self.config,
            Arc::new(store),
            &self.metrics,
            &self.guard,
            fence.clone(),
            stop.clone(),
        )
        .await?;
        let duty = front.duty();
        duty.send_replace(Duty::Lead(reign.router(), fence));
        let ended = tokio::select! {
            ended = reign.ended() => Some(ended),
            // The election's end is the end of this, too.
            () = self.candidacy.unseated(seat) => None,
            () = stop.cancelled() => None,
            ended = front.ended() => Some(ended),
        };
        duty.send_replace(Duty::StandBy(None));
        stop.cancel();
        let grace = self.config.shutdown_grace;
        if self.stop.is_cancelled() || matches!(ended, Some(Err(_))) {
            let closed = reign.end(grace).await;
            return ended.unwrap_or(Ok(())).and(closed);
        }
        while self.ending.try_join_next().is_some() {}
        self.ending.spawn(async move {
            // What it says does not count any more: it may have been in the middle of a write.
            if let Err(error) = reign.end(grace).await {
                tracing::info!(%error, term = seat.term, "a reign that was over has ended");
            }
        });
        Ok(())
    }
}
