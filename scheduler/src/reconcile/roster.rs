//! An app's members as the reconciler looks at them: sorted into classes, counted, each class in order of age.
//!
//! Pure. A count costs as much as there are classes, however many members there are; only those that are to end are
//! looked at one by one. The sets are borrowed from whoever keeps them ([`crate::core`] does, change by change).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mezzo_api::model::TaskId;

use super::{Member, Phase};

/// What members have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Came back after its replacement was due: the first to go if there are too many.
    pub late: bool,
    /// Has the configuration that is wanted now.
    pub current: bool,
    /// How far.
    pub phase: Phase,
}

/// When a member was launched, and which it is: sets of these are in order of age.
pub type Aged = (u64, TaskId);

/// Members of one class.
#[derive(Debug, Clone)]
pub struct Shelf<'a> {
    /// Which.
    pub class: Class,
    /// Where they are, if the app spreads its instances evenly over such groups.
    pub group: Option<Arc<str>>,
    /// The members; never none.
    pub members: Cow<'a, BTreeSet<Aged>>,
}

/// All members of an app.
#[derive(Debug, Clone, Default)]
pub struct Roster<'a> {
    shelves: Vec<Shelf<'a>>,
    /// Some were ended for their health lately: what is missing now may be the gap that they left.
    pub gap_is_of_sick: bool,
}

impl<'a> Roster<'a> {
    /// Puts members in beside those that are there.
    pub fn add(&mut self, shelf: Shelf<'a>) {
        if !shelf.members.is_empty() {
            self.shelves.push(shelf);
        }
    }

    /// Sorts `members`; for whoever keeps them in no order.
    #[must_use]
    pub fn of(members: &[Member]) -> Roster<'static> {
        let mut sorted: BTreeMap<(Class, Option<Arc<str>>), BTreeSet<Aged>> = BTreeMap::new();
        for member in members {
            let group = member.group.as_deref().map(Arc::from);
            let shelf = sorted.entry((member.class(), group)).or_default();
            shelf.insert((member.staged_at, member.id.clone()));
        }
        let mut roster = Roster::default();
        for ((class, group), members) in sorted {
            roster.add(Shelf {
                class,
                group,
                members: Cow::Owned(members),
            });
        }
        roster
    }

    /// How many are of such a class.
    #[must_use]
    pub fn count(&self, holds: impl Fn(&Class) -> bool) -> u32 {
        let sizes = self.shelves_of(holds).map(|shelf| shelf.members.len());
        u32::try_from(sizes.sum::<usize>()).unwrap_or(u32::MAX)
    }

    pub(super) fn shelves_of(
        &self,
        holds: impl Fn(&Class) -> bool,
    ) -> impl Iterator<Item = &Shelf<'a>> {
        self.shelves.iter().filter(move |shelf| holds(&shelf.class))
    }

    /// Those of such a class, the eldest of each shelf first.
    pub(super) fn each(&self, holds: impl Fn(&Class) -> bool) -> impl Iterator<Item = Pick<'_>> {
        self.shelves_of(holds).flat_map(|shelf| {
            let picks = shelf.members.iter();
            picks.map(|aged| Pick {
                class: shelf.class,
                aged,
            })
        })
    }
}

/// One member that was singled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pick<'r> {
    pub(super) class: Class,
    pub(super) aged: &'r Aged,
}

impl Pick<'_> {
    pub(super) fn is_healthy(&self) -> bool {
        self.class.phase == Phase::Healthy
    }
}
