//! The store that a scheduler has: a file of its own, or, among several, etcd. Edge.

use std::sync::Arc;

use super::{EtcdStore, Store, StoreError};
use crate::core::record::Write;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Keep {
    /// In the state directory.
    File(Arc<Store>),
    /// Written by the leader alone.
    Etcd(Arc<EtcdStore>),
}

impl Keep {
    /// Makes `writes` durable, all or none.
    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        match self {
            Self::File(store) => {
                let store = Arc::clone(store);
                tokio::task::spawn_blocking(move || store.commit(&writes))
                    .await
                    .expect("a commit does not panic and is not aborted")
            }
            Self::Etcd(store) => store.commit(writes).await,
        }
    }
}
