//! What a group shares: its network, its folders, the container that holds the rest; made before the first member starts
//! and taken back after the last. Which of them and when is decided in `task::group`.

use std::{io, sync::Arc, time::Duration};

use mezzo_api::model::{Reason, TaskState};

use super::Launcher;
use crate::{
    node::{Attachment, ContainerId, HolderSpec, START_DEADLINE, StartError},
    task::{event::Event, group::Holding, status::Outcome},
};

const END_DEADLINE: Duration = Duration::from_secs(20);

impl Launcher {
    /// Makes it; when that fails nothing is left of it.
    pub(crate) async fn hold(&self, holding: Holding) -> Event {
        let holder = holding.holder.clone();
        let held = self.make(holding).await;
        if held.is_err() {
            self.take_back(&holder).await;
        }
        Event::Held(holder, held)
    }

    async fn make(&self, holding: Holding) -> Result<Attachment, Outcome> {
        let holder = holding.holder;
        let failed = |message: String| {
            Outcome::new(TaskState::Failed, Reason::ContainerLaunchFailed, message)
        };
        let folders: Vec<String> = holding
            .group
            .volumes
            .iter()
            .filter(|volume| volume.tmpfs_bytes.is_none())
            .map(|volume| volume.name.clone())
            .collect();
        let (store, id) = (self.store.clone(), holder.clone());
        let (disk, bytes) = (Arc::clone(&self.disk), holding.disk_bytes);
        let making = move || {
            store.create_group(&id, &folders)?;
            disk.bound_group(&id, &folders, bytes);
            Ok(())
        };
        tokio::task::spawn_blocking(making)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| failed(format!("the group's folder: {error}")))?;
        let attachment = match holding.request {
            None => Attachment::default(),
            Some(request) => self
                .runtime
                .prepare_network(&holder, request)
                .await
                .map_err(|error| failed(format!("network: {error}")))?,
        };
        let memory = holding.group.volumes.into_iter();
        let spec = HolderSpec {
            limits: holding.limits,
            network: holding.network,
            volumes: memory
                .filter_map(|volume| Some((volume.name, volume.tmpfs_bytes?)))
                .collect(),
            host_users: holding.host_users,
        };
        match tokio::time::timeout(START_DEADLINE, self.runtime.hold(&holder, spec)).await {
            Ok(Ok(())) => Ok(attachment),
            Ok(Err(StartError::Invalid(message) | StartError::Failed(message))) => {
                Err(failed(message))
            }
            Err(_) => Err(failed(format!(
                "its holder did not start within {} s",
                START_DEADLINE.as_secs()
            ))),
        }
    }

    /// Takes back what a group shared. What cannot be taken back now is at the next start of the agent.
    pub(crate) async fn let_go(&self, holder: ContainerId) -> Event {
        self.take_back(&holder).await;
        Event::LetGo(holder)
    }

    async fn take_back(&self, holder: &ContainerId) {
        let ending = async {
            if self.runtime.kill(holder).await.is_ok() {
                let _ = self.runtime.wait(holder).await;
            }
            self.runtime.remove(holder).await
        };
        match tokio::time::timeout(END_DEADLINE, ending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%holder, %error, "cannot remove the holder of a group");
            }
            Err(_) => tracing::error!(%holder, "the holder of a group does not end"),
        }
        self.runtime.release_network(holder).await;
        let (store, id) = (self.store.clone(), holder.clone());
        let disk = Arc::clone(&self.disk);
        let removing = move || {
            disk.forget(&id);
            store.remove_group(&id)
        };
        match tokio::task::spawn_blocking(removing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%holder, %error, "cannot remove a group's folder"),
            Err(error) => tracing::warn!(%holder, %error, "removing a group's folder broke"),
        }
    }
}
