//! Which processors belong to one task alone. Pure; `detect` tells which there are.
//!
//! A task that asks for whole processors gets as many as its `cpus`, near each other: of one package where they fit,
//! whole physical cores before single threads of one, so that no neighbour shares its core. At least one processor
//! stays for all others, which run on what is left: the shared set.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::ContainerId;

/// One processor, as the kernel counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Processor {
    /// The socket that it is in.
    pub(crate) package: u32,
    /// The physical core within the package; with SMT several processors share one.
    pub(crate) core: u32,
    pub(crate) number: u32,
}

/// Why no processors can be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} whole processors are wanted, but of this machine's {all} only {free} can be given to one task: {held} belong to others, and one stays for all that share"
)]
pub(crate) struct NoneLeft {
    wanted: usize,
    all: usize,
    free: usize,
    held: usize,
}

/// All processors and who has which alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cores {
    all: BTreeSet<Processor>,
    held: BTreeMap<ContainerId, BTreeSet<u32>>,
}

impl Cores {
    pub(crate) fn new(all: impl IntoIterator<Item = Processor>) -> Self {
        Self {
            all: all.into_iter().collect(),
            held: BTreeMap::new(),
        }
    }

    /// Gives processors to a container.
    pub(crate) fn take(
        &mut self,
        id: &ContainerId,
        wanted: usize,
    ) -> Result<BTreeSet<u32>, NoneLeft> {
        let free = self.free();
        let can_be_had = free.len().saturating_sub(1);
        if wanted > can_be_had {
            return Err(NoneLeft {
                wanted,
                all: self.all.len(),
                free: can_be_had,
                held: self.all.len() - free.len(),
            });
        }
        let picked = pick(&free, wanted);
        self.held.insert(id.clone(), picked.clone());
        Ok(picked)
    }

    /// Notes what a container has that runs already.
    pub(crate) fn adopt(&mut self, id: &ContainerId, held: BTreeSet<u32>) {
        self.held.insert(id.clone(), held);
    }

    /// Its last process is gone. Fine when it had none of its own. Whether that changes the shared set.
    pub(crate) fn release(&mut self, id: &ContainerId) -> bool {
        self.held.remove(id).is_some()
    }

    /// What tasks without processors of their own run on; `None`: all there are, as long as nobody has any alone.
    pub(crate) fn shared(&self) -> Option<BTreeSet<u32>> {
        if self.held.is_empty() {
            return None;
        }
        let free: BTreeSet<u32> = self.free().iter().map(|one| one.number).collect();
        // After the machine lost processors nothing may be left: then all share what there is.
        (!free.is_empty()).then_some(free)
    }

    fn free(&self) -> BTreeSet<Processor> {
        let is_held = |one: &Processor| self.held.values().any(|held| held.contains(&one.number));
        self.all
            .iter()
            .filter(|one| !is_held(one))
            .copied()
            .collect()
    }
}

/// So many of them, which there are.
fn pick(free: &BTreeSet<Processor>, wanted: usize) -> BTreeSet<u32> {
    let mut packages: BTreeMap<u32, Vec<Processor>> = BTreeMap::new();
    for one in free {
        packages.entry(one.package).or_default().push(*one);
    }
    let mut packages: Vec<Vec<Processor>> = packages.into_values().collect();
    // The fullest package that is enough; if none is, the emptiest first, so that as few as possible are used.
    packages.sort_by_key(|package| (package.len() < wanted, package.len().abs_diff(wanted)));
    let mut picked = BTreeSet::new();
    for package in packages {
        picked.extend(pick_in_package(&package, wanted - picked.len()));
        if picked.len() >= wanted {
            break;
        }
    }
    picked
}

fn pick_in_package(free: &[Processor], wanted: usize) -> Vec<u32> {
    let mut cores: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for one in free {
        cores.entry(one.core).or_default().push(one.number);
    }
    let most = cores.values().map(Vec::len).max().unwrap_or(0);
    let (whole, broken): (Vec<Vec<u32>>, Vec<Vec<u32>>) =
        cores.into_values().partition(|core| core.len() == most);
    let mut picked: Vec<u32> = Vec::new();
    let mut left = Vec::new();
    for core in whole {
        if picked.len() + core.len() <= wanted {
            picked.extend(core);
        } else {
            left.push(core);
        }
    }
    // What remains is less than a core: of one that is broken already, else of a whole one.
    let rest = broken.into_iter().chain(left).flatten();
    let missing = wanted.saturating_sub(picked.len());
    picked.extend(rest.take(missing));
    picked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> ContainerId {
        ContainerId::derive("t", n)
    }

    /// Packages of so many cores, with two threads each: 0 and n/2 are one core, as Linux numbers them.
    fn machine(packages: u32, cores: u32) -> Vec<Processor> {
        let all = packages * cores;
        (0..all * 2)
            .map(|number| Processor {
                package: (number % all) / cores,
                core: (number % all) % cores,
                number,
            })
            .collect()
    }

    #[track_caller]
    fn check(cores: &mut Cores, who: u64, wanted: usize, expected: &[u32]) {
        let picked: Vec<u32> = cores.take(&id(who), wanted).unwrap().into_iter().collect();
        assert_eq!(picked, expected);
    }

    #[test]
    fn whole_cores_of_one_package_are_picked_first() {
        // Cores 0-3 in package 0, 4-7 in package 1; threads 8-15 are their second halves.
        let mut cores = Cores::new(machine(2, 4));
        check(&mut cores, 1, 2, &[0, 8]);
        check(&mut cores, 2, 1, &[1]);
        // Fits into the rest of package 0: two whole cores, before the half of core 1.
        check(&mut cores, 3, 4, &[2, 3, 10, 11]);
        // The half that is left is taken before a whole core is broken.
        check(&mut cores, 4, 1, &[9]);
        check(&mut cores, 5, 3, &[4, 5, 12]);
    }

    #[test]
    fn one_always_stays_for_the_others() {
        let mut cores = Cores::new(machine(1, 1));
        assert_eq!(cores.shared(), None);
        check(&mut cores, 1, 1, &[0]);
        assert_eq!(cores.shared(), Some([1].into()));
        let refused = cores.take(&id(2), 1).unwrap_err().to_string();
        assert!(
            refused.starts_with("1 whole processors are wanted, but of this machine's 2 only 0"),
            "{refused}"
        );
        assert!(cores.release(&id(1)));
        assert!(!cores.release(&id(1)));
        assert_eq!(cores.shared(), None);
    }

    #[test]
    fn a_machine_that_lost_processors_still_works() {
        let mut cores = Cores::new(machine(1, 1));
        cores.adopt(&id(1), [0, 1, 7].into());
        assert_eq!(cores.shared(), None);
        assert!(cores.take(&id(2), 1).is_err());
    }

    proptest! {
        #[test]
        fn nobody_shares_what_is_anothers(steps in prop::collection::vec((0_u64..6, 1_usize..6, any::<bool>()), 0..60)) {
            let mut cores = Cores::new(machine(2, 3));
            let mut model: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
            for (who, wanted, take) in steps {
                if take && !model.contains_key(&who) {
                    let free = 12 - model.values().map(BTreeSet::len).sum::<usize>();
                    match cores.take(&id(who), wanted) {
                        Ok(picked) => {
                            prop_assert!(wanted < free);
                            prop_assert_eq!(picked.len(), wanted);
                            model.insert(who, picked);
                        }
                        Err(_) => prop_assert!(wanted >= free),
                    }
                } else {
                    cores.release(&id(who));
                    model.remove(&who);
                }
                let held: Vec<u32> = model.values().flatten().copied().collect();
                let distinct: BTreeSet<u32> = held.iter().copied().collect();
                prop_assert_eq!(distinct.len(), held.len());
                let rest: BTreeSet<u32> = (0..12).filter(|n| !distinct.contains(n)).collect();
                prop_assert!(!rest.is_empty());
                prop_assert_eq!(cores.shared(), (!held.is_empty()).then_some(rest));
            }
        }
    }
}
