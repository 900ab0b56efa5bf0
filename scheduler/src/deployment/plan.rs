//! Makes the steps of a deployment from what is and what is wanted.
//!
//! Pure. Without dependencies between apps every action is in one step.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Action, ActionKind, Deployment, DeploymentId, Step};
use crate::app::{AppId, AppVersion};
use crate::time::Timestamp;

/// One app before and after.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which.
    pub app: AppId,
    /// `None`: it is new.
    pub from: Option<Arc<AppVersion>>,
    /// `None`: it goes.
    pub to: Option<Arc<AppVersion>>,
    /// Instances of more than one configuration run: also those of others than `from` are to be replaced.
    pub mixed: bool,
    /// An earlier plan was broken off: even the same number may have to be restored.
    pub resumed: bool,
}

/// The plan for `changes`: what goes first, users before what they depend on; then the rest, by `levels`, users after
/// what they depend on. Apps that stay as they are need no action.
#[must_use]
pub fn plan(
    id: DeploymentId,
    version: Timestamp,
    changes: &[Change],
    levels: &BTreeMap<AppId, usize>,
) -> Deployment {
    let mut steps: BTreeMap<(bool, usize), Vec<Action>> = BTreeMap::new();
    for change in changes {
        let Some(kind) = action(change) else { continue };
        let level = levels.get(&change.app).copied().unwrap_or(0);
        let at = match kind {
            ActionKind::StopApplication => (false, usize::MAX - level),
            ActionKind::StartApplication
            | ActionKind::ScaleApplication
            | ActionKind::RestartApplication => (true, level),
        };
        steps.entry(at).or_default().push(Action {
            kind,
            app: change.app.clone(),
        });
    }
    let original: BTreeMap<AppId, Option<AppVersion>> = changes
        .iter()
        .map(|change| (change.app.clone(), change.from.as_deref().cloned()))
        .collect();
    Deployment {
        id,
        version,
        steps: steps
            .into_values()
            .map(|actions| Step { actions })
            .collect(),
        current: 0,
        original,
        groups: BTreeMap::new(),
        courses: BTreeMap::new(),
        pods: changes
            .iter()
            .filter(|change| {
                let version = change.to.as_ref().or(change.from.as_ref());
                version.is_some_and(|version| version.app.pod.is_some())
            })
            .map(|change| change.app.clone())
            .collect(),
        is_rollback: false,
    }
}

fn action(change: &Change) -> Option<ActionKind> {
    match (&change.from, &change.to) {
        (None, None) => None,
        (None, Some(_)) => Some(ActionKind::StartApplication),
        (Some(_), None) => Some(ActionKind::StopApplication),
        (Some(from), Some(to)) if from.config != to.config || change.mixed => {
            Some(ActionKind::RestartApplication)
        }
        (Some(from), Some(to)) if from.app.instances != to.app.instances || change.resumed => {
            Some(ActionKind::ScaleApplication)
        }
        (Some(_), Some(_)) => None,
    }
}
