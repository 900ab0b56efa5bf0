//! Lets unused images go when the disk fills, and keeps count of what images take. One task of its own, beside pulls.
//!
//! Which images go is the image store's decision; here is when to look, what to say and what to count. When nothing more
//! can go, it says so and looks less often: the disk is full of something else.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    actor::{Command, Handle},
    node::{Collected, GcPolicy, Images},
};

/// Between two looks at the disk.
const INTERVAL: Duration = Duration::from_secs(30);
/// After one that freed nothing.
const NOTHING_TO_FREE: Duration = Duration::from_secs(300);

/// What images take, and what went since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ImageStats {
    pub(crate) images: u64,
    pub(crate) disk_bytes: u64,
    /// Times that the disk was used above the high mark.
    pub(crate) runs: u64,
    pub(crate) removed: u64,
    pub(crate) freed_bytes: u64,
    /// Used above the low mark after the last run.
    pub(crate) short_bytes: u64,
}

/// Runs until told to stop. Without a policy it only counts.
pub(crate) async fn run(
    handle: Handle,
    images: Arc<dyn Images>,
    policy: Option<GcPolicy>,
    shutdown: CancellationToken,
) {
    let mut stats = ImageStats::default();
    let mut next_run = Instant::now();
    loop {
        if let Some(policy) = policy
            && Instant::now() >= next_run
        {
            // Given up when told to stop: what is half deleted is deleted by the next start.
            let collected = tokio::select! {
                () = shutdown.cancelled() => return,
                collected = images.collect_garbage(policy) => collected,
            };
            match &collected {
                Ok(Some(collected)) => tell(collected, policy),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot make room by removing images"),
            }
            next_run = Instant::now() + stats.count(collected.as_ref().ok());
        }
        match images.usage().await {
            Ok(usage) => (stats.images, stats.disk_bytes) = (usage.images, usage.disk_bytes),
            Err(error) => tracing::warn!(%error, "cannot tell what images take"),
        }
        if handle.send(Command::Images(stats)).await.is_err() {
            return;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

impl ImageStats {
    /// Counts a round, and says when the next one shall be. None: it failed. Pure.
    fn count(&mut self, round: Option<&Option<Collected>>) -> Duration {
        let Some(round) = round else {
            return NOTHING_TO_FREE;
        };
        let Some(collected) = round else {
            self.short_bytes = 0;
            return INTERVAL;
        };
        self.runs += 1;
        self.removed += collected.removed.len() as u64;
        self.freed_bytes += collected.freed_bytes;
        self.short_bytes = collected.short_bytes;
        if collected.freed_bytes > 0 {
            INTERVAL
        } else {
            NOTHING_TO_FREE
        }
    }
}

fn tell(collected: &Collected, policy: GcPolicy) {
    let Collected {
        removed,
        freed_bytes,
        used_percent_before,
        used_percent_after,
        short_bytes,
        in_use,
        young,
    } = collected;
    let names = removed.join(", ");
    if *freed_bytes > 0 {
        tracing::info!(
            removed = names,
            freed_bytes,
            used_percent_before,
            used_percent_after,
            "removed unused images because the disk is full"
        );
    }
    if *short_bytes > 0 {
        tracing::warn!(
            used_percent = used_percent_after,
            low_percent = policy.low_percent,
            short_bytes,
            in_use,
            young,
            "the disk is full, and no more images can be removed: make room elsewhere"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_is_counted_and_a_disk_full_of_other_things_is_looked_at_less_often() {
        let round = |removed: &[&str], freed_bytes, short_bytes| {
            Some(Collected {
                removed: removed.iter().map(ToString::to_string).collect(),
                freed_bytes,
                short_bytes,
                ..Collected::default()
            })
        };
        let mut stats = ImageStats::default();
        let mut seen = Vec::new();
        for round in [
            Some(None),
            Some(round(&["a:1", "b:1"], 10, 0)),
            Some(round(&["c:1"], 5, 3)),
            Some(round(&[], 0, 3)),
            None,
            Some(None),
        ] {
            let pause = stats.count(round.as_ref());
            let ImageStats {
                runs,
                removed,
                freed_bytes,
                short_bytes,
                ..
            } = stats;
            seen.push((pause, [runs, removed, freed_bytes, short_bytes]));
        }
        assert_eq!(
            seen,
            [
                (INTERVAL, [0, 0, 0, 0]),
                (INTERVAL, [1, 2, 10, 0]),
                (INTERVAL, [2, 3, 15, 3]),
                (NOTHING_TO_FREE, [3, 3, 15, 3]),
                (NOTHING_TO_FREE, [3, 3, 15, 3]),
                (INTERVAL, [3, 3, 15, 0]),
            ]
        );
    }
}
