//! The books of one agent: every unit of every resource is free, offered or held by a task, exactly once, and of one
//! reservation or of none.
//!
//! Volumes that are shared are the exception: who is offered one, or has one, takes it from nobody. They are always free,
//! and in none of the other sums; who holds one is known from the holders, and while somebody does, it cannot be destroyed.
//!
//! What an agent reports is the truth even where it exceeds what the agent declares (its operator may have lowered
//! that): then nothing is free there until enough tasks have ended.

use std::{borrow::Cow, collections::BTreeMap};

use mezzo_api::model::{Conversion, FrameworkId, Pools, TaskId, VolumeKey};

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

    /// In outstanding offers, without volumes that are shared.
    #[must_use]
    pub fn offered(&self) -> &Pools {
        &self.offered
    }

    /// Held by tasks, without volumes that are shared.
    #[must_use]
    pub fn allocated(&self) -> &Pools {
        &self.allocated
    }

    /// The same with each shared volume that some task has: once, however many have it.
    #[must_use]
    pub fn in_use(&self) -> Cow<'_, Pools> {
        let shared = self.total.volumes().filter(|volume| volume.shared);
        let had = shared.filter(|volume| self.is_had(&volume.key()));
        had.fold(Cow::Borrowed(&self.allocated), |sum, volume| {
            Cow::Owned(sum.into_owned().with_volume(volume.clone()))
        })
    }

    /// Whether some task has that volume.
    fn is_had(&self, key: &VolumeKey) -> bool {
        let mut held = self.holders.values();
        held.any(|pools| pools.volume(key).is_some())
    }

    /// Neither; with all volumes that are shared.
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
        let exclusive = resources.exclusive();
        let is_all = matches!(exclusive, Cow::Borrowed(_)) && self.free == *resources;
        if self.offered.is_empty() && is_all {
            // All at once, as most offers are: nothing to reckon.
            std::mem::swap(&mut self.free, &mut self.offered);
            self.revision += 1;
            return true;
        }
        let Some(free) = self.free.without(resources) else {
            return false;
        };
        let Ok(offered) = self.offered.checked_add(&exclusive) else {
            return false;
        };
        (self.free, self.offered) = (free, offered);
        self.revision += 1;
        true
    }

    /// Moves `resources` from offered to free.
    pub fn withdraw(&mut self, resources: &Pools) {
        if let Some(offered) = self.offered.checked_sub(&resources.exclusive()) {
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
            self.allocated.checked_add(&resources.exclusive()),
            self.free.without(resources),
        ) else {
            return false;
        };
        self.holders.insert(holder, resources.clone());
        (self.allocated, self.free) = (allocated, free);
        self.revision += 1;
        true
    }

    /// Books what an agent says that tasks hold, whether it is free or not.
    pub fn admit(&mut self, held: impl IntoIterator<Item = (Holder, Pools)>) {
        for (holder, resources) in held {
            let exclusive = resources.exclusive();
            let sum = self.allocated.checked_add(&exclusive);
            let sum = sum.ok().filter(|sum| {
                self.claims == Claims::Disjoint
                    && (exclusive.adds_up()
                        || sum.checked_sub(&exclusive).as_ref() == Some(&self.allocated))
            });
            self.holders.insert(holder, resources);
            match sum {
                Some(sum) => self.allocated = sum,
                None => {
                    self.claims = Claims::Overlapping;
                    self.recount();
                }
            }
        }
        self.balance();
    }

    /// Frees what a task held, and says what that was.
    pub fn release(&mut self, holder: &Holder) -> Option<Pools> {
        let resources = self.holders.remove(holder)?;
        match self.allocated.checked_sub(&resources.exclusive()) {
            Some(rest) if self.claims == Claims::Disjoint => self.allocated = rest,
            Some(_) | None => self.recount(),
        }
        self.balance();
        Some(resources)
    }

    /// Makes something else of what is free; `false`, and nothing changes, when that is not free, or a shared volume that a
    /// task has. Offers of a shared volume that ends are the caller's to take back before.
    #[must_use]
    pub fn convert(&mut self, conversion: &Conversion) -> bool {
        let mut ends = conversion.consumed.volumes();
        if ends.any(|volume| volume.shared && self.is_had(&volume.key())) {
            return false;
        }
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
                sum.checked_add(&resources.exclusive()).unwrap_or(sum)
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
    use mezzo_api::model::{PersistentVolume, PoolChange, Reservation, Resources, Stack};
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
        ledger.admit([(holder("a"), "cpus:[1-2]".parse().unwrap())]);
        assert!(ledger.is_balanced());
        ledger.release(&holder("a"));
        assert_eq!(ledger.free(), ledger.total());
    }

    fn corpus() -> PersistentVolume {
        let eng = Reservation::dynamic("eng".parse().unwrap(), "");
        PersistentVolume {
            id: "corpus".parse().unwrap(),
            stack: Stack::single(eng).unwrap(),
            size_mb: 8,
            principal: String::new(),
            shared: true,
        }
    }

    #[test]
    fn a_shared_volume_is_in_use_once_however_many_have_it_and_ends_only_without_them() {
        let all = Pools::from("cpus:3".parse::<Resources>().unwrap()).with_volume(corpus());
        let mut ledger = Ledger::new(all.clone());
        let part = Pools::from("cpus:1".parse::<Resources>().unwrap()).with_volume(corpus());
        // In offers to two at once.
        assert!(ledger.offer(&part) && ledger.offer(&part));
        assert_eq!(ledger.offered(), &"cpus:2".parse().unwrap());
        ledger.withdraw(&part);
        ledger.withdraw(&part);
        assert!(ledger.take(holder("a"), &part) && ledger.take(holder("b"), &part));
        assert_eq!(ledger.free(), &part);
        let in_use = Pools::from("cpus:2".parse::<Resources>().unwrap()).with_volume(corpus());
        assert_eq!(*ledger.in_use(), in_use);
        let end = PoolChange::Destroy(corpus().key());
        let end = ledger.total().conversion(&end).unwrap();
        assert!(!ledger.convert(&end), "two tasks have it");
        ledger.release(&holder("a"));
        assert!(!ledger.convert(&end), "one task has it");
        ledger.release(&holder("b"));
        assert!(ledger.in_use().is_empty() && *ledger.free() == all);
        assert!(ledger.convert(&end) && ledger.is_balanced());
        assert!(!ledger.take(holder("c"), &part), "it is gone");
    }

    proptest! {
        /// The same with a volume that is shared: who has it and who is offered it changes no sum, it is there for the next as
        /// long as it is there at all, and it ends only when nobody has it.
        #[test]
        fn a_shared_volume_is_free_for_everybody_until_it_ends(
            steps in proptest::collection::vec((0..7_u8, 0..4_usize, 0..30_i64, any::<bool>()), 0..60),
        ) {
            let all: Pools = "cpus:4".parse().unwrap();
            let disk: Resources = "disk:8".parse().unwrap();
            let mut ledger = Ledger::new(all.with_reserved(&corpus().stack, disk));
            let flat = ledger.total().flat();
            let mut offers = Vec::new();
            let mut had: BTreeMap<Holder, bool> = BTreeMap::new();
            for (step, who, tenths, with) in steps {
                let there = ledger.total().volume(&corpus().key()).is_some();
                let mut some: Pools = format!("cpus:{}.{}", tenths / 10, tenths % 10).parse().unwrap();
                if with {
                    some = some.with_volume(corpus());
                }
                let who = holder(&format!("t{who}"));
                let is_had = had.values().any(|has| *has);
                match step {
                    0 => {
                        let fits = ledger.free().open().contains(some.open()) && (there || !with);
                        prop_assert_eq!(ledger.offer(&some), fits);
                        if fits {
                            offers.push(some);
                        }
                    }
                    1 => offers.pop().iter().for_each(|offer| ledger.withdraw(offer)),
                    2 | 3 if !had.contains_key(&who) => {
                        let fits = ledger.free().open().contains(some.open()) && (there || !with);
                        prop_assert_eq!(ledger.take(who.clone(), &some), fits);
                        if fits {
                            had.insert(who, with);
                        }
                    }
                    4 => {
                        let change = PoolChange::Create(corpus());
                        if let Ok(conversion) = ledger.total().conversion(&change) {
                            prop_assert!(!there && ledger.convert(&conversion));
                        }
                    }
                    5 => {
                        let change = PoolChange::Destroy(corpus().key());
                        if let Ok(conversion) = ledger.total().conversion(&change) {
                            // As the core does.
                            offers.drain(..).for_each(|offer| ledger.withdraw(&offer));
                            prop_assert_eq!(ledger.convert(&conversion), there && !is_had);
                        }
                    }
                    _ => {
                        ledger.release(&who);
                        had.remove(&who);
                    }
                }
                prop_assert!(ledger.is_balanced(), "{:?}", ledger);
                let there = ledger.total().volume(&corpus().key()).is_some();
                prop_assert_eq!(ledger.free().volume(&corpus().key()).is_some(), there);
                let shown = ledger.in_use().volume(&corpus().key()).is_some();
                prop_assert_eq!(shown, had.values().any(|has| *has));
                prop_assert_eq!(ledger.total().flat(), flat.clone());
            }
            offers.iter().for_each(|offer| ledger.withdraw(offer));
            had.keys().for_each(|who| drop(ledger.release(who)));
            prop_assert_eq!(ledger.free(), ledger.total());
        }

        #[test]
        fn every_unit_is_free_offered_or_held_exactly_once(
            steps in proptest::collection::vec((0..8_u8, 0..4_usize, 1..40_i64, 0..9_u64), 0..60),
        ) {
            let mut ledger = Ledger::new("cpus:4;mem:64;ports:[0-9]".parse().unwrap());
            let mut offers = Vec::new();
            for (step, who, tenths, port) in steps {
                let some: Pools =
                    format!("cpus:{}.{};ports:[{port}-{port}]", tenths / 10, tenths % 10).parse().unwrap();
                let next = holder(&format!("t{}", (who + 1) % 4));
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
                    4 if !ledger.holds(&who) => {
                        let more = Resources::new().with_scalar("cpus", some.open().cpus());
                        let also = (!ledger.holds(&next)).then(|| (next, more.into()));
                        ledger.admit([(who, some)].into_iter().chain(also));
                    }
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
