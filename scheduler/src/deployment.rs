//! Deployments: a plan of steps that takes apps from one version to another.
//!
//! Pure. [`plan`] makes the steps from the difference, [`step`] says what a step wants of each app and how the plan
//! moves on. What to launch and kill is [`crate::reconcile`]'s business.

pub mod plan;
pub mod step;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::app::{AppId, AppVersion};
use crate::time::Timestamp;

/// Names a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeploymentId(pub Uuid);

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is done to an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionKind {
    /// The app is new.
    StartApplication,
    /// Only the number changes.
    ScaleApplication,
    /// Every instance is replaced.
    RestartApplication,
    /// The app goes.
    StopApplication,
}

impl ActionKind {
    /// Marathon's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StartApplication => "StartApplication",
            Self::ScaleApplication => "ScaleApplication",
            Self::RestartApplication => "RestartApplication",
            Self::StopApplication => "StopApplication",
        }
    }
}

/// One app's part in a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// What.
    pub kind: ActionKind,
    /// To which app.
    pub app: AppId,
}

/// Actions that go on at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// At most one per app.
    pub actions: Vec<Action>,
}

/// A plan under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its name.
    pub id: DeploymentId,
    /// When it was made; also the version of the apps it brings.
    pub version: Timestamp,
    /// In order.
    pub steps: Vec<Step>,
    /// Index of the step under way.
    pub current: usize,
    /// The apps before, for a roll back; `None`: the app is new.
    pub original: BTreeMap<AppId, Option<AppVersion>>,
}

impl Deployment {
    /// Every app it touches.
    pub fn apps(&self) -> impl Iterator<Item = &AppId> {
        self.original.keys()
    }
}
