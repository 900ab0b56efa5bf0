//! Ending tasks: on request, with their framework, with the agent. Pure.
//!
//! What a kill means depends on the phase: before the process runs the launch is given up, afterwards the process is
//! asked, and killed when its grace period is over (`time` watches that).

use std::time::Duration;

use mezzo_api::model::FrameworkId;

use super::Core;
use crate::task::{
    Context, TaskKey,
    entry::{Interest, Next, Phase},
    event::Effect,
    status::KillCause,
};

impl Core {
    pub(super) fn kill_requested(
        &mut self,
        key: &TaskKey,
        grace: Option<Duration>,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        match self.tasks.get(key) {
            Some(entry) if entry.ended_at().is_none() => {
                self.kill(key, grace, KillCause::Requested, ctx, effects);
            }
            Some(_) => self.tell_again(key, effects),
            None if self.tombstones.contains_key(key) => self.tell_again(key, effects),
            None => tracing::info!(task = %key, "asked to kill a task that is not here"),
        }
    }

    pub(super) fn kill(
        &mut self,
        key: &TaskKey,
        grace: Option<Duration>,
        cause: KillCause,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let default_grace = self.settings.kill_grace;
        let Some(entry) = self.tasks.get_mut(key) else {
            return;
        };
        let during_launch = || cause.clone().before_it_ran();
        match &mut entry.phase {
            Phase::Creating(next) => {
                if *next == Next::Launch {
                    *next = Next::End(during_launch().outcome("it never ran"));
                }
            }
            Phase::Launching { kill } => {
                if kill.is_none() {
                    *kill = Some(during_launch());
                    effects.push(Effect::CancelLaunch(entry.container.clone()));
                }
            }
            Phase::Running { .. } => {
                let grace = grace.or(entry.info.kill_grace).unwrap_or(default_grace);
                let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                let outcome = cause.killing(grace_ms);
                entry.phase = Phase::Killing {
                    cause,
                    kill_at_ms: ctx.now.mono_ms.saturating_add(grace_ms),
                };
                let container = entry.container.clone();
                effects.push(Effect::StopHealth(container.clone()));
                effects.push(Effect::Terminate(container.clone()));
                self.tell(&container, outcome, ctx, effects);
            }
            Phase::Killing { kill_at_ms, .. } => {
                // May shorten a grace period that runs, never lengthen it.
                if let Some(grace) = grace {
                    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                    *kill_at_ms = (*kill_at_ms).min(ctx.now.mono_ms.saturating_add(grace_ms));
                }
            }
            Phase::Ended { .. } => {}
        }
    }

    pub(super) fn shutdown_framework(
        &mut self,
        framework: &FrameworkId,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let theirs: Vec<_> = self
            .tasks
            .keys()
            .filter(|key| key.framework == *framework)
            .cloned()
            .collect();
        for key in theirs {
            if let Some(entry) = self.tasks.get_mut(&key)
                && entry.interest == Interest::Framework
            {
                entry.interest = Interest::Nobody;
                effects.push(Effect::AppendForgotten(entry.container.clone()));
            }
            self.kill(&key, None, KillCause::FrameworkRemoved, ctx, effects);
        }
        self.forget_operations(framework, effects);
    }
}
