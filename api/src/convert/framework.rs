//! What a framework says of itself.

use std::{collections::BTreeSet, time::Duration};

use super::{Invalid, Problems, common::millis};
use crate::{
    model::{
        AttributeConstraint, Capability, FrameworkInfo, OfferFilter, Predicate, Resources,
        RoleName, Selector,
    },
    proto::{self, attribute_constraint as wire},
};

/// Of a constraint, in bytes.
const LONGEST_TEXT: usize = 1024;

impl TryFrom<proto::FrameworkInfo> for FrameworkInfo {
    type Error = Invalid;

    fn try_from(info: proto::FrameworkInfo) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let capabilities = info.capabilities().filter_map(known).collect();
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
        let mut offer_filters = std::collections::BTreeMap::new();
        for (role, filter) in info.offer_filters {
            let field = format!("offer_filters[{role}]");
            let role: Option<RoleName> = problems.take(&field, role.parse());
            let filter = problems.take(&field, OfferFilter::try_from(filter));
            if let Some(role) = role.as_ref().filter(|role| !roles.contains(role)) {
                problems.note(&field, format!("{role} is none of its `roles`"));
            }
            offer_filters.extend(role.zip(filter));
        }
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
            offer_filters,
            capabilities,
        }))
    }
}

/// A newer framework may be able to do more than this version can make use of.
fn known(capability: proto::FrameworkCapability) -> Option<Capability> {
    match capability {
        proto::FrameworkCapability::Unspecified => None,
        proto::FrameworkCapability::RevocableResources => Some(Capability::RevocableResources),
        proto::FrameworkCapability::SharedResources => Some(Capability::SharedResources),
    }
}

impl TryFrom<proto::OfferFilter> for OfferFilter {
    type Error = Invalid;

    fn try_from(filter: proto::OfferFilter) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let mut groups = Vec::new();
        if filter.groups.len() > 64 || filter.minimum.len() > 64 {
            problems.note("groups", "more than 64 of a kind");
        }
        for (i, group) in filter.groups.into_iter().enumerate().take(64) {
            groups.push(problems.list(&format!("groups[{i}]"), group.constraints, 64));
        }
        let mut minimum = Vec::new();
        for (i, least) in filter.minimum.into_iter().enumerate().take(64) {
            let field = format!("minimum[{i}]");
            minimum.extend(problems.take(&field, Resources::try_from(least.resources)));
        }
        problems.finish(Some(Self { groups, minimum }))
    }
}

impl TryFrom<proto::AttributeConstraint> for AttributeConstraint {
    type Error = Invalid;

    fn try_from(constraint: proto::AttributeConstraint) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let selector = match constraint.selector {
            Some(wire::Selector::Attribute(name)) => {
                problems.bound("attribute", &name, 255);
                Some(Selector::Attribute(name))
            }
            Some(wire::Selector::Field(field)) => match wire::Field::try_from(field) {
                Ok(wire::Field::Hostname) => Some(Selector::Hostname),
                Ok(wire::Field::Region) => Some(Selector::Region),
                Ok(wire::Field::Zone) => Some(Selector::Zone),
                Ok(wire::Field::Unspecified) | Err(_) => None,
            },
            None => None,
        };
        if selector.is_none() {
            problems.note("selector", "is missing, or unknown to this version");
        }
        let predicate = match constraint.predicate {
            Some(wire::Predicate::Exists(_)) => Some(Predicate::Exists),
            Some(wire::Predicate::NotExists(_)) => Some(Predicate::NotExists),
            Some(wire::Predicate::TextEquals(text)) => Some(Predicate::TextEquals(text)),
            Some(wire::Predicate::TextNotEquals(text)) => Some(Predicate::TextNotEquals(text)),
            Some(wire::Predicate::TextMatches(text)) => Some(Predicate::TextMatches(text)),
            Some(wire::Predicate::TextNotMatches(text)) => Some(Predicate::TextNotMatches(text)),
            None => {
                problems.note("predicate", "is missing, or unknown to this version");
                None
            }
        };
        match &predicate {
            Some(
                Predicate::TextEquals(text)
                | Predicate::TextNotEquals(text)
                | Predicate::TextMatches(text)
                | Predicate::TextNotMatches(text),
            ) => problems.bound("predicate", text, LONGEST_TEXT),
            Some(Predicate::Exists | Predicate::NotExists) | None => {}
        }
        problems.finish(selector.zip(predicate).map(|(selector, predicate)| Self {
            selector,
            predicate,
        }))
    }
}

impl From<OfferFilter> for proto::OfferFilter {
    fn from(filter: OfferFilter) -> Self {
        let group = |constraints: Vec<AttributeConstraint>| proto::ConstraintGroup {
            constraints: constraints.into_iter().map(Into::into).collect(),
        };
        let least = |resources: Resources| proto::ResourceMinimum {
            resources: resources.into(),
        };
        Self {
            groups: filter.groups.into_iter().map(group).collect(),
            minimum: filter.minimum.into_iter().map(least).collect(),
        }
    }
}

impl From<AttributeConstraint> for proto::AttributeConstraint {
    fn from(constraint: AttributeConstraint) -> Self {
        let selector = match constraint.selector {
            Selector::Attribute(name) => wire::Selector::Attribute(name),
            Selector::Hostname => wire::Selector::Field(wire::Field::Hostname.into()),
            Selector::Region => wire::Selector::Field(wire::Field::Region.into()),
            Selector::Zone => wire::Selector::Field(wire::Field::Zone.into()),
        };
        let predicate = match constraint.predicate {
            Predicate::Exists => wire::Predicate::Exists(wire::Exists {}),
            Predicate::NotExists => wire::Predicate::NotExists(wire::Exists {}),
            Predicate::TextEquals(text) => wire::Predicate::TextEquals(text),
            Predicate::TextNotEquals(text) => wire::Predicate::TextNotEquals(text),
            Predicate::TextMatches(text) => wire::Predicate::TextMatches(text),
            Predicate::TextNotMatches(text) => wire::Predicate::TextNotMatches(text),
        };
        Self {
            selector: Some(selector),
            predicate: Some(predicate),
        }
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
            offer_filters: info
                .offer_filters
                .into_iter()
                .map(|(role, filter)| (role.into(), filter.into()))
                .collect(),
            capabilities: info
                .capabilities
                .into_iter()
                .map(|capability| match capability {
                    Capability::RevocableResources => {
                        proto::FrameworkCapability::RevocableResources.into()
                    }
                    Capability::SharedResources => {
                        proto::FrameworkCapability::SharedResources.into()
                    }
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(constraint: wire::Predicate) -> proto::FrameworkInfo {
        let constraint = proto::AttributeConstraint {
            selector: Some(wire::Selector::Attribute("rack".into())),
            predicate: Some(constraint),
        };
        let filter = proto::OfferFilter {
            groups: vec![proto::ConstraintGroup {
                constraints: vec![constraint],
            }],
            minimum: vec![proto::ResourceMinimum {
                resources: "cpus:2".parse::<Resources>().unwrap().into(),
            }],
        };
        proto::FrameworkInfo {
            name: "f".into(),
            roles: vec!["a".into()],
            offer_filters: [("a".to_owned(), filter)].into(),
            ..proto::FrameworkInfo::default()
        }
    }

    #[test]
    fn offer_filters_survive_the_wire() {
        let info =
            FrameworkInfo::try_from(info(wire::Predicate::TextMatches("r1.*".into()))).unwrap();
        assert_eq!(info.offer_filters.len(), 1);
        let again = FrameworkInfo::try_from(proto::FrameworkInfo::from(info.clone())).unwrap();
        assert_eq!(again, info);
    }

    #[test]
    fn a_bad_offer_filter_is_named_with_its_place() {
        let mut bad = info(wire::Predicate::TextEquals("x".repeat(2000)));
        bad.offer_filters
            .insert("other".into(), proto::OfferFilter::default());
        let told = FrameworkInfo::try_from(bad).unwrap_err().to_string();
        assert!(
            told.contains("offer_filters[a].groups[0][0].predicate"),
            "{told}"
        );
        assert!(told.contains("offer_filters[other]"), "{told}");
    }
}
