//! What a framework says of itself.

use std::{collections::BTreeSet, time::Duration};

use super::{Invalid, Problems, common::millis};
use crate::{
    model::{FrameworkInfo, RoleName},
    proto,
};

impl TryFrom<proto::FrameworkInfo> for FrameworkInfo {
    type Error = Invalid;

    fn try_from(info: proto::FrameworkInfo) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let framework_id = if info.framework_id.is_empty() {
            None
        } else {
            problems.take("framework_id", info.framework_id.parse())
        };
        if info.name.is_empty() {
            problems.note("name", "is empty; give the framework a name for people");
        }
        for (field, text) in [
            ("name", &info.name),
            ("user", &info.user),
            ("hostname", &info.hostname),
            ("principal", &info.principal),
            ("webui_url", &info.webui_url),
        ] {
            problems.bound(field, text, 1024);
        }
        if info.labels.len() > 256 {
            problems.note("labels", "more than 256");
        }
        for (name, value) in &info.labels {
            problems.bound("labels", name, 1024);
            problems.bound("labels", value, 16 * 1024);
        }
        let roles: BTreeSet<RoleName> =
            problems.list("roles", info.roles, 64).into_iter().collect();
        let roles = if roles.is_empty() {
            vec![RoleName::any()]
        } else {
            roles.into_iter().collect()
        };
        problems.finish(Some(Self {
            framework_id,
            name: info.name,
            user: info.user,
            roles,
            failover_timeout: Duration::from_millis(info.failover_timeout_ms),
            hostname: info.hostname,
            principal: info.principal,
            webui_url: info.webui_url,
            labels: info.labels.into_iter().collect(),
        }))
    }
}

impl From<FrameworkInfo> for proto::FrameworkInfo {
    fn from(info: FrameworkInfo) -> Self {
        Self {
            framework_id: info.framework_id.map(Into::into).unwrap_or_default(),
            name: info.name,
            user: info.user,
            roles: info.roles.into_iter().map(Into::into).collect(),
            failover_timeout_ms: millis(info.failover_timeout),
            hostname: info.hostname,
            principal: info.principal,
            webui_url: info.webui_url,
            labels: info.labels.into_iter().collect(),
        }
    }
}
