//! What tasks take on the disk, and the end of those that take too much. Pure.

use super::Core;
use crate::{
    node::ContainerId,
    task::{
        Context,
        disk::{self, DiskUse},
        entry::Phase,
        event::Effect,
        status::KillCause,
    },
};
use std::time::Duration;

impl Core {
    /// Takes a measurement in. There is no grace: what fills a disk goes on doing so while it is asked to end.
    pub(super) fn disk(
        &mut self,
        id: &ContainerId,
        used: DiskUse,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let enforce = self.settings.enforce_disk;
        if self.has_group(id.as_str()) {
            if enforce {
                self.group_disk(id, used, ctx, effects);
            }
            return;
        }
        let Some(entry) = self.entry(id).filter(|entry| entry.is_alive()) else {
            return;
        };
        entry.disk_bytes = Some(used.bytes);
        entry.disk_that_counts = used.that_counts();
        if let Some(usage) = &mut entry.usage {
            usage.disk_bytes = Some(used.bytes);
        }
        if !enforce || !matches!(entry.phase, Phase::Running { .. }) {
            return;
        }
        let limit = disk::limit(&entry.info);
        let breach = disk::breach(&used, limit);
        let breach = breach.or_else(|| disk::volume_breach(&used, &entry.info));
        if let Some(message) = breach {
            let key = entry.key.clone();
            let cause = KillCause::Disk(message);
            self.kill(&key, Some(Duration::ZERO), cause, ctx, effects);
        }
    }
}
