//! Reads JSON objects field by field and keeps going: every problem is collected with its path, every unknown field is
//! named with the known one that looks most like it.
//!
//! Pure. serde's derive stops at the first mistake; people who write app files by hand deserve the whole list.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// Whether a problem is one of JSON types (HTTP 400) or of values (HTTP 422).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// A string where a number belongs, and so on.
    Type,
    /// The right type with a value that cannot be.
    Value,
}

/// One thing that is wrong with an app, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As Marathon writes paths: `/container/docker/image`, `/healthChecks(0)/path`.
    pub path: String,
    /// What sort.
    pub kind: ProblemKind,
    /// For people: what is wrong and what would be right.
    pub message: String,
}

/// A field that no app has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Where it stands.
    pub path: String,
    /// The known field in the same place that it was probably meant to be.
    pub nearest: Option<String>,
}

/// Everything found while reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Reasons to refuse the app.
    pub errors: Vec<Problem>,
    /// Fields that have no effect.
    pub unknown: Vec<Unknown>,
}

impl Report {
    /// Adds a problem of type.
    pub(crate) fn type_problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(Problem {
            path: path.into(),
            kind: ProblemKind::Type,
            message: message.into(),
        });
    }

    /// Adds a problem of value.
    pub(crate) fn value_problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(Problem {
            path: path.into(),
            kind: ProblemKind::Value,
            message: message.into(),
        });
    }
}

/// One JSON object with the names it may have.
#[derive(Debug)]
pub(crate) struct Fields<'v> {
    map: &'v Map<String, Value>,
    path: String,
}

impl<'v> Fields<'v> {
    /// Takes `value` as an object and reports what it has beyond `known`.
    pub(crate) fn open(
        value: &'v Value,
        path: String,
        known: &[&str],
        report: &mut Report,
    ) -> Option<Self> {
        let Some(map) = value.as_object() else {
            let shown = if path.is_empty() { "/" } else { &path };
            report.type_problem(shown, expected("an object", value));
            return None;
        };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            report.unknown.push(Unknown {
                path: format!("{path}/{name}"),
                nearest: nearest(name, known),
            });
        }
        Some(Self { map, path })
    }

    /// The path of a field of this object.
    pub(crate) fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// The value, if there is one: `null` counts as absent, as in Marathon.
    pub(crate) fn get(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&self, name: &str, report: &mut Report) -> Option<String> {
        let value = self.get(name)?;
        let Some(text) = value.as_str() else {
            report.type_problem(self.path_of(name), expected("a string", value));
            return None;
        };
        if text.contains('\0') {
            report.value_problem(self.path_of(name), "must not contain a NUL character");
            return None;
        }
        Some(text.to_owned())
    }

    pub(crate) fn boolean(&self, name: &str, report: &mut Report) -> Option<bool> {
        let value = self.get(name)?;
        let read = value.as_bool();
        if read.is_none() {
            report.type_problem(self.path_of(name), expected("true or false", value));
        }
        read
    }

    /// A whole number of at least `min` and at most `max`.
    pub(crate) fn integer(
        &self,
        name: &str,
        min: u64,
        max: u64,
        report: &mut Report,
    ) -> Option<u64> {
        let value = self.get(name)?;
        let Some(number) = value.as_number() else {
            report.type_problem(self.path_of(name), expected("a whole number", value));
            return None;
        };
        match decimal(number, 0) {
            Ok(whole) if whole >= i128::from(min) && whole <= i128::from(max) => {
                u64::try_from(whole).ok()
            }
            Ok(_) | Err(NotDecimal::TooLarge) => {
                report.value_problem(
                    self.path_of(name),
                    format!("got {number}, must be between {min} and {max}"),
                );
                None
            }
            Err(NotDecimal::TooFine) => {
                report.type_problem(
                    self.path_of(name),
                    format!("got {number}, must be a whole number"),
                );
                None
            }
        }
    }

    /// A number with at most `places` decimals, as an integer of that unit, between `min` and `max` in the same unit.
    pub(crate) fn decimal(
        &self,
        name: &str,
        places: u32,
        min: u64,
        max: u64,
        report: &mut Report,
    ) -> Option<u64> {
        let value = self.get(name)?;
        let Some(number) = value.as_number() else {
            report.type_problem(self.path_of(name), expected("a number", value));
            return None;
        };
        match decimal(number, places) {
            Ok(read) if read >= i128::from(min) && read <= i128::from(max) => {
                u64::try_from(read).ok()
            }
            Ok(_) | Err(NotDecimal::TooLarge) => {
                report.value_problem(
                    self.path_of(name),
                    format!(
                        "got {number}, must be between {} and {}",
                        show_decimal(min, places),
                        show_decimal(max, places)
                    ),
                );
                None
            }
            Err(NotDecimal::TooFine) => {
                report.value_problem(
                    self.path_of(name),
                    format!(
                        "got {number}, finer than {}, the smallest step",
                        show_decimal(1, places)
                    ),
                );
                None
            }
        }
    }

    /// A list's elements with their paths.
    pub(crate) fn list(&self, name: &str, report: &mut Report) -> Option<Vec<(String, &'v Value)>> {
        let value = self.get(name)?;
        let Some(items) = value.as_array() else {
            report.type_problem(self.path_of(name), expected("a list", value));
            return None;
        };
        let path = self.path_of(name);
        Some(
            items
                .iter()
                .enumerate()
                .map(|(i, item)| (format!("{path}({i})"), item))
                .collect(),
        )
    }

    pub(crate) fn strings(&self, name: &str, report: &mut Report) -> Option<Vec<String>> {
        let items = self.list(name, report)?;
        Some(
            items
                .into_iter()
                .filter_map(|(path, item)| match item.as_str() {
                    Some(text) if !text.contains('\0') => Some(text.to_owned()),
                    Some(_) => {
                        report.value_problem(path, "must not contain a NUL character");
                        None
                    }
                    None => {
                        report.type_problem(path, expected("a string", item));
                        None
                    }
                })
                .collect(),
        )
    }

    pub(crate) fn string_map(
        &self,
        name: &str,
        report: &mut Report,
    ) -> Option<BTreeMap<String, String>> {
        let value = self.get(name)?;
        let path = self.path_of(name);
        let Some(map) = value.as_object() else {
            report.type_problem(path, expected("an object", value));
            return None;
        };
        let mut read = BTreeMap::new();
        for (key, item) in map {
            match item.as_str() {
                Some(text) if !text.contains('\0') && !key.contains('\0') => {
                    read.insert(key.clone(), text.to_owned());
                }
                Some(_) => report
                    .value_problem(format!("{path}/{key}"), "must not contain a NUL character"),
                None => report.type_problem(format!("{path}/{key}"), expected("a string", item)),
            }
        }
        Some(read)
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
        report: &mut Report,
    ) -> Option<T> {
        let text = self.string(name, report)?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            report.value_problem(
                self.path_of(name),
                format!("got {text:?}, must be one of {}", words.join(", ")),
            );
        }
        found.map(|(_, choice)| *choice)
    }

    /// A field of Marathon's that this scheduler does not do yet: fine while it says nothing, else a clear refusal.
    pub(crate) fn unsupported(&self, name: &str, advice: &str, report: &mut Report) {
        if let Some(value) = self.get(name)
            && !says_nothing(value)
        {
            let advice = if advice.is_empty() {
                String::new()
            } else {
                format!(": {advice}")
            };
            report.value_problem(self.path_of(name), format!("not supported yet{advice}"));
        }
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

pub(crate) fn expected(what: &str, found: &Value) -> String {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    format!("expected {what}, found {found}")
}

/// Why a number has no exact form with so many decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotDecimal {
    TooFine,
    TooLarge,
}

/// A JSON number as an integer of 10^-places, exactly: no float arithmetic touches it.
pub(crate) fn decimal(number: &Number, places: u32) -> Result<i128, NotDecimal> {
    let text = number.to_string();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (
            mantissa,
            exponent.parse::<i32>().map_err(|_| NotDecimal::TooLarge)?,
        ),
        None => (text.as_str(), 0),
    };
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let mut value: i128 = digits.parse().map_err(|_| NotDecimal::TooLarge)?;
    let fraction_len = i32::try_from(fraction.len()).map_err(|_| NotDecimal::TooFine)?;
    let places = i32::try_from(places).map_err(|_| NotDecimal::TooLarge)?;
    let mut shift = places + exponent - fraction_len;
    while shift > 0 && value != 0 {
        value = value.checked_mul(10).ok_or(NotDecimal::TooLarge)?;
        shift -= 1;
    }
    while shift < 0 && value != 0 {
        if value % 10 != 0 {
            return Err(NotDecimal::TooFine);
        }
        value /= 10;
        shift += 1;
    }
    Ok(if negative { -value } else { value })
}

/// The reverse of [`decimal`] as a JSON number: whole numbers without a point.
pub(crate) fn decimal_to_json(value: u64, places: u32) -> Value {
    let unit = 10u64.pow(places);
    if value.is_multiple_of(unit) {
        return Value::from(value / unit);
    }
    // The shortest float that prints as this decimal is the one its text parses to.
    let float: f64 = show_decimal(value, places).parse().unwrap_or_default();
    Value::from(float)
}

/// `1500` with three places is "1.5".
pub(crate) fn show_decimal(value: u64, places: u32) -> String {
    let unit = 10u64.pow(places);
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = format!("{fraction:0width$}", width = places as usize);
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// The known name with the fewest edits, if it is near enough to be a slip.
pub(crate) fn nearest(name: &str, known: &[&str]) -> Option<String> {
    let lower = name.to_lowercase();
    let limit = (name.chars().count() / 3).max(2);
    known
        .iter()
        .map(|candidate| (edits(&lower, &candidate.to_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.len())
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// Edit distance in which swapping two neighbours is one edit.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut before_last = vec![0; width];
    let mut last: Vec<usize> = (0..width).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; width];
        for j in 1..=b.len() {
            let swap_cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1)
                .min(row[j - 1] + 1)
                .min(last[j - 1] + swap_cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn number(value: &Value) -> &Number {
        value.as_number().expect("a number")
    }

    #[test]
    fn decimals_are_exact() {
        for (value, places, want) in [
            (json!(1), 3, Ok(1000)),
            (json!(0.01), 3, Ok(10)),
            (json!(0.1), 3, Ok(100)),
            (json!(0.07), 6, Ok(70_000)),
            (json!(1.15), 6, Ok(1_150_000)),
            (json!(-0.5), 3, Ok(-500)),
            (json!(0.0001), 3, Err(NotDecimal::TooFine)),
            (json!(1e-7), 3, Err(NotDecimal::TooFine)),
            (json!(1e3), 0, Ok(1000)),
            (json!(1e300), 3, Err(NotDecimal::TooLarge)),
            (json!(0.0), 3, Ok(0)),
            (json!(2.0), 0, Ok(2)),
        ] {
            assert_eq!(decimal(number(&value), places), want, "{value}");
        }
    }

    #[test]
    fn a_slip_finds_its_field_and_nonsense_finds_none() {
        let known = ["instances", "cpus", "mem", "upgradeStrategy"];
        assert_eq!(nearest("instanses", &known), Some("instances".into()));
        assert_eq!(nearest("instnaces", &known), Some("instances".into()));
        assert_eq!(nearest("CPUs", &known), Some("cpus".into()));
        assert_eq!(
            nearest("upgrade_strategy", &known),
            Some("upgradeStrategy".into())
        );
        assert_eq!(nearest("favouriteColour", &known), None);
    }

    proptest! {
        #[test]
        fn decimals_survive_json(value in 0u64..10_000_000_000) {
            let shown = decimal_to_json(value, 3);
            prop_assert_eq!(decimal(number(&shown), 3), Ok(i128::from(value)));
        }
    }
}
