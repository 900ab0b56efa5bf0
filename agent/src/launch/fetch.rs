//! The step of a launch in which its files come: how far it is becomes the task's status, and why it failed its last one.

use std::time::Duration;

use mezzo_api::model::{Reason, TaskInfo, TaskState};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{LaunchFailure, Launcher, PROGRESS_PAUSE, failed};
use crate::{fetch::FetchError, node::ContainerId, task::event::Event};

impl Launcher {
    /// Brings what the task wants in its sandbox; nothing for most tasks.
    pub(super) async fn fetch(
        &self,
        container: &ContainerId,
        info: &TaskInfo,
        cancelled: &CancellationToken,
        feedback: &mpsc::Sender<Event>,
    ) -> Result<(), LaunchFailure> {
        let wanted = &info.container.fetch;
        if wanted.is_empty() {
            return Ok(());
        }
        let sandbox = self.store.sandbox(container);
        let (told, mut seen) = watch::channel(String::new());
        let fetching = self.fetcher.fetch(wanted, &sandbox, cancelled, &told);
        tokio::pin!(fetching);
        let mut report_at = Instant::now();
        loop {
            tokio::select! {
                fetched = &mut fetching => return fetched.map_err(failure),
                () = news(&mut seen, report_at) => {
                    let message = seen.borrow_and_update().clone();
                    report_at = Instant::now() + PROGRESS_PAUSE;
                    let _ = feedback.send(Event::Progress(container.clone(), message)).await;
                }
            }
        }
    }
}

/// Told also when nothing changes: news that comes while an earlier status is under way is dropped.
async fn news(seen: &mut watch::Receiver<String>, not_before: Instant) {
    tokio::time::sleep_until(not_before).await;
    let pause: Duration = PROGRESS_PAUSE;
    let _ = tokio::time::timeout(pause, seen.changed()).await;
}

fn failure(error: FetchError) -> LaunchFailure {
    match error {
        FetchError::Cancelled => LaunchFailure::Cancelled,
        FetchError::NotAllowed(message) => failed(
            TaskState::Error,
            Reason::TaskUnauthorized,
            format!("fetch {message}"),
        ),
        FetchError::Failed(message) => failed(
            TaskState::Failed,
            Reason::FetchFailed,
            format!("fetch failed: {message}"),
        ),
    }
}
