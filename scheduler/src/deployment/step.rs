//! What the step under way wants of an app, and when the plan moves on.
//!
//! Pure.

use super::{Action, ActionKind, Deployment};
use crate::app::{App, AppId};
use crate::reconcile::Wanted;

/// What a deployment is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The step under way is not done.
    Busy,
    /// The next step has begun.
    Advanced,
    /// No step is left.
    Finished,
}

impl Deployment {
    /// The actions under way.
    #[must_use]
    pub fn current_actions(&self) -> &[Action] {
        self.steps
            .get(self.current)
            .map_or(&[], |step| step.actions.as_slice())
    }

    /// Moves on if every action of the step under way is done.
    pub fn advance(&mut self, is_done: impl Fn(&AppId) -> bool) -> Progress {
        if self.current >= self.steps.len() {
            return Progress::Finished;
        }
        if !self
            .current_actions()
            .iter()
            .all(|action| is_done(&action.app))
        {
            return Progress::Busy;
        }
        self.current += 1;
        if self.current >= self.steps.len() {
            Progress::Finished
        } else {
            Progress::Advanced
        }
    }
}

/// What is wanted of an app by an action on it, or without one.
#[must_use]
pub fn wanted(action: Option<ActionKind>, app: &App) -> Wanted {
    match action {
        None | Some(ActionKind::StartApplication | ActionKind::ScaleApplication) => {
            Wanted::Scale(app.instances)
        }
        Some(ActionKind::RestartApplication) if app.residency.is_some() => {
            Wanted::Resident(app.instances, app.upgrade)
        }
        Some(ActionKind::RestartApplication) => Wanted::Restart(app.instances, app.upgrade),
        Some(ActionKind::StopApplication) => Wanted::Stop,
    }
}
