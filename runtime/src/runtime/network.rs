//! Containers' networks, for the runtime's callers: prepared before a start, released by a container's end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::Runtime;
use crate::id::ContainerId;
use crate::network::{self, Attachment, NetworkError, NetworkRequest};
use crate::supervise::Entry;
use crate::sys;

impl Runtime {
    /// Gives a container that is about to be started its place in the network: addresses, and ports of the machine
    /// that lead to it. To be followed by `start` with the network `Prepared`, or by `release_network`. A failed start
    /// and the container's end release it too.
    pub async fn prepare_network(
        &self,
        id: &ContainerId,
        request: NetworkRequest,
    ) -> Result<Attachment, NetworkError> {
        let (networks, id) = (Arc::clone(&self.inner.networks), id.clone());
        let named = id.clone();
        let preparing = tokio::task::spawn_blocking(move || networks.prepare(&id, &request)).await;
        preparing.unwrap_or_else(|error| {
            Err(NetworkError::Container {
                id: named,
                operation: "prepare its network",
                source: io::Error::other(error),
            })
        })
    }

    /// Takes the network back from a container that will not be started. Idempotent.
    pub async fn release_network(&self, id: &ContainerId) {
        let (networks, id) = (Arc::clone(&self.inner.networks), id.clone());
        let releasing = tokio::task::spawn_blocking(move || networks.release(&id));
        let _ = releasing.await;
    }

    /// What a container was given by `prepare_network`; `None` if nothing, or no longer.
    #[must_use]
    pub fn attachment(&self, id: &ContainerId) -> Option<Attachment> {
        self.inner.networks.attachment(id)
    }

    /// A TCP socket in the network of a running container, not connected and not blocking, for connections to `to`.
    /// What is reached is what the container's own processes would reach.
    pub async fn tcp_socket(&self, id: &ContainerId, to: IpAddr) -> io::Result<OwnedFd> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("no container {id} runs"));
        let entry = self.inner.entry(id).map_err(|_| gone())?;
        let live = entry.running().ok_or_else(gone)?;
        let (pid, pidfd) = (
            live.process.pid,
            live.pidfd.as_ref().ok_or_else(gone)?.try_clone()?,
        );
        let making = tokio::task::spawn_blocking(move || {
            let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
            // The process is still there, so the number was still its own when the file was opened.
            if sys::wait_readable(pidfd.as_fd(), Some(std::time::Duration::ZERO))? {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "the container has ended",
                ));
            }
            network::tcp_socket_in(namespace.as_fd(), to)
        });
        making
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    pub(super) async fn reconcile_networks(&self) {
        let inner = Arc::clone(&self.inner);
        let reconciling = tokio::task::spawn_blocking(move || {
            let (known, running): (BTreeSet<ContainerId>, BTreeMap<ContainerId, PathBuf>) = {
                let containers = inner.containers();
                let namespace = |entry: &Entry| {
                    let pid = entry.running()?.process.pid;
                    Some((
                        entry.id.clone(),
                        PathBuf::from(format!("/proc/{pid}/ns/net")),
                    ))
                };
                (
                    containers.keys().cloned().collect(),
                    containers
                        .values()
                        .filter_map(|entry| namespace(entry))
                        .collect(),
                )
            };
            inner.networks.reconcile(|id| known.contains(id), running);
        });
        let _ = reconciling.await;
    }
}
