//! Containers in networks of plug-ins: joined, checked and left, with a record on disk before each step.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::super::{Attachment, cni, namespace};
use super::{NetworkError, Networks};
use crate::id::ContainerId;

impl Networks {
    /// Asks plug-ins, in the background, whether what they set up is still there. A problem is told to the operator: what
    /// runs is not ended for it.
    pub(super) fn check_plugged(self: &Arc<Self>, mut running: BTreeMap<ContainerId, PathBuf>) {
        running.retain(|id, _| self.state().plugged.contains_key(id));
        if running.is_empty() {
            return;
        }
        let networks = Arc::clone(self);
        let checking = std::thread::Builder::new()
            .name("mezzo-net-check".to_owned())
            .spawn(move || {
                for (id, namespace) in running {
                    let record = networks.state().plugged.get(&id).cloned();
                    if let Some(record) = record
                        && let Err(error) = record.check(&namespace)
                    {
                        tracing::warn!(container = %id, network = record.network(), %error, "a container's network is not as it was set up");
                    }
                }
            });
        if let Err(error) = checking {
            tracing::debug!(%error, "no thread to check networks");
        }
    }

    pub(super) fn prepare_plugged(
        &self,
        mut record: cni::Record,
    ) -> Result<Attachment, NetworkError> {
        let id = record.container.clone();
        let failed = |operation| {
            let id = id.clone();
            move |source| NetworkError::Container {
                id,
                operation,
                source,
            }
        };
        self.state().plugged.insert(id.clone(), record.clone());
        self.cni
            .write(&record)
            .map_err(failed("note what it is given"))?;
        let namespace = namespace::make(true).map_err(failed("make its network namespace"))?;
        let descriptor = namespace.descriptor;
        let path = own_path(&descriptor);
        {
            let mut state = self.state();
            state.namespaces.insert(id.clone(), descriptor);
        }
        record.add(&path)?;
        self.cni
            .write(&record)
            .map_err(failed("note what it was given"))?;
        let attachment = attachment_of(&record);
        self.state().plugged.insert(id.clone(), record);
        Ok(attachment)
    }

    /// Takes a container out of its network.
    pub(super) fn unplug(&self, record: &cni::Record) {
        let id = &record.container;
        let descriptor = self.state().namespaces.remove(id);
        let path = descriptor.as_ref().map(own_path);
        match record.delete(path.as_deref()) {
            Ok(()) => {
                if let Err(error) = self.cni.remove(id) {
                    tracing::warn!(container = %id, %error, "the record of a network cannot be removed");
                }
            }
            // The record stays: the next start of the agent tries again.
            Err(error) => {
                tracing::warn!(container = %id, network = record.network(), %error, "network not released");
            }
        }
        self.state().plugged.remove(id);
    }
}

/// How other programs of this machine find a namespace that this process holds.
fn own_path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        descriptor.as_raw_fd()
    ))
}

pub(super) fn attachment_of(record: &cni::Record) -> Attachment {
    Attachment {
        addresses: record.addresses(),
        dns: record.dns(),
    }
}
