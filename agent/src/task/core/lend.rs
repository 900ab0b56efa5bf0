//! What is lent to revocable tasks: a ledger of its own, how far they are held back, and the end of one that must go.
//! Pure; what to do is decided in `slack`.
//!
//! None of it is on disk but a kill (as a status): an agent that has just started lends nothing, holds nobody back, and
//! finds out anew within a few samples.

use std::time::Duration;

use mezzo_api::model::{Reason, Resources, TaskInfo, TaskState};

use super::Core;
use crate::{
    node::ContainerId,
    resources::ledger::Ledger,
    slack::qos::{Scarce, Throttle},
    task::{
        Context,
        entry::Phase,
        event::Effect,
        status::{KillCause, Outcome},
    },
};

/// Beside the ordinary ledger.
#[derive(Debug, Default)]
pub(super) struct Lent {
    ledger: Ledger,
    pub(super) throttle: Throttle,
}

impl Core {
    /// What revocable tasks may take, all together, and what of it is left.
    pub(crate) fn lent(&self) -> (&Resources, Resources) {
        (self.lent.ledger.total(), self.lent.ledger.free())
    }

    /// So much from now on; less than they hold is fine, and then nothing is free.
    pub(super) fn lend(&mut self, total: Resources) {
        self.lent.ledger.declare(total);
    }

    /// Books what a task takes where it is taken from.
    pub(super) fn reserve(&mut self, id: &ContainerId, info: &TaskInfo) -> Result<(), Outcome> {
        if !info.revocable {
            let reserved = self.ledger.reserve(id, &info.resources);
            return reserved.map_err(|error| {
                let message = error.to_string();
                Outcome::new(TaskState::Error, Reason::ResourcesUnavailable, message)
            });
        }
        // Not the framework's mistake: the offer was good when it was made.
        self.lent
            .ledger
            .reserve(id, &info.resources)
            .map_err(|error| {
                let message = format!("less is lent here than when this was offered: {error}");
                Outcome::new(TaskState::Dropped, Reason::ResourcesUnavailable, message)
            })
    }

    /// The same for one that runs already.
    pub(super) fn hold(&mut self, id: &ContainerId, info: &TaskInfo) {
        let ledger = if info.revocable {
            &mut self.lent.ledger
        } else {
            &mut self.ledger
        };
        ledger.adopt(id, &info.resources);
    }

    /// Its last process is gone, wherever it held something.
    pub(super) fn give_back(&mut self, id: &ContainerId) {
        self.ledger.release(id);
        self.lent.ledger.release(id);
    }

    /// Holds all revocable tasks back so far from now on.
    pub(super) fn hold_back(&mut self, throttle: Throttle, effects: &mut Vec<Effect>) {
        self.lent.throttle = throttle;
        let theirs: Vec<_> = self
            .tasks
            .values()
            .filter(|entry| entry.info.revocable && entry.is_alive())
            .map(|entry| entry.container.clone())
            .collect();
        for id in theirs {
            self.tell_new_limits(&id, effects);
        }
    }

    /// Ends one. For memory without a grace: what takes it goes on doing so while it is asked to end.
    pub(super) fn preempt(
        &mut self,
        id: &ContainerId,
        scarce: Scarce,
        message: String,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.entry(id) else { return };
        if !entry.info.revocable || !matches!(entry.phase, Phase::Running { .. }) {
            return;
        }
        let key = entry.key.clone();
        tracing::warn!(task = %key, container = %id, why = message, "a revocable task must go");
        let grace = match scarce {
            Scarce::Cpu => None,
            Scarce::Memory => Some(Duration::ZERO),
        };
        self.kill(&key, grace, KillCause::Preempted(message), ctx, effects);
    }
}
