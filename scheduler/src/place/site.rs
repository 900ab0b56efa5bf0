//! Where a machine is, and whether an app's constraints let an instance run there beside those that run already.
//!
//! Pure. As in Marathon only instances of the same app and configuration count, and a machine without the attribute
//! meets UNLIKE alone.

use std::collections::BTreeMap;

use mezzo_api::model::{Attribute, AttributeValue, Offer};

use super::Lack;
use crate::app::constraint::{Constraint, Operator};

/// What is known of a machine's place.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// As people know it.
    pub hostname: &'a str,
    /// Empty where there is none.
    pub region: &'a str,
    /// Empty where there is none.
    pub zone: &'a str,
    /// Its operator's.
    pub attributes: &'a [Attribute],
}

impl<'a> From<&'a Offer> for Site<'a> {
    fn from(offer: &'a Offer) -> Self {
        Self {
            hostname: &offer.hostname,
            region: &offer.region,
            zone: &offer.zone,
            attributes: &offer.attributes,
        }
    }
}

impl Site<'_> {
    /// What a constraint's field is here. `region` and `zone` are attributes; where there is none of that name, they mean
    /// what the agent says of itself, as `@region` and `@zone` do.
    #[must_use]
    pub fn value(&self, field: &str) -> Option<String> {
        let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attribute = || {
            let found = self.attributes.iter().find(|known| known.name == field)?;
            Some(match &found.value {
                AttributeValue::Scalar(number) => number.to_string(),
                AttributeValue::Text(text) => text.clone(),
            })
        };
        match field {
            "@hostname" | "hostname" => said(self.hostname),
            "@region" => said(self.region),
            "@zone" => said(self.zone),
            "region" => attribute().or_else(|| said(self.region)),
            "zone" => attribute().or_else(|| said(self.zone)),
            _ => attribute(),
        }
    }

    /// The values of all fields that `constraints` name: what is kept of an instance's place.
    #[must_use]
    pub fn values(&self, constraints: &[Constraint]) -> BTreeMap<String, String> {
        constraints
            .iter()
            .filter_map(|constraint| {
                Some((constraint.field.clone(), self.value(&constraint.field)?))
            })
            .collect()
    }
}

/// How many instances have which value of each constraint's field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    counts: Vec<BTreeMap<String, u32>>,
}

impl Tally {
    /// Of instances whose places are `placed`.
    #[must_use]
    pub fn new<'p>(
        constraints: &[Constraint],
        placed: impl IntoIterator<Item = &'p BTreeMap<String, String>>,
    ) -> Self {
        let mut tally = Self {
            counts: vec![BTreeMap::new(); constraints.len()],
        };
        if !constraints.is_empty() {
            for place in placed {
                tally.add(constraints, place);
            }
        }
        tally
    }

    /// One more instance, at `place`.
    pub fn add(&mut self, constraints: &[Constraint], place: &BTreeMap<String, String>) {
        for (constraint, counts) in constraints.iter().zip(&mut self.counts) {
            if let Some(value) = place.get(&constraint.field) {
                *counts.entry(value.clone()).or_default() += 1;
            }
        }
    }

    /// One less, that was at `place`.
    pub(crate) fn remove(&mut self, constraints: &[Constraint], place: &BTreeMap<String, String>) {
        for (constraint, counts) in constraints.iter().zip(&mut self.counts) {
            let value = place.get(&constraint.field);
            if let Some((value, count)) =
                value.and_then(|value| Some((value, counts.get_mut(value)?)))
            {
                *count -= 1;
                if *count == 0 {
                    counts.remove(value);
                }
            }
        }
    }

    /// How many share the most crowded group that an instance at `place` would join.
    #[must_use]
    pub fn crowd(&self, constraints: &[Constraint], place: &BTreeMap<String, String>) -> u32 {
        constraints
            .iter()
            .zip(&self.counts)
            .filter(|(constraint, _)| matches!(constraint.operator, Operator::GroupBy(_)))
            .filter_map(|(constraint, counts)| counts.get(place.get(&constraint.field)?))
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// Which of the constraints keep one more instance from `place`. `wanted` is how many the app asks for.
    #[must_use]
    pub fn refuses(
        &self,
        constraints: &[Constraint],
        place: &BTreeMap<String, String>,
        wanted: u32,
    ) -> Vec<Lack> {
        constraints
            .iter()
            .zip(&self.counts)
            .filter_map(|(constraint, counts)| {
                let value = place.get(&constraint.field).map(String::as_str);
                Some(Lack::Constraint {
                    constraint: constraint.to_string(),
                    problem: problem(
                        &constraint.operator,
                        &constraint.field,
                        value,
                        counts,
                        wanted,
                    )?,
                })
            })
            .collect()
    }
}

/// What speaks against one more instance where the field has `value`.
fn problem(
    operator: &Operator,
    field: &str,
    value: Option<&str>,
    counts: &BTreeMap<String, u32>,
    wanted: u32,
) -> Option<String> {
    let Some(value) = value else {
        return (!matches!(operator, Operator::Unlike(_)))
            .then(|| format!("the node has no {}", field.trim_start_matches('@')));
    };
    let here = counts.get(value).copied().unwrap_or(0);
    match operator {
        Operator::Unique => (here > 0).then(|| format!("an instance runs on {value} already")),
        Operator::MaxPer(most) => {
            (here >= *most).then(|| format!("{here} instances run on {value} already"))
        }
        Operator::Cluster(Some(only)) | Operator::Is(only) => {
            (value != only).then(|| format!("the node has {value}"))
        }
        Operator::Cluster(None) => {
            let other = counts.keys().find(|other| *other != value)?;
            Some(format!("the node has {value}, the others run on {other}"))
        }
        Operator::Like(pattern) => {
            (!pattern.matches(value)).then(|| format!("the node has {value}"))
        }
        Operator::Unlike(pattern) => pattern
            .matches(value)
            .then(|| format!("the node has {value}")),
        Operator::GroupBy(None) => {
            let least = counts.values().min().copied().unwrap_or(0);
            (here > least).then(|| format!("{value} has {here} instances, another has {least}"))
        }
        Operator::GroupBy(Some(groups)) => grouped(value, here, counts, *groups, wanted),
    }
}

/// GROUP_BY with a number: each of so many groups has its share, the first ones one more if it does not come out even.
fn grouped(
    value: &str,
    here: u32,
    counts: &BTreeMap<String, u32>,
    groups: u32,
    wanted: u32,
) -> Option<String> {
    let seen = u32::try_from(counts.len()).unwrap_or(u32::MAX);
    if here == 0 && seen >= groups {
        return Some(format!("{value} would be one more than {groups} groups"));
    }
    let (share, rest) = (wanted / groups, wanted % groups);
    if here < share {
        return None;
    }
    let above = counts.values().filter(|count| **count > share).count();
    let may_have_more = here == share && u32::try_from(above).is_ok_and(|above| above < rest);
    (!may_have_more).then(|| format!("{value} has {here} of {wanted} instances already, its share"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mezzo_api::model::Scalar;

    fn constraint(text: &[&str]) -> Constraint {
        let app = serde_json::json!({
            "id": "/a", "container": {"docker": {"image": "a:1"}}, "constraints": [text],
        });
        let (app, report) = crate::app::parse_app(&app, None);
        app.unwrap_or_else(|| panic!("{report:?}"))
            .constraints
            .remove(0)
    }

    /// The values on which an instance would be let, of `values`, with instances on `placed` and 4 wanted.
    fn lets(text: &[&str], placed: &[&str], values: &[&str]) -> Vec<String> {
        let constraints = [constraint(text)];
        let place = |value: &str| BTreeMap::from([(text[0].to_owned(), value.to_owned())]);
        let placed: Vec<_> = placed.iter().map(|value| place(value)).collect();
        let tally = Tally::new(&constraints, &placed);
        values
            .iter()
            .filter(|value| {
                let place = if value.is_empty() {
                    BTreeMap::new()
                } else {
                    place(value)
                };
                tally.refuses(&constraints, &place, 4).is_empty()
            })
            .map(|value| (*value).to_owned())
            .collect()
    }

    #[test]
    fn operators_are_those_of_marathon() {
        let all = ["a", "b", "c", ""];
        for (text, placed, want) in [
            (&["rack", "UNIQUE"][..], &["a"][..], &["b", "c"][..]),
            (&["rack", "CLUSTER"], &[], &["a", "b", "c"]),
            (&["rack", "CLUSTER"], &["b"], &["b"]),
            (&["rack", "CLUSTER", "c"], &[], &["c"]),
            (&["rack", "IS", "c"], &["c"], &["c"]),
            (&["rack", "LIKE", "[ab]"], &[], &["a", "b"]),
            (&["rack", "LIKE", "a|bb"], &[], &["a"]),
            (&["rack", "UNLIKE", "[ab]"], &[], &["c", ""]),
            (&["rack", "MAX_PER", "2"], &["a", "a", "b"], &["b", "c"]),
            (&["rack", "GROUP_BY"], &["a", "b", "a"], &["b", "c"]),
            (&["rack", "GROUP_BY"], &["a", "b"], &["a", "b", "c"]),
            (&["rack", "GROUP_BY", "2"], &["a"], &["a", "b", "c"]),
            (&["rack", "GROUP_BY", "2"], &["a", "a"], &["b", "c"]),
            (&["rack", "GROUP_BY", "2"], &["a", "b"], &["a", "b"]),
            (
                &["rack", "GROUP_BY", "3"],
                &["a", "b", "c"],
                &["a", "b", "c"],
            ),
            (
                &["rack", "GROUP_BY", "3"],
                &["a", "a", "b"],
                &["b", "c"][1..],
            ),
        ] {
            assert_eq!(lets(text, placed, &all), want, "{text:?} with {placed:?}");
        }
    }

    #[test]
    fn fields_are_the_hosts_the_regions_and_the_attributes() {
        let attributes = [
            Attribute {
                name: "rack".into(),
                value: AttributeValue::Text("r1".into()),
            },
            Attribute {
                name: "gen".into(),
                value: AttributeValue::Scalar(Scalar::from_units(7)),
            },
        ];
        let site = Site {
            hostname: "n1",
            region: "eu",
            zone: "",
            attributes: &attributes,
        };
        for (field, want) in [
            ("@hostname", Some("n1")),
            ("hostname", Some("n1")),
            ("@region", Some("eu")),
            ("region", Some("eu")),
            ("@zone", None),
            ("rack", Some("r1")),
            ("gen", Some("7")),
            ("ssd", None),
        ] {
            assert_eq!(site.value(field).as_deref(), want, "{field}");
        }
    }
}
