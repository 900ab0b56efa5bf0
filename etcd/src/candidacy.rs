//! What every server among several does around its election: stand for it, wait for a seat, see it go, give it back.
//!
//! Edge. The [`election`](crate::election) runs as a task that this owns: dropped, it ends, and the lease runs out by itself. So does
//! what keeps etcd's history short.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    Address, Client, Fence, compaction,
    election::{self, Candidate, Leader, Order, Seat, Standing, Times},
};

/// For a graceful leader to give its lease back. Otherwise the lease runs out.
const RESIGN: Duration = Duration::from_secs(3);

/// One server's part in an election.
#[derive(Debug)]
pub struct Candidacy {
    orders: mpsc::Sender<Order>,
    standing: watch::Receiver<Standing>,
    election: JoinSet<()>,
    /// Ends with this.
    compaction: JoinSet<()>,
}

impl Candidacy {
    /// Stands from now on. Needs a tokio runtime. A leader that gives no sign of life for `lease_secs` is followed by another.
    #[must_use]
    pub fn stand(client: Client, address: Address, me: Candidate, lease_secs: u32) -> Self {
        let (orders, to_election) = mpsc::channel(4);
        let (told, standing) = watch::channel(Standing::Following(None));
        let times = Times::of_lease(lease_secs);
        let mut election = JoinSet::new();
        election.spawn(election::run(client, address, me, times, to_election, told));
        Self {
            orders,
            standing,
            election,
            compaction: JoinSet::new(),
        }
    }

    /// While this one leads, etcd is made to forget what was overwritten or deleted more than so long ago, at about that pace.
    /// Zero: it is not. Needs a tokio runtime.
    #[must_use]
    pub fn compacting(mut self, client: Client, address: &Address, every: Duration) -> Self {
        if !every.is_zero() {
            let (key, standing) = (address.key(election::TERM), self.standing.clone());
            self.compaction
                .spawn(compaction::run(client, key, every, standing));
        }
        self
    }

    /// For orders that come from elsewhere, like giving the lead away.
    #[must_use]
    pub fn orders(&self) -> mpsc::Sender<Order> {
        self.orders.clone()
    }

    /// Who leads now, as far as this server knows; `None` also when it leads itself.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        match &*self.standing.borrow() {
            Standing::Following(leader) => leader.clone(),
            Standing::Leading(..) => None,
        }
    }

    /// Waits for a seat, and tells meanwhile whom to follow. `None`: there is no election any more.
    pub async fn elected(
        &mut self,
        mut follow: impl FnMut(Option<Leader>),
    ) -> Option<(Seat, Fence)> {
        loop {
            match self.standing.borrow_and_update().clone() {
                Standing::Leading(seat, fence) => return Some((seat, fence)),
                Standing::Following(leader) => follow(leader),
            }
            self.standing.changed().await.ok()?;
        }
    }

    /// Until this seat is another's or nobody's, or there is no election any more.
    pub async fn unseated(&mut self, seat: Seat) {
        let over = |standing: &Standing| match standing {
            Standing::Leading(now, _) => *now != seat,
            Standing::Following(_) => true,
        };
        // Whether it was taken, or the election has ended, comes to the same.
        drop(self.standing.wait_for(over).await);
    }

    /// It turned out that another leads.
    pub async fn deposed(&self) {
        // The election may know it already, or have ended.
        let _ = self.orders.send(Order::Deposed).await;
    }

    /// Gives the lease back, if there is one, and ends the election.
    pub async fn resign(mut self) {
        // The election may have ended by itself.
        let _ = self.orders.send(Order::Resign).await;
        if timeout(RESIGN, self.election.join_next()).await.is_err() {
            tracing::warn!("the lease could not be given back in time; it runs out");
        }
    }
}
