//! What is done on disk for one container, in order: its folder, the lines of its log, its removal.

use std::{sync::Arc, time::Duration};

use crate::{
    disk::Disk,
    node::{ContainerId, Images, Runtime},
    recovery::checkpoint::LogRecord,
    store::{Store, Write},
    task::event::Event,
};

const WRITE_RETRY: Duration = Duration::from_secs(1);

/// One thing to do on disk, in order.
pub(super) enum DiskOp {
    Write(Write),
    Remove,
}

/// Writes until it is on disk; only a checkpoint may fail, because nothing has been promised yet for it.
pub(super) async fn write_durably(
    store: &Store,
    container: &ContainerId,
    write: Write,
) -> (Option<Event>, u64) {
    let mut failures = 0;
    loop {
        let attempt = {
            let (store, container, write) = (store.clone(), container.clone(), write.clone());
            tokio::task::spawn_blocking(move || store.write(&container, &write)).await
        };
        let error = match attempt {
            Ok(Ok(())) => {
                let event = match write {
                    Write::Create(_) => Some(Event::Created(container.clone())),
                    Write::Rewrite(written) => Some(Event::Rewritten(written, Ok(()))),
                    Write::Append(LogRecord::Update(status)) => status
                        .update_id
                        .map(|id| Event::Written(container.clone(), id)),
                    Write::Append(LogRecord::Acknowledged(_) | LogRecord::Forgotten) => None,
                };
                return (event, failures);
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        failures += 1;
        if matches!(write, Write::Create(_)) {
            tracing::error!(%container, error, "cannot write a task's checkpoint: the task is dropped");
            return (
                Some(Event::CreateFailed(container.clone(), error)),
                failures,
            );
        }
        if let Write::Rewrite(written) = write {
            // Whoever asked for the change is told, and it is taken back.
            tracing::error!(%container, error, "cannot write a task's changed checkpoint");
            return (Some(Event::Rewritten(written, Err(error))), failures);
        }
        if !store.folder(container).exists() {
            // Its checkpoint was never written, or it is collected: nothing can be promised for it.
            return (None, failures);
        }
        if failures == 1 {
            tracing::error!(%container, error, "cannot write a task's log; trying until it works");
        }
        tokio::time::sleep(WRITE_RETRY).await;
    }
}

pub(super) async fn collect(
    store: &Store,
    runtime: &Arc<dyn Runtime>,
    images: &Arc<dyn Images>,
    limits: &Arc<Disk>,
    container: &ContainerId,
) {
    if let Err(error) = runtime.remove(container).await {
        tracing::warn!(%container, %error, "cannot remove an ended container");
    }
    if let Err(error) = images.remove_snapshot(container.as_str()).await {
        tracing::warn!(%container, %error, "cannot remove a root file system");
    }
    let (store, limits, id) = (store.clone(), Arc::clone(limits), container.clone());
    let removed = tokio::task::spawn_blocking(move || {
        limits.forget(&id);
        store.remove(&id)
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%container, %error, "cannot remove a task's folder"),
        Err(error) => tracing::warn!(%container, %error, "removing a task's folder broke"),
    }
}
