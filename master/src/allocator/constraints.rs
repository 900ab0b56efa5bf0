//! A framework's offer filter, ready to be asked: which agents it takes, and how little is too little.
//!
//! Regular expressions come from frameworks: they are compiled once, within a bound, by an engine whose time is linear
//! in the text, and they must match the whole of it, as in Mesos.

use mezzo_api::model::{
    AgentInfo, AttributeConstraint, AttributeValue, OfferFilter, Pools, Predicate, Resources,
    Selector,
};
use regex::{Regex, RegexBuilder};
use thiserror::Error;

/// Of one compiled expression, in bytes.
const LARGEST_PROGRAM: usize = 64 * 1024;

/// A regular expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("offer filter: the regular expression {pattern:?} cannot be used: {problem}")]
pub struct InvalidPattern {
    /// As it was given.
    pub pattern: String,
    /// What is wrong with it.
    pub problem: String,
}

/// An [`OfferFilter`] with its expressions compiled.
#[derive(Debug, Clone)]
pub struct Constraints {
    groups: Vec<Vec<(Selector, Test)>>,
    minimum: Vec<Resources>,
}

#[derive(Debug, Clone)]
enum Test {
    Exists,
    Equals(String),
    Matches(Regex),
    Not(Box<Test>),
}

impl Constraints {
    /// Compiles a filter.
    ///
    /// # Errors
    ///
    /// When an expression is none, or is too large.
    pub fn new(filter: &OfferFilter) -> Result<Self, InvalidPattern> {
        let test = |constraint: &AttributeConstraint| {
            Ok((
                constraint.selector.clone(),
                Test::new(&constraint.predicate)?,
            ))
        };
        let group = |group: &Vec<AttributeConstraint>| group.iter().map(test).collect();
        Ok(Self {
            groups: filter.groups.iter().map(group).collect::<Result<_, _>>()?,
            minimum: filter.minimum.clone(),
        })
    }

    /// Whether the framework wants to hear of that agent.
    #[must_use]
    pub fn admits(&self, agent: &AgentInfo) -> bool {
        self.groups.is_empty()
            || self.groups.iter().any(|group| {
                group
                    .iter()
                    .all(|(selector, test)| test.holds(selector, agent))
            })
    }

    /// Whether an offer of that much is worth its while.
    #[must_use]
    pub fn is_enough(&self, offer: &Pools) -> bool {
        if offer.is_open() || self.minimum.is_empty() {
            return self.minimum.is_empty()
                || self
                    .minimum
                    .iter()
                    .any(|least| offer.open().contains(least));
        }
        let all = offer.flat();
        self.minimum.iter().any(|least| all.contains(least))
    }
}

impl Test {
    fn new(predicate: &Predicate) -> Result<Self, InvalidPattern> {
        let not = |test: Self| Self::Not(Box::new(test));
        Ok(match predicate {
            Predicate::Exists => Self::Exists,
            Predicate::NotExists => not(Self::Exists),
            Predicate::TextEquals(text) => Self::Equals(text.clone()),
            Predicate::TextNotEquals(text) => not(Self::Equals(text.clone())),
            Predicate::TextMatches(pattern) => Self::Matches(compile(pattern)?),
            Predicate::TextNotMatches(pattern) => not(Self::Matches(compile(pattern)?)),
        })
    }

    fn holds(&self, selector: &Selector, agent: &AgentInfo) -> bool {
        if let Self::Not(test) = self {
            return !test.holds(selector, agent);
        }
        match selector {
            Selector::Hostname => self.fits(&agent.hostname),
            Selector::Region => !agent.region.is_empty() && self.fits(&agent.region),
            Selector::Zone => !agent.zone.is_empty() && self.fits(&agent.zone),
            Selector::Attribute(name) => agent
                .attributes
                .iter()
                .filter(|attribute| attribute.name == *name)
                .any(|attribute| match &attribute.value {
                    AttributeValue::Text(text) => self.fits(text),
                    AttributeValue::Scalar(scalar) => self.fits(&scalar.to_string()),
                }),
        }
    }

    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exists => true,
            Self::Equals(wanted) => wanted == text,
            Self::Matches(regex) => regex.is_match(text),
            Self::Not(test) => !test.fits(text),
        }
    }
}

fn compile(pattern: &str) -> Result<Regex, InvalidPattern> {
    let invalid = |error: regex::Error| InvalidPattern {
        pattern: pattern.to_owned(),
        problem: error.to_string(),
    };
    // Alone first: `a)(b` must not become valid by what is put around it.
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(LARGEST_PROGRAM)
            .dfa_size_limit(LARGEST_PROGRAM)
            .build()
    };
    build(pattern).map_err(invalid)?;
    build(&format!("^(?:{pattern})$")).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::{Attribute, CgroupMode};

    use super::*;

    fn agent() -> AgentInfo {
        let attribute = |name: &str, value| Attribute {
            name: name.to_owned(),
            value,
        };
        AgentInfo {
            hostname: "n1.example".into(),
            address: String::new(),
            resources: Resources::new(),
            attributes: vec![
                attribute("rack", AttributeValue::Text("r12".into())),
                attribute("disk", AttributeValue::Text("ssd".into())),
                attribute("disk", AttributeValue::Text("hdd".into())),
                attribute("level", AttributeValue::Scalar("2.5".parse().unwrap())),
            ],
            region: "eu".into(),
            zone: String::new(),
            version: String::new(),
            kernel: String::new(),
            architecture: String::new(),
            cgroup_mode: CgroupMode::V2,
            reserved: Vec::new(),
            volumes: Vec::new(),
        }
    }

    fn admits(constraints: &[(Selector, Predicate)]) -> bool {
        let group = constraints
            .iter()
            .cloned()
            .map(|(selector, predicate)| AttributeConstraint {
                selector,
                predicate,
            });
        let filter = OfferFilter {
            groups: vec![group.collect()],
            minimum: Vec::new(),
        };
        Constraints::new(&filter).unwrap().admits(&agent())
    }

    #[test]
    fn each_predicate_and_its_negation() {
        use Predicate::{
            Exists, NotExists, TextEquals, TextMatches, TextNotEquals, TextNotMatches,
        };
        let attribute = |name: &str| Selector::Attribute(name.to_owned());
        for (selector, predicate, holds) in [
            (attribute("rack"), Exists, true),
            (attribute("none"), Exists, false),
            (attribute("none"), NotExists, true),
            (attribute("rack"), TextEquals("r12".into()), true),
            (attribute("rack"), TextEquals("r1".into()), false),
            (attribute("none"), TextEquals(String::new()), false),
            (attribute("none"), TextNotEquals("x".into()), true),
            (attribute("disk"), TextEquals("hdd".into()), true),
            (attribute("disk"), TextNotEquals("hdd".into()), false),
            (attribute("level"), TextEquals("2.5".into()), true),
            (attribute("rack"), TextMatches("r[0-9]+".into()), true),
            (attribute("rack"), TextMatches("r1|r2".into()), false),
            (attribute("rack"), TextNotMatches("r[0-9]".into()), true),
            (
                Selector::Hostname,
                TextMatches(r"n\d\.example".into()),
                true,
            ),
            (Selector::Region, TextEquals("eu".into()), true),
            (Selector::Zone, NotExists, true),
            (Selector::Zone, TextMatches(".*".into()), false),
        ] {
            assert_eq!(
                admits(&[(selector.clone(), predicate.clone())]),
                holds,
                "{selector:?} {predicate:?}"
            );
        }
        let rack = (attribute("rack"), Exists);
        assert!(!admits(&[rack.clone(), (attribute("none"), Exists)]));
        assert!(admits(&[rack, (Selector::Hostname, Exists)]));
    }

    #[test]
    fn patterns_that_are_none_or_too_large_are_refused() {
        for bad in ["(", "a)(b", r"(a)\1", "(?=a)", "(a{1000}){1000}"] {
            let filter = OfferFilter {
                groups: vec![vec![AttributeConstraint {
                    selector: Selector::Hostname,
                    predicate: Predicate::TextMatches(bad.into()),
                }]],
                minimum: Vec::new(),
            };
            let told = Constraints::new(&filter).unwrap_err().to_string();
            assert!(told.contains("regular expression"), "{bad}: {told}");
        }
    }

    #[test]
    fn one_of_the_minimums_is_enough() {
        let filter = OfferFilter {
            groups: Vec::new(),
            minimum: vec!["cpus:4".parse().unwrap(), "mem:100;gpus:1".parse().unwrap()],
        };
        let constraints = Constraints::new(&filter).unwrap();
        for (offer, enough) in [
            ("cpus:4", true),
            ("cpus:3;mem:100", false),
            ("mem:100;gpus:2", true),
        ] {
            assert_eq!(
                constraints.is_enough(&offer.parse().unwrap()),
                enough,
                "{offer}"
            );
        }
    }
}
