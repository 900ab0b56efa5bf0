//! What the time brings about: grace periods that are over, tasks that run too long, statuses to repeat, ended tasks to
//! collect. Pure; called after every event.

use mezzo_api::model::{Reason, TaskState};

use super::{Core, FORGOTTEN_ATTEMPTS, HEALTH_QUEUE, KILL_AGAIN_MS, TOMBSTONES};
use crate::task::{
    Context,
    entry::{Interest, Phase},
    event::Effect,
    status::{KillCause, Outcome},
};

impl Core {
    /// Everything that the time, not an event, brings about.
    pub(super) fn keep_time(&mut self, ctx: &mut Context<'_>, effects: &mut Vec<Effect>) {
        let now_ms = ctx.now.mono_ms;
        let mut too_long = Vec::new();
        let mut health = Vec::new();
        for entry in self.tasks.values_mut() {
            match &mut entry.phase {
                Phase::Running {
                    complete_by_ms: Some(by),
                } if now_ms >= *by => {
                    too_long.push(entry.key.clone());
                }
                Phase::Killing { kill_at_ms, .. } if now_ms >= *kill_at_ms => {
                    *kill_at_ms = now_ms.saturating_add(KILL_AGAIN_MS);
                    effects.push(Effect::Kill(entry.container.clone()));
                }
                Phase::Running { .. }
                    if (entry.health != entry.latest.health_results
                        || entry.readiness != entry.latest.readiness
                        || entry.check_result != entry.latest.check_result)
                        && entry.updates.len() < HEALTH_QUEUE =>
                {
                    let reason = if entry.health == entry.latest.health_results {
                        Reason::TaskCheckStatusUpdated
                    } else {
                        Reason::HealthCheckStatusUpdated
                    };
                    health.push((entry.container.clone(), reason));
                }
                Phase::Creating(_)
                | Phase::Launching { .. }
                | Phase::Running { .. }
                | Phase::Killing { .. }
                | Phase::Ended { .. } => {}
            }
            if !self.connected {
                continue;
            }
            if entry.interest == Interest::Nobody && entry.updates.attempts() >= FORGOTTEN_ATTEMPTS
            {
                entry.updates.clear();
                self.next_collection_ms = 0;
            }
            if let Some(status) = entry.updates.take_due(now_ms) {
                effects.push(Effect::Send(Box::new(status.clone())));
            }
        }
        for key in too_long {
            let limit = self
                .tasks
                .get(&key)
                .and_then(|entry| entry.info.max_completion)
                .unwrap_or_default();
            let cause =
                KillCause::MaxCompletion(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            self.kill(&key, None, cause, ctx, effects);
        }
        for (id, reason) in health {
            let outcome = Outcome::new(TaskState::Running, reason, String::new());
            self.tell(&id, outcome, ctx, effects);
        }
        if now_ms >= self.next_collection_ms {
            self.collect(now_ms, effects);
        }
    }

    /// Gives up what is kept only to be looked at: beyond the number to retain, or too old.
    pub(super) fn collect(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        self.next_collection_ms = now_ms.saturating_add(30_000);
        let mut settled: Vec<_> = self
            .tasks
            .values()
            .filter(|entry| entry.updates.is_empty())
            .filter_map(|entry| Some((entry.ended_at()?, entry.key.clone())))
            .collect();
        settled.sort();
        let surplus = settled.len().saturating_sub(self.settings.retain_ended);
        for (n, (at_ms, key)) in settled.into_iter().enumerate() {
            if n >= surplus && now_ms.saturating_sub(at_ms) < self.settings.retain_ms {
                continue;
            }
            if let Some(entry) = self.tasks.remove(&key) {
                self.by_container.remove(&entry.container);
                effects.push(Effect::Collect(entry.container));
                self.tombstone_order.push_back(key.clone());
                self.tombstones.insert(key, entry.latest);
                if self.tombstone_order.len() > TOMBSTONES
                    && let Some(oldest) = self.tombstone_order.pop_front()
                {
                    self.tombstones.remove(&oldest);
                }
            }
        }
    }
}
