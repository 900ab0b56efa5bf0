//! Waiting for a container's end, and the words for steps that fail.

use std::{sync::Arc, time::Duration};

use mezzo_api::model::Usage;

use super::unix_ms;
use crate::{
    node::{ContainerExit, ContainerId, ExitRecord, Runtime, RuntimeError},
    task::event::Event,
};

/// Waits for a container's end, whatever happens on the way.
pub(super) async fn watch(runtime: Arc<dyn Runtime>, container: ContainerId) -> Event {
    loop {
        match runtime.wait(&container).await {
            Ok(record) => return Event::Exited(container, Box::new(record)),
            Err(RuntimeError::NotFound(_)) => {
                let record = ExitRecord {
                    exit: ContainerExit::KeeperLost,
                    oom_killed: false,
                    memory_limit_bytes: None,
                    started_at_ms: None,
                    finished_at_ms: unix_ms(),
                    usage: Usage {
                        sampled_at_ms: unix_ms(),
                        ..Usage::default()
                    },
                };
                return Event::Exited(container, Box::new(record));
            }
            Err(error @ (RuntimeError::Invalid(_) | RuntimeError::Other(_))) => {
                tracing::warn!(%container, %error, "cannot wait for a container; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

pub(super) fn log_step(
    step: &str,
    container: &ContainerId,
    result: Result<Result<(), RuntimeError>, tokio::time::error::Elapsed>,
) {
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::info!(%container, %error, step, "step failed; the container may have ended")
        }
        Err(_) => tracing::warn!(%container, step, "step took too long"),
    }
}
