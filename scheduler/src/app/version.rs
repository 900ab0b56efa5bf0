//! One entry of an app's history.
//!
//! Pure. `config` tells whether two versions run the same thing: scaling and rolling back keep or restore it, so that
//! only instances with another configuration are replaced.

use std::sync::OnceLock;

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
    /// Its JSON, once somebody has asked for it.
    #[serde(skip)]
    pub written: Written,
}

/// A text that is made at most once and says nothing about equality: it follows from the rest.
#[derive(Debug, Default)]
pub struct Written(OnceLock<Box<str>>);

impl Written {
    /// The text, made now if it was not before.
    pub fn get(&self, make: impl FnOnce() -> String) -> &str {
        self.0.get_or_init(|| make().into_boxed_str())
    }
}

impl Clone for Written {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Written {}
