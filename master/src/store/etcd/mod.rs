//! The store of several masters: a [`Ledger`] in etcd, written by the leader alone. `rows` says what its keys mean.

mod rows;

use std::path::PathBuf;

use async_trait::async_trait;
use mezzo_etcd::{Address, Client, Fence, Ledger, LedgerError, Rows, election::Seat};

use super::{Change, FORMAT_VERSION, Saved, Store, StoreError};

/// The keys below one prefix, for one term.
#[derive(Debug)]
pub struct EtcdStore(Ledger);

impl EtcdStore {
    /// For the leader that has this seat, while the fence is open.
    #[must_use]
    pub fn new(client: Client, address: Address, seat: Seat, fence: Fence) -> Self {
        Self(Ledger::new(client, address, seat, fence, FORMAT_VERSION))
    }

    fn saved(&self, rows: Rows) -> Result<Saved, StoreError> {
        rows::saved(&rows).map_err(|problem| StoreError::Corrupt {
            path: PathBuf::from(self.0.place()),
            problem,
        })
    }
}

impl From<LedgerError> for StoreError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Deposed => Self::Deposed,
            LedgerError::Etcd { place, problem } => Self::Etcd { place, problem },
            LedgerError::Corrupt { place, problem } => Self::Corrupt {
                path: PathBuf::from(place),
                problem,
            },
            LedgerError::TooNew { place, found, .. } => Self::TooNew {
                path: PathBuf::from(place),
                found,
            },
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn begin_term(&self) -> Result<u64, StoreError> {
        Ok(self.0.begin().await?)
    }

    async fn load(&self) -> Result<Saved, StoreError> {
        self.saved(self.0.read().await?)
    }

    async fn snapshot(&self) -> Result<Saved, StoreError> {
        self.saved(self.0.look().await?)
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        Ok(self.0.write(rows::writes(&changes)).await?)
    }
}
