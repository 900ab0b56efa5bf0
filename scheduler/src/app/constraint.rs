//! Constraints: which machines an app's instances may run on, and how they lie there, by Marathon's operators.
//!
//! Pure. A constraint is a list of field, operator and, for most, a value. Which instances lie where already is the
//! business of [`crate::place`].

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::read::{Fields, Report, expected};

/// What a compiled pattern may take, in bytes; patterns come from outside.
const MAX_PATTERN: usize = 1 << 20;

/// One condition on the machine of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// `@hostname` or `hostname`, `@region`, `@zone`, or the name of an attribute.
    pub field: String,
    /// What about it.
    pub operator: Operator,
}

/// What is asked of a field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// No two instances share one.
    Unique,
    /// This one; or without a value the same for all, whichever the first has.
    Cluster(Option<String>),
    /// Instances spread evenly over the values, of which there are so many if a number is given.
    GroupBy(Option<u32>),
    /// It matches.
    Like(Pattern),
    /// It does not match, or the machine has no such attribute.
    Unlike(Pattern),
    /// At most so many instances share one.
    MaxPer(u32),
    /// Exactly this one.
    Is(String),
}

/// A regular expression for a whole value.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    whole: Regex,
}

impl Pattern {
    /// Compiles it, or says what is wrong with it.
    fn new(text: &str) -> Result<Self, String> {
        RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(MAX_PATTERN)
            .build()
            .map(|whole| Self {
                text: text.to_owned(),
                whole,
            })
            .map_err(|error| {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default();
                format!("{text:?} is not a valid regular expression: {why}")
            })
    }

    /// Whether the whole of `value` matches.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        self.whole.is_match(value)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Operator {
    /// Marathon's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unique => "UNIQUE",
            Self::Cluster(_) => "CLUSTER",
            Self::GroupBy(_) => "GROUP_BY",
            Self::Like(_) => "LIKE",
            Self::Unlike(_) => "UNLIKE",
            Self::MaxPer(_) => "MAX_PER",
            Self::Is(_) => "IS",
        }
    }

    fn value(&self) -> Option<String> {
        match self {
            Self::Unique | Self::Cluster(None) | Self::GroupBy(None) => None,
            Self::Cluster(Some(value)) | Self::Is(value) => Some(value.clone()),
            Self::GroupBy(Some(number)) | Self::MaxPer(number) => Some(number.to_string()),
            Self::Like(pattern) | Self::Unlike(pattern) => Some(pattern.to_string()),
        }
    }
}

impl Constraint {
    /// As Marathon writes it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        [self.field.clone(), self.operator.name().to_owned()]
            .into_iter()
            .chain(self.operator.value())
            .collect::<Vec<String>>()
            .into()
    }

    /// As Chronos writes it.
    #[must_use]
    pub(crate) fn to_job_json(&self) -> Value {
        let mut parts = self.to_json();
        if matches!(self.operator, Operator::Is(_)) {
            parts[1] = "EQUALS".into();
        }
        parts
    }

    /// How many instances may share a value of the field, where that has a bound.
    #[must_use]
    pub fn per_value(&self) -> Option<u32> {
        match self.operator {
            Operator::Unique => Some(1),
            Operator::MaxPer(most) => Some(most),
            Operator::Cluster(_)
            | Operator::GroupBy(_)
            | Operator::Like(_)
            | Operator::Unlike(_)
            | Operator::Is(_) => None,
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.operator.name())?;
        match self.operator.value() {
            Some(value) => write!(f, " {value}"),
            None => Ok(()),
        }
    }
}

/// What apps may say.
const OF_APPS: [&str; 7] = [
    "UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS",
];
/// What jobs may say, by Chronos' names: their runs know nothing of each other, so nothing but where the machine is.
const OF_JOBS: [&str; 4] = ["EQUALS", "LIKE", "UNLIKE", "IS"];

/// `constraints` of an app, each a list of two or three strings.
pub(super) fn read(fields: &Fields<'_>, report: &mut Report) -> Vec<Constraint> {
    read_all(fields, &OF_APPS, report)
}

/// The same of a job.
pub(crate) fn read_of_job(fields: &Fields<'_>, report: &mut Report) -> Vec<Constraint> {
    read_all(fields, &OF_JOBS, report)
}

fn read_all(fields: &Fields<'_>, known: &[&str], report: &mut Report) -> Vec<Constraint> {
    let items = fields.list("constraints", report).unwrap_or_default();
    let mut constraints: Vec<Constraint> = Vec::new();
    for (path, item) in items {
        let Some(parts) = strings(item, &path, report) else {
            continue;
        };
        match constraint(&parts, known) {
            Ok(constraint) if constraints.contains(&constraint) => {
                report.value_problem(path, format!("{constraint} is there twice"));
            }
            Ok(constraint) => constraints.push(constraint),
            Err(problem) => report.value_problem(path, problem),
        }
    }
    constraints
}

fn strings(item: &Value, path: &str, report: &mut Report) -> Option<Vec<String>> {
    let Some(parts) = item.as_array() else {
        report.type_problem(path, expected("a list of field, operator and value", item));
        return None;
    };
    let mut texts = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        match part.as_str() {
            Some(text) => texts.push(text.to_owned()),
            None => report.type_problem(format!("{path}({i})"), expected("a string", part)),
        }
    }
    (texts.len() == parts.len()).then_some(texts)
}

fn constraint(parts: &[String], known: &[&str]) -> Result<Constraint, String> {
    let (field, operator, value) = match parts {
        [field, operator] => (field, operator, None),
        [field, operator, value] => (field, operator, Some(value.as_str())),
        _ => return Err("Each constraint must have either 2 or 3 fields".to_owned()),
    };
    if field.is_empty() {
        return Err("the field must not be empty".to_owned());
    }
    if let Some(unknown) = field
        .strip_prefix('@')
        .filter(|name| !["hostname", "region", "zone"].contains(name))
    {
        return Err(format!(
            "there is no field @{unknown}: there are @hostname, @region, @zone and the attributes of the agents"
        ));
    }
    let name = operator.to_ascii_uppercase();
    if !known.contains(&name.as_str()) {
        return Err(no_operator(operator, known));
    }
    let number = |what: &str| -> Result<Option<u32>, String> {
        value
            .map(|value| {
                value.parse().map_err(|_| {
                    format!("{name} must define an integer value as {what}, got {value:?}")
                })
            })
            .transpose()
    };
    let text = |why: &str| {
        value
            .filter(|value| !value.is_empty())
            .ok_or(why.to_owned())
    };
    let operator = match name.as_str() {
        "UNIQUE" if value.is_some_and(|value| !value.is_empty()) => {
            return Err("UNIQUE has no value: Value specified but not used".to_owned());
        }
        "UNIQUE" => Operator::Unique,
        "CLUSTER" => Operator::Cluster(value.filter(|value| !value.is_empty()).map(str::to_owned)),
        "GROUP_BY" => match number("the number of groups")? {
            Some(0) => return Err("GROUP_BY needs at least one group".to_owned()),
            groups => Operator::GroupBy(groups),
        },
        "LIKE" => Operator::Like(Pattern::new(text(
            "A regular expression value must be provided",
        )?)?),
        "UNLIKE" => Operator::Unlike(Pattern::new(text(
            "A regular expression value must be provided",
        )?)?),
        "MAX_PER" => match number("the most per value")? {
            None => {
                return Err(
                    "MAX_PER must define an integer value: Value was not specified".to_owned(),
                );
            }
            Some(0) => return Err("MAX_PER 0 would let no instance run".to_owned()),
            Some(most) => Operator::MaxPer(most),
        },
        "IS" | "EQUALS" => Operator::Is(text(&format!("{name} needs a value"))?.to_owned()),
        _ => return Err(no_operator(operator, known)),
    };
    Ok(Constraint {
        field: field.clone(),
        operator,
    })
}

fn no_operator(given: &str, known: &[&str]) -> String {
    format!(
        "Constraint operator must be one of the following: {}; got {given:?}",
        known.join(", ")
    )
}
