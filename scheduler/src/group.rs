//! Groups of apps: a tree over the paths of apps, with dependencies between its parts.
//!
//! Pure. A group is there as long as an app lies below it, or because somebody made it; only the latter has a record, with
//! what it depends on and its history. [`read`] makes an [`Update`] from JSON.

pub mod id;
pub mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use id::GroupId;
pub use read::{Update, check_group_json};

use crate::app::{App, AppId};
use crate::time::Timestamp;

/// What somebody said of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// When it last changed as a group.
    pub version: Timestamp,
    /// Apps and groups that deployments take before anything in it.
    pub dependencies: BTreeSet<AppId>,
    /// Of a top-level group: new apps and pods in it have its name as their role, and no other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enforce_role: bool,
}

/// All that a group was, with everything below it, from `version` on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupVersion {
    /// Unique among all versions.
    pub version: Timestamp,
    /// Every app and pod below.
    pub apps: Vec<App>,
    /// The group and every group below that has a record, with their dependencies.
    pub groups: BTreeMap<GroupId, BTreeSet<AppId>>,
}

/// A group that somebody made.
#[derive(Debug, Clone)]
pub struct GroupState {
    /// As it is.
    pub current: Group,
    /// As it was after each change of the group as a whole; bounded by number and by the apps in them.
    pub versions: BTreeMap<Timestamp, Arc<GroupVersion>>,
}
