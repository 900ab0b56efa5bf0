//! What the step under way wants of an app, and when the plan moves on.
//!
//! Pure.

use super::course::Stage;
use super::{Action, ActionKind, Deployment};
use crate::app::spec::{PPM, Trial, UpgradeStrategy};
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

    /// Whether an action of the step under way is not done.
    pub(crate) fn is_busy(&self, is_done: impl Fn(&AppId) -> bool) -> bool {
        let mut actions = self.current_actions().iter();
        actions.any(|action| !is_done(&action.app))
    }

    /// Moves on if every action of the step under way is done.
    pub fn advance(&mut self, is_done: impl Fn(&AppId) -> bool) -> Progress {
        if self.current >= self.steps.len() {
            return Progress::Finished;
        }
        if self.is_busy(is_done) {
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

/// What is wanted of an app by an action on it, or without one; `stage` where its update has a course.
#[must_use]
pub fn wanted(action: Option<ActionKind>, stage: Option<Stage>, app: &App) -> Wanted {
    let n = app.instances;
    // Two of everything for a while, whatever the capacities say: that is what was chosen.
    let two_of_all = UpgradeStrategy {
        minimum_health_ppm: PPM,
        maximum_over_ppm: PPM,
        ..app.upgrade
    };
    match action {
        None | Some(ActionKind::StartApplication | ActionKind::ScaleApplication) => {
            Wanted::Scale(n)
        }
        Some(ActionKind::RestartApplication) if app.residency.is_some() => {
            Wanted::Resident(n, app.upgrade)
        }
        Some(ActionKind::RestartApplication) => {
            match (app.upgrade.trial, stage.unwrap_or(Stage::Going)) {
                (Trial::Canary { instances, .. }, Stage::Trying | Stage::Holding) => {
                    Wanted::Trial(n, instances.min(n), app.upgrade)
                }
                (Trial::BlueGreen { .. }, Stage::Trying | Stage::Holding) => {
                    Wanted::Trial(n, n, two_of_all)
                }
                // A roll back of blue and green goes as quickly.
                (Trial::BlueGreen { .. }, Stage::Going) => Wanted::Restart(n, two_of_all),
                (Trial::None, _) | (Trial::Canary { .. }, Stage::Going) => {
                    Wanted::Restart(n, app.upgrade)
                }
            }
        }
        Some(ActionKind::StopApplication) => Wanted::Stop,
    }
}
