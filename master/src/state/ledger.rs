//! The books of one agent: every unit of every resource is free, offered or held by a task, exactly once, and of one
//! reservation or of none.
//!
//! What an agent reports is the truth even where it exceeds what the agent declares (its operator may have lowered
//! that): then nothing is free there until enough tasks have ended.

use std::collections::BTreeMap;

use mezzo_api::model::{Conversion, FrameworkId, Pools, TaskId};

/// Which task holds something.
pub type Holder = (FrameworkId, TaskId);

/// The books of one agent.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    total: Pools,
    offered: Pools,
    allocated: Pools,
    free: Pools,
    /// How often `free` changed.
    revision: u64,
    holders: BTreeMap<Holder, Pools>,
    claims: Claims,
}

/// Whether what tasks hold adds up and subtracts exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Claims {
    /// No port or set item is held twice.
    #[default]
    Disjoint,
    /// An agent reported tasks that hold the same; the sum is made anew at each change.
    Overlapping,
}

impl Ledger {
    /// Of an agent where nothing is in use.
    #[must_use]
    pub fn new(total: Pools) -> Self {
        Self {
            free: total.clone(),
            total,
            ..Self::default()
        }
    }

    /// All that the agent declares.
    #[must_use]
    pub fn total(&self) -> &Pools {
        &self.total
    }

    /// In outstanding offers.
    #[must_use]
    pub fn offered(&self) -> &Pools {
        &self.offered
    }

    /// Held by tasks.
    #[must_use]
    pub fn allocated(&self) -> &Pools {
        &self.allocated
    }

    /// Neither.
    #[must_use]
    pub fn free(&self) -> &Pools {
        &self.free
    }

    /// Another number whenever [`Self::free`] may be another.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Who holds something, and what.
    pub fn holders(&self) -> impl Iterator<Item = (&Holder, &Pools)> {
        self.holders.iter()
    }

    /// Whether that task holds something.
    #[must_use]
    pub fn holds(&self, holder: &Holder) -> bool {
        self.holders.contains_key(holder)
    }

    /// Moves `resources` from free to offered; `false`, and nothing changes, when they are not all free.
    #[must_use]
    pub fn offer(&mut self, resources: &Pools) -> bool {
        if self.offered.is_empty() && self.free == *resources {
            // All at once, as most offers are: nothing to reckon.
            std::mem::swap(&mut self.free, &mut self.offered);
            self.revision += 1;
            return true;
        }
        let Some(free) = self.free.checked_sub(resources) else {
            return false;
        };
        let Ok(offered) = self.offered.checked_add(resources) else {
            return false;
        };
        (self.free, self.offered) = (free, offered);
        self.revision += 1;
        true
    }

    /// Moves `resources` from offered to free.
    pub fn withdraw(&mut self, resources: &Pools) {
        if let Some(offered) = self.offered.checked_sub(resources) {
            self.offered = offered;
        }
        self.balance();
    }

    /// Gives `resources` to a task, from what is free; `false`, and nothing changes, when they are not all free or
    /// the task has some already.
    #[must_use]
    pub fn take(&mut self, holder: Holder, resources: &Pools) -> bool {
        if self.holders.contains_key(&holder) || !self.free.contains(resources) {
            return false;
        }
        let (Ok(allocated), Some(free)) = (
            self.allocated.checked_add(resources),
            self.free.checked_sub(resources),
        ) else {
            return false;
        };
        self.holders.insert(holder, resources.clone());
        (self.allocated, self.free) = (allocated, free);
        self.revision += 1;
        true
    }

    /// Books what an agent says that a task holds, whether it is free or not.
    pub fn admit(&mut self, holder: Holder, resources: &Pools) {
        match self.allocated.checked_add(resources) {
            Ok(sum)
                if self.claims == Claims::Disjoint
                    && sum.checked_sub(resources).as_ref() == Some(&self.allocated) =>
            {
                self.holders.insert(holder, resources.clone());
                self.allocated = sum;
            }
            Ok(_) | Err(_) => {
                self.claims = Claims::Overlapping;
                self.holders.insert(holder, resources.clone());
                self.recount();
            }
        }
        self.balance();
    }

    /// Frees what a task held, and says what that was.
    pub fn release(&mut self, holder: &Holder) -> Option<Pools> {
        let resources = self.holders.remove(holder)?;
        match self.allocated.checked_sub(&resources) {
            Some(rest) if self.claims == Claims::Disjoint => self.allocated = rest,
            Some(_) | None => self.recount(),
        }
        self.balance();
        Some(resources)
    }

    /// Makes something else of what is free; `false`, and nothing changes, when that is not free.
    #[must_use]
    pub fn convert(&mut self, conversion: &Conversion) -> bool {
        let (Some(free), Some(total)) = (
            self.free.converted(conversion),
            self.total.converted(conversion),
        ) else {
            return false;
        };
        (self.free, self.total) = (free, total);
        self.revision += 1;
        true
    }

    /// The agent declares something else.
    pub fn declare(&mut self, total: Pools) {
        self.total = total;
        self.balance();
    }

    /// Whether all that is offered and held is there.
    #[must_use]
    pub fn covers(&self) -> bool {
        let used = self.offered.checked_add(&self.allocated);
        used.is_ok_and(|used| self.total.contains(&used))
    }

    /// Whether the books balance: free, offered and allocated make the total (or the agent is overcommitted, and
    /// then nothing is free).
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let Ok(used) = self.offered.checked_add(&self.allocated) else {
            return self.free.is_empty();
        };
        match self.total.checked_sub(&used) {
            Some(rest) => {
                rest == self.free
                    && self
                        .free
                        .checked_add(&used)
                        .is_ok_and(|sum| sum == self.total)
            }
            None => self.free.is_empty(),
        }
    }

    fn recount(&mut self) {
        self.allocated = self
            .holders
            .values()
            .fold(Pools::default(), |sum, resources| {
                sum.checked_add(resources).unwrap_or(sum)
            });
        if self.holders.is_empty() {
            self.claims = Claims::Disjoint;
        }
    }

    fn balance(&mut self) {
        self.revision += 1;
        let used = self.offered.checked_add(&self.allocated);
        self.free = used
            .ok()
            .and_then(|used| self.total.checked_sub(&used))
            .unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::{PoolChange, Reservation, Resources};
    use proptest::prelude::*;

    use super::*;

    fn holder(name: &str) -> Holder {
        ("f".parse().unwrap(), name.parse().unwrap())
    }

    #[test]
    fn an_agent_that_holds_more_than_it_declares_has_nothing_free_until_tasks_end() {
        let mut ledger = Ledger::new("cpus:4".parse().unwrap());
        assert!(ledger.take(holder("a"), &"cpus:2".parse().unwrap()));
        assert!(ledger.take(holder("b"), &"cpus:1".parse().unwrap()));
        ledger.declare("cpus:2".parse().unwrap());
        assert!(ledger.free().is_empty() && ledger.is_balanced());
        ledger.release(&holder("a"));
        assert_eq!(ledger.free(), &"cpus:1".parse().unwrap());
        assert!(ledger.is_balanced());
    }

    #[test]
    fn kinds_that_do_not_match_never_panic() {
        let mut ledger = Ledger::new("cpus:4".parse().unwrap());
        ledger.admit(holder("a"), &"cpus:[1-2]".parse().unwrap());
        assert!(ledger.is_balanced());
        ledger.release(&holder("a"));
        assert_eq!(ledger.free(), ledger.total());
    }

    proptest! {
        #[test]
        fn every_unit_is_free_offered_or_held_exactly_once(
            steps in proptest::collection::vec((0..8_u8, 0..4_usize, 1..40_i64, 0..9_u64), 0..60),
        ) {
            let mut ledger = Ledger::new("cpus:4;mem:64;ports:[0-9]".parse().unwrap());
            let mut offers = Vec::new();
            for (step, who, tenths, port) in steps {
                let some: Pools =
                    format!("cpus:{}.{};ports:[{port}-{port}]", tenths / 10, tenths % 10).parse().unwrap();
                let who = holder(&format!("t{who}"));
                match step {
                    0 | 1 => {
                        let part = if step == 0 { ledger.free().clone() } else { some };
                        if ledger.offer(&part) {
                            offers.push(part);
                        }
                    }
                    2 => offers.pop().iter().for_each(|offer| ledger.withdraw(offer)),
                    3 => {
                        let fits = ledger.free().contains(&some) && !ledger.holds(&who);
                        prop_assert_eq!(ledger.take(who, &some), fits);
                    }
                    // What agents report may overlap; the books must survive it.
                    4 if !ledger.holds(&who) => ledger.admit(who, &some),
                    6 | 7 => {
                        let cpus = Resources::new().with_scalar("cpus", some.open().cpus());
                        let reserved = ledger.free().reserved().next().map(|(stack, _)| stack.clone());
                        let change = match (step, reserved) {
                            (7, Some(stack)) => PoolChange::Unreserve { stack, resources: cpus },
                            _ => PoolChange::Reserve {
                                from: None,
                                with: Reservation::dynamic("eng".parse().unwrap(), ""),
                                resources: cpus,
                            },
                        };
                        let free = ledger.free().clone();
                        if let Ok(conversion) = free.conversion(&change) {
                            prop_assert!(ledger.convert(&conversion));
                        }
                    }
                    _ => {
                        ledger.release(&who);
                    }
                }
                prop_assert!(ledger.is_balanced(), "{:?}", ledger);
            }
            offers.iter().for_each(|offer| ledger.withdraw(offer));
            (0..4).for_each(|n| drop(ledger.release(&holder(&format!("t{n}")))));
            prop_assert_eq!(ledger.free(), ledger.total());
            prop_assert_eq!(ledger.total().flat(), "cpus:4;mem:64;ports:[0-9]".parse().unwrap());
        }
    }
}
