//! Deployments: a plan of steps that takes apps from one version to another.
//!
//! Pure. [`plan`] makes the steps from the difference, in the order of [`graph`], [`step`] says what a step wants of each app and how the plan
//! moves on, [`course`] how an app comes through a trial. What to launch and kill is [`crate::reconcile`]'s business.

pub mod course;
pub mod graph;
pub mod plan;
pub mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use course::Course;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::app::{AppId, AppVersion};
use crate::group::{Group, GroupId};
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
    /// The groups that it changes as they were before; `None`: the group is new.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<GroupId, Option<Group>>,
    /// Of the apps whose step has begun and that chose a trial or a deadline.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub courses: BTreeMap<AppId, Course>,
    /// Those of its apps that are pods.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pods: BTreeSet<AppId>,
    /// It takes another one back: no trials, and no deadline at which it would be taken back itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_rollback: bool,
}

/// What a deployment has to do with an app that it has locked. Derived, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Which.
    pub deployment: DeploymentId,
    /// What it does to the app, and the index of the step.
    pub action: Option<(ActionKind, usize)>,
}

impl Deployment {
    /// Every app it touches.
    pub fn apps(&self) -> impl Iterator<Item = &AppId> {
        self.original.keys()
    }

    /// What it has to do with each of them.
    #[must_use]
    pub fn locks(&self) -> BTreeMap<AppId, Lock> {
        let none = Lock {
            deployment: self.id,
            action: None,
        };
        let mut locks: BTreeMap<AppId, Lock> = self.apps().map(|app| (app.clone(), none)).collect();
        for (index, step) in self.steps.iter().enumerate() {
            for action in &step.actions {
                let action_here = Some((action.kind, index));
                locks.insert(
                    action.app.clone(),
                    Lock {
                        action: action_here,
                        ..none
                    },
                );
            }
        }
        locks
    }
}
