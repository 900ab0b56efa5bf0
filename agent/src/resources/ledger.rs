//! The ledger: the machine's resources and which container holds what. Pure.
//!
//! A container holds all it was given until its last process is gone: the master may think otherwise for a moment,
//! and a port must not be given out twice.

use std::collections::BTreeMap;

use mezzo_api::model::Resources;

use crate::node::ContainerId;

/// Why something does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the task takes {wanted}, but of this machine's {total} only {free} is free")]
pub(crate) struct DoesNotFit {
    wanted: Resources,
    total: Resources,
    free: Resources,
}

/// The ledger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    total: Resources,
    held: BTreeMap<ContainerId, Resources>,
}

impl Ledger {
    /// With nothing held.
    pub(crate) fn new(total: Resources) -> Self {
        Self {
            total,
            held: BTreeMap::new(),
        }
    }

    /// There is so much from now on, whatever is held.
    pub(crate) fn declare(&mut self, total: Resources) {
        self.total = total;
    }

    /// All there is.
    pub(crate) fn total(&self) -> &Resources {
        &self.total
    }

    /// What nobody holds. Never more than the total less what is held; nothing when more is held than there is, as
    /// after an operator gave the machine fewer resources.
    pub(crate) fn free(&self) -> Resources {
        let mut free = self.total.clone();
        for held in self.held.values() {
            free = subtract_saturating(&free, held);
        }
        free
    }

    /// Takes resources for a container, if they are free.
    pub(crate) fn reserve(
        &mut self,
        id: &ContainerId,
        wanted: &Resources,
    ) -> Result<(), DoesNotFit> {
        let free = self.free();
        if !free.contains(wanted) {
            return Err(DoesNotFit {
                wanted: wanted.clone(),
                total: self.total.clone(),
                free,
            });
        }
        self.held.insert(id.clone(), wanted.clone());
        Ok(())
    }

    /// Notes what a container holds that runs already, whether it fits or not.
    pub(crate) fn adopt(&mut self, id: &ContainerId, held: &Resources) {
        self.held.insert(id.clone(), held.clone());
    }

    /// Its last process is gone. Fine when it held nothing.
    pub(crate) fn release(&mut self, id: &ContainerId) {
        self.held.remove(id);
    }
}

/// `from` less `what`, name by name; what does not suffice becomes nothing.
fn subtract_saturating(from: &Resources, what: &Resources) -> Resources {
    if let Some(rest) = from.checked_sub(what) {
        return rest;
    }
    let mut rest = from.clone();
    for (name, value) in what.iter() {
        let one = Resources::new().with(name, value.clone());
        rest = match rest.checked_sub(&one) {
            Some(less) => less,
            None => rest
                .iter()
                .filter(|(other, _)| *other != name)
                .fold(Resources::new(), |kept, (other, value)| {
                    kept.with(other, value.clone())
                }),
        };
    }
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> ContainerId {
        ContainerId::derive("t", n)
    }

    fn resources(text: &str) -> Resources {
        text.parse().unwrap()
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_figures() {
        let mut ledger = Ledger::new(resources("cpus:2;mem:1024;ports:[31000-31001]"));
        ledger
            .reserve(&id(1), &resources("cpus:1.5;mem:512;ports:[31000-31000]"))
            .unwrap();
        let error = ledger
            .reserve(&id(2), &resources("cpus:1"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("cpus:0.5"), "{error}");
        assert!(
            ledger
                .reserve(&id(2), &resources("ports:[31000-31000]"))
                .is_err(),
            "a held port"
        );
        assert!(
            ledger.reserve(&id(2), &resources("gpus:1")).is_err(),
            "an unknown resource"
        );
        ledger
            .reserve(&id(2), &resources("cpus:0.5;ports:[31001-31001]"))
            .unwrap();
        ledger.release(&id(1));
        ledger.release(&id(1));
        ledger
            .reserve(&id(3), &resources("cpus:1.5;ports:[31000-31000]"))
            .unwrap();
    }

    #[test]
    fn a_machine_that_shrank_has_nothing_free_but_works() {
        let mut ledger = Ledger::new(resources("cpus:1;mem:1024"));
        ledger.adopt(&id(1), &resources("cpus:2;mem:512"));
        assert_eq!(
            ledger.free().cpus(),
            mezzo_api::model::Scalar::from_millis(0)
        );
        assert_eq!(
            ledger.free().mem(),
            mezzo_api::model::Scalar::from_units(512)
        );
        assert!(ledger.reserve(&id(2), &resources("cpus:0.1")).is_err());
    }

    proptest! {
        #[test]
        fn never_more_is_held_than_there_is(steps in prop::collection::vec((0_u64..6, 0_i64..1500, any::<bool>()), 0..60)) {
            let total = 4_000;
            let cpus = |millis| Resources::new().with_scalar("cpus", mezzo_api::model::Scalar::from_millis(millis));
            let mut ledger = Ledger::new(cpus(total));
            let mut model = BTreeMap::new();
            for (who, millis, take) in steps {
                if take && !model.contains_key(&who) {
                    let fits = model.values().sum::<i64>() + millis <= total;
                    prop_assert_eq!(ledger.reserve(&id(who), &cpus(millis)).is_ok(), fits);
                    if fits { model.insert(who, millis); }
                } else {
                    ledger.release(&id(who));
                    model.remove(&who);
                }
                prop_assert_eq!(ledger.free().cpus().millis(), total - model.values().sum::<i64>());
            }
        }
    }
}
