//! Scalars by position instead of by name, for the inside of one pass.
//!
//! A pass adds and compares the same few names tens of thousands of times: here each has a place in a list. Whatever
//! neither the cluster nor a quota knows has none, and counts nowhere.

use mezzo_api::model::{Resources, Value};

use super::Quantities;

/// Thousandths, one for each of the [`Axes`].
pub(super) type Amounts = Vec<i128>;

/// The names that count, ascending.
#[derive(Debug)]
pub(super) struct Axes<'a> {
    names: Vec<&'a str>,
}

impl<'a> Axes<'a> {
    pub(super) fn new(names: impl Iterator<Item = &'a str>) -> Self {
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        names.dedup();
        Self { names }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn zero(&self) -> Amounts {
        vec![0; self.names.len()]
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        // A handful: a walk is faster than halving.
        self.names.iter().position(|have| *have == name)
    }

    pub(super) fn of(&self, quantities: &Quantities) -> Amounts {
        let mut amounts = self.zero();
        for (name, millis) in quantities.iter() {
            if let Some(at) = self.position(name) {
                amounts[at] = millis;
            }
        }
        amounts
    }

    /// Puts the scalars of `resources` in place of what `into` held.
    pub(super) fn fill(&self, resources: &Resources, into: &mut Amounts) {
        into.fill(0);
        for (name, value) in resources.iter() {
            match value {
                Value::Scalar(scalar) => {
                    if let Some(at) = self.position(name) {
                        into[at] = i128::from(scalar.millis());
                    }
                }
                Value::Ranges(_) | Value::Set(_) => {}
            }
        }
    }
}

/// Adds `more`, place by place.
pub(super) fn add(amounts: &mut [i128], more: &[i128]) {
    for (amount, more) in amounts.iter_mut().zip(more) {
        *amount += more;
    }
}
