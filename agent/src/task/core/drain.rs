//! Out of service and back: the master says so, this ends what runs and refuses what comes. Pure.
//!
//! Nothing of it is on disk here: kills are (as statuses), and the master says after every registration whether the
//! drain goes on. Without a master nothing is launched anyway.

use std::time::Duration;

use mezzo_api::model::{Reason, TaskState};

use super::Core;
use crate::task::{
    Context,
    event::Effect,
    status::{KillCause, Outcome},
};

/// Whether new tasks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Service {
    /// Yes.
    #[default]
    Active,
    /// No: the operator takes the machine out of service.
    Draining,
}

impl Core {
    /// Ends every task, none with more than `max_grace`. Again and again is like once, but that a shorter grace counts.
    pub(super) fn drain(
        &mut self,
        max_grace: Option<Duration>,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if self.service == Service::Active {
            tracing::info!(
                ?max_grace,
                tasks = self.tasks.len(),
                "the operator drains this agent"
            );
        }
        self.service = Service::Draining;
        let all: Vec<_> = self
            .tasks
            .values()
            .filter(|entry| entry.ended_at().is_none())
            .map(|entry| {
                let own = entry.info.kill_grace.unwrap_or(self.settings.kill_grace);
                (entry.key.clone(), max_grace.map(|most| own.min(most)))
            })
            .collect();
        for (key, grace) in all {
            self.kill(&key, grace, KillCause::Draining, ctx, effects);
        }
    }

    pub(super) fn activate(&mut self) {
        if self.service == Service::Draining {
            tracing::info!("this agent is in service again");
        }
        self.service = Service::Active;
    }

    pub(super) fn refuse_draining(&self) -> Option<Outcome> {
        match self.service {
            Service::Active => None,
            Service::Draining => Some(Outcome::new(
                TaskState::Dropped,
                Reason::AgentDraining,
                "the operator takes this agent out of service; start the task elsewhere",
            )),
        }
    }
}
