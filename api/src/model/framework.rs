//! What a framework says of itself.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{FrameworkId, RoleName};

/// A framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkInfo {
    /// `None` before the first subscription.
    pub framework_id: Option<FrameworkId>,
    /// For people.
    pub name: String,
    /// For people.
    pub user: String,
    /// Never empty; ascending, each once.
    pub roles: Vec<RoleName>,
    /// How long its tasks are kept when its stream broke.
    pub failover_timeout: Duration,
    /// Where it runs.
    pub hostname: String,
    /// Whom it claims to be.
    pub principal: String,
    /// Where people look at it.
    pub webui_url: String,
    /// Opaque to mezzo.
    pub labels: BTreeMap<String, String>,
}
