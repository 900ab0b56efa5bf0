//! Resources, attributes, offers, filters.

use std::time::Duration;

use super::{Invalid, Problems};
use crate::{
    model::{
        Attribute, AttributeValue, Filters, MOST_POOLS, MOST_VOLUMES, Offer, Ranges, Resources,
        Scalar, Unavailability, Value,
    },
    proto,
};

/// The largest scalar taken from the wire: 10^15 units. Nine thousand of them still add up within an `i64`.
const LARGEST_MILLIS: i64 = 1_000_000_000_000_000;
const MOST_RESOURCES: usize = 64;
const MOST_RANGES: usize = 4096;
const MOST_ITEMS: usize = 4096;

/// Reads a list of resources; the same name twice, a negative or a huge number is a problem.
impl TryFrom<Vec<proto::Resource>> for Resources {
    type Error = Invalid;

    fn try_from(list: Vec<proto::Resource>) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        if list.len() > MOST_RESOURCES {
            return Err(Invalid::new(
                "",
                format!("more than {MOST_RESOURCES} resources"),
            ));
        }
        let mut values: Vec<(String, Value)> = Vec::with_capacity(list.len());
        for (i, resource) in list.into_iter().enumerate() {
            let field = || format!("[{i}]");
            let name = resource.name;
            if name.is_empty()
                || name.len() > 255
                || name
                    .chars()
                    .any(|c| c.is_control() || c.is_whitespace() || ";:[]{},".contains(c))
            {
                problems.note(
                    &field(),
                    format!("resource name {name:?} is not valid: 1 to 255 characters, no white space and none of ;:[]{{}},"),
                );
                continue;
            }
            if values.iter().any(|(before, _)| *before == name) {
                problems.note(&field(), format!("resource {name:?} stands twice"));
                continue;
            }
            match read_value(&name, resource.value) {
                Ok(value) => values.push((name, value)),
                Err(invalid) => problems.extend(invalid.within(&field()).problems),
            }
        }
        let resources = Self::of(values);
        problems.finish(Some(resources))
    }
}

fn read_value(name: &str, value: Option<proto::resource::Value>) -> Result<Value, Invalid> {
    match value {
        None => Err(Invalid::new("", format!("resource {name:?} has no value"))),
        Some(proto::resource::Value::Scalar(s)) if s.millis < 0 => {
            Err(Invalid::new("", format!("resource {name:?} is negative")))
        }
        Some(proto::resource::Value::Scalar(s)) if s.millis > LARGEST_MILLIS => Err(Invalid::new(
            "",
            format!("resource {name:?} is larger than {}", LARGEST_MILLIS / 1000),
        )),
        Some(proto::resource::Value::Scalar(_)) if name == "ports" => {
            Err(Invalid::new("", "resource \"ports\" must be ranges"))
        }
        Some(proto::resource::Value::Scalar(s)) => Ok(Value::Scalar(Scalar::from_millis(s.millis))),
        Some(proto::resource::Value::Ranges(_) | proto::resource::Value::Set(_))
            if ["cpus", "mem", "disk", "gpus"].contains(&name) =>
        {
            Err(Invalid::new(
                "",
                format!("resource {name:?} must be a scalar"),
            ))
        }
        Some(proto::resource::Value::Ranges(r)) if r.ranges.len() > MOST_RANGES => {
            Err(Invalid::new(
                "",
                format!("resource {name:?} has more than {MOST_RANGES} ranges"),
            ))
        }
        Some(proto::resource::Value::Ranges(r)) => {
            if let Some(bad) = r.ranges.iter().find(|range| range.begin > range.end) {
                return Err(Invalid::new(
                    "",
                    format!(
                        "resource {name:?} has range {}-{}, which ends before it begins",
                        bad.begin, bad.end
                    ),
                ));
            }
            if name == "ports" && r.ranges.iter().any(|range| range.end > u64::from(u16::MAX)) {
                return Err(Invalid::new("", "resource \"ports\" goes beyond 65535"));
            }
            Ok(Value::Ranges(Ranges::new(
                r.ranges.iter().map(|range| (range.begin, range.end)),
            )))
        }
        Some(proto::resource::Value::Set(s)) if s.items.len() > MOST_ITEMS => Err(Invalid::new(
            "",
            format!("resource {name:?} has more than {MOST_ITEMS} items"),
        )),
        Some(proto::resource::Value::Set(s)) => Ok(Value::Set(s.items.into_iter().collect())),
    }
}

impl From<Resources> for Vec<proto::Resource> {
    fn from(resources: Resources) -> Self {
        (&resources).into()
    }
}

impl From<&Resources> for Vec<proto::Resource> {
    fn from(resources: &Resources) -> Self {
        let entries = resources.iter();
        entries.map(|(name, value)| resource(name, value)).collect()
    }
}

pub(super) fn resource(name: &str, value: &Value) -> proto::Resource {
    proto::Resource {
        name: name.to_owned(),
        value: Some(match value {
            Value::Scalar(s) => proto::resource::Value::Scalar((*s).into()),
            Value::Ranges(r) => proto::resource::Value::Ranges(proto::Ranges {
                ranges: r
                    .as_slice()
                    .iter()
                    .map(|&(begin, end)| proto::Range { begin, end })
                    .collect(),
            }),
            Value::Set(s) => proto::resource::Value::Set(proto::Set {
                items: s.iter().cloned().collect(),
            }),
        }),
    }
}

impl From<Scalar> for proto::Scalar {
    fn from(scalar: Scalar) -> Self {
        Self {
            millis: scalar.millis(),
        }
    }
}

impl From<proto::Scalar> for Scalar {
    fn from(scalar: proto::Scalar) -> Self {
        Self::from_millis(scalar.millis)
    }
}

impl TryFrom<proto::Attribute> for Attribute {
    type Error = Invalid;

    fn try_from(attribute: proto::Attribute) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        if attribute.name.is_empty() {
            problems.note("name", "is empty");
        }
        problems.bound("name", &attribute.name, 255);
        let value = match attribute.value {
            None => problems.take("value", Err(Invalid::new("", "is missing"))),
            Some(proto::attribute::Value::Text(text)) => {
                problems.bound("text", &text, 4096);
                Some(AttributeValue::Text(text))
            }
            Some(proto::attribute::Value::Scalar(s)) => Some(AttributeValue::Scalar(s.into())),
        };
        problems.finish(value.map(|value| Self {
            name: attribute.name,
            value,
        }))
    }
}

impl From<Attribute> for proto::Attribute {
    fn from(attribute: Attribute) -> Self {
        Self {
            name: attribute.name,
            value: Some(match attribute.value {
                AttributeValue::Text(text) => proto::attribute::Value::Text(text),
                AttributeValue::Scalar(s) => proto::attribute::Value::Scalar(s.into()),
            }),
        }
    }
}

impl TryFrom<proto::Offer> for Offer {
    type Error = Invalid;

    fn try_from(offer: proto::Offer) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let offer_id = problems.take("offer_id", offer.offer_id.parse());
        let framework_id = problems.take("framework_id", offer.framework_id.parse());
        let agent_id = problems.take("agent_id", offer.agent_id.parse());
        let role = problems.take("role", offer.role.parse());
        let resources = problems.take("resources", offer.resources.try_into());
        let attributes = problems.list("attributes", offer.attributes, 256);
        let reserved = problems.list("reserved", offer.reserved, MOST_POOLS);
        let volumes = problems.list("volumes", offer.volumes, MOST_VOLUMES);
        let unavailability = match offer.unavailability {
            Some(planned) => {
                let window = problems.take("unavailability.window", planned.window.parse());
                // A window that cannot be read is a problem, not no window.
                let known = window.map(|window| {
                    Box::new(Unavailability {
                        window,
                        starts_at_ms: planned.starts_at_ms,
                        drains_at_ms: planned.drains_at_ms,
                        ends_at_ms: planned.ends_at_ms,
                    })
                });
                Some(known)
            }
            None => None,
        };
        let value = (|| {
            Some(Self {
                offer_id: offer_id?,
                framework_id: framework_id?,
                agent_id: agent_id?,
                hostname: offer.hostname,
                role: role?,
                resources: resources?,
                attributes,
                region: offer.region,
                zone: offer.zone,
                address: offer.address,
                reserved,
                volumes,
                revocable: offer.revocable,
                unavailability: match unavailability {
                    Some(planned) => Some(planned?),
                    None => None,
                },
            })
        })();
        problems.finish(value)
    }
}

impl From<Offer> for proto::Offer {
    fn from(offer: Offer) -> Self {
        Self {
            offer_id: offer.offer_id.into(),
            framework_id: offer.framework_id.into(),
            agent_id: offer.agent_id.into(),
            hostname: offer.hostname,
            role: offer.role.into(),
            resources: offer.resources.into(),
            attributes: offer.attributes.into_iter().map(Into::into).collect(),
            region: offer.region,
            zone: offer.zone,
            address: offer.address,
            reserved: offer.reserved.into_iter().map(Into::into).collect(),
            volumes: offer.volumes.into_iter().map(Into::into).collect(),
            revocable: offer.revocable,
            unavailability: offer.unavailability.map(|planned| proto::Unavailability {
                window: planned.window.to_string(),
                starts_at_ms: planned.starts_at_ms,
                drains_at_ms: planned.drains_at_ms,
                ends_at_ms: planned.ends_at_ms,
            }),
        }
    }
}

/// Absent is the default; longer than the longest is the longest.
impl From<proto::Filters> for Filters {
    fn from(filters: proto::Filters) -> Self {
        match filters.refuse_ms {
            None => Self::DEFAULT,
            Some(ms) => Self {
                refuse: Duration::from_millis(ms).min(Self::LONGEST),
            },
        }
    }
}

impl From<Filters> for proto::Filters {
    fn from(filters: Filters) -> Self {
        Self {
            refuse_ms: Some(millis(filters.refuse)),
        }
    }
}

/// A duration as the wire has it.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(name: &str, millis: i64) -> proto::Resource {
        proto::Resource {
            name: name.into(),
            value: Some(proto::resource::Value::Scalar(proto::Scalar { millis })),
        }
    }

    #[test]
    fn every_bad_resource_is_named_with_its_place() {
        let error = Resources::try_from(vec![
            scalar("cpus", 1000),
            scalar("mem", -1),
            scalar("cpus", 1),
            scalar("a;b", 1),
            scalar("ports", 1),
            scalar("huge", i64::MAX),
            proto::Resource {
                name: "none".into(),
                value: None,
            },
        ])
        .unwrap_err();
        let fields: Vec<_> = error.problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            ["[1]", "[2]", "[3]", "[4]", "[5]", "[6]"],
            "{error}"
        );
        assert_eq!(
            error.within("task.resources").problems[0].field,
            "task.resources[1]"
        );
    }

    #[test]
    fn resources_survive_the_wire() {
        let resources: Resources = "cpus:0.1;mem:32;ports:[80-80,31000-32000];disks:{a,b}"
            .parse()
            .unwrap();
        assert_eq!(
            Resources::try_from(Vec::from(resources.clone())).unwrap(),
            resources
        );
    }
}
