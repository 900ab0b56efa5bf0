//! One entry of an app's history.
//!
//! Pure. `config` tells whether two versions run the same thing: scaling and rolling back keep or restore it, so that
//! only instances with another configuration are replaced.

use serde::{Deserialize, Serialize};

use super::App;
use crate::time::Timestamp;

/// An app as it was from `version` on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppVersion {
    /// Unique among all versions of all apps.
    pub version: Timestamp,
    /// The version that first had this configuration.
    pub config: Timestamp,
    /// When the number of instances last changed.
    pub last_scaling_at: Timestamp,
    /// When anything else last changed.
    pub last_config_change_at: Timestamp,
    /// What was asked for.
    pub app: App,
}
