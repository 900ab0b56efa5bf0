//! Puts a backup into a store, while no master uses it.
//!
//! The embedded store's lock says that none does; with etcd this process is elected for the moment, so that no master can lead
//! meanwhile, and none that was deposed can write. All changes are one transaction (in etcd one journal): whoever is killed in
//! the middle leaves the old state or the new one.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mezzo_etcd::{Candidacy, Client, election::Candidate};
use thiserror::Error;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    config::{Config, StoreAddress},
    store::{EmbeddedStore, EtcdStore, Saved, Store, StoreError, backup},
};

/// For the seat, when nobody leads.
const SEAT: Duration = Duration::from_secs(10);

/// Why nothing was restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// See there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// See there.
    #[error(transparent)]
    Etcd(#[from] mezzo_etcd::Error),
    /// The store's own thread failed.
    #[error("the store's thread failed")]
    Thread(#[source] tokio::task::JoinError),
    /// It would be lost.
    #[error(
        "there is a state already ({agents} agents, {frameworks} frameworks); say --replace to have the backup in its place"
    )]
    NotEmpty {
        /// In it.
        agents: usize,
        /// In it.
        frameworks: usize,
    },
    /// It may write at any moment.
    #[error("a master leads ({leader}); stop all masters of this store first")]
    Led {
        /// Its address, if that is known.
        leader: String,
    },
}

/// What there was before is kept only where `replace` is not set and there was something: then nothing happens.
///
/// # Errors
///
/// When the store is in use, holds something, or cannot be written; nothing has changed then.
pub async fn restore(
    config: &Config,
    backup: &backup::Backup,
    replace: bool,
) -> Result<(), RestoreError> {
    match &config.store {
        StoreAddress::StateDir => restore_file(config.state_dir.clone(), backup, replace).await,
        StoreAddress::Folder(folder) => restore_file(folder.clone(), backup, replace).await,
        StoreAddress::Etcd(address) => {
            let address = address.clone();
            let client = Client::new(&address)?;
            let me = Candidate {
                id: Uuid::now_v7().to_string(),
                address: "restore".to_owned(),
            };
            let mut candidacy =
                Candidacy::stand(client.clone(), address.clone(), me, config.lease_secs);
            let seat = timeout(SEAT, candidacy.elected(|_| {})).await;
            let result = match seat {
                Ok(Some((seat, fence))) => {
                    let store = EtcdStore::new(client, address, seat, fence);
                    put(&store, backup, replace).await
                }
                Ok(None) | Err(_) => Err(RestoreError::Led {
                    leader: candidacy
                        .leader()
                        .map_or_else(|| "unknown".to_owned(), |leader| leader.address),
                }),
            };
            candidacy.resign().await;
            result
        }
    }
}

async fn restore_file(
    folder: PathBuf,
    backup: &backup::Backup,
    replace: bool,
) -> Result<(), RestoreError> {
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&folder)).await;
    let store = Arc::new(opened.map_err(RestoreError::Thread)??);
    put(&*store, backup, replace).await
}

async fn put(
    store: &dyn Store,
    backup: &backup::Backup,
    replace: bool,
) -> Result<(), RestoreError> {
    store.begin_term().await?;
    let former: Saved = store.load().await?;
    if !former.is_empty() && !replace {
        return Err(RestoreError::NotEmpty {
            agents: former.agents.len(),
            frameworks: former.frameworks.len(),
        });
    }
    let changes = former.changes_to(&backup.saved);
    store.apply(changes).await?;
    Ok(())
}
